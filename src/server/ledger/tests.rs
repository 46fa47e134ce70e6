//! The ledger, by scripts of what is sent and what comes.

use super::*;

/// Runs a script: `>X` sends X, `<X` receives X; ReadyForQuery in transaction is `<z`. Shows
/// what is withheld, and at the end whether the ledger is settled.
fn run(script: &str) -> String {
    let mut ledger = Ledger::default();
    let mut shown = String::new();
    for word in script.split_whitespace() {
        let mut bytes = word.bytes();
        let (way, tag, own) = (bytes.next(), bytes.next().unwrap_or(b'?'), bytes.next());
        let asker = if own == Some(b'*') {
            Asker::Weir
        } else {
            Asker::Client
        };
        let fate = match (way, tag) {
            (Some(b'>'), _) => {
                if let Some(owed) = Owed::by(tag) {
                    ledger.send(owed, asker);
                }
                continue;
            }
            (_, b'E') => Ok(ledger.error()),
            (_, b'Z' | b'z') => {
                let tx = if tag == b'Z' {
                    TxStatus::Idle
                } else {
                    TxStatus::InTransaction
                };
                ledger.ready(tx).map(|concluded| concluded.asker.fate())
            }
            _ => ledger.reply(tag, None).map(Option::unwrap),
        };
        match fate {
            Ok(Fate::Forward) => shown.push(tag as char),
            Ok(Fate::Withhold | Fate::Keep) => {}
            Ok(Fate::AsParsed) => shown.push('p'),
            Err(_) => shown.push('!'),
        }
    }
    if ledger.is_doubtful() {
        shown.push_str(" doubtful");
    } else if ledger.is_idle() {
        shown.push_str(" idle");
    } else if ledger.is_settled() {
        shown.push_str(" settled");
    }
    shown
}

#[test]
fn a_query_skipped_over_a_message_of_ours_is_owed_its_end() {
    for (skipped, due) in [
        ("Q", true),
        ("PQ", false),
        ("BES", false),
        ("S", false),
        ("F", true),
    ] {
        let mut ledger = Ledger::default();
        ledger.send(Owed::Parse, Asker::Weir);
        ledger.send(Owed::Close, Asker::Weir);
        for tag in skipped.bytes() {
            ledger.send(Owed::by(tag).unwrap(), Asker::Client);
        }
        ledger.error();
        assert_eq!(ledger.take_sync_due(), due, "{skipped}");
    }
}

#[test]
fn doubt_is_foreseen() {
    let cases = [
        ("BES", "", false),
        ("BESc", "", true),
        ("BESc", "2G", true),
        ("BESc", "2GC", false),
        ("BESf", "2E", false),
        ("BEc", "2G", false),
        ("BESd", "2G", false),
    ];
    for (sent, heard, foreseen) in cases {
        let mut ledger = Ledger::default();
        for owed in sent.bytes().filter_map(Owed::by) {
            ledger.send(owed, Asker::Client);
        }
        for tag in heard.bytes() {
            match tag {
                b'E' => drop(ledger.error()),
                _ => ledger.reply(tag, None).map(drop).unwrap(),
            }
        }
        assert_eq!(ledger.may_become_doubtful(), foreseen, "{sent} {heard}");
    }
}

#[test]
fn scripts() {
    let cases = [
        (">Q <T <D <C <Z", "TDCZ idle"),
        (">Q >Q <C <Z", "CZ"),
        (">Q <C <z", "Cz settled"),
        (">Q* >Q <C <Z <C <Z", "CZ idle"),
        (">Q* >Q <C <z <E <z", "Ez settled"),
        (">P >B >D >E >S <1 <2 <T <D <C <Z", "12TDCZ idle"),
        (">P >D >S <1 <t <T <Z", "1tTZ idle"),
        (">P >B >E >H <1 <2 <s", "12s"),
        (">P >B >E >H <1 <2 <C >S <Z", "12CZ idle"),
        (">P* >B >E >S <1 <2 <C <Z", "2CZ idle"),
        (">P >B >E >S >P >S <1 <E <Z <1 <Z", "1EZ1Z idle"),
        // An error, then messages that are ignored until Sync, a Query among them.
        (">P >H <E >B >E >Q >S <Z", "EZ idle"),
        // COPY by Query, with a Sync inside that is passed over.
        (">Q <G >d >S >c <C <Z", "GCZ idle"),
        (">Q <G >d >f <E <Z", "GEZ idle"),
        // COPY by Execute: the Sync sent ahead is passed over, another one ends it.
        (">B >E >S <2 <G >d >c >S <C <Z", "2GCZ idle"),
        (">B >E >S <2 <G >d >c <C", "2GC"),
        // All of it in one go.
        (">B >E >S >d >c >S <2 <G <C <Z", "2GCZ idle"),
        // CopyDone for a COPY that failed before it began.
        (">B >E >c >S <2 <E <Z", "2EZ idle"),
        (">Q >c <E <Z", "EZ idle"),
        (">B >E >S <2 <G >S <E", "2GE doubtful"),
        // However many Syncs the server had read by then.
        (">Q <G >d >S >S <E <Z <Z <Z", "GEZZZ doubtful"),
        (">Q <G >d >S >c >S <E <Z <Z <Z", "GEZZZ doubtful"),
        // Another COPY behind one that fails; its end is no end of the first.
        (">Q >d >Q >c >S <G <E <Z <G <C <Z <Z", "GEZGCZZ idle"),
        (">Q >d <G >Q >c >S <E <Z <G <C <Z <Z", "GEZGCZZ idle"),
        (">Q >d >c >Q >c >S <G <E <Z <G <C <Z <Z", "GEZGCZZ idle"),
        (">B >E >P >B >E >c >S <2 <G <E <Z", "2GEZ idle"),
        (">B >E >S >d >c <2 <G <C", "2GC"),
        (">B >E >S >d >c >S <2 <G <C <Z", "2GCZ idle"),
        (">F <V <Z", "VZ idle"),
        ("<N <A <S", "NAS idle"),
        // CopyDone astray between messages of the client's and of our own.
        (">P >c >C* >B >S <1 <3 <E <Z", "1EZ idle"),
        ("<1", "! idle"),
        ("<Z", "! idle"),
    ];
    for (script, expected) in cases {
        assert_eq!(run(script), expected, "{script}");
    }
}

mod model;
