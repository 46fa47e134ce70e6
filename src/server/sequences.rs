//! Whose values of sequences a connection may have: nextval leaves them there, for currval and lastval to find.
//!
//! Knows who has had the connection since they were last discarded; not who used a sequence.

/// The sessions that have had a connection since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Users {
    #[default]
    None,
    One(Turn),
    Several,
}

/// A session, and how many connections it has borrowed: what it has left on one is outdated by the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    pub session: u64,
    pub number: u64,
}

impl Users {
    /// Whether all that they can have left is the session's own, and the latest it has.
    pub fn are_only(self, turn: Turn) -> bool {
        match self {
            Users::None => true,
            Users::One(last) => {
                last.session == turn.session && last.number.checked_add(1) == Some(turn.number)
            }
            Users::Several => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_finds_its_own_unless_it_was_elsewhere_since() {
        let turn = |session, number| Turn { session, number };
        assert!(Users::None.are_only(turn(1, 5)));
        assert!(Users::One(turn(1, 4)).are_only(turn(1, 5)));
        assert!(!Users::One(turn(1, 3)).are_only(turn(1, 5)), "elsewhere");
        assert!(!Users::One(turn(2, 4)).are_only(turn(1, 5)), "another's");
        assert!(!Users::Several.are_only(turn(1, 5)));
    }
}
