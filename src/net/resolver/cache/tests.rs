//! The rules, with a clock of the test's own.

use super::*;

const HOST: &str = "db.test";

struct Scene {
    cache: Cache,
    began: Instant,
    now: Instant,
}

fn silence() -> ResolveError {
    ResolveError::TimedOut {
        host: HOST.into(),
        by: "10.0.0.2:53".into(),
    }
}

fn denial() -> ResolveError {
    ResolveError::NoSuchName {
        host: HOST.into(),
        by: "10.0.0.2:53".into(),
    }
}

fn addresses(last: u8) -> Addresses {
    [IpAddr::from([10, 0, 0, last])].into()
}

impl Scene {
    fn new() -> Scene {
        let terms = Terms {
            max_ttl: Duration::from_secs(60),
            max_stale: Duration::from_secs(3600),
            max_names: 2,
        };
        let now = Instant::now();
        Scene {
            cache: Cache::new(terms),
            began: now,
            now,
        }
    }

    /// So many seconds after the beginning.
    fn at(&mut self, seconds: f64) -> &mut Scene {
        self.now = self.began + Duration::from_secs_f64(seconds);
        self
    }

    fn answer(&mut self, last: u8, ttl_s: u64) -> (Outcome, Notice) {
        let answer = Ok((addresses(last), Duration::from_secs(ttl_s)));
        self.cache.note(&HOST.into(), answer, self.now)
    }

    fn fail(&mut self, error: ResolveError) -> (Outcome, Notice) {
        self.cache.note(&HOST.into(), Err(error), self.now)
    }

    fn standing(&mut self) -> Standing {
        self.cache.standing(HOST, self.now)
    }
}

fn due(outcome: Outcome, patience: Duration) -> Standing {
    Standing::Due(Some((outcome, patience)))
}

#[test]
fn an_answer_is_good_for_its_ttl_within_bounds() {
    for (ttl_s, good_for_s) in [(0, 1.0), (1, 1.0), (5, 5.0), (60, 60.0), (86_400, 60.0)] {
        let mut scene = Scene::new();
        assert_eq!(scene.standing(), Standing::Due(None));
        assert_eq!(scene.answer(1, ttl_s), (Ok(addresses(1)), Notice::Nothing));
        let known = Standing::Known(Ok(addresses(1)));
        assert_eq!(scene.at(good_for_s - 0.01).standing(), known, "{ttl_s}");
        let last = due(Ok(addresses(1)), PATIENCE);
        assert_eq!(scene.at(good_for_s).standing(), last, "{ttl_s}");
        assert_eq!(scene.answer(2, ttl_s), (Ok(addresses(2)), Notice::Nothing));
        assert_eq!(scene.standing(), Standing::Known(Ok(addresses(2))));
    }
}

#[test]
fn while_dns_fails_the_last_answer_serves_and_nobody_waits() {
    let mut scene = Scene::new();
    assert!(scene.answer(1, 5).0.is_ok());
    assert_eq!(
        scene.at(5.0).fail(silence()),
        (Ok(addresses(1)), Notice::Stale)
    );
    // Not asked for again at once; then asked for, and used meanwhile.
    let known = Standing::Known(Ok(addresses(1)));
    assert_eq!(scene.at(5.9).standing(), known);
    assert_eq!(
        scene.at(6.0).standing(),
        due(Ok(addresses(1)), Duration::ZERO)
    );
    // It is said once.
    assert_eq!(scene.fail(silence()), (Ok(addresses(1)), Notice::Nothing));
    assert_eq!(scene.at(3604.9).fail(silence()).0, Ok(addresses(1)));
    // Too old, it is no better than nothing, although it has been used all the time.
    assert_eq!(scene.at(3605.0).standing(), Standing::Known(Err(silence())));
    assert_eq!(scene.at(3606.0).standing(), due(Err(silence()), PATIENCE));
    assert_eq!(scene.answer(2, 5), (Ok(addresses(2)), Notice::Nothing));
}

#[test]
fn an_end_of_trouble_is_told() {
    let mut scene = Scene::new();
    assert!(scene.answer(1, 5).0.is_ok());
    assert!(scene.at(5.0).fail(silence()).0.is_ok());
    assert_eq!(
        scene.at(7.0).answer(2, 5),
        (Ok(addresses(2)), Notice::Fresh)
    );
    assert_eq!(scene.at(12.0).answer(2, 5).1, Notice::Nothing);
}

#[test]
fn where_dns_denies_a_name_the_last_answer_serves_for_a_minute() {
    let mut scene = Scene::new();
    assert!(scene.answer(1, 5).0.is_ok());
    assert_eq!(
        scene.at(5.0).fail(denial()),
        (Ok(addresses(1)), Notice::Stale)
    );
    assert_eq!(scene.at(64.0).fail(denial()).0, Ok(addresses(1)));
    assert_eq!(
        scene.at(65.0).fail(denial()),
        (Err(denial()), Notice::Nothing)
    );
    // Given up, they don't come back because DNS falls silent.
    assert_eq!(scene.at(70.0).fail(silence()).0, Err(silence()));
}

#[test]
fn a_name_that_was_never_known_fails_with_its_cause() {
    let mut scene = Scene::new();
    assert_eq!(scene.fail(denial()), (Err(denial()), Notice::Nothing));
    assert_eq!(scene.at(0.9).standing(), Standing::Known(Err(denial())));
    // Whoever asks again does not wait for long to hear the same.
    assert_eq!(scene.at(1.0).standing(), due(Err(denial()), PATIENCE));
    assert_eq!(scene.answer(1, 5), (Ok(addresses(1)), Notice::Nothing));
}

#[test]
fn what_was_not_asked_for_long_is_asked_for_as_if_new() {
    let mut scene = Scene::new();
    assert!(scene.answer(1, 5).0.is_ok());
    assert_eq!(scene.at(3604.9).standing(), due(Ok(addresses(1)), PATIENCE));
    assert_eq!(scene.at(3605.0).standing(), Standing::Due(None));
}

#[test]
fn the_name_used_longest_ago_makes_room() {
    let mut scene = Scene::new();
    let mut note = |host: &str, seconds: f64| {
        scene.at(seconds);
        let answer = Ok((addresses(1), Duration::from_secs(60)));
        assert!(scene.cache.note(&host.into(), answer, scene.now).0.is_ok());
    };
    note("a", 0.0);
    note("b", 1.0);
    scene.at(2.0);
    assert!(matches!(
        scene.cache.standing("a", scene.now),
        Standing::Known(_)
    ));
    let answer = Ok((addresses(1), Duration::from_secs(60)));
    assert!(scene.cache.note(&"c".into(), answer, scene.now).0.is_ok());
    assert!(matches!(
        scene.cache.standing("a", scene.now),
        Standing::Known(_)
    ));
    assert_eq!(scene.cache.standing("b", scene.now), Standing::Due(None));
    assert_eq!(scene.cache.known.len(), 2);
}
