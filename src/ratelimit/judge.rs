//! The answer to a question: which limits apply, and whether all of them have room.
//!
//! All that enforces is decided at once: counted everywhere, or nowhere (envoyproxy/ratelimit counts each descriptor by
//! itself, also where another one denies). What only shadows is counted after that, if the question was admitted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderMap;
use thiserror::Error;

use super::book::{Book, Known, KnownLimit};
use super::metrics::RatelimitMetrics;
use crate::admission::{ANNOUNCE_MAX, OnDue, Rights, wall_clock};
use crate::config::Config;
use crate::limit::{
    Charge, CountBy, Decision, Due, HeaderNames, Hits, Identity, IdentityHasher, IpPrefixes, KeyHash,
    Limiter, Outcome, Period, Rule, Rules, WindowState, headers,
};

/// Most descriptors of one question; Envoy sends one for each action list of a route.
pub(super) const DESCRIPTORS_MAX: usize = 64;
/// Most entries of one descriptor; the configuration cannot be nested as deep.
pub(super) const ENTRIES_MAX: usize = 16;

/// What is asked about: one descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Keys and values.
    pub entries: Vec<(String, String)>,
    /// How much it costs; 0 only looks.
    pub hits: u64,
}

/// Why a question cannot be answered, and what to do. Nothing was counted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Unanswerable {
    #[error("no domain is given")]
    NoDomain,
    #[error("no descriptor is given")]
    NoDescriptors,
    #[error("{0} descriptors are too many: at most {DESCRIPTORS_MAX}")]
    TooManyDescriptors(usize),
    #[error("a descriptor has {0} entries: 1 to {ENTRIES_MAX} are possible")]
    Entries(usize),
    #[error("an entry has no key")]
    NoKey,
    #[error("{0} hits are too many: one question counts at most {max}", max = Hits::MAX)]
    Hits(u64),
    #[error("limits in requests are not supported: configure the descriptor instead")]
    Override,
    #[error("there is no rule `{0}`")]
    NoRule(String),
    #[error("the rule `{rule}` counts by {by}: give the key that is counted")]
    KeyMissing { rule: String, by: String },
    #[error("the rule `{0}` counts by ip, and the key is no address")]
    NoAddress(String),
    #[error("the rule `{0}` counts by path, and the key is none")]
    NoPath(String),
    #[error(
        "the rule `{rule}` counts by {by}, which only a forwarded request has: use a domain with descriptors"
    )]
    NotAskable { rule: String, by: String },
}

/// What the service goes by, for one configuration.
pub(super) struct Edition {
    book: Book,
    rules: Rules,
    header_names: Arc<HeaderNames>,
    hides_headers: bool,
    prefixes: IpPrefixes,
    slashes: crate::path::EscapedSlashes,
}

impl Edition {
    /// For `config`, whose rules `limiter` has in force.
    pub(super) fn new(config: &Config, limiter: &Limiter) -> Self {
        let rules = limiter.rules();
        Self {
            book: Book::new(&config.ratelimit.domains, &rules),
            rules,
            header_names: limiter.header_names(),
            hides_headers: config.limits.hide_headers,
            prefixes: config.limits.ip_prefixes,
            slashes: config.routing.escaped_slashes,
        }
    }
}

/// Answers questions.
pub(super) struct Judge {
    limiter: Arc<Limiter>,
    hasher: IdentityHasher,
    on_due: OnDue,
    patience: Duration,
    edition: ArcSwap<Edition>,
    metrics: Arc<RatelimitMetrics>,
}

/// What the caller is told.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Some enforcing limit has no room.
    pub(super) is_denied: bool,
    /// Why, if it is denied.
    pub(super) reason: &'static str,
    /// Some limit applies.
    pub(super) is_limited: bool,
    /// One for each descriptor.
    pub(super) statuses: Vec<Status>,
    /// For the response to the client.
    pub(super) headers: HeaderMap,
}

/// How one descriptor stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    pub(super) is_over: bool,
    pub(super) is_unlimited: bool,
    /// The tightest of its windows.
    pub(super) window: Option<StatusWindow>,
    /// What the limit is called by the configuration.
    pub(super) name: String,
    /// The rule that limits it.
    pub(super) rule: String,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct StatusWindow {
    pub(super) limit: u64,
    pub(super) period: Period,
    pub(super) remaining: u64,
    pub(super) reset_seconds: u64,
}

/// One descriptor on its way.
struct Item<'q> {
    identity: Identity<'q>,
    key: KeyHash,
    hits: u64,
    known: Option<Known>,
}

impl Judge {
    pub(super) fn new(limiter: Arc<Limiter>, hasher: IdentityHasher, on_due: OnDue, config: &Config) -> Self {
        Self {
            edition: ArcSwap::from_pointee(Edition::new(config, &limiter)),
            patience: config.bounded.wait,
            metrics: Arc::default(),
            limiter,
            hasher,
            on_due,
        }
    }

    pub(super) fn follow(&self, edition: Edition) {
        self.edition.store(Arc::new(edition));
    }

    pub(super) fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    pub(super) fn metrics(&self) -> &Arc<RatelimitMetrics> {
        &self.metrics
    }

    /// Decides a question about the descriptors of a domain.
    pub(super) async fn ask(&self, domain: &str, asked: &[Asked]) -> Result<Answer, Unanswerable> {
        check_form(domain, asked)?;
        let edition = self.edition.load_full();
        let items = asked.iter().map(|asked| {
            let identity = Identity::Descriptor(&asked.entries);
            Item {
                key: self.hasher.hash(&identity),
                identity,
                hits: asked.hits,
                known: edition.book.find(domain, &asked.entries).cloned(),
            }
        });
        self.decide(&edition, &items.collect::<Vec<_>>()).await
    }

    /// Decides a question about one key of a rule of the file. What it costs follows from the rule unless it is said.
    pub(super) async fn ask_rule(
        &self,
        name: &str,
        key: Option<&[u8]>,
        hits: Option<u64>,
    ) -> Result<Answer, Unanswerable> {
        let edition = self.edition.load_full();
        let found = edition.rules.iter().find(|(_, rule)| rule.name == name);
        let (place, rule) = found.ok_or_else(|| Unanswerable::NoRule(name.to_owned()))?;
        let path;
        let identity = match (&rule.count_by, key) {
            (CountBy::Path, Some(key)) => {
                let no_path = || Unanswerable::NoPath(name.to_owned());
                let text = std::str::from_utf8(key).map_err(|_| no_path())?;
                path = crate::path::normalize(text, edition.slashes).map_err(|_| no_path())?;
                Identity::Path(&path)
            }
            _ => identity(rule, key, edition.prefixes)?,
        };
        let known = Known {
            limit: KnownLimit::Rule(place),
            name: rule.name.clone(),
            shadow: false,
        };
        let item = Item {
            key: self.hasher.hash(&identity),
            identity,
            hits: hits.unwrap_or(u64::from(rule.hits.get())),
            known: Some(known),
        };
        self.decide(&edition, &[item]).await
    }

    async fn decide(&self, edition: &Edition, items: &[Item<'_>]) -> Result<Answer, Unanswerable> {
        let enforcing = |item: &&Item<'_>| item.known.as_ref().is_some_and(|known| !known.shadow);
        let counted = charges(items.iter().filter(enforcing).filter(|item| item.hits > 0))?;
        let looked = charges(items.iter().filter(enforcing).filter(|item| item.hits == 0))?;
        let mut shadows = Vec::new();
        for (at, item) in items.iter().enumerate().filter(|(_, item)| !enforcing(item)) {
            shadows.extend(charges([item])?.first().map(|charge| (at, *charge)));
        }
        let now = wall_clock();
        let glance = self.limiter.peek(&looked, now);
        let is_barred = items.iter().filter(enforcing).any(Item::admits_nothing);
        let decision = if is_barred || glance.outcome != Outcome::Admitted {
            self.limiter.peek(&counted, now)
        } else {
            self.count(&counted, items).await
        };
        let is_denied =
            is_barred || glance.outcome != Outcome::Admitted || decision.outcome != Outcome::Admitted;
        let shadowed = shadows
            .iter()
            .map(|(at, charge)| (*at, self.shadow(*charge, &items[*at], is_denied)));
        let shadowed: HashMap<usize, Decision> = shadowed.collect();
        let of_counted = by_key(edition, &counted, &decision);
        let of_looked = by_key(edition, &looked, &glance);
        let status = |(at, item): (usize, &Item<'_>)| {
            let shadow = shadowed.get(&at).map(|decision| decision.windows.as_slice());
            let of = if item.hits == 0 { &of_looked } else { &of_counted };
            let windows = shadow.or_else(|| of.get(&item.charged()?).copied());
            item.status(edition, windows.unwrap_or_default(), is_denied)
        };
        let statuses = items.iter().enumerate().map(status).collect();
        Ok(Answer {
            is_denied,
            reason: reason(&decision),
            is_limited: items.iter().any(Item::is_limited),
            statuses,
            headers: edition.headers(decision, glance),
        })
    }

    /// Counts all of `charges`, or none.
    async fn count(&self, charges: &[Charge], items: &[Item<'_>]) -> Decision {
        let mut decision = self.limiter.check(charges, wall_clock());
        if !decision.short.is_empty() {
            let rights = Rights {
                limiter: &self.limiter,
                on_due: &self.on_due,
                patience: self.patience,
            };
            decision = Box::pin(rights.wait(&*self.metrics, charges, decision)).await;
        }
        if decision.outcome != Outcome::Admitted {
            self.metrics
                .denied(!decision.short.is_empty(), decision.without_share);
        }
        if decision.created {
            let names = self.limiter.names();
            items
                .iter()
                .filter(|item| item.charged().is_some())
                .for_each(|item| names.record(item.key, &item.identity));
        }
        match decision.due {
            Due::No => {}
            Due::Wake => drop((self.on_due)()),
            // The caller may ask another node next, on behalf of the same client.
            Due::Await => drop(tokio::time::timeout(ANNOUNCE_MAX, (self.on_due)()).await),
        }
        decision
    }

    /// Counts what denies nobody, unless the question is denied anyway.
    fn shadow(&self, charge: Charge, item: &Item<'_>, is_denied: bool) -> Decision {
        let now = wall_clock();
        if is_denied {
            return self.limiter.peek(&[charge], now);
        }
        let decision = self.limiter.check(&[charge], now);
        if decision.due.is_due() {
            drop((self.on_due)());
        }
        if decision.created {
            self.limiter.names().record(charge.key, &item.identity);
        }
        if decision.outcome != Outcome::Admitted {
            self.metrics.shadow_denied();
        }
        decision
    }
}

fn check_form(domain: &str, asked: &[Asked]) -> Result<(), Unanswerable> {
    if domain.is_empty() {
        return Err(Unanswerable::NoDomain);
    }
    match asked.len() {
        0 => return Err(Unanswerable::NoDescriptors),
        1..=DESCRIPTORS_MAX => {}
        more => return Err(Unanswerable::TooManyDescriptors(more)),
    }
    for Asked { entries, .. } in asked {
        if !(1..=ENTRIES_MAX).contains(&entries.len()) {
            return Err(Unanswerable::Entries(entries.len()));
        }
        if entries.iter().any(|(key, _)| key.is_empty()) {
            return Err(Unanswerable::NoKey);
        }
    }
    Ok(())
}

/// The charges of `items` that have a rule: those of the same key are one charge, so that all of them fit or none
/// does. What costs nothing is looked at as if it cost one.
fn charges<'i, 'q: 'i>(items: impl IntoIterator<Item = &'i Item<'q>>) -> Result<Vec<Charge>, Unanswerable> {
    let mut order: Vec<(usize, KeyHash)> = Vec::new();
    let mut sums: HashMap<(usize, KeyHash), u64> = HashMap::new();
    for item in items {
        let Some(charged) = item.charged() else { continue };
        let sum = sums.entry(charged).or_insert_with(|| {
            order.push(charged);
            0
        });
        *sum = sum.saturating_add(item.hits);
    }
    let charge = |(rule, key): (usize, KeyHash)| {
        let sum = sums.get(&(rule, key)).copied().unwrap_or_default().max(1);
        let hits = u32::try_from(sum).ok().and_then(Hits::try_new);
        let hits = hits.ok_or(Unanswerable::Hits(sum))?;
        Ok(Charge { rule, key, hits })
    };
    order.into_iter().map(charge).collect()
}

type States<'d> = HashMap<(usize, KeyHash), &'d [WindowState]>;

/// The windows of each charge: a decision has them in the order of the charges. Empty while rules change, when they
/// cannot be told apart.
fn by_key<'d>(edition: &Edition, charges: &[Charge], decision: &'d Decision) -> States<'d> {
    let mut states = States::new();
    let mut rest = decision.windows.as_slice();
    for charge in charges {
        let count = edition
            .rules
            .get(charge.rule)
            .map_or(0, |rule| rule.windows.len());
        let Some((own, others)) = rest.split_at_checked(count) else {
            return States::new();
        };
        if own.iter().any(|state| state.rule != charge.rule) {
            return States::new();
        }
        states.insert((charge.rule, charge.key), own);
        rest = others;
    }
    states
}

impl Item<'_> {
    /// The place of its rule and its key, if it is counted.
    fn charged(&self) -> Option<(usize, KeyHash)> {
        match self.known.as_ref()?.limit {
            KnownLimit::Rule(place) => Some((place, self.key)),
            _ => None,
        }
    }

    fn is_limited(&self) -> bool {
        let limit = self.known.as_ref().map(|known| known.limit);
        matches!(limit, Some(KnownLimit::Rule(_) | KnownLimit::Nothing(_)))
    }

    fn admits_nothing(&self) -> bool {
        let limit = self.known.as_ref().map(|known| known.limit);
        matches!(limit, Some(KnownLimit::Nothing(_)))
    }

    /// A window without room shows nothing left, and one with room what is left: see [`Limiter::check`].
    fn status(&self, edition: &Edition, windows: &[WindowState], is_denied: bool) -> Status {
        let Some(known) = &self.known else {
            return Status::default();
        };
        let mut status = Status {
            name: known.name.clone(),
            ..Status::default()
        };
        match known.limit {
            KnownLimit::None => {}
            KnownLimit::Unlimited => status.is_unlimited = true,
            KnownLimit::Nothing(period) => {
                status.is_over = !known.shadow;
                let end = period.window_at(wall_clock()).end;
                status.window = Some(StatusWindow {
                    limit: 0,
                    period,
                    remaining: 0,
                    reset_seconds: end.0.saturating_sub(wall_clock().0).div_ceil(1000).max(1),
                });
            }
            KnownLimit::Rule(place) => {
                status.rule = edition
                    .rules
                    .get(place)
                    .map(|rule| rule.name.clone())
                    .unwrap_or_default();
                let tightest = windows
                    .iter()
                    .min_by_key(|w| (w.remaining, std::cmp::Reverse(w.period.nominal())));
                let is_full = tightest.is_some_and(|state| state.remaining == 0);
                status.is_over = is_denied && is_full && !known.shadow;
                status.window = tightest.map(|state| StatusWindow {
                    limit: state.limit,
                    period: state.period,
                    remaining: state.remaining,
                    reset_seconds: state.reset_seconds,
                });
            }
        }
        status
    }
}

impl Edition {
    /// Those of all that enforces.
    fn headers(&self, mut decision: Decision, glance: Decision) -> HeaderMap {
        let mut map = HeaderMap::new();
        if self.hides_headers {
            return map;
        }
        if let (Outcome::Admitted, Outcome::Denied { window }) = (decision.outcome, glance.outcome) {
            let window = decision.windows.len() + window;
            decision.outcome = Outcome::Denied { window };
        }
        decision.windows.extend(glance.windows);
        headers::apply(&decision, &self.header_names, &mut map);
        map
    }
}

/// Why `decision` denies, if it does.
fn reason(decision: &Decision) -> &'static str {
    if decision.without_share {
        "no-share"
    } else if !decision.short.is_empty() {
        "no-rights"
    } else {
        "limit"
    }
}

/// Who `key` is to a rule of the file: the same as for a request that the proxy forwards.
fn identity<'k>(
    rule: &Rule,
    key: Option<&'k [u8]>,
    prefixes: IpPrefixes,
) -> Result<Identity<'k>, Unanswerable> {
    let name = || rule.name.clone();
    let by = rule.count_by.to_string();
    match (&rule.count_by, key) {
        (CountBy::All, _) => Ok(Identity::All),
        (CountBy::Ip, Some(key)) => {
            let address = std::str::from_utf8(key)
                .ok()
                .and_then(|text| text.parse::<IpAddr>().ok());
            let address = address.ok_or_else(|| Unanswerable::NoAddress(name()))?;
            Ok(prefixes.identity(address))
        }
        (CountBy::Header(_), Some(key)) => Ok(Identity::Header(key)),
        (CountBy::Ip | CountBy::Header(_) | CountBy::Path, None) => {
            Err(Unanswerable::KeyMissing { rule: name(), by })
        }
        _ => Err(Unanswerable::NotAskable { rule: name(), by }),
    }
}
