//! Who has which part of the cap, and what becomes of connections that are another's by now.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::fellows::{Berth, SETTLE, cap, cap_and_used};
use crate::house::client::Next;
use crate::house::cluster::Cluster;
use crate::house::wire::query;
use crate::house::{Postgres, Proxy, eventually};

fn caps(tasks: &[Proxy]) -> Vec<u64> {
    tasks.iter().map(cap).collect()
}

#[test]
fn what_does_not_divide_evenly_goes_to_those_in_front() {
    let berth = Berth::new(8);
    let mut tasks = berth.launch_all(3);
    eventually(
        "did each have its part",
        || caps(&tasks),
        |caps| *caps == [3, 3, 2],
    );

    // One that leaves without a word leaves its part to the others, when all have had time to notice.
    let gone = tasks.remove(0);
    gone.signal("KILL");
    berth.names.strike(berth.address(0));
    let struck = Instant::now();
    eventually(
        "did the others grow",
        || caps(&tasks),
        |caps| *caps == [4, 4],
    );
    assert!(struck.elapsed() >= SETTLE, "after {:?}", struck.elapsed());
}

/// Each task watches all instances on connections of its own: they are a part of its share, and a newcomer has none.
#[test]
fn what_watches_a_cluster_counts_in_each_tasks_share() {
    let cluster = Cluster::start(1);
    let (cap, berth) = (12, Berth::new(12));
    let launch = |number| {
        let setup = berth.among_others(cluster.proxy(cap), number);
        berth.launch_as(setup, number)
    };
    let mut tasks = Vec::new();
    let mut busy = Vec::new();
    let seen = |node: &Postgres| node.connections(&cluster.database);
    for number in 0..3 {
        tasks.push(launch(number));
        let newest = &tasks[number];
        eventually(
            "was the newcomer ready",
            || {
                assert!(cluster.nodes.iter().all(|node| seen(node) <= cap));
                (newest.ready(), newest.log())
            },
            |(ready, _)| *ready,
        );
        for _ in 0..cap {
            let mut client = newest.client();
            client.send(&query("SELECT pg_sleep(0.05)"));
            busy.push(client);
        }
    }
    // Three for clients and one to watch with, of each.
    assert_eq!(caps(&tasks), [3, 3, 3]);
    eventually(
        "was the cap used up",
        || {
            for client in &mut busy {
                client.send(&query("SELECT pg_sleep(0.05)"));
            }
            seen(cluster.writer())
        },
        |seen| {
            assert!(*seen <= cap, "{seen}");
            *seen == cap
        },
    );
}

#[test]
fn with_more_tasks_than_connections_some_have_none_and_say_so() {
    let berth = Berth::new(2);
    let tasks: Vec<Proxy> = (0..3).map(|number| berth.launch(number)).collect();
    eventually(
        "did two get one each",
        || caps(&tasks),
        |caps| *caps == [1, 1, 0],
    );
    let why = || tasks[2].get("/ready").unwrap().body;
    eventually("did the third say why", why, |why| {
        why.contains("share of the connections is none")
    });
    for task in &tasks[..2] {
        assert_eq!(task.client().value("SELECT 1"), "1");
    }
}

#[test]
fn a_newcomer_says_that_it_has_to_wait_and_its_clients_wait() {
    let berth = Berth::new(4);
    let first = berth.launch_all(1).remove(0);
    let mut holders: Vec<_> = (0..4).map(|_| first.client()).collect();
    holders.iter_mut().for_each(|holder| holder.run("SELECT 1"));
    let second = berth.launch(1);
    let why = || second.get("/ready").unwrap().body;
    eventually("did it say why", why, |why| {
        why.contains("new in its fleet")
    });
    let began = Instant::now();
    assert_eq!(second.client().value("SELECT 'served'"), "served");
    assert!(began.elapsed() >= SETTLE / 2, "after {:?}", began.elapsed());
    assert_eq!((cap(&first), cap(&second)), (2, 2));
}

/// At the deadline what is above the share goes, a transaction or none; and no more of it than has to.
#[test]
fn transactions_may_end_until_the_deadline() {
    let berth = Berth::new(4);
    let first = berth.launch_all(1).remove(0);
    let mut holders: Vec<_> = (0..4).map(|_| first.client()).collect();
    for holder in &mut holders {
        holder.run("BEGIN");
        holder.run("SELECT 1");
    }
    let second = berth.launch(1);
    let launched = Instant::now();
    // One ends its transaction in time, and its connection is closed, nothing else.
    let mut quick = holders.pop().unwrap();
    eventually("did it hear of the other", || cap(&first), |cap| *cap == 2);
    quick.run("COMMIT");
    eventually(
        "was one closed",
        || cap_and_used(&first).1,
        |used| *used == 3,
    );
    eventually(
        "were all above gone",
        || cap_and_used(&first).1,
        |used| *used == 2,
    );
    assert!(
        launched.elapsed() >= SETTLE / 2,
        "after {:?}",
        launched.elapsed()
    );

    let mut cut = 0;
    for mut holder in holders {
        match holder.next_within(Duration::from_millis(300)) {
            Next::Silence => holder.run("COMMIT"),
            Next::Frame(frame) => {
                assert_eq!(frame.field(b'C').as_deref(), Some("57P01"));
                assert!(frame.field(b'D').unwrap().contains("share"), "{frame:?}");
                cut += 1;
            }
            Next::Closed => panic!("closed without a word"),
        }
    }
    assert_eq!(cut, 1);
    assert_eq!(second.client().value("SELECT 1"), "1");
    quick.run("SELECT 1");
}

/// What listens for clients, and what an idle client is pinned to, is above the share like anything else.
#[test]
fn listeners_and_pins_give_way_too() {
    let berth = Berth::new(4);
    // One worker has one connection that listens.
    let first = berth.setup(0).set("WEIR_WORKERS", "1");
    let first = berth.launch_as(first, 0);
    let mut listeners: Vec<_> = (0..2).map(|_| first.client()).collect();
    listeners.iter_mut().for_each(|one| one.run("LISTEN news"));
    let mut pinned: Vec<_> = (0..3).map(|_| first.client()).collect();
    pinned
        .iter_mut()
        .for_each(|one| one.run("CREATE TEMP TABLE t (n int)"));
    eventually(
        "were all in use",
        || cap_and_used(&first),
        |now| *now == (4, 4),
    );
    let others: Vec<Proxy> = (1..4).map(|number| berth.launch(number)).collect();
    for other in &others {
        assert_eq!(other.client().value("SELECT 1"), "1");
    }
    let (cap, used) = cap_and_used(&first);
    assert_eq!((cap, used), (1, 1));
}

/// A load balancer's way to end a task: DNS forgets it, it gets SIGTERM, and until its last transaction has ended what it
/// has is its own.
#[test]
fn a_draining_task_gives_its_share_back_when_its_connections_are_closed() {
    let berth = Berth::new(6);
    let leaving = berth.setup(0).set("WEIR__DRAIN_TIMEOUT", "60s");
    let leaving = berth.launch_as(leaving, 0);
    let staying = berth.launch(1);
    let both = || (cap(&leaving), cap(&staying));
    eventually("did they share", both, |caps| *caps == (3, 3));
    let mut client = leaving.client();
    client.run("BEGIN");
    client.run("SELECT 1");
    berth.names.strike(berth.address(0));
    leaving.signal("TERM");
    let until = Instant::now() + SETTLE * 3;
    while Instant::now() < until {
        assert_eq!(cap(&staying), 3);
        sleep(Duration::from_millis(50));
    }
    assert_eq!(client.value("SELECT 'still here'"), "still here");
    client.run("COMMIT");
    assert!(leaving.wait_end().success());
    eventually("did the other get all", || cap(&staying), |cap| *cap == 6);
}

/// A newcomer that DNS can't tell of says hello itself.
#[test]
fn without_dns_the_others_hear_of_a_newcomer() {
    let berth = Berth::new(6);
    let deaf = berth.names.server;
    let first = berth.launch_all(1).remove(0);
    eventually("had it all", || cap(&first), |cap| *cap == 6);
    // The first one's DNS server falls asleep; another knows of both.
    let second_names = crate::house::Names::start();
    second_names.list(berth.address(0));
    second_names.list(berth.address(1));
    berth.names.sleep();
    let second = berth
        .setup(1)
        .without("WEIR_DNS_SERVERS")
        .set("WEIR_DNS_SERVERS", &second_names.server.to_string())
        .start();
    assert_eq!((cap(&first), cap(&second)), (3, 3));
    assert!(
        first.log().contains("the fleet could not be looked up"),
        "{deaf}: {}",
        first.log()
    );
    berth.names.wake();
}

#[test]
fn whoever_lacks_the_key_is_told_nothing() {
    let berth = Berth::new(4);
    let task = berth.launch_all(1).remove(0);
    let at = (berth.address(0), berth.port);
    let mut stranger = TcpStream::connect(at).unwrap();
    stranger
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut said = [0; 32];
    stranger.read_exact(&mut said).unwrap();
    stranger
        .write_all(&[&[7; 32][..], &[0, 40], &[7; 40]].concat())
        .unwrap();
    let mut rest = Vec::new();
    let _ = stranger.read_to_end(&mut rest);
    assert_eq!(rest, b"");
    let counted = || task.metrics().contains("weir_fleet_strangers_total 1\n");
    eventually("was it counted", counted, |counted| *counted);

    // Too long, and nothing at all: closed, and others are answered all the same.
    let mut long = TcpStream::connect(at).unwrap();
    long.write_all(&[&[7; 32][..], &[0xFF, 0xFF]].concat())
        .unwrap();
    let silent: Vec<_> = (0..100).map(|_| TcpStream::connect(at).unwrap()).collect();
    let other = berth.setup(1).set("WEIR_FLEET_KEY", "quite another key");
    let other = berth.launch_as(other, 1);
    eventually("does DNS alone count it", || cap(&task), |cap| *cap == 2);
    let unknown = || other.get("/ready").unwrap().body;
    eventually("does it not know itself", unknown, |why| !why.is_empty());
    drop(silent);
}
