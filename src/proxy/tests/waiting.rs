//! Requests that wait for rights. The tests play replication and the peers.

use tokio::sync::mpsc;

use super::*;
use crate::limit::{RowRef, Short};
use crate::proxy::{Announced, WaitEnd};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A node without a share, whose rules are of windows that no test outlasts.
struct Bounded {
    gateway: Gateway,
    woken: mpsc::UnboundedReceiver<()>,
}

impl Bounded {
    async fn start(wait: &str, windows: &str) -> Self {
        let upstream = Upstream::mirror().await;
        let (wake, woken) = mpsc::unbounded_channel();
        let on_due: OnDue = Arc::new(move || {
            wake.send(()).unwrap();
            Box::pin(Unawaited) as Announced
        });
        let yaml = format!(
            "sync: {{mode: bounded}}\nbounded: {{wait: {wait}, allow_long_windows: true}}\n\
             upstreams:\n  - name: up\n    targets: [http://{}]\n\
             rules:\n  - {{name: r, windows: [{windows}]}}\n",
            upstream.address
        );
        let gateway = Gateway::start_with(&yaml, on_due);
        Self { gateway, woken }
    }

    /// The next row that rights are wanted for, once replication is woken.
    async fn wanted(&mut self) -> Short {
        loop {
            if let Some(short) = self.gateway.shared.limiter().counters().take_wanted() {
                return short;
            }
            self.woken.recv().await.unwrap();
        }
    }

    /// The worker has answered another request: those who had replication woken have decided again, and wait.
    async fn until_they_wait(&self) {
        let malformed = self.gateway.ask("GET / HTTP/1.1\r\n\r\n").await;
        assert_eq!(malformed.status(), 400);
    }

    fn grant(&self, row: RowRef, allowance: u64, gained: u64) {
        let limiter = self.gateway.shared.limiter();
        limiter.counters().raise_allowance(row, allowance);
        limiter.waiting().rights_came(row, gained);
    }

    fn waiting(&self) -> usize {
        self.gateway.shared.limiter().waiting().stats().waiting
    }

    /// How many waits ended so.
    fn ended(&self, end: WaitEnd) -> u64 {
        self.gateway.metrics().waits[end as usize]
    }
}

/// What no response may wait for: peers do not count on hits of bounded rows.
struct Unawaited;

impl Future for Unawaited {
    type Output = ();

    fn poll(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        panic!("a response waited for the flush of a bounded row");
    }
}

#[tokio::test]
async fn a_request_without_rights_waits_and_passes_when_they_come() {
    within(async {
        let mut node = Bounded::start("10s", "5/year").await;
        let mut clients = Vec::new();
        let mut row = None;
        for _ in 0..3 {
            let mut client = node.gateway.connect().await;
            client.send(GET).await;
            clients.push(client);
            let short = node.wanted().await;
            // Who is wanted for is in the room already.
            let largest = node.gateway.shared.limiter().waiting().largest(short.row);
            assert_eq!((short.hits, largest), (1, 1));
            row = Some(short.row);
        }
        let row = row.unwrap();
        node.until_they_wait().await;
        // Rights for two: those who came first have them.
        node.grant(row, 2, 2);
        for client in &mut clients[..2] {
            assert_eq!(client.receive().await.status(), 200);
        }
        node.grant(row, 3, 1);
        let last = clients[2].receive().await;
        assert_eq!(last.field("ratelimit-remaining").as_deref(), Some("2"));
        // The next finds some at once.
        node.grant(row, 4, 1);
        assert_eq!(node.gateway.ask(GET).await.status(), 200);
        let metrics = node.gateway.metrics();
        assert_eq!((node.ended(WaitEnd::Served), metrics.waits_started), (3, 3));
        assert_eq!(metrics.wait_time.iter().sum::<u64>(), 3);
        assert_eq!((metrics.admitted, metrics.denied, node.waiting()), (4, 0, 0));
    })
    .await;
}

#[tokio::test]
async fn a_wait_ends_with_the_last_rights_or_with_its_time() {
    within(async {
        let mut node = Bounded::start("10s", "5/year").await;
        let mut client = node.gateway.connect().await;
        client.send(GET).await;
        let row = node.wanted().await.row;
        node.gateway.shared.limiter().waiting().exhausted(row);
        assert_eq!(client.receive().await.status(), 429);
        assert_eq!(node.ended(WaitEnd::Exhausted), 1);

        // Peers spent the rest: nobody waits for what is not there.
        node.gateway.shared.limiter().counters().replace_peers(row, 5);
        assert_eq!(node.gateway.ask(GET).await.status(), 429);
        let metrics = node.gateway.metrics();
        assert_eq!(
            (metrics.waits_started, metrics.denied, metrics.denied_short),
            (1, 2, 1)
        );

        for (wait, started) in [("5ms", 1), ("0s", 0)] {
            let mut node = Bounded::start(wait, "5/year").await;
            let denied = node.gateway.ask(GET).await;
            assert_eq!((denied.status(), node.wanted().await.hits), (429, 1));
            assert_eq!(denied.field("ratelimit-remaining").as_deref(), Some("0"));
            let metrics = node.gateway.metrics();
            assert_eq!(
                (metrics.waits_started, node.ended(WaitEnd::TimedOut)),
                (started, started)
            );
            assert_eq!((metrics.denied_short, metrics.denied_without_share), (1, 1));
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_the_room_and_no_right_is_spent() {
    within(async {
        let mut node = Bounded::start("10s", "5/month, 5/year").await;
        let mut clients = Vec::new();
        for _ in 0..2 {
            let mut client = node.gateway.connect().await;
            client.send(GET).await;
            clients.push(client);
        }
        let month = node.wanted().await.row;
        assert_eq!(node.wanted().await.row, month);
        drop(clients.remove(0));
        while node.waiting() > 1 {
            tokio::task::yield_now().await;
        }
        node.grant(month, 1, 1);
        // The right of one window is no use without one of the other, for which it waits in turn.
        let year = node.wanted().await.row;
        assert_ne!(year, month);
        let shared = Arc::clone(&node.gateway.shared);
        let own = |row| shared.limiter().counters().view(row).unwrap().own;
        assert_eq!([month, year].map(own), [0, 0]);
        node.grant(year, 1, 1);
        assert_eq!(clients[0].receive().await.status(), 200);
        assert_eq!([month, year].map(own), [1, 1]);
        assert_eq!(
            (node.ended(WaitEnd::Served), node.ended(WaitEnd::ClientGone)),
            (1, 1)
        );
        assert_eq!(node.waiting(), 0);
    })
    .await;
}

#[tokio::test]
async fn whoever_finds_the_room_full_is_denied_at_once() {
    within(async {
        let mut node = Bounded::start("10s", "5/year").await;
        let mut client = node.gateway.connect().await;
        client.send(GET).await;
        let short = node.wanted().await;
        let shared = Arc::clone(&node.gateway.shared);
        let room = shared.limiter().waiting();
        let others: Vec<_> = std::iter::from_fn(|| room.enter(&[short])).collect();
        assert_eq!(node.gateway.ask(GET).await.status(), 429);
        drop(others);
        let metrics = node.gateway.metrics();
        assert_eq!((metrics.turned_away, metrics.waits_started), (1, 1));
        node.grant(short.row, 1, 1);
        assert_eq!(client.receive().await.status(), 200);
    })
    .await;
}
