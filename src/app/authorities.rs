//! Which authorities the database's certificate has to come from.
//!
//! Knows where RDS's bundle is put by custom; does not know what is in it.

use std::path::{Path, PathBuf};

use super::build::StartError;
use crate::config::{Database, SslMode};

/// Where images, packages and people put AWS's `global-bundle.pem`.
const RDS_BUNDLES: [&str; 3] = [
    "/etc/ssl/rds/global-bundle.pem",
    "/etc/weir/global-bundle.pem",
    "/usr/local/share/ca-certificates/rds-global-bundle.pem",
];

/// The bundle to trust as PEM; `None`: the public authorities.
pub fn authorities(database: &Database) -> Result<Option<Vec<u8>>, StartError> {
    let Some(path) = bundle(database, &RDS_BUNDLES.map(PathBuf::from)) else {
        return Ok(None);
    };
    tracing::info!(file = %path.display(), "authorities of the database's certificate");
    match std::fs::read(&path) {
        Ok(pem) => Ok(Some(pem)),
        Err(source) => Err(StartError::AuthoritiesFile { path, source }),
    }
}

/// The file that was given; or for RDS, whose authorities are not among the public ones, the first that is there.
/// Only where the certificate is verified: with authorities, `require` would mean more than it says.
fn bundle(database: &Database, customary: &[PathBuf]) -> Option<PathBuf> {
    let is_verified = matches!(database.ssl, SslMode::VerifyCa | SslMode::VerifyFull);
    let mut hosts = database.hosts.iter().chain(&database.reader_hosts);
    if database.ca_file.is_some() || !is_verified || !hosts.any(|host| is_of_rds(&host.host)) {
        return database.ca_file.clone();
    }
    let found = customary.iter().find(|path| Path::is_file(path)).cloned();
    if found.is_none() {
        tracing::warn!(
            looked_at = RDS_BUNDLES.join(","),
            "RDS's certificate authorities are not among the public ones, and its bundle is not there: \
             put AWS's global-bundle.pem at one of these places, or set AURORA_CA_FILE"
        );
    }
    found
}

/// An instance or cluster; RDS Proxy's certificates come from a public authority.
fn is_of_rds(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let suffixes = [".rds.amazonaws.com", ".rds.amazonaws.com.cn"];
    suffixes.iter().any(|suffix| host.ends_with(suffix)) && !host.contains(".proxy-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(variables: &[(&str, &str)]) -> Database {
        let user = [("AURORA_USER", "app"), ("AURORA_PASSWORD", "x")];
        let all = user.iter().chain(variables);
        let owned = all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        crate::config::load(None, owned).unwrap().database
    }

    #[test]
    fn rds_bundle_is_found_where_it_is_needed() {
        let here = std::env::temp_dir().join(format!("weir-bundle-{}.pem", std::process::id()));
        std::fs::write(&here, "").unwrap();
        let customary = ["/nowhere/global-bundle.pem".into(), here.clone()];
        let rds = "orders.cluster-x.eu-west-1.RDS.amazonaws.com";
        for (host, ssl, expected) in [
            (rds, "true", Some(&here)),
            (
                "local.example,orders.x.rds.amazonaws.com.cn",
                "verify-ca",
                Some(&here),
            ),
            (rds, "require", None),
            ("orders.proxy-x.eu-west-1.rds.amazonaws.com", "true", None),
            ("rds.amazonaws.com.evil.example", "true", None),
            ("db.example", "true", None),
        ] {
            let database = database(&[("AURORA_HOST", host), ("AURORA_SSL", ssl)]);
            assert_eq!(
                bundle(&database, &customary).as_ref(),
                expected,
                "{host} {ssl}"
            );
        }
        let given = [("AURORA_HOST", rds), ("AURORA_CA_FILE", "/mine.pem")];
        let database = database(&given);
        assert_eq!(bundle(&database, &customary), Some("/mine.pem".into()));
        std::fs::remove_file(&here).unwrap();
        assert_eq!(
            bundle(&self::database(&[("AURORA_HOST", rds)]), &customary),
            None
        );
    }
}
