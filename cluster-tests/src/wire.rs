//! A wire between the nodes that a scenario can watch, cut and make lossy.
//!
//! Each node is told to advertise a socket of the wire, and the wire passes on what arrives there. A node
//! is known by the address it sends from, and its datagrams leave from its own socket of the wire: so
//! every node sees its peers at the addresses that they advertise, whichever way the answer takes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::udp::DATAGRAM_BYTES_MAX;

/// The wire of one cluster. Dropping it cuts it for good.
#[derive(Debug)]
pub struct Wire {
    shared: Arc<Shared>,
    listening: Vec<JoinHandle<()>>,
}

/// What passed, and what did not.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Datagrams that went through.
    pub passed: u64,
    /// Datagrams that were lost at random.
    pub lost: u64,
    /// Datagrams that a cut stopped.
    pub cut: u64,
    /// Bytes of the largest datagram that any node sent.
    pub largest: usize,
    /// How many a cluster without a key sent of each channel: frames, whole messages, fragments.
    pub channels: [u64; 3],
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rng: StdRng,
    loss: f64,
    island: Vec<SocketAddr>,
    traffic: Traffic,
    /// The socket of the wire that stands for the node which is bound to an address.
    ends: HashMap<SocketAddr, Arc<UdpSocket>>,
}

impl Wire {
    /// A wire on which nothing is lost, and whose choices follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            loss: 0.0,
            island: Vec::new(),
            traffic: Traffic::default(),
            ends: HashMap::new(),
        };
        let state = Mutex::new(state);
        Self {
            shared: Arc::new(Shared { state }),
            listening: Vec::new(),
        }
    }

    /// Connects the node that binds `node`; gives the address that it has to advertise.
    ///
    /// # Panics
    /// No loopback port is free, or the caller is in no runtime.
    pub(crate) fn connect(&mut self, node: SocketAddr) -> SocketAddr {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a loopback port is free");
        socket
            .set_nonblocking(true)
            .expect("a socket can be non-blocking");
        let socket = Arc::new(UdpSocket::from_std(socket).expect("a scenario runs in a runtime"));
        let advertised = socket.local_addr().expect("a bound socket has an address");
        self.shared.state().ends.insert(node, Arc::clone(&socket));
        let shared = Arc::clone(&self.shared);
        self.listening
            .push(tokio::spawn(async move { shared.pass_on(&socket, node).await }));
        advertised
    }

    /// Loses this share of all datagrams from now on.
    pub fn lose(&self, share: f64) {
        self.shared.state().loss = share;
    }

    /// Cuts the nodes that are bound to `island` off from all others, and mends every earlier cut.
    pub fn cut_off(&self, island: &[SocketAddr]) {
        self.shared.state().island = island.to_vec();
    }

    /// What passed so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.shared.state().traffic.clone()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.listening.iter().for_each(JoinHandle::abort);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Passes on to `node` what arrives at `end`.
    async fn pass_on(&self, end: &UdpSocket, node: SocketAddr) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            // An error is the echo of an earlier datagram to a node that is down.
            let Ok((length, from)) = end.recv_from(&mut buffer).await else {
                continue;
            };
            let sender = self.state().judge(&buffer[..length], from, node);
            if let Some(sender) = sender {
                // What the node does not take in is lost, as on any network.
                let _ = sender.send_to(&buffer[..length], node).await;
            }
        }
    }
}

impl State {
    /// The socket from which a datagram goes on, if it does.
    fn judge(&mut self, datagram: &[u8], from: SocketAddr, to: SocketAddr) -> Option<Arc<UdpSocket>> {
        let sender = Arc::clone(self.ends.get(&from)?);
        self.traffic.largest = self.traffic.largest.max(datagram.len());
        // Behind the version, 0 for open, and 8 bytes of the cluster's name.
        if let (Some(0), Some(&channel)) = (datagram.first(), datagram.get(9))
            && let Some(count) = self.traffic.channels.get_mut(usize::from(channel))
        {
            *count += 1;
        }
        if self.island.contains(&from) != self.island.contains(&to) {
            self.traffic.cut += 1;
            return None;
        }
        if self.rng.random_bool(self.loss) {
            self.traffic.lost += 1;
            return None;
        }
        self.traffic.passed += 1;
        Some(sender)
    }
}
