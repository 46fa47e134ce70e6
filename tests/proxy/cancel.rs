//! A cancel hits the query it was meant for, or nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::house::client::{Security, send_cancel};
use crate::house::{Client, Postgres, Proxy, count, eventually};

fn house(cap: usize) -> (&'static Postgres, String, Proxy) {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let proxy = Proxy::before(postgres, &database, cap)
        .set("WEIR__POOL__CONNECTION_BORROW_TIMEOUT", "60s")
        .start();
    (postgres, database, proxy)
}

fn sleeping(postgres: &Postgres, database: &str) -> usize {
    postgres.count_where(&format!(
        "datname = '{database}' AND state = 'active' AND query LIKE '%pg_sleep%'"
    ))
}

fn start_sleep(postgres: &Postgres, database: &str, client: &mut Client) {
    client.send(&crate::house::wire::query("SELECT pg_sleep(60)"));
    eventually("did it sleep", || sleeping(postgres, database), |n| *n == 1);
}

#[test]
fn a_running_query_is_cancelled_and_the_session_lives() {
    let (postgres, database, proxy) = house(2);
    for security in [Security::Clear, Security::Tls] {
        let mut client = proxy.login().security(security).connect();
        assert!(
            client.pid > 0,
            "old pgjdbc ignores cancels for pid {}",
            client.pid
        );
        start_sleep(postgres, &database, &mut client);
        client.cancel();
        assert_eq!(client.replies(1).code(), "57014");
        assert_eq!(client.value("SELECT 1"), "1");
    }
}

#[test]
fn in_a_transaction_the_cancel_fails_it() {
    let (postgres, database, proxy) = house(1);
    let mut client = proxy.client();
    client.run("BEGIN");
    start_sleep(postgres, &database, &mut client);
    client.cancel();
    let answer = client.replies(1);
    assert_eq!(
        (answer.code().as_str(), answer.status()),
        ("57014", Some('E'))
    );
    client.run("ROLLBACK");
}

#[test]
fn a_wrong_key_gets_silence() {
    let (postgres, database, proxy) = house(1);
    let mut client = proxy.client();
    start_sleep(postgres, &database, &mut client);
    let mut wrong = client.secret.clone();
    wrong[0] ^= 1;
    assert_eq!(send_cancel(proxy.address, client.pid, &wrong), b"");
    assert_eq!(
        send_cancel(proxy.address, client.pid ^ 1, &client.secret),
        b""
    );
    assert_eq!(send_cancel(proxy.address, -1, &[0; 4]), b"");
    assert_eq!(sleeping(postgres, &database), 1);
    client.cancel();
    assert_eq!(client.replies(1).code(), "57014");
}

#[test]
fn a_waiting_client_is_cancelled_out_of_the_queue() {
    let (postgres, database, proxy) = house(1);
    let mut holder = proxy.client();
    let mut queued = proxy.client();
    start_sleep(postgres, &database, &mut holder);
    queued.send(&crate::house::wire::query("SELECT 'queued'"));
    eventually("did it wait", || proxy.pooled("waiting"), |n| *n == 1);
    queued.cancel();
    assert_eq!(queued.replies(1).code(), "57014");
    assert_eq!(sleeping(postgres, &database), 1, "the holder is not hit");
    holder.cancel();
    assert_eq!(holder.replies(1).code(), "57014");
    assert_eq!(queued.value("SELECT 1"), "1");
}

#[test]
fn an_idle_clients_cancel_does_nothing() {
    let (postgres, database, proxy) = house(1);
    let mut idle = proxy.client();
    idle.run("SELECT 1");
    let mut busy = proxy.client();
    start_sleep(postgres, &database, &mut busy);
    // The connection idle used last is busy's now.
    for _ in 0..20 {
        idle.cancel();
    }
    assert_eq!(sleeping(postgres, &database), 1);
    busy.cancel();
    assert_eq!(busy.replies(1).code(), "57014");
}

/// One client cancels itself without end, just as its queries finish; another, on the same two
/// connections, must never be hit.
#[test]
fn racing_cancels_never_hit_another() {
    let (_, _, proxy) = house(1);
    let over = AtomicBool::new(false);
    let cancels = count(200, 10_000);
    thread::scope(|scope| {
        let bystander = scope.spawn(|| {
            let mut client = proxy.client();
            let mut asked = 0;
            while !over.load(Ordering::Relaxed) {
                let answer = client.ask("SELECT 'bystander', pg_sleep(0.0005)");
                assert_eq!(answer.errors(), [], "after {asked} queries");
                asked += 1;
            }
        });
        let mut client = proxy.client();
        for n in 0..cancels {
            let (address, pid, secret) = (client.address, client.pid, client.secret.clone());
            let cancel = scope.spawn(move || {
                thread::sleep(Duration::from_micros((n % 40) as u64 * 50));
                send_cancel(address, pid, &secret)
            });
            let answer = client.ask("SELECT pg_sleep(0.001)");
            let code = answer.code();
            assert!(["", "57014"].contains(&&*code), "{:?}", answer.error());
            assert_eq!(cancel.join().unwrap(), b"");
            if bystander.is_finished() {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
        bystander.join().unwrap();
    });
    // A late cancel must not be lying in wait for the next query either.
    let mut client = proxy.client();
    for _ in 0..50 {
        assert_eq!(client.value("SELECT 1"), "1");
    }
}
