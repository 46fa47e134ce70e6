//! Who is the writer, who is a reader, and who is to be asked again soon: conclusions from what instances said.
//!
//! Pure: time is an argument. An instance is believed only about itself. Where two claim to be the writer, the one with
//! the newer timeline is: a promotion begins a new one, and an instance that missed it can't know.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::board::MAX_INSTANCES;

/// An instance's number; used again only for another one when nobody uses the one of before any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(pub usize);

/// What an instance says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Writer,
    Reader,
}

/// What an instance said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub role: Role,
    /// The writer's, where it can tell.
    pub timeline: Option<u32>,
    /// What a writer has written, or a reader replayed, where it can tell.
    pub position: Option<u64>,
    /// How far a reader says that it is behind, where it can tell better than positions do.
    pub lag: Option<Duration>,
    /// When it was started, in a form that is the same on each connection: it differs after a restart.
    pub started: Vec<u8>,
    /// Connections that an ordinary role can have.
    pub allows: u32,
}

/// Why an instance did not answer, by RDS Proxy's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    Unreachable,
    ConnectionFailed,
    AuthFailure,
    PendingProxyCapacity,
    InvalidReplicationState,
}

impl Unavailable {
    pub const fn as_str(self) -> &'static str {
        match self {
            Unavailable::Unreachable => "UNREACHABLE",
            Unavailable::ConnectionFailed => "CONNECTION_FAILED",
            Unavailable::AuthFailure => "AUTH_FAILURE",
            Unavailable::PendingProxyCapacity => "PENDING_PROXY_CAPACITY",
            Unavailable::InvalidReplicationState => "INVALID_REPLICATION_STATE",
        }
    }

    /// Whether it says that nobody gets through; the others say that Weir's own question did not.
    const fn is_silence(self) -> bool {
        matches!(self, Unavailable::Unreachable)
    }
}

/// A question that got no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    pub reason: Unavailable,
    pub text: String,
}

/// How an instance is, in RDS Proxy's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It has not answered yet.
    Registering,
    Available,
    Unavailable(Unavailable, String),
    /// It does not belong to the cluster any more; its place may be another's soon.
    Gone,
}

/// An instance as it is seen from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub name: Arc<str>,
    /// What it said last that it is.
    pub role: Option<Role>,
    pub health: Health,
    /// How far it is behind, if it is a reader.
    pub lag: Option<Duration>,
    pub position: Option<u64>,
    /// Whether readers' clients may be sent to it.
    pub serves_readers: bool,
}

/// The cluster as it is seen from here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Grows whenever another instance is the writer, or none.
    pub epoch: u64,
    pub writer: Option<Place>,
    pub instances: Vec<Seen>,
}

impl View {
    /// Of a single instance that was not asked yet.
    pub fn of_one(name: Arc<str>) -> View {
        let seen = Seen {
            name,
            role: Some(Role::Writer),
            health: Health::Registering,
            lag: None,
            position: None,
            serves_readers: false,
        };
        View {
            epoch: 0,
            writer: Some(Place(0)),
            instances: vec![seen],
        }
    }

    pub fn readers(&self) -> impl Iterator<Item = (Place, &Seen)> {
        let seen = self.instances.iter().enumerate();
        seen.filter(|(_, seen)| seen.serves_readers)
            .map(|(place, seen)| (Place(place), seen))
    }

    /// Whether clients would be sent elsewhere than by the other view.
    pub fn leads_elsewhere(&self, other: &View) -> bool {
        let readers = |view: &View| view.readers().map(|(place, _)| place).collect::<Vec<_>>();
        self.epoch != other.epoch || self.writer != other.writer || readers(self) != readers(other)
    }

    /// One line for people: each instance, and how it is.
    pub fn explain(&self) -> String {
        let each = self.instances.iter().filter_map(|seen| match &seen.health {
            Health::Gone => None,
            Health::Registering => Some(format!("{} has not answered yet", seen.name)),
            Health::Unavailable(reason, why) => {
                Some(format!("{}: {}: {why}", seen.name, reason.as_str()))
            }
            Health::Available => Some(match seen.role {
                Some(Role::Writer) => format!("{} is the writer", seen.name),
                Some(Role::Reader) | None => format!("{} is a reader", seen.name),
            }),
        });
        each.collect::<Vec<_>>().join("; ")
    }
}

/// What follows from something heard, for those who hold connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was restarted or has another role: its connections of before are not to be lent again.
    Renewed(Place),
    /// It is not to be used: who has a connection to it is to be told so.
    Severed(Place),
    /// Another instance is the writer.
    Promoted(Place),
    /// It said of itself that it is the writer no longer, and no other is known.
    Lost(Place),
    /// Two claim to be the writer: this one is refused.
    Refused(Place),
}

/// How soon instances are to be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    Calm,
    /// Something is wrong: all of them, in short steps.
    Hurried,
}

#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// A reader further behind gets no clients.
    pub max_lag: Option<Duration>,
    pub company: Company,
}

/// How many instances there are to choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Company {
    /// One alone: whoever comes is sent there, whatever it is.
    Alone,
    Several,
}

/// Questions in a row without an answer, after which a silent writer may be followed by one whose timeline does not
/// prove that it was promoted; and after which a silent reader is given up.
const FIRM: u32 = 3;
/// How long haste lasts while nothing changes.
const HASTE: Duration = Duration::from_secs(30);
/// The writer's positions that are remembered, to tell how old it is what a reader has.
const MAX_SAMPLES: usize = 600;

/// Whether an instance belongs to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Present,
    /// No longer, but there may be connections to it.
    Leaving,
    /// The place is free.
    Vacant,
}

#[derive(Debug)]
struct Instance {
    name: Arc<str>,
    standing: Standing,
    said: Option<Said>,
    /// Since it last answered: why it did not, and how often.
    missed: Option<(Missed, u32)>,
    /// Two claimed to be the writer, and it was the wrong one.
    refused: bool,
}

impl Instance {
    fn new(name: Arc<str>) -> Instance {
        Instance {
            name,
            standing: Standing::Present,
            said: None,
            missed: None,
            refused: false,
        }
    }

    /// What it says that it is, if it answers.
    fn role(&self) -> Option<Role> {
        let answers = self.missed.is_none();
        self.said.as_ref().filter(|_| answers).map(|said| said.role)
    }

    fn timeline(&self) -> Option<u32> {
        self.said.as_ref()?.timeline
    }

    fn times_missed(&self) -> u32 {
        self.missed.as_ref().map_or(0, |(_, times)| *times)
    }
}

/// All that was concluded so far.
#[derive(Debug)]
pub struct Roles {
    terms: Terms,
    instances: Vec<Instance>,
    writer: Option<Place>,
    epoch: u64,
    /// The newest timeline that a writer was accepted with.
    timeline: Option<u32>,
    /// Where the writer was when: only what is new, oldest first.
    samples: VecDeque<(Instant, u64)>,
    haste_until: Option<Instant>,
    /// The writer takes its time to answer.
    in_doubt: bool,
}

impl Roles {
    pub fn new(terms: Terms) -> Roles {
        Roles {
            terms,
            instances: Vec::new(),
            writer: None,
            epoch: 0,
            timeline: None,
            samples: VecDeque::new(),
            haste_until: None,
            in_doubt: false,
        }
    }

    /// A place for an instance: that which it has left, if there are still connections to it; else a free one. `None`:
    /// all are taken.
    pub fn add(&mut self, name: Arc<str>) -> Option<Place> {
        let mut places = self.instances.iter();
        let back = places
            .position(|instance| instance.standing == Standing::Leaving && instance.name == name);
        let mut places = self.instances.iter();
        let free = || places.position(|instance| instance.standing == Standing::Vacant);
        let place = back.or_else(free).unwrap_or(self.instances.len());
        let instance = Instance::new(name);
        match self.instances.get_mut(place) {
            Some(old) => *old = instance,
            None if place < MAX_INSTANCES => self.instances.push(instance),
            None => return None,
        }
        Some(Place(place))
    }

    /// The only one that is known is taken for the writer, until something else is heard.
    pub fn assume(&mut self, place: Place) {
        self.writer = Some(place);
    }

    /// An instance is called otherwise from here on.
    pub fn rename(&mut self, place: Place, name: Arc<str>) -> Vec<Event> {
        if let Some(instance) = self.instances.get_mut(place.0) {
            instance.name = name;
        }
        vec![Event::Renewed(place)]
    }

    /// An instance does not belong to the cluster any more.
    pub fn retire(&mut self, place: Place, now: Instant) -> Vec<Event> {
        let mut events = vec![Event::Renewed(place)];
        if let Some(instance) = self.instances.get_mut(place.0) {
            let name = Arc::clone(&instance.name);
            *instance = Instance {
                standing: Standing::Leaving,
                ..Instance::new(name)
            };
        }
        self.conclude(now, &mut events);
        events
    }

    pub fn is_leaving(&self, place: Place) -> bool {
        let instance = self.instances.get(place.0);
        instance.is_some_and(|instance| instance.standing == Standing::Leaving)
    }

    /// Nobody uses it any more, either.
    pub fn vacate(&mut self, place: Place) {
        if let Some(instance) = self.instances.get_mut(place.0) {
            instance.standing = Standing::Vacant;
        }
    }

    pub fn name(&self, place: Place) -> Option<Arc<str>> {
        self.instances.get(place.0).map(|one| Arc::clone(&one.name))
    }

    pub fn writer(&self) -> Option<Place> {
        self.writer
    }

    /// Something is wrong with an instance, as far as those can tell who use it.
    pub fn suspect(&mut self, now: Instant) {
        self.haste_until = Some(now + HASTE);
    }

    /// An instance takes its time to answer.
    pub fn hesitates(&mut self, place: Place, now: Instant) {
        if self.writer == Some(place) && !self.in_doubt {
            self.in_doubt = true;
            self.suspect(now);
        }
    }

    /// Whether there is a writer, and it answers.
    pub fn is_settled(&self) -> bool {
        let writer = self
            .writer
            .and_then(|Place(place)| self.instances.get(place));
        let role = writer.and_then(Instance::role);
        !self.in_doubt
            && match self.terms.company {
                Company::Alone => role.is_some(),
                Company::Several => role == Some(Role::Writer),
            }
    }

    pub fn pace(&self, now: Instant) -> Pace {
        let in_haste = self.haste_until.is_some_and(|until| now < until);
        match !self.is_settled() && in_haste {
            true => Pace::Hurried,
            false => Pace::Calm,
        }
    }

    /// An instance has answered.
    pub fn heard(&mut self, place: Place, said: Said, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        let is_writer = self.writer == Some(place);
        self.in_doubt &= !is_writer;
        let Some(instance) = self.instances.get_mut(place.0) else {
            return events;
        };
        let before = instance.said.replace(said.clone());
        instance.missed = None;
        if let Some(before) = before {
            if before.role != said.role || before.started != said.started {
                events.push(Event::Renewed(place));
            }
            if before.role == Role::Writer && said.role == Role::Reader {
                events.push(Event::Severed(place));
                self.suspect(now);
            }
        }
        self.conclude(now, &mut events);
        if is_writer && self.writer == Some(place) {
            self.sample(said.position, now);
        }
        events
    }

    /// An instance did not answer.
    pub fn missed(&mut self, place: Place, missed: Missed, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        let Some(instance) = self.instances.get_mut(place.0) else {
            return events;
        };
        if !missed.reason.is_silence() {
            // Somebody is there, who does not answer us: that says nothing of its role.
            if instance.said.is_none() {
                instance.missed = Some((missed, 1));
            }
            return events;
        }
        let times = instance.times_missed() + 1;
        instance.missed = Some((missed, times));
        if times == 1 {
            self.suspect(now);
        }
        if times == FIRM && self.writer != Some(place) {
            events.push(Event::Renewed(place));
            events.push(Event::Severed(place));
        }
        self.conclude(now, &mut events);
        events
    }

    fn conclude(&mut self, now: Instant, events: &mut Vec<Event>) {
        let next = self.next_writer();
        for place in 0..self.instances.len() {
            let instance = &mut self.instances[place];
            let refused = instance.role() == Some(Role::Writer) && next != Some(Place(place));
            if refused && !instance.refused {
                events.push(Event::Refused(Place(place)));
                events.push(Event::Renewed(Place(place)));
                events.push(Event::Severed(Place(place)));
            }
            instance.refused = refused;
        }
        if next == self.writer {
            return;
        }
        let before = std::mem::replace(&mut self.writer, next);
        self.in_doubt = false;
        self.epoch += 1;
        self.samples.clear();
        match (before, next) {
            (_, Some(Place(place))) => {
                self.timeline = self.instances[place].timeline().max(self.timeline);
                if let Some(before) = before
                    && !events.contains(&Event::Severed(before))
                {
                    events.push(Event::Renewed(before));
                    events.push(Event::Severed(before));
                }
                events.push(Event::Promoted(Place(place)));
            }
            (Some(before), None) => events.push(Event::Lost(before)),
            (None, None) => {}
        }
        self.suspect(now);
    }

    /// Who is the writer, after all that was heard. The one of before stays for as long as nothing better is known.
    fn next_writer(&self) -> Option<Place> {
        if self.terms.company == Company::Alone {
            return self.writer;
        }
        let claims = self.instances.iter().enumerate();
        let claims = claims.filter(|(_, instance)| instance.role() == Some(Role::Writer));
        // A claim on a timeline that has ended is one of the past.
        let valid = claims.filter(|(_, instance)| match (instance.timeline(), self.timeline) {
            (Some(own), Some(newest)) => own >= newest,
            (None, _) | (_, None) => true,
        });
        let best = valid.max_by_key(|(place, instance)| {
            // Of equals the one of before; else the first.
            let known = self.writer == Some(Place(*place));
            (instance.timeline(), known, std::cmp::Reverse(*place))
        });
        let present = |place: &Place| {
            let instance = self.instances.get(place.0);
            instance.is_some_and(|instance| instance.standing == Standing::Present)
        };
        let Some(before) = self.writer.filter(present) else {
            return best.map(|(place, _)| Place(place));
        };
        let silent = self.instances.get(before.0);
        match (silent.map(|old| (old, old.role())), best) {
            (Some((old, None)), Some((place, new))) => {
                let proven = new.timeline().is_some() && new.timeline() > self.timeline;
                let firm = proven || old.times_missed() >= FIRM || place == before.0;
                Some(if firm { Place(place) } else { before })
            }
            (Some((_, None)), None) => Some(before),
            (_, best) => best.map(|(place, _)| Place(place)),
        }
    }

    fn sample(&mut self, position: Option<u64>, now: Instant) {
        let Some(position) = position else { return };
        if self.samples.back().is_none_or(|(_, last)| *last < position) {
            self.samples.push_back((now, position));
        }
        if self.samples.len() > MAX_SAMPLES {
            self.samples.pop_front();
        }
    }

    /// How old the oldest thing is that a reader lacks, as far as the writer's positions were seen from here. (What the
    /// reader says of itself can't be trusted: one that is cut off from the writer believes that it has everything.)
    fn lag(&self, said: &Said, now: Instant) -> Option<Duration> {
        if said.lag.is_some() {
            return said.lag;
        }
        let replayed = said.position?;
        self.samples.back()?;
        let lacking = self
            .samples
            .iter()
            .find(|(_, position)| *position > replayed);
        Some(lacking.map_or(Duration::ZERO, |(since, _)| {
            now.saturating_duration_since(*since)
        }))
    }

    pub fn view(&self, now: Instant) -> View {
        let seen = |(place, instance): (usize, &Instance)| {
            let said = instance.said.as_ref();
            let is_reader = instance.role() == Some(Role::Reader);
            let lag = said
                .filter(|_| is_reader)
                .and_then(|said| self.lag(said, now));
            let behind = matches!((lag, self.terms.max_lag), (Some(lag), Some(max)) if lag > max);
            let health = match (&instance.missed, said) {
                _ if instance.standing != Standing::Present => Health::Gone,
                (Some((missed, _)), _) => Health::Unavailable(missed.reason, missed.text.clone()),
                (None, None) => Health::Registering,
                (None, Some(_)) if instance.refused => Health::Unavailable(
                    Unavailable::InvalidReplicationState,
                    "it claims to be the writer, and another is".into(),
                ),
                (None, Some(_)) if behind => Health::Unavailable(
                    Unavailable::InvalidReplicationState,
                    format!("it is {:.1?} behind", lag.unwrap_or_default()),
                ),
                (None, Some(_)) => Health::Available,
            };
            Seen {
                name: Arc::clone(&instance.name),
                role: said.map(|said| said.role),
                serves_readers: is_reader
                    && health == Health::Available
                    && self.writer != Some(Place(place)),
                health,
                lag,
                position: said.and_then(|said| said.position),
            }
        };
        View {
            epoch: self.epoch,
            writer: self.writer,
            instances: self.instances.iter().enumerate().map(seen).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
