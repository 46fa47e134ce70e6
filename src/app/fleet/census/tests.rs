//! Fleets that come and go by a fake clock: what each task may have, and that all of them never have too much.

use proptest::prelude::*;

use super::*;

const SETTLE: u64 = 30;
const REFRESH: u64 = 5;
const TTL: u64 = 5;

fn terms() -> Terms {
    Terms {
        refresh: Duration::from_secs(REFRESH),
        settle: Duration::from_secs(SETTLE),
        max_heard: 1024,
    }
}

fn name(number: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(number).unwrap() + 1], 5434))
}

fn names(numbers: &[usize]) -> BTreeSet<SocketAddr> {
    numbers.iter().map(|number| name(*number)).collect()
}

fn part(rank: usize, of: usize) -> Portion {
    Portion::Part { rank, of }
}

/// Seconds since the test began, on a clock that had been running before.
fn at(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(1_000 + seconds)
}

#[test]
fn a_newcomer_has_nothing_until_it_has_settled() {
    let start = Instant::now();
    let mut census = Census::new(terms());
    let now = at(start, 0);
    census.on_listed(now, names(&[0, 1]), Duration::ZERO);
    assert_eq!(census.standing(now).place, Place::Unknown);
    census.on_self(at(start, 1), name(1));
    let standing = census.standing(at(start, 2));
    assert_eq!(standing.portion, Portion::Nothing);
    assert_eq!(standing.place, Place::Settling(Duration::from_secs(29)));
    assert_eq!(census.standing(at(start, 30)).portion, Portion::Nothing);
    let settled = census.standing(at(start, 32));
    assert_eq!(
        (settled.portion, settled.place),
        (part(1, 2), Place::Settled)
    );
}

/// A member for long.
fn settled(start: Instant, others: &[usize]) -> Census {
    let mut census = Census::new(terms());
    let mut all = others.to_vec();
    all.push(0);
    census.on_listed(start, names(&all), Duration::ZERO);
    census.on_self(start, name(0));
    census.on_listed(at(start, 0), names(&all), Duration::ZERO);
    census
}

#[test]
fn others_shrink_at_once_and_grow_late() {
    let start = Instant::now();
    let mut census = settled(start, &[1]);
    assert_eq!(census.standing(at(start, 0)).portion, part(0, 2));
    census.on_listed(at(start, 5), names(&[0, 1, 2]), Duration::ZERO);
    assert_eq!(census.standing(at(start, 5)).portion, part(0, 3));
    census.on_listed(at(start, 10), names(&[0]), Duration::ZERO);
    assert_eq!(census.standing(at(start, 39)).portion, part(0, 3));
    assert_eq!(census.standing(at(start, 41)).portion, part(0, 1));
}

#[test]
fn who_says_that_it_is_there_counts_without_dns() {
    let start = Instant::now();
    let mut census = settled(start, &[]);
    census.on_heard(at(start, 1), name(3));
    assert_eq!(census.standing(at(start, 1)).portion, part(0, 2));
    assert_eq!(census.others(), names(&[3]));
    // Not heard of for two thirds of the time, and then for the whole of it.
    let kept = census.standing(at(start, 1 + 19 + SETTLE));
    assert_eq!(kept.portion, part(0, 2));
    let mut census = settled(start, &[]);
    census.on_heard(at(start, 1), name(3));
    census.standing(at(start, 22));
    assert_eq!(census.standing(at(start, 53)).portion, part(0, 1));
}

#[test]
fn one_that_dns_forgets_stays_while_all_others_answer() {
    let start = Instant::now();
    let mut census = settled(start, &[1, 2]);
    for other in [1, 2] {
        census.on_answer(at(start, 0), at(start, 0), name(other));
    }
    let listed = |census: &mut Census, now| census.on_listed(now, names(&[1, 2]), Duration::ZERO);
    for seconds in [1, 6, 11] {
        let now = at(start, seconds);
        listed(&mut census, now);
        census.on_answer(now, now, name(1));
        census.on_answer(now, now, name(2));
        assert_eq!(census.standing(now).portion, part(0, 3));
    }
    for seconds in [16, 21, 26, 31] {
        let now = at(start, seconds);
        listed(&mut census, now);
        census.on_answer(now, now, name(1));
    }
    let standing = census.standing(at(start, 31));
    assert_eq!(
        (standing.portion, standing.place),
        (Portion::Nothing, Place::Lost)
    );
}

#[test]
fn without_dns_and_answers_nothing_grows() {
    let start = Instant::now();
    let mut census = settled(start, &[1]);
    assert_eq!(census.standing(at(start, 29)).growth, Growth::Free);
    let stale = census.standing(at(start, 31));
    assert_eq!((stale.growth, stale.portion), (Growth::Frozen, part(0, 2)));
    census.on_answer(at(start, 32), at(start, 32), name(1));
    assert_eq!(census.standing(at(start, 33)).growth, Growth::Free);
}

#[test]
fn long_lived_records_make_it_wait_longer() {
    let mut census = settled(Instant::now(), &[]);
    census.on_listed(Instant::now(), names(&[0]), Duration::from_secs(60));
    assert_eq!(census.terms().settle, Duration::from_secs(195));
}

#[test]
fn views_are_bounded_and_the_worst_is_kept() {
    let start = Instant::now();
    let mut census = settled(start, &[]);
    census.on_listed(at(start, 0), names(&[0, 1, 2, 3, 4, 5, 6]), Duration::ZERO);
    for round in 0..10_000u64 {
        let now = at(start, 0) + Duration::from_millis(round);
        let other = 1 + usize::from(round % 2 == 0);
        census.on_listed(now, names(&(0..=other).collect::<Vec<_>>()), Duration::ZERO);
    }
    assert!(census.views.len() <= MAX_VIEWS);
    assert_eq!(census.standing(at(start, 29)).portion, part(0, 7));
}

/// What happens to a fleet.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A new process at this address; at once in DNS.
    Join(usize),
    /// Taken out of DNS; it ends so many seconds later.
    Leave(usize, u64),
    /// Ends at once; the record goes so many seconds later.
    Crash(usize, u64),
    /// These two can't reach each other any more, or can again.
    Cut(usize, usize),
    /// DNS does not answer this one any more, or does again.
    Deafen(usize),
}

const TASKS: usize = 5;

struct Task {
    census: Census,
    phase: u64,
    held: usize,
    frozen_at: Option<usize>,
    over_since: Option<u64>,
    ends: Option<u64>,
}

struct World {
    start: Instant,
    now: u64,
    cap: usize,
    tasks: [Option<Task>; TASKS],
    /// What DNS held each second.
    records: Vec<BTreeSet<usize>>,
    vanishing: Vec<(u64, usize)>,
    cut: BTreeSet<(usize, usize)>,
    deaf: BTreeSet<usize>,
    /// Any sequence of numbers.
    chance: u64,
}

impl World {
    fn new(cap: usize, seed: u64) -> World {
        World {
            start: Instant::now(),
            now: 0,
            cap,
            tasks: [const { None }; TASKS],
            records: vec![BTreeSet::new()],
            vanishing: Vec::new(),
            cut: BTreeSet::new(),
            deaf: BTreeSet::new(),
            chance: seed,
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.chance = self
            .chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.chance >> 33) % limit
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        let records = self.records.last_mut().unwrap();
        match event {
            Event::Join(task) => {
                if self.tasks[task].is_none() {
                    records.insert(task);
                    self.vanishing.retain(|(_, other)| *other != task);
                    let phase = self.below(REFRESH);
                    self.tasks[task] = Some(Task {
                        census: Census::new(terms()),
                        phase,
                        held: 0,
                        frozen_at: None,
                        over_since: None,
                        ends: None,
                    });
                }
            }
            Event::Leave(task, after) => {
                if let Some(leaving) = &mut self.tasks[task] {
                    records.remove(&task);
                    // Leaving while DNS fails it, it is known to newcomers by neither way.
                    self.deaf.remove(&task);
                    leaving.ends = Some(now + after);
                }
            }
            Event::Crash(task, after) => {
                if self.tasks[task].take().is_some() {
                    self.vanishing.push((now + after, task));
                }
            }
            Event::Cut(one, other) => {
                let pair = (one.min(other), one.max(other));
                if one != other && !self.cut.remove(&pair) {
                    self.cut.insert(pair);
                }
            }
            Event::Deafen(task) => {
                if !self.deaf.remove(&task) && records.contains(&task) {
                    self.deaf.insert(task);
                }
            }
        }
    }

    /// One second.
    fn pass(&mut self) {
        self.now += 1;
        let mut records = self.records.last().unwrap().clone();
        self.vanishing.retain(|(when, task)| {
            let stays = *when > self.now;
            if !stays {
                records.remove(task);
            }
            stays
        });
        self.records.push(records);
        for number in 0..TASKS {
            let ends = self.tasks[number].as_ref().and_then(|task| task.ends);
            if ends.is_some_and(|ends| ends <= self.now) {
                self.tasks[number] = None;
            }
            let due = self.tasks[number]
                .as_ref()
                .is_some_and(|task| (self.now + task.phase).is_multiple_of(REFRESH));
            if due {
                self.look_up(number);
                self.greet(number);
            }
        }
        for number in 0..TASKS {
            self.fill(number);
        }
        let held: Vec<usize> = self.tasks.iter().flatten().map(|task| task.held).collect();
        assert!(
            held.iter().sum::<usize>() <= self.cap,
            "at {}: {held:?}",
            self.now
        );
    }

    fn look_up(&mut self, number: usize) {
        if self.deaf.contains(&number) {
            return;
        }
        let old = self.below(TTL + 1);
        let seen = self.records[usize::try_from(self.now.saturating_sub(old)).unwrap()].clone();
        let now = at(self.start, self.now);
        let census = &mut self.tasks[number].as_mut().unwrap().census;
        let seen: Vec<usize> = seen.into_iter().collect();
        census.on_listed(now, names(&seen), Duration::from_secs(TTL));
        if seen.contains(&number) {
            census.on_self(now, name(number));
        }
    }

    fn greet(&mut self, number: usize) {
        let now = at(self.start, self.now);
        let census = &self.tasks[number].as_ref().unwrap().census;
        let (me, others) = (census.me(), census.others());
        for other in 0..TASKS {
            let pair = (number.min(other), number.max(other));
            if other == number || !others.contains(&name(other)) || self.cut.contains(&pair) {
                continue;
            }
            let Some(there) = &mut self.tasks[other] else {
                continue;
            };
            if let Some(me) = me {
                there.census.on_heard(now, me);
                let here = self.tasks[number].as_mut().unwrap();
                here.census.on_answer(now, now, name(other));
            }
        }
    }

    /// Each takes all that it may have, and lets go of what is too much as late as it may.
    fn fill(&mut self, number: usize) {
        let Some(task) = &mut self.tasks[number] else {
            return;
        };
        let standing = task.census.standing(at(self.start, self.now));
        task.frozen_at = match standing.growth {
            Growth::Free => None,
            Growth::Frozen => task.frozen_at.or(Some(task.held)),
        };
        let allowed = standing
            .portion
            .of(self.cap)
            .min(task.frozen_at.unwrap_or(usize::MAX));
        if task.held <= allowed {
            task.held = allowed;
            task.over_since = None;
            return;
        }
        let since = *task.over_since.get_or_insert(self.now);
        let closing = SETTLE / 6 - 1;
        if self.now - since >= task.census.terms().shed_within().as_secs() + closing {
            task.held = allowed;
            task.over_since = None;
        }
    }
}

fn joining_and_leaving() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..TASKS).prop_map(Event::Join),
        1 => (0..TASKS, 0u64..120).prop_map(|(task, after)| Event::Leave(task, after)),
        1 => (0..TASKS, 0u64..120).prop_map(|(task, after)| Event::Crash(task, after)),
    ]
}

fn script(event: impl Strategy<Value = Event>) -> impl Strategy<Value = Vec<(u64, Event)>> {
    proptest::collection::vec((0u64..50, event), 1..40)
}

fn play(cap: usize, seed: u64, script: &[(u64, Event)]) -> World {
    let mut world = World::new(cap, seed);
    for (pause, event) in script {
        for _ in 0..*pause {
            world.pass();
        }
        world.happen(*event);
    }
    world
}

proptest! {
    /// The hop may fail between any two: DNS alone is enough.
    #[test]
    fn the_sum_never_exceeds_the_cap_by_dns_alone(
        cap in 0usize..60,
        seed: u64,
        script in script(prop_oneof![
            5 => joining_and_leaving(),
            2 => (0..TASKS, 0..TASKS).prop_map(|(one, other)| Event::Cut(one, other)),
        ]),
    ) {
        play(cap, seed, &script);
    }

    /// DNS may stop answering anyone who has found himself: the hop alone is enough. And when all is quiet again,
    /// everything is given out.
    #[test]
    fn the_sum_never_exceeds_the_cap_by_the_hop_alone(
        cap in 0usize..60,
        seed: u64,
        script in script(prop_oneof![
            5 => joining_and_leaving(),
            2 => (0..TASKS).prop_map(Event::Deafen),
        ]),
    ) {
        let mut world = play(cap, seed, &script);
        world.deaf.clear();
        for _ in 0..200 {
            world.pass();
        }
        // A record of one that crashed is gone by now, and those that leave have left.
        let held: usize = world.tasks.iter().flatten().map(|task| task.held).sum();
        let anybody = world.tasks.iter().any(Option::is_some);
        prop_assert!(!anybody || held == cap, "{held} of {cap}");
    }
}
