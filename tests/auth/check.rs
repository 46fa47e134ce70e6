//! `weir token check`, as people and other programs run it.

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::house::Proxy;
use crate::vectors::{self, Folder, VECTORS};

/// A file with what tokens are checked by, and nothing else: no database, no user.
fn configuration(folder: &Folder, context: &Value) -> std::path::PathBuf {
    folder.file("keys.json", &VECTORS["keys"].to_string());
    let toml = format!(
        "[auth.iam]\nclock_skew = \"{}s\"\nregions = {}\n[auth.iam.static]\nkeys_file = \"keys.json\"\nendpoints = {}\n",
        context["skew"], context["regions"], context["endpoints"],
    );
    folder.file("weir.toml", &toml)
}

fn check(config: &Path, context: &Value, token: &[u8]) -> Output {
    let mut command = Proxy::bare().command();
    command
        .args(["token", "check", "--config"])
        .arg(config)
        .args(["--user", context["user"].as_str().unwrap()])
        .args(["--at", context["now_iso"].as_str().unwrap()])
        .args((context["tls"] == false).then_some("--no-tls"))
        .stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // One that has heard enough closes its end.
    let _ = child.stdin.take().unwrap().write_all(token);
    child.wait_with_output().unwrap()
}

#[test]
fn every_vector_through_the_command() {
    let folder = Folder::new("vectors");
    for vector in vectors::all() {
        let (id, context) = (&vector["id"], &vector["context"]);
        let output = check(
            &configuration(&folder, context),
            context,
            &vectors::token(vector),
        );
        let (said, code) = match vector["expect"].as_str().unwrap() {
            "accept" => ("accepted\n".to_owned(), 0),
            _ => (
                format!("refused: {}\n", vector["reason"].as_str().unwrap()),
                1,
            ),
        };
        let seen = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (&*seen, output.status.code()),
            (&*said, Some(code)),
            "{id}: {complaint}"
        );
    }
}

#[test]
fn a_line_feed_is_part_of_what_a_client_sends() {
    let folder = Folder::new("line-feed");
    let vector = vectors::all().next().unwrap();
    let (context, mut token) = (&vector["context"], vectors::token(vector));
    token.push(b'\n');
    let output = check(&configuration(&folder, context), context, &token);
    assert_eq!(output.stdout, b"refused: bad_byte\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("line feed"));
}

#[test]
fn what_can_not_be_checked_is_no_verdict() {
    let folder = Folder::new("wrong");
    let vector = vectors::all().next().unwrap();
    let (context, token) = (&vector["context"], vectors::token(vector));
    let config = configuration(&folder, context);
    for (keys, complaint) in [
        (
            "{\"AKIA\": {\"secret\": 471100}}",
            "keys.json:1: not what is expected",
        ),
        ("471100", "keys.json:1: not what is expected"),
    ] {
        folder.file("keys.json", keys);
        let output = check(&config, context, &token);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            output.stdout.is_empty() && said.contains(complaint),
            "{said}"
        );
        assert!(!said.contains("471100"), "{said}");
    }
    std::fs::remove_file(folder.0.join("keys.json")).unwrap();
    let output = check(&config, context, &token);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("auth.iam.static.keys_file: "), "{said}");
}
