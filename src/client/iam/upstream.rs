//! Questions to those who know: STS, and Aurora.
//!
//! Knows what their answers mean; does not know who may be whom.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::map;
use super::memory::Verdict;
use super::pace::Pace;
use super::reason::Reason;
use super::sts::{self, StsToken};
use crate::config::{IamAurora, IamSts, Secret};
use crate::net::fetch::{Fetched, Fetcher};
use crate::net::{BadAuthorities, Resolver};

/// Whether whoever came with a token is still to be heard, now that it is his turn: of many who guess at a time, some
/// were found out while the others waited.
pub type Standing<'s> = dyn Fn() -> bool + Sync + 's;

fn unheard() -> Verdict {
    Verdict::Unanswered("too many tokens from there were refused meanwhile".into())
}

/// An answer to GetCallerIdentity has half a KiB.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Asks STS who signed.
#[derive(Debug)]
pub struct Sts {
    fetcher: Fetcher,
    weir_id: String,
    pace: Pace,
}

impl Sts {
    pub fn new(
        sts: &IamSts,
        authorities: Option<&[u8]>,
        resolver: &Resolver,
    ) -> Result<Sts, BadAuthorities> {
        Ok(Sts {
            fetcher: Fetcher::new(
                sts.endpoint.clone(),
                authorities,
                sts.timeout,
                MAX_ANSWER_BYTES,
                resolver.clone(),
            )?,
            weir_id: sts.weir_id.clone(),
            pace: Pace::new(sts.max_calls, sts.calls_per_second),
        })
    }

    /// Sends what the token stands for. Cancel-safe: dropped, nothing is asked.
    pub async fn ask(&self, token: &StsToken, user: &str, standing: &Standing<'_>) -> Verdict {
        let _leave = self.pace.leave().await;
        if !standing() {
            return unheard();
        }
        let user = sts::header_value(user);
        let headers = [
            ("accept", "text/xml"),
            ("x-weir-id", self.weir_id.as_str()),
            ("x-weir-user", user.as_str()),
        ];
        match self.fetcher.get(&token.target(), &headers).await {
            Ok(answer) => read(&answer),
            Err(error) => Verdict::Unanswered(error.to_string().into()),
        }
    }
}

/// What STS has said.
fn read(answer: &Fetched) -> Verdict {
    let unanswered = |why: String| Verdict::Unanswered(why.into());
    let body = String::from_utf8_lossy(&answer.body);
    match answer.status {
        200 if answer.content_type != "text/xml" => {
            unanswered("STS answers with something else than text/xml".to_owned())
        }
        200 => match sts::read_identity(&body) {
            None => unanswered("STS' answer names no identity, or several".to_owned()),
            Some(arn) => match map::caller(arn) {
                Some(principal) => Verdict::Valid(principal),
                None => Verdict::Refused(Reason::Root),
            },
        },
        // Too many questions, by whatever name.
        429 => unanswered("STS has had too many questions".to_owned()),
        400..=499 if body.contains("Throttl") || body.contains("LimitExceeded") => {
            unanswered("STS has had too many questions".to_owned())
        }
        // 404 and 405 come from something that is no STS.
        400 | 401 | 403 => Verdict::Refused(Reason::RefusedBySts),
        status => unanswered(format!("STS answers with status {status}")),
    }
}

/// What came of a login to Aurora.
#[derive(Debug)]
pub enum Tried {
    LetIn,
    Refused,
    /// It could not be asked: that is no failed login.
    Unanswered(Arc<str>),
}

/// A login to try.
pub struct Attempt {
    pub user: String,
    pub database: String,
    pub token: Secret<String>,
}

/// Logs in to Aurora; whoever puts the house together knows how.
pub type Prober = Arc<dyn Fn(Attempt) -> Pin<Box<dyn Future<Output = Tried> + Send>> + Send + Sync>;

/// Tries tokens at Aurora.
pub struct Aurora {
    prober: Prober,
    pace: Pace,
}

impl Aurora {
    pub fn new(aurora: &IamAurora, prober: Prober) -> Aurora {
        Aurora {
            prober,
            pace: Pace::new(aurora.max_probes, aurora.probes_per_second),
        }
    }

    /// Cancel-safe: dropped, a login that has begun goes on, for nobody.
    pub async fn ask(&self, attempt: Attempt, standing: &Standing<'_>) -> Verdict {
        let _leave = self.pace.leave().await;
        if !standing() {
            return unheard();
        }
        let principal = map::Principal {
            name: attempt.user.clone(),
            function: None,
        };
        match (self.prober)(attempt).await {
            Tried::LetIn => Verdict::Valid(principal),
            Tried::Refused => Verdict::Refused(Reason::RefusedByAurora),
            Tried::Unanswered(why) => Verdict::Unanswered(why),
        }
    }
}

impl std::fmt::Debug for Aurora {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Aurora")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sts_may_say() {
        let identity = |arn: &str| {
            format!(
                "<GetCallerIdentityResponse xmlns=\"x\"><GetCallerIdentityResult><Arn>{arn}</Arn></GetCallerIdentityResult></GetCallerIdentityResponse>"
            )
        };
        let role = identity("arn:aws:sts::1:assumed-role/orders-fn/x");
        let root = identity("arn:aws:iam::123456789012:root");
        let error =
            "<ErrorResponse><Error><Code>SignatureDoesNotMatch</Code></Error></ErrorResponse>";
        let throttled = "<ErrorResponse><Error><Code>Throttling</Code></Error></ErrorResponse>";
        for (status, content_type, body, expected) in [
            (200, "text/xml", &*role, "valid"),
            (200, "application/json", &*role, "unanswered"),
            (200, "", &*role, "unanswered"),
            (200, "text/xml", &*role.repeat(2), "unanswered"),
            (200, "text/xml", "", "unanswered"),
            (200, "text/xml", &*root, "root"),
            (301, "text/xml", &*role, "unanswered"),
            (302, "text/html", "", "unanswered"),
            (400, "text/xml", throttled, "unanswered"),
            (429, "text/xml", error, "unanswered"),
            (403, "text/xml", error, "refused_by_sts"),
            (400, "text/xml", error, "refused_by_sts"),
            (404, "text/html", "", "unanswered"),
            (500, "text/xml", error, "unanswered"),
            (503, "", "", "unanswered"),
        ] {
            let seen = read(&Fetched {
                status,
                content_type: content_type.to_owned(),
                body: body.as_bytes().to_vec(),
            });
            let seen = match seen {
                Verdict::Valid(_) => "valid",
                Verdict::Refused(reason) => reason.as_str(),
                Verdict::Unanswered(_) => "unanswered",
            };
            assert_eq!(seen, expected, "{status} {content_type} {body}");
        }
    }
}
