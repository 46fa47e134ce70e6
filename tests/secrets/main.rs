//! Where credentials come from, with real parts: moto as Secrets Manager, PostgreSQL as itself, and with PAM as Aurora.

#![allow(clippy::unwrap_used)] // a test that can't go on says so by panicking

#[path = "../house/mod.rs"]
mod house;

mod aurora;
mod load;
mod lookup;
mod manager;
mod rotation;

use house::{Login, Refusal};

/// A login that must fail.
trait Refused {
    fn refusal(&self) -> Refusal;
}

impl Refused for Login {
    fn refusal(&self) -> Refusal {
        match self.try_connect() {
            Ok(_) => panic!("{} came in", self.user),
            Err(refusal) => refusal,
        }
    }
}
