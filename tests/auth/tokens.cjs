// Tokens as AWS's own SDK for JavaScript makes them: `rds HOST PORT USER REGION`, or `sts HOST USER REGION WEIR`.

const path = require('node:path');
const { weirToken } = require(path.join(__dirname, '../../config/clients/weirToken.cjs'));
const { Signer } = require('@aws-sdk/rds-signer');

const [kind, ...words] = process.argv.slice(2);

async function main() {
  if (kind === 'sts') {
    const [host, user, region, weirId] = words;
    return weirToken(user, weirId, region, host);
  }
  const [hostname, port, username, region] = words;
  return new Signer({ hostname, port: Number(port), username, region }).getAuthToken();
}

main().then((token) => console.log(token));
