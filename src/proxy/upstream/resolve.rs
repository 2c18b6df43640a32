//! Names become addresses, again and again, as often as their TTLs say.
//!
//! What a name server last said stays in force when it fails, or says that there is nothing: an upstream that
//! worked is rather kept than given up for a mistake in DNS. So it is for the IPv4 and the IPv6 addresses of a name,
//! each by itself: when one of both lookups fails, its addresses stay. They go when the name server says that the
//! name has others only.

#![expect(clippy::disallowed_methods, reason = "a shell: answers age by a real clock")]

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RecordType};
use rand::rngs::SmallRng;
use rand::{Rng as _, RngCore, SeedableRng};

use super::state::UpstreamState;
use crate::config::{DnsConfig, UpstreamConfig};

/// When to look up a name next. Pure.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    ttl_min: Duration,
    ttl_max: Duration,
    failures: u32,
}

impl Schedule {
    fn new(dns: &DnsConfig) -> Self {
        Self {
            ttl_min: dns.ttl_min,
            ttl_max: dns.ttl_max,
            failures: 0,
        }
    }

    /// After an answer that holds for `ttl`.
    fn after_answer(&mut self, ttl: Duration) -> Duration {
        self.failures = 0;
        ttl.clamp(self.ttl_min, self.ttl_max)
    }

    /// After an answer that holds for `ttl`, with one family that could not be looked up.
    fn after_part(&mut self, ttl: Duration, rng: &mut impl RngCore) -> Duration {
        self.after_failure(rng).min(ttl.max(self.ttl_min))
    }

    /// After a failure: soon, and later each time, so that a name server that is down is not kept down.
    fn after_failure(&mut self, rng: &mut impl RngCore) -> Duration {
        let pause = self.ttl_min.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let pause = pause.min(self.ttl_max);
        // Names that fail together are not asked for together for ever.
        pause.mul_f64(rng.random_range(0.75..=1.0))
    }
}

/// The targets of an upstream that are names, with their index.
pub(super) fn names(config: &UpstreamConfig) -> impl Iterator<Item = (usize, &str)> {
    let targets = config.targets.iter().enumerate();
    targets
        .map(|(index, target)| (index, target.host.as_str()))
        .filter(|(_, host)| host.parse::<IpAddr>().is_err())
}

/// A resolver that asks the servers of the configuration, or the system's.
///
/// # Errors
/// When the system does not say whom to ask.
pub(super) fn resolver(dns: &DnsConfig) -> Result<TokioResolver, NetError> {
    let mut builder = if dns.servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = dns.servers.iter().map(name_server).collect();
        let config = ResolverConfig::from_name_servers(servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // Each name is asked for when its answer has aged, and not before.
    options.cache_size = 0;
    builder.build()
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let with_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(with_port);
    NameServerConfig::new(address.ip(), true, connections.into())
}

/// Looks up `name` for as long as it is polled, and tells `state` the addresses of its target.
pub(super) async fn keep_up(
    resolver: Rc<Result<TokioResolver, NetError>>,
    state: Arc<UpstreamState>,
    target: usize,
    name: String,
    dns: DnsConfig,
) {
    let mut schedule = Schedule::new(&dns);
    let mut rng = SmallRng::from_os_rng();
    let mut known = Vec::new();
    loop {
        let found = look_up(&resolver, &name, &known).await;
        let failed = match &found {
            Ok(found) => found.failed.as_ref(),
            Err(error) => Some(error),
        };
        if let Some(error) = failed.filter(|_| schedule.failures == 0) {
            tracing::warn!(
                upstream = state.config.name,
                name,
                error,
                "cannot look up the name, or not all of its addresses"
            );
        }
        let pause = match found {
            Ok(found) => {
                let addresses = &found.addresses;
                if state.change(|endpoints| endpoints.resolved(target, addresses, Instant::now())) {
                    tracing::info!(
                        upstream = state.config.name,
                        name,
                        ?addresses,
                        "the name's addresses"
                    );
                }
                known = found.addresses;
                match found.failed {
                    None => schedule.after_answer(found.ttl),
                    Some(_) => schedule.after_part(found.ttl, &mut rng),
                }
            }
            Err(_) => {
                state.change(|endpoints| endpoints.unresolved(target));
                schedule.after_failure(&mut rng)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// What a lookup of a name said.
struct Found {
    /// At least one.
    addresses: Vec<IpAddr>,
    /// How long they hold.
    ttl: Duration,
    /// Why one family is as it was known before.
    failed: Option<String>,
}

/// The addresses of `name`, of which `known` were found before.
async fn look_up(
    resolver: &Result<TokioResolver, NetError>,
    name: &str,
    known: &[IpAddr],
) -> Result<Found, String> {
    let resolver = resolver.as_ref().map_err(ToString::to_string)?;
    let found = resolver
        .lookup_ip(name)
        .await
        .map_err(|error| error.to_string())?;
    let mut addresses: Vec<IpAddr> = found.iter().collect();
    if addresses.is_empty() {
        return Err("it has no addresses".to_owned());
    }
    let ttl = found.valid_until().saturating_duration_since(Instant::now());
    // A joint lookup does not tell whether one family failed or there is none of it. Only the name that search
    // domains led to is asked for: below another one there may be something else.
    let query = found.as_lookup().message().queries.first();
    let mut full = query.map_or_else(Name::root, |query| query.name().clone());
    full.set_fqdn(true);
    let mut failed = None;
    for family in [RecordType::A, RecordType::AAAA] {
        let former = of_family(known, family);
        if former.is_empty() || !of_family(&addresses, family).is_empty() {
            continue;
        }
        match look_up_family(resolver, full.clone(), family).await {
            Ok(found) => addresses.extend(found),
            Err(error) => {
                addresses.extend(former);
                failed = Some(error.to_string());
            }
        }
    }
    Ok(Found {
        addresses,
        ttl,
        failed,
    })
}

fn of_family(addresses: &[IpAddr], family: RecordType) -> Vec<IpAddr> {
    let is_of_family = |ip: &&IpAddr| ip.is_ipv4() == (family == RecordType::A);
    addresses.iter().filter(is_of_family).copied().collect()
}

/// The addresses of one family that `name`, which is fully qualified, has; there may be none.
async fn look_up_family(
    resolver: &TokioResolver,
    name: Name,
    family: RecordType,
) -> Result<Vec<IpAddr>, NetError> {
    match resolver.lookup(name, family).await {
        Ok(found) => Ok(found
            .answers()
            .iter()
            .filter_map(|record| record.data.ip_addr())
            .collect()),
        Err(error) if error.is_no_records_found() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_hold_for_their_ttl_within_bounds_and_failures_back_off_up_to_the_longest() {
        let second = Duration::from_secs(1);
        let mut schedule = Schedule {
            ttl_min: 2 * second,
            ttl_max: 30 * second,
            failures: 0,
        };
        let ttls = [0, 2, 17, 3600].map(|ttl| schedule.after_answer(ttl * second).as_secs());
        assert_eq!(ttls, [2, 2, 17, 30]);
        let mut rng = SmallRng::seed_from_u64(3);
        for longest in [2, 4, 8, 16, 30, 30] {
            let pause = schedule.after_failure(&mut rng);
            assert!(
                pause <= longest * second && pause >= longest * second * 3 / 4,
                "{pause:?}"
            );
        }
        schedule.after_answer(second);
        assert!(schedule.after_failure(&mut rng) <= 2 * second);
        // What was found of a part does not outlast its TTL for the other part's failing.
        for longest in [4, 8, 9, 9] {
            assert!(schedule.after_part(9 * second, &mut rng) <= longest * second);
        }
    }
}
