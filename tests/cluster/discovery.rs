//! Instances that nobody listed: the cluster names them, they join, they leave, and none of them counts twice.
//!
//! Aurora's and RDS' functions are played by functions of the same names; what they tell, a table says.

use std::collections::BTreeMap;

use crate::house::cluster::{Cluster, served_by};
use crate::house::proxy::Setup;
use crate::house::{Client, Proxy, USER, eventually};

pub const AURORA: &str = "
    CREATE TABLE members (id text PRIMARY KEY, lag float8, age interval NOT NULL DEFAULT '0');
    GRANT SELECT ON members TO PUBLIC;
    CREATE FUNCTION pg_catalog.aurora_db_instance_identifier() RETURNS text LANGUAGE sql STABLE
        AS $$ SELECT current_setting('cluster_name') $$;
    CREATE FUNCTION pg_catalog.aurora_replica_status() RETURNS TABLE (server_id text, session_id text,
        replica_lag_in_msec float8, last_update_timestamp timestamptz) LANGUAGE sql STABLE
        AS $$ SELECT id, 'a-session', lag, now() - age FROM public.members $$;";

const MULTI_AZ: &str = "
    CREATE TABLE members (id text PRIMARY KEY);
    GRANT SELECT ON members TO PUBLIC;
    CREATE SCHEMA rds_tools;
    GRANT USAGE ON SCHEMA rds_tools TO PUBLIC;
    CREATE FUNCTION rds_tools.dbi_resource_id() RETURNS text LANGUAGE sql STABLE
        AS $$ SELECT 'db-' || current_setting('cluster_name') $$;
    CREATE FUNCTION rds_tools.show_topology(text DEFAULT NULL) RETURNS TABLE (id text, endpoint text, port int)
        LANGUAGE sql STABLE
        AS $$ SELECT 'db-' || id, id || '.abc.eu-west-1.rds.amazonaws.com', current_setting('port')::int
              FROM public.members $$;";

/// A cluster that tells of its members.
pub struct Scene {
    pub cluster: Cluster,
}

impl Scene {
    pub fn new(replicas: usize, functions: &str, members: &[&str]) -> Scene {
        let cluster = Cluster::spread(replicas);
        let scene = Scene { cluster };
        scene.tell(functions);
        for id in members {
            scene.tell(&format!("INSERT INTO members (id) VALUES ('{id}')"));
        }
        for node in scene.cluster.others() {
            scene.cluster.catch_up(node);
        }
        scene
    }

    fn tell(&self, sql: &str) {
        let writer = self.cluster.writer();
        writer.sql_in(&self.cluster.database, sql);
    }

    /// A Weir that knows the cluster by one name alone, which leads to the writer.
    pub fn proxy(&self, cap: usize) -> Setup {
        let cluster = &self.cluster;
        Proxy::before(cluster.writer(), &cluster.database, cap)
            .set("AURORA_HOST", "127.0.0.1")
            .set("WEIR__CLUSTER__INSTANCE_ENDPOINT", "127.0.0.?")
            .set("WEIR__CLUSTER__PROBE_INTERVAL", "100ms")
            .set("WEIR__CLUSTER__FORGET_AFTER", "500ms")
    }

    fn connections(&self, node: usize) -> usize {
        self.cluster.nodes[node].count_where(&format!("usename = '{USER}'"))
    }
}

/// Of each target, by its address' last number: its role and state.
fn targets(proxy: &Proxy) -> BTreeMap<String, String> {
    let targets = proxy.get("/targets").unwrap().json();
    let targets = targets.as_array().unwrap().iter().map(|target| {
        let host = target["target"].as_str().unwrap();
        let number = host.split([':', '.']).nth(3).unwrap().to_owned();
        let word = |key: &str| target[key].as_str().unwrap().to_owned();
        (number, format!("{} {}", word("role"), word("state")))
    });
    targets.collect()
}

fn comes_to(proxy: &Proxy, expected: &[(&str, &str)]) {
    let expected = expected
        .iter()
        .map(|(n, what)| (n.to_string(), what.to_string()));
    let expected: BTreeMap<String, String> = expected.collect();
    eventually("was it so", || targets(proxy), |seen| *seen == expected);
}

const NODE: &str = "SELECT current_setting('cluster_name')";

#[test]
fn a_cluster_known_by_one_name_is_found_whole_and_no_instance_counts_twice() {
    let scene = Scene::new(2, AURORA, &["2", "3", "4"]);
    scene.tell("UPDATE members SET lag = 250 WHERE id = '3'");
    scene.tell("INSERT INTO members VALUES ('9', NULL, '10 minutes')");
    let proxy = scene.proxy(6).start();
    let all = [
        ("2", "writer AVAILABLE"),
        ("3", "reader AVAILABLE"),
        ("4", "reader AVAILABLE"),
    ];
    comes_to(&proxy, &all);
    let report = proxy.get("/targets").unwrap().json();
    let of = |n: &str| {
        let mut all = report.as_array().unwrap().iter();
        let host = format!("127.0.0.{n}:");
        all.find(|target| target["target"].as_str().unwrap().starts_with(&host))
            .unwrap()
    };
    assert_eq!(of("3")["lag_seconds"], 0.25, "{report}");
    // More clients than connections, on both listeners: each instance has no more than its cap, Weir's own question
    // counted in, whatever name it was first known by.
    let mut clients: Vec<Client> = (0..20).map(|_| proxy.client()).collect();
    clients.extend((0..20).map(|_| proxy.reader_login().connect()));
    for client in &mut clients {
        client.send(&crate::house::wire::query("SELECT pg_sleep(0.4)"));
    }
    let mut most = [0; 3];
    for _ in 0..15 {
        for (node, most) in most.iter_mut().enumerate() {
            *most = scene.connections(node).max(*most);
        }
    }
    for client in &mut clients {
        assert_eq!(client.replies(1).error(), None);
    }
    assert!(most.iter().all(|most| (3..=6).contains(most)), "{most:?}");
    let report = proxy.get("/targets").unwrap().json();
    let caps = report
        .as_array()
        .unwrap()
        .iter()
        .map(|target| target["cap"].as_u64());
    assert_eq!(caps.collect::<Vec<_>>(), [Some(5); 3], "{report}");
    // What Aurora says of the lag decides.
    scene.tell("UPDATE members SET lag = 60000 WHERE id = '3'");
    let behind = [
        ("2", "writer AVAILABLE"),
        ("3", "reader UNAVAILABLE"),
        ("4", "reader AVAILABLE"),
    ];
    comes_to(&proxy, &behind);
    for _ in 0..4 {
        assert_eq!(proxy.reader_login().connect().value(NODE), "4");
    }
}

#[test]
fn readers_come_and_go_with_what_the_cluster_says() {
    let scene = Scene::new(2, AURORA, &["2", "3"]);
    let proxy = scene.proxy(5).set("WEIR_WORKERS", "2").start();
    comes_to(
        &proxy,
        &[("2", "writer AVAILABLE"), ("3", "reader AVAILABLE")],
    );
    let mut clients: Vec<Client> = (0..6).map(|_| proxy.reader_login().connect()).collect();
    let served = |clients: &mut [Client]| -> Vec<String> {
        clients.iter_mut().for_each(|client| client.run("BEGIN"));
        let served = clients
            .iter_mut()
            .map(|client| client.value(NODE))
            .collect();
        clients.iter_mut().for_each(|client| client.run("COMMIT"));
        served
    };
    for (round, sql) in ["INSERT INTO members VALUES ('4')"; 2].iter().enumerate() {
        scene.tell(sql);
        comes_to(
            &proxy,
            &[
                ("2", "writer AVAILABLE"),
                ("3", "reader AVAILABLE"),
                ("4", "reader AVAILABLE"),
            ],
        );
        let seen = eventually(
            "were both used",
            || served(&mut clients[..4]),
            |seen| {
                ["3", "4"]
                    .iter()
                    .all(|node| seen.iter().any(|own| own == node))
            },
        );
        assert_eq!(seen.len(), 4, "round {round}");
        // It leaves: who is at work there finishes, nobody is sent there any more, and nothing is left behind.
        let mut at_work = loop {
            let mut client = proxy.reader_login().connect();
            client.run("BEGIN");
            if client.value(NODE) == "4" {
                break client;
            }
        };
        scene.tell("DELETE FROM members WHERE id = '4'");
        comes_to(
            &proxy,
            &[("2", "writer AVAILABLE"), ("3", "reader AVAILABLE")],
        );
        assert_eq!(at_work.value(NODE), "4");
        at_work.run("COMMIT");
        assert_eq!(at_work.value(NODE), "3");
        for client in &mut clients {
            assert_eq!(client.value(NODE), "3");
        }
        eventually(
            "were its connections closed",
            || scene.connections(2),
            |count| *count == 0,
        );
    }
}

#[test]
fn the_writer_is_followed_to_an_instance_that_nobody_listed() {
    let mut scene = Scene::new(2, AURORA, &["2", "3", "4"]);
    let proxy = scene.proxy(5).start();
    comes_to(
        &proxy,
        &[
            ("2", "writer AVAILABLE"),
            ("3", "reader AVAILABLE"),
            ("4", "reader AVAILABLE"),
        ],
    );
    let mut idle = proxy.client();
    assert_eq!(idle.value(NODE), "2");
    scene.cluster.writer().kill();
    let _ = scene.cluster.fail_over();
    served_by(&proxy, scene.cluster.writer());
    let new = scene.cluster.writer().address.ip().to_string();
    assert_eq!(idle.value("SELECT host(inet_server_addr())"), new);
    idle.run("CREATE TABLE written (a int)");
    // The one that is lost is still named; when it isn't, it is forgotten.
    scene.tell("DELETE FROM members WHERE id = '2'");
    eventually(
        "was it forgotten",
        || targets(&proxy),
        |seen| !seen.contains_key("2"),
    );
    // Back under the same name, it is a reader, although the name that led to it once was the writer's.
    scene.cluster.rejoin(0);
    scene.tell("INSERT INTO members (id) VALUES ('2')");
    eventually(
        "was it found again",
        || targets(&proxy),
        |seen| {
            seen.get("2")
                .is_some_and(|state| state == "reader AVAILABLE")
        },
    );
    assert_eq!(idle.value("SELECT host(inet_server_addr())"), new);
}

#[test]
fn no_more_instances_than_there_may_be() {
    let scene = Scene::new(2, AURORA, &["2", "3", "4"]);
    let proxy = scene
        .proxy(5)
        .set("WEIR__CLUSTER__MAX_INSTANCES", "3")
        .start();
    let all = [
        ("2", "writer AVAILABLE"),
        ("3", "reader AVAILABLE"),
        ("4", "reader AVAILABLE"),
    ];
    comes_to(&proxy, &all);
    // The name that it began with is none of them.
    assert!(
        !proxy.log().contains("cluster.max_instances"),
        "{}",
        proxy.log()
    );
    let proxy = scene
        .proxy(5)
        .set("WEIR__CLUSTER__MAX_INSTANCES", "2")
        .start();
    eventually(
        "was it said",
        || proxy.log(),
        |log| log.contains("cluster.max_instances"),
    );
    // Until the name that it began with has given up its place there may be one more to see.
    comes_to(
        &proxy,
        &[("2", "writer AVAILABLE"), ("3", "reader AVAILABLE")],
    );
    let proxy = scene
        .proxy(5)
        .set("WEIR__CLUSTER__DISCOVER", "false")
        .start();
    assert_eq!(proxy.client().value(NODE), "2");
    comes_to(&proxy, &[("1", "writer AVAILABLE")]);
}

#[test]
fn members_of_a_multi_az_cluster_are_found_by_its_topology() {
    let scene = Scene::new(1, MULTI_AZ, &["2", "3"]);
    let proxy = scene.proxy(5).start();
    comes_to(
        &proxy,
        &[("2", "writer AVAILABLE"), ("3", "reader AVAILABLE")],
    );
    assert_eq!(proxy.reader_login().connect().value(NODE), "3");
    assert_eq!(proxy.client().value(NODE), "2");
}

/// Who may not ask the cluster is served all the same.
#[test]
fn functions_that_may_not_be_called_are_not_called() {
    let scene = Scene::new(1, MULTI_AZ, &["2", "3"]);
    scene.tell("REVOKE ALL ON SCHEMA rds_tools FROM PUBLIC");
    let proxy = scene.proxy(5).start();
    comes_to(&proxy, &[("1", "writer AVAILABLE")]);
    assert_eq!(proxy.client().value(NODE), "2");
}
