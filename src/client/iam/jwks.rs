//! The keys of one issuer, fetched when they are needed and kept.
//!
//! Knows how old they are; does not know what they are used for.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::jwt::{BadKeys, Key, KeySet};
use crate::config::{IamIssuer, IamJwt, JwksPlace};
use crate::net::fetch::{FetchError, Fetcher};
use crate::net::{BadAuthorities, Resolver};

/// AWS' have 2 KiB.
const MAX_BYTES: usize = 256 * 1024;

const TIMEOUT: Duration = Duration::from_secs(3);

/// Keys that are not known have them fetched at most so often; so does an issuer that can't be reached.
const PAUSE: Duration = Duration::from_secs(30);

/// One issuer's keys.
#[derive(Debug)]
pub struct Issuer {
    pub name: String,
    source: Source,
    refresh: Duration,
    state: Mutex<State>,
    /// One fetches at a time.
    fetching: Semaphore,
}

#[derive(Debug)]
enum Source {
    File(PathBuf),
    Url(Box<Fetcher>),
}

#[derive(Debug, Default)]
struct State {
    /// The last good ones.
    keys: Option<Arc<KeySet>>,
    fetched: Option<Instant>,
    tried: Option<Instant>,
    trouble: Option<Arc<str>>,
}

/// Why there is no such key.
#[derive(Debug)]
pub enum NoKey {
    Unknown,
    /// There are no keys at all.
    Unreachable(Arc<str>),
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("{path}: {source}", path = path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{at} answers {status}")]
    Status { at: String, status: u16 },
    #[error("what was fetched is {0}")]
    Keys(#[from] BadKeys),
}

impl Issuer {
    pub fn new(
        issuer: &IamIssuer,
        jwt: &IamJwt,
        authorities: Option<&[u8]>,
        resolver: &Resolver,
    ) -> Result<Issuer, BadAuthorities> {
        let source = match &issuer.jwks {
            JwksPlace::File(path) => Source::File(path.clone()),
            JwksPlace::Url(url) => {
                let fetcher = Fetcher::new(
                    url.clone(),
                    authorities,
                    TIMEOUT,
                    MAX_BYTES,
                    resolver.clone(),
                )?;
                Source::Url(Box::new(fetcher))
            }
        };
        Ok(Issuer {
            name: issuer.name.clone(),
            source,
            refresh: jwt.jwks_refresh,
            state: Mutex::default(),
            fetching: Semaphore::new(1),
        })
    }

    /// The key called `kid`. While keys are fetched anew, the old ones serve. Cancel-safe.
    pub async fn key(&self, kid: &str) -> Result<Key, NoKey> {
        if let Some(key) = self.known(kid, Wanted::Fresh) {
            return Ok(key);
        }
        match self.known(kid, Wanted::Any) {
            // Old ones do, and whoever is first looks whether there are new ones.
            Some(key) => {
                if let Ok(_leave) = self.fetching.try_acquire() {
                    self.fetch().await;
                }
                Ok(self.known(kid, Wanted::Any).unwrap_or(key))
            }
            None => {
                let _leave = self.fetching.acquire().await;
                if let Some(key) = self.known(kid, Wanted::Any) {
                    return Ok(key);
                }
                self.fetch().await;
                self.known(kid, Wanted::Any).ok_or_else(|| self.no_key())
            }
        }
    }

    fn known(&self, kid: &str, wanted: Wanted) -> Option<Key> {
        let state = self.state();
        let is_fresh = state.fetched.is_some_and(|at| at.elapsed() < self.refresh);
        match wanted {
            Wanted::Fresh if !is_fresh => None,
            Wanted::Fresh | Wanted::Any => state.keys.as_ref()?.find(kid).cloned(),
        }
    }

    fn no_key(&self) -> NoKey {
        let state = self.state();
        match (&state.keys, &state.trouble) {
            (None, Some(trouble)) => NoKey::Unreachable(Arc::clone(trouble)),
            (Some(_), _) | (None, None) => NoKey::Unknown,
        }
    }

    /// Fetches, unless that was tried just now.
    async fn fetch(&self) {
        {
            let mut state = self.state();
            if state.tried.is_some_and(|at| at.elapsed() < PAUSE) {
                return;
            }
            state.tried = Some(Instant::now());
        }
        match self.ask().await {
            Ok(keys) => {
                let mut state = self.state();
                state.keys = Some(Arc::new(keys));
                state.fetched = Some(Instant::now());
                state.trouble = None;
            }
            Err(trouble) => {
                tracing::warn!(issuer = %self.name, error = %trouble, "keys of an issuer could not be fetched; those known are kept");
                self.state().trouble = Some(trouble.to_string().into());
            }
        }
    }

    async fn ask(&self) -> Result<KeySet, Trouble> {
        let text = match &self.source {
            // Small and local: a worker can wait for it.
            Source::File(path) => std::fs::read(path).map_err(|source| Trouble::File {
                path: path.clone(),
                source,
            })?,
            Source::Url(fetcher) => {
                let accept = [("accept", "application/json")];
                let answer = fetcher.get(&fetcher.at().path, &accept).await?;
                if answer.status != 200 {
                    return Err(Trouble::Status {
                        at: fetcher.at().to_string(),
                        status: answer.status,
                    });
                }
                answer.body
            }
        };
        Ok(KeySet::parse(&text)?)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy)]
enum Wanted {
    /// Not older than they may be.
    Fresh,
    Any,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kid: &str) -> String {
        let coordinate = "A".repeat(64);
        format!(
            "{{\"kty\":\"EC\",\"crv\":\"P-384\",\"kid\":\"{kid}\",\"x\":\"{coordinate}\",\"y\":\"{coordinate}\"}}"
        )
    }

    fn issuer(path: &std::path::Path) -> Issuer {
        let issuer = IamIssuer {
            name: "issuer".to_owned(),
            jwks: JwksPlace::File(path.to_owned()),
        };
        let jwt = IamJwt {
            issuers: vec![issuer.clone()],
            audience: "audience".to_owned(),
            ca_file: None,
            max_lifetime: Duration::from_secs(900),
            jwks_refresh: Duration::from_secs(3600),
        };
        Issuer::new(&issuer, &jwt, None, &Resolver::of_system()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_kept_and_looked_for_again_but_not_too_often() {
        let path = std::env::temp_dir().join(format!("weir-{}-jwks.json", std::process::id()));
        let write = |kids: &[&str]| {
            let keys: Vec<String> = kids.iter().map(|kid| key(kid)).collect();
            std::fs::write(&path, format!("{{\"keys\":[{}]}}", keys.join(","))).unwrap();
        };
        let issuer = issuer(&path);
        let none = issuer.key("a").await;
        assert!(matches!(none, Err(NoKey::Unreachable(_))), "{none:?}");
        write(&["a"]);
        // Just now there was nothing.
        assert!(issuer.key("a").await.is_err());
        tokio::time::advance(PAUSE).await;
        assert!(issuer.key("a").await.is_ok());
        // A new key is found, though not within half a minute.
        write(&["a", "b"]);
        assert!(matches!(issuer.key("b").await, Err(NoKey::Unknown)));
        tokio::time::advance(PAUSE).await;
        assert!(issuer.key("b").await.is_ok());
        // When the hour is over and there is nothing new to be had, the last good ones serve.
        std::fs::write(&path, "nonsense").unwrap();
        tokio::time::advance(Duration::from_secs(3601)).await;
        assert!(issuer.key("a").await.is_ok() && issuer.key("b").await.is_ok());
        tokio::time::advance(PAUSE).await;
        write(&["c"]);
        assert!(issuer.key("c").await.is_ok());
        assert!(matches!(issuer.key("a").await, Err(NoKey::Unknown)));
        std::fs::remove_file(&path).unwrap();
    }
}
