//! Clients that prove themselves by IAM: the options of `[auth.iam]` and its sections, and what they mean together.
//!
//! Knows which validators are configured; does not know how any of them works.

use std::path::PathBuf;
use std::time::Duration;

use super::HostPort;
use super::address::HostPorts;
use super::arn::{Arns, SecretArn};
use super::check::contradiction;
use super::error::{ConfigError, Place};
use super::given::Builtin::{Absent, Is, Required};
use super::given::Values;
use super::layers::Layers;
use super::options::{KIB, ms, secs};
use super::parse::{Length, Maybe, Names, Number, OneOf, Path, Size, Text, Word};
use super::section::{Section, section};
use super::web::{Web, WebAddress};

/// Whether a user comes with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IamMode {
    /// With a password, never with a token.
    Disabled,
    /// Over TLS with either, in the clear with a password.
    Optional,
    /// With a token, never with a password.
    Required,
}

impl Word for IamMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("disabled", Self::Disabled),
        ("optional", Self::Optional),
        ("required", Self::Required),
    ];
}

section! {
    /// Clients that come with a token of AWS instead of a password. A validator exists where its section below is filled in.
    pub(super) struct IamShape in "auth.iam." {
        /// Whether users come with tokens: never, if they like, or always; `iam` of a user overrides it.
        mode: Option<IamMode> = Absent("`required` if a validator is configured, else `disabled`"), Maybe(OneOf::<IamMode>::new()), [];
        /// The longest token that is read; a longer one is refused with 08P01 before it is.
        max_token_bytes: usize = Is("8KiB"), Size(KIB, 64 * KIB - 1), [];
        /// How far ahead a signer's clock may be; the end of a token is never put off.
        clock_skew: Duration = Is("60s"), Length(secs(0), secs(300)), [];
        /// How long a client waits for its token to be checked; it is told 57P03 then.
        validation_timeout: Duration = Is("30s"), Length(secs(1), secs(300)), [];
        /// How long a token that was found valid is taken again without asking, but never past its end.
        cache_ttl: Duration = Is("5m"), Length(secs(0), secs(900)), [];
        /// How long a token that was found invalid is refused again without asking.
        refusal_ttl: Duration = Is("5s"), Length(secs(0), secs(60)), [];
        /// Tokens remembered; those used longest ago make room.
        max_cached_tokens: usize = Is("20000"), Number(1, 1_000_000), [];
        /// Regions that tokens may be signed for.
        regions: Vec<String> = Absent("any"), Names, [];
    }
}

section! {
    /// Tokens of `generate-db-auth-token`, tried by a login to Aurora with the same user and token.
    pub struct IamAurora in "auth.iam.aurora." {
        /// The endpoints that tokens may be made for; filled in, this validator exists.
        endpoints: Vec<HostPort> = Absent("none"), HostPorts, [];
        /// Such logins at a time.
        max_probes: usize = Is("16"), Number(1, 1_000), [];
        /// Such logins a second; AWS advises to stay below 200.
        probes_per_second: u32 = Is("100"), Number(1, 10_000), [];
    }
}

section! {
    /// Tokens of `weir token --for sts`: a presigned GetCallerIdentity that Weir replays to STS.
    pub(super) struct StsShape in "auth.iam.sts." {
        /// The STS that is asked, and no other; filled in, this validator exists.
        endpoint: Option<WebAddress> = Absent("none"), Maybe(Web), [];
        /// The name of this Weir, which tokens are made for.
        weir_id: Option<String> = Absent("none"), Maybe(Text::NotEmpty), [];
        /// Certificate authorities to trust for it, PEM.
        ca_file: Option<PathBuf> = Absent("the public authorities built in"), Maybe(Path), [];
        /// How long an answer may take.
        timeout: Duration = Is("3s"), Length(ms(100), secs(30)), [];
        /// Questions to it at a time.
        max_calls: usize = Is("64"), Number(1, 1_000), [];
        /// Questions to it a second; an account may ask some 600.
        calls_per_second: u32 = Is("300"), Number(1, 10_000), [];
    }
}

section! {
    /// JSON web tokens: of `sts:GetWebIdentityToken`, or of any OpenID Connect issuer.
    pub(super) struct JwtShape in "auth.iam.jwt." {
        /// Whose tokens are taken; filled in, this validator exists.
        issuers: Vec<String> = Absent("none"), Names, [];
        /// What tokens must be made for.
        audience: Option<String> = Absent("none"), Maybe(Text::NotEmpty), [];
        /// Where the keys of the only issuer are.
        jwks_url: Option<WebAddress> = Absent("`/.well-known/jwks.json` of each issuer"), Maybe(Web), [];
        /// A file with keys instead; a relative path may also count from this file.
        jwks_file: Option<PathBuf> = Absent("none"), Maybe(Path), [];
        /// Certificate authorities to trust for fetching keys, PEM.
        ca_file: Option<PathBuf> = Absent("the public authorities built in"), Maybe(Path), [];
        /// The longest that a token may live.
        max_lifetime: Duration = Is("1h"), Length(secs(60), secs(86_400)), [];
        /// How often keys are fetched anew; an unknown key has them fetched earlier, at most every 30 s.
        jwks_refresh: Duration = Is("1h"), Length(secs(30), secs(86_400)), [];
    }
}

section! {
    /// Tokens of `generate-db-auth-token` made with keys that Weir holds itself: for development and users without roles.
    pub(super) struct StaticShape in "auth.iam.static." {
        /// JSON: key id to {"secret", "session_token" or null, "active"}; a relative path may also count from this file. This or `secret_arns` filled in, this validator exists.
        keys_file: Option<PathBuf> = Absent("none"), Maybe(Path), [];
        /// Secrets of Secrets Manager with such JSON; read again every `secrets.ttl`, and when a key is in none of them.
        secret_arns: Vec<SecretArn> = Absent("none"), Arns, [];
        /// Endpoints that tokens may be made for, such as Weir's own.
        endpoints: Vec<HostPort> = Absent("none"), HostPorts, [];
    }
}

section! {
    /// Who may be which user, for `sts` and `jwt`, one `[[auth.iam.map]]` entry each; who is in none stays outside.
    pub struct IamMapping in "auth.iam.map." {
        /// A role or user, by its full ARN; with `jwt` the token's `sub`.
        principal: String = Required, Text::NotEmpty, [];
        /// Lambda functions by ARN, one of which the token must name; `jwt` only.
        functions: Vec<String> = Absent("any, or none"), Names, [];
        /// Users that it may be.
        users: Vec<String> = Absent("must be given"), Names, [];
        /// Databases that it may be in.
        databases: Vec<String> = Absent("all"), Names, [];
    }
}

/// How clients with tokens are let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iam {
    /// Of users that have no mode of their own.
    pub mode: IamMode,
    pub max_token_bytes: usize,
    pub clock_skew: Duration,
    pub validation_timeout: Duration,
    pub cache_ttl: Duration,
    pub refusal_ttl: Duration,
    pub max_cached_tokens: usize,
    /// Empty: any.
    pub regions: Vec<String>,
    pub aurora: Option<IamAurora>,
    pub sts: Option<IamSts>,
    pub jwt: Option<IamJwt>,
    pub static_keys: Option<IamStatic>,
    pub map: Vec<IamMapping>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IamSts {
    pub endpoint: WebAddress,
    pub weir_id: String,
    pub ca_file: Option<PathBuf>,
    pub timeout: Duration,
    pub max_calls: usize,
    pub calls_per_second: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IamJwt {
    /// At least one.
    pub issuers: Vec<IamIssuer>,
    pub audience: String,
    pub ca_file: Option<PathBuf>,
    pub max_lifetime: Duration,
    pub jwks_refresh: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IamIssuer {
    /// As in the token's `iss`.
    pub name: String,
    pub jwks: JwksPlace,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwksPlace {
    File(PathBuf),
    Url(WebAddress),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IamStatic {
    /// This, or `secret_arns`, or both.
    pub keys_file: Option<PathBuf>,
    pub secret_arns: Vec<SecretArn>,
    pub endpoints: Vec<HostPort>,
}

impl Iam {
    pub(super) fn read(layers: &Layers) -> Result<Iam, ConfigError> {
        let values = &layers.house;
        let shape = IamShape::read(values)?;
        let aurora = IamAurora::read(values)?;
        let iam = Iam {
            mode: IamMode::Disabled,
            max_token_bytes: shape.max_token_bytes,
            clock_skew: shape.clock_skew,
            validation_timeout: shape.validation_timeout,
            cache_ttl: shape.cache_ttl,
            refusal_ttl: shape.refusal_ttl,
            max_cached_tokens: shape.max_cached_tokens,
            regions: shape.regions,
            aurora: (!aurora.endpoints.is_empty()).then_some(aurora),
            sts: sts(values)?,
            jwt: jwt(values)?,
            static_keys: static_keys(values)?,
            map: map(layers)?,
        };
        let mode = match shape.mode {
            Some(mode) => mode,
            None if iam.has_validator() => IamMode::Required,
            None => IamMode::Disabled,
        };
        if mode != IamMode::Disabled && !iam.has_validator() {
            let problem = "lets users come with tokens, but nothing can check one: fill in [auth.iam.aurora], \
                 [auth.iam.sts], [auth.iam.jwt] or [auth.iam.static]";
            return Err(contradiction(values, "auth.iam.mode", problem));
        }
        let needs_map = iam.sts.is_some() || iam.jwt.is_some();
        if needs_map && iam.map.is_empty() {
            return Err(ConfigError::Missing {
                what: "auth.iam.sts or auth.iam.jwt is set, but nobody is mapped to a user",
                how: "write [[auth.iam.map]] with `principal` and `users`",
            });
        }
        Ok(Iam { mode, ..iam })
    }

    pub fn has_validator(&self) -> bool {
        self.aurora.is_some()
            || self.sts.is_some()
            || self.jwt.is_some()
            || self.static_keys.is_some()
    }

    /// The sections as a file would have them.
    pub(super) fn shapes(&self) -> Vec<(&'static str, Vec<super::section::Shown>)> {
        let aurora = self.aurora.clone();
        let sts = self.sts.clone();
        let jwt = self.jwt.as_ref();
        let keys = self.static_keys.clone();
        let mut out = vec![("[auth.iam]", self.shape().show())];
        out.extend(aurora.map(|aurora| ("[auth.iam.aurora]", aurora.show())));
        out.extend(sts.map(|sts| ("[auth.iam.sts]", StsShape::from(sts).show())));
        out.extend(jwt.map(|jwt| ("[auth.iam.jwt]", JwtShape::from(jwt).show())));
        out.extend(keys.map(|keys| ("[auth.iam.static]", StaticShape::from(keys).show())));
        let map = self.map.iter();
        out.extend(map.map(|mapping| ("[[auth.iam.map]]", mapping.show())));
        out
    }

    fn shape(&self) -> IamShape {
        IamShape {
            mode: Some(self.mode),
            max_token_bytes: self.max_token_bytes,
            clock_skew: self.clock_skew,
            validation_timeout: self.validation_timeout,
            cache_ttl: self.cache_ttl,
            refusal_ttl: self.refusal_ttl,
            max_cached_tokens: self.max_cached_tokens,
            regions: self.regions.clone(),
        }
    }
}

impl From<IamSts> for StsShape {
    fn from(sts: IamSts) -> StsShape {
        StsShape {
            endpoint: Some(sts.endpoint),
            weir_id: Some(sts.weir_id),
            ca_file: sts.ca_file,
            timeout: sts.timeout,
            max_calls: sts.max_calls,
            calls_per_second: sts.calls_per_second,
        }
    }
}

impl From<&IamJwt> for JwtShape {
    fn from(jwt: &IamJwt) -> JwtShape {
        let (mut jwks_url, mut jwks_file) = (None, None);
        if let [only] = jwt.issuers.as_slice() {
            match &only.jwks {
                JwksPlace::File(path) => jwks_file = Some(path.clone()),
                JwksPlace::Url(url) => jwks_url = Some(url.clone()),
            }
        }
        JwtShape {
            issuers: jwt.issuers.iter().map(|it| it.name.clone()).collect(),
            audience: Some(jwt.audience.clone()),
            jwks_url,
            jwks_file,
            ca_file: jwt.ca_file.clone(),
            max_lifetime: jwt.max_lifetime,
            jwks_refresh: jwt.jwks_refresh,
        }
    }
}

impl From<IamStatic> for StaticShape {
    fn from(keys: IamStatic) -> StaticShape {
        StaticShape {
            keys_file: keys.keys_file,
            secret_arns: keys.secret_arns,
            endpoints: keys.endpoints,
        }
    }
}

fn sts(values: &Values) -> Result<Option<IamSts>, ConfigError> {
    let shape = StsShape::read(values)?;
    let (endpoint, weir_id) = match (shape.endpoint, shape.weir_id) {
        (Some(endpoint), Some(weir_id)) => (endpoint, weir_id),
        (None, None) => return Ok(None),
        (Some(_), None) => {
            let problem = "is set, but auth.iam.sts.weir_id is not: name this Weir, so that tokens can be made for it";
            return Err(contradiction(values, "auth.iam.sts.endpoint", problem));
        }
        (None, Some(_)) => {
            let problem = "is set, but auth.iam.sts.endpoint is not";
            return Err(contradiction(values, "auth.iam.sts.weir_id", problem));
        }
    };
    if endpoint.path != "/" {
        let problem = "has a path: STS has none";
        return Err(contradiction(values, "auth.iam.sts.endpoint", problem));
    }
    // It travels in a header, and signers trim it there.
    if !weir_id.bytes().all(|byte| byte.is_ascii_graphic()) {
        let problem = "must be of printable ASCII without spaces";
        return Err(contradiction(values, "auth.iam.sts.weir_id", problem));
    }
    Ok(Some(IamSts {
        endpoint,
        weir_id,
        ca_file: shape.ca_file,
        timeout: shape.timeout,
        max_calls: shape.max_calls,
        calls_per_second: shape.calls_per_second,
    }))
}

fn jwt(values: &Values) -> Result<Option<IamJwt>, ConfigError> {
    let shape = JwtShape::read(values)?;
    if shape.issuers.is_empty() && shape.audience.is_none() {
        return Ok(None);
    }
    let lacks = |key, problem| Err(contradiction(values, key, problem));
    let Some(audience) = shape.audience else {
        return lacks(
            "auth.iam.jwt.issuers",
            "is set, but auth.iam.jwt.audience is not: say what tokens are made for",
        );
    };
    if shape.issuers.is_empty() {
        return lacks(
            "auth.iam.jwt.audience",
            "is set, but auth.iam.jwt.issuers is not: say whose tokens are taken",
        );
    }
    let elsewhere = match (shape.jwks_url, shape.jwks_file) {
        (Some(_), Some(_)) => {
            return lacks(
                "auth.iam.jwt.jwks_url",
                "and auth.iam.jwt.jwks_file are both set: give one of them",
            );
        }
        (Some(url), None) => Some(("auth.iam.jwt.jwks_url", JwksPlace::Url(url))),
        (None, Some(path)) => {
            let path = beside(values, "auth.iam.jwt.jwks_file", path);
            Some(("auth.iam.jwt.jwks_file", JwksPlace::File(path)))
        }
        (None, None) => None,
    };
    if let Some((key, _)) = &elsewhere
        && shape.issuers.len() > 1
    {
        return lacks(
            key,
            "is of one issuer, but auth.iam.jwt.issuers has several",
        );
    }
    let issuer = |name: String| {
        let jwks = match &elsewhere {
            Some((_, place)) => place.clone(),
            None => {
                let url = format!("{}/.well-known/jwks.json", name.trim_end_matches('/'));
                let url = WebAddress::parse(&url)
                    .map_err(|problem| contradiction(values, "auth.iam.jwt.issuers", problem))?;
                JwksPlace::Url(url)
            }
        };
        Ok(IamIssuer { name, jwks })
    };
    Ok(Some(IamJwt {
        issuers: shape
            .issuers
            .into_iter()
            .map(issuer)
            .collect::<Result<_, _>>()?,
        audience,
        ca_file: shape.ca_file,
        max_lifetime: shape.max_lifetime,
        jwks_refresh: shape.jwks_refresh,
    }))
}

/// A file that is not in the working directory may be beside the configuration that names it.
fn beside(values: &Values, key: &str, path: PathBuf) -> PathBuf {
    let Place::File { path: config, .. } = values.place(key) else {
        return path;
    };
    match config.parent().map(|folder| folder.join(&path)) {
        Some(other) if path.is_relative() && !path.exists() && other.exists() => other,
        Some(_) | None => path,
    }
}

fn static_keys(values: &Values) -> Result<Option<IamStatic>, ConfigError> {
    let shape = StaticShape::read(values)?;
    let has_keys = shape.keys_file.is_some() || !shape.secret_arns.is_empty();
    let beside = |path| beside(values, "auth.iam.static.keys_file", path);
    let lacks = |key, problem| Err(contradiction(values, key, problem));
    let no_endpoints = "is set, but auth.iam.static.endpoints is not: say what tokens may name";
    match (has_keys, shape.endpoints.is_empty()) {
        (false, true) => Ok(None),
        (true, false) => Ok(Some(IamStatic {
            keys_file: shape.keys_file.map(beside),
            secret_arns: shape.secret_arns,
            endpoints: shape.endpoints,
        })),
        (false, false) => lacks(
            "auth.iam.static.endpoints",
            "is set, but neither auth.iam.static.keys_file nor auth.iam.static.secret_arns is",
        ),
        (true, true) if shape.keys_file.is_some() => {
            lacks("auth.iam.static.keys_file", no_endpoints)
        }
        (true, true) => lacks("auth.iam.static.secret_arns", no_endpoints),
    }
}

fn map(layers: &Layers) -> Result<Vec<IamMapping>, ConfigError> {
    let read = |values: &Values| {
        let mapping = IamMapping::read(values)?;
        if mapping.users.is_empty() {
            return Err(ConfigError::Contradiction {
                place: values.place.clone(),
                key: "auth.iam.map.users".to_owned(),
                problem: "must be given: the users that the principal may be".to_owned(),
            });
        }
        Ok(mapping)
    };
    layers.map.iter().map(read).collect()
}
