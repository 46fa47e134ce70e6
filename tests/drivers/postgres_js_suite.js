// postgres.js. Knows its API; is told where to go by PGHOST and its like.
const assert = require("node:assert");
const postgres = require("postgres");

const ssl = process.env.PGSSLMODE === "require" ? "require" : false;
const code = (promise) => promise.then(() => "none", (error) => error.code);

async function main() {
  const sql = postgres({ ssl, max: 1, onnotice: () => {} });
  assert.equal((await sql`SELECT 1 AS one`)[0].one, 1);
  assert.equal((await sql`SELECT ${1}::int + ${2}::int AS sum`)[0].sum, 3);
  await sql.unsafe("DROP TABLE IF EXISTS notes; CREATE TABLE notes (id int PRIMARY KEY, text text)");
  await sql.begin(async (tx) => {
    await tx`INSERT INTO notes VALUES (1, 'one')`;
    assert.equal(await code(tx.savepoint((sp) => sp`INSERT INTO notes VALUES (1, 'again')`)), "23505");
  });
  assert.equal(await code(sql.begin(async (tx) => { await tx`INSERT INTO notes VALUES (2, 'two')`; throw { code: "mine" }; })), "mine");
  assert.equal((await sql`SELECT count(*)::int AS n FROM notes`)[0].n, 1);
  for (let n = 0; n < 20; n++) assert.equal((await sql`SELECT text FROM notes WHERE id = ${1}`)[0].text, "one");
  const { pipeline } = require("node:stream/promises");
  const { Readable } = require("node:stream");
  const lines = Array.from({ length: 2000 }, (_, n) => `${n + 10}\t${"n".repeat(50)}\n`);
  await pipeline(Readable.from(lines), await sql`COPY notes FROM STDIN`.writable());
  let received = 0;
  for await (const chunk of await sql`COPY (SELECT id FROM notes) TO STDOUT`.readable()) received += chunk.toString().split("\n").length - 1;
  assert.equal(received, 2001);
  let rows = 0;
  await sql`SELECT * FROM notes`.cursor(100, (some) => { rows += some.length; });
  assert.equal(rows, 2001);
  const sleeping = sql`SELECT pg_sleep(30)`;
  setTimeout(() => sleeping.cancel(), 300);
  assert.equal(await code(sleeping), "57014");
  await sql.end();
  // Ten at once over two connections: without named statements, each of which would pin one.
  const many = postgres({ ssl, max: 10, prepare: false });
  await Promise.all(
    Array.from({ length: 10 }, async (_, n) => {
      for (let turn = 0; turn < 20; turn++) {
        await many.begin(async (tx) => assert.equal((await tx`SELECT ${n}::int * 2 AS twice`)[0].twice, n * 2));
      }
    })
  );
  await many.end();
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
