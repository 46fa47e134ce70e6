//! Who joins, who leaves, and that no server has two places, with a clock of the tests' own.

use super::*;
use crate::topology::roles::{Role, Said};

struct Cluster {
    members: Members,
    now: Instant,
}

fn host(name: &str) -> HostPort {
    HostPort {
        host: name.into(),
        port: 5432,
    }
}

fn instance(id: &str) -> HostPort {
    host(&format!("{id}.x.rds"))
}

impl Cluster {
    /// These hosts were configured.
    fn new(hosts: &[&str]) -> Cluster {
        let mut members = Members::new(Terms {
            reached_at: HostPattern::of_cluster("c.cluster-x.rds"),
            overrides: false,
            max: 4,
            forget_after: Duration::from_secs(60),
        });
        for (place, name) in hosts.iter().enumerate() {
            members.begin_with(Place(place), host(name));
        }
        Cluster {
            members,
            now: Instant::now(),
        }
    }

    /// The instance at `place` says that it is `id` and that there are `named`.
    fn says(&mut self, place: usize, id: &str, named: &str, writer: Option<usize>) -> Vec<Change> {
        let member = |id: &str| Member {
            id: id.into(),
            host: None,
            port: None,
        };
        let answer = Answer {
            said: Said {
                role: Role::Writer,
                timeline: None,
                position: None,
                lag: None,
                started: Vec::new(),
                allows: 1,
            },
            id: (!id.is_empty()).then(|| id.to_owned()),
            members: named.split_whitespace().map(member).collect(),
        };
        let writer = writer.map(Place);
        self.members.heard(Place(place), &answer, writer, self.now)
    }
}

#[test]
fn an_instance_takes_the_place_of_the_name_that_led_to_it() {
    let mut cluster = Cluster::new(&["c.cluster-x.rds"]);
    let found = cluster.says(0, "a", "a b", Some(0));
    assert_eq!(
        found,
        [Change::Join(instance("a")), Change::Join(instance("b"))]
    );
    cluster.members.joined(Place(1), instance("a"));
    cluster.members.joined(Place(2), instance("b"));
    assert_eq!(cluster.says(2, "b", "a b", Some(0)), []);
    // The same server twice: it keeps the place that clients have been sent to, by its own name.
    let moved = Change::Move(Place(0), instance("a"));
    assert_eq!(
        cluster.says(1, "a", "a b", Some(0)),
        [moved, Change::Alias(Place(1))]
    );
    assert_eq!(cluster.says(0, "a", "a b", Some(0)), []);
    // Another one is promoted: nothing is to be done about who belongs.
    assert_eq!(cluster.says(2, "b", "a b", Some(2)), []);
}

#[test]
fn a_second_name_of_an_instance_has_no_place() {
    let mut cluster = Cluster::new(&["c.cluster-x.rds", "c.cluster-ro-x.rds"]);
    cluster.says(0, "a", "", Some(0));
    assert_eq!(
        cluster.says(1, "a", "a", Some(0)),
        [Change::Alias(Place(1))]
    );
    assert_eq!(cluster.says(1, "a", "a", Some(0)), [], "it is gone");
    // Without a name of its own nothing is known of it: plain PostgreSQL.
    let mut cluster = Cluster::new(&["a", "b"]);
    assert_eq!(cluster.says(0, "", "", Some(0)), []);
    assert_eq!(cluster.says(1, "", "", Some(0)), []);
}

#[test]
fn whom_the_writer_does_not_name_any_more_leaves_after_a_while() {
    let mut cluster = Cluster::new(&["c.cluster-x.rds"]);
    cluster.says(0, "w", "", Some(0));
    for (place, id) in [(1, "a"), (2, "b")] {
        cluster.members.joined(Place(place), instance(id));
        cluster.says(place, id, "", Some(0));
    }
    let join_w = [Change::Join(instance("w"))];
    let minute = Duration::from_secs(60);
    assert_eq!(cluster.says(0, "w", "w a", Some(0)), join_w);
    cluster.now += minute / 2;
    assert_eq!(cluster.says(0, "w", "w a b", Some(0)), join_w, "it is back");
    assert_eq!(cluster.says(0, "w", "w a", Some(0)), join_w);
    // What readers say is no proof, nor what is said while there is no writer.
    cluster.now += minute;
    assert_eq!(cluster.says(1, "a", "a", Some(0)), []);
    assert_eq!(cluster.says(1, "a", "a", None), []);
    let left = cluster.says(0, "w", "w a", Some(0));
    assert_eq!(left[1..], [Change::Leave(Place(2))]);
    // The writer itself stays, whatever it names.
    cluster.members.left(Place(2));
    cluster.now += minute * 2;
    cluster.says(0, "w", "a", Some(0));
    cluster.now += minute * 2;
    assert_eq!(cluster.says(0, "w", "a", Some(0)), []);
}

#[test]
fn there_are_never_more_than_there_may_be() {
    let mut cluster = Cluster::new(&["c.cluster-x.rds"]);
    let found = cluster.says(0, "a", "a b c d e", Some(0));
    let joined = found
        .iter()
        .filter(|change| matches!(change, Change::Join(_)));
    assert_eq!(
        joined.count(),
        4,
        "the configured name gives up its place to one of them"
    );
    let left_out = found
        .iter()
        .filter(|change| matches!(change, Change::Full(_)));
    assert_eq!(left_out.count(), 1);
}

#[test]
fn names_that_are_no_hosts_are_passed_over() {
    let mut cluster = Cluster::new(&["c.cluster-x.rds"]);
    assert_eq!(cluster.says(0, "a", "a/b evil.example @", Some(0)), []);
}

#[test]
fn endpoints_that_the_cluster_tells_are_taken_unless_the_configuration_knows_better() {
    let told = Member {
        id: "db-1".into(),
        host: Some("one.other.rds".into()),
        port: Some(5433),
    };
    for (overrides, expected) in [(false, "one.other.rds:5433"), (true, "one.x.rds:5433")] {
        let mut cluster = Cluster::new(&["c.cluster-x.rds"]);
        cluster.members.terms.overrides = overrides;
        let at = cluster.members.address(&told, 5432).unwrap();
        assert_eq!(at.to_string(), expected);
    }
}

#[test]
fn the_configured_names_are_sought_when_all_else_is_lost() {
    let mut cluster = Cluster::new(&["c.cluster-x.rds"]);
    assert_eq!(cluster.members.seek(), []);
    cluster.says(0, "a", "a", Some(0));
    cluster.members.joined(Place(1), instance("a"));
    cluster.says(1, "a", "a", Some(0));
    assert_eq!(
        cluster.members.seek(),
        [Change::Join(host("c.cluster-x.rds"))]
    );
}
