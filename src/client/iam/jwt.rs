//! JSON web tokens: their form, their claims, and the keys that signed them.
//!
//! Knows ES384 and RS256 and no other algorithm; does not know where keys come from. Pure.
//! Sources: RFC 7515, 7517, 7518, 7519; "OpenID Connect ID tokens" of `sts:GetWebIdentityToken`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;

use super::map::Principal;
use super::reason::Reason;
use super::time::Seconds;

/// Every JWT begins so: `{"` in base64.
const START: &str = "eyJ";

/// Keys of one issuer; AWS has two.
const MAX_KEYS: usize = 100;

/// A token of the right form; whether it is true, only its signature shows.
pub struct Jwt {
    algorithm: Algorithm,
    kid: String,
    claims: Claims,
    /// What was signed.
    signed: Box<str>,
    signature: Vec<u8>,
}

/// How it is signed. Never "none", and never a secret shared with whoever checks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Es384,
    Rs256,
}

/// What else a header says is not looked at: keys come from the issuer alone, not from jwk, jku or x5u.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood: none is.
    crit: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: Seconds,
    iat: Seconds,
    nbf: Option<Seconds>,
    #[serde(rename = "https://sts.amazonaws.com/")]
    aws: Option<AwsClaims>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct AwsClaims {
    lambda_source_function_arn: Option<String>,
}

/// What a token must say of itself.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    pub audience: &'a str,
    pub max_lifetime: Seconds,
}

pub fn is_jwt_shaped(text: &str) -> bool {
    text.starts_with(START) && text.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl Jwt {
    pub fn parse(text: &str) -> Result<Jwt, Reason> {
        let (signed, signature) = text.rsplit_once('.').ok_or(Reason::NotAToken)?;
        let (header, claims) = signed.split_once('.').ok_or(Reason::NotAToken)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Reason::BadJwt);
        let header: Header =
            serde_json::from_slice(&decode(header)?).map_err(|_| Reason::BadJwt)?;
        let algorithm = match header.alg.as_str() {
            "ES384" => Algorithm::Es384,
            "RS256" => Algorithm::Rs256,
            _ => return Err(Reason::WrongAlgorithm),
        };
        if header.crit.is_some() {
            return Err(Reason::BadJwt);
        }
        let claims = serde_json::from_slice(&decode(claims)?).map_err(|_| Reason::BadJwt)?;
        Ok(Jwt {
            algorithm,
            kid: header.kid.ok_or(Reason::UnknownKey)?,
            claims,
            signed: signed.into(),
            signature: decode(signature)?,
        })
    }

    pub fn issuer(&self) -> &str {
        &self.claims.iss
    }

    pub fn kid(&self) -> &str {
        &self.kid
    }

    pub fn check(&self, demand: &Demand<'_>, now: Seconds, skew: Seconds) -> Result<(), Reason> {
        let claims = &self.claims;
        let is_for_us = match &claims.aud {
            Audience::One(audience) => audience == demand.audience,
            Audience::Several(list) => list.iter().any(|one| one == demand.audience),
        };
        if !is_for_us {
            return Err(Reason::WrongAudience);
        }
        let life = claims.exp.checked_sub(claims.iat);
        if life.is_none_or(|life| life <= 0 || life > demand.max_lifetime) {
            return Err(Reason::BadLifetime);
        }
        if now >= claims.exp.saturating_add(skew) {
            return Err(Reason::Expired);
        }
        if claims.iat.max(claims.nbf.unwrap_or(claims.iat)) > now.saturating_add(skew) {
            return Err(Reason::Future);
        }
        Ok(())
    }

    pub fn expires(&self) -> Seconds {
        self.claims.exp
    }

    /// Who it speaks of.
    pub fn principal(&self) -> Principal {
        let aws = self.claims.aws.as_ref();
        Principal {
            name: self.claims.sub.clone(),
            function: aws.and_then(|aws| aws.lambda_source_function_arn.clone()),
        }
    }

    pub fn verify(&self, key: &Key) -> Result<(), Reason> {
        let message = self.signed.as_bytes();
        let verified = match (self.algorithm, &key.public) {
            (Algorithm::Es384, Public::P384(point)) => {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point)
                    .verify(message, &self.signature)
            }
            (Algorithm::Rs256, Public::Rsa { n, e }) => {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, &self.signature)
            }
            (Algorithm::Es384, Public::Rsa { .. }) | (Algorithm::Rs256, Public::P384(_)) => {
                return Err(Reason::WrongAlgorithm);
            }
        };
        verified.map_err(|_| Reason::BadSignature)
    }
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Jwt([redacted])")
    }
}

/// An issuer's public key.
#[derive(Clone, Debug)]
pub struct Key {
    kid: String,
    public: Public,
}

#[derive(Clone, Debug)]
enum Public {
    /// Uncompressed: 04, x, y.
    P384(Vec<u8>),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

/// An issuer's keys.
#[derive(Clone, Debug)]
pub struct KeySet(Vec<Key>);

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

/// What a key set may not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKeys {
    #[error("not a JSON web key set")]
    Form,
    #[error("more than {MAX_KEYS} keys")]
    TooMany,
    #[error("no key for ES384 or RS256 (RSA of at least 2048 bits) with a kid")]
    NoneUsable,
}

impl KeySet {
    /// Keys of other kinds are passed over.
    pub fn parse(text: &[u8]) -> Result<KeySet, BadKeys> {
        let set: Jwks = serde_json::from_slice(text).map_err(|_| BadKeys::Form)?;
        if set.keys.len() > MAX_KEYS {
            return Err(BadKeys::TooMany);
        }
        let keys: Vec<Key> = set.keys.into_iter().filter_map(Jwk::key).collect();
        if keys.is_empty() {
            return Err(BadKeys::NoneUsable);
        }
        Ok(KeySet(keys))
    }

    pub fn find(&self, kid: &str) -> Option<&Key> {
        self.0.iter().find(|key| key.kid == kid)
    }
}

impl Jwk {
    fn key(self) -> Option<Key> {
        let decode = |part: Option<String>| URL_SAFE_NO_PAD.decode(part?).ok();
        if self.purpose.is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let alg = self.alg.as_deref();
        let public = match (self.kty.as_str(), self.crv.as_deref()) {
            ("EC", Some("P-384")) if alg.is_none_or(|alg| alg == "ES384") => {
                let (x, y) = (decode(self.x)?, decode(self.y)?);
                if x.len() != 48 || y.len() != 48 {
                    return None;
                }
                Public::P384([&[4], &*x, &*y].concat())
            }
            ("RSA", _) if alg.is_none_or(|alg| alg == "RS256") => {
                let n = decode(self.n)?;
                // Leading zeros are no bits.
                let n: Vec<u8> = n.into_iter().skip_while(|byte| *byte == 0).collect();
                if n.len() < 256 {
                    return None;
                }
                Public::Rsa {
                    n,
                    e: decode(self.e)?,
                }
            }
            _ => return None,
        };
        Some(Key {
            kid: self.kid?,
            public,
        })
    }
}
