//! What people read about the configuration: the reference, and a configuration printed as it was understood.
//!
//! Knows no option of its own: all of it comes from the units in `options`.

use std::fmt::Write as _;

use super::address::HostMaybePort;
use super::given::Builtin;
use super::options::{self, DatabaseShape, FleetShape, House, TlsShape, UserShape};
use super::parse::DURATIONS;
use super::section::{Opt, Section, Shown};
use super::{Config, Credential, Fleet, HostPort, User};

/// The README's table of all options, in Markdown.
pub fn reference_markdown() -> String {
    let mut out = String::new();
    for (name, about, options) in options::sections() {
        let title = if name.is_empty() {
            "Above all sections".to_owned()
        } else {
            format!("`{name}`")
        };
        let _ = write!(
            out,
            "**{title}**: {about}\n\n| key | default | allowed | meaning |\n|---|---|---|---|\n"
        );
        for option in options {
            out.push_str(&row(&option));
        }
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn row(option: &Opt) -> String {
    let short = option.key.rsplit('.').next().unwrap_or(option.key);
    let variables: String = option.env.iter().map(|v| format!("<br>`{v}`")).collect();
    let default = match option.builtin {
        Builtin::Is("") => "empty".to_owned(),
        Builtin::Is(text) => format!("`{text}`"),
        Builtin::Absent(words) => words.to_owned(),
        Builtin::Required => "must be given".to_owned(),
    };
    let cell = |text: &str| text.trim().replace('|', "\\|");
    // How a length of time is written is said once, above the table.
    let allowed = option.allowed.replace(DURATIONS, "");
    format!(
        "| `{short}`{variables} | {} | {} | {} |\n",
        cell(&default),
        cell(&allowed),
        cell(option.doc)
    )
}

impl From<&Fleet> for FleetShape {
    fn from(fleet: &Fleet) -> FleetShape {
        FleetShape {
            discover: Some(fleet.discover.clone()),
            listen: fleet.listen,
            key: Some(fleet.key.clone()),
            refresh: fleet.refresh,
            settle: fleet.settle,
            max_requests: fleet.max_requests,
            max_tasks: fleet.max_tasks,
            answer_timeout: fleet.answer_timeout,
            cancel_timeout: fleet.cancel_timeout,
        }
    }
}

impl Config {
    /// This configuration as a file would say it, secrets left out, every default spelled out.
    pub fn redacted_toml(&self) -> String {
        let mut out = String::new();
        let house = House {
            workers: Some(self.workers.get()),
            drain_timeout: self.drain_timeout,
            drain_delay: self.drain_delay,
        };
        section(&mut out, "", &house.show());
        section(&mut out, "[listen]", &self.listen.show());
        section(&mut out, "[tls]", &self.tls_shape().show());
        section(&mut out, "[database]", &self.database_shape().show());
        section(&mut out, "[dns]", &self.dns.show());
        section(&mut out, "[pool]", &self.pool.show());
        section(&mut out, "[cluster]", &self.cluster.show());
        section(&mut out, "[session]", &self.session.show());
        section(&mut out, "[auth]", &self.auth.show());
        for (header, shown) in self.iam.shapes() {
            section(&mut out, header, &shown);
        }
        if let Some(fleet) = &self.fleet {
            section(&mut out, "[fleet]", &FleetShape::from(fleet).show());
        }
        section(&mut out, "[log]", &self.log.show());
        section(&mut out, "[secrets]", &self.secrets.show());
        for user in &self.users {
            section(&mut out, "[[users]]", &user.shape().show());
        }
        out
    }

    fn tls_shape(&self) -> TlsShape {
        let files = self.tls.files.as_ref();
        TlsShape {
            cert: files.map(|f| f.cert.clone()),
            key: files.map(|f| f.key.clone()),
            require: self.tls.mode,
            client_ca_file: self.tls.clients.as_ref().map(|c| c.ca_file.clone()),
            crl_file: self.tls.clients.as_ref().and_then(|c| c.crl_file.clone()),
        }
    }

    fn database_shape(&self) -> DatabaseShape {
        let database = self.database.clone();
        let hosts = |hosts: Vec<HostPort>| {
            hosts
                .into_iter()
                .map(|h| HostMaybePort {
                    host: h.host,
                    port: Some(h.port),
                })
                .collect()
        };
        DatabaseShape {
            port: database.hosts.first().map_or(5432, |h| h.port),
            reader_port: database.reader_hosts.first().map(|h| h.port),
            host: hosts(database.hosts),
            reader_host: hosts(database.reader_hosts),
            name: database.name,
            ssl: Some(database.ssl),
            ca_file: database.ca_file,
            connect_timeout: database.connect_timeout,
            keepalive_idle: database.keepalive_idle,
            keepalive_interval: database.keepalive_interval,
            keepalive_retries: database.keepalive_retries,
            tcp_user_timeout: database.tcp_user_timeout,
        }
    }
}

impl User {
    fn shape(&self) -> UserShape {
        let mut shape = UserShape {
            name: self.name.clone(),
            password: None,
            verifier: None,
            secret_arn: None,
            default_auth_scheme: self.scheme,
            auth: self.method,
            certificate_names: self.certificate_names.clone(),
            iam: Some(self.iam),
            pool_max_connections: self.pool_max_connections,
        };
        match &self.credential {
            Credential::Password(secret) => shape.password = Some(secret.clone()),
            Credential::Verifier(secret) => shape.verifier = Some(secret.clone()),
            Credential::Secret(arn) => shape.secret_arn = Some(arn.clone()),
            Credential::Absent => {}
        }
        shape
    }
}

fn section(out: &mut String, header: &str, shown: &[Shown]) {
    if !header.is_empty() {
        let _ = write!(out, "\n{header}\n");
    }
    for (key, value) in shown {
        let short = key.rsplit('.').next().unwrap_or(key);
        match value {
            Some(value) => _ = writeln!(out, "{short} = {value}"),
            None => _ = writeln!(out, "# {short} is not set"),
        }
    }
}
