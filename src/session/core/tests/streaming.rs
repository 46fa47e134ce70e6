//! What does not wait until it is whole: COPY, and units too large to keep.

use super::*;

#[test]
fn copy_data_flows_as_it_comes() {
    let mut talk = talk();
    talk.client(&query("COPY t FROM STDIN")).server("G");
    talk.done();
    let data = frame(b'd', &[b'x'; 1000]);
    talk.client(&data[..100]);
    assert_eq!(talk.sent.len(), 100);
    assert!(talk.core.is_mid_frame());
    talk.client(&data[100..]);
    assert_eq!(talk.done(), ">d");
    talk.client(&frame(b'c', b"")).server("CZ");
    assert_eq!(talk.done(), ">c release");
}

#[test]
fn a_goodbye_inside_copy_is_the_servers_to_answer() {
    let mut talk = talk();
    talk.client(&query("COPY t FROM STDIN")).server("G");
    talk.done();
    talk.client(&terminate());
    assert_eq!(talk.done(), ">X");
}

#[test]
fn a_unit_too_large_to_keep_streams() {
    let long = query(&format!("SELECT '{}'", "x".repeat(3 * MAX_UNIT_BYTES)));
    let mut talk = talk();
    talk.client(&long[..MAX_UNIT_BYTES - 1]);
    assert_eq!(talk.done(), "");
    talk.client(&long[MAX_UNIT_BYTES - 1..MAX_UNIT_BYTES]);
    assert!(talk.log.contains("borrow"));
    assert_eq!(talk.sent.len(), MAX_UNIT_BYTES);
    talk.client_slowly(&long[MAX_UNIT_BYTES..]);
    assert_eq!(talk.sent, long);
    talk.done();
    talk.client(&query("SELECT 1")).server("TDCZTDCZ");
    assert_eq!(talk.done(), ">Q(SELECT 1) release");
}

#[test]
fn texts_that_stream_are_scanned_all_the_same() {
    let padding = "x".repeat(2 * MAX_UNIT_BYTES);
    let text = format!("SELECT '{padding}'; LISTEN a");
    for message in [query(&text), parse("", &text)] {
        let mut talk = talk();
        talk.client_slowly(&message);
        assert!(talk.core.wonders());
        assert_eq!(talk.sent, message);
    }
}

#[test]
fn in_a_transaction_messages_need_not_be_whole() {
    let mut talk = talk();
    talk.client(&query("BEGIN; SELECT 1")).server("CTDCz");
    talk.done();
    talk.client(&parse("", "SELECT 2"));
    assert_eq!(talk.done(), ">P");
    let long = query("SELECT 3");
    talk.client(&long[..8]);
    assert_eq!(talk.sent.len(), 8);
}
