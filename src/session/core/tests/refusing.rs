//! No server is to be had: what the client hears, and what is passed over.

use super::*;

#[test]
fn a_simple_query_gets_its_error_and_the_next_one_another_chance() {
    let mut talk = talk();
    talk.client(&[query("SELECT 1"), query("SELECT 2")].concat());
    // Nothing of it had gone.
    let pending = [query("SELECT 1"), query("SELECT 2")].concat();
    talk.pending = pending;
    talk.core = core(&table());
    assert_eq!(
        talk.core.without_server(&talk.pending, &mut talk.told),
        Ok(Step::Borrow)
    );
    talk.refuse();
    assert_eq!(shown(&talk.pending), "");
    assert_eq!(
        talk.done(),
        "borrow <EZi borrow >Q(SELECT 2)",
        "the first is refused, the second asks anew"
    );
}

/// Brings a core to the point of borrowing for `unit`, and refuses.
pub(super) fn refused(talk: &mut Talk, unit: &[u8]) {
    talk.pending.extend_from_slice(unit);
    loop {
        let step = talk.core.without_server(&talk.pending, &mut talk.told);
        match step.expect("no violation") {
            Step::Consume(count) => drop(talk.pending.drain(..count)),
            Step::Borrow => break,
            other => panic!("{other:?} for {}", shown(unit)),
        }
    }
    talk.happened("borrow");
    talk.refuse();
}

#[test]
fn an_extended_unit_is_passed_over_to_its_sync() {
    let unit = [parse("", "SELECT 1"), bind(""), execute(), sync()].concat();
    let mut talk = talk();
    refused(&mut talk, &unit);
    assert_eq!(talk.done(), "borrow <EZi");
    assert!(talk.core.is_quiet() && talk.pending.is_empty());
}

#[test]
fn one_that_was_flushed_is_passed_over_beyond_the_flush() {
    let mut talk = talk();
    refused(
        &mut talk,
        &[parse("", "SELECT 1"), frame(b'H', b"")].concat(),
    );
    assert_eq!(talk.done(), "borrow <E");
    assert!(!talk.core.is_quiet());
    talk.client_slowly(&[bind(""), execute(), frame(b'H', b"")].concat());
    assert_eq!(talk.done(), "");
    talk.client_slowly(&sync());
    assert_eq!(talk.done(), "<Zi");
    talk.client(&query("SELECT 1"));
    assert_eq!(talk.done(), "borrow >Q(SELECT 1)");
}

#[test]
fn an_oversized_unit_is_passed_over_as_it_comes() {
    let long = query(&format!("SELECT '{}'", "x".repeat(3 * MAX_UNIT_BYTES)));
    let (begun, rest) = long.split_at(MAX_UNIT_BYTES);
    let mut talk = talk();
    refused(&mut talk, begun);
    assert_eq!(talk.done(), "borrow <EZi");
    assert!(!talk.core.is_quiet());
    talk.client_slowly(rest);
    assert_eq!((talk.done(), talk.core.is_quiet()), (String::new(), true));
    talk.client(&query("SELECT 1"));
    assert_eq!(talk.done(), "borrow >Q(SELECT 1)");
}

#[test]
fn a_begun_transaction_has_failed_then() {
    let mut talk = talk();
    talk.client(&query("BEGIN"));
    refused(&mut talk, &query("SELECT 1"));
    assert_eq!(talk.done(), "<CZt borrow <EZe");
    talk.client(&query("SELECT 1"));
    assert_eq!(talk.done(), "<EZe", "and no server is asked for");
    talk.client(&query("ROLLBACK"));
    assert_eq!(talk.done(), "<CZi");

    talk.client(&query("BEGIN"));
    let unit = [parse("", "SELECT 1"), bind(""), execute(), sync()].concat();
    refused(&mut talk, &unit);
    assert_eq!(talk.done(), "<CZt borrow <EZe");
    talk.client(&query("COMMIT"));
    assert_eq!(talk.done(), "<CZi");
}

#[test]
fn who_leaves_while_refused_has_left() {
    let mut talk = talk();
    refused(&mut talk, &[parse("", "x"), frame(b'H', b"")].concat());
    talk.client(&terminate());
    assert_eq!(talk.done(), "borrow <E left");
}

#[test]
fn a_violation_in_a_refused_unit_is_one() {
    let mut talk = talk();
    refused(&mut talk, &[parse("", "x"), frame(b'H', b"")].concat());
    talk.client(b"y");
    assert_eq!(talk.done(), "borrow <E Type(121)");
}
