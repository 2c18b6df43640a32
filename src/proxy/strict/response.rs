//! The guard around an upstream's HTTP/1 connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};

use super::held::Held;
use super::message::{Limits, ResponseScanner, Stop};
use super::through::write_through;

/// Lets an upstream's responses pass that are as RFC 9112 wants them. Reading any other is an error, so that
/// the connection that it came over is not used again.
pub(in crate::proxy) struct ResponseGuard<T> {
    io: T,
    scanner: ResponseScanner,
    held: Held,
    stop: Stop,
    asked: Asked,
    seen: u32,
}

/// Tells a guard of the requests that are sent over its connection: what a response means depends on what
/// it answers (RFC 9112 §6.3).
#[derive(Clone, Default)]
pub(in crate::proxy) struct Asked(Arc<AtomicU32>);

/// The bit that says that the last request was a HEAD; the others count requests.
const HEAD: u32 = 1;

impl Asked {
    /// A request is about to be sent.
    pub(in crate::proxy) fn ask(&self, method: &http::Method) {
        let count = self.0.load(Relaxed) | HEAD;
        let is_head = u32::from(method == http::Method::HEAD);
        self.0.store(count.wrapping_add(1) | is_head, Relaxed);
    }
}

impl<T> ResponseGuard<T> {
    /// Around `io`, for heads within `limits`. Each request has to be told to the second.
    pub(in crate::proxy) fn new(io: T, limits: Limits) -> (Self, Asked) {
        let asked = Asked::default();
        let guard = Self {
            io,
            scanner: ResponseScanner::new(limits),
            held: Held::default(),
            stop: Stop::More,
            asked: asked.clone(),
            seen: 0,
        };
        (guard, asked)
    }

    fn hear(&mut self) {
        let asked = self.asked.0.load(Relaxed);
        if asked != self.seen {
            self.seen = asked;
            self.scanner.ask(asked & HEAD == HEAD);
        }
    }
}

impl<T: Read + Unpin> Read for ResponseGuard<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.hear();
        loop {
            // Into no space, nothing can be read, which must not look like an end.
            if this.held.serve(&mut cursor) || cursor.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if let Stop::Broken(violation) | Stop::Refused(violation) = this.stop {
                return Poll::Ready(Err(violation.into()));
            }
            let scanner = &mut this.scanner;
            let polled = this
                .held
                .poll_fill(&mut this.io, cx, &mut cursor, |bytes| scanner.scan(bytes));
            let filled = ready!(polled)?;
            this.stop = filled.stop;
            if filled.passed > 0 || filled.is_end {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

write_through!(impl[T: Write + Unpin] for ResponseGuard<T>, to io);
