//! Free ports that stay free while a node is down.
//!
//! A node that restarts comes back to its addresses, so port 0 is not enough: the kernel could hand the
//! port to somebody else meanwhile. Ports below the kernel's ephemeral range are handed to nobody.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below 32,768, where Linux starts its ephemeral ports, and above what services usually listen on.
const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

static TAKEN: AtomicU16 = AtomicU16::new(0);

/// A loopback address whose port was free for TCP and UDP a moment ago, and that this process gives to
/// nobody else. Other processes start their search elsewhere.
///
/// # Panics
/// None is free.
#[must_use]
pub fn reserve() -> SocketAddr {
    let start = std::process::id().wrapping_mul(7919) % u32::from(COUNT);
    for _ in 0..COUNT {
        let step = u32::from(TAKEN.fetch_add(1, Ordering::Relaxed));
        let offset = u16::try_from((start + step) % u32::from(COUNT)).expect("below COUNT, a u16");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + offset));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
    panic!("none of {COUNT} ports from {FIRST} is free");
}
