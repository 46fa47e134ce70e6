//! The TOML layer: a file's text to values with their lines.
//!
//! Knows which keys exist, not what their values mean.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue};

use super::error::{ConfigError, Place};
use super::given::{Given, Raw, Values};
use super::known::Known;
use super::layers::Layers;

/// Reads `text` into `layers`, over what is there.
pub fn read(
    text: &str,
    path: &Path,
    known: &Known,
    layers: &mut Layers,
) -> Result<(), ConfigError> {
    let file = File { text, path, known };
    // toml's own rendering quotes the line, which may hold a password: only its words are used.
    let document = DeTable::parse(text).map_err(|e| ConfigError::Syntax {
        place: file.place(e.span().map_or(0, |s| s.start)),
        problem: e.message().replace('\n', "; "),
    })?;
    file.table("", document.get_ref(), layers)
}

struct File<'a> {
    text: &'a str,
    path: &'a Path,
    known: &'a Known,
}

type Key<'i> = Spanned<DeString<'i>>;
type Value<'i> = Spanned<DeValue<'i>>;

impl File<'_> {
    /// A section and those inside it; `prefix` is its name and a dot.
    fn table(
        &self,
        prefix: &str,
        table: &DeTable<'_>,
        layers: &mut Layers,
    ) -> Result<(), ConfigError> {
        for (key, value) in in_order(table) {
            let full = format!("{prefix}{}", key.get_ref());
            match value.get_ref() {
                DeValue::Array(entries) if Layers::LISTS.contains(&full.as_str()) => {
                    self.entries(&full, entries, layers)?;
                }
                DeValue::Table(_) if !self.known.has_section(&full) => {
                    return Err(self.known.refuse(&full, self.place(key.span().start)));
                }
                DeValue::Table(inner) if !Layers::LISTS.contains(&full.as_str()) => {
                    self.table(&format!("{full}."), inner, layers)?;
                }
                _ => self.entry(&full, key, value, &mut layers.house)?,
            }
        }
        Ok(())
    }

    /// `[[users]]` and its like.
    fn entries(
        &self,
        name: &str,
        entries: &DeArray<'_>,
        layers: &mut Layers,
    ) -> Result<(), ConfigError> {
        for entry in entries.iter() {
            let place = self.place(entry.span().start);
            let DeValue::Table(table) = entry.get_ref() else {
                return Err(ConfigError::Contradiction {
                    place,
                    key: name.to_owned(),
                    problem: format!("must be tables: write [[{name}]] above each one's keys"),
                });
            };
            let mut values = Values::new(place);
            for (key, value) in in_order(table) {
                self.entry(
                    &format!("{name}.{}", key.get_ref()),
                    key,
                    value,
                    &mut values,
                )?;
            }
            layers.list(name).push(values);
        }
        Ok(())
    }

    fn entry(
        &self,
        full: &str,
        key: &Key<'_>,
        value: &Value<'_>,
        values: &mut Values,
    ) -> Result<(), ConfigError> {
        let place = self.place(key.span().start);
        if self.known.has_section(full) {
            let header = if Layers::LISTS.contains(&full) {
                format!("[[{full}]]")
            } else {
                "[...]".to_owned()
            };
            return Err(ConfigError::Contradiction {
                place,
                key: full.to_owned(),
                problem: format!("is a section: write {header} with its keys below"),
            });
        }
        if !self.known.has_key(full) {
            return Err(self.known.refuse(full, place));
        }
        let raw = raw(value.get_ref());
        values.set(full, Given { raw, place });
        Ok(())
    }

    fn place(&self, at: usize) -> Place {
        let before = self.text.get(..at).unwrap_or(self.text);
        Place::File {
            path: self.path.to_owned(),
            line: 1 + before.bytes().filter(|b| *b == b'\n').count(),
        }
    }
}

/// toml sorts by key; people fix files from the top.
fn in_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<(&'t Key<'i>, &'t Value<'i>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix())
            .map_or(Raw::Misfit("too large"), Raw::Integer),
        DeValue::Float(_) => Raw::Misfit("a number with a fraction"),
        DeValue::Boolean(b) => Raw::Boolean(*b),
        DeValue::Datetime(_) => Raw::Misfit("a date"),
        DeValue::Array(items) => items
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
            .map_or(Raw::Misfit("a list of other things than texts"), Raw::List),
        DeValue::Table(_) => Raw::Misfit("a table"),
    }
}
