//! The endpoints of one upstream, and how each stands. Pure: time comes in as an argument.
//!
//! An endpoint is one address of a target. It is used while its checks pass and it is not left out for failing
//! requests; when no endpoint is, all are: rather a try than a certain failure.

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::ejection::{Ejection, may_eject};
use super::endpoint::Endpoint;
use super::health::Health;
use super::ring::Ring;
use super::snapshot::{Place, Snapshot, Standing};
use crate::config::{Balance, UpstreamConfig};

/// Most addresses of one name that are used; what is beyond would be no one's intent.
pub(super) const ADDRESSES_MAX: usize = 256;

/// Who keeps account of the endpoints of one upstream.
#[derive(Debug)]
pub(super) struct Endpoints {
    config: Arc<UpstreamConfig>,
    members: Vec<Member>,
    /// Of each target, whether its addresses are known, or known not to be.
    looked_up: Vec<bool>,
    ring: Option<Arc<Ring>>,
}

#[derive(Debug)]
struct Member {
    endpoint: Arc<Endpoint>,
    health: Health,
    ejection: Ejection,
    warms_since: Option<Instant>,
}

impl Endpoints {
    /// The endpoints that need no lookup; the others come by [`Endpoints::resolved`].
    pub(super) fn new(config: &Arc<UpstreamConfig>) -> Self {
        let mut endpoints = Self {
            config: Arc::clone(config),
            members: Vec::new(),
            looked_up: vec![false; config.targets.len()],
            ring: None,
        };
        for (index, target) in config.targets.iter().enumerate() {
            if let Ok(ip) = target.host.parse::<IpAddr>() {
                endpoints.looked_up[index] = true;
                endpoints
                    .members
                    .push(Member::new(Endpoint::new(index, target, ip), None));
            }
        }
        endpoints.lay_ring();
        endpoints
    }

    /// Takes `addresses` for those of `target`; true when that changes anything.
    pub(super) fn resolved(&mut self, target: usize, addresses: &[IpAddr], now: Instant) -> bool {
        let Some(config) = self.config.targets.get(target) else {
            return false;
        };
        let mut addresses: Vec<IpAddr> = addresses.to_vec();
        // Name servers rotate their answers; the order here must not change with them.
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(ADDRESSES_MAX);
        let is_first = !std::mem::replace(&mut self.looked_up[target], true);
        let known = self
            .members
            .iter()
            .filter(|member| member.endpoint.target == target);
        if known
            .map(|member| member.endpoint.address.ip())
            .eq(addresses.iter().copied())
        {
            return is_first;
        }
        let warms_since = (!is_first && !self.config.slow_start.is_zero()).then_some(now);
        let is_of_target = |member: &Member| member.endpoint.target == target;
        let first = self
            .members
            .partition_point(|member| member.endpoint.target < target);
        let end = first + self.members.iter().filter(|member| is_of_target(member)).count();
        let mut former: Vec<Member> = self.members.drain(first..end).collect();
        let member = |ip: IpAddr| {
            let kept = former
                .iter()
                .position(|member| member.endpoint.address.ip() == ip);
            kept.map_or_else(
                || Member::new(Endpoint::new(target, config, ip), warms_since),
                |index| former.swap_remove(index),
            )
        };
        let members: Vec<Member> = addresses.into_iter().map(member).collect();
        self.members.splice(first..first, members);
        self.lay_ring();
        true
    }

    /// Notes that no addresses of `target` can be found; what is known stays. True when that ends a wait.
    pub(super) fn unresolved(&mut self, target: usize) -> bool {
        self.looked_up
            .get_mut(target)
            .is_some_and(|looked_up| !std::mem::replace(looked_up, true))
    }

    /// Takes in a check of `endpoint`; true when that changes anything.
    pub(super) fn checked(&mut self, endpoint: &Arc<Endpoint>, passed: bool, now: Instant) -> bool {
        let Some(config) = &self.config.health else {
            return false;
        };
        let slow_start = self.config.slow_start;
        let Some(member) = find(&mut self.members, endpoint) else {
            return false;
        };
        let changed = member.health.checked(passed, config);
        if changed && passed {
            member.warms_since = (!slow_start.is_zero()).then_some(now);
        }
        changed
    }

    /// Leaves `endpoint` out for failing requests, unless too many are left out already. True when it is.
    pub(super) fn eject(&mut self, endpoint: &Arc<Endpoint>, now: Instant) -> bool {
        let out = self
            .members
            .iter()
            .filter(|member| member.ejection.until().is_some())
            .count();
        let may = may_eject(out, self.members.len(), &self.config.ejection);
        let Some(member) = find(&mut self.members, endpoint) else {
            return false;
        };
        // It begins anew either way: after as many failures as before, it is tried again to leave it out.
        member.endpoint.forgive();
        if !may || member.ejection.until().is_some() {
            return false;
        }
        member.ejection.eject(&self.config.ejection, now);
        true
    }

    /// Takes back the endpoints whose time out is over; true when there was one.
    pub(super) fn take_back(&mut self, now: Instant) -> bool {
        let warms_since = (!self.config.slow_start.is_zero()).then_some(now);
        let mut any = false;
        for member in &mut self.members {
            if member.ejection.returns(now) {
                member.endpoint.forgive();
                member.warms_since = warms_since;
                any = true;
            }
        }
        any
    }

    /// How all stand.
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            places: self.members.iter().map(Member::place).collect(),
            ring: self.ring.clone(),
            next_return: self
                .members
                .iter()
                .filter_map(|member| member.ejection.until())
                .min(),
            is_resolving: self.members.is_empty() && self.looked_up.contains(&false),
        }
    }

    fn lay_ring(&mut self) {
        if matches!(self.config.balance, Balance::Hash(_)) {
            let names = self.members.iter();
            let names = names.map(|member| (member.endpoint.name.as_str(), member.endpoint.weight));
            self.ring = Some(Arc::new(Ring::new(names)));
        }
    }
}

impl Member {
    fn new(endpoint: Endpoint, warms_since: Option<Instant>) -> Self {
        Self {
            endpoint: Arc::new(endpoint),
            health: Health::default(),
            ejection: Ejection::default(),
            warms_since,
        }
    }

    fn place(&self) -> Place {
        Place {
            endpoint: Arc::clone(&self.endpoint),
            standing: match (self.health.is_healthy(), self.ejection.until()) {
                (false, _) => Standing::Unhealthy,
                (true, Some(_)) => Standing::Ejected,
                (true, None) => Standing::Good,
            },
            warms_since: self.warms_since,
        }
    }
}

fn find<'m>(members: &'m mut [Member], endpoint: &Arc<Endpoint>) -> Option<&'m mut Member> {
    members
        .iter_mut()
        .find(|member| Arc::ptr_eq(&member.endpoint, endpoint))
}
