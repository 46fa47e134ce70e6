//! The header with which a load balancer introduces the client whose connection it passes on (PROXY protocol, version 2).
//!
//! Knows its form and who is meant; does not know who may send one.
//! Source: haproxy's `doc/proxy-protocol.txt`, section 2.2.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length of the rest.
const HEAD_BYTES: usize = 16;
/// Longest rest that is read. What NLB, haproxy and Envoy send is shorter than 300 bytes, certificates left out.
pub const MAX_REST_BYTES: usize = 4096;
/// The additional field with a checksum over the whole header.
const CRC32C: u8 = 0x03;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Introduced {
    Client(SocketAddr),
    /// The load balancer itself, as for a health check, or somebody whom it can't name.
    Itself,
}

/// Why a header is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadHeader {
    #[error("it does not begin with the signature of version 2")]
    Signature,
    #[error("its version and command are {0:#04x}, where 0x20 or 0x21 is expected")]
    Command(u8),
    #[error(
        "its address family and transport are {0:#04x}, where TCP over IPv4 or IPv6 is expected"
    )]
    Family(u8),
    #[error("it announces {0} bytes, more than {MAX_REST_BYTES}")]
    TooLong(usize),
    #[error("it is too short for what it announces")]
    TooShort,
    #[error("its checksum is wrong")]
    Checksum,
}

/// Why nobody was introduced.
#[derive(Debug, thiserror::Error)]
pub enum NotIntroduced {
    /// Nothing came at all.
    #[error("the connection was closed before anything came")]
    Left,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Bad(#[from] BadHeader),
}

/// Reads the header and not a byte more. Not cancel-safe.
pub async fn read(tcp: &mut TcpStream) -> Result<Introduced, NotIntroduced> {
    let mut header = vec![0; HEAD_BYTES];
    let first = tcp.read(&mut header).await?;
    if first == 0 {
        return Err(NotIntroduced::Left);
    }
    // Whoever speaks otherwise may be waiting for an answer: it gets one as soon as that is clear.
    let came = header.get(..first).unwrap_or_default();
    if came.iter().zip(&SIGNATURE).any(|(came, due)| came != due) {
        return Err(BadHeader::Signature.into());
    }
    tcp.read_exact(header.get_mut(first..).unwrap_or_default())
        .await?;
    let rest_bytes = rest_bytes(&header)?;
    header.resize(HEAD_BYTES + rest_bytes, 0);
    tcp.read_exact(header.get_mut(HEAD_BYTES..).unwrap_or_default())
        .await?;
    Ok(parse(&header)?)
}

/// How many bytes follow the first sixteen.
fn rest_bytes(header: &[u8]) -> Result<usize, BadHeader> {
    let (signature, rest) = header
        .split_first_chunk::<12>()
        .ok_or(BadHeader::TooShort)?;
    if *signature != SIGNATURE {
        return Err(BadHeader::Signature);
    }
    let (fixed, _) = rest.split_first_chunk::<4>().ok_or(BadHeader::TooShort)?;
    let [command, _, high, low] = *fixed;
    if !matches!(command, 0x20 | 0x21) {
        return Err(BadHeader::Command(command));
    }
    let bytes = usize::from(u16::from_be_bytes([high, low]));
    if bytes > MAX_REST_BYTES {
        return Err(BadHeader::TooLong(bytes));
    }
    Ok(bytes)
}

/// Understands a whole header.
pub fn parse(header: &[u8]) -> Result<Introduced, BadHeader> {
    let announced = rest_bytes(header)?;
    let rest = header.get(HEAD_BYTES..).ok_or(BadHeader::TooShort)?;
    if rest.len() != announced {
        return Err(BadHeader::TooShort);
    }
    let (command, family) = match header {
        [_, _, _, _, _, _, _, _, _, _, _, _, command, family, ..] => (*command, *family),
        _ => return Err(BadHeader::TooShort),
    };
    // LOCAL: whatever addresses follow are not to be looked at.
    if command == 0x20 {
        return Ok(Introduced::Itself);
    }
    let (introduced, fields) = match family {
        0x00 => return Ok(Introduced::Itself),
        0x11 => {
            let (addresses, fields) = rest.split_first_chunk::<12>().ok_or(BadHeader::TooShort)?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *addresses;
            let port = u16::from_be_bytes([high, low]);
            (SocketAddr::from((Ipv4Addr::new(a, b, c, d), port)), fields)
        }
        0x21 => {
            let (addresses, fields) = rest.split_first_chunk::<36>().ok_or(BadHeader::TooShort)?;
            let (source, others) = addresses
                .split_first_chunk::<16>()
                .ok_or(BadHeader::TooShort)?;
            let port = others
                .get(16..18)
                .and_then(|port| port.try_into().ok())
                .map(u16::from_be_bytes)
                .ok_or(BadHeader::TooShort)?;
            (SocketAddr::from((Ipv6Addr::from(*source), port)), fields)
        }
        other => return Err(BadHeader::Family(other)),
    };
    check_fields(header, fields)?;
    Ok(Introduced::Client(introduced))
}

/// The additional fields must fill what is left; of all of them only the checksum concerns us.
fn check_fields(header: &[u8], mut fields: &[u8]) -> Result<(), BadHeader> {
    while !fields.is_empty() {
        let (&[kind, high, low], rest) =
            fields.split_first_chunk::<3>().ok_or(BadHeader::TooShort)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, behind) = rest.split_at_checked(length).ok_or(BadHeader::TooShort)?;
        if kind == CRC32C {
            let place = header.len() - behind.len() - length;
            let told: [u8; 4] = value.try_into().map_err(|_| BadHeader::Checksum)?;
            if crc32c(header, place..place + length) != u32::from_be_bytes(told) {
                return Err(BadHeader::Checksum);
            }
        }
        fields = behind;
    }
    Ok(())
}

/// CRC-32C (RFC 3720, appendix B.4) with the bytes at `zeroed` taken as zero.
fn crc32c(bytes: &[u8], zeroed: std::ops::Range<usize>) -> u32 {
    let mut crc = u32::MAX;
    for (place, byte) in bytes.iter().enumerate() {
        let byte = if zeroed.contains(&place) { 0 } else { *byte };
        crc ^= u32::from(byte);
        for _ in 0..8 {
            let carry = crc & 1;
            crc >>= 1;
            if carry == 1 {
                crc ^= 0x82F6_3B78;
            }
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        let head = [&SIGNATURE[..], &[command, family], &length].concat();
        [&head[..], rest].concat()
    }

    const FOUR: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x1F, 0x90, 0x15, 0x38];

    fn six() -> Vec<u8> {
        let source: Ipv6Addr = "2001:db8::7".parse().unwrap();
        [&source.octets()[..], &[0; 16], &[0x1F, 0x90, 0, 1]].concat()
    }

    #[test]
    fn clients_are_introduced() {
        let client = |text: &str| Ok(Introduced::Client(text.parse().unwrap()));
        for (bytes, outcome) in [
            (header(0x21, 0x11, &FOUR), client("192.0.2.7:8080")),
            (header(0x21, 0x21, &six()), client("[2001:db8::7]:8080")),
            // A field as AWS sends it, and one that says nothing.
            (
                header(
                    0x21,
                    0x11,
                    &[&FOUR[..], &[0xEA, 0, 2, 1, b'v', 4, 0, 0]].concat(),
                ),
                client("192.0.2.7:8080"),
            ),
            (header(0x20, 0x00, &[]), Ok(Introduced::Itself)),
            (header(0x20, 0x11, &FOUR), Ok(Introduced::Itself)),
            (header(0x20, 0x11, b"anything"), Ok(Introduced::Itself)),
            (header(0x21, 0x00, &[]), Ok(Introduced::Itself)),
            (header(0x21, 0x12, &FOUR), Err(BadHeader::Family(0x12))),
            (header(0x21, 0x31, &[0; 216]), Err(BadHeader::Family(0x31))),
            (header(0x22, 0x11, &FOUR), Err(BadHeader::Command(0x22))),
            (header(0x11, 0x11, &FOUR), Err(BadHeader::Command(0x11))),
            (header(0x21, 0x11, &FOUR[..11]), Err(BadHeader::TooShort)),
            (header(0x21, 0x21, &FOUR), Err(BadHeader::TooShort)),
            (
                header(0x21, 0x11, &[&FOUR[..], &[4, 0]].concat()),
                Err(BadHeader::TooShort),
            ),
            (
                header(0x21, 0x11, &[&FOUR[..], &[4, 0, 1]].concat()),
                Err(BadHeader::TooShort),
            ),
            (
                header(0x21, 0x11, &[0; 4097]),
                Err(BadHeader::TooLong(4097)),
            ),
            (
                b"PROXY TCP4 192.0.2.7 10.0.0.1 8080 5432\r\n".to_vec(),
                Err(BadHeader::Signature),
            ),
        ] {
            assert_eq!(parse(&bytes), outcome, "{bytes:02x?}");
        }
    }

    #[test]
    fn the_checksum_is_checked() {
        // RFC 3720, B.4: 32 bytes of zeros, and of ones.
        assert_eq!(crc32c(&[0; 32], 0..0), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32], 0..0), 0x62A8_AB43);
        let with = |sum: [u8; 4]| header(0x21, 0x11, &[&FOUR[..], &[3, 0, 4], &sum].concat());
        let sum = crc32c(&with([0; 4]), 0..0).to_be_bytes();
        assert!(parse(&with(sum)).is_ok());
        for bit in 0..32 {
            let wrong = (u32::from_be_bytes(sum) ^ (1 << bit)).to_be_bytes();
            assert_eq!(parse(&with(wrong)), Err(BadHeader::Checksum));
        }
        let mut elsewhere = with(sum);
        elsewhere[17] ^= 1;
        assert_eq!(parse(&elsewhere), Err(BadHeader::Checksum));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(command in 0x1Fu8..0x23, family: u8, rest: Vec<u8>, cut in 0usize..64) {
            let whole = header(command, family, &rest);
            let _ = parse(&whole);
            let cut = whole.len().saturating_sub(cut);
            prop_assert!(cut == whole.len() || parse(&whole[..cut]).is_err());
        }
    }

    #[tokio::test]
    async fn not_a_byte_more_is_read_than_the_header() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (mut tcp, _) = listener.accept().await.unwrap();
        let bytes = [&header(0x21, 0x11, &FOUR)[..], b"startup"].concat();
        tokio::spawn(async move {
            for byte in bytes {
                client.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let introduced = read(&mut tcp).await.unwrap();
        assert_eq!(
            introduced,
            Introduced::Client("192.0.2.7:8080".parse().unwrap())
        );
        let mut left = Vec::new();
        tcp.read_to_end(&mut left).await.unwrap();
        assert_eq!(left, b"startup");
    }
}
