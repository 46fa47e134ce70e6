// Sequelize over node-postgres, two pools of one connection each, taking turns. Knows its API; is told where to go by PGHOST and its like.
const assert = require("node:assert");
const { Sequelize, Transaction, QueryTypes } = require("sequelize");

const at = process.env;
const open = (timezone, isolationLevel) =>
  new Sequelize(at.PGDATABASE, at.PGUSER, at.PGPASSWORD, {
    host: at.PGHOST, port: Number(at.PGPORT), dialect: "postgres", logging: false, timezone, isolationLevel, pool: { max: 1, min: 1 },
  });

async function main() {
  const sessions = [
    [open("+09:00"), 9],
    [open("-05:00", Transaction.ISOLATION_LEVELS.SERIALIZABLE), -5],
  ];
  for (let turn = 0; turn < Number(at.TRANSACTIONS); turn++) {
    for (const [db, hours] of sessions) {
      await db.transaction(async (transaction) => {
        const options = { transaction, type: QueryTypes.SELECT };
        const [row] = await db.query("SELECT $n::int * 2 AS double, extract(timezone FROM now())::int AS seconds", { ...options, bind: { n: turn } });
        assert.deepEqual(row, { double: turn * 2, seconds: hours * 3600 });
        const [level] = await db.query("SHOW transaction_isolation", options);
        assert.equal(level.transaction_isolation, hours > 0 ? "read committed" : "serializable");
      });
    }
  }
  for (const [db] of sessions) await db.close();
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
