//! The scanner held against PostgreSQL's own grammar: it may be over-cautious, within a bound, and never blind.
//!
//! Knows what the scanner must say to each fact; where the texts come from and what the facts are, `corpus.py`
//! and `grammar.py` beside this know.

#![allow(clippy::unwrap_used)] // a test that can't go on says so by panicking

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;
use weir::sql::scanner::report;
use weir::sql::{Act, Effects, Report};

/// One line of what `corpus.py` prints.
#[derive(Deserialize)]
struct Line {
    text: String,
    /// Nothing: the grammar refuses it.
    said: Option<Said>,
}

#[derive(Deserialize)]
struct Said {
    statements: usize,
    /// Whether the text does nothing but undo.
    undoes: bool,
    facts: Vec<Vec<String>>,
}

/// What became of a corpus.
#[derive(Default)]
struct Tally {
    checked: usize,
    refused: usize,
    blind: Vec<String>,
    /// Texts that leave nothing in their session, by the grammar.
    harmless: usize,
    /// Those of them that the scanner thinks leave something.
    feared: usize,
    fears: BTreeMap<&'static str, (usize, String)>,
    /// Texts with settings by name, where the scanner told others as well.
    misnamed: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = 100.0 * self.feared as f64 / self.harmless.max(1) as f64;
        writeln!(
            f,
            "{} texts checked, {} refused by the grammar; of {} harmless ones {} feared ({share:.2} %), names too many in {}",
            self.checked, self.refused, self.harmless, self.feared, self.misnamed
        )?;
        for (name, (count, first)) in &self.fears {
            writeln!(f, "    {name:<16} {count:>5}, as in {first:.160}")?;
        }
        Ok(())
    }
}

const STAYING: [(&str, Effects); 15] = [
    ("setting", Effects::SETTING),
    ("resets", Effects::RESETS),
    ("reset_all", Effects::RESET_ALL),
    ("role", Effects::ROLE),
    ("unseen_setting", Effects::UNSEEN_SETTING),
    ("seed", Effects::SEED),
    ("path_unseen", Effects::PATH_UNSEEN),
    ("prepare", Effects::PREPARE),
    ("held_cursor", Effects::HELD_CURSOR),
    ("listen", Effects::LISTEN),
    ("load", Effects::LOAD),
    ("temporary", Effects::TEMPORARY),
    ("advisory_lock", Effects::ADVISORY_LOCK),
    ("routine", Effects::ROUTINE),
    ("unsure", Effects::UNSURE),
];

impl Tally {
    fn take(&mut self, line: &Line) {
        let Some(said) = &line.said else {
            self.refused += 1;
            return;
        };
        self.checked += 1;
        let report = report(line.text.as_bytes());
        let missed: Vec<_> = said
            .facts
            .iter()
            .filter(|fact| !is_told(fact, said, &report))
            .map(|fact| fact.join(" "))
            .collect();
        if !missed.is_empty() {
            self.blind
                .push(format!("{missed:?} in {}\n  told: {report:?}", line.text));
        }
        if report.effects.has(Effects::RESET_SESSION) && !said.undoes {
            self.blind
                .push(format!("does more than undo: {}", line.text));
        }
        if !said.facts.iter().any(|fact| stays(fact)) {
            self.harmless += 1;
            self.feared += usize::from(!report.effects.staying().is_none());
            for (name, effect) in STAYING {
                if report.effects.has(effect) {
                    let fear = self.fears.entry(name).or_default();
                    fear.0 += 1;
                    if fear.1.is_empty() {
                        fear.1 = line.text.split_whitespace().collect::<Vec<_>>().join(" ");
                    }
                }
            }
        }
        let told = report.acts.map_or(Vec::new(), |acts| acts.settings);
        let is_said = |name: &[u8]| {
            let named = |fact: &Vec<String>| fact.get(1).is_some_and(|one| one.as_bytes() == name);
            said.facts.iter().any(named)
        };
        let others = |(name, _): &(Vec<u8>, Act)| !is_said(name) && name != b"role";
        self.misnamed += usize::from(told.iter().any(others));
    }
}

/// Whether a fact leaves something in the session.
fn stays(fact: &[String]) -> bool {
    let not = [
        "local",
        "discard_all",
        "discard",
        "execute",
        "deallocate",
        "unlisten",
        "notify",
        "close",
        "drop",
        "database",
    ];
    match fact {
        [kind, name] if kind == "function" => by_function(name).staying() != Effects::NONE,
        [kind, ..] => !not.contains(&kind.as_str()),
        [] => false,
    }
}

fn is_told(fact: &[String], said: &Said, report: &Report) -> bool {
    let effects = report.effects;
    if effects.has(Effects::UNSURE) {
        // Nothing is told of what follows.
        return true;
    }
    let words: Vec<_> = fact.iter().map(String::as_str).collect();
    let expected = match words.as_slice() {
        ["set", "seed"] | ["reset", "seed"] => Effects::SEED,
        ["set" | "reset", name] => return is_named(name, said, report),
        ["local", _] => return true,
        ["reset_all"] => return effects.has(Effects::RESET_ALL) && effects.has(Effects::FREES),
        ["discard_all"] if said.statements == 1 => Effects::DISCARD_ALL,
        ["discard_all" | "discard"] => Effects::DISCARD_IN_TEXT,
        ["temporary"] => Effects::TEMPORARY.with(Effects::PATH_UNSEEN),
        ["hold"] => Effects::HELD_CURSOR,
        ["prepare"] => Effects::PREPARE,
        ["execute"] => Effects::EXECUTE,
        ["deallocate"] => Effects::DEALLOCATE,
        ["listen"] => Effects::LISTEN,
        ["unlisten"] => Effects::UNLISTEN,
        ["notify"] => Effects::NOTIFY,
        ["load"] => Effects::LOAD,
        ["routine"] => Effects::ROUTINE,
        ["close" | "drop"] => Effects::FREES,
        ["unseen"] => Effects::UNSEEN_SETTING,
        ["function", name] => by_function(name),
        ["database", name] => {
            let acts = report.acts.clone().unwrap_or_default();
            let told = acts.databases.iter().any(|one| one == name.as_bytes());
            return effects.has(Effects::DATABASE_DDL) && (told || acts.databases.is_empty());
        }
        other => panic!("what is {other:?}?"),
    };
    effects.has(expected)
}

/// Whether a setting is told, with the last that was done to it; or that something unseen is.
fn is_named(name: &str, said: &Said, report: &Report) -> bool {
    if report.effects.has(Effects::UNSEEN_SETTING) {
        return true;
    }
    let acts = report.acts.clone().unwrap_or_default();
    let told = acts
        .settings
        .iter()
        .find(|(told, _)| told == name.as_bytes());
    let Some((_, act)) = told else { return false };
    // SET ROLE NONE and SET SESSION AUTHORIZATION reset the role; the grammar has them as values.
    if name == "role" {
        return report.effects.has(Effects::ROLE);
    }
    let kinds = said
        .facts
        .iter()
        .filter(|fact| fact.get(1).is_some_and(|one| one == name));
    // `(true)` and its like is true to the grammar; the scanner may take it for anything.
    let feared = kinds
        .clone()
        .any(|fact| fact.first().is_some_and(|kind| kind == "local"));
    let mut last = kinds.filter_map(|fact| match fact.first()?.as_str() {
        "set" => Some((Act::Set, Effects::SETTING)),
        "reset" => Some((Act::Reset, Effects::RESETS)),
        _ => None,
    });
    last.next_back().is_some_and(|(last, effect)| {
        (last == *act || feared && *act == Act::Set) && report.effects.has(effect)
    })
}

fn by_function(name: &str) -> Effects {
    match name {
        "set_limit" => Effects::SETTING,
        "setseed" => Effects::SEED,
        "pg_notify" => Effects::NOTIFY,
        "pg_terminate_backend" => Effects::ENDS_SERVERS,
        "currval" | "lastval" => Effects::SEQUENCE_READ,
        "nextval" | "setval" => Effects::NEXTVAL,
        "dblink_connect" | "dblink_connect_u" => Effects::LOAD,
        "pg_backup_start" | "pg_replication_origin_session_setup" => Effects::LOAD,
        _ if name.ends_with("_slot") => Effects::LOAD,
        _ if name.starts_with("pg_advisory_unlock") => Effects::FREES,
        _ if name.contains("advisory_lock") => Effects::ADVISORY_LOCK,
        _ => Effects::ROUTINE,
    }
}

/// Runs `corpus.py` and holds the scanner against every line of it.
fn tally(arguments: &[&str]) -> Tally {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut corpus = Command::new(root.join(".work/python/bin/python"))
        .arg(root.join("tests/scanner/corpus.py"))
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("python: {error}; tools/setup installs it"));
    let mut tally = Tally::default();
    for line in BufReader::new(corpus.stdout.take().unwrap()).lines() {
        tally.take(&serde_json::from_str(&line.unwrap()).unwrap());
    }
    assert!(corpus.wait().unwrap().success(), "corpus.py {arguments:?}");
    println!("{}: {tally}", arguments.join(" "));
    let some: Vec<_> = tally.blind.iter().take(20).map(String::as_str).collect();
    assert!(
        some.is_empty(),
        "blind in {} texts, such as\n{}",
        tally.blind.len(),
        some.join("\n")
    );
    tally
}

/// Full counts under `make prove`.
fn proving() -> bool {
    std::env::var_os("WEIR_PROVE").is_some()
}

#[test]
fn the_regression_scripts_of_postgresql() {
    let tally = tally(&["scripts", ".work/postgresql-source"]);
    assert!(tally.checked > 10_000, "{tally}");
    assert!(tally.refused * 20 < tally.checked, "{tally}");
    assert!(tally.feared * 50 < tally.harmless, "{tally}");
}

#[test]
fn random_statements_in_disguise() {
    let (count, seeds) = if proving() {
        ("100000", 8)
    } else {
        ("20000", 1)
    };
    for seed in 1..=seeds {
        let tally = tally(&["generated", count, &seed.to_string()]);
        assert!(tally.checked > 10_000, "{tally}");
    }
}
