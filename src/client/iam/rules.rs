//! What must hold of a token before anyone is asked about it: shape, form, claims, and whom, what and when it is for.
//!
//! Pure but for the keys' file, which is read when the rules are made. Which validator a token is for, its shape decides
//! alone: a validator that refuses one passes it on to no other.

use super::keys::{Keys, KeysError};
use super::rds::{self, Purpose, RdsToken};
use super::reason::Reason;
use super::time::Seconds;
use crate::config::{HostPort, Iam};

/// How tokens are checked, as configured.
#[derive(Debug)]
pub struct Rules {
    max_token_bytes: usize,
    skew: Seconds,
    regions: Vec<String>,
    aurora: Vec<HostPort>,
    own: Option<(Keys, Vec<HostPort>)>,
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
}

impl Rules {
    pub fn new(iam: &Iam) -> Result<Rules, KeysError> {
        let aurora = iam.aurora.as_ref();
        let own = iam.static_keys.as_ref();
        let own = own.map(|own| Ok((Keys::read(&own.keys_file)?, own.endpoints.clone())));
        Ok(Rules {
            max_token_bytes: iam.max_token_bytes,
            skew: Seconds::try_from(iam.clock_skew.as_secs()).unwrap_or(Seconds::MAX),
            regions: iam.regions.clone(),
            aurora: aurora.map_or_else(Vec::new, |aurora| aurora.endpoints.clone()),
            own: own.transpose()?,
        })
    }

    /// Checks what can be checked without asking anyone and without any cryptography.
    pub fn check(
        &self,
        token: &[u8],
        claim: &Claim<'_>,
        now: Seconds,
    ) -> Result<Plausible, Reason> {
        let text = rds::printable(token, self.max_token_bytes)?;
        if !rds::is_rds_shaped(text) || self.own.is_none() && self.aurora.is_empty() {
            return Err(Reason::NotAToken);
        }
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
    pub fn check_own(&self, token: &RdsToken) -> Result<(), Reason> {
        let (keys, _) = self.own.as_ref().ok_or(Reason::UnknownKey)?;
        keys.check(token)
    }
}
