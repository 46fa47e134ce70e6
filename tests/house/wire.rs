//! Messages as bytes: what a client may send, and the frames that come back.
//!
//! Knows shapes only; anything may be built, right or wrong.

use std::fmt;

/// One message as it arrived.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Frame {
    /// Cuts one whole frame off the front.
    pub fn cut(inbox: &mut Vec<u8>) -> Option<Frame> {
        let length = u32::from_be_bytes(inbox.get(1..5)?.try_into().unwrap()) as usize;
        if inbox.len() <= length {
            return None;
        }
        let tag = inbox[0];
        let body = inbox[5..=length].to_vec();
        inbox.drain(..=length);
        Some(Frame { tag, body })
    }

    /// A field of an ErrorResponse or NoticeResponse.
    pub fn field(&self, code: u8) -> Option<String> {
        self.body
            .split(|&byte| byte == 0)
            .find(|field| field.first() == Some(&code))
            .map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
    }

    /// The columns of a DataRow.
    pub fn columns(&self) -> Vec<Option<String>> {
        assert_eq!(self.tag, b'D', "{self:?} is no row");
        let mut rest = &self.body[2..];
        let mut columns = Vec::new();
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let length = i32::from_be_bytes(*length);
            let bytes = usize::try_from(length).unwrap_or(0);
            columns.push((length >= 0).then(|| String::from_utf8_lossy(&tail[..bytes]).into()));
            rest = &tail[bytes..];
        }
        columns
    }

    /// The text of a body that is zero-terminated strings, the first of them.
    pub fn text(&self) -> String {
        let end = self.body.iter().position(|&byte| byte == 0);
        String::from_utf8_lossy(&self.body[..end.unwrap_or(self.body.len())]).into()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.body[..self.body.len().min(160)];
        write!(f, "{}", self.tag.escape_ascii())?;
        write!(f, "[{}] {}", self.body.len(), shown.escape_ascii())
    }
}

pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

/// A message of the startup family: no tag.
pub fn opening(body: &[u8]) -> Vec<u8> {
    message(0, body).split_off(1)
}

fn cstr(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

pub const PROTOCOL_3_0: u32 = 0x0003_0000;

pub fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend(cstr(name));
        body.extend(cstr(value));
    }
    body.push(0);
    opening(&body)
}

pub fn ssl_request() -> Vec<u8> {
    opening(&80_877_103u32.to_be_bytes())
}

pub fn gssenc_request() -> Vec<u8> {
    opening(&80_877_104u32.to_be_bytes())
}

pub fn cancel_request(pid: i32, secret: &[u8]) -> Vec<u8> {
    opening(&[&80_877_102u32.to_be_bytes(), &pid.to_be_bytes()[..], secret].concat())
}

pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &cstr(sql))
}

pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    parse_typed(name, sql, &[])
}

pub fn parse_typed(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = [cstr(name), cstr(sql)].concat();
    body.extend(u16::try_from(types.len()).unwrap().to_be_bytes());
    for oid in types {
        body.extend(oid.to_be_bytes());
    }
    message(b'P', &body)
}

/// Values in text, results in text.
pub fn bind(portal: &str, statement: &str, values: &[Option<&str>]) -> Vec<u8> {
    let values: Vec<_> = values.iter().map(|v| v.map(str::as_bytes)).collect();
    bind_bytes(portal, statement, 0, &values, 0)
}

/// Values in format `given`, results in format `wanted` (0 text, 1 binary).
pub fn bind_bytes(
    portal: &str,
    statement: &str,
    given: u16,
    values: &[Option<&[u8]>],
    wanted: u16,
) -> Vec<u8> {
    let mut body = [cstr(portal), cstr(statement)].concat();
    body.extend(1u16.to_be_bytes());
    body.extend(given.to_be_bytes());
    body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        put_value(&mut body, *value);
    }
    body.extend(1u16.to_be_bytes());
    body.extend(wanted.to_be_bytes());
    message(b'B', &body)
}

fn put_value(body: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(bytes) => {
            body.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
            body.extend(bytes);
        }
        None => body.extend((-1i32).to_be_bytes()),
    }
}

/// `kind`: 'S' a statement, 'P' a portal.
pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    message(b'D', &[&[kind], &cstr(name)[..]].concat())
}

pub fn close(kind: u8, name: &str) -> Vec<u8> {
    message(b'C', &[&[kind], &cstr(name)[..]].concat())
}

/// `rows` 0: all of them.
pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[&cstr(portal)[..], &rows.to_be_bytes()].concat())
}

pub fn sync() -> Vec<u8> {
    message(b'S', b"")
}

pub fn flush() -> Vec<u8> {
    message(b'H', b"")
}

pub fn terminate() -> Vec<u8> {
    message(b'X', b"")
}

pub fn copy_data(data: &[u8]) -> Vec<u8> {
    message(b'd', data)
}

pub fn copy_done() -> Vec<u8> {
    message(b'c', b"")
}

pub fn copy_fail(why: &str) -> Vec<u8> {
    message(b'f', &cstr(why))
}

/// Arguments and result in text.
pub fn function_call(oid: u32, arguments: &[&str]) -> Vec<u8> {
    let mut body = oid.to_be_bytes().to_vec();
    body.extend(1u16.to_be_bytes());
    body.extend(0u16.to_be_bytes());
    body.extend(u16::try_from(arguments.len()).unwrap().to_be_bytes());
    for argument in arguments {
        put_value(&mut body, Some(argument.as_bytes()));
    }
    body.extend(0u16.to_be_bytes());
    message(b'F', &body)
}

/// Parse, Bind, Execute of the unnamed statement; no Sync.
pub fn unnamed(sql: &str, values: &[Option<&str>]) -> Vec<u8> {
    [
        parse("", sql),
        bind("", "", values),
        describe(b'P', ""),
        execute("", 0),
    ]
    .concat()
}
