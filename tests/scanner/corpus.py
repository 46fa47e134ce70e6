"""Texts for the scanner, one JSON object a line: the text, and what PostgreSQL's grammar says of it (null: refuses it).

Knows where texts come from: `corpus.py scripts DIRECTORY` from psql scripts, `corpus.py generated COUNT SEED` from
random statements in random disguise. Does not know what is done with them.
"""
import json
import random
import re
import sys
from pathlib import Path

from pglast import parser

from grammar import facts


def emit(text):
    print(json.dumps({"text": text, "said": facts(text)}))


def scripts(directory):
    for path in sorted(Path(directory).rglob("*.sql")):
        statements = split(without_psql(path.read_text(encoding="utf-8", errors="replace")))
        for statement in statements:
            emit(statement)
        # The same in texts of several statements.
        good = [statement for statement in statements if facts(statement)]
        for at in range(0, len(good), 7):
            emit(";".join(good[at:at + 7]))


def without_psql(script):
    """A script less psql's own commands, and less the data of COPY."""
    kept, data = [], False
    for line in script.split("\n"):
        if data:
            data = line.strip() != "\\."
        elif not line.startswith("\\"):
            kept.append(re.sub(r"\s\\(g|gset|gexec|crosstabview|gdesc|bind).*$", ";", line))
            data = bool(re.match(r"\s*copy\s.*\sfrom\s+stdin\b", line, re.IGNORECASE))
    return "\n".join(kept)


def split(script):
    try:
        return list(parser.split(script, with_parser=False))
    except Exception:
        # One word that the lexer refuses spoils the file: then by the ends of lines.
        return [piece for piece in re.split(r";[ \t]*\n", script) if piece.strip()]


NAMES = """x search_path session local time role schema names transaction characteristics constraints xml zone option
timezone app.tenant session.x local.y role.z time.zone "Quoted" "session" "Q".r all_of_it seed session_authorization
authorization.z none isolation read "set" a_name_of_more_than_thirty_two_bytes_in_all.with_a_second_part"""
NAMES = NAMES.split()
VALUES = """1 'text' 'it''s' on default 'default' "default" none local a,b 'a','b' 'pg_temp' pg_temp '"$user",public'
E'x\\\\y' -1 1.5 '5s'""".split()
CALLS = """set_config('a.b','c',false) set_config('a.b','c',true) set_config('a.b',$1,$2) set_config($1,'c',false)
pg_catalog.set_config('A.b','c',false) set_config('a.'||'b','c',true) "set_config"('x','y',(true)) set_config('x','y','t')
set_config('x',f(a,(b),ARRAY[1,2]),true) set_config('x',set_config('y','z',false),true) set_config(E'x','y',false)
set_config('x'::text,'y',false) set_config('x'::name,'y',true) set_config($$x$$,'y',false) set_config(('x'),'y',true)
set_config('search_path','pg_temp',true) set_config('search_path',$1,true) nextval('s') currval('s') lastval()
setval('s',1) setseed(0.5) set_limit(0.5) pg_notify('a','b') pg_terminate_backend(0) pg_advisory_lock(1) pg_try_advisory_lock_shared(1,2)
pg_advisory_xact_lock(1) pg_advisory_unlock(1) pg_advisory_unlock_all() dblink_connect('x') query_to_xml('x',true,true,'')
pg_replication_origin_session_setup('x') pg_backup_start('x') now() count(*) pg_temp.f()""".split()
FRAMES = """SELECT {}|SELECT * FROM {}|SELECT 1 FROM t WHERE {} = 1|WITH a AS (SELECT {}) SELECT 1|PREPARE p AS SELECT {}
EXPLAIN SELECT {}|COPY (SELECT {}) TO STDOUT|DECLARE c CURSOR FOR SELECT {}|INSERT INTO t VALUES ({})
UPDATE t SET a = {}|DELETE FROM t RETURNING {}|CREATE TABLE t AS SELECT {}|VALUES ({})|(SELECT {}) UNION SELECT 1
CREATE VIEW v AS SELECT {}|SELECT CASE WHEN a THEN {} END|CREATE MATERIALIZED VIEW v AS SELECT {}
CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT {}; END|MERGE INTO t USING s ON true WHEN MATCHED THEN UPDATE SET a = {}"""
FRAMES = FRAMES.replace("\n", "|").split("|")
OTHERS = """RESET ALL|RESET {name}|RESET TIME ZONE|RESET SESSION AUTHORIZATION|RESET TRANSACTION ISOLATION LEVEL|RESET ROLE
SET {scope} {name} = {value}|SET {scope} {name} TO {value}|SET {scope} {name} FROM CURRENT|SET {scope} TIME ZONE {value}
SET {scope} TIME ZONE INTERVAL '1' HOUR TO MINUTE|SET {scope} NAMES|SET {scope} NAMES {value}|SET {scope} ROLE {value}
SET {scope} SCHEMA 'pg_temp'|SET {scope} SCHEMA 'x'|SET {scope} SESSION AUTHORIZATION {value}|SET {scope} XML OPTION CONTENT
SET {scope} SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE
SET {scope} TRANSACTION ISOLATION LEVEL SERIALIZABLE|SET TRANSACTION SNAPSHOT 'x'|SET CONSTRAINTS {name} DEFERRED
SET CONSTRAINTS ALL IMMEDIATE|DISCARD ALL|DISCARD PLANS|DISCARD TEMP|DISCARD TEMPORARY|DISCARD SEQUENCES|PREPARE {name} AS SELECT 1
PREPARE {name} (int) AS SELECT $1|PREPARE TRANSACTION 'x'|EXECUTE {name}|EXPLAIN EXECUTE {name}(1)|EXPLAIN ANALYZE VERBOSE EXECUTE {name}
EXPLAIN (FORMAT json) EXECUTE {name}|CREATE TABLE {name} AS EXECUTE {name}|CREATE TABLE t AS EXECUTE function|CREATE TABLE t AS EXECUTE procedure (1) WITH NO DATA
CREATE TEMP TABLE IF NOT EXISTS t AS EXECUTE p|EXPLAIN CREATE TEMPORARY TABLE t AS EXECUTE p|DEALLOCATE {name}|DEALLOCATE PREPARE {name}
DEALLOCATE ALL|DEALLOCATE PREPARE ALL|DECLARE c CURSOR WITH HOLD FOR SELECT 1|DECLARE c BINARY INSENSITIVE SCROLL CURSOR WITH HOLD FOR SELECT 1
DECLARE hold CURSOR WITHOUT HOLD FOR SELECT 1|CLOSE {name}|CLOSE ALL|LISTEN {name}|UNLISTEN {name}|UNLISTEN *|NOTIFY {name}, 'x'|LOAD 'x'
DO 'x'|DO LANGUAGE plpgsql $$ SET x = 1 $$|CALL p(1)|CREATE TEMP TABLE t (a int)|CREATE LOCAL TEMPORARY TABLE t (a int)
CREATE GLOBAL TEMP TABLE t (a int)|CREATE TEMP VIEW v AS SELECT 1|CREATE OR REPLACE TEMP RECURSIVE VIEW v (a) AS SELECT 1
CREATE TEMP SEQUENCE s|SELECT 1 INTO TEMP t|SELECT 1 INTO TEMPORARY TABLE t|WITH a AS (SELECT 1) SELECT * INTO LOCAL TEMP t FROM a
CREATE TABLE pg_temp.t (a int)|CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'|CREATE TYPE "pg_temp".x AS ENUM ()
CREATE DATABASE {name}|CREATE DATABASE a TEMPLATE b|CREATE DATABASE a WITH OWNER = template TEMPLATE = "B"|CREATE DATABASE if TEMPLATE DEFAULT
CREATE DATABASE a CONNECTION LIMIT -1 TEMPLATE 'c' ENCODING 6|DROP DATABASE {name}|DROP DATABASE IF EXISTS a WITH (FORCE)|DROP DATABASE if
ALTER DATABASE {name} RENAME TO b|ALTER DATABASE a SET TABLESPACE b|ALTER DATABASE a SET x = 1|ALTER DATABASE a RESET ALL
ALTER ROLE a SET x = 1|ALTER ROLE ALL IN DATABASE b RESET x|ALTER SYSTEM SET x = 1|ALTER SYSTEM RESET ALL
CREATE FUNCTION f() RETURNS int SET search_path = pg_catalog SET x FROM CURRENT LANGUAGE sql AS $f$ SET x = 1 $f$
ALTER FUNCTION f() SET x = 1 RESET ALL|UPDATE pg_settings SET setting = '1'|UPDATE ONLY pg_catalog.pg_settings AS s SET setting = '1'
WITH u AS (UPDATE pg_settings SET setting = 1 RETURNING 1) SELECT 1|SELECT * FROM pg_settings FOR UPDATE|SELECT 1|BEGIN|COMMIT AND CHAIN
CREATE TRIGGER t AFTER INSERT ON a EXECUTE FUNCTION f()|CREATE EVENT TRIGGER t ON ddl_command_end EXECUTE PROCEDURE f()
CREATE RULE r AS ON INSERT TO t DO ALSO (NOTIFY x; SELECT 1)|GRANT EXECUTE ON FUNCTION f() TO a|GRANT SET ON PARAMETER x TO a
SELECT pg_advisory_unlock_all()|SELECT pg_catalog.pg_advisory_unlock_all()|SET SESSION AUTHORIZATION DEFAULT|SELECT set, t.listen FROM a AS t
SELECT 'SET x = 1; LISTEN y'|SELECT $q$ DO $$ x $$ $q$|SELECT "set"("listen") FROM "do"|CREATE TABLE temp (temporary int)|DROP TABLE t"""
OTHERS = OTHERS.replace("\n", "|").split("|")
BLANKS = [" ", " ", " ", "\n", "\t ", " /* a ' /* nested */ \" ; */ ", " -- it's; set x = 1\n", "\r\n\f"]
TOKEN = re.compile(r"""[eE]?'(?:[^']|'')*'|"[^"]*"|\$(\w*)\$.*?\$\1\$|[A-Za-z_][\w$]*|\d+|\s+|.""", re.DOTALL)


def generated(count, seed):
    chance = random.Random(seed)
    for _ in range(count):
        texts = [statement(chance) for _ in range(chance.choice([1, 1, 1, 2, 3]))]
        emit(chance.choice(["", " ", ";"]) + ";".join(texts) + chance.choice(["", ";", " ;; "]))


def statement(chance):
    if chance.random() < 0.4:
        text = chance.choice(FRAMES).replace("{}", chance.choice(CALLS))
    else:
        text = chance.choice(OTHERS)
        for hole, words in (("{name}", NAMES), ("{value}", VALUES), ("{scope}", ["", "", "SESSION", "LOCAL"])):
            text = text.replace(hole, chance.choice(words))
    return disguise(text, chance) if chance.random() < 0.7 else text


def disguise(text, chance):
    """The same statement: words in another case or in quotes, blanks and comments in other places."""
    pieces = []
    for match in TOKEN.finditer(text):
        piece = match.group()
        if piece.isspace():
            piece = chance.choice(BLANKS)
        elif piece[0].isalpha() and piece[-1] != "'":
            piece = chance.choice([piece, piece.upper(), piece.lower(), piece.title()])
            if chance.random() < 0.03:
                # Often no longer the same statement: the grammar says what it is.
                piece = f'"{piece}"'
        elif piece in "(),.=" and chance.random() < 0.2:
            piece = chance.choice(BLANKS) + piece + chance.choice(BLANKS)
        pieces.append(piece)
    return "".join(pieces)


if __name__ == "__main__":
    if sys.argv[1] == "scripts":
        scripts(sys.argv[2])
    else:
        generated(int(sys.argv[2]), int(sys.argv[3]))
