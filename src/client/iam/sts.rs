//! The token of `weir token --for sts`: a presigned GetCallerIdentity, which STS alone can check.
//!
//! Knows its form, the request that Weir makes of it, and how to read STS's answer; sends nothing. Pure.
//!
//! `weir-sts-v1.` and, in base64url without padding, the URL, signed with the headers host, x-weir-id and x-weir-user.
//! Weir never sends the client's URL: it writes a request of its own from the fields, with its own name and the user who
//! knocks in the headers, so that a token made for another Weir or another user is none (CVE-2020-16250 was a client
//! that steered the request, CVE-2022-2385 a parameter that came twice, in another case).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::presigned::{Query, Signed, name};
use super::reason::Reason;
use super::sigv4;
use super::time::Seconds;

pub const PREFIX: &str = "weir-sts-v1.";

/// What a client signs, in SigV4's order.
pub const SIGNED_HEADERS: &str = "host;x-weir-id;x-weir-user";

const VERSION: &str = "Version";

const NAMES: [&str; 9] = [
    "Action",
    VERSION,
    name::ALGORITHM,
    name::CREDENTIAL,
    name::DATE,
    name::EXPIRES,
    name::SECURITY_TOKEN,
    name::SIGNED_HEADERS,
    name::SIGNATURE,
];

/// A token that says what it must.
pub struct StsToken {
    query: Query,
    signed: Signed,
}

impl StsToken {
    /// `authority` is that of the STS that Weir asks.
    pub fn parse(text: &str, authority: &str) -> Result<StsToken, Reason> {
        let coded = text.strip_prefix(PREFIX).ok_or(Reason::NotAToken)?;
        let url = URL_SAFE_NO_PAD
            .decode(coded)
            .map_err(|_| Reason::NotAToken)?;
        if !url.iter().all(u8::is_ascii_graphic) {
            return Err(Reason::BadByte);
        }
        let url = std::str::from_utf8(&url).map_err(|_| Reason::BadByte)?;
        let rest = url.strip_prefix("https://").ok_or(Reason::NotAToken)?;
        let (host, query) = rest.split_once("/?").ok_or(Reason::NotAToken)?;
        if query.contains(['?', '#']) || host.contains(['/', '?', '#', '@', '\\', '%']) {
            return Err(Reason::NotAToken);
        }
        let query = Query::parse(query, &NAMES)?;
        let signed = query.signed("GetCallerIdentity", SIGNED_HEADERS, "sts")?;
        if query.value(VERSION) != "2011-06-15" {
            return Err(Reason::WrongAction);
        }
        if host != authority {
            return Err(Reason::HostMismatch);
        }
        Ok(StsToken { query, signed })
    }

    pub fn check(&self, regions: &[String], now: Seconds, skew: Seconds) -> Result<(), Reason> {
        if !regions.is_empty() && !regions.contains(&self.signed.region) {
            return Err(Reason::WrongRegion);
        }
        self.signed.check_time(now, skew)
    }

    pub fn expires(&self) -> Seconds {
        self.signed.expires()
    }

    /// Path and query of Weir's own request.
    pub fn target(&self) -> String {
        let mut out = format!("/?{}&{}=", self.query.canonical(), name::SIGNATURE);
        sigv4::encode(self.query.value(name::SIGNATURE), &mut out);
        out
    }
}

impl fmt::Debug for StsToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StsToken([redacted])")
    }
}

/// A user's name as it travels in a header, which takes neither every byte nor spaces at its ends.
pub fn header_value(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    sigv4::encode(text, &mut out);
    out
}

/// The one ARN of an answer to GetCallerIdentity; `None` where there is not exactly one identity.
///
/// A parser of all that XML may be would be more to trust than these few tags, which STS writes without attributes,
/// comments or entities.
pub fn read_identity(answer: &str) -> Option<&str> {
    let only = |text: &'_ str, tag: &str| -> Option<(usize, usize)> {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        let start = text.find(&open)? + open.len();
        let end = start + text.get(start..)?.find(&close)?;
        let once = |what: &str| text.matches(what).count() == 1;
        (once(&open) && once(&close)).then_some((start, end))
    };
    let root = answer.trim_start();
    let root = match root.strip_prefix("<?xml") {
        Some(rest) => rest.split_once("?>")?.1.trim_start(),
        None => root,
    };
    if !root.starts_with("<GetCallerIdentityResponse") || answer.contains("<!") {
        return None;
    }
    let (start, end) = only(answer, "GetCallerIdentityResult")?;
    let result = answer.get(start..end)?;
    let (start, end) = only(result, "Arn")?;
    let arn = result.get(start..end)?.trim();
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '<' | '>' | '&');
    let whole = answer.matches("<Arn").count() == 1 && arn.starts_with("arn:");
    (whole && arn.chars().all(plain)).then_some(arn)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "sts.eu-west-1.amazonaws.com";
    const NOW: Seconds = 1_767_323_050;
    const URL: &str = "https://sts.eu-west-1.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAHHUMJP3ZETLCF5QK%2F20260102%2Feu-west-1%2Fsts%2Faws4_request&X-Amz-Date=20260102T030405Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host%3Bx-weir-id%3Bx-weir-user&X-Amz-Signature=3ba0751d30418d7f731f00f7ca9d77d73258dcb419981bf315ac11e3165f8cee";

    fn token(url: &str) -> String {
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(url))
    }

    fn judge(text: &str) -> Result<StsToken, Reason> {
        let token = StsToken::parse(text, HOST)?;
        token.check(&["eu-west-1".to_owned()], NOW, 60)?;
        Ok(token)
    }

    #[test]
    fn the_request_is_made_anew_from_the_fields() {
        let expected = URL
            .strip_prefix("https://")
            .and_then(|url| url.strip_prefix(HOST));
        assert_eq!(Some(&*judge(&token(URL)).unwrap().target()), expected);
        // Turned around and escaped without need, it leads to the same request.
        let (head, query) = URL.split_once('?').unwrap();
        let mut segments: Vec<&str> = query.split('&').collect();
        segments.reverse();
        let turned = format!("{head}?{}", segments.join("&")).replace("Caller", "%43aller");
        assert_eq!(Some(&*judge(&token(&turned)).unwrap().target()), expected);
    }

    #[test]
    fn what_must_be_refused() {
        for (piece, instead, reason) in [
            ("https://", "http://", "not_a_token"),
            ("https://", "", "not_a_token"),
            ("amazonaws.com/?", "amazonaws.com/x?", "not_a_token"),
            ("amazonaws.com/?", "amazonaws.com//?", "not_a_token"),
            ("amazonaws.com/?", "amazonaws.com/#?", "not_a_token"),
            ("2011-06-15", "2011-06-15#x", "not_a_token"),
            ("2011-06-15", "2011-06-15?x", "not_a_token"),
            (HOST, "user@sts.eu-west-1.amazonaws.com", "not_a_token"),
            (
                HOST,
                "sts.eu-west-1.amazonaws.com.evil.example",
                "host_mismatch",
            ),
            (HOST, "sts.amazonaws.com", "host_mismatch"),
            (HOST, "sts.eu-west-1.amazonaws.com:443", "host_mismatch"),
            (HOST, "169.254.169.254", "host_mismatch"),
            ("GetCallerIdentity", "GetSessionToken", "wrong_action"),
            ("GetCallerIdentity", "AssumeRole", "wrong_action"),
            ("2011-06-15", "2010-01-01", "wrong_action"),
            ("Version=", "version=", "unknown_param"),
            ("Version=", "RoleArn=x&Version=", "unknown_param"),
            ("Action=", "action=x&Action=", "unknown_param"),
            ("Action=", "Action=x&Action=", "duplicate_param"),
            ("Version=2011-06-15&", "", "missing_param"),
            (
                "host%3Bx-weir-id%3Bx-weir-user",
                "host",
                "wrong_signed_headers",
            ),
            (
                "host%3Bx-weir-id%3Bx-weir-user",
                "host%3Bx-weir-id",
                "wrong_signed_headers",
            ),
            (
                "x-weir-user",
                "x-weir-user%3Bx-other",
                "wrong_signed_headers",
            ),
            ("%2Fsts%2F", "%2Frds-db%2F", "wrong_service"),
            ("west-1%2Fsts", "west-2%2Fsts", "wrong_region"),
            ("20260102T030405Z", "20260102T024405Z", "expired"),
            ("20260102T030405Z", "20260102T030515Z", "future"),
            ("Expires=900", "Expires=901", "bad_expires"),
            (
                "X-Amz-Signature=3",
                "X-Amz-Signature=",
                "bad_signature_form",
            ),
            ("2011-06-15", "2011-06-15\n", "bad_byte"),
        ] {
            assert!(URL.contains(piece), "{piece}");
            let seen = judge(&token(&URL.replacen(piece, instead, 1))).map(drop);
            assert_eq!(
                seen.map_err(Reason::as_str),
                Err(reason),
                "{piece} as {instead}"
            );
        }
        let padded = token(URL) + "=";
        for text in [
            &padded,
            "weir-sts-v1.",
            "weir-sts-v1.%%%",
            "weir-sts-v2.aHR0cHM6Ly8",
        ] {
            assert_eq!(judge(text).map(drop), Err(Reason::NotAToken), "{text}");
        }
    }

    #[test]
    fn one_identity_or_none() {
        let answer = |inside: &str| {
            format!(
                "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  <GetCallerIdentityResult>{inside}</GetCallerIdentityResult>\n<ResponseMetadata><RequestId>x</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
            )
        };
        let arn = "arn:aws:sts::123456789012:assumed-role/orders-fn/x";
        let one = format!("<Arn>{arn}</Arn><UserId>A</UserId><Account>123456789012</Account>");
        assert_eq!(read_identity(&answer(&one)), Some(arn));
        let declared = format!("<?xml version=\"1.0\"?>\n{}", answer(&one));
        assert_eq!(read_identity(&declared), Some(arn));
        for bad in [
            answer(&format!("{one}{one}")),
            answer(&format!("{one}<Arn x=\"y\">arn:aws:iam::1:role/x</Arn>")),
            answer(&one).repeat(2),
            answer("<UserId>A</UserId>"),
            answer("<Arn>role</Arn>"),
            answer(&format!("<!-- {one} -->")),
            answer("<Arn>arn:aws:&amp;</Arn>"),
            format!("<ErrorResponse>{}</ErrorResponse>", answer(&one)),
            format!("{{\"Arn\": \"{arn}\"}}"),
            String::new(),
        ] {
            assert_eq!(read_identity(&bad), None, "{bad}");
        }
    }
}
