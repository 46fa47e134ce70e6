//! When instances are asked, with time that stands still until everybody waits.

use std::cell::Cell;

use super::*;
use crate::topology::members;
use crate::topology::roles::{Company, Role, Said, Terms, View};

/// Instances that answer as the test says.
#[derive(Clone, Default)]
struct Fake(Rc<Knobs>);

#[derive(Default)]
struct Knobs {
    /// Of each instance: what it says, or silence; and how often it was asked.
    roles: RefCell<Vec<Option<(Role, u32)>>>,
    asked: RefCell<Vec<u32>>,
    used: Cell<bool>,
    events: RefCell<Vec<Event>>,
}

impl Ask for Fake {
    type Line = ();

    async fn ask(&self, place: Place, line: &mut Option<()>) -> Result<Answer, Missed> {
        self.0.asked.borrow_mut()[place.0] += 1;
        let answer = self.0.roles.borrow()[place.0];
        let Some((role, timeline)) = answer else {
            return std::future::pending().await;
        };
        *line = Some(());
        Ok(Answer {
            said: Said {
                role,
                timeline: (role == Role::Writer).then_some(timeline),
                position: None,
                lag: None,
                started: Vec::new(),
                allows: 10,
            },
            id: None,
            members: Vec::new(),
        })
    }

    fn join(&self, _: Place, _: &HostPort) {}

    fn move_to(&self, _: Place, _: &HostPort) {}

    fn part(&self, _: Place) -> bool {
        true
    }

    fn is_used(&self) -> bool {
        self.0.used.get()
    }

    fn happened(&self, events: &[Event]) {
        self.0.events.borrow_mut().extend_from_slice(events);
    }

    fn allows(&self, _: Place, _: u32) {}
}

fn run(test: impl AsyncFn(Fake, Arc<Board>)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let fake = Fake::default();
        *fake.0.roles.borrow_mut() = vec![Some((Role::Writer, 1)), Some((Role::Reader, 0))];
        *fake.0.asked.borrow_mut() = vec![0, 0];
        fake.0.used.set(true);
        let board = Arc::new(Board::new(View::default()));
        let pacing = Pacing {
            interval: Duration::from_secs(1),
            hurried_interval: Duration::from_millis(100),
            timeout: Duration::from_millis(500),
        };
        let hosts = ["a", "b"].map(|host| HostPort {
            host: host.into(),
            port: 1,
        });
        let roles = Roles::new(Terms {
            max_lag: None,
            company: Company::Several,
        });
        let members = Members::new(members::Terms {
            reached_at: None,
            overrides: false,
            max: 2,
            forget_after: Duration::from_secs(60),
        });
        let kept = Arc::clone(&board);
        let monitor = Monitor::new(fake.clone(), kept, pacing, roles, members, &hosts);
        tokio::task::spawn_local(monitor.run());
        sleep(Duration::from_millis(50)).await;
        assert_eq!(board.view().writer, Some(Place(0)));
        test(fake, board).await;
    });
}

fn asked(fake: &Fake) -> Vec<u32> {
    std::mem::replace(&mut *fake.0.asked.borrow_mut(), vec![0, 0])
}

#[test]
fn regular_rounds_and_none_while_nobody_is_there() {
    run(async |fake, _| {
        asked(&fake);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(asked(&fake), [10, 10]);
        fake.0.used.set(false);
        sleep(Duration::from_secs(1)).await;
        asked(&fake);
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(asked(&fake), [0, 0]);
        fake.0.used.set(true);
        sleep(Duration::from_millis(150)).await;
        assert_eq!(asked(&fake), [1, 1]);
    });
}

#[test]
fn a_promotion_is_seen_within_a_step() {
    run(async |fake, board| {
        fake.0.roles.borrow_mut()[0] = None;
        // Noticed by the round, which waits half a second for the answer.
        sleep(Duration::from_millis(1500)).await;
        assert_eq!(
            board.view().writer,
            Some(Place(0)),
            "silence alone says nothing"
        );
        fake.0.roles.borrow_mut()[1] = Some((Role::Writer, 2));
        sleep(Duration::from_millis(101)).await;
        assert_eq!(board.view().writer, Some(Place(1)));
        assert!(fake.0.events.borrow().contains(&Event::Severed(Place(0))));
    });
}

#[test]
fn a_hint_brings_one_question_and_no_storm() {
    run(async |fake, board| {
        sleep(Duration::from_millis(300)).await;
        asked(&fake);
        for _ in 0..100 {
            board.hint(Place(0));
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(asked(&fake)[1], 0);
        sleep(Duration::from_millis(250)).await;
        let times = asked(&fake)[0];
        assert!((1..=3).contains(&times), "{times}");
    });
}

/// Connections that break give hints for the writer just when its silence alarms all.
#[test]
fn an_alarm_is_heard_together_with_a_hint_for_another() {
    for _ in 0..10 {
        run(async |fake, board| {
            sleep(Duration::from_millis(300)).await;
            asked(&fake);
            fake.0.roles.borrow_mut()[0] = None;
            board.hint(Place(0));
            let other = Place(9);
            for _ in 0..400 {
                board.take_hint(other);
                board.hint(other);
                sleep(Duration::from_millis(1)).await;
            }
            assert!(asked(&fake)[1] > 0, "the alarm was lost");
        });
    }
}
