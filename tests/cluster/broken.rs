//! Hosts that are not there, that are mute, that have no address, or that claim what they are not.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::house::cluster::{ADDRESS, Cluster, served_by};
use crate::house::{Proxy, eventually, free_port, local};

/// A cluster's hosts, and one more.
fn hosts(cluster: &Cluster, more: &str) -> String {
    let nodes = cluster.nodes.iter().map(|node| node.address.to_string());
    [more.to_owned()]
        .into_iter()
        .chain(nodes)
        .collect::<Vec<_>>()
        .join(",")
}

/// State and reason of the target of this name.
fn told(proxy: &Proxy, name: &str) -> (String, String) {
    let targets = proxy.get("/targets").unwrap().json();
    let mut targets = targets.as_array().unwrap().iter();
    let target = targets.find(|target| target["target"] == name).unwrap();
    let word = |key: &str| target[key].as_str().unwrap_or_default().to_owned();
    (word("state"), word("reason"))
}

#[test]
fn with_all_hosts_down_clients_wait_are_told_and_are_served_as_soon_as_one_is_up() {
    let cluster = Cluster::start(1);
    for node in &cluster.nodes {
        node.kill();
    }
    let proxy = cluster
        .proxy(5)
        .set("WEIR__POOL__UNAVAILABLE_TIMEOUT", "1s")
        .start_unready();
    let since = Instant::now();
    let refusal = proxy.login().try_connect().err().unwrap();
    assert_eq!(
        (&*refusal.severity, &*refusal.code),
        ("FATAL", "08001"),
        "{refusal:?}"
    );
    assert!(
        since.elapsed() >= Duration::from_millis(900),
        "{:?}",
        since.elapsed()
    );
    for node in &cluster.nodes {
        let address = node.address.to_string();
        let told = format!("{refusal:?}");
        assert!(
            told.contains(&address) && told.contains("UNREACHABLE"),
            "{told}"
        );
    }
    let page = proxy.get("/ready").unwrap();
    assert_eq!(page.status, 503);
    assert!(
        page.body.contains("no instance is the writer"),
        "{}",
        page.body
    );
    for node in cluster.nodes.iter().rev() {
        node.start_again();
    }
    served_by(&proxy, cluster.writer());
    assert!(proxy.ready());
}

#[test]
fn a_host_that_is_down_for_good_or_mute_or_has_no_address_costs_the_others_nothing() {
    let cluster = Cluster::start(1);
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let cases = [
        (local(free_port()).to_string(), "UNREACHABLE"),
        (
            mute.local_addr().unwrap().to_string(),
            "UNREACHABLE: no answer within",
        ),
        (
            "nobody.invalid:5432".into(),
            "host name \"nobody.invalid\" ",
        ),
    ];
    for (host, why) in cases {
        let proxy = cluster
            .proxy(5)
            .set("AURORA_HOST", &hosts(&cluster, &host))
            .start();
        served_by(&proxy, cluster.writer());
        let reader = cluster.nodes[1].address.to_string();
        eventually(
            "was the reader found",
            || told(&proxy, &reader).0,
            |state| state == "AVAILABLE",
        );
        assert_eq!(proxy.reader_login().connect().value(ADDRESS), reader);
        let seen = eventually(
            "was it told",
            || told(&proxy, &host),
            |(state, _)| state == "UNAVAILABLE",
        );
        assert!(seen.1.contains(why), "{host}: {seen:?}");
        // Ever so often it is tried, and nobody waits for that.
        let since = Instant::now();
        for _ in 0..20 {
            assert_eq!(
                proxy.client().value(ADDRESS),
                cluster.writer().address.to_string()
            );
        }
        assert!(
            since.elapsed() < Duration::from_secs(5),
            "{host}: {:?}",
            since.elapsed()
        );
    }
}

#[test]
fn of_two_writers_the_one_that_was_promoted_last_is_the_writer() {
    let mut cluster = Cluster::start(1);
    let proxy = cluster.proxy(5).start();
    let mut client = proxy.client();
    let old = cluster.writer;
    assert_eq!(client.value(ADDRESS), cluster.writer().address.to_string());
    // The old one lives on, and has not heard of it.
    let _ = cluster.fail_over();
    served_by(&proxy, cluster.writer());
    assert_eq!(client.value(ADDRESS), cluster.writer().address.to_string());
    let former = cluster.nodes[old].address.to_string();
    let seen = eventually(
        "was it told",
        || told(&proxy, &former),
        |(state, _)| state == "UNAVAILABLE",
    );
    assert!(
        seen.1.contains("claims to be the writer, and another is"),
        "{seen:?}"
    );
    assert!(proxy.log().contains("two instances claim to be the writer"));
    let metrics = proxy.metrics();
    let counted = metrics
        .lines()
        .find(|line| line.starts_with("weir_cluster_refused_writers_total"));
    assert_eq!(
        counted,
        Some("weir_cluster_refused_writers_total 1"),
        "{metrics}"
    );
    // Not for a moment is anybody sent there.
    for _ in 0..20 {
        assert_eq!(
            proxy.client().value(ADDRESS),
            cluster.writer().address.to_string()
        );
    }
    // Restarted, it is refused still; a Weir that comes only now knows no better.
    cluster.nodes[old].stop();
    cluster.nodes[old].start_again();
    let late = cluster.proxy(5).start();
    for proxy in [&proxy, &late] {
        served_by(proxy, cluster.writer());
        eventually(
            "was it refused",
            || told(proxy, &former).1,
            |why| why.contains("claims to be"),
        );
    }
}
