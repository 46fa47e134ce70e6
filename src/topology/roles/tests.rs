//! What follows from what, with a clock of the tests' own; and that whatever is said, nobody is sent to the past.

use proptest::prelude::*;

use super::*;

const STEP: Duration = Duration::from_millis(100);

/// A cluster that is told a script: `w0@1` instance 0 says that it is the writer on timeline 1 (`w0` without one), `r1`
/// that it is a reader, `x1` does not answer, `a1` asks for a password, `!0` was restarted and is a writer.
struct Cluster {
    roles: Roles,
    now: Instant,
    restarts: u8,
}

impl Cluster {
    fn new(count: usize) -> Cluster {
        let mut roles = Roles::new(Terms {
            max_lag: Some(Duration::from_secs(10)),
            company: Company::Several,
        });
        for place in 0..count {
            roles.add(format!("i{place}").into()).unwrap();
        }
        Cluster {
            roles,
            now: Instant::now(),
            restarts: 0,
        }
    }

    fn tell(&mut self, word: &str) -> Vec<Event> {
        self.now += STEP;
        let place = Place(usize::from(word.as_bytes()[1] - b'0'));
        let timeline = word
            .split_once('@')
            .map(|(_, timeline)| timeline.parse().unwrap());
        let missed = |reason| Missed {
            reason,
            text: "x".into(),
        };
        match word.as_bytes()[0] {
            b'w' => self.say(place, Role::Writer, timeline, None),
            b'r' => self.say(place, Role::Reader, None, None),
            b'!' => {
                self.restarts += 1;
                self.say(place, Role::Writer, timeline, None)
            }
            b'a' => self
                .roles
                .missed(place, missed(Unavailable::AuthFailure), self.now),
            _ => self
                .roles
                .missed(place, missed(Unavailable::Unreachable), self.now),
        }
    }

    fn say(
        &mut self,
        place: Place,
        role: Role,
        timeline: Option<u32>,
        position: Option<u64>,
    ) -> Vec<Event> {
        let started = if role == Role::Writer {
            vec![self.restarts]
        } else {
            vec![0]
        };
        let said = Said {
            role,
            timeline,
            position,
            lag: None,
            started,
            allows: 97,
        };
        self.roles.heard(place, said, self.now)
    }

    /// After each word: the writer, and what has happened: `P`romoted, `S`evered, `R`enewed, `L`ost, re`F`used.
    fn play(&mut self, script: &str) -> String {
        let mut shown = Vec::new();
        for word in script.split_whitespace() {
            let events = self.tell(word);
            let writer = self.roles.view(self.now).writer;
            let mut now = writer.map_or("-".into(), |Place(place)| place.to_string());
            for event in events {
                now += &match event {
                    Event::Promoted(Place(at)) => format!("P{at}"),
                    Event::Severed(Place(at)) => format!("S{at}"),
                    Event::Renewed(Place(at)) => format!("R{at}"),
                    Event::Lost(Place(at)) => format!("L{at}"),
                    Event::Refused(Place(at)) => format!("F{at}"),
                };
            }
            shown.push(now);
        }
        shown.join(" ")
    }
}

#[test]
fn scripts() {
    let cases = [
        // It is found, whoever answers first.
        ("r1 w0@1 r2", "- 0P0 0"),
        // Promotion: a newer timeline needs no further proof.
        ("w0@1 r1 x0 w1@2", "0P0 0 0 1R1R0S0P1"),
        ("w0@1 r1 w1@2", "0P0 0 1R1F0R0S0P1"),
        // The writer says itself that it is none any more.
        ("w0@1 r1 r0 w1@2", "0P0 0 -R0S0L0 1R1P1"),
        // Silence alone makes nobody a writer, and an unproven claim waits until it has lasted.
        ("w0@1 r1 x0 x0 x0 x0", "0P0 0 0 0 0 0"),
        ("w0 r1 x0 w1 x0 x0 w1", "0P0 0 0 0R1F1R1S1 0 1R0S0P1 1"),
        // The old writer comes back and doesn't know: two claim it, the newer timeline is the writer.
        ("w0@1 r1 x0 w1@2 w0@1 w1@2", "0P0 0 0 1R1R0S0P1 1F0R0S0 1"),
        // Even when the new one is silent for a moment.
        ("w0@1 r1 w1@2 x1 w0@1", "0P0 0 1R1F0R0S0P1 1 1"),
        // It joins as a reader, and may be promoted again.
        (
            "w0@1 r1 x0 w1@2 r0 w0@3",
            "0P0 0 0 1R1R0S0P1 1R0S0 0R0F1R1S1P0",
        ),
        // A restart is noticed even if nobody saw it down.
        ("w0@1 !0@1", "0P0 0R0"),
        // A reader that stays silent is given up.
        ("w0@1 r1 x1 x1 x1 r1", "0P0 0 0 0 0R1S1 0"),
        // A full or locked instance is no silent one.
        ("w0@1 a0 a0 a0 a0", "0P0 0 0 0 0"),
        ("a0 a1", "- -"),
    ];
    for (script, expected) in cases {
        assert_eq!(Cluster::new(3).play(script), expected, "{script}");
    }
}

#[test]
fn haste_while_the_writer_is_in_doubt_and_not_for_ever() {
    let mut cluster = Cluster::new(2);
    let pace = |cluster: &Cluster| cluster.roles.pace(cluster.now);
    cluster.play("w0@1 r1");
    assert_eq!(pace(&cluster), Pace::Calm);
    cluster.play("x1");
    assert_eq!(pace(&cluster), Pace::Calm, "a reader is no reason");
    cluster.play("x0");
    assert_eq!(pace(&cluster), Pace::Hurried);
    cluster.now += HASTE;
    assert_eq!(pace(&cluster), Pace::Calm);
    assert!(!cluster.roles.is_settled());
    cluster.play("w1@2");
    assert_eq!(pace(&cluster), Pace::Calm);
    assert!(cluster.roles.is_settled());
}

#[test]
fn lag_is_the_age_of_what_a_reader_lacks() {
    let mut cluster = Cluster::new(2);
    let lag = |cluster: &Cluster| cluster.roles.view(cluster.now).instances[1].lag;
    cluster.play("w0@1 r1");
    for position in [100, 200, 200, 300] {
        cluster.now += Duration::from_secs(4);
        cluster.say(Place(0), Role::Writer, Some(1), Some(position));
    }
    for (replayed, behind) in [(300, 0), (400, 0), (250, 0), (199, 8), (50, 12)] {
        cluster.say(Place(1), Role::Reader, None, Some(replayed));
        assert_eq!(
            lag(&cluster),
            Some(Duration::from_secs(behind)),
            "{replayed}"
        );
    }
    // 12 seconds are too many.
    let view = cluster.roles.view(cluster.now);
    assert_eq!(view.readers().count(), 0);
    assert!(
        view.explain()
            .contains("i1: INVALID_REPLICATION_STATE: it is 12.0s behind"),
        "{}",
        view.explain()
    );
    cluster.say(Place(1), Role::Reader, None, Some(200));
    assert_eq!(cluster.roles.view(cluster.now).readers().count(), 1);
}

#[test]
fn health_in_rds_proxys_words() {
    let mut cluster = Cluster::new(3);
    cluster.play("w0@2 a1 w2@1");
    let view = cluster.roles.view(cluster.now);
    let words: Vec<String> = view
        .instances
        .iter()
        .map(|seen| match &seen.health {
            Health::Registering => "REGISTERING".into(),
            Health::Available => "AVAILABLE".into(),
            Health::Gone => "GONE".into(),
            Health::Unavailable(reason, _) => reason.as_str().into(),
        })
        .collect();
    assert_eq!(
        words,
        ["AVAILABLE", "AUTH_FAILURE", "INVALID_REPLICATION_STATE"]
    );
    assert_eq!(
        Cluster::new(1).roles.view(cluster.now).instances[0].health,
        Health::Registering
    );
}

#[test]
fn one_alone_is_served_whatever_it_is() {
    let mut cluster = Cluster::new(1);
    cluster.roles.terms.company = Company::Alone;
    cluster.roles.assume(Place(0));
    assert_eq!(
        cluster.play("r0 x0 x0 x0 r0 w0@1 r0"),
        "0 0 0 0 0 0R0 0R0S0"
    );
    assert!(cluster.roles.is_settled());
    assert_eq!(
        cluster.roles.view(cluster.now).instances[0].role,
        Some(Role::Reader)
    );
}

#[test]
fn places_are_given_up_and_used_again() {
    let mut cluster = Cluster::new(2);
    cluster.play("w0@1 r1");
    assert_eq!(
        cluster.roles.retire(Place(1), cluster.now),
        [Event::Renewed(Place(1))]
    );
    let view = cluster.roles.view(cluster.now);
    assert_eq!((view.writer, view.readers().count()), (Some(Place(0)), 0));
    assert_eq!(view.instances[1].health, Health::Gone);
    // While there are connections to it, its place is nobody else's; it itself may come back.
    assert_eq!(cluster.roles.add("other".into()), Some(Place(2)));
    assert_eq!(cluster.roles.add("i1".into()), Some(Place(1)));
    cluster.roles.retire(Place(1), cluster.now);
    cluster.roles.vacate(Place(1));
    assert_eq!(cluster.roles.add("third".into()), Some(Place(1)));
    // There are so many places and no more.
    let more = (0..100).filter_map(|n| cluster.roles.add(format!("n{n}").into()));
    assert_eq!(more.count(), MAX_INSTANCES - 3);
    // A writer whose name leads to another server is the writer no more.
    assert_eq!(
        cluster.roles.retire(Place(0), cluster.now).last(),
        Some(&Event::Lost(Place(0)))
    );
}

proptest! {
    /// Whatever is said in whatever order: the writer is one that said so, the timeline never goes back, the epoch
    /// grows with every change of the writer, and whoever ceases to be the writer is severed.
    #[test]
    fn nobody_is_sent_to_the_past(words in prop::collection::vec((0_usize..4, 0_usize..3, 1_u32..5), 1..60)) {
        let mut cluster = Cluster::new(3);
        let mut newest = 0;
        let mut before = cluster.roles.view(cluster.now);
        for (verb, place, timeline) in words {
            let word = match verb {
                0 | 1 => format!("w{place}@{timeline}"),
                2 => format!("r{place}"),
                _ => format!("x{place}"),
            };
            let events = cluster.tell(&word);
            let view = cluster.roles.view(cluster.now);
            if view.writer != before.writer {
                prop_assert!(view.epoch > before.epoch);
                if let Some(Place(writer)) = view.writer {
                    let own = cluster.roles.instances[writer].timeline().unwrap();
                    prop_assert!(own >= newest, "{own} after {newest}");
                    prop_assert_eq!(view.instances[writer].role, Some(Role::Writer));
                    newest = own;
                }
                if let Some(old) = before.writer {
                    prop_assert!(events.contains(&Event::Severed(old)), "{:?}", events);
                }
            } else {
                prop_assert_eq!(view.epoch, before.epoch);
            }
            prop_assert!(view.readers().all(|(place, _)| view.writer != Some(place)));
            before = view;
        }
    }
}
