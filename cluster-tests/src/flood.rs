//! Many clients of one identity at once.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::clock::Window;
use crate::{Client, Tally};

/// What is left of its window when a client stops, in milliseconds: its last request is then counted in it.
const MARGIN: u64 = 250;

/// Requests of one identity over many connections, all within one window.
#[derive(Clone, Debug)]
pub struct Flood {
    identity: String,
    addresses: Vec<SocketAddr>,
    window: Window,
    clients: usize,
    requests: usize,
    pause: Duration,
}

impl Flood {
    /// Requests of `identity` to `addresses`, to which the clients are dealt out in turn, in `window`.
    #[must_use]
    pub fn new(identity: impl Into<String>, addresses: Vec<SocketAddr>, window: Window) -> Self {
        Self {
            identity: identity.into(),
            clients: 2 * addresses.len(),
            addresses,
            window,
            requests: usize::MAX,
            pause: Duration::ZERO,
        }
    }

    /// How many clients, each with a connection: two for each address, unless told otherwise.
    #[must_use]
    pub fn clients(self, clients: usize) -> Self {
        Self { clients, ..self }
    }

    /// How many requests in all, at most.
    #[must_use]
    pub fn requests(self, requests: usize) -> Self {
        Self { requests, ..self }
    }

    /// How long each client is silent between two requests.
    #[must_use]
    pub fn pause(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// Connects all clients, lets them go at once when the window has started, and counts what they see.
    /// Each sends one request after the other, over a new connection where the old one broke, until its part is
    /// sent or the window is about to end.
    pub async fn run(self) -> Tally {
        let mut running = JoinSet::new();
        for number in 0..self.clients {
            let requests =
                (self.requests / self.clients) + usize::from(number < self.requests % self.clients);
            let address = self.addresses[number % self.addresses.len()];
            let client = Client::new(self.identity.clone());
            running.spawn(send(client, address, self.window, requests, self.pause));
        }
        let mut tally = Tally::default();
        while let Some(seen) = running.join_next().await {
            tally.add(seen.expect("no client panics"));
        }
        tally
    }
}

async fn send(
    mut client: Client,
    address: SocketAddr,
    window: Window,
    requests: usize,
    pause: Duration,
) -> Tally {
    let mut tally = Tally::default();
    // Who cannot connect yet does so with the first request.
    let _ = client.connect(address).await;
    window.starts().await;
    let mut due = Instant::now();
    for _ in 0..requests {
        if window.left() <= MARGIN {
            break;
        }
        match client.try_get(address).await {
            Ok(answer) => tally.record(&answer),
            // Nobody listens there for now: no reason to spin.
            Err(_) => {
                tally.record_unanswered();
                due += Duration::from_millis(20);
            }
        }
        due = (due + pause).max(Instant::now());
        sleep_until(due).await;
    }
    tally
}
