//! Names asked of a DNS server of the test's own, which says what it was asked.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::thread;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::*;

/// What the server says of a name.
#[derive(Clone)]
enum Says {
    Has(&'static [&'static str], u32),
    /// Another name has the address.
    Alias(&'static str, u32, &'static str, u32),
    Nothing,
    NoSuchName,
    Failure,
    Silence,
}

type Zone = Arc<Mutex<HashMap<String, Says>>>;

/// Answers until the process ends.
struct Server {
    at: SocketAddr,
    zone: Zone,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Names that are not among these don't exist.
    fn start(zone: &[(&str, Says)]) -> Server {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let zone = zone
            .iter()
            .map(|(name, says)| ((*name).to_owned(), says.clone()));
        let server = Server {
            at: socket.local_addr().unwrap(),
            zone: Arc::new(Mutex::new(zone.collect())),
            asked: Arc::default(),
        };
        let (zone, asked) = (Arc::clone(&server.zone), Arc::clone(&server.asked));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok((length, peer)) = socket.recv_from(&mut bytes) {
                let question = Message::from_vec(&bytes[..length]).unwrap();
                if let Some(answer) = answer(&question, &zone, &asked) {
                    socket.send_to(&answer.to_vec().unwrap(), peer).unwrap();
                }
            }
        });
        server
    }

    fn set(&self, name: &str, says: Says) {
        self.zone.lock().unwrap().insert(name.to_owned(), says);
    }

    /// Names and kinds since the last time.
    fn asked(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.sort();
        asked
    }

    fn resolver(&self) -> Resolver {
        Resolver::new(&Dns {
            servers: vec![self.at],
            timeout: Duration::from_millis(400),
            max_ttl: Duration::from_secs(60),
            max_stale: Duration::from_secs(60),
        })
    }
}

fn answer(question: &Message, zone: &Zone, asked: &Mutex<Vec<String>>) -> Option<Message> {
    let query = question.queries.first().unwrap();
    let name = query.name().to_string().to_lowercase();
    let name = name.trim_end_matches('.');
    let kind = query.query_type();
    asked.lock().unwrap().push(format!("{name} {kind}"));
    let says = zone.lock().unwrap().get(name).cloned();
    let mut answer = question.clone().into_response();
    let record = |name: &Name, ttl, address: &str| {
        let data = match address.parse().unwrap() {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        Record::from_rdata(name.clone(), ttl, data)
    };
    let mut records = Vec::new();
    match says.unwrap_or(Says::NoSuchName) {
        Says::Has(addresses, ttl) => {
            records.extend(addresses.iter().map(|one| record(query.name(), ttl, one)));
        }
        Says::Alias(alias, alias_ttl, address, ttl) => {
            let alias = Name::from_ascii(alias).unwrap();
            let link = RData::CNAME(CNAME(alias.clone()));
            records.push(Record::from_rdata(query.name().clone(), alias_ttl, link));
            records.push(record(&alias, ttl, address));
        }
        Says::Nothing => {}
        Says::NoSuchName => answer.metadata.response_code = ResponseCode::NXDomain,
        Says::Failure => answer.metadata.response_code = ResponseCode::ServFail,
        Says::Silence => return None,
    }
    records.retain(|record| [kind, RecordType::CNAME].contains(&record.record_type()));
    answer.insert_answers(records);
    Some(answer)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

async fn found(resolver: &Resolver, host: &str) -> String {
    told(&resolver.resolve(host, soon()).await)
}

async fn refused(resolver: &Resolver, host: &str) -> String {
    resolver
        .resolve(host, soon())
        .await
        .unwrap_err()
        .to_string()
}

#[tokio::test]
async fn addresses_of_both_kinds_and_none_where_nothing_need_be_asked() {
    let server = Server::start(&[
        (
            "db.test",
            Says::Has(&["10.0.0.1", "10.0.0.2", "fd00::1"], 60),
        ),
        ("my_db_1.test", Says::Has(&["10.0.0.3"], 60)),
    ]);
    let resolver = server.resolver();
    for (host, addresses) in [("10.1.2.3", "10.1.2.3"), ("::1", "::1")] {
        assert_eq!(found(&resolver, host).await, addresses);
    }
    assert!(found(&resolver, "localhost").await.starts_with("127.0.0.1"));
    assert!(
        found(&resolver, "db.localhost")
            .await
            .starts_with("127.0.0.1")
    );
    assert_eq!(server.asked(), [""; 0]);
    assert_eq!(
        found(&resolver, "db.test").await,
        "10.0.0.1, 10.0.0.2, fd00::1"
    );
    assert_eq!(server.asked(), ["db.test A", "db.test AAAA"]);
    // Containers are called so.
    assert_eq!(found(&resolver, "my_db_1.test").await, "10.0.0.3");
    // Known now.
    server.set("db.test", Says::NoSuchName);
    assert_eq!(
        found(&resolver, "db.test").await,
        "10.0.0.1, 10.0.0.2, fd00::1"
    );
}

#[tokio::test]
async fn each_failure_says_what_it_is() {
    let server = Server::start(&[
        ("empty.test", Says::Nothing),
        ("broken.test", Says::Failure),
        ("silent.test", Says::Silence),
    ]);
    let at = server.at;
    let resolver = server.resolver();
    for (host, text) in [
        (
            "none.test",
            format!("host name \"none.test\" does not exist, says DNS ({at})"),
        ),
        (
            "empty.test",
            format!("host name \"empty.test\" has no address, says DNS ({at})"),
        ),
        (
            "broken.test",
            format!(
                "host name \"broken.test\" cannot be resolved: DNS ({at}) answers \"Server Failure\""
            ),
        ),
        (
            "silent.test",
            format!("host name \"silent.test\" cannot be resolved: DNS ({at}) does not answer"),
        ),
        ("a..b", "\"a..b\" is not a host name".to_owned()),
    ] {
        assert_eq!(refused(&resolver, host).await, text);
    }
    let nobody = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let nobody = Server {
        at: nobody,
        ..server
    };
    let text = refused(&nobody.resolver(), "db.test").await;
    let expected = format!(
        "host name \"db.test\" cannot be resolved: DNS ({}) does not answer",
        nobody.at
    );
    assert_eq!(text, expected);
}

/// Each in a runtime of its own, as workers have them.
#[test]
fn who_want_the_same_name_share_one_question() {
    let server = Server::start(&[("db.test", Says::Has(&["10.0.0.1"], 60))]);
    let resolver = server.resolver();
    let ask = |_| {
        let resolver = resolver.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let all = (0..5).map(|_| {
                    let resolver = resolver.clone();
                    tokio::spawn(async move { found(&resolver, "db.test").await })
                });
                let all: Vec<_> = all.collect();
                for one in all {
                    assert_eq!(one.await.unwrap(), "10.0.0.1");
                }
            });
        })
    };
    let threads: Vec<_> = (0..4).map(ask).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(server.asked(), ["db.test A", "db.test AAAA"]);
}

#[test]
fn a_runtime_that_ends_takes_no_name_with_it() {
    let server = Server::start(&[("db.test", Says::Silence)]);
    let resolver = server.resolver();
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let hasty = Instant::now() + Duration::from_millis(100);
    let pending = runtime().block_on(resolver.resolve("db.test", hasty));
    assert!(
        matches!(pending, Err(ResolveError::Pending { .. })),
        "{pending:?}"
    );
    server.set("db.test", Says::Has(&["10.0.0.1"], 60));
    assert_eq!(runtime().block_on(found(&resolver, "db.test")), "10.0.0.1");
}

#[tokio::test]
async fn who_gives_up_asking_leaves_the_answer_to_others() {
    let server = Server::start(&[("db.test", Says::Has(&["10.0.0.1"], 60))]);
    let resolver = server.resolver();
    {
        let asking = resolver.resolve("db.test", soon());
        tokio::select! {
            biased;
            _ = asking => panic!("nothing is known at once"),
            () = std::future::ready(()) => {}
        }
    }
    assert_eq!(found(&resolver, "db.test").await, "10.0.0.1");
    assert_eq!(server.asked(), ["db.test A", "db.test AAAA"]);
}

/// Files instead of the system's.
struct Files(PathBuf);

impl Files {
    fn new(name: &str, resolv_conf: Option<&str>, hosts: &str) -> Files {
        let folder = std::env::temp_dir().join(format!("weir-dns-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        if let Some(text) = resolv_conf {
            std::fs::write(folder.join("resolv.conf"), text).unwrap();
        }
        std::fs::write(folder.join("hosts"), hosts).unwrap();
        Files(folder)
    }

    fn asker(&self, servers: Vec<SocketAddr>) -> Asker {
        let (conf, hosts) = (self.0.join("resolv.conf"), self.0.join("hosts"));
        Asker::reading(conf, hosts, servers, Duration::from_millis(400))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn asked(asker: &Asker, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
    let answer = asker.ask(host, Families::All).await;
    answer.map(|answer| answer.addresses)
}

#[tokio::test]
async fn the_search_list_and_the_hosts_file_are_heeded_as_they_are_now() {
    let server = Server::start(&[
        ("db.ns.svc.test", Says::Has(&["10.0.0.1"], 60)),
        ("db.ns.svc.test.svc.test", Says::NoSuchName),
        ("other.svc.test", Says::Has(&["10.0.0.2"], 60)),
        ("a.b.example", Says::Has(&["10.0.0.3"], 60)),
    ]);
    let conf = "nameserver 127.0.0.1\nsearch ns.svc.test svc.test\noptions ndots:2\n";
    let files = Files::new("search", Some(conf), "10.9.9.9 listed other\n");
    let asker = files.asker(vec![server.at]);
    let address = |text: &str| Ok(vec![text.parse().unwrap()]);
    assert_eq!(asked(&asker, "listed").await, address("10.9.9.9"));
    assert_eq!(asked(&asker, "OTHER").await, address("10.9.9.9"));
    assert_eq!(server.asked(), [""; 0]);
    assert_eq!(asked(&asker, "db").await, address("10.0.0.1"));
    assert_eq!(server.asked(), ["db.ns.svc.test A", "db.ns.svc.test AAAA"]);
    // As many dots as ndots: as it stands, first.
    assert_eq!(asked(&asker, "a.b.example").await, address("10.0.0.3"));
    assert_eq!(server.asked(), ["a.b.example A", "a.b.example AAAA"]);
    std::fs::write(files.0.join("hosts"), "10.9.9.8 listed\n").unwrap();
    assert_eq!(asked(&asker, "listed").await, address("10.9.9.8"));
    assert_eq!(asked(&asker, "other").await, address("10.0.0.2"));
    server.asked();
    // A dot at the end: nothing is put behind it.
    let lost = asked(&asker, "db.").await;
    assert!(
        matches!(lost, Err(ResolveError::NoSuchName { .. })),
        "{lost:?}"
    );
    assert_eq!(server.asked(), ["db A", "db AAAA"]);
}

/// That the name alone is unknown does not say that it has none with a domain behind it.
#[tokio::test]
async fn a_search_that_failed_half_way_denies_nothing() {
    let server = Server::start(&[("db.ns.svc.test", Says::Failure)]);
    let conf = "nameserver 127.0.0.1\nsearch ns.svc.test\noptions ndots:5\n";
    let files = Files::new("half", Some(conf), "");
    let asker = files.asker(vec![server.at]);
    let lost = asked(&asker, "db").await;
    assert!(
        matches!(lost, Err(ResolveError::Refused { .. })),
        "{lost:?}"
    );
}

#[tokio::test]
async fn of_an_alias_the_shorter_ttl_counts_and_for_the_fleet_the_longer() {
    let server = Server::start(&[("db.test", Says::Alias("i1.test.", 5, "10.0.0.1", 30))]);
    let resolver = server.resolver();
    for families in [Families::All, Families::One] {
        let answer = resolver.asker().ask("db.test", families).await.unwrap();
        let ttls = (answer.shortest_ttl.as_secs(), answer.longest_ttl.as_secs());
        assert_eq!(ttls, (5, 30));
        assert_eq!(answer.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    }
}

#[tokio::test]
async fn one_family_is_the_first_that_there_is() {
    let server = Server::start(&[
        ("both.test", Says::Has(&["10.0.0.1", "fd00::1"], 60)),
        ("six.test", Says::Has(&["fd00::1"], 60)),
    ]);
    let resolver = server.resolver();
    for (host, address) in [("both.test", "10.0.0.1"), ("six.test", "fd00::1")] {
        let answer = resolver.asker().ask(host, Families::One).await.unwrap();
        assert_eq!(answer.addresses, [address.parse::<IpAddr>().unwrap()]);
    }
    let denied = resolver.asker().ask("none.test", Families::One).await;
    assert!(denied.is_err_and(|error| error.is_denial()));
}

#[tokio::test]
async fn without_a_server_the_c_library_is_asked() {
    for (name, conf) in [("absent", None), ("nameless", Some("search test\n"))] {
        let files = Files::new(name, conf, "");
        let asker = files.asker(Vec::new());
        assert!(!asker.knows_servers());
        let addresses = asked(&asker, "localhost").await.unwrap();
        assert!(
            addresses.contains(&IpAddr::from([127, 0, 0, 1])),
            "{addresses:?}"
        );
    }
}
