//! Whether a connection moves: judged at each of its worker's heartbeats, so that requests read no clock and
//! arm no timer for it. Pure: time comes in ticks.

use std::cell::Cell;
use std::time::Duration;

use super::strict::{CONTROL_PER_SECOND, Ledger, Violation};
use crate::config::ProxyConfig;

/// How long a client may take to close after its last response while what it sends is discarded. nginx's
/// `lingering_timeout` is 5 s; most close at once.
const LINGER: Duration = Duration::from_secs(2);

/// How long a connection may do nothing, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    /// While a request head is awaited or arriving.
    pub(super) head: u32,
    /// Between requests.
    pub(super) idle: u32,
    /// Over which the rate of a body is taken.
    pub(super) body: u32,
    /// Least bytes of a body in that time.
    pub(super) body_bytes: u64,
    /// Over which the rate is taken at which a client takes what waits for it.
    pub(super) send: u32,
    /// Least bytes that it takes in that time.
    pub(super) send_bytes: u64,
    /// While a tunnel is silent both ways.
    pub(super) tunnel: u32,
    /// While what a client still sends is discarded.
    pub(super) linger: u32,
    /// Control frames of HTTP/2 that a tick makes up for.
    pub(super) control_frames: u32,
}

impl Allowed {
    /// What `config` says, for a heartbeat every `period`.
    pub(super) fn new(config: &ProxyConfig, period: Duration) -> Self {
        let ticks = |span: Duration| {
            let ticks = span.as_millis().div_ceil(period.as_millis().max(1));
            u32::try_from(ticks).unwrap_or(u32::MAX)
        };
        let bytes = |rate: u32, span: Duration| {
            let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
            (u64::from(rate).saturating_mul(millis) / 1000).max(1)
        };
        let period_millis = u32::try_from(period.as_millis()).unwrap_or(u32::MAX);
        Self {
            head: ticks(config.header_read_timeout),
            idle: ticks(config.keep_alive_timeout.max(config.header_read_timeout)),
            body: ticks(config.body_timeout),
            body_bytes: bytes(config.body_rate_min, config.body_timeout),
            send: ticks(config.send_timeout),
            send_bytes: bytes(config.send_rate_min, config.send_timeout),
            tunnel: ticks(config.tunnel_timeout),
            linger: ticks(LINGER),
            control_frames: (CONTROL_PER_SECOND.saturating_mul(period_millis) / 1000).max(1),
        }
    }
}

/// What a heartbeat finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// It moves, or has the time to.
    Fine,
    /// It has had no request for long: it may end.
    Idle,
    /// It holds things up: it has to end.
    Stuck,
    /// The body of its request has come to a halt: that has to end.
    SlowBody,
}

/// What is known of how a connection moves. Begins with a connection that has sent nothing.
pub(super) struct Pace {
    /// The tick at which the last request ended, or the connection began.
    quiet_since: Cell<u32>,
    /// The last request has ended, not the first one been awaited.
    has_served: Cell<bool>,
    reads_when_quiet: Cell<u32>,
    /// The tick at which a request head was seen arriving.
    head_since: Cell<Option<u32>>,
    is_http2: Cell<bool>,
    is_tunnel: Cell<bool>,
    /// At which the body of a request comes, over HTTP/1.
    receiving: Rate,
    /// Ticks since that was found wanting.
    told: Cell<u32>,
    /// Parts of response bodies that wait for the client.
    waiting: Cell<u32>,
    /// At which the client takes what waits for it.
    sending: Rate,
    was_blocked: Cell<bool>,
    /// The last tick at which a tunnel, or a connection that ends, was seen moving, and how far it had come.
    moved: Cell<(u32, u32)>,
}

/// How fast bytes move at the ticks at which they have to.
#[derive(Default)]
pub(super) struct Rate {
    /// Ticks since the rate was last taken.
    ticks: Cell<u32>,
    /// Bytes that had moved by then.
    before: Cell<u64>,
}

impl Rate {
    /// Whether at least so many `bytes_min` move in `ticks`; to be called at each tick at which they have to, with all
    /// `bytes` so far.
    pub(super) fn is_kept(&self, bytes: u64, ticks: u32, bytes_min: u64) -> bool {
        let passed = self.ticks.get();
        if passed < ticks {
            self.ticks.set(passed.saturating_add(1));
            return true;
        }
        let is_kept = bytes.wrapping_sub(self.before.get()) >= bytes_min;
        if is_kept {
            self.begin(bytes);
        }
        is_kept
    }

    fn begin(&self, bytes: u64) {
        self.ticks.set(0);
        self.before.set(bytes);
    }
}

impl Pace {
    pub(super) fn new(now: u32) -> Self {
        Self {
            quiet_since: Cell::new(now),
            has_served: Cell::new(false),
            reads_when_quiet: Cell::new(0),
            head_since: Cell::new(None),
            is_http2: Cell::new(false),
            is_tunnel: Cell::new(false),
            receiving: Rate::default(),
            told: Cell::new(0),
            waiting: Cell::new(0),
            sending: Rate::default(),
            was_blocked: Cell::new(false),
            moved: Cell::new((now, 0)),
        }
    }

    /// Only now is HTTP spoken: what came before had a time of its own.
    pub(super) fn begins(&self, now: u32) {
        self.quiet_since.set(now);
    }

    /// The client speaks HTTP/2, which also reads frames that begin no request.
    pub(super) fn is_http2(&self) {
        self.is_http2.set(true);
    }

    /// Whether it does.
    pub(super) fn speaks_http2(&self) -> bool {
        self.is_http2.get()
    }

    /// The connection has become a tunnel.
    pub(super) fn is_tunnel(&self, now: u32) {
        self.is_tunnel.set(true);
        self.moved.set((now, 0));
    }

    /// A request has ended.
    pub(super) fn request_ended(&self, ledger: &Ledger, now: u32) {
        self.quiet_since.set(now);
        self.has_served.set(true);
        self.head_since.set(None);
        self.reads_when_quiet.set(ledger.reads());
    }

    /// A part of a response body begins to wait for the client, or waits no more.
    pub(super) fn body_waits(&self, waits: bool) {
        let waiting = self.waiting.get();
        self.waiting.set(if waits {
            waiting.saturating_add(1)
        } else {
            waiting.saturating_sub(1)
        });
    }

    /// Looks at the connection; to be called once at each tick.
    pub(super) fn check(&self, ledger: &Ledger, in_flight: u32, now: u32, allowed: &Allowed) -> Finding {
        if self.is_http2.get() {
            ledger.make_up(allowed.control_frames);
        }
        if self.is_tunnel.get() {
            return self.check_moves(ledger.moves(), now, allowed.tunnel);
        }
        if ledger.is_lingering() {
            // What is discarded does not count as moving.
            return self.check_moves(0, now, allowed.linger);
        }
        self.moved.set((now, 0));
        // A request that has ended may still wait for its client to take the response.
        if self.is_untaken(ledger, allowed) {
            return Finding::Stuck;
        }
        if in_flight == 0 {
            return self.check_quiet(ledger, now, allowed);
        }
        self.check_body(ledger, allowed)
    }

    /// Whether the client takes less than it has to. Only ticks count at which something waits for it: the connection,
    /// or a part of a body whose stream of HTTP/2 it gives no room.
    fn is_untaken(&self, ledger: &Ledger, allowed: &Allowed) -> bool {
        let (is_blocked, taken) = (ledger.is_blocked(), ledger.taken());
        let was_blocked = self.was_blocked.replace(is_blocked);
        let waits = is_blocked || self.waiting.get() > 0;
        if !waits || is_blocked != was_blocked {
            self.sending.begin(taken);
        }
        waits && !self.sending.is_kept(taken, allowed.send, allowed.send_bytes)
    }

    fn check_moves(&self, moves: u32, now: u32, allowed: u32) -> Finding {
        let (since, before) = self.moved.get();
        if moves != before {
            self.moved.set((now, moves));
            Finding::Fine
        } else if now.wrapping_sub(since) > allowed {
            Finding::Stuck
        } else {
            Finding::Fine
        }
    }

    fn check_quiet(&self, ledger: &Ledger, now: u32, allowed: &Allowed) -> Finding {
        let silence = now.wrapping_sub(self.quiet_since.get());
        let head_arrives = !self.is_http2.get() && ledger.reads() != self.reads_when_quiet.get();
        if !self.has_served.get() {
            return if silence > allowed.head {
                Finding::Stuck
            } else {
                Finding::Fine
            };
        }
        if head_arrives {
            let since = self.head_since.get().unwrap_or(now);
            self.head_since.set(Some(since));
            let is_late = now.wrapping_sub(since) > allowed.head;
            return if is_late { Finding::Stuck } else { Finding::Fine };
        }
        if silence > allowed.idle.saturating_add(allowed.head) {
            Finding::Stuck
        } else if silence > allowed.idle {
            // Politely first: HTTP/2 announces the last request that it will answer.
            Finding::Idle
        } else {
            Finding::Fine
        }
    }

    /// Only ticks count at which the client owes bytes and the reader waits for them, so an upstream that
    /// takes its time is not held against the client.
    fn check_body(&self, ledger: &Ledger, allowed: &Allowed) -> Finding {
        let bytes = ledger.body_bytes();
        if !ledger.is_in_body() {
            self.receiving.begin(bytes);
            self.told.set(0);
            return Finding::Fine;
        }
        if !ledger.is_starving() || self.receiving.is_kept(bytes, allowed.body, allowed.body_bytes) {
            return Finding::Fine;
        }
        // It is told once; what has not ended a while after that is cut off.
        let told = self.told.get();
        self.told.set(told.saturating_add(1));
        match ledger.broken() {
            None => Finding::SlowBody,
            Some(Violation::BodyTooSlow) if told < allowed.linger => Finding::Fine,
            Some(_) => Finding::Stuck,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: Allowed = Allowed {
        head: 3,
        idle: 10,
        body: 4,
        body_bytes: 100,
        send: 5,
        send_bytes: 10,
        tunnel: 6,
        linger: 2,
        control_frames: 1,
    };

    /// The first tick from `begin` at which something is found, and what.
    fn found(pace: &Pace, ledger: &Ledger, in_flight: u32, begin: u32) -> (u32, Finding) {
        let check = |tick| (tick, pace.check(ledger, in_flight, begin + tick, &ALLOWED));
        let mut ticks = (1..100).map(check);
        ticks.find(|(_, finding)| *finding != Finding::Fine).unwrap()
    }

    #[test]
    fn a_silent_client_is_stuck_before_its_first_request_and_idle_after() {
        let (pace, ledger) = (Pace::new(0), Ledger::default());
        assert_eq!(found(&pace, &ledger, 0, 0), (4, Finding::Stuck));
        pace.request_ended(&ledger, 20);
        assert_eq!(found(&pace, &ledger, 0, 20), (11, Finding::Idle));
        assert_eq!(pace.check(&ledger, 0, 34, &ALLOWED), Finding::Stuck);
        // A head that arrives has its own time.
        pace.request_ended(&ledger, 40);
        ledger.count_read();
        assert_eq!(found(&pace, &ledger, 0, 40), (5, Finding::Stuck));
    }

    #[test]
    fn a_body_has_to_come_at_its_least_rate_while_it_is_waited_for() {
        let (pace, ledger) = (Pace::new(0), Ledger::default());
        let check = || pace.check(&ledger, 1, 0, &ALLOWED);
        assert_eq!(check(), Finding::Fine);
        ledger.set_body(true, true);
        for _ in 0..5 {
            ledger.count_body(25);
            assert_eq!(check(), Finding::Fine);
        }
        for _ in 0..4 {
            ledger.count_body(24);
            assert_eq!(check(), Finding::Fine);
        }
        // Nobody waits for it: the upstream is slow.
        ledger.set_body(true, false);
        assert_eq!(check(), Finding::Fine);
        ledger.set_body(true, true);
        assert_eq!(check(), Finding::SlowBody);
        ledger.break_off(Violation::BodyTooSlow);
        assert_eq!(found(&pace, &ledger, 1, 0).1, Finding::Stuck);
    }

    #[test]
    fn a_client_has_to_take_its_response_at_the_least_rate_while_it_waits() {
        let (pace, ledger) = (Pace::new(0), Ledger::default());
        let check = || pace.check(&ledger, 1, 0, &ALLOWED);
        // A part waits for room in its stream; 10 bytes of others are taken in 5 ticks, then 9.
        pace.body_waits(true);
        pace.body_waits(true);
        pace.body_waits(false);
        for _ in 0..5 {
            ledger.count_write(2);
            assert_eq!(check(), Finding::Fine);
        }
        assert_eq!(check(), Finding::Fine);
        for _ in 0..4 {
            ledger.count_write(2);
            assert_eq!(check(), Finding::Fine);
        }
        ledger.count_write(1 + 17);
        ledger.discount(17);
        assert_eq!(check(), Finding::Fine);
        assert_eq!(check(), Finding::Stuck);
        pace.body_waits(false);
        assert_eq!(check(), Finding::Fine);
        // The connection itself is blocked: no write goes on, and what was written is taken.
        let mut untaken = 1000;
        for _ in 0..20 {
            untaken -= 2;
            ledger.block(untaken);
            assert_eq!(check(), Finding::Fine);
        }
        assert_eq!(found(&pace, &ledger, 1, 0).1, Finding::Stuck);
        // As long as room comes and goes, it moves.
        for _ in 0..20 {
            ledger.count_write(0);
            assert_eq!(check(), Finding::Fine);
            ledger.block(untaken);
            assert_eq!(check(), Finding::Fine);
        }
        // Its request has ended, and the client still has to take the response.
        pace.request_ended(&ledger, 0);
        assert_eq!(found(&pace, &ledger, 0, 0).1, Finding::Stuck);
    }

    #[test]
    fn a_tunnel_lives_as_long_as_either_side_speaks_and_lingering_has_an_end() {
        let (pace, ledger) = (Pace::new(0), Ledger::default());
        pace.is_tunnel(0);
        for tick in 0..20 {
            if tick % 5 == 0 {
                ledger.count_write(1);
            }
            assert_eq!(pace.check(&ledger, 1, tick, &ALLOWED), Finding::Fine);
        }
        assert_eq!(found(&pace, &ledger, 1, 15), (7, Finding::Stuck));
        let (pace, ledger) = (Pace::new(0), Ledger::default());
        pace.check(&ledger, 0, 1, &ALLOWED);
        ledger.linger();
        assert_eq!(found(&pace, &ledger, 0, 1), (3, Finding::Stuck));
    }
}
