//! What frameworks say that can't be installed here, from their sources.
//!
//! Knows their words; `main` knows what must hold afterwards.

use crate::house::wire::{bind, close, describe, execute, parse, query, sync, unnamed};
use crate::house::{Answer, Client, Login, Postgres};
use crate::{house, nothing_pinned, transactions};

/// One session of a framework: `number` tells it from the other.
struct Session {
    client: Client,
    port: u16,
    number: usize,
    turn: usize,
}

impl Session {
    fn open(login: &Login, number: usize, startup: &[(&str, &str)]) -> Session {
        let login = startup.iter().fold(login.clone(), |login, (name, value)| {
            login.with(name, value)
        });
        Session {
            client: login.connect(),
            port: login.address.port(),
            number,
            turn: 0,
        }
    }

    /// One write, answered by one ReadyForQuery.
    fn say(&mut self, messages: &[Vec<u8>]) -> Answer {
        let answer = self.client.exchange(&messages.concat());
        let of = format!("session {} of port {}", self.number, self.port);
        assert_eq!(answer.error(), None, "{of}");
        answer
    }

    fn query(&mut self, sql: &str) -> Answer {
        self.say(&[query(sql)])
    }

    /// As libpq's PQexecPrepared.
    fn run_prepared(&mut self, name: &str, values: &[Option<&str>]) -> Answer {
        self.say(&[
            bind("", name, values),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ])
    }

    fn shows(&mut self, setting: &str, value: &str) {
        assert_eq!(
            self.query(&format!("SHOW {setting}")).column(),
            [value],
            "session {}",
            self.number
        );
    }
}

/// Two sessions take turns, transaction by transaction: a little straight to PostgreSQL, to see that it would say so, then over Weir.
fn in_turn(
    startup: impl Fn(usize) -> Vec<(&'static str, &'static str)>,
    connect: impl Fn(&mut Session),
    transaction: impl Fn(&mut Session),
) {
    let (database, proxy) = house();
    let direct = Postgres::shared().login(&database);
    for (login, transactions) in [(direct, 11), (proxy.login(), transactions())] {
        let mut sessions = [1, 2].map(|number| {
            let mut session = Session::open(&login, number, &startup(number));
            connect(&mut session);
            session
        });
        for turn in 0..transactions {
            for session in &mut sessions {
                session.turn = turn;
                transaction(session);
            }
        }
    }
    nothing_pinned(&proxy);
}

const ZONES: [&str; 3] = ["", "Asia/Tokyo", "America/Lima"];

/// rails/rails, activerecord/lib/active_record/connection_adapters/postgresql_adapter.rb: `configure_connection`,
/// `load_additional_types`, `prepare_statement` ("a1", "a2", ..), `exec_cache`, `active?`, `dealloc`; `begin_db_transaction` beside it.
#[test]
fn rails() {
    in_turn(
        |_| vec![("application_name", "bin/rails")],
        |session| {
            session.query("set client_encoding to 'unicode'"); // PQsetClientEncoding
            session.query("SET client_min_messages TO 'warning'");
            session.query("SHOW client_min_messages");
            session.query("SET standard_conforming_strings = on");
            session.query("SET intervalstyle = iso_8601");
            session.query(&format!(
                "SET SESSION timezone TO '{}'",
                ZONES[session.number]
            ));
            session.query("SET statement_timeout TO '15s'"); // `variables:` in database.yml
            session.query("SHOW max_identifier_length");
            session.query(
                "SELECT t.oid, t.typname, t.typelem, t.typdelim, t.typinput, r.rngsubtype, t.typtype, t.typbasetype \
                 FROM pg_type as t LEFT JOIN pg_range as r ON oid = rngtypid WHERE t.typname IN ('int2', 'int4', 'text')",
            );
        },
        |session| {
            let own = session.number.to_string();
            if session.turn % 10 == 0 {
                session.query(";"); // active?
            }
            session.query("BEGIN");
            if session.turn == 0 {
                // The same name for another text in each session.
                let sql = format!("SELECT $1::int + {own}");
                session.say(&[parse("a1", &sql), sync()]);
                session.say(&[describe(b'S', "a1"), sync()]);
            }
            let wanted = (session.turn + session.number).to_string();
            let turn = session.turn.to_string();
            assert_eq!(
                session.run_prepared("a1", &[Some(&turn)]).column(),
                [wanted]
            );
            session.query("SAVEPOINT active_record_1");
            session.query("RELEASE SAVEPOINT active_record_1");
            session.query("COMMIT");
            session.shows("timezone", ZONES[session.number]);
            // The statement pool is full: the oldest goes.
            let name = format!("a{}", session.turn + 2);
            session.say(&[parse(&name, "SELECT $1::text"), sync()]);
            session.run_prepared(&name, &[Some(&own)]);
            session.query(&format!("DEALLOCATE {name}"));
        },
    );
}

/// prisma/prisma-engines, quaint/src/connector/postgres/native: `SET search_path`, statements by tokio-postgres ("s0", "s1", ..:
/// sfackler/rust-postgres, tokio-postgres/src/prepare.rs), BEGIN and COMMIT as simple queries, `DEALLOCATE ALL` with pgbouncer=true.
#[test]
fn prisma() {
    in_turn(
        |_| vec![("client_encoding", "UTF8")],
        |session| {
            session.query("SET search_path = \"public\"");
            session.query("SELECT 1");
        },
        |session| {
            let name = format!("s{}", session.turn);
            let sql = format!("SELECT $1::int8 * {}", session.number);
            if session.turn % 10 == 0 {
                session.query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"); // outside one: a warning
            }
            session.query("BEGIN");
            session.say(&[parse(&name, &sql), describe(b'S', &name), sync()]);
            let wanted = (3 * session.number).to_string();
            let answer = session.say(&[bind("", &name, &[Some("3")]), execute("", 0), sync()]);
            assert_eq!(answer.column(), [wanted]);
            session.query("COMMIT");
            let answer = session.say(&[bind("", &name, &[Some("1")]), execute("", 0), sync()]);
            assert_eq!(answer.column(), [session.number.to_string()]);
            session.say(&[close(b'S', &name), sync()]);
            if session.turn % 10 == 9 {
                session.query("DEALLOCATE ALL"); // pgbouncer=true
            }
        },
    );
}

/// npgsql/npgsql, src/Npgsql/Internal/NpgsqlConnector.cs (`GenerateResetMessage`, `Reset`) and PregeneratedMessages.cs: the reset travels
/// in front of the next borrower's first command; without prepared statements it is DISCARD ALL.
#[test]
fn npgsql() {
    in_turn(
        |number| {
            vec![
                ("client_encoding", "UTF8"),
                ("application_name", ["", "one", "two"][number]),
                ("TimeZone", ZONES[number]),
            ]
        },
        |session| {
            // PostgresDatabaseInfo.LoadBackendTypes: a batch by the extended protocol.
            session.say(&[
                unnamed("SELECT version()", &[]),
                unnamed("SELECT oid, typname FROM pg_type WHERE oid = 23", &[]),
                sync(),
            ]);
        },
        |session| {
            session.query("SET lock_timeout = 5000");
            let wanted = session.turn.to_string();
            session.query("BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED");
            let answer = session.say(&[unnamed("SELECT $1", &[Some(&wanted)]), sync()]);
            assert_eq!(answer.column(), [wanted]);
            session.query("COMMIT");
            // Given back to Npgsql's pool, and borrowed again: two ReadyForQuery for one write.
            let messages = [
                query("DISCARD ALL"),
                unnamed("SHOW lock_timeout", &[]),
                sync(),
            ]
            .concat();
            session.client.send(&messages);
            let answer = session.client.replies(2);
            assert_eq!(answer.error(), None);
            assert_eq!(answer.column(), ["0"]);
            session.shows("timezone", ZONES[session.number]);
            session.shows("application_name", ["", "one", "two"][session.number]);
        },
    );
}

/// The same, with prepared statements (`_p1`, ..), which must outlive what Npgsql then sends instead of DISCARD ALL.
#[test]
fn npgsql_with_prepared_statements() {
    in_turn(
        |number| vec![("TimeZone", ZONES[number])],
        |session| {
            let sql = format!("SELECT $1::int + {}", session.number);
            session.say(&[parse("_p1", &sql), describe(b'S', "_p1"), sync()]);
        },
        |session| {
            session.query("BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED");
            let turn = session.turn.to_string();
            let answer = session.say(&[bind("", "_p1", &[Some(&turn)]), execute("", 0), sync()]);
            assert_eq!(
                answer.column(),
                [(session.turn + session.number).to_string()]
            );
            session.query("COMMIT");
            session.query(
                "SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *;\
                 SELECT pg_advisory_unlock_all();DISCARD SEQUENCES;DISCARD TEMP",
            );
            session.shows("timezone", ZONES[session.number]);
        },
    );
}

/// brettwooldridge/HikariCP and pgjdbc without a Java: what HikariSessions.java makes them say, by pgjdbc's ConnectionFactoryImpl
/// (`runInitialQueries`) and QueryExecutorImpl: BEGIN and the statement in one write, S_1 from the fifth time on.
#[test]
fn pgjdbc_by_its_words() {
    in_turn(
        |number| {
            vec![
                ("client_encoding", "UTF8"),
                ("DateStyle", "ISO"),
                ("TimeZone", ZONES[number]),
                ("extra_float_digits", "2"),
            ]
        },
        |session| {
            session.say(&[unnamed("SET extra_float_digits = 3", &[]), sync()]);
            session.say(&[
                unnamed("SET application_name = 'PostgreSQL JDBC Driver'", &[]),
                sync(),
            ]);
            session.say(&[
                unnamed(
                    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                    &[],
                ),
                sync(),
            ]);
        },
        |session| {
            session.say(&[unnamed("", &[]), sync()]); // isValid
            let begin = [parse("", "BEGIN"), bind("", "", &[]), execute("", 0)];
            let turn = session.turn.to_string();
            let sql = "SELECT $1::int, current_setting('transaction_isolation')";
            let name = if session.turn < 4 { "" } else { "S_1" };
            let mut messages = begin.to_vec();
            if session.turn <= 4 {
                messages.push(parse(name, sql));
            }
            messages.extend([
                bind("", name, &[Some(&turn)]),
                describe(b'P', ""),
                execute("", 0),
                sync(),
            ]);
            let answer = session.say(&messages);
            assert_eq!(
                answer.rows(),
                [[Some(turn), Some("repeatable read".into())]]
            );
            session.say(&[
                parse("", "COMMIT"),
                bind("", "", &[]),
                execute("", 1),
                sync(),
            ]);
            session.say(&[
                unnamed("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", &[]),
                sync(),
            ]);
            session.shows("transaction_read_only", "on");
            session.say(&[
                unnamed("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE", &[]),
                sync(),
            ]);
            session.shows("timezone", ZONES[session.number]);
        },
    );
}
