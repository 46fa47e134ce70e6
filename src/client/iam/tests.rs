//! Tokens of the vectors, and whatever can be made of them.
//!
//! Knows what must come of each; clients and servers are elsewhere.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde::Deserialize;

use super::keys::Doubt;
use super::reason::Reason;
use super::rules::{Claim, Plausible, Rules};
use crate::config::{HostPort, Iam, IamMode, IamStatic};

#[derive(Deserialize)]
struct Vectors {
    keys: serde_json::Value,
    reasons: Vec<String>,
    vectors: Vec<Vector>,
    signature_kats: Vec<KnownAnswer>,
}

#[derive(Clone, Deserialize)]
struct Vector {
    id: String,
    expect: String,
    reason: String,
    token: Option<String>,
    token_hex: Option<String>,
    context: Context,
}

#[derive(Clone, Deserialize)]
struct Context {
    now: i64,
    user: String,
    endpoints: Vec<String>,
    regions: Vec<String>,
    tls: bool,
    skew: u64,
}

#[derive(Deserialize)]
pub struct KnownAnswer {
    pub token: String,
    pub secret: String,
    pub signature: String,
}

pub fn known_answers() -> &'static [KnownAnswer] {
    assert!(!VECTORS.signature_kats.is_empty());
    &VECTORS.signature_kats
}

/// What `Debug` makes of a token and of the keys that check it.
pub fn shown() -> String {
    let vector = vector("ok-js-session");
    let rules = vector.context.rules();
    let claim = Claim {
        user: &vector.context.user,
        database: "postgres",
    };
    let token = rules.check(&vector.bytes(), &claim, vector.context.now);
    format!("{:?} {rules:?}", token.unwrap())
}

/// Kept compressed: their keys, of nobody, look real to those who search for leaks.
static VECTORS: LazyLock<Vectors> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/iam-vectors.json.gz");
    let text = std::process::Command::new("gzip")
        .arg("-dc")
        .arg(path)
        .output();
    serde_json::from_slice(&text.unwrap().stdout).unwrap()
});

static KEYS_FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("weir-{}-keys.json", std::process::id()));
    std::fs::write(&path, VECTORS.keys.to_string()).unwrap();
    path
});

impl Vector {
    fn bytes(&self) -> Vec<u8> {
        match (&self.token, &self.token_hex) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(hex)) => (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect(),
            (None, None) => panic!("{} has no token", self.id),
        }
    }
}

impl Context {
    fn rules(&self) -> Rules {
        let endpoint = |text: &String| {
            let (host, port) = text.rsplit_once(':').unwrap();
            HostPort {
                host: host.to_owned(),
                port: port.parse().unwrap(),
            }
        };
        let iam = Iam {
            mode: IamMode::Required,
            max_token_bytes: 8192,
            clock_skew: Duration::from_secs(self.skew),
            validation_timeout: Duration::from_secs(30),
            cache_ttl: Duration::ZERO,
            refusal_ttl: Duration::ZERO,
            max_cached_tokens: 1,
            regions: self.regions.clone(),
            aurora: None,
            sts: None,
            jwt: None,
            static_keys: Some(IamStatic {
                keys_file: Some(KEYS_FILE.clone()),
                secret_arns: Vec::new(),
                endpoints: self.endpoints.iter().map(endpoint).collect(),
            }),
            map: Vec::new(),
        };
        Rules::new(&iam, &[]).unwrap()
    }

    fn judge(&self, rules: &Rules, token: &[u8]) -> Result<(), Reason> {
        let claim = Claim {
            user: &self.user,
            database: "postgres",
        };
        match rules.check(token, &claim, self.now)? {
            Plausible::Own(token) => rules.check_own(&token).map_err(|doubt| match doubt {
                Doubt::Refused(reason) => reason,
                Doubt::Unread(why) => panic!("{why}"),
            }),
            other => panic!("that is not configured: {other:?}"),
        }
    }
}

#[test]
fn every_vector_is_judged_as_it_says() {
    assert!(VECTORS.vectors.len() > 100);
    for vector in VECTORS.vectors.iter().filter(|vector| vector.context.tls) {
        let seen = vector
            .context
            .judge(&vector.context.rules(), &vector.bytes());
        let seen = seen.map_or_else(Reason::as_str, |()| "ok");
        assert_eq!(seen, vector.reason, "{}", vector.id);
        assert_eq!(seen == "ok", vector.expect == "accept", "{}", vector.id);
    }
}

#[test]
fn every_reason_of_the_vectors_has_its_word() {
    let known: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    for word in VECTORS.reasons.iter().filter(|word| *word != "ok") {
        assert!(known.contains(&word.as_str()), "{word}");
    }
}

fn vector(id: &str) -> &'static Vector {
    VECTORS
        .vectors
        .iter()
        .find(|vector| vector.id == id)
        .unwrap()
}

/// Letters of the host alone may be of either case: some signers put it into lower case, whatever was typed.
#[test]
fn no_flipped_bit_is_accepted() {
    for id in ["ok-user-key", "ok-js-session", "ok-user-06"] {
        let vector = vector(id);
        let (rules, token) = (vector.context.rules(), vector.bytes());
        let host = token.iter().position(|byte| *byte == b':').unwrap();
        for (at, bit) in (0..token.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut flipped = token.clone();
            flipped[at] ^= 1 << bit;
            let case = at < host && flipped[at].eq_ignore_ascii_case(&token[at]);
            let seen = vector.context.judge(&rules, &flipped);
            assert_eq!(seen.is_ok(), case, "{id}: byte {at}, bit {bit}: {seen:?}");
        }
    }
}

/// A vector's token with one piece replaced, and what that must lead to.
#[test]
fn what_must_be_refused_is_refused_for_its_own_reason() {
    let long = "a".repeat(8192);
    let cases: &[(&str, &str, &str)] = &[
        // The text as a whole.
        ("mydb", "my db", "bad_byte"),
        ("mydb", "m\tydb", "bad_byte"),
        ("DBUser=app", "DBUser=app\r\n", "bad_byte"),
        ("Action", "\u{7f}Action", "bad_byte"),
        ("DBUser=app", &long, "too_long"),
        // Host, port, path.
        ("mydb.", "user@mydb.", "not_a_token"),
        ("mydb.", "user:password@mydb.", "not_a_token"),
        ("mydb.", "[::1]", "not_a_token"),
        ("mydb.", "http://mydb.", "not_a_token"),
        ("mydb.", "//mydb.", "not_a_token"),
        ("mydb.", "my_db.", "not_a_token"),
        ("mydb.", ".mydb.", "not_a_token"),
        (":5432", "", "not_a_token"),
        (":5432", ":", "not_a_token"),
        (":5432", ":65536", "not_a_token"),
        (":5432", ":99999999999999999999", "not_a_token"),
        (":5432", ":+5432", "not_a_token"),
        (":5432", ":5432:5432", "not_a_token"),
        (":5432", ".:5432", "not_a_token"),
        (":5432/?", ":5432?", "not_a_token"),
        (":5432/?", ":5432/", "not_a_token"),
        (":5432/?", ":5432/%3F", "not_a_token"),
        (
            "amazonaws.com:",
            "amazonaws.com.evil.example:",
            "host_mismatch",
        ),
        ("mydb.", "evil-mydb.", "host_mismatch"),
        // Segments and names.
        ("&DBUser", "&&DBUser", "bad_segment"),
        ("Action=", "=Action=", "unknown_param"),
        ("Action=", "%41ction=", "unknown_param"),
        ("Action=", "action=", "unknown_param"),
        ("DBUser=app", "DBUser=app&DBName=x", "unknown_param"),
        ("DBUser=app", "DBUser=app&dbuser=app", "unknown_param"),
        (
            "Action=connect",
            "Action=connect&Action=connect",
            "duplicate_param",
        ),
        (
            "Action=connect&",
            "DBUser=admin&Action=connect&",
            "duplicate_param",
        ),
        ("X-Amz-Algorithm=AWS4-HMAC-SHA256&", "", "missing_param"),
        ("&X-Amz-SignedHeaders=host", "", "missing_param"),
        // Escapes.
        ("DBUser=app", "DBUser=app%", "bad_percent_encoding"),
        ("DBUser=app", "DBUser=app%4", "bad_percent_encoding"),
        ("DBUser=app", "DBUser=%2f", "bad_percent_encoding"),
        ("DBUser=app", "DBUser=%u0061pp", "bad_percent_encoding"),
        ("DBUser=app", "DBUser=%ED%A0%80", "bad_utf8"),
        ("DBUser=app", "DBUser=%C0%80", "bad_utf8"),
        ("DBUser=app", "DBUser=%FF", "bad_utf8"),
        ("DBUser=app", "DBUser=app%00", "control_char"),
        ("DBUser=app", "DBUser=app%7F", "control_char"),
        ("DBUser=app", "DBUser=app%C2%85", "control_char"),
        ("DBUser=app", "DBUser=%2561pp", "user_mismatch"),
        ("DBUser=app", "DBUser=App", "user_mismatch"),
        ("DBUser=app", "DBUser=", "user_mismatch"),
        ("%2F20260102%2F", "%252F20260102%252F", "bad_credential"),
        // Claims.
        ("Action=connect", "Action=Connect", "wrong_action"),
        ("AWS4-HMAC-SHA256", "aws4-hmac-sha256", "wrong_algorithm"),
        (
            "SignedHeaders=host",
            "SignedHeaders=host%3Bhost",
            "wrong_signed_headers",
        ),
        (
            "SignedHeaders=host",
            "SignedHeaders=",
            "wrong_signed_headers",
        ),
        ("%2Faws4_request", "", "bad_credential"),
        ("%2Faws4_request", "%2Faws4_request%2F", "bad_credential"),
        ("%2F20260102%2F", "%2F2026010%2F", "bad_credential"),
        (
            "AKIAHHUMJP3ZETLCF5QK",
            "AKIAHHUMJP3ZETLCF5Q",
            "bad_credential",
        ),
        (
            "AKIAHHUMJP3ZETLCF5QK",
            "AROAHHUMJP3ZETLCF5QK",
            "bad_credential",
        ),
        ("rds-db", "rds-dB", "wrong_service"),
        ("Date=20260102T030405Z", "Date=20260230T030405Z", "bad_date"),
        ("Date=20260102T030405Z", "Date=20260102T030460Z", "bad_date"),
        (
            "Date=20260102T030405Z",
            "Date=20260103T030405Z",
            "scope_date_mismatch",
        ),
        ("Expires=900", "Expires=0", "bad_expires"),
        ("Expires=900", "Expires=0900", "bad_expires"),
        ("Expires=900", "Expires=", "bad_expires"),
        ("Expires=900", "Expires=4294967297", "bad_expires"),
        ("Signature=3ba", "Signature=3BA", "bad_signature_form"),
        ("Signature=3ba", "Signature=3bg", "bad_signature_form"),
        ("eu-west-1", "eu-west-2", "host_mismatch"),
        ("%2Feu-west-1%2F", "%2F%2F", "wrong_region"),
        // What only the key shows.
        (
            "AKIAHHUMJP3ZETLCF5QK",
            "AKIAFZTEI4WKHFYUKJCU",
            "bad_signature",
        ),
        (
            "AKIAHHUMJP3ZETLCF5QK",
            "AKIAD4UFN2LEOWLTTZQD",
            "unknown_key",
        ),
        (
            "AKIAHHUMJP3ZETLCF5QK",
            "AKIAHHUMJP3ZETLCF5Q2",
            "unknown_key",
        ),
        ("Expires=900", "Expires=899", "bad_signature"),
    ];
    let vector = vector("ok-user-key");
    let (rules, token) = (vector.context.rules(), vector.token.as_ref().unwrap());
    for (piece, instead, reason) in cases {
        assert!(token.contains(piece), "{piece}");
        let seen = vector
            .context
            .judge(&rules, token.replacen(piece, instead, 1).as_bytes());
        assert_eq!(
            seen.map_err(Reason::as_str),
            Err(*reason),
            "{piece:?} as {instead:?}"
        );
    }
    for cut in 0..token.len() {
        assert!(
            vector
                .context
                .judge(&rules, &token.as_bytes()[..cut])
                .is_err(),
            "{cut}"
        );
    }
    for other in [
        "weir-sts-v1.",
        "eyJhbGciOiJub25lIn0.e30.",
        "vault:v1:xyz",
        "hunter2",
    ] {
        let seen = vector.context.judge(&rules, other.as_bytes());
        assert_eq!(
            seen,
            Err(Reason::NotAToken),
            "{other}: that validator is not configured"
        );
    }
}

/// AWS SDKs write what they sign in different orders, and some escape less.
#[test]
fn order_and_needless_escapes_change_nothing() {
    let vector = vector("ok-user-06");
    let (rules, token) = (vector.context.rules(), vector.token.as_ref().unwrap());
    let (authority, query) = token.split_once('?').unwrap();
    let mut segments: Vec<&str> = query.split('&').collect();
    for turn in 0..segments.len() {
        segments.rotate_left(1);
        let turned = format!("{authority}?{}", segments.join("&"));
        assert_eq!(
            vector.context.judge(&rules, turned.as_bytes()),
            Ok(()),
            "{turn}"
        );
    }
    let bare = token
        .replace("%27", "'")
        .replace("%2A", "*")
        .replace("%2F", "/");
    assert_eq!(vector.context.judge(&rules, bare.as_bytes()), Ok(()));
}

/// A token of each other kind, to be spoilt.
fn other_tokens() -> Vec<Vec<u8>> {
    let sts = vector("ok-user-key")
        .token
        .as_ref()
        .unwrap()
        .replace("rds-db", "sts");
    let coded = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims = r#"{"iss":"i","sub":"s","aud":["a"],"exp":2000000000,"iat":1999999999,"https://sts.amazonaws.com/":{}}"#;
    let jwt = |alg: &str| {
        let header = format!(r#"{{"alg":"{alg}","kid":"k","typ":"JWT"}}"#);
        format!(
            "{}.{}.{}",
            coded(&header),
            coded(claims),
            coded("signature")
        )
    };
    vec![
        format!("{}{}", super::sts::PREFIX, coded(&format!("https://{sts}"))).into_bytes(),
        jwt("ES384").into_bytes(),
        jwt("RS256").into_bytes(),
    ]
}

/// Pieces that tokens are made of, in any order, with and without mistakes.
fn nearly_tokens() -> impl Strategy<Value = Vec<u8>> {
    let valid = VECTORS.vectors.iter().map(Vector::bytes);
    let valid: Vec<Vec<u8>> = valid.chain(other_tokens()).collect();
    let mutation = (any::<prop::sample::Index>(), any::<u8>(), 0..6u8);
    (
        prop::sample::select(valid),
        prop::collection::vec(mutation, 0..8),
    )
        .prop_map(|(mut token, mutations)| {
            for (at, byte, kind) in mutations {
                if token.is_empty() {
                    token.push(byte);
                }
                let at = at.index(token.len());
                match kind {
                    0 => token[at] = byte,
                    1 => token.insert(at, byte),
                    2 => _ = token.remove(at),
                    3 => token.truncate(at),
                    4 => token.rotate_left(at),
                    _ => token.extend_from_within(at..),
                }
            }
            token
        })
}

/// Ten minutes of them, if asked to prove it.
#[test]
fn whatever_comes_is_judged() {
    let minutes = if std::env::var_os("WEIR_PROVE").is_some() {
        10
    } else {
        0
    };
    let until = std::time::Instant::now() + Duration::from_secs(60 * minutes);
    let context = &vector("ok-user-key").context;
    let rules = context.rules();
    loop {
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            cases: 5_000,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let any_bytes =
            prop_oneof![4 => nearly_tokens(), 1 => prop::collection::vec(any::<u8>(), 0..300)];
        runner
            .run(&any_bytes, |token| {
                let accepted = context.judge(&rules, &token).is_ok();
                if let Ok(text) = std::str::from_utf8(&token) {
                    let _ = super::jwt::Jwt::parse(text);
                    let _ = super::sts::StsToken::parse(text, "sts.amazonaws.com");
                    let _ = super::sts::read_identity(text);
                }
                let _ = super::jwt::KeySet::parse(&token);
                // Nothing but a vector's own bytes, up to order, needless escapes and the host's case, has a valid signature.
                let text = String::from_utf8_lossy(&token);
                prop_assert!(!accepted || text.contains("X-Amz-Signature="));
                Ok(())
            })
            .unwrap();
        if std::time::Instant::now() >= until {
            return;
        }
    }
}
