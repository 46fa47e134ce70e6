// node-postgres. Knows its API; is told where to go by PGHOST and its like.
const assert = require("node:assert");
const { Client, Pool } = require("pg");

const ssl = process.env.PGSSLMODE === "require" ? { rejectUnauthorized: false } : false;
const value = async (db, sql, values) => Object.values((await db.query(sql, values)).rows[0])[0];
const code = (promise) => promise.then(() => "none", (error) => error.code);

async function main() {
  const db = new Client({ ssl });
  await db.connect();
  assert.equal(await value(db, "SELECT 1"), 1);
  assert.equal(await value(db, "SELECT $1::int + $2::int", [1, 2]), 3);
  await db.query("DROP TABLE IF EXISTS notes; CREATE TABLE notes (id int PRIMARY KEY, text text)");
  await db.query("BEGIN");
  await db.query("INSERT INTO notes VALUES (1, $1)", ["one"]);
  await db.query("COMMIT");
  await db.query("BEGIN");
  assert.equal(await code(db.query("INSERT INTO notes VALUES (1, 'again')")), "23505");
  assert.equal(await code(db.query("SELECT 1")), "25P02");
  await db.query("ROLLBACK");
  assert.equal(await code(db.query("SELEC")), "42601");
  for (let n = 0; n < 20; n++) {
    const named = { name: "by-id", text: "SELECT text FROM notes WHERE id = $1", values: [1] };
    assert.equal((await db.query(named)).rows[0].text, "one");
  }
  // Queued at once; answered in order.
  const answers = await Promise.all(Array.from({ length: 50 }, (_, n) => value(db, "SELECT $1::int", [n])));
  assert.deepEqual(answers, Array.from({ length: 50 }, (_, n) => n));
  const sleeping = code(db.query("SELECT pg_sleep(30)"));
  setTimeout(() => {
    const other = new Client({ ssl });
    other.cancel(db, db._queryQueue?.[0] ?? db.activeQuery ?? db._activeQuery);
  }, 300);
  const cancelled = await Promise.race([sleeping, new Promise((done) => setTimeout(done, 8000, "silence"))]);
  if (!ssl) assert.equal(cancelled, "57014");
  if (cancelled === "57014") assert.equal(await value(db, "SELECT 'alive'"), "alive");
  await db.end();

  const pool = new Pool({ ssl, max: 10 });
  await Promise.all(
    Array.from({ length: 10 }, async (_, n) => {
      for (let turn = 0; turn < 20; turn++) {
        const client = await pool.connect();
        await client.query("BEGIN");
        assert.equal(await value(client, "SELECT $1::int * 2", [n]), n * 2);
        await client.query("COMMIT");
        client.release();
      }
    })
  );
  await pool.end();
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
