//! Moments in UTC, as tokens write them.
//!
//! Leap seconds don't exist here, as they don't for SigV4.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970-01-01T00:00:00Z.
pub type Seconds = i64;

/// What the time is. Before 1970 it is 1970.
pub fn now() -> Seconds {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| Seconds::try_from(since.as_secs()).unwrap_or(0))
}

/// SigV4's form, exactly: `20260102T030405Z`.
pub fn parse_basic(text: &str) -> Option<Seconds> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (year, rest) = digits(date, 4)?;
    let (month, rest) = digits(rest, 2)?;
    let (day, rest) = digits(rest, 2)?;
    let midnight = rest.is_empty().then(|| midnight(year, month, day))??;
    let (hour, rest) = digits(time, 2)?;
    let (minute, rest) = digits(rest, 2)?;
    let (second, rest) = digits(rest, 2)?;
    let of_day = rest.is_empty().then(|| of_day(hour, minute, second))??;
    Some(midnight + of_day)
}

/// RFC 3339: `2026-01-02T03:04:05Z`, with a fraction (cut off) or an offset.
pub fn parse_rfc3339(text: &str) -> Option<Seconds> {
    let (year, rest) = digits(text, 4)?;
    let (month, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let (day, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let (hour, rest) = digits(rest.strip_prefix(['T', 't', ' '])?, 2)?;
    let (minute, rest) = digits(rest.strip_prefix(':')?, 2)?;
    let (second, mut rest) = digits(rest.strip_prefix(':')?, 2)?;
    if let Some(fraction) = rest.strip_prefix('.') {
        rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
        if rest.len() == fraction.len() {
            return None;
        }
    }
    let local = midnight(year, month, day)? + of_day(hour, minute, second)?;
    if matches!(rest, "Z" | "z") {
        return Some(local);
    }
    let (sign, rest) = match rest.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, rest) = digits(rest, 2)?;
    let (minutes, rest) = digits(rest.strip_prefix(':')?, 2)?;
    let offset = rest.is_empty().then(|| of_day(hours, minutes, 0))??;
    Some(local - sign * offset)
}

fn digits(text: &str, count: usize) -> Option<(i64, &str)> {
    let (digits, rest) = text.split_at_checked(count)?;
    let all = digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((all.then(|| digits.parse().ok())??, rest))
}

fn of_day(hour: i64, minute: i64, second: i64) -> Option<Seconds> {
    (hour < 24 && minute < 60 && second < 60).then_some(hour * 3600 + minute * 60 + second)
}

/// Days since 1970, in the Gregorian calendar: a year begins in March, so that the odd day comes last.
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn midnight(year: i64, month: i64, day: i64) -> Option<Seconds> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if year < 1 || day < 1 || day > days {
        return None;
    }
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let before_year = year * 365 + year / 4 - year / 100 + year / 400;
    let before_day = (153 * month + 2) / 5 + day - 1;
    Some((before_year + before_day - 719_468) * 86_400)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_moments_in_exactly_this_form() {
        for (text, moment) in [
            ("19700101T000000Z", Some(0)),
            ("20260102T030405Z", Some(1_767_323_045)),
            ("20280229T120000Z", Some(1_835_438_400)),
            ("20000229T235959Z", Some(951_868_799)),
            ("20260229T030405Z", None),
            ("21000229T000000Z", None),
            ("20261301T000000Z", None),
            ("20260100T000000Z", None),
            ("20260431T000000Z", None),
            ("00000101T000000Z", None),
            ("20260102T240000Z", None),
            ("20260102T036005Z", None),
            ("20260630T235960Z", None),
            ("20260102T030405", None),
            ("20260102T030405z", None),
            ("20260102t030405Z", None),
            ("20260102T030405ZZ", None),
            ("20260102T0304050Z", None),
            ("20260102T03040Z", None),
            ("2026-01-02T03:04:05Z", None),
            ("+2026102T030405Z", None),
            ("２0260102T030405Z", None),
            ("", None),
        ] {
            assert_eq!(parse_basic(text), moment, "{text}");
        }
    }

    #[test]
    fn rfc_3339_with_its_offsets() {
        for (text, moment) in [
            ("2026-01-02T03:04:05Z", Some(1_767_323_045)),
            ("2026-01-02t03:04:05.999z", Some(1_767_323_045)),
            ("2026-01-02T04:04:05+01:00", Some(1_767_323_045)),
            ("2026-01-01T21:34:05-05:30", Some(1_767_323_045)),
            ("2026-01-02T03:04:05+00:00", Some(1_767_323_045)),
            ("2026-01-02T03:04:05", None),
            ("2026-01-02T03:04:05.Z", None),
            ("2026-01-02T03:04:05+0100", None),
            ("2026-01-02", None),
            ("1767323045", None),
        ] {
            assert_eq!(parse_rfc3339(text), moment, "{text}");
        }
    }
}
