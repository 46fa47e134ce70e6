// A Lambda function's way in: plain `pg`, and a token for a password.

const { Client } = require('pg');

exports.handler = async () => {
  const token = async () => process.env.TOKEN;
  const client = new Client({ ssl: { rejectUnauthorized: false }, password: token });
  await client.connect();
  const { rows } = await client.query('SELECT current_user AS name');
  await client.end();
  return rows[0].name;
};

if (require.main === module) {
  exports.handler().then((name) => console.log(name), (error) => {
    console.log(`${error.code}: ${error.message}`);
    process.exitCode = 1;
  });
}
