//! The kinds of value that options take: how each is read, what it allows, how it is shown.
//!
//! Knows nothing of any particular option.

use std::fmt::Display;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use super::given::Raw;
use super::secret::{REDACTED, Secret};

/// Reads one kind of value.
pub trait Parser {
    type Out;
    /// A secret's value never appears in a message.
    const SECRET: bool = false;

    /// `Err` says what is wrong, to follow the key and the value: "is not a whole number".
    fn parse(&self, raw: &Raw) -> Result<Self::Out, String>;
    /// What is allowed, in words.
    fn allowed(&self) -> String;
    /// As TOML; `None` when there is no value.
    fn show(&self, value: &Self::Out) -> Option<String>;
    /// What it is when not given, for kinds that may be absent.
    fn absent(&self) -> Option<Self::Out> {
        None
    }
}

pub(super) fn quoted(text: impl Into<String>) -> String {
    toml::Value::String(text.into()).to_string()
}

/// A whole number within limits, both included.
pub struct Number<T>(pub T, pub T);

impl<T: Copy + PartialOrd + Display + TryFrom<i64>> Parser for Number<T> {
    type Out = T;

    fn parse(&self, raw: &Raw) -> Result<T, String> {
        let number: i64 = match raw {
            Raw::Integer(n) => *n,
            Raw::Text(text) => text
                .trim()
                .parse()
                .map_err(|_| "is not a whole number".to_owned())?,
            Raw::Boolean(_) | Raw::List(_) | Raw::Misfit(_) => {
                return Err("is not a whole number".into());
            }
        };
        T::try_from(number)
            .ok()
            .filter(|n| *n >= self.0 && *n <= self.1)
            .ok_or_else(|| "is out of range".to_owned())
    }

    fn allowed(&self) -> String {
        format!("{} to {}", self.0, self.1)
    }

    fn show(&self, value: &T) -> Option<String> {
        Some(value.to_string())
    }
}

const TIME_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// How a length of time is written, for people.
pub const DURATIONS: &str = ", as \"250ms\", \"120s\", \"5m\", \"1h\" or seconds";

/// A length of time within limits, both included: "250ms", "120s", "5m", "1h", or a bare number of seconds.
pub struct Length(pub Duration, pub Duration);

impl Parser for Length {
    type Out = Duration;

    fn parse(&self, raw: &Raw) -> Result<Duration, String> {
        let ms = with_unit(raw, &TIME_UNITS, 1_000).ok_or("is not a length of time")?;
        Some(Duration::from_millis(ms))
            .filter(|d| *d >= self.0 && *d <= self.1)
            .ok_or_else(|| "is out of range".to_owned())
    }

    fn allowed(&self) -> String {
        format!(
            "{} to {}{DURATIONS}",
            length_text(self.0),
            length_text(self.1)
        )
    }

    fn show(&self, value: &Duration) -> Option<String> {
        Some(quoted(length_text(*value)))
    }
}

/// A length of time as it is written in the configuration, within no limits.
pub fn length(text: &str) -> Option<Duration> {
    with_unit(&Raw::Text(text.to_owned()), &TIME_UNITS, 1_000).map(Duration::from_millis)
}

fn length_text(length: Duration) -> String {
    if length.is_zero() {
        return "0s".to_owned();
    }
    in_largest_unit(
        u64::try_from(length.as_millis()).unwrap_or(u64::MAX),
        &TIME_UNITS,
    )
}

const SIZE_UNITS: [(&str, u64); 4] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// A number of bytes within limits, both included: "64KiB", "1MiB", or a bare number of bytes.
pub struct Size(pub usize, pub usize);

impl Parser for Size {
    type Out = usize;

    fn parse(&self, raw: &Raw) -> Result<usize, String> {
        let bytes = with_unit(raw, &SIZE_UNITS, 1).ok_or("is not a number of bytes")?;
        usize::try_from(bytes)
            .ok()
            .filter(|n| *n >= self.0 && *n <= self.1)
            .ok_or_else(|| "is out of range".to_owned())
    }

    fn allowed(&self) -> String {
        let text = |n| in_largest_unit(n as u64, &SIZE_UNITS);
        format!(
            "{} to {}, as \"64KiB\", \"1MiB\" or bytes",
            text(self.0),
            text(self.1)
        )
    }

    fn show(&self, value: &usize) -> Option<String> {
        Some(quoted(in_largest_unit(*value as u64, &SIZE_UNITS)))
    }
}

/// "5m" in the smallest unit; a bare number counts `bare` of them. `None`: not such a value.
fn with_unit(raw: &Raw, units: &[(&str, u64)], bare: u64) -> Option<u64> {
    let text = match raw {
        Raw::Integer(n) => return u64::try_from(*n).ok()?.checked_mul(bare),
        Raw::Text(text) => text.trim(),
        Raw::Boolean(_) | Raw::List(_) | Raw::Misfit(_) => return None,
    };
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(end)?;
    let each = match unit.trim() {
        "" => bare,
        unit => units.iter().find(|(name, _)| *name == unit)?.1,
    };
    digits.parse::<u64>().ok()?.checked_mul(each)
}

fn in_largest_unit(amount: u64, units: &[(&str, u64)]) -> String {
    units
        .iter()
        .rev()
        .find(|(_, each)| amount >= *each && amount.is_multiple_of(*each))
        .map_or_else(
            || amount.to_string(),
            |(name, each)| format!("{}{name}", amount / each),
        )
}

/// A text of one line or many. NUL can't travel in the protocol's strings.
pub enum Text {
    MayBeEmpty,
    NotEmpty,
}

impl Parser for Text {
    type Out = String;

    fn parse(&self, raw: &Raw) -> Result<String, String> {
        let text = match raw {
            Raw::Boolean(_) | Raw::List(_) => Err("is not a text in quotes".to_owned()),
            Raw::Text(_) | Raw::Integer(_) | Raw::Misfit(_) => raw.text(),
        }?;
        match self {
            _ if text.contains('\0') => Err("contains a NUL".into()),
            Self::NotEmpty if text.is_empty() => Err("is empty".into()),
            Self::NotEmpty | Self::MayBeEmpty => Ok(text),
        }
    }

    fn allowed(&self) -> String {
        match self {
            Self::MayBeEmpty => "any text".into(),
            Self::NotEmpty => "a text that is not empty".into(),
        }
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(quoted(value.as_str()))
    }
}

/// Which events are logged, in tracing's words.
pub struct Filter;

impl Parser for Filter {
    type Out = String;

    fn parse(&self, raw: &Raw) -> Result<String, String> {
        let filter = Text::NotEmpty.parse(raw)?;
        match tracing_subscriber::EnvFilter::builder().parse(&filter) {
            Ok(_) => Ok(filter),
            Err(problem) => Err(format!("is not a filter: {problem}")),
        }
    }

    fn allowed(&self) -> String {
        "error, warn, info, debug, trace, or target=level with commas between".into()
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(quoted(value.as_str()))
    }
}

/// A text that nobody may read back.
pub struct Hidden;

impl Parser for Hidden {
    type Out = Secret<String>;
    const SECRET: bool = true;

    fn parse(&self, raw: &Raw) -> Result<Secret<String>, String> {
        Text::NotEmpty.parse(raw).map(Secret::new)
    }

    fn allowed(&self) -> String {
        Text::NotEmpty.allowed()
    }

    fn show(&self, _: &Secret<String>) -> Option<String> {
        Some(quoted(REDACTED))
    }
}

/// A file's path, as the operating system takes it.
pub struct Path;

impl Parser for Path {
    type Out = PathBuf;

    fn parse(&self, raw: &Raw) -> Result<PathBuf, String> {
        Text::NotEmpty.parse(raw).map(PathBuf::from)
    }

    fn allowed(&self) -> String {
        "a path".into()
    }

    fn show(&self, value: &PathBuf) -> Option<String> {
        Some(quoted(value.to_string_lossy()))
    }
}

/// An enum written as one of a few words. The first word for a value is the one shown.
pub trait Word: Copy + PartialEq + 'static {
    const WORDS: &'static [(&'static str, Self)];
    /// Words that people may look for here, and what to do instead.
    const ELSEWHERE: &'static [(&'static str, &'static str)] = &[];
}

pub struct OneOf<T>(PhantomData<T>);

impl<T> OneOf<T> {
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T: Word> Parser for OneOf<T> {
    type Out = T;

    fn parse(&self, raw: &Raw) -> Result<T, String> {
        let text = raw.text()?.trim().to_ascii_lowercase();
        if let Some((_, instead)) = T::ELSEWHERE.iter().find(|(word, _)| *word == text) {
            return Err((*instead).to_owned());
        }
        T::WORDS
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, value)| *value)
            .ok_or_else(|| "is not one of the words known here".to_owned())
    }

    fn allowed(&self) -> String {
        let words: Vec<_> = T::WORDS.iter().map(|(word, _)| *word).collect();
        words.join(", ")
    }

    fn show(&self, value: &T) -> Option<String> {
        T::WORDS
            .iter()
            .find(|(_, v)| v == value)
            .map(|(word, _)| match *word {
                "true" | "false" => (*word).to_owned(),
                word => quoted(word),
            })
    }
}

/// Any number of such words, each once: a list, or a text with commas between.
pub struct AnyOf<T>(PhantomData<T>);

impl<T> AnyOf<T> {
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T: Word> Parser for AnyOf<T> {
    type Out = Vec<T>;

    fn parse(&self, raw: &Raw) -> Result<Vec<T>, String> {
        let text = raw.text()?;
        let mut found: Vec<T> = Vec::new();
        for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            let value = OneOf::new()
                .parse(&Raw::Text(word.to_owned()))
                .map_err(|problem| format!("names {word:?}, which {problem}"))?;
            if !found.contains(&value) {
                found.push(value);
            }
        }
        Ok(found)
    }

    fn allowed(&self) -> String {
        let words = OneOf::<T>::new().allowed();
        format!("none or any of {words}, with commas between")
    }

    fn show(&self, value: &Vec<T>) -> Option<String> {
        let word = |value: &T| T::WORDS.iter().find(|(_, v)| v == value);
        let words = value.iter().filter_map(word).map(|(word, _)| *word);
        Some(quoted(words.collect::<Vec<_>>().join(",")))
    }
}

/// Any number of names, each once: a list, or a text with commas between.
pub struct Names;

impl Parser for Names {
    type Out = Vec<String>;

    fn parse(&self, raw: &Raw) -> Result<Vec<String>, String> {
        let names: Vec<String> = match raw {
            Raw::List(names) => names.clone(),
            Raw::Text(text) => text.split(',').map(|name| name.trim().to_owned()).collect(),
            Raw::Integer(_) | Raw::Boolean(_) | Raw::Misfit(_) => {
                return Err("is not a list of names".into());
            }
        };
        if names.iter().any(String::is_empty) {
            return Err("contains an empty name".into());
        }
        Ok(names)
    }

    fn allowed(&self) -> String {
        "names: a list, or with commas between".into()
    }

    fn show(&self, value: &Vec<String>) -> Option<String> {
        (!value.is_empty()).then(|| toml::Value::from(value.clone()).to_string())
    }

    fn absent(&self) -> Option<Vec<String>> {
        Some(Vec::new())
    }
}

/// A value that the word "off" switches off.
pub struct Off<P>(pub P);

impl<P: Parser> Parser for Off<P> {
    type Out = Option<P::Out>;
    const SECRET: bool = P::SECRET;

    fn parse(&self, raw: &Raw) -> Result<Self::Out, String> {
        match raw {
            Raw::Text(text) if text.trim() == "off" => Ok(None),
            raw => self.0.parse(raw).map(Some),
        }
    }

    fn allowed(&self) -> String {
        format!("{}; or \"off\"", self.0.allowed())
    }

    fn show(&self, value: &Self::Out) -> Option<String> {
        match value {
            Some(value) => self.0.show(value),
            None => Some(quoted("off")),
        }
    }
}

/// A value that may be left out.
pub struct Maybe<P>(pub P);

impl<P: Parser> Parser for Maybe<P> {
    type Out = Option<P::Out>;
    const SECRET: bool = P::SECRET;

    fn parse(&self, raw: &Raw) -> Result<Self::Out, String> {
        self.0.parse(raw).map(Some)
    }

    fn allowed(&self) -> String {
        self.0.allowed()
    }

    fn show(&self, value: &Self::Out) -> Option<String> {
        value.as_ref().and_then(|value| self.0.show(value))
    }

    fn absent(&self) -> Option<Self::Out> {
        Some(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Raw {
        Raw::Text(text.to_owned())
    }

    #[test]
    fn lengths() {
        let length = Length(Duration::ZERO, Duration::from_secs(7200));
        for (raw, ms) in [
            (text("120s"), Some(120_000)),
            (text("5m"), Some(300_000)),
            (text("1h"), Some(3_600_000)),
            (text("250ms"), Some(250)),
            (text("7"), Some(7_000)),
            (text("0"), Some(0)),
            (Raw::Integer(30), Some(30_000)),
            (Raw::Integer(-1), None),
            (text("3h"), None),
            (text("1 day"), None),
            (text(""), None),
            (text("s"), None),
            (text("-5s"), None),
            (text("99999999999999999999h"), None),
            (Raw::Boolean(true), None),
        ] {
            assert_eq!(
                length.parse(&raw).ok(),
                ms.map(Duration::from_millis),
                "{raw:?}"
            );
        }
        for shown in ["0s", "250ms", "90s", "5m", "1h"] {
            assert_eq!(length_text(length.parse(&text(shown)).unwrap()), shown);
        }
    }

    #[test]
    fn sizes() {
        let size = Size(1, 1 << 30);
        for (raw, bytes) in [
            (text("64KiB"), Some(65_536)),
            (text("1MiB"), Some(1 << 20)),
            (text("1 GiB"), Some(1 << 30)),
            (Raw::Integer(512), Some(512)),
            (text("512B"), Some(512)),
            (text("2GiB"), None),
            (text("64KB"), None),
            (Raw::Integer(0), None),
        ] {
            assert_eq!(size.parse(&raw).ok(), bytes, "{raw:?}");
        }
    }

    #[test]
    fn several_words() {
        let words = AnyOf::<super::super::options::PinFilter>::new();
        let shown = |raw: &Raw| words.parse(raw).map(|found| words.show(&found).unwrap());
        for (raw, expected) in [
            (text(""), ""),
            (text("listen"), "listen"),
            (text("Listen, setting,listen"), "listen,setting"),
            (
                Raw::List(vec!["setting".into(), "listen".into()]),
                "setting,listen",
            ),
        ] {
            assert_eq!(shown(&raw), Ok(quoted(expected)), "{raw:?}");
        }
        for word in ["load", "not_understood", "EXCLUDE_VARIABLE_SETS"] {
            let problem = words.parse(&text(&format!("listen,{word}"))).unwrap_err();
            assert!(problem.contains(word), "{problem}");
        }
        assert!(words.parse(&Raw::Integer(1)).is_err());
    }

    #[test]
    fn numbers() {
        let number = Number(1u32, 100);
        for (raw, value) in [
            (text("100"), Some(100)),
            (Raw::Integer(1), Some(1)),
            (Raw::Integer(0), None),
            (Raw::Integer(-5), None),
            (Raw::Integer(i64::MAX), None),
            (text("ten"), None),
            (Raw::Misfit("a date"), None),
        ] {
            assert_eq!(number.parse(&raw).ok(), value, "{raw:?}");
        }
        assert_eq!(Off(Number(1u32, 5)).parse(&text("off")), Ok(None));
    }
}
