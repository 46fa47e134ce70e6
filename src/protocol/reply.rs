//! Messages as a server writes them, and the few fields Weir reads from them.
//!
//! Knows the shape of replies; does not know when one is due.

use super::frame::{put, put_cstr, split_cstr};
use super::tag::backend;
use super::{CancelKey, SqlState};

/// How bad it is: ERROR leaves the session alive, FATAL ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Fatal,
}

impl Severity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        }
    }
}

/// An ErrorResponse in the making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorReply {
    pub severity: Severity,
    pub sqlstate: SqlState,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl ErrorReply {
    pub fn put(&self, out: &mut Vec<u8>) {
        put(out, backend::ERROR_RESPONSE, |body| {
            let mut field = |code: u8, text: &str| {
                body.push(code);
                put_cstr(body, text.as_bytes());
            };
            field(b'S', self.severity.as_str());
            field(b'V', self.severity.as_str());
            field(b'C', self.sqlstate.as_str());
            field(b'M', &self.message);
            if let Some(detail) = &self.detail {
                field(b'D', detail);
            }
            if let Some(hint) = &self.hint {
                field(b'H', hint);
            }
            body.push(0);
        });
    }
}

/// A NoticeResponse in the making.
#[derive(Clone, Copy, Debug)]
pub struct Notice<'a> {
    pub severity: &'static str,
    pub sqlstate: &'static str,
    pub message: &'a str,
    pub detail: Option<&'a str>,
    pub hint: Option<&'a str>,
}

impl Notice<'_> {
    pub fn put(&self, out: &mut Vec<u8>) {
        put(out, backend::NOTICE_RESPONSE, |body| {
            for (code, text) in [
                (b'S', Some(self.severity)),
                (b'V', Some(self.severity)),
                (b'C', Some(self.sqlstate)),
                (b'M', Some(self.message)),
                (b'D', self.detail),
                (b'H', self.hint),
            ] {
                if let Some(text) = text {
                    body.push(code);
                    put_cstr(body, text.as_bytes());
                }
            }
            body.push(0);
        });
    }
}

/// Transaction status, the byte of ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TxStatus {
    #[default]
    Idle,
    InTransaction,
    Failed,
}

impl TxStatus {
    pub const fn from_byte(byte: u8) -> Option<TxStatus> {
        match byte {
            b'I' => Some(TxStatus::Idle),
            b'T' => Some(TxStatus::InTransaction),
            b'E' => Some(TxStatus::Failed),
            _ => None,
        }
    }

    pub const fn as_byte(self) -> u8 {
        match self {
            TxStatus::Idle => b'I',
            TxStatus::InTransaction => b'T',
            TxStatus::Failed => b'E',
        }
    }
}

pub fn put_ready_for_query(out: &mut Vec<u8>, status: TxStatus) {
    put(out, backend::READY_FOR_QUERY, |body| {
        body.push(status.as_byte())
    });
}

pub fn put_command_complete(out: &mut Vec<u8>, command_tag: &str) {
    put(out, backend::COMMAND_COMPLETE, |body| {
        put_cstr(body, command_tag.as_bytes());
    });
}

pub fn put_parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    put(out, backend::PARAMETER_STATUS, |body| {
        put_cstr(body, name);
        put_cstr(body, value);
    });
}

pub fn put_backend_key_data(out: &mut Vec<u8>, key: &CancelKey) {
    put(out, backend::BACKEND_KEY_DATA, |body| {
        body.extend_from_slice(&key.pid.to_be_bytes());
        body.extend_from_slice(key.secret());
    });
}

/// One field of an ErrorResponse or NoticeResponse body, by its code ('C' is the SQLSTATE,
/// 'V' the severity that is never translated). The body may be cut short: what is whole is found.
pub fn error_field(mut body: &[u8], code: u8) -> Option<&[u8]> {
    while let Some((&field, rest)) = body.split_first() {
        if field == 0 {
            return None;
        }
        let (text, rest) = split_cstr(rest)?;
        if field == code {
            return Some(text);
        }
        body = rest;
    }
    None
}

/// Name and value of a ParameterStatus body.
pub fn parameter_status(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = split_cstr(body)?;
    let (value, _) = split_cstr(rest)?;
    Some((name, value))
}

/// What a NotificationResponse says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification<'a> {
    /// The process that notified.
    pub pid: i32,
    pub channel: &'a [u8],
    pub payload: &'a [u8],
}

/// Reads a NotificationResponse body.
pub fn notification(body: &[u8]) -> Option<Notification<'_>> {
    let (pid, rest) = body.split_first_chunk::<4>()?;
    let (channel, rest) = split_cstr(rest)?;
    let (payload, _) = split_cstr(rest)?;
    Some(Notification {
        pid: i32::from_be_bytes(*pid),
        channel,
        payload,
    })
}

/// The values of a DataRow body; `None` inside is NULL.
pub fn data_row(body: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut values = Vec::new();
    for _ in 0..i16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        match usize::try_from(i32::from_be_bytes(*length)) {
            Ok(length) => {
                let (value, after) = after.split_at_checked(length)?;
                values.push(Some(value));
                rest = after;
            }
            Err(_) => {
                values.push(None);
                rest = after;
            }
        }
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_written_and_its_fields_read_back() {
        let mut out = Vec::new();
        ErrorReply {
            severity: Severity::Fatal,
            sqlstate: SqlState::PROTOCOL_VIOLATION,
            message: "bad".into(),
            detail: None,
            hint: Some("good".into()),
        }
        .put(&mut out);
        assert_eq!(
            out,
            b"E\0\0\0\x25SFATAL\0VFATAL\0C08P01\0Mbad\0Hgood\0\0".to_vec()
        );
        let body = &out[5..];
        assert_eq!(error_field(body, b'C'), Some(&b"08P01"[..]));
        assert_eq!(error_field(body, b'H'), Some(&b"good"[..]));
        assert_eq!(error_field(body, b'D'), None);
        assert_eq!(error_field(&body[..10], b'C'), None);
    }

    #[test]
    fn notifications() {
        let read = notification(b"\0\0\x01\0news\0\0").unwrap();
        let expected = Notification {
            pid: 256,
            channel: b"news",
            payload: b"",
        };
        assert_eq!(read, expected);
        assert_eq!(notification(b"\0\0\x01\0news\0"), None);
    }

    #[test]
    fn parameter_statuses() {
        assert_eq!(
            parameter_status(b"TimeZone\0UTC\0"),
            Some((&b"TimeZone"[..], &b"UTC"[..]))
        );
        assert_eq!(parameter_status(b"TimeZone\0UTC"), None);
    }
}
