//! What tasks of a fleet say to each other, and how it is sealed.
//!
//! Pure: bytes in, values out. One question and one answer on each connection: the one that was dialled begins with 32
//! random bytes, the dialler sends 32 of its own and the sealed question, and gets the sealed answer. The keys come from
//! the fleet's key and both randoms (HKDF with SHA-256, ChaCha20-Poly1305): whoever lacks the key can neither read nor
//! say anything, and nothing that was said once can be said again.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};

use crate::config::Secret;
use crate::protocol::CancelKey;
use crate::session::handle::TaskTag;

pub const RANDOM_BYTES: usize = 32;
/// Longest sealed message: a cancel key of 3.2 at its longest, and the seal.
pub const MAX_SEALED_BYTES: usize = 512;

/// A task, from start to end; no two are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskId(pub u64);

/// What is asked of another task.
#[derive(Debug)]
pub enum Question {
    /// Who are you? I am here; and `at` this address, if I have found myself.
    Hello { at: Option<SocketAddr> },
    /// Cancel what this key names, if it is yours. It is not passed on any further.
    Cancel(CancelKey),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    IAm {
        id: TaskId,
        tag: TaskTag,
    },
    /// The cancel request has been dealt with, whatever came of it.
    Done,
}

/// Somebody without the key, or bytes that are none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOfTheFleet;

impl fmt::Display for NotOfTheFleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it does not know this fleet's key, or is no Weir of this version")
    }
}

/// What both ends of one connection seal and open with.
pub struct Seals {
    question: LessSafeKey,
    answer: LessSafeKey,
}

impl Seals {
    /// `None`: never, with keys of these lengths.
    pub fn new(
        key: &Secret<String>,
        dialled: &[u8; RANDOM_BYTES],
        dialler: &[u8; RANDOM_BYTES],
    ) -> Option<Seals> {
        let salt = [&dialled[..], &dialler[..]].concat();
        let secret = Salt::new(HKDF_SHA256, &salt).extract(key.expose().as_bytes());
        let key_for = |what: &[u8]| {
            let info = [what];
            let derived = secret.expand(&info, &CHACHA20_POLY1305).ok()?;
            Some(LessSafeKey::new(UnboundKey::from(derived)))
        };
        Some(Seals {
            question: key_for(b"weir fleet 1 question")?,
            answer: key_for(b"weir fleet 1 answer")?,
        })
    }

    pub fn seal_question(&self, question: &Question) -> Option<Vec<u8>> {
        seal(&self.question, question.to_bytes())
    }

    pub fn open_question(&self, sealed: &[u8]) -> Result<Question, NotOfTheFleet> {
        Question::parse(&open(&self.question, sealed)?).ok_or(NotOfTheFleet)
    }

    pub fn seal_answer(&self, answer: &Answer) -> Option<Vec<u8>> {
        seal(&self.answer, answer.to_bytes())
    }

    pub fn open_answer(&self, sealed: &[u8]) -> Result<Answer, NotOfTheFleet> {
        Answer::parse(&open(&self.answer, sealed)?).ok_or(NotOfTheFleet)
    }
}

/// Each key seals one message, so that one nonce does.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn seal(key: &LessSafeKey, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let sealed = key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut bytes);
    sealed.ok().map(|()| bytes)
}

fn open(key: &LessSafeKey, sealed: &[u8]) -> Result<Vec<u8>, NotOfTheFleet> {
    let mut bytes = sealed.to_vec();
    let opened = key
        .open_in_place(nonce(), Aad::empty(), &mut bytes)
        .map_err(|_| NotOfTheFleet)?;
    Ok(opened.to_vec())
}

impl Question {
    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Question::Hello { at: None } => vec![b'h'],
            Question::Hello { at: Some(at) } => {
                let ip = match at.ip() {
                    IpAddr::V4(ip) => ip.octets().to_vec(),
                    IpAddr::V6(ip) => ip.octets().to_vec(),
                };
                [&b"h"[..], &at.port().to_be_bytes(), &ip].concat()
            }
            Question::Cancel(key) => [&b"c"[..], &key.pid.to_be_bytes(), key.secret()].concat(),
        }
    }

    fn parse(bytes: &[u8]) -> Option<Question> {
        match bytes {
            [b'h'] => Some(Question::Hello { at: None }),
            [b'h', high, low, ip @ ..] => {
                let ip = match ip.len() {
                    4 => Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?).into(),
                    16 => Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?).into(),
                    _ => return None,
                };
                let port = u16::from_be_bytes([*high, *low]);
                Some(Question::Hello {
                    at: Some(SocketAddr::new(ip, port)),
                })
            }
            [b'c', key @ ..] => CancelKey::parse(key).map(Question::Cancel),
            _ => None,
        }
    }
}

impl Answer {
    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Answer::IAm { id, tag } => {
                [&b"i"[..], &tag.number().to_be_bytes(), &id.0.to_be_bytes()].concat()
            }
            Answer::Done => vec![b'd'],
        }
    }

    fn parse(bytes: &[u8]) -> Option<Answer> {
        match bytes {
            [b'i', high, low, id @ ..] => Some(Answer::IAm {
                id: TaskId(u64::from_be_bytes(id.try_into().ok()?)),
                tag: TaskTag::from_random(u16::from_be_bytes([*high, *low])),
            }),
            [b'd'] => Some(Answer::Done),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seals(key: &str, dialled: u8, dialler: u8) -> Seals {
        let key = Secret::new(key.to_owned());
        Seals::new(&key, &[dialled; RANDOM_BYTES], &[dialler; RANDOM_BYTES]).unwrap()
    }

    const KEY: &str = "0123456789abcdef";

    #[test]
    fn what_is_sealed_opens_with_the_same_key_and_randoms_alone() {
        let ours = seals(KEY, 1, 2);
        let question = Question::Cancel(CancelKey::new(7, &[9; 32]).unwrap());
        let sealed = ours.seal_question(&question).unwrap();
        assert!(
            !sealed.windows(8).any(|bytes| bytes == [9; 8]),
            "nothing shows"
        );
        assert!(ours.open_question(&sealed).is_ok());
        for other in [
            seals("0123456789abcdeX", 1, 2),
            seals(KEY, 3, 2),
            seals(KEY, 1, 3),
        ] {
            assert_eq!(other.open_question(&sealed).unwrap_err(), NotOfTheFleet);
        }
        assert!(
            ours.open_answer(&sealed).is_err(),
            "a question is no answer"
        );
        for place in 0..sealed.len() {
            let mut spoilt = sealed.clone();
            spoilt[place] ^= 1;
            assert!(ours.open_question(&spoilt).is_err());
        }
    }

    #[test]
    fn the_longest_fits() {
        let question = Question::Cancel(CancelKey::new(-1, &[0; 256]).unwrap());
        let sealed = seals(KEY, 1, 2).seal_question(&question).unwrap();
        assert!(sealed.len() <= MAX_SEALED_BYTES);
    }

    proptest! {
        #[test]
        fn questions_and_answers_come_through(
            pid: i32, secret in proptest::collection::vec(any::<u8>(), 4..=256),
            at: Option<SocketAddr>, id: u64, tag: u16,
        ) {
            let seals = seals(KEY, 1, 2);
            let key = CancelKey::new(pid, &secret).unwrap();
            let sealed = seals.seal_question(&Question::Cancel(key.clone())).unwrap();
            let Ok(Question::Cancel(came)) = seals.open_question(&sealed) else { panic!() };
            prop_assert!(came.proves(&key));
            // A flow label and a scope do not travel.
            let at = at.map(|at| SocketAddr::new(at.ip(), at.port()));
            let sealed = seals.seal_question(&Question::Hello { at }).unwrap();
            let Ok(Question::Hello { at: came }) = seals.open_question(&sealed) else { panic!() };
            prop_assert_eq!(came, at);
            let answer = Answer::IAm { id: TaskId(id), tag: TaskTag::from_random(tag) };
            let sealed = seals.seal_answer(&answer).unwrap();
            prop_assert_eq!(seals.open_answer(&sealed), Ok(answer));
        }

        #[test]
        fn no_bytes_are_too_strange(bytes: Vec<u8>) {
            let _ = (Question::parse(&bytes), Answer::parse(&bytes));
            prop_assert!(seals(KEY, 1, 2).open_question(&bytes).is_err());
        }
    }
}
