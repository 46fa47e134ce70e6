//! Hosts by name, and a DNS that changes its mind, lags, lies or says nothing.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::discovery::{AURORA, Scene};
use crate::failover::{Load, Loss, first_commit};
use crate::house::cluster::{Cluster, served_by};
use crate::house::names::HOLLOW;
use crate::house::proxy::Setup;
use crate::house::{Names, Postgres, Proxy, eventually};

/// Something happens to a DNS server, or is over.
type Turn = fn(&mut Names);

const HOST: &str = "db.test";

const WHERE: &str = "SELECT host(inet_server_addr())";

fn ip(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

/// A Weir that knows one host, by this name alone, and leaves no connection open that nobody uses.
fn before(postgres: &Postgres, database: &str, names: &Names, host: &str) -> Setup {
    Proxy::before(postgres, database, 20)
        .set("AURORA_HOST", host)
        .set("WEIR_DNS_SERVERS", &names.server.to_string())
        .set("WEIR__DNS__TIMEOUT", "300ms")
        .set("WEIR__POOL__MAX_IDLE_CONNECTIONS_PERCENT", "0")
        .set("WEIR__POOL__IDLE_TIMEOUT", "1s")
}

/// Where a connection leads that is opened now: all that were open before are in use, or closed.
fn opened(proxy: &Proxy) -> String {
    eventually(
        "were they closed",
        || proxy.pooled("idle"),
        |idle| *idle == 0,
    );
    proxy.client().value(WHERE)
}

fn times(proxy: &Proxy, words: &str) -> usize {
    proxy.log().matches(words).count()
}

#[test]
fn a_changed_record_is_followed_after_its_ttl_by_new_connections_alone() {
    let cluster = Cluster::spread(1);
    let names = Names::with_ttl(2);
    names.set(HOST, &[ip(2)]);
    let proxy = before(cluster.writer(), &cluster.database, &names, HOST)
        .set("WEIR_WORKERS", "2")
        .start();
    let mut at_work = proxy.client();
    at_work.run("BEGIN");
    assert_eq!(at_work.value(WHERE), "127.0.0.2");
    names.set(HOST, &[ip(3)]);
    eventually("was it followed", || opened(&proxy), |at| at == "127.0.0.3");
    assert_eq!(at_work.value(WHERE), "127.0.0.2");
    at_work.run("COMMIT");
    // Nor is it for the last time.
    names.set(HOST, &[ip(2)]);
    eventually("was it followed", || opened(&proxy), |at| at == "127.0.0.2");
    // An address where nobody listens, before one where somebody does.
    names.set(HOST, &[ip(9), ip(3)]);
    eventually("was it followed", || opened(&proxy), |at| at == "127.0.0.3");
}

/// One trouble after the other, and back each time.
fn while_dns_fails(host: &str, troubles: &[(&str, Turn, Turn)]) {
    let cluster = Cluster::spread(1);
    let mut names = Names::start();
    names.set(host, &[ip(2)]);
    let proxy = before(cluster.writer(), &cluster.database, &names, host).start();
    let stale = "a host is dialled where it was last";
    let mut at = "127.0.0.2";
    assert_eq!(opened(&proxy), at);
    for (number, (cause, begin, end)) in troubles.iter().enumerate() {
        begin(&mut names);
        let said = || {
            assert_eq!(opened(&proxy), at, "{cause}");
            times(&proxy, stale)
        };
        eventually("was it said", said, |times| *times > number);
        for _ in 0..3 {
            assert_eq!(opened(&proxy), at, "{cause}");
        }
        // Once each time, with its cause.
        assert_eq!(times(&proxy, stale), number + 1);
        assert!(proxy.log().contains(cause), "{cause}\n{}", proxy.log());
        end(&mut names);
        names.set(host, &[ip(3)]);
        at = "127.0.0.3";
        // The last address may have been this one already.
        let now = || (opened(&proxy), times(&proxy, "DNS knows a host again"));
        eventually("is it where DNS says", now, |(now, again)| {
            now == at && *again == number + 1
        });
    }
}

#[test]
fn while_dns_denies_a_name_the_host_is_dialled_where_it_was_last() {
    let denied: Turn = |names| names.set(HOST, &[]);
    while_dns_fails(HOST, &[("does not exist, says DNS", denied, |_| {})]);
}

#[test]
fn while_dns_fails_a_host_is_dialled_where_it_was_last() {
    while_dns_fails(
        HOLLOW,
        &[
            (
                "has no address, says DNS",
                |names| names.set(HOLLOW, &[]),
                |_| {},
            ),
            (
                "does not answer",
                |names| names.sleep(),
                |names| names.wake(),
            ),
            (
                "does not answer",
                |names| names.stop(),
                |names| names.start_again(),
            ),
        ],
    );
}

#[test]
fn before_dns_has_ever_answered_the_cause_is_told_and_afterwards_all_is_well() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let mut names = Names::start();
    let troubles: [(&str, &str, Turn, Turn); 4] = [
        (HOST, "does not exist, says DNS", |_| {}, |_| {}),
        (HOLLOW, "has no address, says DNS", |_| {}, |_| {}),
        (
            HOST,
            "does not answer",
            |names| names.sleep(),
            |names| names.wake(),
        ),
        (
            HOST,
            "does not answer",
            |names| names.stop(),
            |names| names.start_again(),
        ),
    ];
    for (host, cause, begin, end) in troubles {
        names.set(host, &[]);
        begin(&mut names);
        let proxy = before(postgres, &database, &names, host)
            .set("WEIR__POOL__UNAVAILABLE_TIMEOUT", "1s")
            .start_unready();
        let told = || proxy.login().try_connect().err().unwrap();
        let refusal = eventually("was it told", told, |told| told.detail.contains(cause));
        assert_eq!(refusal.code, "08001", "{refusal:?}");
        let server = names.server.to_string();
        let detail = &refusal.detail;
        assert!(
            detail.contains(host) && detail.contains(&server),
            "{refusal:?}"
        );
        assert!(refusal.hint.contains("dns.servers"), "{refusal:?}");
        for path in ["/ready", "/targets"] {
            let page = || proxy.get(path).unwrap().body;
            eventually("was it told", page, |page| page.contains(cause));
        }
        end(&mut names);
        names.set(host, &[ip(1)]);
        eventually("was Weir ready", || proxy.ready(), |ready| *ready);
        assert_eq!(proxy.client().value("SELECT 'well'"), "well");
    }
}

const WRITER: &str = "writer.test";
const READER: &str = "reader.test";

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A writer that is replaced while it sleeps, and wakes up while the names lead now to it, now to its successor.
fn flip_flop(mut cluster: Cluster, names: &Names, proxy: &Proxy) {
    proxy
        .client()
        .run("CREATE TABLE work (client int, number bigint)");
    let load = Load::start(proxy, 8);
    let commits = || load.seen.acknowledged.lock().unwrap().len();
    eventually("did they work", commits, |commits| *commits > 20);
    let old = cluster.writer;
    cluster.writer().signal_all("STOP");
    let _ = cluster.fail_over();
    let (before, after) = (
        cluster.nodes[old].address.ip(),
        cluster.writer().address.ip(),
    );
    *load.seen.watched.lock().unwrap() = Some(cluster.writer().address.to_string());
    let flips = AtomicUsize::new(0);
    let until = |count: usize| {
        eventually(
            "did DNS go on",
            || flips.load(Ordering::Relaxed),
            |flips| *flips >= count,
        );
    };
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also of a test that has failed.
        let over = Over(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let (writer, reader) = match flips.fetch_add(1, Ordering::Relaxed) % 2 {
                    0 => (after, before),
                    _ => (before, after),
                };
                names.set(WRITER, &[writer]);
                names.set(READER, &[reader]);
                thread::sleep(Duration::from_millis(300));
            }
        });
        let _ = first_commit(&load.seen, Loss::Freeze, proxy);
        // It wakes up and believes that it is the writer still.
        cluster.nodes[old].signal_all("CONT");
        until(flips.load(Ordering::Relaxed) + 6);
        let then = commits();
        eventually("did they go on", commits, |commits| *commits > then + 20);
        // As Aurora has it: back as a reader, under its old name.
        cluster.rejoin(old);
        until(flips.load(Ordering::Relaxed) + 6);
        drop(over);
    });
    names.set(WRITER, &[after]);
    let then = commits();
    eventually("did they go on", commits, |commits| *commits > then + 20);
    let seen = load.end();
    served_by(proxy, cluster.writer());
    let rows = "SELECT client || ' ' || number FROM work";
    let rows = cluster.writer().sql_in(&cluster.database, rows);
    let wrong = seen.wrong_host.load(Ordering::Relaxed);
    let disconnected = seen.disconnected.load(Ordering::Relaxed);
    let lost = seen.lost(&rows.into_iter().collect());
    assert_eq!((wrong, disconnected, lost), (0, 0, 0), "{}", proxy.log());
    // Nobody was sent to a reader with what he had to write.
    let codes = seen.codes.lock().unwrap();
    assert!(!codes.contains_key("25006"), "{codes:?}\n{}", proxy.log());
}

#[test]
fn a_clusters_name_that_flip_flops_is_of_no_account() {
    let scene = Scene::new(2, AURORA, &["2", "3", "4"]);
    let names = Names::start();
    names.set(WRITER, &[ip(2)]);
    for n in 2..5 {
        names.set(&format!("i{n}.test"), &[ip(n)]);
    }
    let proxy = scene
        .proxy(12)
        .set("AURORA_HOST", WRITER)
        .set("WEIR__CLUSTER__INSTANCE_ENDPOINT", "i?.test")
        .set("WEIR_DNS_SERVERS", &names.server.to_string())
        .set("WEIR__POOL__SERVER_LIFETIME", "1s")
        .start();
    eventually(
        "were all found",
        || proxy.get("/targets").unwrap().body,
        |page| page.contains("i2.test") && page.contains("i4.test"),
    );
    flip_flop(scene.cluster, &names, &proxy);
}

/// Nothing but names is known, and what is found where they lead.
#[test]
fn names_that_flip_flop_lead_no_write_to_who_is_not_the_writer() {
    let cluster = Cluster::spread(2);
    let names = Names::start();
    names.set(WRITER, &[ip(2)]);
    names.set(READER, &[ip(3)]);
    let proxy = Proxy::before(cluster.writer(), &cluster.database, 12)
        .set("AURORA_HOST", WRITER)
        .set("AURORA_READER_HOST", READER)
        .set("WEIR_DNS_SERVERS", &names.server.to_string())
        .set("WEIR__POOL__SERVER_LIFETIME", "1s")
        .start();
    flip_flop(cluster, &names, &proxy);
}
