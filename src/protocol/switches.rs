//! The startup parameter `options`: a backend's command line, split and read as PostgreSQL does.
//!
//! Knows which setting a switch stands for; does not know whether the setting exists or may be set.
//! Source: PostgreSQL's `pg_split_opts` and `process_postgres_switches`, with glibc's `getopt`.

/// Why a command line is refused, in PostgreSQL's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SwitchError {
    #[error("invalid command-line argument for server process: {argument}")]
    Invalid { argument: String },
    #[error("{switch} requires a value")]
    NeedsValue { switch: String },
    /// Names that aren't text can't be any setting's.
    #[error("unrecognized configuration parameter \"{name}\"")]
    Unrecognized { name: String },
}

/// Switches that take a value. `-` is the `--name=value` form.
const WITH_VALUE: &[u8] = b"BCDcdfhkNprStvW-";

/// What PostgreSQL calls the program when a switch is wrong and nothing stands in front of it.
const PROGRAM: &[u8] = b"postgres";

/// Name (lower case) and value of each setting, in the order given.
pub fn settings(options: &[u8]) -> Result<Vec<(String, Vec<u8>)>, SwitchError> {
    let arguments = split(options);
    let mut rest = arguments.iter();
    let mut last: &[u8] = PROGRAM;
    let mut stray: Option<&[u8]> = None;
    let mut settings = Settings(Vec::new());
    while let Some(argument) = rest.next() {
        let before = std::mem::replace(&mut last, argument);
        let mut letters = match argument.as_slice() {
            b"--" => {
                stray = stray.or(rest.next().map(Vec::as_slice));
                break;
            }
            [b'-', letters @ ..] if !letters.is_empty() => letters,
            // getopt looks at all switches first, whatever stands between them.
            _ => {
                stray.get_or_insert(argument);
                continue;
            }
        };
        while let Some((&letter, behind)) = letters.split_first() {
            if !WITH_VALUE.contains(&letter) {
                // getopt moves on with a cluster's last letter, and PostgreSQL names what it has left.
                let named = if behind.is_empty() { last } else { before };
                settings.flag(letter).ok_or_else(|| invalid(named))?;
                letters = behind;
                continue;
            }
            let value = if behind.is_empty() {
                let next = rest.next().ok_or_else(|| invalid(last))?;
                last = next;
                next
            } else {
                behind
            };
            settings.with_value(letter, value, last)?;
            break;
        }
    }
    match stray {
        Some(argument) => Err(invalid(argument)),
        None => Ok(settings.0),
    }
}

/// A setting's name as its key: PostgreSQL compares names without regard to ASCII case.
pub fn setting_name(name: &[u8]) -> Result<String, SwitchError> {
    match std::str::from_utf8(name) {
        Ok(name) => Ok(name.to_ascii_lowercase()),
        Err(_) => Err(SwitchError::Unrecognized { name: text(name) }),
    }
}

/// White space separates, a backslash takes the next byte as it is.
fn split(options: &[u8]) -> Vec<Vec<u8>> {
    let mut arguments = Vec::new();
    let mut current: Option<Vec<u8>> = None;
    let mut escaped = false;
    for &byte in options {
        let is_space = matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r');
        if is_space && !escaped {
            arguments.extend(current.take());
            continue;
        }
        let argument = current.get_or_insert_default();
        if byte == b'\\' && !escaped {
            escaped = true;
        } else {
            escaped = false;
            argument.push(byte);
        }
    }
    arguments.extend(current);
    arguments
}

struct Settings(Vec<(String, Vec<u8>)>);

impl Settings {
    fn set(&mut self, name: &str, value: &[u8]) {
        self.0.push((name.to_owned(), value.to_vec()));
    }

    /// A switch without a value; `None` if there is no such switch.
    fn flag(&mut self, letter: u8) -> Option<()> {
        match letter {
            b'e' => self.set("datestyle", b"euro"),
            b'F' => self.set("fsync", b"false"),
            b'i' => self.set("listen_addresses", b"*"),
            b'l' => self.set("ssl", b"true"),
            b'O' => self.set("allow_system_table_mods", b"true"),
            b'P' => self.set("ignore_system_indexes", b"true"),
            b's' => self.set("log_statement_stats", b"true"),
            // Taken only from the server's own command line; a client's is ignored.
            b'b' | b'E' | b'j' | b'n' | b'T' => {}
            _ => return None,
        }
        Some(())
    }

    fn with_value(&mut self, letter: u8, value: &[u8], last: &[u8]) -> Result<(), SwitchError> {
        match letter {
            b'c' => self.long("-c ", value)?,
            b'-' => self.long("--", value)?,
            b'B' => self.set("shared_buffers", value),
            b'd' => self.debug(value),
            b'f' => self.set(plan_setting(value).ok_or_else(|| invalid(last))?, b"false"),
            b'h' => self.set("listen_addresses", value),
            b'k' => self.set("unix_socket_directories", value),
            b'N' => self.set("max_connections", value),
            b'p' => self.set("port", value),
            b'S' => self.set("work_mem", value),
            b't' => self.set(stats_setting(value).ok_or_else(|| invalid(last))?, b"true"),
            b'W' => self.set("post_auth_delay", value),
            // C, D, r, v: taken only from the server's own command line; a client's is ignored.
            _ => {}
        }
        Ok(())
    }

    /// `name=value`, dashes of the name standing for underscores.
    fn long(&mut self, switch: &str, argument: &[u8]) -> Result<(), SwitchError> {
        let equals = argument.iter().position(|&byte| byte == b'=');
        let (name, value) = equals
            .and_then(|at| argument.split_at_checked(at))
            .and_then(|(name, behind)| Some((name, behind.get(1..)?)))
            .ok_or_else(|| SwitchError::NeedsValue {
                switch: format!("{switch}{}", text(argument)),
            })?;
        let name = setting_name(name)?.replace('-', "_");
        self.0.push((name, value.to_vec()));
        Ok(())
    }

    /// PostgreSQL's `set_debug_options`.
    fn debug(&mut self, value: &[u8]) {
        let level = leading_number(value);
        if level > 0 {
            self.set("log_min_messages", format!("debug{level}").as_bytes());
        } else {
            self.set("log_min_messages", b"notice");
        }
        let by_level: [(u32, &str, &[u8]); 4] = [
            (2, "log_statement", b"all"),
            (3, "debug_print_parse", b"true"),
            (4, "debug_print_plan", b"true"),
            (5, "debug_print_rewritten", b"true"),
        ];
        for (least, name, value) in by_level {
            if level >= least {
                self.set(name, value);
            }
        }
    }
}

/// C's `atoi`, negative numbers as 0.
fn leading_number(text: &[u8]) -> u32 {
    let digits = text.trim_ascii_start();
    let digits = digits.strip_prefix(b"+").unwrap_or(digits);
    digits
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |number: u32, &byte| {
            number
                .saturating_mul(10)
                .saturating_add(u32::from(byte - b'0'))
        })
}

/// PostgreSQL's `set_plan_disabling_options`: the first letter counts.
fn plan_setting(value: &[u8]) -> Option<&'static str> {
    Some(match value.first()? {
        b's' => "enable_seqscan",
        b'i' => "enable_indexscan",
        b'o' => "enable_indexonlyscan",
        b'b' => "enable_bitmapscan",
        b't' => "enable_tidscan",
        b'n' => "enable_nestloop",
        b'm' => "enable_mergejoin",
        b'h' => "enable_hashjoin",
        _ => return None,
    })
}

/// PostgreSQL's `get_stats_option_name`.
fn stats_setting(value: &[u8]) -> Option<&'static str> {
    Some(match value {
        [b'p', b'a', ..] => "log_parser_stats",
        [b'p', b'l', ..] => "log_planner_stats",
        [b'e', ..] => "log_executor_stats",
        _ => return None,
    })
}

fn invalid(argument: &[u8]) -> SwitchError {
    SwitchError::Invalid {
        argument: text(argument),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("  \t\n ", &[]),
            ("-c a=b", &["-c", "a=b"]),
            ("  -c  a=b\x0b-e ", &["-c", "a=b", "-e"]),
            (r"-c\ a=b\ c", &["-c a=b c"]),
            (r"-ca=\\b", &[r"-ca=\b"]),
            (r"a\", &["a"]),
            (r"\", &[""]),
            (r"a \ b", &["a", " b"]),
        ];
        for (options, expected) in cases {
            let arguments = split(options.as_bytes());
            let arguments: Vec<_> = arguments.iter().map(|one| text(one)).collect();
            assert_eq!(arguments, *expected, "{options:?}");
        }
    }

    #[test]
    fn switches_are_settings() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("", &[]),
            ("-c a=b", &[("a", "b")]),
            ("-ca=b", &[("a", "b")]),
            ("--a-B.c=x=y", &[("a_b.c", "x=y")]),
            ("-c a-b=1", &[("a_b", "1")]),
            ("-- ", &[]),
            ("-c a=", &[("a", "")]),
            (r"-c search_path=a,\ b", &[("search_path", "a, b")]),
            ("-c a=1 -c a=2", &[("a", "1"), ("a", "2")]),
            ("-e -S 64", &[("datestyle", "euro"), ("work_mem", "64")]),
            (
                "-eFS64",
                &[
                    ("datestyle", "euro"),
                    ("fsync", "false"),
                    ("work_mem", "64"),
                ],
            ),
            (
                "-fs -f h",
                &[("enable_seqscan", "false"), ("enable_hashjoin", "false")],
            ),
            (
                "-tpa -t executor",
                &[("log_parser_stats", "true"), ("log_executor_stats", "true")],
            ),
            ("-d 0", &[("log_min_messages", "notice")]),
            (
                "-d3",
                &[
                    ("log_min_messages", "debug3"),
                    ("log_statement", "all"),
                    ("debug_print_parse", "true"),
                ],
            ),
            ("-b -D /x -v 9 -r out", &[]),
        ];
        for (options, expected) in cases {
            let read = settings(options.as_bytes()).unwrap();
            let read: Vec<_> = read
                .iter()
                .map(|(name, value)| (name.as_str(), text(value)))
                .collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned()))
                .collect();
            assert_eq!(read, expected, "{options:?}");
        }
    }

    #[test]
    fn refusals_in_postgresqls_words() {
        let invalid = "invalid command-line argument for server process: ";
        let cases: &[(&str, String)] = &[
            ("-c", format!("{invalid}-c")),
            ("-x", format!("{invalid}-x")),
            ("-xe", format!("{invalid}postgres")),
            ("-c a=b -xe", format!("{invalid}a=b")),
            ("a=b", format!("{invalid}a=b")),
            ("a=b -c c=d", format!("{invalid}a=b")),
            ("-", format!("{invalid}-")),
            ("-- -c a=b", format!("{invalid}-c")),
            (r"\", invalid.to_owned()),
            ("-f x", format!("{invalid}x")),
            ("-tq", format!("{invalid}-tq")),
            ("-c a", "-c a requires a value".to_owned()),
            ("--a-b", "--a-b requires a value".to_owned()),
        ];
        for (options, expected) in cases {
            let refused = settings(options.as_bytes()).unwrap_err();
            assert_eq!(refused.to_string(), *expected, "{options:?}");
        }
    }
}
