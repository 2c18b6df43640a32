//! What the gossip socket hands to the network and asks of the kernel.

use std::net::SocketAddr;
use std::time::Duration;

use rand::SeedableRng;

use super::super::keyring::{GossipKey, Keyring};
use super::*;

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// The far end of a wire: a plain socket that sees datagrams as they are.
struct Wire(StdUdpSocket);

impl Wire {
    fn new() -> Self {
        let bound = BoundSocket::bind(LOOPBACK).unwrap();
        bound.socket.set_nonblocking(false).unwrap();
        bound
            .socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self(bound.socket)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    fn receive(&self, count: u64) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; RECEIVE_BYTES_MAX];
        let one = |_| {
            let length = self.0.recv(&mut buffer).unwrap();
            buffer[..length].to_vec()
        };
        (0..count).map(one).collect()
    }
}

fn transport(datagram_bytes: usize) -> Arc<Transport> {
    let mut rng = StdRng::seed_from_u64(1);
    let ring = Keyring::parse(&GossipKey::generate(&mut rng).to_base64()).unwrap();
    let envelope = Envelope::sealed(&ring, "test");
    let envelope = Arc::new(ArcSwap::from_pointee(envelope));
    let bound = BoundSocket::bind(LOOPBACK).unwrap();
    Arc::new(Transport::new(bound, envelope, datagram_bytes).unwrap())
}

fn sent(transport: &Transport) -> u64 {
    transport.counters().datagrams_sent.get()
}

/// Hands `datagrams` to `to` by hand and gives the messages that come of them.
async fn messages_of(datagrams: &[Vec<u8>], to: &Arc<Transport>) -> Vec<Vec<u8>> {
    let mut receiver = Receiver::new(Arc::clone(to));
    let from = StdUdpSocket::bind(LOOPBACK).unwrap();
    let address = to.socket.local_addr().unwrap();
    let mut messages = Vec::new();
    for datagram in datagrams {
        from.send_to(datagram, address).unwrap();
        receiver.readable().await;
        while let Some(received) = receiver.receive(Duration::ZERO) {
            if let Received::Message(_, message) = received {
                messages.push(message);
            }
        }
    }
    messages
}

#[tokio::test]
async fn the_largest_membership_message_arrives_in_datagrams_of_the_size_that_is_set() {
    let message: Vec<u8> = (0..fragment::MESSAGE_BYTES_MAX)
        .map(|at| (at % 251) as u8)
        .collect();
    for datagram_bytes in [crate::cluster::DATAGRAM_BYTES_MIN, 1_200, 9_000, 65_000] {
        let wire = Wire::new();
        let transport = transport(datagram_bytes);
        Sender::new(Arc::clone(&transport))
            .send_message(wire.address(), &message)
            .await;
        let datagrams = wire.receive(sent(&transport));
        let longest = datagrams.iter().map(Vec::len).max();
        assert_eq!(longest, Some(datagram_bytes), "full datagrams, and none above");
        assert_eq!(transport.counters().too_long.get(), 0);
        // Any order will do.
        let reversed: Vec<_> = datagrams.into_iter().rev().collect();
        assert_eq!(
            messages_of(&reversed, &transport).await,
            std::slice::from_ref(&message)
        );
    }
}

#[tokio::test]
async fn a_frame_fills_a_datagram_to_the_last_byte_and_one_byte_more_is_not_sent() {
    const DATAGRAM_BYTES: usize = 1_200;
    let room = DATAGRAM_BYTES - Envelope::OVERHEAD_BYTES - fragment::FRAME_HEADER.len();
    let wire = Wire::new();
    let transport = transport(DATAGRAM_BYTES);
    let mut sender = Sender::new(Arc::clone(&transport));
    sender.send_frame(&[wire.address()], &vec![7; room + 1]).await;
    assert_eq!((sent(&transport), transport.counters().too_long.get()), (0, 1));
    sender.send_frame(&[wire.address()], &vec![7; room]).await;
    assert_eq!((sent(&transport), transport.counters().too_long.get()), (1, 1));
    assert_eq!(wire.receive(1)[0].len(), DATAGRAM_BYTES);
}

/// The kernel grants at most `net.core.rmem_max`, and doubles it for its own bookkeeping (socket(7)).
#[cfg(target_os = "linux")]
#[test]
fn the_socket_has_the_buffers_that_it_asked_for_or_the_most_that_the_kernel_grants() {
    let granted_max = |name: &str| -> usize {
        let text = std::fs::read_to_string(format!("/proc/sys/net/core/{name}")).unwrap();
        text.trim().parse().unwrap()
    };
    let bound = BoundSocket::bind(LOOPBACK).unwrap();
    let socket = Socket::from(bound.socket);
    let receive = SOCKET_BUFFER_BYTES.min(granted_max("rmem_max")) * 2;
    assert_eq!(socket.recv_buffer_size().unwrap(), receive);
    let send = SOCKET_BUFFER_BYTES.min(granted_max("wmem_max")) * 2;
    assert_eq!(socket.send_buffer_size().unwrap(), send);
}
