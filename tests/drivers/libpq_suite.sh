#!/usr/bin/env bash
# psql and pgbench (libpq). Knows their options; is told where to go by PGHOST and its like. $1: where they are.
set -euo pipefail
bin=$1
psql=("$bin/psql" -X -q -t -A -v ON_ERROR_STOP=1)
is() { [ "$1" = "$2" ] || { echo "expected '$2', got '$1'" >&2; exit 1; }; }

is "$("${psql[@]}" -c 'SELECT 1')" 1
is "$("${psql[@]}" -c 'SELECT 1; SELECT 2')" $'1\n2'
is "$("${psql[@]}" <<<"SELECT 'a' AS got \\gset
BEGIN; SELECT :'got'; COMMIT;")" a
"${psql[@]}" -c 'DROP TABLE IF EXISTS notes; CREATE TABLE notes (id int, text text)'
seq 1 2000 | sed 's/$/\tx/' | "${psql[@]}" -c '\copy notes FROM STDIN'
is "$("${psql[@]}" -c '\copy (SELECT id FROM notes) TO STDOUT' | wc -l)" 2000
is "$(printf 'one\ttwo\n' | "${psql[@]}" -c '\copy notes FROM STDIN' 2>&1 | head -n 1)" \
    'ERROR:  invalid input syntax for type integer: "one"'
is "$("${psql[@]}" -v FETCH_COUNT=100 -c 'SELECT id FROM notes' | wc -l)" 2000
"${psql[@]}" -c '\d notes' | grep -q '^id|integer'
is "$("${psql[@]}" -c 'SELECT 1/0' 2>&1 || true)" 'ERROR:  division by zero'
is "$(PGOPTIONS='-c work_mem=3MB' "${psql[@]}" -c 'SHOW work_mem')" 3MB
is "$(PGCLIENTENCODING=LATIN1 "${psql[@]}" -c 'SHOW client_encoding')" LATIN1

# Ctrl-C in psql cancels the query, not the session.
"${psql[@]}" -c 'SELECT pg_sleep(30)' 2>cancelled.$$ & sleeper=$!
sleep 0.5
kill -INT $sleeper
wait $sleeper || true
said=$(cat cancelled.$$); rm -f cancelled.$$
is "$said" $'Cancel request sent\nERROR:  canceling statement due to user request'

"$bin/pgbench" -i -q 2>/dev/null
# Named statements pin a client each, and pgbench blocks on one while it holds another: no more of those than the pool has.
for run in "simple -c 10" "extended -c 10" "prepared -c 2"; do
    # shellcheck disable=SC2086 # two words
    "$bin/pgbench" -n -M $run -j 2 -t 50 2>&1 | grep -q '^number of failed transactions: 0 ' ||
        { echo "pgbench -M $run" >&2; exit 1; }
done
"$bin/pg_dump" --schema-only | grep -q 'CREATE TABLE public.notes'
