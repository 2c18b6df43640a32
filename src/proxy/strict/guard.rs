//! The guard around a client's HTTP/1 connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};

use super::held::Held;
use super::ledger::{Ledger, Upgrade};
use super::linger::Linger;
use super::message::{Limits, RequestScanner, Stop};
use super::through::write_through;

/// What hyper reads in place of a request that was refused: the least that makes it ask for an answer.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nHost: refused\r\nConnection: close\r\n\r\n";
/// Most bytes held back while it is open whether they are HTTP; a client that waits for the answer, as it
/// must, sends none.
const EARLY_BYTES_MAX: usize = 16 * 1024;

/// Lets a client's requests pass that are as RFC 9112 wants them.
pub(in crate::proxy) struct Guard<T> {
    io: T,
    ledger: Arc<Ledger>,
    scanner: RequestScanner,
    held: Held,
    stop: Stop,
    is_end: bool,
    linger: Linger,
}

impl<T> Guard<T> {
    /// Around `io`, for heads and bodies within `limits`; tells `ledger` what becomes of them.
    pub(in crate::proxy) fn new(io: T, limits: Limits, ledger: Arc<Ledger>) -> Self {
        Self {
            io,
            ledger,
            scanner: RequestScanner::new(limits),
            held: Held::default(),
            stop: Stop::More,
            is_end: false,
            linger: Linger::default(),
        }
    }

    /// Does what the last scan said beyond letting bytes pass.
    fn heed(&mut self, stop: Stop) {
        self.stop = stop;
        match stop {
            Stop::More => {}
            Stop::Upgrade => {
                if self.ledger.upgrade() != Upgrade::Accepted {
                    self.ledger.set_upgrade(Upgrade::Awaited);
                }
            }
            Stop::Refused(violation) => {
                self.ledger
                    .refuse(self.scanner.heads().wrapping_add(1), violation);
                self.held.replace(STAND_IN);
            }
            Stop::Broken(violation) => self.ledger.break_off(violation),
        }
    }

    /// After an upgrade request: goes on once it is known how. True when there is nothing more to await.
    fn settle_upgrade(&mut self) -> bool {
        match self.ledger.upgrade() {
            Upgrade::Accepted => {
                self.held.pass_all();
                true
            }
            Upgrade::Declined => {
                self.ledger.set_upgrade(Upgrade::None);
                self.scanner.decline_upgrade();
                let stop = self.held.rescan(|bytes| self.scanner.scan(bytes));
                self.heed(stop);
                true
            }
            Upgrade::None | Upgrade::Awaited => false,
        }
    }
}

impl<T: Read + Unpin> Guard<T> {
    fn poll_checked(&mut self, cx: &mut Context<'_>, mut cursor: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        loop {
            // Into no space, nothing can be read, which must not look like an end.
            if self.held.serve(&mut cursor) || cursor.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            match self.stop {
                Stop::More if self.is_end => return Poll::Ready(Ok(())),
                Stop::More => {}
                // Once answered, all that is left to do is to close.
                Stop::Refused(_) => return Poll::Pending,
                Stop::Broken(violation) => return Poll::Ready(Err(violation.into())),
                Stop::Upgrade if self.ledger.upgrade() == Upgrade::Accepted && self.held.is_empty() => {
                    return Pin::new(&mut self.io).poll_read(cx, cursor);
                }
                Stop::Upgrade => {
                    if self.settle_upgrade() {
                        continue;
                    }
                    if self.is_end || self.held.len() >= EARLY_BYTES_MAX {
                        return Poll::Pending;
                    }
                }
            }
            if let Some(violation) = self.ledger.broken() {
                return Poll::Ready(Err(violation.into()));
            }
            let was_in_body = self.scanner.is_in_body();
            let scanner = &mut self.scanner;
            let polled = self
                .held
                .poll_fill(&mut self.io, cx, &mut cursor, |bytes| scanner.scan(bytes));
            if polled.is_pending() && was_in_body {
                self.ledger.set_body(true, true);
            }
            let filled = ready!(polled)?;
            if was_in_body || self.scanner.is_in_body() {
                self.ledger.set_body(self.scanner.is_in_body(), false);
                self.ledger.count_body(filled.passed);
            }
            self.heed(filled.stop);
            self.is_end |= filled.is_end;
            if filled.passed > 0 || (self.is_end && self.stop != Stop::Upgrade) {
                return Poll::Ready(Ok(()));
            }
            // An end while an upgrade is awaited is the client's leaving.
            if self.is_end && self.held.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: Read + Unpin> Read for Guard<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().poll_checked(cx, cursor)
    }
}

impl<T: Read + Write + Unpin> Guard<T> {
    /// After a request that was not read to its end, what follows is discarded for a while: closing at
    /// once would reset the connection, and the client might lose the response (RFC 9112 §9.6).
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_over = self.is_end || self.ledger.upgrade() == Upgrade::Accepted;
        let is_whole = self.stop == Stop::More && !self.scanner.is_in_body() && self.held.is_empty();
        if !is_over && !is_whole {
            self.ledger.linger();
            return self.linger.poll(&mut self.io, cx);
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

write_through!(impl[T: Read + Write + Unpin] for Guard<T>, to io, ending by poll_end);
