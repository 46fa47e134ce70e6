//! The fleet's own hop: one question, one answer, one connection.
//!
//! Knows sockets and lengths; what is said, `hop` knows.

use std::io;
use std::net::SocketAddr;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::hop::{Answer, MAX_SEALED_BYTES, NotOfTheFleet, Question, RANDOM_BYTES, Seals};
use crate::config::Secret;

/// Why a task was not asked, or has not answered.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Stranger(NotOfTheFleet),
    #[error("the system has no randomness to give")]
    Chance,
}

/// Asks; the caller sees to it that it does not take too long. Cancel-safe, as far as anything asked can be unasked.
pub async fn ask(
    address: SocketAddr,
    key: &Secret<String>,
    question: &Question,
) -> Result<Answer, LineError> {
    let own = random()?;
    let mut tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let mut theirs = [0; RANDOM_BYTES];
    tcp.read_exact(&mut theirs).await?;
    let seals = Seals::new(key, &theirs, &own).ok_or(LineError::Chance)?;
    let sealed = seals.seal_question(question).ok_or(LineError::Chance)?;
    send(&mut tcp, &own, &sealed).await?;
    let answer = receive(&mut tcp).await?;
    seals.open_answer(&answer).map_err(LineError::Stranger)
}

/// A question that somebody with the key has asked, to be answered.
pub struct Asked {
    tcp: TcpStream,
    seals: Seals,
}

/// Hears what somebody who dialled us asks.
pub async fn hear(
    mut tcp: TcpStream,
    key: &Secret<String>,
) -> Result<(Question, Asked), LineError> {
    tcp.set_nodelay(true)?;
    let own = random()?;
    tcp.write_all(&own).await?;
    let mut theirs = [0; RANDOM_BYTES];
    tcp.read_exact(&mut theirs).await?;
    let seals = Seals::new(key, &own, &theirs).ok_or(LineError::Chance)?;
    let sealed = receive(&mut tcp).await?;
    let question = seals.open_question(&sealed).map_err(LineError::Stranger)?;
    Ok((question, Asked { tcp, seals }))
}

impl Asked {
    pub async fn answer(mut self, answer: &Answer) -> Result<(), LineError> {
        let sealed = self.seals.seal_answer(answer).ok_or(LineError::Chance)?;
        send(&mut self.tcp, &[], &sealed).await
    }
}

fn random() -> Result<[u8; RANDOM_BYTES], LineError> {
    let mut bytes = [0; RANDOM_BYTES];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map(|()| bytes).map_err(|_| LineError::Chance)
}

async fn send(tcp: &mut TcpStream, ahead: &[u8], sealed: &[u8]) -> Result<(), LineError> {
    let length = u16::try_from(sealed.len()).map_err(io::Error::other)?;
    let bytes = [ahead, &length.to_be_bytes(), sealed].concat();
    Ok(tcp.write_all(&bytes).await?)
}

async fn receive(tcp: &mut TcpStream) -> Result<Vec<u8>, LineError> {
    let length = usize::from(tcp.read_u16().await?);
    if length > MAX_SEALED_BYTES {
        return Err(LineError::Stranger(NotOfTheFleet));
    }
    let mut sealed = vec![0; length];
    tcp.read_exact(&mut sealed).await?;
    Ok(sealed)
}
