//! The passwords of one rotating user: which of them logs Weir in, and which of them clients may come with.
//!
//! Pure but for the hashing: time is an argument. Knows what a rotation is; not where values come from.
//!
//! A rotation puts a new value under AWSPENDING, gives it to the database, tries it, and moves AWSCURRENT to it.
//! Between the second step and the last, AWSCURRENT is wrong already. With alternating users the value's name
//! changes, too: `app` and `app_clone` in turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::login::Password;
use super::pair::Pair;
use super::vault::ITERATIONS;
use crate::protocol::scram::{SALT_BYTES, Verifier};

/// Values that clients may come with at a time; more rotations than that within `old_password_ttl` are no rotations.
const MAX_OPEN: usize = 8;

/// What the rotation of alternating users puts behind every other name.
const CLONE: &str = "_clone";

/// One value of the secret.
#[derive(Debug)]
pub struct Version {
    /// The role that it is the password of.
    pub role: Arc<str>,
    pub password: Arc<Password>,
    verifier: Verifier,
}

/// What Secrets Manager has said, all at one time.
#[derive(Debug)]
pub struct Fetched {
    pub current: Pair,
    /// How long it has been there, where that is known.
    pub age: Option<Duration>,
    pub pending: Option<Pair>,
    pub previous: Option<Pair>,
}

/// Cheap to clone; never changed, only replaced.
#[derive(Clone, Debug)]
pub struct Ring {
    salt: [u8; SALT_BYTES],
    current: Arc<Version>,
    /// In the order in which logins to the database try them.
    tries: Vec<Arc<Version>>,
    /// What clients may come with: for good, or until then.
    open: Vec<(Arc<Version>, Option<Instant>)>,
}

impl Ring {
    /// Takes milliseconds for each password that is new. `salt` is for the first ring of a secret: later ones
    /// keep theirs, so that a client that was told the salt can be checked against what came afterwards.
    pub fn renew(
        old: Option<&Ring>,
        fetched: Fetched,
        salt: [u8; SALT_BYTES],
        now: Instant,
        old_password_ttl: Duration,
    ) -> Ring {
        let salt = old.map_or(salt, |old| old.salt);
        let version = |pair: Pair| {
            let known = old.and_then(|old| old.find(&pair));
            known.unwrap_or_else(|| Arc::new(Version::new(pair, &salt)))
        };
        let current = version(fetched.current);
        let previous = fetched.previous.map(version);
        let mut tries = vec![Arc::clone(&current)];
        tries.extend(fetched.pending.map(version));
        tries.extend(previous.clone());
        let mut open = vec![(Arc::clone(&current), None)];
        if let Some(old) = old {
            let unchanged = Arc::ptr_eq(&old.current, &current);
            // What the database has taken last goes on being first, until there is a newer value.
            if let Some(taken) = old.tries.first().filter(|_| unchanged) {
                tries.insert(0, Arc::clone(taken));
                open.push((Arc::clone(taken), None));
            }
            if !unchanged {
                tries.push(Arc::clone(&old.current));
            }
            let until = now + old_password_ttl;
            open.extend(
                old.open
                    .iter()
                    .map(|(version, end)| (Arc::clone(version), Some(end.unwrap_or(until)))),
            );
        }
        // Weir may have been started just after a rotation.
        let left = fetched
            .age
            .and_then(|age| old_password_ttl.checked_sub(age));
        if let (Some(previous), Some(left)) = (previous, left) {
            open.push((previous, Some(now + left)));
        }
        open.retain(|(_, end)| end.is_none_or(|end| now < end));
        let mut ring = Ring {
            salt,
            current,
            tries,
            open,
        };
        ring.tidy();
        ring
    }

    /// Each version once, at its best place.
    fn tidy(&mut self) {
        let mut seen: Vec<*const Version> = Vec::new();
        self.tries.retain(|version| first_time(&mut seen, version));
        seen.clear();
        self.open
            .retain(|(version, _)| first_time(&mut seen, version));
        self.open.truncate(MAX_OPEN);
    }

    /// The database has taken this one: it is tried first from here on, and clients may come with it.
    pub fn taken(&self, version: &Arc<Version>) -> Ring {
        let mut ring = self.clone();
        ring.tries.insert(0, Arc::clone(version));
        ring.open.insert(0, (Arc::clone(version), None));
        ring.tidy();
        ring
    }

    /// The next to try, of those that have not been.
    pub fn next(&self, tried: &[Arc<Version>]) -> Option<&Arc<Version>> {
        let is_new = |version: &&Arc<Version>| !tried.iter().any(|t| Arc::ptr_eq(t, version));
        self.tries.iter().find(is_new)
    }

    /// The one that is tried first.
    pub fn first(&self) -> &Arc<Version> {
        self.tries.first().unwrap_or(&self.current)
    }

    /// The name that clients know the user by, if no other was configured.
    pub fn name(&self) -> &str {
        let role = &*self.current.role;
        match role.strip_suffix(CLONE) {
            Some(name) if !name.is_empty() => name,
            Some(_) | None => role,
        }
    }

    /// Whether this is the name of one of the roles: programs take the name from the secret, too.
    pub fn has_role(&self, name: &str) -> bool {
        let tries = self.tries.iter();
        let roles = tries.chain(self.open.iter().map(|(version, _)| version));
        roles.map(|version| &*version.role).any(|role| role == name)
    }

    /// What a client's proof is checked against: all of one salt. At least one.
    pub fn verifiers(&self, now: Instant) -> Vec<Verifier> {
        self.open_at(now)
            .map(|version| version.verifier.clone())
            .collect()
    }

    pub fn passwords(&self, now: Instant) -> Vec<Arc<Password>> {
        self.open_at(now)
            .map(|version| Arc::clone(&version.password))
            .collect()
    }

    fn open_at(&self, now: Instant) -> impl Iterator<Item = &Arc<Version>> {
        let open = self.open.iter();
        open.filter(move |(_, end)| end.is_none_or(|end| now < end))
            .map(|(version, _)| version)
    }

    fn find(&self, pair: &Pair) -> Option<Arc<Version>> {
        let open = self.open.iter().map(|(version, _)| version);
        let mut known = self.tries.iter().chain(open);
        known.find(|version| version.is(pair)).cloned()
    }
}

fn first_time(seen: &mut Vec<*const Version>, version: &Arc<Version>) -> bool {
    let is_new = !seen.contains(&Arc::as_ptr(version));
    if is_new {
        seen.push(Arc::as_ptr(version));
    }
    is_new
}

impl Version {
    fn new(pair: Pair, salt: &[u8]) -> Version {
        let text = pair.password.expose().as_bytes();
        Version {
            role: pair.username.into(),
            verifier: Verifier::derive(text, salt, ITERATIONS),
            password: Arc::new(Password::new(pair.password)),
        }
    }

    fn is(&self, pair: &Pair) -> bool {
        *self.role == *pair.username && *self.password.text() == pair.password
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    const TTL: Duration = Duration::from_secs(900);

    fn pair(username: &str, password: &str) -> Pair {
        Pair {
            username: username.into(),
            password: Secret::new(password.into()),
        }
    }

    fn fetched(current: &str, pending: Option<&str>, previous: Option<&str>) -> Fetched {
        Fetched {
            current: pair("app", current),
            age: None,
            pending: pending.map(|text| pair("app", text)),
            previous: previous.map(|text| pair("app", text)),
        }
    }

    fn renew(old: Option<&Ring>, fetched: Fetched, now: Instant) -> Ring {
        Ring::renew(old, fetched, [7; SALT_BYTES], now, TTL)
    }

    fn text(version: &Version) -> &str {
        version.password.text().expose()
    }

    fn tries(ring: &Ring) -> Vec<&str> {
        ring.tries.iter().map(|version| text(version)).collect()
    }

    fn open(ring: &Ring, now: Instant) -> Vec<String> {
        let passwords = ring.passwords(now).into_iter();
        passwords
            .map(|password| password.text().expose().clone())
            .collect()
    }

    #[test]
    fn a_rotation_step_by_step() {
        let now = Instant::now();
        let before = renew(None, fetched("one", None, None), now);
        assert_eq!(
            (tries(&before), open(&before, now)),
            (vec!["one"], vec!["one".into()])
        );

        // The database has the new value already, AWSCURRENT is still the old one.
        let middle = renew(Some(&before), fetched("one", Some("two"), None), now);
        assert_eq!(tries(&middle), ["one", "two"]);
        assert_eq!(
            open(&middle, now),
            ["one"],
            "clients have nothing to do with a value that nobody has tried"
        );
        let two = Arc::clone(middle.next(std::slice::from_ref(&middle.tries[0])).unwrap());
        let middle = middle.taken(&two);
        assert_eq!(tries(&middle), ["two", "one"]);
        assert_eq!(open(&middle, now), ["two", "one"]);
        let same = renew(Some(&middle), fetched("one", Some("two"), None), now);
        assert_eq!(tries(&same), ["two", "one"], "what worked stays first");

        let after = renew(Some(&same), fetched("two", None, Some("one")), now);
        assert_eq!(tries(&after), ["two", "one"]);
        assert_eq!(open(&after, now), ["two", "one"]);
        assert!(
            Arc::ptr_eq(after.first(), &two),
            "its keys need not be made again"
        );
        let late = now + TTL;
        assert_eq!(open(&after, late), ["two"]);
        let later = renew(Some(&after), fetched("two", None, None), late);
        assert_eq!(open(&later, late), ["two"]);
        assert!(later.verifiers(late)[0].fits(b"two") && later.salt == before.salt);
    }

    #[test]
    fn started_just_after_a_rotation() {
        let now = Instant::now();
        let mut just = fetched("two", None, Some("one"));
        just.age = Some(Duration::from_secs(60));
        let ring = renew(None, just, now);
        assert_eq!(open(&ring, now), ["two", "one"]);
        assert_eq!(open(&ring, now + TTL - Duration::from_secs(60)), ["two"]);
        for age in [None, Some(TTL * 2)] {
            let mut long_ago = fetched("two", None, Some("one"));
            long_ago.age = age;
            assert_eq!(open(&renew(None, long_ago, now), now), ["two"], "{age:?}");
        }
    }

    #[test]
    fn alternating_users_are_one_user() {
        let now = Instant::now();
        let of = |username: &str, password: &str| Fetched {
            current: pair(username, password),
            age: None,
            pending: None,
            previous: None,
        };
        let first = renew(None, of("app", "one"), now);
        let second = renew(Some(&first), of("app_clone", "two"), now);
        assert_eq!((first.name(), second.name()), ("app", "app"));
        assert_eq!(&*second.first().role, "app_clone");
        assert!(
            second.has_role("app") && second.has_role("app_clone") && !first.has_role("app_clone")
        );
        assert_eq!(open(&second, now), ["two", "one"]);
        assert_eq!(tries(&second), ["two", "one"]);
        assert_eq!(renew(None, of("_clone", "x"), now).name(), "_clone");
    }

    #[test]
    fn nothing_grows_without_end() {
        let now = Instant::now();
        let mut ring = renew(None, fetched("0", None, None), now);
        for n in 1..20 {
            let fetch = fetched(&n.to_string(), Some("p"), Some("q"));
            ring = renew(Some(&ring), fetch, now);
        }
        assert!(
            ring.tries.len() <= 4 && ring.open.len() <= MAX_OPEN,
            "{ring:?}"
        );
        assert_eq!(open(&ring, now)[0], "19");
        assert!(!format!("{ring:?}").contains("\"19\""));
    }
}
