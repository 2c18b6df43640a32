//! The section `ratelimit`: the limits as a service to other proxies, in the format of envoyproxy/ratelimit.
//!
//! Each descriptor with a limit becomes a rule of its own, which is named by its place: `edge/path=%2Flogin/remote_address`.

mod descriptors;

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::BoundedConfig;
use super::error::Report;
use super::json::redacted;
use super::listeners::clash;
use super::read::Section;
use super::scalars::{boolean, secret, socket_addr};
use crate::limit::{Rule, SyncMode};

pub use descriptors::{DescriptorConfig, DescriptorLimit, DomainConfig};

/// The rate limit service.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct RatelimitConfig {
    /// Where it listens; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// Bearer token that callers have to give, if set.
    pub token: Option<String>,
    /// Allows callers without a token on an address that is not loopback.
    pub insecure: bool,
    /// What is limited, by the domain that callers name.
    pub domains: Vec<DomainConfig>,
}

impl std::fmt::Debug for RatelimitConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RatelimitConfig")
            .field("listen", &self.listen)
            .field("token", &super::Redacted(self.token.is_some()))
            .field("insecure", &self.insecure)
            .field("domains", &self.domains)
            .finish()
    }
}

impl RatelimitConfig {
    /// The rules of all descriptors, in the order of the file.
    pub(super) fn rules(&self) -> impl Iterator<Item = Rule> {
        let mut rules = Vec::new();
        for domain in &self.domains {
            domain
                .descriptors
                .iter()
                .for_each(|one| one.add_rules(&mut rules));
        }
        rules.into_iter()
    }

    /// The section, as a file would say it.
    pub(super) fn to_json(&self) -> Value {
        if *self == Self::default() {
            return Value::Null;
        }
        json!({
            "listen": self.listen,
            "token": redacted(self.token.as_ref()),
            "insecure": self.insecure,
            "domains": self.domains.iter().map(DomainConfig::to_json).collect::<Value>(),
        })
    }
}

/// Reads the section. Others listen on the addresses that are `taken`; rules are decided by the mode unless they say
/// otherwise.
pub(super) fn read(
    root: &mut Section<'_>,
    taken: &[(&str, Vec<SocketAddr>)],
    (mode, bounded): (SyncMode, &BoundedConfig),
    report: &Report,
) -> RatelimitConfig {
    let mut section = root.section("ratelimit");
    let listen = section.value("listen", socket_addr);
    let token = section.value("token", secret);
    let insecure = section.value_or("insecure", boolean, false);
    if let Some(listen) = &listen {
        for (whose, addresses) in taken {
            if addresses.iter().any(|address| clash(*address, listen.value)) {
                let problem = format!(
                    "{whose} and the rate limit service both listen on port {}",
                    listen.value.port()
                );
                report.wrong(&listen.at, problem, "give each a port of its own");
            }
        }
        if !listen.value.ip().is_loopback() && token.is_none() && !insecure {
            report.wrong(
                &listen.at,
                format!("`{}` is not loopback and there is no token", listen.value),
                "set `ratelimit.token` (WEIR_RATELIMIT_TOKEN), or `insecure: true` where the network is yours alone: \
                 whoever reaches it can use up the limits of others",
            );
        }
    }
    let domains = descriptors::domains(&mut section, (mode, bounded), report);
    section.finish();
    RatelimitConfig {
        listen: listen.map(|found| found.value),
        token: token.map(|found| found.value),
        insecure,
        domains,
    }
}
