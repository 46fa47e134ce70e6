//! This task among others before the same database: they divide its connections, and pass cancel requests on to each
//! other.
//!
//! `census` decides (pure) what is ours, `names` asks DNS, `hop` and `line` are what tasks say to each other, `shares` has
//! the pools keep to what was decided. There is nothing else between tasks: no leader, no state that outlives one.

mod census;
mod hop;
mod line;
mod names;
mod shares;

use std::collections::{BTreeSet, HashMap};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::census::{Census, Place, Standing, Terms};
use self::hop::{Answer, Question, TaskId};
use self::line::LineError;
use self::names::{Listed, Names};
use super::shared::Shared;
use crate::config;
use crate::metrics;
use crate::net::Resolver;
use crate::net::listen::{self, AcceptError};
use crate::pool::portion::Portion;
use crate::protocol::CancelKey;
use crate::session::handle::TaskTag;

pub struct Fleet {
    config: config::Fleet,
    id: TaskId,
    tag: TaskTag,
    names: Names,
    census: Mutex<Census>,
    /// Whose sessions' numbers begin with what, as far as tasks have said.
    tags: Mutex<HashMap<SocketAddr, TaskTag>>,
    forwards: Semaphore,
    meters: metrics::Fleet,
}

/// Why a task can't be one of a fleet.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error(
        "fleet.discover needs a DNS server, and /etc/resolv.conf names none; say one by dns.servers (WEIR_DNS_SERVERS)"
    )]
    NoDns,
    #[error("the system has no randomness to give")]
    Chance,
}

impl Fleet {
    pub fn new(
        config: config::Fleet,
        resolver: Resolver,
        meters: metrics::Fleet,
    ) -> Result<Fleet, FleetError> {
        let mut random = [0; 10];
        let filled = SystemRandom::new().fill(&mut random);
        filled.map_err(|_| FleetError::Chance)?;
        let [id @ .., high, low] = random;
        // How long an answer is good must be known.
        if !resolver.asker().knows_servers() {
            return Err(FleetError::NoDns);
        }
        let names = Names::new(config.discover.clone(), resolver);
        let terms = Terms {
            refresh: config.refresh,
            settle: config.settle,
            max_heard: config.max_tasks,
        };
        Ok(Fleet {
            id: TaskId(u64::from_be_bytes(id)),
            tag: TaskTag::from_random(u16::from_be_bytes([high, low])),
            names,
            census: Mutex::new(Census::new(terms)),
            tags: Mutex::default(),
            forwards: Semaphore::new(config.max_requests),
            meters,
            config,
        })
    }

    /// What this task's sessions' numbers begin with.
    pub fn tag(&self) -> TaskTag {
        self.tag
    }

    /// Does all that a fleet takes, until dropped.
    pub async fn live(self: Arc<Fleet>, listener: StdListener, shared: Arc<Shared>) {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "fleet.listen can't be listened to"),
        };
        tokio::join!(
            self.look_around(),
            self.answer_all(listener, &shared),
            shares::keep(&self, &shared),
        );
    }

    /// Why this task can't serve, if its place in the fleet is the reason.
    pub fn unready(&self) -> Option<String> {
        let standing = self.standing();
        if standing.portion != Portion::Nothing {
            return None;
        }
        let name = &self.config.discover.host;
        Some(match standing.place {
            Place::Unknown => {
                format!("none of the addresses of {name} has turned out to be this task yet")
            }
            Place::Lost => format!("this task is not among the addresses of {name} any more"),
            Place::Settling(left) => {
                format!("this task is new in its fleet, and has no connections for {left:.0?} more")
            }
            Place::Settled => "this task's share of the connections is none".to_owned(),
        })
    }

    fn standing(&self) -> Standing {
        self.census().standing(now())
    }

    /// Has a cancel request dealt with by whoever gave out its key; returns when that is done. Whether anybody was asked.
    pub async fn forward(&self, tag: TaskTag, key: &CancelKey) -> bool {
        let tasks: Vec<SocketAddr> = {
            let tags = self.tags();
            let same = tags.iter().filter(|(_, other)| **other == tag);
            same.map(|(address, _)| *address).collect()
        };
        let mut asked = false;
        for address in tasks {
            // Beyond the limit a cancel request is lost, as one may always be.
            let Ok(_permit) = self.forwards.try_acquire() else {
                break;
            };
            let question = Question::Cancel(key.clone());
            let asking = line::ask(address, &self.config.key, &question);
            match timeout(self.config.cancel_timeout, asking).await {
                Ok(Ok(_)) | Err(_) => asked = true,
                Ok(Err(error)) => {
                    tracing::warn!(%address, %error, "a cancel request could not be passed on to its task");
                }
            }
        }
        if asked {
            self.meters.cancels_sent.increment(1);
        }
        asked
    }

    /// Looks up who is there and greets them all, for ever.
    async fn look_around(&self) {
        let patience = self.patience();
        let mut in_trouble = false;
        loop {
            let began = tokio::time::Instant::now();
            let outcome = timeout(patience, self.names.ask()).await;
            let listed = match outcome {
                Ok(Ok(listed)) => Ok(listed),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {patience:?}")),
            };
            let listed = match listed {
                Ok(listed) => {
                    in_trouble = false;
                    Some(listed)
                }
                Err(error) => {
                    if !std::mem::replace(&mut in_trouble, true) {
                        let name = &self.config.discover.host;
                        tracing::warn!(%name, error, "the fleet could not be looked up");
                    }
                    None
                }
            };
            self.greet_and_note(listed).await;
            tokio::time::sleep_until(began + self.config.refresh).await;
        }
    }

    /// Greeted first, newcomers are known to know us when the view with them is taken.
    async fn greet_and_note(&self, listed: Option<Listed>) {
        let (mut all, me) = {
            let census = self.census();
            (census.others(), census.me())
        };
        all.extend(listed.iter().flat_map(|listed| &listed.names));
        if let Some(me) = me {
            all.remove(&me);
        }
        let asked = now();
        let answers = self.greet(&all, me).await;
        let mut census = self.census();
        let mut tags = self.tags();
        for (address, id, tag) in answers {
            if id == self.id {
                census.on_self(now(), address);
            } else {
                census.on_answer(now(), asked, address);
                tags.insert(address, tag);
            }
        }
        if let Some(Listed { names, ttl }) = listed {
            census.on_listed(now(), names, ttl);
        }
        let others = census.others();
        tags.retain(|address, _| others.contains(address));
    }

    async fn greet(
        &self,
        all: &BTreeSet<SocketAddr>,
        me: Option<SocketAddr>,
    ) -> Vec<(SocketAddr, TaskId, TaskTag)> {
        let patience = self.patience();
        let mut greetings = JoinSet::new();
        let mut answers = Vec::new();
        let mut take = |outcome: Option<Result<_, _>>| {
            answers.extend(outcome.and_then(Result::ok).flatten());
        };
        for &address in all {
            if greetings.len() >= self.config.max_requests {
                take(greetings.join_next().await);
            }
            let key = self.config.key.clone();
            greetings.spawn(async move {
                let hello = Question::Hello { at: me };
                let outcome = timeout(patience, line::ask(address, &key, &hello)).await;
                match outcome {
                    Ok(Ok(Answer::IAm { id, tag })) => Some((address, id, tag)),
                    Ok(Ok(Answer::Done)) | Err(_) => None,
                    Ok(Err(error)) => {
                        tracing::debug!(%address, %error, "a task of the fleet did not answer");
                        None
                    }
                }
            });
        }
        while let Some(outcome) = greetings.join_next().await {
            take(Some(outcome));
        }
        answers
    }

    /// Answers whoever knows the key, for ever.
    async fn answer_all(self: &Arc<Fleet>, listener: TcpListener, shared: &Arc<Shared>) {
        let places = Arc::new(Semaphore::new(self.config.max_requests));
        let mut answering = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listen::accept(&listener) => accepted,
                Some(_) = answering.join_next() => continue,
            };
            match accepted {
                Ok((tcp, peer)) => {
                    let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                        continue;
                    };
                    let (fleet, shared) = (Arc::clone(self), Arc::clone(shared));
                    answering.spawn(async move {
                        fleet.answer(tcp, peer, &shared).await;
                        drop(place);
                    });
                }
                Err(AcceptError::Gone(_)) => {}
                Err(AcceptError::Exhausted(error)) => {
                    tracing::warn!(%error, "no task of the fleet can be answered");
                    tokio::time::sleep(AcceptError::PAUSE).await;
                }
            }
        }
    }

    async fn answer(&self, tcp: TcpStream, peer: SocketAddr, shared: &Shared) {
        let patience = self.config.answer_timeout;
        let (question, asked) = match timeout(patience, line::hear(tcp, &self.config.key)).await {
            Ok(Ok(heard)) => heard,
            Ok(Err(LineError::Stranger(why))) => {
                self.meters.strangers.increment(1);
                return tracing::warn!(%peer, %why, "somebody at fleet.listen is not of this fleet");
            }
            Ok(Err(_)) | Err(_) => return,
        };
        let answer = match question {
            Question::Hello { at } => {
                if let Some(at) = at {
                    self.census().on_heard(now(), at);
                }
                Answer::IAm {
                    id: self.id,
                    tag: self.tag,
                }
            }
            Question::Cancel(key) => {
                self.meters.cancels_received.increment(1);
                shared.cancel(key).await;
                Answer::Done
            }
        };
        // Whoever has not waited for it does without.
        let _ = timeout(patience, asked.answer(&answer)).await;
    }

    /// For DNS, a hello or a question.
    fn patience(&self) -> Duration {
        self.config.refresh.min(self.config.answer_timeout)
    }

    fn census(&self) -> MutexGuard<'_, Census> {
        self.census.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tags(&self) -> MutexGuard<'_, HashMap<SocketAddr, TaskTag>> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
