//! Random bytes for nonces and keys: the system's, drawn some at a time, since each draw is a system call.
//!
//! Knows that none is given out twice; does not know what they are for.

use std::cell::RefCell;

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::{Zeroize, Zeroizing};

/// The system gives no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoRandomness;

/// A draw: enough for about ten logins.
const DRAWN_BYTES: usize = 256;

thread_local! {
    static DRAWN: RefCell<Drawn> = RefCell::default();
}

/// One thread's.
struct Drawn {
    bytes: Zeroizing<[u8; DRAWN_BYTES]>,
    /// So many, at the front, have not been given out; the others are wiped.
    left: usize,
}

/// Fills it with random bytes.
pub fn fill(into: &mut [u8]) -> Result<(), NoRandomness> {
    DRAWN.with_borrow_mut(|drawn| drawn.give(into))
}

impl Default for Drawn {
    fn default() -> Drawn {
        Drawn {
            bytes: Zeroizing::new([0; DRAWN_BYTES]),
            left: 0,
        }
    }
}

impl Drawn {
    fn give(&mut self, into: &mut [u8]) -> Result<(), NoRandomness> {
        if into.len() > DRAWN_BYTES {
            return draw(into);
        }
        if into.len() > self.left {
            draw(&mut *self.bytes)?;
            self.left = DRAWN_BYTES;
        }
        let keep = self.left - into.len();
        let given = self.bytes.get_mut(keep..self.left).ok_or(NoRandomness)?;
        into.copy_from_slice(given);
        given.zeroize();
        self.left = keep;
        Ok(())
    }
}

fn draw(into: &mut [u8]) -> Result<(), NoRandomness> {
    SystemRandom::new().fill(into).map_err(|_| NoRandomness)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_bytes_are_given_out_twice() {
        let mut seen = HashSet::new();
        for round in 0..1000 {
            let mut bytes = vec![0; 16 + round % (2 * DRAWN_BYTES)];
            fill(&mut bytes).unwrap();
            for part in bytes.chunks_exact(16) {
                assert!(seen.insert(part.to_vec()));
            }
        }
    }

    #[test]
    fn what_was_given_out_is_not_kept() {
        let mut drawn = Drawn::default();
        let mut bytes = [0; 24];
        for _ in 0..3 {
            drawn.give(&mut bytes).unwrap();
        }
        let (waiting, given) = drawn.bytes.split_at(drawn.left);
        assert_eq!(
            (waiting.len(), given),
            (DRAWN_BYTES - 3 * 24, &[0; 3 * 24][..])
        );
        assert!(waiting.iter().any(|&byte| byte != 0));
    }
}
