//! Guessing, in numbers: what it costs Weir, and whom else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::aurora;
use crate::house::postgres::{PASSWORD, USER};
use crate::house::{Login, Postgres, Proxy, count, eventually};

/// How many guess at a time.
const ATTACKERS: usize = 32;

/// So much more memory than before, whatever is guessed.
const MOST_BYTES: u64 = 48 << 20;

/// All guesses are refused, with one of these codes; who is `good` gets in all the while.
fn guess(proxy: &Proxy, guesses: &[Login], good: &Login) -> Duration {
    drop(good.connect());
    let lines_before = lines_of(proxy);
    let (before, started) = (proxy.rss_bytes(), Instant::now());
    let over = AtomicBool::new(false);
    let (unheard, most, came) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let (mut most, mut came) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                assert_eq!(good.connect().value("SELECT 1"), "1");
                came += 1;
                most = most.max(proxy.rss_bytes());
                std::thread::sleep(Duration::from_millis(20));
            }
            (most, came)
        });
        let shares = guesses.chunks(guesses.len().div_ceil(ATTACKERS));
        let attackers: Vec<_> = shares.map(|share| scope.spawn(|| unheard(share))).collect();
        let unheard: usize = attackers.into_iter().map(|one| one.join().unwrap()).sum();
        over.store(true, Ordering::Relaxed);
        let (most, came) = watching.join().unwrap();
        (unheard, most, came)
    });
    let took = started.elapsed();
    let grown = most.saturating_sub(before);
    println!(
        "{} guesses in {took:?}: {unheard} unheard; memory +{} KiB; {came} good logins meanwhile",
        guesses.len(),
        grown >> 10
    );
    // Twenty, and one more every three seconds; or two hundred from the address, and one more every 0.3 s.
    let heard = guesses.len() - unheard;
    let allowed = 200 + usize::try_from(took.as_millis() / 300).unwrap() + 1;
    assert!(heard <= allowed, "{heard} of {allowed}");
    assert!(grown < MOST_BYTES, "{grown} bytes more");
    assert!(came > 0);
    // Not a line for each.
    let lines = lines_of(proxy) - lines_before;
    let most = 10 * (usize::try_from(took.as_secs()).unwrap() + 2);
    assert!(lines <= most, "{lines} lines, {most} allowed");
    // How many are missing, the next one says.
    std::thread::sleep(Duration::from_secs(1));
    assert!(guesses[0].try_connect().is_err());
    let said = |log: &String| log.contains("without a line for each");
    eventually("did the log say how many are missing", || proxy.log(), said);
    drop(good.connect());
    took
}

fn lines_of(proxy: &Proxy) -> usize {
    proxy.log().matches("client refused").count()
}

/// The same with another signature.
pub fn forged(token: &str, number: usize) -> String {
    let (head, rest) = token.rsplit_once("Signature=").unwrap();
    format!("{head}Signature={number:08x}{}", &rest[8..])
}

/// Of these, how many were not even looked at.
fn unheard(guesses: &[Login]) -> usize {
    let codes = guesses.iter().map(|login| match login.try_connect() {
        Ok(_) => panic!("a guess of {} was right", login.user),
        Err(refusal) => refusal.code,
    });
    codes
        .filter(|code| match code.as_str() {
            "28000" => true,
            "28P01" => false,
            other => panic!("{other}"),
        })
        .count()
}

#[test]
fn ten_thousand_passwords_from_one_address() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let proxy = Proxy::before(postgres, &database, 5)
        .set("WEIR__LOG__REFUSALS_PER_SECOND", "10")
        .start();
    let guesses = (0..count(1_000, 10_000)).map(|number| {
        // Of users that are there, and of such that are not.
        let user = match number % 2 {
            0 => "nobody".to_owned(),
            _ => format!("user{number}"),
        };
        Login::to(proxy.address, &user, &format!("wrong {number}"), &database)
    });
    let guesses: Vec<Login> = guesses.collect();
    let good = Login::to(proxy.address, USER, PASSWORD, &database);
    guess(&proxy, &guesses, &good);
    // The user itself is guessed at from elsewhere.
    let guesses = guesses.into_iter().take(count(1_000, 10_000));
    let guesses = guesses.map(|login| login.user(USER, "wrong").from([127, 0, 0, 2]));
    let guesses: Vec<Login> = guesses.collect();
    guess(&proxy, &guesses, &good);
}

#[test]
fn ten_thousand_tokens_from_one_address() {
    let house = aurora::House::with(
        "",
        "max_probes = 4",
        &[
            ("WEIR__LOG__REFUSALS_PER_SECOND", "10"),
            ("WEIR_LOG", "info"),
        ],
    );
    let token = house.tokens(USER, 1).remove(0);
    let guesses = (0..count(1_000, 10_000)).map(|number| {
        let forged = forged(&token, number);
        house.weir.login(USER, &forged).from([127, 0, 0, 2])
    });
    let guesses: Vec<Login> = guesses.collect();
    let before = house.tried();
    let took = guess(&house.weir.proxy, &guesses, &house.weir.login(USER, &token));
    // Twenty, and one more every three seconds; each time as many as are asked about at a time; and the good one's.
    let asked = house.tried() - before;
    let forgiven = usize::try_from(took.as_secs()).unwrap() / 3 + 1;
    let allowed = 20 + 4 * (forgiven + 1) + 1;
    assert!(
        asked <= allowed,
        "Aurora was asked {asked} times, {allowed} allowed"
    );
}
