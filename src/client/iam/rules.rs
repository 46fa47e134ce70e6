//! What must hold of a token before anyone is asked about it: shape, form, claims, and whom, what and when it is for.
//!
//! Pure but for the keys' file, which is read when the rules are made. Which validator a token is for, its shape decides
//! alone: a validator that refuses one passes it on to no other.

use std::sync::Arc;

use super::jwt::{self, Demand, Jwt};
use super::keys::{Doubt, OwnKeys};
use super::map::Map;
use super::presigned::printable;
use super::rds::{self, Purpose, RdsToken};
use super::reason::Reason;
use super::sts::{self, StsToken};
use super::time::Seconds;
use crate::config::{HostPort, Iam};
use crate::secrets::{KeySecret, KeysError};

/// How tokens are checked, as configured.
#[derive(Debug)]
pub struct Rules {
    max_token_bytes: usize,
    skew: Seconds,
    regions: Vec<String>,
    aurora: Vec<HostPort>,
    own: Option<(OwnKeys, Vec<HostPort>)>,
    /// The Host header of the STS that is asked.
    sts: Option<String>,
    jwt: Option<JwtRules>,
    pub(super) map: Map,
}

#[derive(Debug)]
struct JwtRules {
    issuers: Vec<String>,
    audience: String,
    max_lifetime: Seconds,
}

/// What a token looks like, of those that somebody here checks.
enum Shape<'r> {
    Jwt(&'r JwtRules),
    Sts(&'r str),
    Rds,
}

/// Who says that he is who, and wants to go where.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    pub user: &'a str,
    pub database: &'a str,
}

/// A token that all is well with as far as can be seen from here.
#[derive(Debug)]
pub enum Plausible {
    /// Made with a key that Weir holds, or should.
    Own(RdsToken),
    /// Made for Aurora, which alone can tell.
    Aurora(RdsToken),
    Sts(StsToken),
    Jwt(Jwt),
}

impl Plausible {
    /// Who checks it, as a metric's label.
    pub fn method(&self) -> &'static str {
        match self {
            Plausible::Own(_) => "iam-static",
            Plausible::Aurora(_) => "iam-aurora",
            Plausible::Sts(_) => "iam-sts",
            Plausible::Jwt(_) => "iam-jwt",
        }
    }
}

impl Rules {
    /// Reads the file with keys, if one is configured; `secrets` are those that may have more.
    pub fn new(iam: &Iam, secrets: &[Arc<KeySecret>]) -> Result<Rules, KeysError> {
        let aurora = iam.aurora.as_ref();
        let own = iam.static_keys.as_ref();
        let own = own.map(|own| Ok((OwnKeys::new(own, secrets)?, own.endpoints.clone())));
        let jwt = iam.jwt.as_ref().map(|jwt| JwtRules {
            issuers: jwt
                .issuers
                .iter()
                .map(|issuer| issuer.name.clone())
                .collect(),
            audience: jwt.audience.clone(),
            max_lifetime: whole_seconds(jwt.max_lifetime),
        });
        Ok(Rules {
            max_token_bytes: iam.max_token_bytes,
            skew: whole_seconds(iam.clock_skew),
            regions: iam.regions.clone(),
            aurora: aurora.map_or_else(Vec::new, |aurora| aurora.endpoints.clone()),
            own: own.transpose()?,
            sts: iam.sts.as_ref().map(|sts| sts.endpoint.authority()),
            jwt,
            map: Map::new(&iam.map),
        })
    }

    /// Checks what can be checked without asking anyone and without any cryptography.
    pub fn check(
        &self,
        token: &[u8],
        claim: &Claim<'_>,
        now: Seconds,
    ) -> Result<Plausible, Reason> {
        let text = printable(token, self.max_token_bytes)?;
        match self.shape(text).ok_or(Reason::NotAToken)? {
            Shape::Jwt(rules) => self.check_jwt(text, rules, claim, now),
            Shape::Sts(authority) => self.check_sts(text, authority, claim, now),
            Shape::Rds => self.check_rds(text, claim, now),
        }
    }

    /// Whether a text looks like a token that is taken here.
    pub fn has_shape(&self, text: &str) -> bool {
        self.shape(text).is_some()
    }

    fn shape(&self, text: &str) -> Option<Shape<'_>> {
        let jwt = self.jwt.as_ref();
        if let Some(rules) = jwt.filter(|_| jwt::is_jwt_shaped(text)) {
            return Some(Shape::Jwt(rules));
        }
        let sts = self.sts.as_deref();
        if let Some(authority) = sts.filter(|_| text.starts_with(sts::PREFIX)) {
            return Some(Shape::Sts(authority));
        }
        let has_rds = self.own.is_some() || !self.aurora.is_empty();
        (has_rds && rds::is_rds_shaped(text)).then_some(Shape::Rds)
    }

    fn check_jwt(
        &self,
        text: &str,
        rules: &JwtRules,
        claim: &Claim<'_>,
        now: Seconds,
    ) -> Result<Plausible, Reason> {
        let token = Jwt::parse(text)?;
        if !rules.issuers.iter().any(|issuer| issuer == token.issuer()) {
            return Err(Reason::WrongIssuer);
        }
        let demand = Demand {
            audience: &rules.audience,
            max_lifetime: rules.max_lifetime,
        };
        token.check(&demand, now, self.skew)?;
        if !self
            .map
            .admits(&token.principal(), claim.user, claim.database)
        {
            return Err(Reason::NotMapped);
        }
        Ok(Plausible::Jwt(token))
    }

    fn check_sts(
        &self,
        text: &str,
        authority: &str,
        claim: &Claim<'_>,
        now: Seconds,
    ) -> Result<Plausible, Reason> {
        let token = StsToken::parse(text, authority)?;
        token.check(&self.regions, now, self.skew)?;
        // Who it is, STS has yet to say; but if nobody may be this user, it need not be asked.
        if !self.map.has(claim.user, claim.database) {
            return Err(Reason::NotMapped);
        }
        Ok(Plausible::Sts(token))
    }

    fn check_rds(&self, text: &str, claim: &Claim<'_>, now: Seconds) -> Result<Plausible, Reason> {
        let token = RdsToken::parse(text)?;
        let own = self.own.as_ref();
        let own = own.filter(|(keys, _)| self.aurora.is_empty() || keys.knows(token.key_id()));
        let endpoints = own.map_or(&self.aurora, |(_, endpoints)| endpoints);
        let purpose = Purpose {
            user: claim.user,
            endpoints,
            regions: &self.regions,
        };
        token.check(&purpose, now, self.skew)?;
        Ok(match own {
            Some(_) => Plausible::Own(token),
            None => Plausible::Aurora(token),
        })
    }

    /// Whether a key that Weir holds made this token.
    pub fn check_own(&self, token: &RdsToken) -> Result<(), Doubt> {
        let (keys, _) = self.own.as_ref().ok_or(Reason::UnknownKey)?;
        keys.check(token)
    }
}

fn whole_seconds(length: std::time::Duration) -> Seconds {
    Seconds::try_from(length.as_secs()).unwrap_or(Seconds::MAX)
}
