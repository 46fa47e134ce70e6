//! What a text of statements may do to its session: the words for it.
//!
//! Knows which of it stays; neither how it is found nor what Weir makes of it.

/// A set of things that a text may do to its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects(u32);

impl Effects {
    pub const NONE: Effects = Effects(0);
    /// A setting is set for the session, under a name that is told.
    pub const SETTING: Effects = Effects(1);
    /// SQL PREPARE.
    pub const PREPARE: Effects = Effects(1 << 1);
    /// DECLARE ... WITH HOLD.
    pub const HELD_CURSOR: Effects = Effects(1 << 2);
    pub const LISTEN: Effects = Effects(1 << 3);
    /// LOAD, connections of dblink and their like: what DISCARD ALL leaves as it is.
    pub const LOAD: Effects = Effects(1 << 4);
    /// Temporary tables, views, sequences.
    pub const TEMPORARY: Effects = Effects(1 << 5);
    /// Advisory locks that outlive the transaction.
    pub const ADVISORY_LOCK: Effects = Effects(1 << 6);
    /// DO, CALL and functions that run a text: anything may happen inside.
    pub const ROUTINE: Effects = Effects(1 << 7);
    /// The text could not be understood with certainty.
    pub const UNSURE: Effects = Effects(1 << 8);
    /// A setting goes back to what it was at the session's start, or to the server's own; its name is told.
    pub const RESETS: Effects = Effects(1 << 9);
    pub const RESET_ALL: Effects = Effects(1 << 10);
    /// The role or the session's user is set or reset; told as a setting as well.
    pub const ROLE: Effects = Effects(1 << 11);
    /// A setting is set whose name is not told: the text doesn't show it, or shows too many.
    pub const UNSEEN_SETTING: Effects = Effects(1 << 12);
    /// SET SEED, setseed: no value of it can be asked for, and nothing undoes it.
    pub const SEED: Effects = Effects(1 << 13);
    /// The search path is set to what the text doesn't show: the temporary schema may be on it.
    pub const PATH_UNSEEN: Effects = Effects(1 << 14);

    /// Reads what nextval left in the session: currval, lastval.
    pub const SEQUENCE_READ: Effects = Effects(1 << 15);
    /// nextval or setval, by name.
    pub const NEXTVAL: Effects = Effects(1 << 16);
    pub const UNLISTEN: Effects = Effects(1 << 17);
    /// NOTIFY or pg_notify.
    pub const NOTIFY: Effects = Effects(1 << 18);
    /// SQL EXECUTE, in EXPLAIN and CREATE TABLE AS too.
    pub const EXECUTE: Effects = Effects(1 << 19);
    pub const DEALLOCATE: Effects = Effects(1 << 20);
    /// Something of the session may be given up: it may be clean again.
    pub const FREES: Effects = Effects(1 << 21);
    /// The whole text is DISCARD ALL.
    pub const DISCARD_ALL: Effects = Effects(1 << 22);
    /// Any other DISCARD, alone or among other statements.
    pub const DISCARD_IN_TEXT: Effects = Effects(1 << 23);
    /// The whole text does nothing but undo what a session has done, as drivers' pools do between two users.
    pub const RESET_SESSION: Effects = Effects(1 << 24);
    /// CREATE DATABASE, DROP DATABASE, ALTER DATABASE that moves or renames: nobody else may be connected to the
    /// databases told.
    pub const DATABASE_DDL: Effects = Effects(1 << 25);
    /// CREATE, ALTER, DROP of what is not temporary, and DO: other texts may mean something else from then on.
    pub const DEFINES: Effects = Effects(1 << 26);
    /// pg_terminate_backend: it may be the server's own end.
    pub const ENDS_SERVERS: Effects = Effects(1 << 27);

    /// What stays in the session, so that no other client may have the connection.
    const STAYING: u32 = (Effects::SEQUENCE_READ.0 - 1) | Effects::NEXTVAL.0;

    pub const fn with(self, other: Effects) -> Effects {
        Effects(self.0 | other.0)
    }

    pub const fn without(self, other: Effects) -> Effects {
        Effects(self.0 & !other.0)
    }

    /// Whether there is any of `other`.
    pub const fn has(self, other: Effects) -> bool {
        self.0 & other.0 != 0
    }

    /// Only those that stay in the session.
    pub const fn staying(self) -> Effects {
        Effects(self.0 & Effects::STAYING)
    }

    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_told_from_what_does_not() {
        assert!(
            Effects::DISCARD_ALL
                .with(Effects::SEQUENCE_READ)
                .staying()
                .is_none()
        );
        assert!(Effects::SETTING.staying().has(Effects::SETTING));
        assert!(Effects::UNSURE.staying().has(Effects::UNSURE));
        assert!(Effects::PATH_UNSEEN.staying().has(Effects::PATH_UNSEEN));
    }
}
