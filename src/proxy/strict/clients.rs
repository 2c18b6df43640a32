//! How many connections each client has.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts connections by client, over all workers. Taken once per connection, never per request.
pub(in crate::proxy) struct ClientSlots {
    counts: Mutex<HashMap<IpAddr, usize>>,
    max: usize,
}

/// One connection of a client, counted until it is dropped.
pub(in crate::proxy) struct ClientSlot {
    slots: Arc<ClientSlots>,
    client: IpAddr,
}

impl ClientSlots {
    /// At most `max` per client; `None`: no limit.
    pub(in crate::proxy) fn new(max: Option<usize>) -> Option<Arc<Self>> {
        max.map(|max| {
            Arc::new(Self {
                counts: Mutex::default(),
                max,
            })
        })
    }

    /// Counts a connection of `address`, unless its client has too many. An IPv6 client has a whole /64.
    pub(in crate::proxy) fn take(self: &Arc<Self>, address: IpAddr) -> Option<ClientSlot> {
        let client = match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        let slots = Arc::clone(self);
        Some(ClientSlot { slots, client })
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        let mut counts = self.slots.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(self.client) {
            *count.get_mut() = count.get().saturating_sub(1);
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_connections_and_no_more_and_an_ipv6_client_is_its_network() {
        let slots = ClientSlots::new(Some(2)).unwrap();
        let take = |address: &str| slots.take(address.parse().unwrap());
        let first = take("192.0.2.1");
        let _second = take("192.0.2.1");
        assert!(first.is_some() && take("192.0.2.1").is_none() && take("192.0.2.2").is_some());
        drop(first);
        assert!(take("192.0.2.1").is_some());
        let _both = (take("2001:db8::1"), take("2001:db8::2"));
        assert!(take("2001:db8::3").is_none() && take("2001:db8:0:1::1").is_some());
        drop(_both);
        assert_eq!(slots.counts.lock().unwrap().len(), 1);
    }
}
