//! Which limit a descriptor has: the configured tree, in the form in which it is looked up. Pure.
//!
//! As envoyproxy/ratelimit matches: entry by entry, the first of an equal value, a value whose beginning is configured
//! (in the order of the file), and the key alone; what was chosen for one entry is not tried again for the next. A limit
//! applies to descriptors that end where it stands.

use std::collections::HashMap;

use crate::config::{DescriptorConfig, DescriptorLimit, DomainConfig};
use crate::limit::{CountBy, Period, Rules};

/// The descriptors of all domains.
#[derive(Debug, Default)]
pub(super) struct Book {
    domains: HashMap<String, Level>,
}

/// What may stand at one place, by key.
type Level = HashMap<String, Values>;

#[derive(Debug, Default)]
struct Values {
    exact: HashMap<String, Place>,
    /// What a value begins with.
    prefixes: Vec<(String, Place)>,
    any: Option<Place>,
}

/// What follows from an entry.
#[derive(Debug)]
struct Place {
    entry: Known,
    next: Level,
}

/// What is known of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) limit: KnownLimit,
    /// What callers are told that it is called.
    pub(super) name: String,
    /// It denies nobody.
    pub(super) shadow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KnownLimit {
    None,
    Unlimited,
    /// Nothing is admitted.
    Nothing(Period),
    /// The place of a rule.
    Rule(usize),
}

impl Book {
    /// The descriptors of `domains`, whose rules are among those in force.
    pub(super) fn new(domains: &[DomainConfig], rules: &Rules) -> Self {
        let counting = rules
            .iter()
            .filter(|(_, rule)| rule.count_by == CountBy::Descriptor);
        let places: HashMap<_, _> = counting
            .map(|(place, rule)| (rule.name.as_str(), place))
            .collect();
        let domains = domains
            .iter()
            .map(|domain| (domain.name.clone(), level(&domain.descriptors, &places)));
        Self {
            domains: domains.collect(),
        }
    }

    /// What is known of a descriptor; `None` where nothing limits it.
    pub(super) fn find(&self, domain: &str, entries: &[(String, String)]) -> Option<&Known> {
        let mut level = self.domains.get(domain)?;
        let (last, before) = entries.split_last()?;
        for entry in before {
            level = &place(level, entry)?.next;
        }
        let known = &place(level, last)?.entry;
        (known.limit != KnownLimit::None).then_some(known)
    }
}

fn place<'b>(level: &'b Level, (key, value): &(String, String)) -> Option<&'b Place> {
    let values = level.get(key)?;
    let by_beginning = || {
        values
            .prefixes
            .iter()
            .find(|(prefix, _)| value.starts_with(prefix))
    };
    let exact = values.exact.get(value);
    exact
        .or_else(|| by_beginning().map(|(_, place)| place))
        .or(values.any.as_ref())
}

fn level(descriptors: &[DescriptorConfig], places: &HashMap<&str, usize>) -> Level {
    let mut level = Level::new();
    for descriptor in descriptors {
        let values = level.entry(descriptor.key.clone()).or_default();
        let place = Place {
            entry: known(descriptor, places),
            next: self::level(&descriptor.descriptors, places),
        };
        match &descriptor.value {
            None => values.any = Some(place),
            Some(value) => match value.strip_suffix('*') {
                Some(prefix) => values.prefixes.push((prefix.to_owned(), place)),
                None => drop(values.exact.insert(value.clone(), place)),
            },
        }
    }
    level
}

fn known(descriptor: &DescriptorConfig, places: &HashMap<&str, usize>) -> Known {
    let (limit, name) = match &descriptor.limit {
        DescriptorLimit::None => (KnownLimit::None, None),
        DescriptorLimit::Unlimited => (KnownLimit::Unlimited, None),
        DescriptorLimit::Nothing { period, name } => (KnownLimit::Nothing(*period), name.clone()),
        DescriptorLimit::Rule { rule, name } => {
            let place = places.get(rule.name.as_str());
            let limit = place.map_or(KnownLimit::None, |place| KnownLimit::Rule(*place));
            (limit, name.clone())
        }
    };
    Known {
        limit,
        name: name.unwrap_or_default(),
        shadow: descriptor.shadow,
    }
}
