//! The cluster-wide sync mode as a last-writer-wins register.
//!
//! Pure. Every node publishes the newest mode it knows, so the mode outlives the node that set it; and for which
//! windows it can vouch that it decides by it, which is its own affair.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::bounded::AnnouncedMode;
use crate::limit::{Limiter, SyncMode, UnixMillis};

/// How long before a switch that involves bounded mode every node has to have heard of it, or windows that
/// start soon after have no shares: fifty rounds of membership at its default pace.
const NOTICE: Duration = Duration::from_secs(5);

/// A sync mode and the Lamport version at which it was set; version 0 is the node's own configuration,
/// which no other node adopts. The same on every node, whenever it heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeVersion {
    /// How often the mode was set in the cluster's life.
    pub version: u64,
    /// The mode.
    pub mode: SyncMode,
    /// Where bounded mode is or was involved, the mode holds for windows that start after this instant; else it
    /// holds at once, and this is 0.
    pub from: UnixMillis,
    /// Windows that are in bounded mode because of modes before this one.
    pub bounded: Option<Span>,
}

/// Windows that start after `from` and not after `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// They start later.
    pub from: UnixMillis,
    /// They start no later.
    pub until: UnixMillis,
}

impl Span {
    fn new(from: UnixMillis, until: UnixMillis) -> Option<Self> {
        (from < until).then_some(Self { from, until })
    }

    fn covers(self, other: Self) -> bool {
        self.from <= other.from && other.until <= self.until
    }

    /// Both, and what lies between them.
    fn hull(self, other: Self) -> Self {
        Self {
            from: self.from.min(other.from),
            until: self.until.max(other.until),
        }
    }
}

impl ModeVersion {
    /// Highest version that is believed: exact in JSON, and out of reach unless somebody forges it.
    pub const VERSION_MAX: u64 = 1 << 53;

    /// A mode from the configuration.
    #[must_use]
    pub fn configured(mode: SyncMode) -> Self {
        Self {
            version: 0,
            mode,
            from: UnixMillis(0),
            bounded: None,
        }
    }

    /// The successor that sets `mode` at `now`. To set again what was set changes nothing: the instant from which
    /// it holds stays what was announced.
    #[must_use]
    pub fn next(self, mode: SyncMode, now: UnixMillis) -> Self {
        if mode == self.mode && self.version > 0 {
            return self;
        }
        let is_switch = mode != self.mode && (self.is_bounded() || mode == SyncMode::Bounded);
        let from = if is_switch { now.plus(NOTICE) } else { self.from };
        let bounded = if mode == SyncMode::Bounded {
            self.bounded
        } else {
            self.bounded_until(from)
        };
        Self {
            version: (self.version + 1).min(Self::VERSION_MAX),
            mode,
            from,
            bounded,
        }
    }

    /// Whether this one, heard of from anybody, takes the place of `other`. Of two modes that were set at once
    /// under the same version the stricter one wins, or the one that was announced for earlier, so that every
    /// node picks the same whatever it hears first.
    #[must_use]
    pub fn supersedes(self, other: Self) -> bool {
        self.rank() > other.rank()
    }

    /// What is to be set, one after the other, where a node that said `former` goes over to this mode at `now`.
    ///
    /// Who hears late of a switch to bounded mode decides windows that have begun since as bounded: others may
    /// hold shares of them. Who hears late of the way back keeps bounded mode in what has begun. And who knows
    /// nothing of bounded windows before this mode, since it started later, learns of them.
    fn steps(self, former: Announcement, now: UnixMillis) -> Vec<(SyncMode, UnixMillis)> {
        let Announcement { set: former, vouched } = former;
        let mut steps = Vec::new();
        if let Some(missed) = self.missed_by(former) {
            steps.push((SyncMode::Bounded, missed.from));
            if !former.is_bounded() {
                let after = if self.is_bounded() { former.mode } else { self.mode };
                // What began before it vouched for the other mode may be bounded here, and stays so.
                steps.push((after, missed.until.max(vouched)));
            }
        }
        let is_way_back = former.is_bounded() && !self.is_bounded();
        let from = if is_way_back {
            self.from.max(now)
        } else {
            self.from
        };
        steps.push((self.mode, from));
        steps
    }

    fn is_bounded(self) -> bool {
        self.mode == SyncMode::Bounded
    }

    /// Windows in bounded mode where this mode holds until `until`.
    fn bounded_until(self, until: UnixMillis) -> Option<Span> {
        let own = Span::new(self.from, until).filter(|_| self.is_bounded());
        match (self.bounded, own) {
            (Some(earlier), Some(own)) => Some(earlier.hull(own)),
            (earlier, own) => earlier.or(own),
        }
    }

    /// Bounded windows before this mode that a node with `former` in force takes for others.
    fn missed_by(self, former: Self) -> Option<Span> {
        let told = self.bounded?;
        match former.bounded_until(told.until) {
            Some(known) if known.covers(told) => None,
            Some(known) => Some(known.hull(told)),
            None => Some(told),
        }
    }

    fn rank(self) -> (u64, u8, Reverse<UnixMillis>) {
        let strictness = match self.mode {
            SyncMode::Local => 0,
            SyncMode::Gossip => 1,
            SyncMode::Bounded => 2,
        };
        (self.version, strictness, Reverse(self.from))
    }
}

impl From<ModeVersion> for AnnouncedMode {
    fn from(mode: ModeVersion) -> Self {
        Self {
            version: mode.version,
            mode: mode.mode,
            from: mode.from,
        }
    }
}

/// What a node says of the newest mode it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The mode, as it was set.
    pub set: ModeVersion,
    /// This node decides windows that start after this instant by it; earlier ones it may have decided otherwise.
    pub vouched: UnixMillis,
}

impl Announcement {
    /// What a node says that starts with `mode`.
    pub(crate) fn of(mode: ModeVersion) -> Self {
        Self {
            set: mode,
            vouched: mode.from,
        }
    }

    /// Puts `mode` in force at a node that said this before, and gives what it says from now on.
    pub(crate) fn adopt(self, mode: ModeVersion, limiter: &Limiter, clock: impl Fn() -> UnixMillis) -> Self {
        for (mode, from) in mode.steps(self, clock()) {
            limiter.set_mode(mode, from);
        }
        // The clock is read only now: a window that started before may have been decided by the former mode.
        self.followed_by(mode, clock())
    }

    /// What a node says that said this before, and has put `mode` in force no later than at `now`.
    fn followed_by(self, mode: ModeVersion, now: UnixMillis) -> Self {
        let from_now = mode.from.max(now);
        let vouched = match (self.set.is_bounded(), mode.is_bounded()) {
            (true, true) => self.vouched.min(from_now),
            (false, false) if mode.missed_by(self.set).is_none() => self.vouched,
            _ => from_now,
        };
        Self { set: mode, vouched }
    }
}

impl From<Announcement> for AnnouncedMode {
    fn from(announcement: Announcement) -> Self {
        Self {
            from: announcement.vouched,
            ..announcement.set.into()
        }
    }
}

impl fmt::Display for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { set, vouched } = self;
        write!(f, "{}:{}", set.version, set.mode)?;
        // The first releases read nothing more, and have to follow a switch between the other two modes.
        if set.from.0 > 0 || vouched.0 > 0 || set.bounded.is_some() {
            write!(f, ":{}:{}", set.from.0, vouched.0)?;
        }
        set.bounded
            .map_or(Ok(()), |span| write!(f, ":{}:{}", span.from.0, span.until.0))
    }
}

/// Not a published mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not `VERSION:MODE`, with or without `:FROM:VOUCHED` and then `:BOUNDED_FROM:BOUNDED_UNTIL`")]
pub struct ModeError;

impl FromStr for Announcement {
    type Err = ModeError;
    fn from_str(text: &str) -> Result<Self, ModeError> {
        let mut fields = text.split(':');
        let version = fields
            .next()
            .and_then(|text| text.parse().ok())
            .ok_or(ModeError)?;
        let mode = fields
            .next()
            .and_then(|text| text.parse().ok())
            .ok_or(ModeError)?;
        let instants: Result<Vec<_>, _> = fields.take(5).map(str::parse).collect();
        let instants = instants.map_err(|_| ModeError)?;
        let (from, vouched, bounded) = match *instants.as_slice() {
            // The first releases knew no bounded mode, and gave no instant.
            [] => (0, 0, None),
            [from, vouched] => (from, vouched, None),
            [from, vouched, after, until] => {
                let span = Span::new(UnixMillis(after), UnixMillis(until));
                (from, vouched, Some(span.ok_or(ModeError)?))
            }
            _ => return Err(ModeError),
        };
        let set = ModeVersion {
            version,
            mode,
            from: UnixMillis(from),
            bounded,
        };
        let vouched = UnixMillis(vouched);
        let believed = version <= ModeVersion::VERSION_MAX;
        believed.then_some(Self { set, vouched }).ok_or(ModeError)
    }
}

#[cfg(test)]
#[path = "mode_tests.rs"]
mod tests;
