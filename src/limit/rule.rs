//! Rules: what is limited, how it is counted, and by how much.

use std::fmt;
use std::str::FromStr;

use http::HeaderName;
use smallvec::SmallVec;
use thiserror::Error;

use super::key::RuleId;
use super::mode::SyncMode;
use super::window::Period;

/// The most hits a window admits: 1 to [`Limit::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Limit(u64);

impl Limit {
    /// A trillion: what the packed counter of a row can hold with room to spare.
    pub const MAX: u64 = 1_000_000_000_000;

    /// A limit of `hits`, or `None` when it is zero or above [`Limit::MAX`].
    #[must_use]
    pub fn try_new(hits: u64) -> Option<Self> {
        (1..=Self::MAX).contains(&hits).then_some(Self(hits))
    }

    /// The number of hits.
    #[must_use]
    pub fn hits(self) -> u64 {
        self.0
    }
}

/// How many hits one request counts: 1 to [`Hits::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hits(u32);

impl Hits {
    /// One hit, what a request costs unless a rule says otherwise.
    pub const ONE: Self = Self(1);
    /// The most hits one request may cost; keeps the packed reservation of a row from overflowing.
    pub const MAX: u32 = 4096;

    /// `hits`, or `None` when it is zero or above [`Hits::MAX`].
    #[must_use]
    pub fn try_new(hits: u32) -> Option<Self> {
        (1..=Self::MAX).contains(&hits).then_some(Self(hits))
    }

    /// The number of hits.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

/// What a rule counts by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CountBy {
    /// The client's address.
    Ip,
    /// The value of a request header; a request without it counts by address, as Kong has it.
    Header(HeaderName),
    /// The request path.
    Path,
    /// The matched route.
    Route,
    /// The upstream of the matched route.
    Upstream,
    /// Everyone together.
    All,
    /// The descriptor that the rate limit service is asked about; no request that is forwarded has one.
    Descriptor,
}

impl fmt::Display for CountBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip => f.write_str("ip"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Path => f.write_str("path"),
            Self::Route => f.write_str("route"),
            Self::Upstream => f.write_str("upstream"),
            Self::All => f.write_str("all"),
            Self::Descriptor => f.write_str("descriptor"),
        }
    }
}

/// Which requests a rule applies to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub enum RuleScope {
    /// Every request; one shared set of counters.
    #[default]
    Everything,
    /// Requests that matched the named route.
    Route(String),
    /// Requests that go to the named upstream.
    Upstream(String),
}

/// One limit over one period, such as `5/minute`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WindowLimit {
    /// Most hits in a window.
    pub limit: Limit,
    /// How time is cut into windows.
    pub period: Period,
}

/// A limit as an operator writes it: who is counted, over which windows, by which mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Unique name; part of the identity of its counters.
    pub name: String,
    /// Which requests it applies to.
    pub scope: RuleScope,
    /// What it counts by.
    pub count_by: CountBy,
    /// Its windows, decided together: a request counts in all of them or in none. Never empty.
    pub windows: SmallVec<[WindowLimit; 4]>,
    /// Hits per request.
    pub hits: Hits,
    /// Overrides the cluster's sync mode.
    pub mode: Option<SyncMode>,
}

impl Rule {
    /// A rule for every request, by address, at one hit a request, in the cluster's sync mode.
    #[must_use]
    pub fn new(name: impl Into<String>, windows: impl IntoIterator<Item = WindowLimit>) -> Self {
        Self {
            name: name.into(),
            scope: RuleScope::Everything,
            count_by: CountBy::Ip,
            windows: windows.into_iter().collect(),
            hits: Hits::ONE,
            mode: None,
        }
    }

    /// The identity of this rule's counters over `period`.
    #[must_use]
    pub fn id(&self, period: Period) -> RuleId {
        RuleId::new(&self.name, &self.count_by.to_string(), &period.to_string())
    }
}

/// Why a piece of a rule could not be read. The message says what was expected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct RuleError(pub String);

impl FromStr for WindowLimit {
    type Err = RuleError;
    /// Reads `5/minute`, `100/10s`, `1_000_000/hour`, `20/1m30s`; `_` may group the digits of the number.
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (hits, period) = text.split_once('/').ok_or_else(|| {
            RuleError(format!(
                "`{text}` is no limit: expected HITS/PERIOD such as `5/minute` or `100/10s`"
            ))
        })?;
        let is_group = |group: &str| !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit());
        let limit = hits
            .split('_')
            .all(is_group)
            .then(|| hits.replace('_', "").parse().ok())
            .flatten()
            .and_then(Limit::try_new);
        let limit = limit.ok_or_else(|| {
            let max = Limit::MAX;
            RuleError(format!(
                "`{hits}` in `{text}` is no limit: expected a whole number from 1 to {max}"
            ))
        })?;
        Ok(Self {
            limit,
            period: period.parse()?,
        })
    }
}

/// As [`WindowLimit::from_str`] reads it.
impl fmt::Display for WindowLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.limit.hits(), self.period)
    }
}

impl FromStr for CountBy {
    type Err = RuleError;
    /// Reads `ip`, `header:NAME`, `path`, `route`, `upstream`, `all`.
    fn from_str(text: &str) -> Result<Self, RuleError> {
        if let Some(name) = text.strip_prefix("header:") {
            return HeaderName::from_str(name)
                .map(Self::Header)
                .map_err(|_| RuleError(format!("`{name}` in `{text}` is no header name")));
        }
        let plain = [Self::Ip, Self::Path, Self::Route, Self::Upstream, Self::All];
        let known = plain.iter().find(|count_by| count_by.to_string() == text);
        known.cloned().ok_or_else(|| {
            let names = ["ip", "header:NAME", "path", "route", "upstream", "all"];
            let nearest = names.iter().max_by(|a, b| {
                let likeness = |name: &str| strsim::jaro_winkler(&text.to_ascii_lowercase(), name);
                likeness(a).total_cmp(&likeness(b))
            });
            let nearest = nearest.filter(|name| strsim::jaro_winkler(&text.to_ascii_lowercase(), name) > 0.7);
            let hint = nearest.map_or(String::new(), |name| format!("; did you mean `{name}`?"));
            RuleError(format!(
                "cannot count by `{text}`: expected `ip`, `header:NAME`, `path`, `route`, `upstream` or `all`{hint}"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_read_back_from_their_text_and_nonsense_is_refused() {
        for text in [
            "5/minute",
            "1/second",
            "100/10s",
            "20/1m30s",
            "1000000000000/year",
            "7/100ms",
        ] {
            assert_eq!(text.parse::<WindowLimit>().unwrap().to_string(), text);
        }
        assert_eq!("5/60s".parse::<WindowLimit>(), "5/minute".parse());
        assert_eq!("1_000_000/hour".parse::<WindowLimit>(), "1000000/hour".parse());
        for text in [
            "",
            "5",
            "/minute",
            "5/",
            "0/minute",
            "-1/minute",
            "+5/minute",
            "_/minute",
            "_5/minute",
            "5_/minute",
            "1__000/minute",
            "1000000000001/day",
            "1_000_000_000_001/day",
            "5/minutes",
            "5/min",
            "5 / minute",
            "5/minute/2",
        ] {
            text.parse::<WindowLimit>().expect_err(text);
        }
    }

    #[test]
    fn what_a_rule_counts_by_reads_back_from_its_text() {
        for text in ["ip", "header:x-api-key", "path", "route", "upstream", "all"] {
            assert_eq!(text.parse::<CountBy>().unwrap().to_string(), text);
        }
        assert_eq!("header:X-API-Key".parse::<CountBy>(), "header:x-api-key".parse());
        let error = "upsteram".parse::<CountBy>().unwrap_err();
        assert!(error.0.ends_with("did you mean `upstream`?"), "{error}");
        for text in ["header:", "header:a b", "IP", "", "header"] {
            text.parse::<CountBy>().expect_err(text);
        }
    }

    #[test]
    fn the_identity_of_a_rule_is_not_its_limit_scope_or_mode() {
        let rule = Rule::new("a", []);
        let changed = Rule {
            mode: Some(SyncMode::Local),
            hits: Hits(2),
            scope: RuleScope::Route("r".into()),
            ..rule.clone()
        };
        assert_eq!(rule.id(Period::Minute), changed.id(Period::Minute));
        assert_ne!(rule.id(Period::Minute), rule.id(Period::Hour));
        assert_ne!(
            rule.id(Period::Minute),
            Rule {
                count_by: CountBy::Path,
                ..rule.clone()
            }
            .id(Period::Minute)
        );
    }
}
