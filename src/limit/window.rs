//! Windows: the stretches of wall-clock time that a limit counts in.
//!
//! Owns how time is cut. Calendar units are aligned to UTC as Kong has them, all else to the Unix epoch.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::Offset;

use super::rule::RuleError;
use super::time::UnixMillis;

/// How a limit cuts time into windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Period {
    /// A second, minute, hour or day, aligned to UTC.
    Second,
    /// See [`Period::Second`].
    Minute,
    /// See [`Period::Second`].
    Hour,
    /// See [`Period::Second`].
    Day,
    /// A calendar month, UTC.
    Month,
    /// A calendar year, UTC.
    Year,
    /// Any other length in milliseconds, aligned to the Unix epoch. Made by [`Period::try_every`], so
    /// that it never holds the length of a second, minute, hour or day.
    Every(NonZeroU64),
}

/// One window: a half-open stretch `[start, end)` of wall-clock time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Window {
    /// First millisecond of the window.
    pub start: UnixMillis,
    /// First millisecond after the window.
    pub end: UnixMillis,
}

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The calendar units by name, in rising length.
const UNITS: [(&str, Period); 6] = [
    ("second", Period::Second),
    ("minute", Period::Minute),
    ("hour", Period::Hour),
    ("day", Period::Day),
    ("month", Period::Month),
    ("year", Period::Year),
];

impl Period {
    /// Shortest window. Below it the flight time of a gossip datagram is no longer small against it.
    pub const MIN: Duration = Duration::from_millis(100);
    /// Longest window: a leap year.
    pub const MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

    /// Windows of `length`, a whole number of milliseconds within [`Period::MIN`] and [`Period::MAX`].
    /// The length of a second, minute, hour or day gives that unit: both ways to say it count together.
    #[must_use]
    pub fn try_every(length: Duration) -> Option<Self> {
        if !(Self::MIN..=Self::MAX).contains(&length) || !length.subsec_nanos().is_multiple_of(1_000_000) {
            return None;
        }
        match u64::try_from(length.as_millis()).ok()? {
            SECOND => Some(Self::Second),
            MINUTE => Some(Self::Minute),
            HOUR => Some(Self::Hour),
            DAY => Some(Self::Day),
            other => NonZeroU64::new(other).map(Self::Every),
        }
    }

    /// The window that contains `at`.
    #[must_use]
    pub fn window_at(self, at: UnixMillis) -> Window {
        match self {
            Self::Second => aligned(at, SECOND),
            Self::Minute => aligned(at, MINUTE),
            Self::Hour => aligned(at, HOUR),
            Self::Day => aligned(at, DAY),
            Self::Every(length) => aligned(at, length.get()),
            Self::Month => calendar(at, Date::first_of_month, Date::last_of_month),
            Self::Year => calendar(at, Date::first_of_year, Date::last_of_year),
        }
    }

    /// The nominal length: a month counts as 30 days and a year as 365, as Kong has it.
    #[must_use]
    pub fn nominal(self) -> Duration {
        Duration::from_millis(match self {
            Self::Second => SECOND,
            Self::Minute => MINUTE,
            Self::Hour => HOUR,
            Self::Day => DAY,
            Self::Month => 30 * DAY,
            Self::Year => 365 * DAY,
            Self::Every(length) => length.get(),
        })
    }
}

impl Window {
    /// Whether `at` lies in the window.
    #[must_use]
    pub fn contains(self, at: UnixMillis) -> bool {
        self.start <= at && at < self.end
    }
}

/// The name of the unit (`minute`), or the length as a duration without spaces (`1m30s`).
impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = UNITS.iter().find(|(_, unit)| unit == self) {
            return f.write_str(name);
        }
        // Days are the largest unit here: humantime would write 31 days as a month of 30.44 and a rest.
        let mut rest = u64::try_from(self.nominal().as_millis()).unwrap_or(u64::MAX);
        for (length, name) in [(DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (SECOND, "s"), (1, "ms")] {
            if rest >= length {
                write!(f, "{}{name}", rest / length)?;
                rest %= length;
            }
        }
        Ok(())
    }
}

impl FromStr for Period {
    type Err = RuleError;

    /// Reads a calendar unit (`second` to `year`) or a duration (`10s`, `1m30s`, `100ms`).
    fn from_str(text: &str) -> Result<Self, RuleError> {
        if let Some((_, unit)) = UNITS.iter().find(|(name, _)| *name == text) {
            return Ok(*unit);
        }
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return duration(text);
        }
        let nearest = UNITS
            .iter()
            .map(|(name, _)| (strsim::jaro_winkler(&text.to_ascii_lowercase(), name), name))
            .filter(|(likeness, _)| *likeness > 0.7)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = nearest.map_or(String::new(), |(_, name)| format!("; did you mean `{name}`?"));
        Err(RuleError(format!(
            "unknown period `{text}`: expected `second`, `minute`, `hour`, `day`, `month`, `year` or a \
             duration such as `10s`{hint}"
        )))
    }
}

fn duration(text: &str) -> Result<Period, RuleError> {
    // humantime takes a month for 30.44 days, which nobody means.
    let calendar = text.split(|c: char| !c.is_ascii_alphabetic()).find(|unit| {
        *unit == "M" || *unit == "y" || *unit == "yr" || unit.starts_with("mon") || unit.starts_with("year")
    });
    if let Some(unit) = calendar {
        return Err(RuleError(format!(
            "`{unit}` in `{text}` has no fixed length: write `month` or `year` for the calendar's"
        )));
    }
    let length = humantime::parse_duration(text).map_err(|source| {
        RuleError(format!(
            "`{text}` is no duration ({source}): expected one such as `10s`, `1m30s` or `100ms`"
        ))
    })?;
    Period::try_every(length).ok_or_else(|| {
        RuleError(format!(
            "a window of `{text}` is out of bounds: expected whole milliseconds from 100ms to 366days"
        ))
    })
}

fn aligned(at: UnixMillis, length: u64) -> Window {
    let start = at.0 - at.0 % length;
    Window {
        start: UnixMillis(start),
        end: UnixMillis(start.saturating_add(length)),
    }
}

/// The window from the first to the last day (both included) around the day of `at`. Past the year 9999,
/// where the calendar ends, the rest of time is one window.
fn calendar(at: UnixMillis, first: fn(Date) -> Date, last: fn(Date) -> Date) -> Window {
    let today = i64::try_from(at.0)
        .ok()
        .and_then(|millis| Timestamp::from_millisecond(millis).ok())
        .map(|timestamp| Offset::UTC.to_datetime(timestamp).date());
    let start = today.and_then(|day| midnight(first(day)));
    let end = today.and_then(|day| last(day).tomorrow().ok()).and_then(midnight);
    Window {
        start: start.unwrap_or(UnixMillis(Timestamp::MAX.as_millisecond().unsigned_abs())),
        end: end.unwrap_or(UnixMillis(u64::MAX)),
    }
}

fn midnight(day: Date) -> Option<UnixMillis> {
    let timestamp = Offset::UTC.to_timestamp(day.at(0, 0, 0, 0)).ok()?;
    u64::try_from(timestamp.as_millisecond()).ok().map(UnixMillis)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> UnixMillis {
        let timestamp: Timestamp = text.parse().unwrap();
        UnixMillis(timestamp.as_millisecond().unsigned_abs())
    }

    fn window(start: &str, end: &str) -> Window {
        Window {
            start: at(start),
            end: at(end),
        }
    }

    #[test]
    fn calendar_windows_follow_the_calendar_through_leap_years_and_year_ends() {
        let leap = window("2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z");
        assert_eq!(Period::Month.window_at(at("2024-02-29T23:59:59.999Z")), leap);
        assert_eq!(Period::Month.window_at(leap.start), leap);
        assert_ne!(Period::Month.window_at(leap.end), leap);
        let common = window("2100-02-01T00:00:00Z", "2100-03-01T00:00:00Z");
        assert_eq!(common.end.since(common.start), Duration::from_secs(28 * 86_400));
        assert_eq!(Period::Month.window_at(at("2100-02-28T12:00:00Z")), common);
        let december = window("2025-12-01T00:00:00Z", "2026-01-01T00:00:00Z");
        assert_eq!(Period::Month.window_at(at("2025-12-31T23:59:59.999Z")), december);
        let year = window("2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z");
        assert_eq!(Period::Year.window_at(at("2024-12-31T23:59:59.999Z")), year);
        assert_eq!(year.end.since(year.start), Period::MAX);
        assert_eq!(
            Period::Day.window_at(at("2024-02-29T23:59:59.999Z")).end,
            at("2024-03-01T00:00:00Z")
        );
    }

    #[test]
    fn a_duration_of_a_calendar_unit_is_that_unit() {
        for (text, period) in [
            ("1s", Period::Second),
            ("60s", Period::Minute),
            ("3600s", Period::Hour),
        ] {
            assert_eq!(text.parse(), Ok(period));
        }
        assert_eq!("1d".parse(), Ok(Period::Day));
        assert_eq!("1m30s".parse::<Period>().unwrap().to_string(), "1m30s");
        assert_eq!(
            "1m30s".parse::<Period>().unwrap().nominal(),
            Duration::from_secs(90)
        );
    }

    #[test]
    fn lengths_out_of_bounds_are_refused_and_the_bounds_are_not() {
        for text in [
            "99ms",
            "367days",
            "100us",
            "0s",
            "1s1us",
            "1month",
            "2y",
            "5",
            "10 parsecs",
        ] {
            text.parse::<Period>().unwrap_err();
        }
        "100ms".parse::<Period>().unwrap();
        "366days".parse::<Period>().unwrap();
    }

    #[test]
    fn a_misspelt_unit_is_answered_with_the_nearest() {
        let error = "minuet".parse::<Period>().unwrap_err();
        assert!(error.0.ends_with("did you mean `minute`?"), "{error}");
        let error = "min".parse::<Period>().unwrap_err();
        assert!(error.0.ends_with("did you mean `minute`?"), "{error}");
        let error = "fortnight".parse::<Period>().unwrap_err();
        assert!(error.0.contains("expected `second`"), "{error}");
    }

    fn period() -> impl Strategy<Value = Period> {
        let units = proptest::sample::select(UNITS.map(|(_, unit)| unit).to_vec());
        let every = prop_oneof![100u64..40_000_000, 100u64..31_622_400_000]
            .prop_filter_map("a unit", |millis| {
                Period::try_every(Duration::from_millis(millis))
            });
        prop_oneof![units, every]
    }

    proptest! {
        #[test]
        fn windows_tile_time_without_gap_or_overlap(period in period(), now in 0u64..253_000_000_000_000) {
            let window = period.window_at(UnixMillis(now));
            prop_assert!(window.contains(UnixMillis(now)));
            prop_assert_eq!(period.window_at(window.start), window);
            prop_assert_eq!(period.window_at(window.end).start, window.end);
            prop_assert!(!window.contains(window.end));
        }

        #[test]
        fn a_period_reads_back_from_its_text(period in period()) {
            prop_assert_eq!(period.to_string().parse(), Ok(period));
        }

        #[test]
        fn no_instant_panics(period in period(), now in any::<u64>()) {
            let window = period.window_at(UnixMillis(now));
            prop_assert!(window.start < window.end || now == u64::MAX);
        }
    }
}
