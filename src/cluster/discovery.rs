//! Discovery: finds somebody to talk to, and keeps looking.
//!
//! Owns the seeds and their last good addresses. While this node knows nobody it asks often, since a
//! name may not exist yet, or list only ourselves, when all nodes start together. Afterwards it asks for
//! life, so that clusters that started apart, or were cut apart for long, merge.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chitchat::ChitchatHandle;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::members::View;

/// First and longest pause while no peer is known.
const SEARCH: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// First and longest pause once one is: DNS may have changed, and it costs a look-up.
const WATCH: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// Longest look-up of one name.
const LOOKUP_MAX: Duration = Duration::from_secs(5);
/// Most addresses kept of one seed: a headless service lists every pod.
const ADDRESSES_MAX: usize = 1024;

/// A seed with the addresses it last resolved to.
#[derive(Clone, Debug)]
struct Seed {
    name: String,
    addresses: Vec<SocketAddr>,
    failing: bool,
}

/// Feeds chitchat the addresses that the seeds resolve to.
pub(super) struct Discovery {
    seeds: Vec<Seed>,
    own: SocketAddr,
    view: watch::Receiver<Arc<View>>,
    chitchat: Arc<ChitchatHandle>,
}

impl Discovery {
    pub(super) fn new(
        seeds: &[String],
        own: SocketAddr,
        view: watch::Receiver<Arc<View>>,
        chitchat: Arc<ChitchatHandle>,
    ) -> Self {
        let seed = |name: &String| Seed {
            name: name.clone(),
            addresses: Vec::new(),
            failing: false,
        };
        Self {
            seeds: seeds.iter().map(seed).collect(),
            own,
            view,
            chitchat,
        }
    }

    /// Whether the seeds name nobody but ourselves, as far as can be told without a look-up.
    pub(super) fn is_alone(&self) -> bool {
        let own = self.own.to_string();
        self.seeds.iter().all(|seed| seed.name == own)
    }

    /// Searches for as long as the node runs, if there is anything to search.
    pub(super) async fn run(mut self) {
        if self.seeds.is_empty() {
            return;
        }
        let mut rng = StdRng::from_os_rng();
        let mut pace = Pace::default();
        loop {
            self.resolve().await;
            let live = live_addresses(&self.view.borrow_and_update());
            for address in targets(&self.seeds, &live, self.own) {
                debug!(%address, "membership handshake with a seed");
                if self.chitchat.gossip(address).is_err() {
                    // chitchat has stopped, and the node with it.
                    return;
                }
            }
            let joined = !live.is_empty();
            let pause = pace.next(joined, &mut rng);
            self.rest(joined, pause).await;
        }
    }

    /// Waits out `pause`, or less if the last peer is lost meanwhile.
    async fn rest(&mut self, joined: bool, pause: Duration) {
        let deserted = async {
            while self.view.changed().await.is_ok() {
                if joined && self.view.borrow().peers.is_empty() {
                    return;
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = deserted => {}
        }
    }

    async fn resolve(&mut self) {
        let mut lookups = JoinSet::new();
        for (index, seed) in self.seeds.iter_mut().enumerate() {
            match seed.name.parse() {
                Ok(address) => seed.addresses = vec![address],
                Err(_) => {
                    let name = seed.name.clone();
                    lookups.spawn(async move { (index, lookup(&name).await) });
                }
            }
        }
        while let Some(done) = lookups.join_next().await {
            if let Ok((index, result)) = done
                && let Some(seed) = self.seeds.get_mut(index)
            {
                seed.learn(result);
            }
        }
    }
}

impl Seed {
    /// Takes in the result of a look-up. A failure keeps the last good addresses.
    fn learn(&mut self, result: Result<Vec<SocketAddr>, String>) {
        match result {
            Ok(addresses) => {
                self.addresses = addresses;
                self.failing = false;
            }
            Err(error) => {
                if !self.failing {
                    warn!(seed = %self.name, %error, known = self.addresses.len(), "seed not resolved");
                }
                self.failing = true;
            }
        }
    }
}

async fn lookup(name: &str) -> Result<Vec<SocketAddr>, String> {
    match tokio::time::timeout(LOOKUP_MAX, tokio::net::lookup_host(name)).await {
        Ok(Ok(addresses)) => Ok(addresses.take(ADDRESSES_MAX).collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {LOOKUP_MAX:?}")),
    }
}

fn live_addresses(view: &View) -> Vec<SocketAddr> {
    view.peers.iter().map(|(_, address)| *address).collect()
}

/// The addresses worth a handshake: what the seeds resolve to, without ourselves and those that are
/// live peers already.
fn targets(seeds: &[Seed], live: &[SocketAddr], own: SocketAddr) -> Vec<SocketAddr> {
    let mut targets: Vec<_> = seeds
        .iter()
        .flat_map(|seed| &seed.addresses)
        .map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
        .filter(|address| *address != own && !live.contains(address))
        .collect();
    targets.sort_unstable();
    targets.dedup();
    targets
}

/// How long to pause between rounds.
#[derive(Debug, Default)]
struct Pace {
    rounds: u32,
    joined: bool,
}

impl Pace {
    /// The next pause: doubling from the first to the longest, anew whenever `joined` changes, and up to
    /// a quarter shorter at random, so that nodes that start together do not ask together.
    fn next(&mut self, joined: bool, rng: &mut impl Rng) -> Duration {
        if joined != self.joined {
            *self = Self { rounds: 0, joined };
        }
        let (first, longest) = if joined { WATCH } else { SEARCH };
        let full = first.saturating_mul(1 << self.rounds.min(10)).min(longest);
        self.rounds = self.rounds.saturating_add(1);
        full.mul_f64(rng.random_range(0.75..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn seed(addresses: &[SocketAddr]) -> Seed {
        Seed {
            name: "peers:7946".to_owned(),
            addresses: addresses.to_vec(),
            failing: false,
        }
    }

    #[test]
    fn every_resolved_stranger_is_asked_once_and_nobody_else() {
        let mapped = "[::ffff:127.0.0.1]:4".parse().unwrap();
        let seeds = [seed(&[at(1), at(2), at(3)]), seed(&[at(3), at(4), mapped])];
        assert_eq!(targets(&seeds, &[at(2)], at(1)), [at(3), at(4)]);
        assert_eq!(targets(&seeds, &[at(2), at(3), at(4)], at(1)), []);
    }

    #[test]
    fn a_failed_lookup_keeps_the_last_good_addresses() {
        let mut seed = seed(&[]);
        seed.learn(Err("no such name".to_owned()));
        seed.learn(Ok(vec![at(1)]));
        seed.learn(Err("no answer".to_owned()));
        assert_eq!(
            (seed.addresses.as_slice(), seed.failing),
            ([at(1)].as_slice(), true)
        );
        seed.learn(Ok(vec![at(2)]));
        assert_eq!((seed.addresses, seed.failing), (vec![at(2)], false));
    }

    #[test]
    fn the_pause_grows_while_searching_and_starts_anew_when_peers_come_or_go() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut pace = Pace::default();
        let mut within = |joined, longest: Duration| {
            let pause = pace.next(joined, &mut rng);
            assert!(
                (longest.mul_f64(0.75)..=longest).contains(&pause),
                "{pause:?} {longest:?}"
            );
        };
        for millis in [250, 500, 1_000, 2_000, 2_000, 2_000] {
            within(false, Duration::from_millis(millis));
        }
        for seconds in [5, 10, 20, 30, 30] {
            within(true, Duration::from_secs(seconds));
        }
        within(false, Duration::from_millis(250));
        for _ in 0..1_000 {
            assert!(pace.next(true, &mut rng) <= WATCH.1);
        }
    }

    #[tokio::test]
    async fn names_resolve_and_unknown_ones_fail_with_a_reason() {
        let addresses = lookup("localhost:7946").await.unwrap();
        assert!(addresses.iter().all(|address| address.ip().is_loopback()));
        assert!(!addresses.is_empty());
        assert!(lookup("no-port").await.is_err());
    }
}
