//! What a secret's text says: a user's name and password.
//!
//! Knows the form that Secrets Manager's secrets for databases have; not which secret it is.

use crate::config::Secret;

/// RDS's own secrets hold nothing else, so nothing else is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub username: String,
    pub password: Secret<String>,
}

/// Why a text is no such secret. Says which key is to blame, and never what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    #[error("it is no JSON object with \"username\" and \"password\"")]
    NoObject,
    #[error("it has no key \"{key}\"")]
    Missing { key: &'static str },
    #[error("its key \"{key}\" is no text, or an empty one, or one with a NUL")]
    NoText { key: &'static str },
}

impl Pair {
    pub fn parse(text: &str) -> Result<Pair, PairError> {
        // What the parser says of a text that is no JSON may quote it.
        let value = serde_json::from_str(text).map_err(|_| PairError::NoObject)?;
        let serde_json::Value::Object(mut keys) = value else {
            return Err(PairError::NoObject);
        };
        let mut take = |key| match keys.remove(key) {
            None => Err(PairError::Missing { key }),
            Some(serde_json::Value::String(text)) if !text.is_empty() && !text.contains('\0') => {
                Ok(text)
            }
            Some(_) => Err(PairError::NoText { key }),
        };
        Ok(Pair {
            username: take("username")?,
            password: Secret::new(take("password")?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_password_and_nothing_else() {
        for text in [
            r#"{"username":"app","password":"s3cr3t"}"#,
            r#"{"engine":"postgres","host":"h","username":"app","password":"s3cr3t","port":5432}"#,
        ] {
            let pair = Pair::parse(text).unwrap();
            assert_eq!(
                (&*pair.username, &**pair.password.expose()),
                ("app", "s3cr3t")
            );
            assert!(!format!("{pair:?}").contains("s3cr3t"));
        }
        let missing = |key| PairError::Missing { key };
        let no_text = |key| PairError::NoText { key };
        for (text, why) in [
            ("", PairError::NoObject),
            ("s3cr3t", PairError::NoObject),
            ("\"s3cr3t\"", PairError::NoObject),
            (
                r#"{"username":"app","password":"s3cr3t"} x"#,
                PairError::NoObject,
            ),
            (r#"{"user":"app","password":"s3cr3t"}"#, missing("username")),
            (
                r#"{"username":"app","Password":"s3cr3t"}"#,
                missing("password"),
            ),
            (
                r#"{"username":"app","password":471100}"#,
                no_text("password"),
            ),
            (r#"{"username":"app","password":""}"#, no_text("password")),
            (
                r#"{"username":"a\u0000b","password":"s3cr3t"}"#,
                no_text("username"),
            ),
        ] {
            let error = Pair::parse(text).unwrap_err();
            assert_eq!(error, why, "{text}");
            let said = format!("{error} {error:?}");
            assert!(!said.contains("s3cr3t") && !said.contains("4711"), "{said}");
        }
    }
}
