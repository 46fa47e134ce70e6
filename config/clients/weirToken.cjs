// A token for Weir's `sts` validator, with the AWS SDK v3: hand it to `pg` as the password, over TLS.
//
//   new Client({ host: 'weir.internal', user: 'orders_rw', ssl: { ca },
//                password: () => weirToken('orders_rw', 'prod-orders', 'eu-west-1') })
//
// npm install @smithy/signature-v4 @aws-sdk/credential-providers
// Nothing is sent anywhere to make it, and it lives for 15 minutes.

const { createHash, createHmac } = require('node:crypto');
const { fromNodeProviderChain } = require('@aws-sdk/credential-providers');
const { SignatureV4 } = require('@smithy/signature-v4');

class Sha256 {
  constructor(key) { this.hash = key ? createHmac('sha256', key) : createHash('sha256'); }
  update(data) { this.hash.update(data); }
  async digest() { return this.hash.digest(); }
}

const escaped = (text) => encodeURIComponent(text).replace(/[!'()*]/g, (c) => '%' + c.charCodeAt(0).toString(16).toUpperCase());

exports.weirToken = async function weirToken(user, weirId, region, host = `sts.${region}.amazonaws.com`) {
  const signer = new SignatureV4({ service: 'sts', region, sha256: Sha256, credentials: fromNodeProviderChain() });
  const request = {
    method: 'GET', protocol: 'https:', hostname: host, path: '/',
    query: { Action: 'GetCallerIdentity', Version: '2011-06-15' },
    headers: { host, 'x-weir-id': weirId, 'x-weir-user': escaped(user) },
  };
  const { query } = await signer.presign(request, { expiresIn: 900, unhoistableHeaders: new Set(['x-weir-id', 'x-weir-user']) });
  const url = `https://${host}/?` + Object.entries(query).map(([name, value]) => `${name}=${escaped(value)}`).join('&');
  return 'weir-sts-v1.' + Buffer.from(url).toString('base64url');
};
