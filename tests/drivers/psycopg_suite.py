"""psycopg 3 (libpq). Knows its API; is told where to go by PGHOST and its like."""
import concurrent.futures
import threading
import time

import psycopg

connect = lambda **more: psycopg.connect("", autocommit=True, **more)

with connect() as db:
    assert db.execute("SELECT 1").fetchone() == (1,)
    assert db.execute("SELECT %s::int + %s", (1, 2)).fetchone() == (3,)
    assert db.execute("SELECT %b::bytea", (b"\x00\xff",)).fetchone() == (b"\x00\xff",)
    db.execute("DROP TABLE IF EXISTS notes")
    db.execute("CREATE TABLE notes (id int PRIMARY KEY, text text)")
    with db.transaction():
        db.execute("INSERT INTO notes VALUES (1, %s)", ("one",))
        try:
            with db.transaction():  # a savepoint
                db.execute("INSERT INTO notes VALUES (1, 'again')")
            raise AssertionError("a duplicate was taken")
        except psycopg.errors.UniqueViolation as error:
            assert error.diag.sqlstate == "23505" and error.diag.constraint_name == "notes_pkey"
    try:
        with db.transaction():
            db.execute("INSERT INTO notes VALUES (2, 'two')")
            raise KeyError
    except KeyError:
        pass
    assert db.execute("SELECT count(*) FROM notes").fetchone() == (1,)

    with db.cursor().copy("COPY notes FROM STDIN") as copy:
        for n in range(10, 2010):
            copy.write_row((n, "n" * 100))
    with db.cursor().copy("COPY (SELECT id FROM notes ORDER BY id) TO STDOUT") as copy:
        assert sum(1 for _ in copy.rows()) == 2001
    try:
        with db.cursor().copy("COPY notes FROM STDIN") as copy:
            copy.write(b"not a number\tx\n")
        raise AssertionError("bad data was taken")
    except psycopg.errors.InvalidTextRepresentation:
        pass

    for _ in range(20):  # prepared from the fifth time on
        assert db.execute("SELECT text FROM notes WHERE id = %s", (1,), prepare=True).fetchone() == ("one",)
    with db.cursor() as cursor:
        cursor.executemany("INSERT INTO notes VALUES (%s, 'many')", [(n,) for n in range(5000, 5100)])
    with db.pipeline():
        results = [db.execute("SELECT %s::int", (n,)) for n in range(50)]
        assert [result.fetchone()[0] for result in results] == list(range(50))
    with db.transaction(), db.cursor(name="held") as cursor:  # a cursor of the server
        cursor.itersize = 100
        assert sum(1 for _ in cursor.execute("SELECT * FROM notes")) == 2101

    threading.Timer(0.3, db.cancel).start()
    try:
        db.execute("SELECT pg_sleep(30)")
        raise AssertionError("never cancelled")
    except psycopg.errors.QueryCanceled:
        pass
    assert db.execute("SELECT 'alive'").fetchone() == ("alive",)

with psycopg.connect("") as db:  # a transaction begun by the driver itself
    db.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    assert db.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
    db.rollback()


def work(n):
    with connect(application_name=f"worker {n}") as db:
        for turn in range(20):
            with db.transaction():
                assert db.execute("SELECT %s::int * 2", (n,)).fetchone() == (n * 2,)
                assert db.execute("SHOW application_name").fetchone() == (f"worker {n}",)


with concurrent.futures.ThreadPoolExecutor(10) as pool:
    list(pool.map(work, range(10)))
