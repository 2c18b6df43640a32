//! What a stranger can send to a gossip port.

use std::net::SocketAddr;

use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _};
use tokio::net::UdpSocket;

use crate::DEADLINE;

/// Largest payload of a UDP datagram over IPv4.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 65_507;

/// A UDP socket that speaks to a cluster without being part of it.
#[derive(Debug)]
pub struct Stranger {
    socket: UdpSocket,
}

impl Stranger {
    /// One on a free loopback port.
    ///
    /// # Panics
    /// No port is free.
    pub async fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0")
            .await
            .expect("a loopback port is free");
        Self { socket }
    }

    /// Where it listens, to be given to a node as a seed.
    ///
    /// # Panics
    /// Never: the socket is bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("a bound socket has an address")
    }

    /// The next datagram that a node sends here.
    ///
    /// # Panics
    /// None comes within [`DEADLINE`].
    pub async fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let received = tokio::time::timeout(DEADLINE, self.socket.recv(&mut buffer));
        let length = received
            .await
            .expect("a node calls its seeds")
            .expect("the socket is readable");
        buffer.truncate(length);
        buffer
    }

    /// Sends `datagram` to `node`.
    ///
    /// # Panics
    /// The kernel does not take it.
    pub async fn send(&self, datagram: &[u8], node: SocketAddr) {
        let sent = self
            .socket
            .send_to(datagram, node)
            .await
            .expect("loopback takes a datagram");
        assert_eq!(sent, datagram.len());
    }
}

/// Random bytes of random length, mostly short.
pub fn noise(rng: &mut StdRng) -> Vec<u8> {
    let length_max = if rng.random_ratio(1, 50) {
        DATAGRAM_BYTES_MAX
    } else {
        1_500
    };
    let mut bytes = vec![0; rng.random_range(0..=length_max)];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// `genuine`, cut short.
pub fn truncated(rng: &mut StdRng, genuine: &[u8]) -> Vec<u8> {
    genuine[..rng.random_range(0..genuine.len())].to_vec()
}

/// `genuine` with one bit flipped.
pub fn flipped(rng: &mut StdRng, genuine: &[u8]) -> Vec<u8> {
    let mut bytes = genuine.to_vec();
    let at = rng.random_range(0..bytes.len());
    bytes[at] ^= 1 << rng.random_range(0..8);
    bytes
}

/// The first `kept` bytes of `genuine`, then a run of bytes that a decoder of variable-length integers
/// reads as a length of up to 2^64, then noise.
pub fn huge_length(rng: &mut StdRng, genuine: &[u8], kept: usize) -> Vec<u8> {
    let mut bytes = genuine[..kept].to_vec();
    let (marker, width) = [(251, 2), (252, 4), (253, 8), (0xff, 9)][rng.random_range(0..4)];
    bytes.push(marker);
    bytes.extend(std::iter::repeat_n(0xff, width));
    bytes.extend(noise(rng).into_iter().take(200));
    bytes
}
