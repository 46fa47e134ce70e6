//! Where a client comes from, as far as limits go.
//!
//! Knows addresses; does not know what is limited.

use std::net::{IpAddr, SocketAddr};

/// An IPv4 address, or the /64 of an IPv6 one: whoever has one address of that has them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin(Prefix);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Prefix {
    V4(u32),
    V6(u64),
}

impl Origin {
    pub fn of(address: SocketAddr) -> Origin {
        Origin(match address.ip().to_canonical() {
            IpAddr::V4(address) => Prefix::V4(address.to_bits()),
            IpAddr::V6(address) => Prefix::V6((address.to_bits() >> 64) as u64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_the_same_to_us() {
        let of = |text: &str| Origin::of(text.parse().unwrap());
        for (one, other, same) in [
            ("10.0.0.1:1", "10.0.0.1:2", true),
            ("10.0.0.1:1", "10.0.0.2:1", false),
            ("10.0.0.1:1", "[::ffff:10.0.0.1]:1", true),
            ("[2001:db8:0:1::1]:1", "[2001:db8:0:1:f::9]:1", true),
            ("[2001:db8:0:1::1]:1", "[2001:db8:0:2::1]:1", false),
        ] {
            assert_eq!(of(one) == of(other), same, "{one} {other}");
        }
    }
}
