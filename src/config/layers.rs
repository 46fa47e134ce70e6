//! The layers together: defaults < file < environment.
//!
//! Knows names and places, not what values mean.

use std::collections::BTreeMap;

use super::error::{ConfigError, Place, nearest};
use super::given::{Given, Raw, Values};
use super::known::Known;

/// Everything that was given, the environment over the file.
pub struct Layers {
    /// All but users.
    pub house: Values,
    pub users: Vec<Values>,
}

impl Layers {
    pub fn new() -> Self {
        Self {
            house: Values::new(Place::Builtin),
            users: Vec::new(),
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
        let mut users: BTreeMap<usize, Vec<(String, Given)>> = BTreeMap::new();
        for (name, value) in variables {
            let place = Place::Environment(name.clone());
            let path = name
                .strip_prefix("WEIR__")
                .unwrap_or(&name)
                .to_ascii_lowercase()
                .replace("__", ".");
            let (number, key) = match path.strip_prefix("users.").and_then(|r| r.split_once('.')) {
                Some((number, key)) => (number.parse().ok(), format!("users.{key}")),
                None => (None, path),
            };
            let misplaced = key.starts_with("users.") && number.is_none();
            if misplaced || !known.has_key(&key) {
                return Err(unknown_variable(known, place, &name, &key));
            }
            let raw = Raw::Text(value);
            match number {
                Some(number) => users
                    .entry(number)
                    .or_default()
                    .push((key, Given { raw, place })),
                None => self.contested(&key, Given { raw, place })?,
            }
        }
        for (number, values) in users {
            for (key, given) in values {
                self.set_user(number, &key, given)?;
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

    fn set_user(&mut self, number: usize, key: &str, given: Given) -> Result<(), ConfigError> {
        let count = self.users.len();
        if number == count {
            self.users.push(Values::new(given.place.clone()));
        }
        let Some(user) = self.users.get_mut(number) else {
            return Err(ConfigError::Contradiction {
                place: given.place,
                key: key.to_owned(),
                problem: format!(
                    "is of user {number}, but the next one is {count} (they count from 0)"
                ),
            });
        };
        user.set(key, given);
        Ok(())
    }
}

fn unknown_variable(known: &Known, place: Place, name: &str, key: &str) -> ConfigError {
    match known.refuse(key, place.clone()) {
        ConfigError::UnknownKey { nearest, .. } => {
            let number = name
                .strip_prefix("WEIR__USERS__")
                .and_then(|rest| rest.split_once("__"))
                .map_or("0", |(number, _)| number);
            ConfigError::UnknownVariable {
                place,
                nearest: nearest.map(|key| variable(&key, number)),
            }
        }
        other => other,
    }
}

/// The variable's name for a key.
fn variable(key: &str, user: &str) -> String {
    let path = key.replacen("users.", &format!("users.{user}."), 1);
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
