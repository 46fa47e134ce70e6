//! Which keys there are, and which will be.
//!
//! Knows names only.

use super::error::{ConfigError, Place, nearest};
use super::options;
use super::section::Opt;

/// Keys of the design that a later version will know: naming one today must not be ignored in silence.
/// A dot at the end means all keys of that section. The second text follows "remove it and".
const LATER: [(&str, Option<&str>); 2] = [
    (
        "listen.endpoint",
        Some("use `listen.writer` and `listen.reader`"),
    ),
    ("read_only_transactions", None),
];

pub struct Known {
    pub options: Vec<Opt>,
}

impl Known {
    pub fn new() -> Self {
        let options = options::sections()
            .into_iter()
            .flat_map(|(_, _, options)| options)
            .collect();
        Self { options }
    }

    pub fn has_key(&self, key: &str) -> bool {
        self.options.iter().any(|o| o.key == key)
    }

    pub fn has_section(&self, name: &str) -> bool {
        let inside = |key: &str| {
            key.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('.'))
        };
        self.options.iter().any(|o| inside(o.key))
    }

    fn sections(&self) -> impl Iterator<Item = &'static str> {
        self.options
            .iter()
            .filter_map(|o| o.key.rsplit_once('.').map(|(section, _)| section))
    }

    /// The error for a key or section that isn't known.
    pub fn refuse(&self, key: &str, place: Place) -> ConfigError {
        if let Some(instead) = later(key) {
            return ConfigError::NotYet {
                place,
                key: key.to_owned(),
                instead,
            };
        }
        let section = key.rsplit_once('.').map(|(section, _)| section);
        let mut known: Vec<String> = self
            .options
            .iter()
            .filter(|o| o.key.rsplit_once('.').map(|(s, _)| s) == section)
            .map(|o| o.key.to_owned())
            .collect();
        if section.is_none() {
            known.extend(self.sections().map(|s| format!("[{s}]")));
            known.dedup();
        }
        let near = nearest(key, self.options.iter().map(|o| o.key))
            .or_else(|| nearest(key, self.sections()));
        ConfigError::UnknownKey {
            place,
            key: key.to_owned(),
            nearest: near.map(str::to_owned),
            known,
        }
    }
}

fn later(key: &str) -> Option<Option<&'static str>> {
    let last = key.rsplit('.').next().unwrap_or(key);
    LATER
        .iter()
        .find(|(name, _)| match name.strip_suffix('.') {
            Some(section) => key == section || key.starts_with(name),
            None if name.contains('.') => key == *name,
            None => last == *name,
        })
        .map(|(_, instead)| *instead)
}
