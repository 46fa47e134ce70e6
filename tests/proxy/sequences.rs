//! Sequences: currval and lastval find what this client's own transaction left, or nothing, and never another's value.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};

use crate::house::wire::*;
use crate::house::{Answer, Client, Postgres, Proxy, eventually};

/// What a driver's currval and lastval may find on the connection, in a database where nobody has read them before.
fn fresh(connections: usize) -> Proxy {
    let postgres = Postgres::shared();
    let database = postgres.database();
    postgres.sql_in(
        &database,
        "CREATE TABLE t (id bigserial, of int); ALTER TABLE t OWNER TO app; CREATE TABLE u (id serial); ALTER TABLE u OWNER TO app",
    );
    Proxy::before(postgres, &database, connections)
        .set("WEIR__POOL__CONNECTION_BORROW_TIMEOUT", "20s")
        .start()
}

const INSERT: &str = "INSERT INTO t VALUES (DEFAULT, 1)";

/// A client in a transaction that has inserted its own row, over a connection on which another has inserted two.
fn in_doubt(proxy: &Proxy) -> Client {
    let mut other = proxy.client();
    other.run(INSERT);
    other.run("INSERT INTO u VALUES (DEFAULT)");
    let mut one = proxy.client();
    one.run("BEGIN");
    one.run(INSERT);
    one
}

fn lastval_by_number(client: &mut Client) -> Answer {
    const LASTVAL: u32 = 2559;
    client.exchange(&function_call(LASTVAL, &[]))
}

fn extended(text: &str, name: &str) -> Vec<u8> {
    let messages = [
        close(b'S', name),
        parse(name, text),
        bind("", name, &[]),
        execute("", 0),
        sync(),
    ];
    messages.concat()
}

/// However the first read of a database is asked: PostgreSQL fails the transaction, the client is told to try again, and
/// then, and from then on, it finds its own.
#[test]
fn the_first_read_finds_no_other_clients_value() {
    type Read = fn(&mut Client) -> Answer;
    let reads: [(&str, Read); 6] = [
        ("lastval", |client| client.ask("SELECT lastval()")),
        ("currval", |client| client.ask("SELECT currval('t_id_seq')")),
        ("unnamed", |client| {
            client.exchange(&extended("SELECT lastval()", ""))
        }),
        ("named", |client| {
            client.exchange(&extended("SELECT currval('t_id_seq')", "s"))
        }),
        ("in pieces", |client| {
            let text = format!("SELECT lastval() /* {} */", "x".repeat(100_000));
            client.ask(&text)
        }),
        ("by number", lastval_by_number),
    ];
    for (way, read) in reads {
        let proxy = fresh(1);
        let mut one = in_doubt(&proxy);
        let answer = read(&mut one);
        let error = answer.error().expect(way);
        assert_eq!(
            (&*error.code, answer.status()),
            ("40001", Some('E')),
            "{way}"
        );
        assert!(error.hint.contains("again"), "{way}");
        assert_eq!(one.ask("SELECT 1").code(), "25P02", "{way}");
        assert_eq!(one.ask("COMMIT").completed(), ["ROLLBACK"], "{way}");
        for _ in 0..2 {
            proxy.client().run("INSERT INTO u VALUES (DEFAULT)");
            one.run("BEGIN");
            one.run(INSERT);
            let own = one.value("SELECT max(id) FROM t");
            let answer = read(&mut one);
            assert_eq!(answer.error(), None, "{way}");
            assert!(answer.column() == [&*own] || way == "by number", "{way}");
            one.run("COMMIT");
        }
    }
}

/// Where a connection is the client's alone, or the text itself makes the value, there is nothing to be told.
#[test]
fn whoever_has_a_connection_to_itself_finds_its_values() {
    let proxy = fresh(1);
    let mut one = proxy.client();
    one.run(INSERT);
    for id in ["2", "3"] {
        one.run("BEGIN");
        one.run(INSERT);
        assert_eq!(one.value("SELECT lastval()"), id);
        assert_eq!(one.value("SELECT currval('t_id_seq')"), id);
        one.run("COMMIT");
    }

    let proxy = fresh(1);
    let mut one = in_doubt(&proxy);
    assert_eq!(
        one.ask(&format!("{INSERT}; SELECT lastval()")).column(),
        ["3"]
    );
    assert_eq!(one.value("SELECT lastval()"), "3");
    // What was there before, it does not know any more.
    one.run("COMMIT");
    assert_eq!(one.value("SELECT 1"), "1");
}

/// An error inside a pipeline ends it at its Sync, and what was skipped of it is not taken for done.
#[test]
fn in_a_pipeline_the_rest_is_skipped() {
    let proxy = fresh(1);
    let mut one = in_doubt(&proxy);
    one.run("SAVEPOINT a");
    let pipeline = [
        unnamed("SELECT 1", &[]),
        unnamed("SELECT lastval()", &[]),
        unnamed("SELECT 2", &[]),
        sync(),
    ];
    let answer = one.exchange(&pipeline.concat());
    assert_eq!(answer.tags(), "12TDC12TEZ");
    assert_eq!(answer.code(), "40001");
    assert_eq!(answer.completed(), ["SELECT 1"]);
    one.run("ROLLBACK TO a");
    one.run(INSERT);
    assert_eq!(one.value("SELECT lastval()"), "3");
    one.run("COMMIT");

    // What would have discarded them is skipped with what stands before it.
    let proxy = fresh(1);
    let mut one = in_doubt(&proxy);
    one.run("SAVEPOINT a");
    let pipeline = [
        unnamed("SELECT 1/0", &[]),
        unnamed("SELECT lastval()", &[]),
        sync(),
    ];
    assert_eq!(one.exchange(&pipeline.concat()).code(), "22012");
    one.run("ROLLBACK TO a");
    assert_eq!(one.ask("SELECT lastval()").code(), "40001");
    one.run("ROLLBACK");
    // The client's statement and portal are where it left them.
    let proxy = fresh(1);
    let mut one = in_doubt(&proxy);
    let kept = [
        parse("", "SELECT generate_series(1, 3)"),
        bind("", "", &[]),
        execute("", 1),
        parse("r", "SELECT lastval()"),
        execute("", 1),
        bind("", "", &[]),
        execute("", 1),
        sync(),
    ];
    assert_eq!(one.exchange(&kept.concat()).column(), ["1", "2", "1"]);
    assert_eq!(one.value("SELECT count(*) FROM pg_cursors"), "0");
    one.run("ROLLBACK");
}

/// Its own of a while ago, too: whoever has been elsewhere since has later ones.
#[test]
fn a_clients_old_values_are_nobodys() {
    let proxy = fresh(2);
    let backend = "SELECT pg_backend_pid()";
    let mut one = proxy.client();
    let first = one.value(backend);
    one.run(INSERT);
    let holds = |pid: &str| {
        let mut client = proxy.client();
        client.run("BEGIN");
        (client.value(backend) == pid).then_some(client)
    };
    let mut holder = holds(&first).expect("the only connection");
    one.run("INSERT INTO u VALUES (DEFAULT)");
    holder.run("COMMIT");
    // Whoever gets the second one keeps it, so that the first is left.
    let mut holders = Vec::new();
    while holders.len() < 2 {
        let mut client = proxy.client();
        client.run("BEGIN");
        let pid = client.value(backend);
        holders.push((pid, client));
    }
    let place = holders.iter().position(|(pid, _)| *pid == first).unwrap();
    holders[place].1.run("COMMIT");
    one.run("BEGIN");
    assert_eq!(one.value(backend), first);
    assert_eq!(one.ask("SELECT lastval()").code(), "40001");
    one.run("ROLLBACK");
}

/// Functions and views that read them are found by the question for hidden state, and then no connection changes hands
/// with another's values.
#[test]
fn what_reads_them_unseen_finds_no_others_either() {
    let hidden = [
        "CREATE FUNCTION hidden() RETURNS bigint LANGUAGE sql AS 'SELECT lastval()'",
        "CREATE VIEW hidden AS SELECT lastval()",
        "CREATE TABLE hidden (id bigint DEFAULT lastval())",
    ];
    for (define, read) in hidden.into_iter().zip([
        "SELECT hidden()",
        "SELECT * FROM hidden",
        "INSERT INTO hidden DEFAULT VALUES RETURNING id",
    ]) {
        let proxy = fresh(1);
        // By nobody whom Weir would have seen.
        let postgres = Postgres::shared();
        let database = proxy.client().value("SELECT current_database()");
        postgres.sql_in(&database, "GRANT ALL ON SCHEMA public TO app");
        postgres.login(&database).connect().run(define);
        let proxy = Proxy::before(postgres, &database, 1).start();
        let mut other = proxy.client();
        other.run(INSERT);
        let ask = || proxy.client().ask(read).code();
        eventually(&format!("{read} is known"), ask, |code| code == "55000");
        other.run(INSERT);
        assert_eq!(proxy.client().ask(read).code(), "55000", "{read}");
    }
}

/// As Hibernate, Rails and PDO do it: INSERT, and then the read in the same transaction; many clients over few connections,
/// that have all been in use before. At the very beginning some are told to try again; nobody ever finds a value that is
/// not its own; and when each has read once, nobody is told any more.
#[test]
fn many_clients_are_told_at_the_very_beginning_at_most() {
    const CLIENTS: usize = 12;
    const ROUNDS: usize = 40;
    let proxy = fresh(3);
    let (together, told) = (Barrier::new(CLIENTS), AtomicUsize::new(0));
    let first_round = Mutex::new(0);
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (proxy, together, told, first_round) = (&proxy, &together, &told, &first_round);
            scope.spawn(move || {
                let mut client = proxy.client();
                client.run(INSERT);
                together.wait();
                for round in 0..ROUNDS {
                    while !insert_and_read(&mut client, number) {
                        told.fetch_add(1, Ordering::Relaxed);
                    }
                    if round == 0 {
                        together.wait();
                        *first_round.lock().unwrap() = told.load(Ordering::Relaxed);
                        together.wait();
                    }
                }
            });
        }
    });
    let told = told.load(Ordering::Relaxed);
    assert_eq!(told, *first_round.lock().unwrap(), "after the first round");
    assert!(told <= 3, "{told}, over three connections");
}

/// False: it is to try again.
fn insert_and_read(client: &mut Client, number: usize) -> bool {
    client.run("BEGIN");
    let insert = format!("INSERT INTO t VALUES (DEFAULT, {number})");
    client.run(&insert);
    let read = match number % 3 {
        0 => client.ask("SELECT currval('t_id_seq')"),
        1 => client.ask("SELECT LASTVAL()"),
        _ => client.exchange(&extended("SELECT CURRVAL('t_id_seq')", "pdo")),
    };
    if !read.code().is_empty() {
        assert_eq!(read.code(), "40001");
        client.run("ROLLBACK");
        return false;
    }
    let own = format!("SELECT max(id) FROM t WHERE of = {number}");
    assert_eq!(read.column(), [client.value(&own)]);
    client.run("COMMIT");
    true
}

/// Whoever is to keep its values has none of another's among them from the start.
#[test]
fn a_pinned_sequence_is_its_own_from_the_start() {
    let postgres = Postgres::shared();
    let proxy = Proxy::before(postgres, &postgres.database(), 1)
        .set("WEIR__SESSION__PIN_SEQUENCES", "true")
        .start();
    let mut other = proxy.client();
    other.run("CREATE TABLE t (id serial, of int); CREATE SEQUENCE s");
    other.run(INSERT);
    let mut one = proxy.client();
    assert_eq!(one.value("SELECT nextval('s')"), "1");
    assert_eq!(one.value("SELECT lastval()"), "1");
    assert_eq!(one.ask("SELECT currval('t_id_seq')").code(), "55000");
}
