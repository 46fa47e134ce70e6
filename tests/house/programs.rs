//! Other people's programs: PostgreSQL's own tools, and signals to what runs.
//!
//! Knows where Debian puts them; does not know what they are run for.

use std::path::PathBuf;
use std::process::{Command, Output};

/// A program of the newest PostgreSQL installed, called directly: Debian's wrappers cost time.
pub fn postgres_program(name: &str) -> PathBuf {
    let newest = std::fs::read_dir("/usr/lib/postgresql")
        .ok()
        .and_then(|versions| {
            versions
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse().ok())
                .max_by_key(|version: &u32| *version)
        });
    match newest {
        Some(version) => PathBuf::from(format!("/usr/lib/postgresql/{version}/bin/{name}")),
        None => PathBuf::from(name),
    }
}

pub fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status();
}

/// What a finished program said, for a panic's message.
pub fn said(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
