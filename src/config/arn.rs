//! Names of secrets in AWS Secrets Manager.
//!
//! Knows how such a name is written; not whether there is such a secret.

use std::fmt;

use super::given::Raw;
use super::parse::{Parser, quoted};

/// `arn:aws:secretsmanager:<region>:<account>:secret:<name>`. No secret itself.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SecretArn(String);

const FORM: &str = "arn:aws:secretsmanager:<region>:<account>:secret:<name>";

impl SecretArn {
    pub fn parse(text: &str) -> Result<SecretArn, &'static str> {
        let parts: Vec<&str> = text.split(':').collect();
        let [
            "arn",
            partition,
            "secretsmanager",
            region,
            account,
            "secret",
            name,
        ] = parts[..]
        else {
            return Err("is not the ARN of a secret");
        };
        let of =
            |text: &str, allowed: fn(u8) -> bool| !text.is_empty() && text.bytes().all(allowed);
        let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if partition != "aws" && !partition.starts_with("aws-") || !of(partition, word) {
            return Err("names no partition of AWS");
        }
        if !of(region, word) {
            return Err("names no region");
        }
        if account.len() != 12 || !of(account, |byte| byte.is_ascii_digit()) {
            return Err("names no account of 12 digits");
        }
        // `!` is in the names of secrets that RDS manages.
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+=.@-!".contains(&byte);
        if name.len() > 519 || !of(name, named) {
            return Err("names no secret");
        }
        Ok(SecretArn(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn region(&self) -> &str {
        self.0.split(':').nth(3).unwrap_or_default()
    }
}

impl fmt::Display for SecretArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SecretArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One of them.
pub struct Arn;

impl Parser for Arn {
    type Out = SecretArn;

    fn parse(&self, raw: &Raw) -> Result<SecretArn, String> {
        Ok(SecretArn::parse(raw.text()?.trim())?)
    }

    fn allowed(&self) -> String {
        FORM.into()
    }

    fn show(&self, value: &SecretArn) -> Option<String> {
        Some(quoted(value.as_str()))
    }
}

/// Any number of them, each once.
pub struct Arns;

impl Parser for Arns {
    type Out = Vec<SecretArn>;

    fn parse(&self, raw: &Raw) -> Result<Vec<SecretArn>, String> {
        let text = raw.text()?;
        let mut arns = Vec::new();
        for part in text.split(',').map(str::trim).filter(|s| !s.is_empty()) {
            let arn = SecretArn::parse(part)
                .map_err(|problem| format!("holds {part:?}, which {problem}"))?;
            if arns.contains(&arn) {
                return Err(format!("names {arn} twice"));
            }
            arns.push(arn);
        }
        Ok(arns)
    }

    fn allowed(&self) -> String {
        format!("{FORM}, or several with commas between")
    }

    fn show(&self, value: &Vec<SecretArn>) -> Option<String> {
        let arns: Vec<&str> = value.iter().map(SecretArn::as_str).collect();
        (!arns.is_empty()).then(|| quoted(arns.join(",")))
    }

    fn absent(&self) -> Option<Vec<SecretArn>> {
        Some(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_arns_of_secrets() {
        let good = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:rds!cluster-1-AbCdEf";
        assert_eq!(SecretArn::parse(good).unwrap().region(), "eu-west-1");
        for good in [
            "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:app/db-AbCdEf",
            "arn:aws-us-gov:secretsmanager:us-gov-west-1:123456789012:secret:x",
        ] {
            assert_eq!(SecretArn::parse(good).unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("", "is not the ARN"),
            ("app/db", "is not the ARN"),
            (
                "arn:aws:rds:eu-west-1:123456789012:cluster:x",
                "is not the ARN",
            ),
            (
                "arn:aws:secretsmanager:eu-west-1:123456789012:secret:x:username::",
                "is not the ARN",
            ),
            (
                "arn:azure:secretsmanager:eu-west-1:123456789012:secret:x",
                "partition",
            ),
            ("arn:aws:secretsmanager::123456789012:secret:x", "region"),
            ("arn:aws:secretsmanager:eu-west-1:12345:secret:x", "account"),
            (
                "arn:aws:secretsmanager:eu-west-1:123456789012:secret:",
                "names no secret",
            ),
            (
                "arn:aws:secretsmanager:eu-west-1:123456789012:secret:a b",
                "names no secret",
            ),
        ] {
            assert!(SecretArn::parse(bad).unwrap_err().contains(why), "{bad}");
        }
        let list = format!("{good},{good}");
        assert!(Arns.parse(&Raw::Text(list)).unwrap_err().contains("twice"));
        assert_eq!(
            Arns.parse(&Raw::Text(format!(" {good}, "))).unwrap().len(),
            1
        );
    }
}
