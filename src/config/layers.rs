//! The layers together: defaults < file < environment.
//!
//! Knows names and places, not what values mean.

use std::collections::BTreeMap;

use super::error::{ConfigError, Place, nearest};
use super::given::{Given, Raw, Values};
use super::known::Known;

/// Everything that was given, the environment over the file.
pub struct Layers {
    /// All but the lists.
    pub house: Values,
    pub users: Vec<Values>,
    /// Of `[[auth.iam.map]]`.
    pub map: Vec<Values>,
}

impl Layers {
    /// Sections of which there may be several, each with values of its own.
    pub const LISTS: [&str; 2] = ["users", "auth.iam.map"];

    pub fn new() -> Self {
        Self {
            house: Values::new(Place::Builtin),
            users: Vec::new(),
            map: Vec::new(),
        }
    }

    /// The entries of one of `LISTS`.
    pub fn list(&mut self, name: &str) -> &mut Vec<Values> {
        if name == "users" {
            &mut self.users
        } else {
            &mut self.map
        }
    }

    /// Lays the environment over what the file gave. An empty variable counts as not set, since task
    /// definitions can't leave one out; only `WEIR__...` can make a text empty.
    pub fn environment(
        &mut self,
        known: &Known,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        let env: BTreeMap<String, String> = env
            .filter(|(name, value)| name.starts_with("WEIR__") || !value.is_empty())
            .collect();
        let (spelled, env): (BTreeMap<_, _>, BTreeMap<_, _>) = env
            .into_iter()
            .partition(|(name, _)| name.starts_with("WEIR__"));
        refuse_slips(known, env.keys())?;
        self.variables(known, &env)?;
        self.spelled_out(known, spelled)
    }

    /// The variables with names of their own.
    fn variables(
        &mut self,
        known: &Known,
        env: &BTreeMap<String, String>,
    ) -> Result<(), ConfigError> {
        let mut user = Values::new(Place::Builtin);
        for option in &known.options {
            let Some((name, value)) = option.env.iter().find_map(|n| env.get_key_value(*n)) else {
                continue;
            };
            let place = Place::Environment(name.clone());
            let given = Given {
                raw: Raw::Text(value.clone()),
                place: place.clone(),
            };
            if option.key.starts_with("users.") {
                user.place = place;
                user.set(option.key, given);
            } else {
                self.house.set(option.key, given);
            }
        }
        match (user.get("users.name"), user.get("users.password")) {
            (None, None) => Ok(()),
            (Some(_), _) => {
                self.one_user(user);
                Ok(())
            }
            (None, Some(password)) => Err(ConfigError::Contradiction {
                place: password.place.clone(),
                key: "users.password".into(),
                problem: "is of no user: set AURORA_USER too".into(),
            }),
        }
    }

    /// The user of the environment is one more, or a new password for one of the file's.
    fn one_user(&mut self, user: Values) {
        let name = |u: &Values| u.get("users.name").map(|g| g.raw.clone());
        let Some(entry) = self.users.iter_mut().find(|u| name(u) == name(&user)) else {
            self.users.push(user);
            return;
        };
        if let Some(password) = user.get("users.password") {
            entry.remove("users.verifier");
            entry.remove("users.secret_arn");
            entry.set("users.password", password.clone());
        }
    }

    /// `WEIR__POOL__MAX_CONNECTIONS`, and `WEIR__USERS__0__PASSWORD` for a user of the file or the next one.
    fn spelled_out(
        &mut self,
        known: &Known,
        variables: BTreeMap<String, String>,
    ) -> Result<(), ConfigError> {
        let mut entries: BTreeMap<(&str, usize), Vec<(String, Given)>> = BTreeMap::new();
        for (name, value) in variables {
            let place = Place::Environment(name.clone());
            let path = name
                .strip_prefix("WEIR__")
                .unwrap_or(&name)
                .to_ascii_lowercase()
                .replace("__", ".");
            let (list, number, key) = numbered(path);
            if list.is_some() != number.is_some() || !known.has_key(&key) {
                return Err(unknown_variable(known, place, &name, &key));
            }
            let given = Given {
                raw: Raw::Text(value),
                place,
            };
            match list.zip(number) {
                Some(of) => entries.entry(of).or_default().push((key, given)),
                None => self.contested(&key, given)?,
            }
        }
        for ((list, number), values) in entries {
            for (key, given) in values {
                self.set_entry(list, number, &key, given)?;
            }
        }
        Ok(())
    }

    /// Two variables for one key must agree; over the file the environment wins.
    fn contested(&mut self, key: &str, given: Given) -> Result<(), ConfigError> {
        if let Some(other) = self.house.get(key)
            && matches!(other.place, Place::Environment(_))
            && other.raw != given.raw
        {
            return Err(ConfigError::Contradiction {
                problem: format!("is set to something else by the {}", other.place),
                place: given.place,
                key: key.to_owned(),
            });
        }
        self.house.set(key, given);
        Ok(())
    }

    fn set_entry(
        &mut self,
        list: &str,
        number: usize,
        key: &str,
        given: Given,
    ) -> Result<(), ConfigError> {
        let entries = self.list(list);
        let count = entries.len();
        if number == count {
            entries.push(Values::new(given.place.clone()));
        }
        let Some(entry) = entries.get_mut(number) else {
            return Err(ConfigError::Contradiction {
                place: given.place,
                key: key.to_owned(),
                problem: format!(
                    "is of number {number}, but the next one is {count} (they count from 0)"
                ),
            });
        };
        entry.set(key, given);
        Ok(())
    }
}

/// `users.0.password` as its list, number and key; a key of no list is itself.
fn numbered(path: String) -> (Option<&'static str>, Option<usize>, String) {
    let inside = |list: &&str| {
        let rest = path.strip_prefix(*list)?;
        rest.strip_prefix('.')
    };
    let Some(list) = Layers::LISTS
        .into_iter()
        .find(|list| inside(list).is_some())
    else {
        return (None, None, path);
    };
    match inside(&list).and_then(|rest| rest.split_once('.')) {
        Some((number, key)) => (Some(list), number.parse().ok(), format!("{list}.{key}")),
        None => (Some(list), None, path),
    }
}

fn unknown_variable(known: &Known, place: Place, name: &str, key: &str) -> ConfigError {
    match known.refuse(key, place.clone()) {
        ConfigError::UnknownKey { nearest, .. } => {
            let number = name.split("__").find(|part| part.parse::<usize>().is_ok());
            let number = number.unwrap_or("0");
            ConfigError::UnknownVariable {
                place,
                nearest: nearest.map(|key| variable(&key, number)),
            }
        }
        other => other,
    }
}

/// The variable's name for a key.
fn variable(key: &str, number: &str) -> String {
    let mut path = key.to_owned();
    for list in Layers::LISTS {
        path = path.replacen(&format!("{list}."), &format!("{list}.{number}."), 1);
    }
    format!("WEIR__{}", path.replace('.', "__").to_ascii_uppercase())
}

/// `WEIR_LISTN` is refused; a stranger such as Kubernetes' `WEIR_SERVICE_HOST` isn't.
fn refuse_slips<'a>(
    known: &Known,
    names: impl Iterator<Item = &'a String>,
) -> Result<(), ConfigError> {
    let ours: Vec<&str> = known
        .options
        .iter()
        .flat_map(|o| o.env.iter().copied())
        .filter(|name| name.starts_with("WEIR_"))
        .chain(["WEIR_CONFIG"])
        .collect();
    for name in names.filter(|n| n.starts_with("WEIR_") && !ours.contains(&n.as_str())) {
        if let Some(near) = nearest(name, ours.iter().copied()) {
            return Err(ConfigError::UnknownVariable {
                place: Place::Environment(name.clone()),
                nearest: Some(near.to_owned()),
            });
        }
    }
    Ok(())
}
