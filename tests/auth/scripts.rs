//! Programs in Python beside the tests: those that answer line by line, and those that make tokens.
//!
//! Knows how to talk to them; does not know what they say.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::house::programs::said;

pub fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Python with what tools/setup installs.
pub fn python() -> Command {
    let mut command = Command::new(here(".work/python/bin/python"));
    for (name, _) in std::env::vars() {
        if name.starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

/// One that runs as long as it is kept.
pub struct Script {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// What it said first.
    pub hello: Value,
}

impl Script {
    pub fn start(file: &str) -> Script {
        let mut child = python()
            .arg(here(file))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python runs; tools/setup installs it");
        let mut script = Script {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
            hello: Value::Null,
        };
        script.hello = serde_json::from_str(&script.line()).unwrap();
        script
    }

    pub fn port(&self) -> u64 {
        self.hello["port"].as_u64().unwrap()
    }

    pub fn ask(&mut self, line: &str) -> String {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
        self.line()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the script has ended");
        line.trim_end().to_owned()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Access keys as the environment has them.
#[derive(Clone)]
pub struct Keys {
    pub id: String,
    pub secret: String,
    pub session_token: Option<String>,
}

impl Keys {
    /// A list of three, as JSON.
    pub fn of(value: &Value) -> Keys {
        let text = |at: usize| value[at].as_str().map(str::to_owned);
        Keys {
            id: text(0).unwrap(),
            secret: text(1).unwrap(),
            session_token: text(2),
        }
    }

    pub fn put(&self, command: &mut Command) {
        command
            .env("AWS_ACCESS_KEY_ID", &self.id)
            .env("AWS_SECRET_ACCESS_KEY", &self.secret);
        if let Some(token) = &self.session_token {
            command.env("AWS_SESSION_TOKEN", token);
        }
    }

    /// As Weir's own file of keys.
    pub fn file(&self) -> String {
        let key = serde_json::json!({
            "secret": self.secret, "session_token": self.session_token, "active": true,
        });
        serde_json::json!({ &self.id: key }).to_string()
    }

    /// Tokens by boto3, as tests/auth/tokens.py makes them.
    pub fn tokens(&self, words: &[&str], count: usize) -> Vec<String> {
        let mut command = python();
        self.put(&mut command);
        command.arg(here("tests/auth/tokens.py")).args(words);
        let output = command.env("COUNT", count.to_string()).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        let tokens: Vec<String> = text.lines().map(str::to_owned).collect();
        assert_eq!(tokens.len(), count);
        tokens
    }

    pub fn token(&self, words: &[&str]) -> String {
        self.tokens(words, 1).remove(0)
    }
}
