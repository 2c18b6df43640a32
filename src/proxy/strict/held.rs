//! Bytes that were read and have not been handed on: part of a head, or what follows an upgrade request.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBuf, ReadBufCursor};

use super::message::{Step, Stop};

/// Most bytes read at once while something is held back; in other cases, the reader's buffer says.
const READ_BYTES: usize = 8 * 1024;
/// A buffer above this is not kept once it is empty.
const KEPT_BYTES_MAX: usize = 8 * 1024;

/// What is held back of one direction of a connection.
#[derive(Default)]
pub(super) struct Held {
    bytes: Vec<u8>,
    /// So many of them may pass.
    passable: usize,
    /// So many have passed.
    taken: usize,
}

/// What a read came to.
pub(super) struct Filled {
    /// Bytes that the reader got.
    pub(super) passed: usize,
    pub(super) stop: Stop,
    /// The sender has ended.
    pub(super) is_end: bool,
}

impl Held {
    /// Nothing is held back.
    pub(super) fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }

    /// How many bytes are held back.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.taken
    }

    /// Hands on what may pass; false when there is nothing.
    pub(super) fn serve(&mut self, cursor: &mut ReadBufCursor<'_>) -> bool {
        let passable = self.bytes.get(self.taken..self.passable).unwrap_or_default();
        let take = passable.len().min(cursor.remaining());
        if take == 0 {
            return false;
        }
        cursor.put_slice(passable.get(..take).unwrap_or_default());
        self.taken += take;
        if self.taken == self.passable {
            self.forget_taken();
        }
        true
    }

    /// Lets all that is held back pass.
    pub(super) fn pass_all(&mut self) {
        self.passable = self.bytes.len();
    }

    /// Replaces what has not been allowed to pass by `bytes`, which may.
    pub(super) fn replace(&mut self, bytes: &[u8]) {
        self.bytes.truncate(self.passable);
        self.bytes.extend_from_slice(bytes);
        self.passable = self.bytes.len();
    }

    /// Scans what is held back again, since something other than bytes has changed.
    pub(super) fn rescan(&mut self, scan: impl FnOnce(&[u8]) -> Step) -> Stop {
        let step = scan(self.bytes.get(self.passable..).unwrap_or_default());
        self.passable += step.pass;
        step.stop
    }

    /// Reads once from `io`, scans what came together with what is held back, and hands on what passes.
    /// When nothing is held back, that is done in place, without a copy.
    pub(super) fn poll_fill<T: Read + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
        cursor: &mut ReadBufCursor<'_>,
        scan: impl FnOnce(&[u8]) -> Step,
    ) -> Poll<io::Result<Filled>> {
        if self.is_empty() {
            self.poll_in_place(io, cx, cursor, scan)
        } else {
            self.poll_behind(io, cx, cursor, scan)
        }
    }

    #[expect(unsafe_code, reason = "hyper's cursor can be filled in place by no other way")]
    fn poll_in_place<T: Read + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
        cursor: &mut ReadBufCursor<'_>,
        scan: impl FnOnce(&[u8]) -> Step,
    ) -> Poll<io::Result<Filled>> {
        // SAFETY: nothing in the window is made uninitialized: a `ReadBuf` only ever writes bytes to it.
        let mut window = ReadBuf::uninit(unsafe { cursor.as_mut() });
        ready!(Pin::new(io).poll_read(cx, window.unfilled()))?;
        let read = window.filled();
        let step = scan(read);
        let passed = step.pass.min(read.len());
        let is_end = read.is_empty();
        self.bytes
            .extend_from_slice(read.get(passed..).unwrap_or_default());
        // SAFETY: the window begins where the cursor stands, and at least `passed` bytes of it are filled.
        unsafe { cursor.advance(passed) };
        Poll::Ready(Ok(Filled {
            passed,
            stop: step.stop,
            is_end,
        }))
    }

    fn poll_behind<T: Read + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
        cursor: &mut ReadBufCursor<'_>,
        scan: impl FnOnce(&[u8]) -> Step,
    ) -> Poll<io::Result<Filled>> {
        let mut space = [MaybeUninit::uninit(); READ_BYTES];
        let mut read = ReadBuf::uninit(&mut space);
        ready!(Pin::new(io).poll_read(cx, read.unfilled()))?;
        let is_end = read.filled().is_empty();
        self.bytes.extend_from_slice(read.filled());
        let stop = self.rescan(scan);
        let before = cursor.remaining();
        self.serve(cursor);
        let passed = before - cursor.remaining();
        Poll::Ready(Ok(Filled { passed, stop, is_end }))
    }

    fn forget_taken(&mut self) {
        self.bytes.drain(..self.taken);
        (self.taken, self.passable) = (0, 0);
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT_BYTES_MAX {
            self.bytes = Vec::new();
        }
    }
}
