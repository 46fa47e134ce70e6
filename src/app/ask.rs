//! Asks a running Weir over its HTTP listener, as the demo and the container's health check do.
//!
//! Knows as much HTTP as Weir's own answers need; nothing of what they mean.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An answer of /pools is some hundred bytes a pool.
const MOST_ANSWER_BYTES: u64 = 1 << 20;

/// Whether the Weir that listens on `http` answers /health: the reason if not.
pub async fn alive(http: SocketAddr) -> std::io::Result<()> {
    match get(reachable(http), "/health").await? {
        (200, _) => Ok(()),
        (status, _) => Err(std::io::Error::other(format!("/health answers {status}"))),
    }
}

/// A listener on every address is reached on loopback.
fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        named => named,
    };
    SocketAddr::new(ip, listener.port())
}

/// One GET: (status, body). A client library would be a dependency for these ten lines. Cancel-safe: nothing is kept.
pub async fn get(http: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(http).await?;
        stream
            .write_all(
                format!("GET {path} HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n")
                    .as_bytes(),
            )
            .await?;
        let mut answer = String::new();
        stream
            .take(MOST_ANSWER_BYTES)
            .read_to_string(&mut answer)
            .await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(Duration::from_secs(2), exchange)
        .await
        .map_err(|_| std::io::ErrorKind::TimedOut)??;
    parse(&answer).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    if !head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        return Some((status, body.to_owned()));
    }
    let (mut whole, mut rest) = (String::new(), body);
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some((status, whole));
        }
        whole.push_str(after.get(..size)?);
        rest = after.get(size..)?.strip_prefix("\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_reached_on_loopback() {
        for (listener, expected) in [
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("[::]:8080", "[::1]:8080"),
            ("10.0.0.1:80", "10.0.0.1:80"),
        ] {
            assert_eq!(
                reachable(listener.parse().unwrap()),
                expected.parse().unwrap()
            );
        }
    }

    #[test]
    fn answers_are_read_whole_or_in_chunks() {
        let plain = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let chunked = "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nnot\r\n4\r\n yet\r\n0\r\n\r\n";
        let cases = [
            (plain, Some((200, "ok"))),
            (chunked, Some((503, "not yet"))),
            ("", None),
            ("HTTP/1.1 200 OK\r\n", None),
        ];
        for (answer, expected) in cases {
            assert_eq!(
                parse(answer),
                expected.map(|(s, b)| (s, b.to_owned())),
                "{answer:?}"
            );
        }
        assert_eq!(parse(&chunked[..chunked.len() - 8]), None);
    }
}
