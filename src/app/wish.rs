//! What a client says of the kind of server that it wants, beyond the listener that it came to.
//!
//! Pure. Knows libpq's words for it, as a startup setting, and the suffix of a database's name; not which servers there are.

use crate::protocol::SqlState;
use crate::protocol::reply::{ErrorReply, Severity};
use crate::session::Kind;
use crate::topology::Role;
use crate::topology::board::Fallback;

/// Given at login, as `options=-c weir.target_session_attrs=standby`. Of use to Weir alone, so no server gets to see it.
const SETTING: &str = "weir.target_session_attrs";

/// libpq's words and their meanings.
const WORDS: [(&str, Wish); 6] = [
    ("any", Wish::Any),
    ("read-write", Wish::Writer),
    ("primary", Wish::Writer),
    ("read-only", Wish::Reader),
    ("standby", Wish::Reader),
    ("prefer-standby", Wish::RatherReader),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Any,
    Writer,
    Reader,
    /// And the writer while there is none.
    RatherReader,
}

/// Where a client is to be served that came to a listener of this kind. The wish is taken out of its settings, and the
/// suffix off its database's name.
pub fn kind(
    listener: Kind,
    suffix: Option<&str>,
    database: &mut String,
    settings: &mut Vec<(String, Vec<u8>)>,
) -> Result<Kind, ErrorReply> {
    let said = settings.iter().rfind(|(name, _)| name == SETTING);
    let wish = said.map_or(Ok(Wish::Any), |(_, value)| read(value))?;
    settings.retain(|(name, _)| name != SETTING);
    let stem = suffix.and_then(|suffix| database.strip_suffix(suffix));
    let named = stem.filter(|stem| !stem.is_empty()).map(str::to_owned);
    let by_name = named.is_some();
    if let Some(stem) = named {
        *database = stem;
    }
    let reads = |fallback| Kind {
        role: Role::Reader,
        fallback,
    };
    match (wish, by_name || listener.role == Role::Reader) {
        (Wish::Any, false) => Ok(listener),
        (Wish::Any, true) | (Wish::Reader, _) => Ok(reads(listener.fallback)),
        (Wish::RatherReader, _) => Ok(reads(Fallback::Writer)),
        (Wish::Writer, false) => Ok(listener),
        (Wish::Writer, true) => Err(contradiction(by_name)),
    }
}

fn read(value: &[u8]) -> Result<Wish, ErrorReply> {
    let word = WORDS.iter().find(|(word, _)| word.as_bytes() == value);
    word.map(|(_, wish)| *wish).ok_or_else(|| ErrorReply {
        severity: Severity::Fatal,
        sqlstate: SqlState::INVALID_PARAMETER_VALUE,
        message: format!(
            "invalid value for parameter \"{SETTING}\": \"{}\"",
            String::from_utf8_lossy(value)
        ),
        detail: None,
        hint: Some(format!(
            "Available values: {}.",
            WORDS.map(|(word, _)| word).join(", ")
        )),
    })
}

fn contradiction(by_name: bool) -> ErrorReply {
    let place = match by_name {
        true => "a database by the name of its readers",
        false => "the listener for readers",
    };
    ErrorReply {
        severity: Severity::Fatal,
        sqlstate: SqlState::CANNOT_CONNECT,
        message: "session is read-only".into(),
        detail: Some(format!(
            "{SETTING} asks for the writer, and the client came to {place}."
        )),
        hint: Some("Connect to the writer's listener, with the database's own name; or leave that setting out.".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITERS: Kind = Kind {
        role: Role::Writer,
        fallback: Fallback::None,
    };
    const READERS: Kind = Kind {
        role: Role::Reader,
        fallback: Fallback::None,
    };
    const RATHER: Kind = Kind {
        role: Role::Reader,
        fallback: Fallback::Writer,
    };

    fn told(listener: Kind, said: Option<&str>, name: &str) -> (Result<Kind, String>, String) {
        let mut database = name.to_owned();
        let mut settings = vec![("work_mem".into(), b"1MB".to_vec())];
        settings.extend(said.map(|said| (SETTING.into(), said.into())));
        let kind = kind(listener, Some("@readers"), &mut database, &mut settings);
        assert_eq!(settings.len(), 1 + usize::from(said == Some("nonsense")));
        (kind.map_err(|refusal| refusal.message), database)
    }

    #[test]
    fn the_clients_wish_counts() {
        let cases = [
            (WRITERS, None, "orders", Some(WRITERS)),
            (READERS, None, "orders", Some(READERS)),
            (WRITERS, Some("any"), "orders", Some(WRITERS)),
            (WRITERS, Some("standby"), "orders", Some(READERS)),
            (WRITERS, Some("read-only"), "orders", Some(READERS)),
            (WRITERS, Some("prefer-standby"), "orders", Some(RATHER)),
            (READERS, Some("prefer-standby"), "orders", Some(RATHER)),
            (WRITERS, Some("primary"), "orders", Some(WRITERS)),
            (READERS, Some("read-write"), "orders", None),
            (WRITERS, None, "orders@readers", Some(READERS)),
            (WRITERS, Some("primary"), "orders@readers", None),
        ];
        for (listener, said, name, expected) in cases {
            let (kind, database) = told(listener, said, name);
            assert_eq!(kind.ok(), expected, "{said:?} {name}");
            assert_eq!(database, "orders");
        }
        let (refusal, _) = told(WRITERS, Some("nonsense"), "orders");
        assert!(refusal.unwrap_err().contains("nonsense"));
        // A name that is nothing but the suffix is somebody's own.
        assert_eq!(told(WRITERS, None, "@readers").1, "@readers");
    }
}
