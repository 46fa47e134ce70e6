//! The tokens of `tests/iam-vectors.json.gz`, each with what must come of it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

/// Kept compressed: their keys, of nobody, look real to those who search for leaks.
pub static VECTORS: LazyLock<Value> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/iam-vectors.json.gz");
    let text = Command::new("gzip").args(["-dc", path]).output().unwrap();
    serde_json::from_slice(&text.stdout).unwrap()
});

pub fn all() -> impl Iterator<Item = &'static Value> {
    VECTORS["vectors"].as_array().unwrap().iter()
}

/// The very bytes of a vector's token.
pub fn token(vector: &Value) -> Vec<u8> {
    match &vector["token_hex"] {
        Value::String(hex) => (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect(),
        _ => vector["token"].as_str().unwrap().as_bytes().to_vec(),
    }
}

/// A folder of its own, gone with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("weir-auth-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
