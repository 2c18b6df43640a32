//! Names become addresses, again and again, as often as their TTLs say.
//!
//! What a name server last said stays in force when it fails, or says that there is nothing: an upstream that
//! worked is rather kept than given up for a mistake in DNS.

#![expect(clippy::disallowed_methods, reason = "a shell: answers age by a real clock")]

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
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
    loop {
        let pause = match look_up(&resolver, &name).await {
            Ok((addresses, ttl)) => {
                if state.change(|endpoints| endpoints.resolved(target, &addresses, Instant::now())) {
                    tracing::info!(
                        upstream = state.config.name,
                        name,
                        ?addresses,
                        "the name's addresses"
                    );
                }
                schedule.after_answer(ttl)
            }
            Err(error) => {
                if schedule.failures == 0 {
                    tracing::warn!(
                        upstream = state.config.name,
                        name,
                        error,
                        "cannot look up the name"
                    );
                }
                state.change(|endpoints| endpoints.unresolved(target));
                schedule.after_failure(&mut rng)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// The addresses of `name`, at least one, and how long they hold.
async fn look_up(
    resolver: &Result<TokioResolver, NetError>,
    name: &str,
) -> Result<(Vec<IpAddr>, Duration), String> {
    let resolver = resolver.as_ref().map_err(ToString::to_string)?;
    let found = resolver
        .lookup_ip(name)
        .await
        .map_err(|error| error.to_string())?;
    let addresses: Vec<IpAddr> = found.iter().collect();
    if addresses.is_empty() {
        return Err("it has no addresses".to_owned());
    }
    let ttl = found.valid_until().saturating_duration_since(Instant::now());
    Ok((addresses, ttl))
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
    }
}
