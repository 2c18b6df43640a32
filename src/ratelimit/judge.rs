//! The answer to a question: which limits apply, and whether all of them have room.
//!
//! All that enforces is decided at once: counted everywhere, or nowhere (envoyproxy/ratelimit counts each descriptor by
//! itself, also where another one denies). What only shadows is counted after that, if the question was admitted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderMap;

use super::answer::{Answer, Status, reason};
use super::book::{Book, Known, KnownLimit};
use super::metrics::RatelimitMetrics;
use super::question::{Asked, Unanswerable, check_form, identity};
use crate::admission::{ANNOUNCE_MAX, OnDue, Rights, wall_clock};
use crate::config::Config;
use crate::limit::{
    Charge, CountBy, Decision, Due, HeaderNames, Hits, Identity, IdentityHasher, IpPrefixes, KeyHash,
    Limiter, Outcome, Rules, WindowState, headers,
};

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
            let windows = windows.unwrap_or_default();
            let status = |known| Status::new(known, &edition.rules, windows, is_denied, now);
            item.known.as_ref().map(status).unwrap_or_default()
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
