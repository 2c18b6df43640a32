//! Which rules a request is charged to, and as whom. Pure.
//!
//! What does not depend on the request is worked out once per route: which rules apply, and the keys of
//! those that count everybody together.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

use crate::config::RouteConfig;
use crate::limit::{
    Charge, CountBy, Hits, Identity, IdentityHasher, IpPrefixes, KeyHash, Rule, RuleScope, Rules,
};

/// The charges of one request; four rules are decided without an allocation.
pub(super) type Charges = SmallVec<[Charge; 4]>;

/// The rules that apply to the requests of one route.
pub(super) struct ChargePlan {
    entries: Vec<Planned>,
    prefixes: IpPrefixes,
}

struct Planned {
    rule: usize,
    hits: Hits,
    key: PlannedKey,
}

enum PlannedKey {
    /// The same for every request: the text is the route's or upstream's name.
    Fixed(KeyHash, CountBy),
    Ip,
    Header(HeaderName),
    Path,
}

/// Who a request may be counted as.
pub(super) struct Subject<'r> {
    /// The client's address.
    pub(super) client: IpAddr,
    /// The request's header fields, as the client sent them.
    pub(super) headers: &'r HeaderMap,
    /// The normalized path.
    pub(super) path: &'r str,
    /// The route that takes the request.
    pub(super) route: &'r RouteConfig,
}

impl ChargePlan {
    /// The charges that `rules` make to requests of `route`, in the order of the rules. Clients are told apart by
    /// `prefixes` of their addresses.
    pub(super) fn new(
        rules: &Rules,
        route: &RouteConfig,
        prefixes: IpPrefixes,
        hasher: &IdentityHasher,
    ) -> Self {
        let planned = |(place, rule): (usize, &Rule)| Planned {
            rule: place,
            hits: rule.hits,
            key: planned_key(&rule.count_by, route, hasher),
        };
        let applying = rules.iter().filter(|(_, rule)| applies(rule, route));
        Self {
            entries: applying.map(planned).collect(),
            prefixes,
        }
    }

    /// No rule applies.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The charges for the request of `subject`.
    pub(super) fn charges(&self, subject: &Subject<'_>, hasher: &IdentityHasher) -> Charges {
        let charge = |planned: &Planned| Charge {
            rule: planned.rule,
            hits: planned.hits,
            key: match &planned.key {
                PlannedKey::Fixed(key, _) => *key,
                varying => hasher.hash(&varying.identity(subject, self.prefixes)),
            },
        };
        self.entries.iter().map(charge).collect()
    }

    /// Who the request is counted as by each of its charges, for the table that names keys to operators.
    pub(super) fn identities<'s>(&'s self, subject: &'s Subject<'s>) -> impl Iterator<Item = Identity<'s>> {
        let prefixes = self.prefixes;
        self.entries
            .iter()
            .map(move |planned| planned.key.identity(subject, prefixes))
    }
}

impl PlannedKey {
    fn identity<'s>(&'s self, subject: &'s Subject<'s>, prefixes: IpPrefixes) -> Identity<'s> {
        match self {
            Self::Ip => prefixes.identity(subject.client),
            Self::Path => Identity::Path(subject.path),
            // As Kong has it, a request without the header counts by address.
            Self::Header(name) => match subject.headers.get(name) {
                Some(value) => Identity::Header(value.as_bytes()),
                None => prefixes.identity(subject.client),
            },
            Self::Fixed(_, count_by) => fixed_identity(count_by, subject.route),
        }
    }
}

fn planned_key(count_by: &CountBy, route: &RouteConfig, hasher: &IdentityHasher) -> PlannedKey {
    match count_by {
        CountBy::Ip => PlannedKey::Ip,
        CountBy::Header(name) => PlannedKey::Header(name.clone()),
        CountBy::Path => PlannedKey::Path,
        CountBy::Route | CountBy::Upstream | CountBy::All | CountBy::Descriptor => {
            PlannedKey::Fixed(hasher.hash(&fixed_identity(count_by, route)), count_by.clone())
        }
    }
}

fn fixed_identity<'r>(count_by: &CountBy, route: &'r RouteConfig) -> Identity<'r> {
    match count_by {
        CountBy::Route => Identity::Route(&route.name),
        CountBy::Upstream => Identity::Upstream(route.upstream().unwrap_or_default()),
        _ => Identity::All,
    }
}

/// A rule that counts by upstream has nothing to count where a route answers by itself, and one that counts by
/// descriptor is the rate limit service's.
fn applies(rule: &Rule, route: &RouteConfig) -> bool {
    let upstream = route.upstream();
    let counts = match rule.count_by {
        CountBy::Upstream => upstream.is_some(),
        CountBy::Descriptor => false,
        _ => true,
    };
    counts
        && match &rule.scope {
            RuleScope::Everything => true,
            RuleScope::Route(name) => *name == route.name,
            RuleScope::Upstream(name) => upstream == Some(name),
        }
}
