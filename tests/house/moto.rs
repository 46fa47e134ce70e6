//! Secrets Manager, played by moto on a free port, and the steps of a rotation as verbs.
//!
//! Knows its HTTP; does not know what the secrets open.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::programs::signal;
use super::proxy::Setup;
use super::{eventually, free_port, http, local};

pub struct Moto {
    pub address: SocketAddr,
    child: Child,
    pid: u32,
}

/// Ends moto when this process ends, however it does: our end of the pipe closes then.
const KEEPER: &str = r#"
"$@" >/dev/null 2>&1 </dev/null &
child=$!
echo $child
read -r signal
kill -9 $child
"#;

impl Moto {
    pub fn start() -> Moto {
        let address = local(free_port());
        let python = concat!(env!("CARGO_MANIFEST_DIR"), "/.work/python/bin/python");
        let mut child = Command::new("sh")
            .args([
                "-c",
                KEEPER,
                "keeper",
                python,
                "-m",
                "moto.server",
                "-H",
                "127.0.0.1",
                "-p",
            ])
            .arg(address.port().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh runs");
        let pid = line(child.stdout.as_mut().unwrap()).parse().unwrap();
        let moto = Moto {
            address,
            child,
            pid,
        };
        eventually(
            "did moto answer",
            || http::get(address, "/moto-api/").is_ok(),
            |up| *up,
        );
        moto
    }

    /// A new secret of this text: its ARN.
    pub fn create(&self, name: &str, text: &str) -> String {
        let made = self.ask("CreateSecret", &json!({"Name": name, "SecretString": text}));
        made["ARN"].as_str().unwrap().to_owned()
    }

    /// Overwrites the value in force, as people do by hand.
    pub fn put(&self, arn: &str, text: &str) {
        self.ask(
            "PutSecretValue",
            &json!({"SecretId": arn, "SecretString": text}),
        );
    }

    /// A rotation's first step: the value that is to come.
    pub fn put_pending(&self, arn: &str, text: &str) -> String {
        let made = self.ask(
            "PutSecretValue",
            &json!({"SecretId": arn, "SecretString": text, "VersionStages": ["AWSPENDING"]}),
        );
        made["VersionId"].as_str().unwrap().to_owned()
    }

    /// A rotation's last step: the pending value is the one in force.
    pub fn finish(&self, arn: &str, version: &str) {
        let current = self.ask(
            "GetSecretValue",
            &json!({"SecretId": arn, "VersionStage": "AWSCURRENT"}),
        );
        self.ask(
            "UpdateSecretVersionStage",
            &json!({
                "SecretId": arn, "VersionStage": "AWSCURRENT",
                "MoveToVersionId": version, "RemoveFromVersionId": current["VersionId"],
            }),
        );
        let current = self.ask(
            "GetSecretValue",
            &json!({"SecretId": arn, "VersionStage": "AWSCURRENT"}),
        );
        assert_eq!(current["VersionId"], version);
        let previous = self.ask(
            "GetSecretValue",
            &json!({"SecretId": arn, "VersionStage": "AWSPREVIOUS"}),
        );
        assert_ne!(previous["VersionId"], version);
    }

    fn ask(&self, action: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        write!(
            stream,
            "POST / HTTP/1.1\r\nHost: secretsmanager.eu-west-1.amazonaws.com\r\nContent-Type: application/x-amz-json-1.1\r\n\
             X-Amz-Target: secretsmanager.{action}\r\nContent-Length: {}\r\nConnection: close\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=x/20260101/eu-west-1/secretsmanager/aws4_request, SignedHeaders=host, Signature=x\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{action}: {text}");
        serde_json::from_str(body).unwrap_or_else(|_| json!({}))
    }

    /// It takes connections and answers none.
    pub fn freeze(&mut self) {
        signal(self.pid, "STOP");
    }

    pub fn thaw(&mut self) {
        signal(self.pid, "CONT");
    }

    /// It is gone, and everything in it.
    pub fn kill(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// What the keeper says first.
fn line(mut from: impl Read) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while from.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Everything that a Weir needs to ask this Secrets Manager.
pub fn with_aws(setup: Setup, address: SocketAddr) -> Setup {
    setup
        .set("AWS_ENDPOINT_URL", &format!("http://{address}"))
        .set("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        .set("AWS_SECRET_ACCESS_KEY", "not-a-real-key")
}

pub fn secret(username: &str, password: &str) -> String {
    json!({"username": username, "password": password}).to_string()
}
