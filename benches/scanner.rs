//! What a scan costs: nanoseconds and bytes for statements as applications send them.
//!
//! Knows the scanner only; prints a table, judges nothing. `scanner NAME COUNT` repeats one of them quietly,
//! for a profiler that counts instructions.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use weir::sql::Scanner;

const STATEMENTS: &[(&str, &str)] = &[
    ("select_1", "SELECT 1"),
    (
        "pgbench",
        "SELECT abalance FROM pgbench_accounts WHERE aid = 4711;",
    ),
    (
        "update",
        "UPDATE pgbench_accounts SET abalance = abalance + $1 WHERE aid = $2",
    ),
    (
        "orm",
        r#"SELECT "orders"."id", "orders"."customer_id", "orders"."state", "orders"."created_at", "customers"."name"
 FROM "orders" INNER JOIN "customers" ON "customers"."id" = "orders"."customer_id"
 WHERE "orders"."state" IN ($1, $2) AND "orders"."created_at" >= $3 ORDER BY "orders"."created_at" DESC LIMIT $4"#,
    ),
    (
        "report",
        "WITH recent AS (SELECT o.id, o.total, c.region FROM orders o JOIN customers c ON c.id = o.customer_id \
 WHERE o.created_at > now() - interval '30 days' AND o.state <> 'cancelled'), ranked AS (SELECT region, \
 sum(total) AS total, count(*) AS orders, rank() OVER (ORDER BY sum(total) DESC) AS place FROM recent GROUP BY region) \
 SELECT r.region, r.total, r.orders, coalesce(t.target, 0) AS target FROM ranked r LEFT JOIN targets t USING (region) \
 WHERE r.place <= 10 ORDER BY r.place",
    ),
    (
        "insert_text",
        "INSERT INTO notes (id, author, body) VALUES (42, 'someone', 'It''s a text of some length, as people write \
 them: a sentence or two, with commas, and nothing in it that means anything to a pooler at all.')",
    ),
    ("begin", "BEGIN"),
    ("set_local", "SET LOCAL statement_timeout = '5s'"),
    ("set", "SET statement_timeout TO '5s'"),
    ("set_config", "SELECT set_config('app.tenant', '42', false)"),
];

const ROUND: Duration = Duration::from_millis(40);
const ROUNDS: u32 = 15;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => table(),
        [name, count] => {
            let text = STATEMENTS.iter().find(|(known, _)| known == name);
            let (Some((_, text)), Ok(count)) = (text, count.parse()) else {
                eprintln!("usage: scanner [NAME COUNT]");
                return ExitCode::from(2);
            };
            repeat(text, count);
        }
        _ => {
            eprintln!("usage: scanner [NAME COUNT]");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// The best of several rounds: whatever else the machine does only adds to one.
fn table() {
    println!(
        "{:<12} {:>6} {:>9} {:>9}",
        "statement", "bytes", "ns", "bytes/ns"
    );
    for (name, text) in STATEMENTS {
        let best = (0..ROUNDS)
            .map(|_| nanoseconds(text))
            .fold(f64::MAX, f64::min);
        let bytes = text.len();
        println!(
            "{name:<12} {bytes:>6} {best:>9.1} {:>9.2}",
            bytes as f64 / best
        );
    }
}

fn nanoseconds(text: &str) -> f64 {
    const AT_ONCE: u32 = 1000;
    let began = Instant::now();
    let mut scans = 0.0;
    while began.elapsed() < ROUND {
        repeat(text, AT_ONCE);
        scans += f64::from(AT_ONCE);
    }
    began.elapsed().as_secs_f64() * 1e9 / scans
}

fn repeat(text: &str, count: u32) {
    for _ in 0..count {
        let mut scanner = Scanner::default();
        scanner.feed(black_box(text.as_bytes()));
        black_box(scanner.finish());
    }
}
