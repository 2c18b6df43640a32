//! The one UDP socket of membership and replication: everything that leaves is sealed, and nothing that
//! does not open comes in.
//!
//! Owns the socket, the sealing of what goes out and the opening of what comes in. Promises that a full
//! send buffer delays the gossip thread by a bounded time, and that no datagram, however malformed, is
//! more than counted.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tracing::{debug, info, warn};

use super::counters::TransportCounters;
use super::fragment::{self, Content, Reassembly};
use super::seal::Envelope;

/// Asked of the kernel for each direction: a burst of thousands of datagrams fits while the thread is
/// busy. With the default of about 200 KiB, 9 % were lost at 50,000 changed keys a tick.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Largest payload of a UDP datagram, and so of what may arrive: peers may be set to larger datagrams.
const RECEIVE_BYTES_MAX: usize = 65_535;
/// Longest wait for room in the send buffer before a datagram is dropped: what is lost is repaired.
const SEND_WAIT_MAX: Duration = Duration::from_millis(10);

/// A bound socket that no runtime knows yet.
pub(super) struct BoundSocket {
    socket: StdUdpSocket,
    /// The actual address.
    pub(super) address: SocketAddr,
}

impl BoundSocket {
    /// Binds `address`; port 0 takes a free one.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() && address.ip().is_unspecified() {
            // `[::]` means every address, those of IPv4 too, whatever the system's default.
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        grow_buffers(&socket);
        socket.bind(&address.into())?;
        let socket = StdUdpSocket::from(socket);
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }
}

fn grow_buffers(socket: &Socket) {
    // The kernel caps silently what it may not grant, so the answer is read back.
    let asked = socket
        .set_recv_buffer_size(SOCKET_BUFFER_BYTES)
        .and_then(|()| socket.set_send_buffer_size(SOCKET_BUFFER_BYTES));
    let reported = socket.recv_buffer_size().unwrap_or(0);
    // Linux reports twice what it granted: the other half is for its own bookkeeping (socket(7)).
    let granted = if cfg!(target_os = "linux") {
        reported / 2
    } else {
        reported
    };
    if asked.is_err() || granted < SOCKET_BUFFER_BYTES {
        info!(
            asked = SOCKET_BUFFER_BYTES,
            granted, "small gossip receive buffer; raise net.core.rmem_max to lose less under bursts"
        );
    }
}

/// The socket with what seals and opens, shared by everything on the gossip thread.
pub(super) struct Transport {
    socket: UdpSocket,
    envelope: Arc<ArcSwap<Envelope>>,
    counters: TransportCounters,
    // An IPv6 socket reaches IPv4 peers by their mapped addresses.
    is_ipv6: bool,
    plaintext_bytes_max: usize,
}

impl Transport {
    /// Registers `bound` with the current runtime. No datagram is larger than `datagram_bytes`, sealed.
    pub(super) fn new(
        bound: BoundSocket,
        envelope: Arc<ArcSwap<Envelope>>,
        datagram_bytes: usize,
    ) -> io::Result<Self> {
        Ok(Self {
            is_ipv6: bound.address.is_ipv6(),
            socket: UdpSocket::from_std(bound.socket)?,
            envelope,
            counters: TransportCounters::default(),
            plaintext_bytes_max: datagram_bytes.saturating_sub(Envelope::OVERHEAD_BYTES),
        })
    }

    pub(super) fn counters(&self) -> &TransportCounters {
        &self.counters
    }

    /// The envelope in force.
    pub(super) fn envelope(&self) -> Arc<Envelope> {
        self.envelope.load_full()
    }

    async fn send(&self, to: SocketAddr, datagram: &[u8]) {
        let target = self.target(to);
        let mut sent = self.socket.try_send_to(datagram, target);
        if matches!(&sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            let Ok(late) = tokio::time::timeout(SEND_WAIT_MAX, self.socket.send_to(datagram, target)).await
            else {
                self.counters.send_blocked.add(1);
                return;
            };
            sent = late;
        }
        match sent {
            Ok(bytes) => {
                self.counters.datagrams_sent.add(1);
                self.counters.bytes_sent.add(bytes as u64);
            }
            Err(error) => {
                self.counters.send_errors.add(1);
                debug!(%to, %error, "gossip datagram not sent");
            }
        }
    }

    fn target(&self, to: SocketAddr) -> SocketAddr {
        match to.ip() {
            IpAddr::V4(ip) if self.is_ipv6 => (ip.to_ipv6_mapped(), to.port()).into(),
            _ => to,
        }
    }
}

/// Sends through a [`Transport`], with buffers of its own.
pub(super) struct Sender {
    transport: Arc<Transport>,
    rng: StdRng,
    datagram: Vec<u8>,
    message_id: u32,
}

impl Sender {
    pub(super) fn new(transport: Arc<Transport>) -> Self {
        let mut rng = StdRng::from_os_rng();
        Self {
            // Random, so that a restarted node does not continue a message of its former life.
            message_id: rng.next_u32(),
            rng,
            transport,
            datagram: Vec::new(),
        }
    }

    /// Sends one replication frame to every address in `to`, sealed once: the same ciphertext to all
    /// says no more than one of them.
    pub(super) async fn send_frame(&mut self, to: &[SocketAddr], frame: &[u8]) {
        if frame.len() + fragment::FRAME_HEADER.len() > self.transport.plaintext_bytes_max {
            self.transport.counters.too_long.add(1);
            warn!(bytes = frame.len(), "replication frame larger than a datagram");
            return;
        }
        self.seal(&[fragment::FRAME_HEADER, frame]);
        for address in to {
            self.transport.send(*address, &self.datagram).await;
        }
    }

    /// Sends one membership message, in fragments if need be.
    pub(super) async fn send_message(&mut self, to: SocketAddr, message: &[u8]) {
        self.message_id = self.message_id.wrapping_add(1);
        match fragment::split(message, self.message_id, self.transport.plaintext_bytes_max) {
            Ok(pieces) => {
                for (header, payload) in pieces {
                    self.seal(&[header.as_slice(), payload]);
                    self.transport.send(to, &self.datagram).await;
                }
            }
            Err(error) => {
                self.transport.counters.too_long.add(1);
                warn!(%error, "membership message not sent");
            }
        }
    }

    fn seal(&mut self, parts: &[&[u8]]) {
        let envelope = self.transport.envelope.load();
        envelope.seal(&mut self.rng, parts, &mut self.datagram);
    }
}

/// What arrived, opened.
#[derive(Debug)]
pub(super) enum Received<'a> {
    /// A replication frame.
    Frame(&'a [u8]),
    /// A whole membership message and where to answer.
    Message(SocketAddr, Vec<u8>),
    /// Something that was counted, or a fragment that completes nothing yet.
    Nothing,
}

/// Receives through a [`Transport`]; there is one.
pub(super) struct Receiver {
    transport: Arc<Transport>,
    datagram: Box<[u8]>,
    reassembly: Reassembly,
}

impl Receiver {
    pub(super) fn new(transport: Arc<Transport>) -> Self {
        Self {
            transport,
            datagram: vec![0; RECEIVE_BYTES_MAX].into(),
            reassembly: Reassembly::default(),
        }
    }

    /// Waits until something may have arrived.
    pub(super) async fn readable(&self) {
        if let Err(error) = self.transport.socket.readable().await {
            // Only when the runtime shuts down.
            debug!(%error, "gossip socket unusable");
        }
    }

    /// The next datagram, or `None` when none is waiting.
    pub(super) fn receive(&mut self, now: Duration) -> Option<Received<'_>> {
        let counters = &self.transport.counters;
        let (length, from) = match self.transport.socket.try_recv_from(&mut self.datagram) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) => {
                // An ICMP answer to an earlier send, or memory pressure: of no lasting meaning.
                counters.receive_errors.add(1);
                debug!(%error, "gossip receive error");
                return Some(Received::Nothing);
            }
        };
        counters.datagrams_received.add(1);
        counters.bytes_received.add(length as u64);
        let datagram = self.datagram.get_mut(..length)?;
        let plaintext = match self.transport.envelope.load().open(datagram) {
            Ok(plaintext) => plaintext,
            Err(reason) => {
                counters.refuse(reason);
                debug!(%from, %reason, "gossip datagram refused");
                return Some(Received::Nothing);
            }
        };
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        Some(match fragment::parse(plaintext) {
            Ok(Content::Frame(frame)) => Received::Frame(frame),
            Ok(Content::Message(message)) => Received::Message(from, message.to_vec()),
            Ok(Content::Fragment(part)) => {
                let expired = self.reassembly.expired();
                let whole = self.reassembly.insert(from, part, now);
                counters.incomplete.add(self.reassembly.expired() - expired);
                whole.map_or(Received::Nothing, |message| Received::Message(from, message))
            }
            Err(error) => {
                counters.malformed.add(1);
                debug!(%from, %error, "gossip datagram refused");
                Received::Nothing
            }
        })
    }
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
