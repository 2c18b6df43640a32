//! The guard around a client's HTTP/2 connection: frames that only cost.
//!
//! hyper and h2 bound what they keep: streams, header lists, CONTINUATION frames, empty DATA frames, resets
//! of streams that wait or that were in error. What is left are frames that are answered or looked at and
//! cost the sender next to nothing: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, unknown ones, and resets of
//! requests that are under way. They are counted against what the connection is used for.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};

use super::held::Held;
use super::ledger::Ledger;
use super::message::{Step, Stop};

/// Control frames that a connection may have sent for nothing; the worker's heartbeat makes up for some.
const CONTROL_MAX: u32 = 1000;
/// Control frames that each second makes up for: pings and window updates of a quiet connection.
pub(in crate::proxy) const CONTROL_PER_SECOND: u32 = 100;
/// Control frames that a request makes up for, as Envoy allows window updates per DATA frame.
const CONTROL_PER_REQUEST: u32 = 10;
/// Resets beyond half of the requests: clients do give up on requests, but not on most of them.
const RESETS_MAX: u32 = 200;

/// What a client that speaks HTTP/2 sends first (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;

/// Too many frames that brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client floods the connection with frames")]
pub(super) struct Flood;

/// Weighs the frames of one connection (RFC 9113 §4.1). Pure.
#[derive(Debug)]
pub(super) struct FrameMeter {
    /// Bytes before the next frame's head.
    skip: usize,
    head: [u8; HEAD_BYTES],
    filled: usize,
    resets: u32,
    /// Bytes that answer control frames and are yet to be written.
    answers: usize,
}

impl FrameMeter {
    pub(super) fn new() -> Self {
        Self {
            skip: PREFACE_BYTES,
            head: [0; HEAD_BYTES],
            filled: 0,
            resets: 0,
            answers: 0,
        }
    }

    /// Weighs the frames that begin in `bytes`, the next ones of the connection. `spent` is what control
    /// frames have cost so far.
    pub(super) fn read(&mut self, mut bytes: &[u8], spent: &mut u32) -> Result<(), Flood> {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let take = bytes.len().min(HEAD_BYTES - self.filled);
            let (part, rest) = bytes.split_at(take);
            for byte in part {
                if let Some(place) = self.head.get_mut(self.filled) {
                    *place = *byte;
                }
                self.filled += 1;
            }
            bytes = rest;
            if self.filled == HEAD_BYTES {
                self.filled = 0;
                self.weigh(spent)?;
            }
        }
        Ok(())
    }

    /// Weighs `bytes` bytes that were written: what goes to the client is use of the connection, unless it
    /// only answers control frames.
    pub(super) fn wrote(&mut self, bytes: usize, spent: &mut u32) {
        let answering = bytes.min(self.answers);
        self.answers -= answering;
        let useful = bytes - answering;
        if useful > 0 {
            let made_up = u32::try_from(useful / 1024).unwrap_or(u32::MAX).saturating_add(2);
            *spent = spent.saturating_sub(made_up);
        }
    }

    fn weigh(&mut self, spent: &mut u32) -> Result<(), Flood> {
        const ACK: u8 = 1;
        const END_STREAM: u8 = 1;
        let [l0, l1, l2, kind, flags, ..] = self.head;
        self.skip = usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2);
        match kind {
            // DATA: an empty one that ends nothing does nothing.
            0 if self.skip > 0 || flags & END_STREAM != 0 => {
                let made_up = u32::try_from(self.skip / 1024).unwrap_or(0) + 1;
                *spent = spent.saturating_sub(made_up);
            }
            // HEADERS.
            1 => {
                *spent = spent.saturating_sub(CONTROL_PER_REQUEST);
                self.resets = self.resets.saturating_sub(1);
            }
            // RST_STREAM.
            3 => self.resets += 2,
            // SETTINGS and PING, which are answered, and their answers.
            4 | 6 => {
                *spent += 1;
                if flags & ACK == 0 {
                    self.answers += HEAD_BYTES + if kind == 6 { 8 } else { 0 };
                }
            }
            _ => *spent += 1,
        }
        if *spent > CONTROL_MAX || self.resets > 2 * RESETS_MAX {
            return Err(Flood);
        }
        Ok(())
    }
}

/// Ends a client's HTTP/2 connection that is flooded.
pub(in crate::proxy) struct FrameGuard<T> {
    io: T,
    meter: FrameMeter,
    ledger: Arc<Ledger>,
    held: Held,
}

impl<T> FrameGuard<T> {
    pub(in crate::proxy) fn new(io: T, ledger: Arc<Ledger>) -> Self {
        Self {
            io,
            meter: FrameMeter::new(),
            ledger,
            held: Held::default(),
        }
    }

    fn wrote(&mut self, polled: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = polled {
            let mut spent = self.ledger.spent();
            self.meter.wrote(*bytes, &mut spent);
            self.ledger.set_spent(spent);
        }
    }
}

impl<T: Read + Unpin> Read for FrameGuard<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut spent = this.ledger.spent();
        let mut weighed = Ok(());
        let meter = &mut this.meter;
        let scan = |bytes: &[u8]| {
            weighed = meter.read(bytes, &mut spent);
            Step {
                pass: bytes.len(),
                stop: Stop::More,
            }
        };
        ready!(this.held.poll_fill(&mut this.io, cx, &mut cursor, scan))?;
        this.ledger.set_spent(spent);
        Poll::Ready(weighed.map_err(|flood| io::Error::new(io::ErrorKind::InvalidData, flood)))
    }
}

impl<T: Write + Unpin> Write for FrameGuard<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write(cx, buf);
        this.wrote(&polled);
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.wrote(&polled);
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD_BYTES + payload, 0);
        frame
    }

    /// How many of `frame`, each after `before`, pass; at most 5,000.
    fn passing(before: &[u8], frame: &[u8], written: usize) -> usize {
        let (mut meter, mut spent) = (FrameMeter::new(), 0);
        meter.read(&[0; PREFACE_BYTES], &mut spent).unwrap();
        let one = |_: &usize| {
            let read = meter
                .read(before, &mut spent)
                .and_then(|()| meter.read(frame, &mut spent));
            meter.wrote(written, &mut spent);
            read.is_ok()
        };
        (0..5000).take_while(one).count()
    }

    #[test]
    fn frames_that_bring_nothing_are_bounded_and_those_of_a_used_connection_are_not() {
        let headers = frame(1, 5, 20);
        // PING, answered each time: the answers are no use of the connection.
        assert_eq!(passing(&[], &frame(6, 0, 8), 17), 1000);
        assert_eq!(passing(&[], &frame(4, 0, 0), 9), 1000);
        assert_eq!(passing(&[], &frame(2, 0, 5), 0), 1000);
        assert_eq!(passing(&[], &frame(0, 0, 0), 0), 1000);
        assert_eq!(passing(&[], &frame(0xfa, 0, 100), 0), 1000);
        // Rapid reset, and a client that gives up on each third request.
        assert_eq!(passing(&headers, &frame(3, 0, 4), 0), 399);
        assert_eq!(passing(&headers.repeat(3), &frame(3, 0, 4), 0), 5000);
        // A download, with two window updates for each frame; requests, each with pings.
        assert_eq!(passing(&frame(8, 0, 4), &frame(8, 0, 4), 16 * 1024), 5000);
        assert_eq!(passing(&headers, &frame(6, 0, 8).repeat(9), 9 * 17), 5000);
        // Bodies, and the end of one.
        assert_eq!(passing(&[], &frame(0, 0, 10), 0), 5000);
        assert_eq!(passing(&[], &frame(0, 1, 0), 0), 5000);
    }

    #[test]
    fn where_reads_split_does_not_matter() {
        let bytes = [vec![0; PREFACE_BYTES], frame(6, 0, 8).repeat(1001)].concat();
        for size in [1, 7, 9, 17, 1000] {
            let (mut meter, mut spent) = (FrameMeter::new(), 0);
            let mut pieces = bytes.chunks(size);
            let flooded = pieces.any(|piece| meter.read(piece, &mut spent).is_err());
            assert!(flooded && spent == 1001, "{size}");
        }
    }
}
