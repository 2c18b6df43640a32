//! The guard around a client's HTTP/2 connection: frames that only cost, and frames of impossible lengths.
//!
//! hyper and h2 bound what they keep: streams, header lists, CONTINUATION frames, empty DATA frames, resets
//! of streams that wait or that were in error. What is left are frames that are answered or looked at and
//! cost the sender next to nothing: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, unknown ones, and resets of
//! requests that are under way. They are counted against what the connection is used for. And some errors get the
//! code here that RFC 9113 has for them, where h2 has another or none.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};

use super::held::Held;
use super::ledger::Ledger;
use super::message::{Step, Stop};
use super::streams::{ClientStreams, IsEnded};
use super::through::write_through;

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
const SETTING_BYTES: usize = 6;
const FAREWELL_BYTES: usize = HEAD_BYTES + 8;

/// Frame types (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// Why a connection ends, with the code that its client is told (RFC 9113 §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// A promise, which only servers make (RFC 9113 §8.4). h2 would read its header block first.
    #[error("the client pushes")]
    Protocol = 1,
    /// A window that no stream can have (RFC 9113 §6.5.2).
    #[error("a setting of the client is out of range")]
    FlowControl = 3,
    /// More of a stream that the client has ended or reset (RFC 9113 §5.1).
    #[error("the client goes on with a stream that it has ended")]
    StreamClosed = 5,
    /// A frame of a length that its type cannot have (RFC 9113 §4.2). h2 reports another error.
    #[error("a frame of the client has the wrong length")]
    FrameSize = 6,
    /// Too many frames that bring nothing.
    #[error("the client floods the connection with frames")]
    Flood = 11,
}

/// Weighs the frames of one connection (RFC 9113 §4.1). Pure.
#[derive(Debug)]
pub(super) struct FrameMeter {
    /// Bytes before the next frame's head.
    skip: usize,
    head: [u8; HEAD_BYTES],
    filled: usize,
    /// One setting, while a SETTINGS frame is passed over.
    setting: [u8; SETTING_BYTES],
    setting_filled: usize,
    streams: ClientStreams,
    /// A header block has begun and not ended: nothing but CONTINUATION may come, as h2 sees to.
    is_in_block: bool,
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
            setting: [0; SETTING_BYTES],
            setting_filled: 0,
            streams: ClientStreams::default(),
            is_in_block: false,
            resets: 0,
            answers: 0,
        }
    }

    /// Weighs the frames that begin in `bytes`, the next ones of the connection, and answers how many of
    /// them may pass. `spent` is what control frames have cost so far.
    pub(super) fn read(&mut self, bytes: &[u8], spent: &mut u32) -> (usize, Result<(), Fault>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            let (skipped, after) = rest.split_at(self.skip.min(rest.len()));
            if self.is_settings()
                && let Err(fault) = self.read_settings(skipped)
            {
                return (at, Err(fault));
            }
            self.skip -= skipped.len();
            let (part, after) = after.split_at(after.len().min(HEAD_BYTES - self.filled));
            for byte in part {
                if let Some(place) = self.head.get_mut(self.filled) {
                    *place = *byte;
                }
                self.filled += 1;
            }
            if self.filled == HEAD_BYTES {
                self.filled = 0;
                if let Err(fault) = self.weigh(spent) {
                    return (bytes.len() - rest.len() + skipped.len(), Err(fault));
                }
            }
            rest = after;
        }
        (bytes.len(), Ok(()))
    }

    /// Weighs `bytes` bytes that were written: what goes to the client is use of the connection, unless it
    /// only answers control frames. Answers how many of them do.
    pub(super) fn wrote(&mut self, bytes: usize, spent: &mut u32) -> usize {
        let answering = bytes.min(self.answers);
        self.answers -= answering;
        let useful = bytes - answering;
        if useful > 0 {
            let made_up = u32::try_from(useful / 1024).unwrap_or(u32::MAX).saturating_add(2);
            *spent = spent.saturating_sub(made_up);
        }
        answering
    }

    /// The GOAWAY that tells the client of `fault` (RFC 9113 §6.8).
    pub(super) fn farewell(&self, fault: Fault) -> [u8; FAREWELL_BYTES] {
        let mut frame = [0; FAREWELL_BYTES];
        let (head, payload) = frame.split_at_mut(HEAD_BYTES);
        head.copy_from_slice(&[0, 0, 8, 7, 0, 0, 0, 0, 0]);
        let (stream, code) = payload.split_at_mut(4);
        stream.copy_from_slice(&self.streams.last().to_be_bytes());
        code.copy_from_slice(&(fault as u32).to_be_bytes());
        frame
    }

    /// What is passed over is the payload of SETTINGS. The preface comes before any head.
    fn is_settings(&self) -> bool {
        let [.., kind, _, _, _, _, _] = self.head;
        self.filled == 0 && kind == SETTINGS
    }

    fn read_settings(&mut self, payload: &[u8]) -> Result<(), Fault> {
        const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
        for byte in payload {
            if let Some(place) = self.setting.get_mut(self.setting_filled) {
                *place = *byte;
            }
            self.setting_filled += 1;
            if self.setting_filled == SETTING_BYTES {
                self.setting_filled = 0;
                let [a, b, high, ..] = self.setting;
                if [a, b] == INITIAL_WINDOW_SIZE && high >= 0x80 {
                    return Err(Fault::FlowControl);
                }
            }
        }
        Ok(())
    }

    fn weigh(&mut self, spent: &mut u32) -> Result<(), Fault> {
        const ACK: u8 = 1;
        const END_STREAM: u8 = 1;
        const END_HEADERS: u8 = 4;
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = self.head;
        self.skip = usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2);
        self.setting_filled = 0;
        if !fits(kind, flags & ACK != 0, self.skip) {
            return Err(Fault::FrameSize);
        }
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        if !self.is_in_block {
            self.follow(kind, flags & END_STREAM != 0, stream)?;
        }
        if let HEADERS | CONTINUATION = kind {
            self.is_in_block = flags & END_HEADERS == 0;
        }
        match kind {
            // An empty one that ends nothing does nothing.
            DATA if self.skip > 0 || flags & END_STREAM != 0 => {
                let made_up = u32::try_from(self.skip / 1024).unwrap_or(0) + 1;
                *spent = spent.saturating_sub(made_up);
            }
            HEADERS => {
                *spent = spent.saturating_sub(CONTROL_PER_REQUEST);
                self.resets = self.resets.saturating_sub(1);
            }
            RST_STREAM => self.resets += 2,
            // Which are answered, and their answers.
            SETTINGS | PING => {
                *spent += 1;
                if flags & ACK == 0 {
                    self.answers += HEAD_BYTES + if kind == PING { 8 } else { 0 };
                }
            }
            _ => *spent += 1,
        }
        if *spent > CONTROL_MAX || self.resets > 2 * RESETS_MAX {
            return Err(Fault::Flood);
        }
        Ok(())
    }
}

impl FrameMeter {
    /// Keeps track of the streams that a client has yet to end.
    fn follow(&mut self, kind: u8, ends: bool, stream: u32) -> Result<(), Fault> {
        let followed = match kind {
            HEADERS => self.streams.headers(stream, ends),
            DATA => self.streams.data(stream, ends),
            RST_STREAM => {
                self.streams.reset(stream);
                Ok(())
            }
            PUSH_PROMISE => return Err(Fault::Protocol),
            _ => Ok(()),
        };
        followed.map_err(|IsEnded| Fault::StreamClosed)
    }
}

/// Whether a frame of `kind` can have a payload of `bytes` (RFC 9113 §6).
fn fits(kind: u8, is_answer: bool, bytes: usize) -> bool {
    match kind {
        PRIORITY => bytes == 5,
        RST_STREAM | WINDOW_UPDATE => bytes == 4,
        PING => bytes == 8,
        SETTINGS => bytes.is_multiple_of(SETTING_BYTES) && !(is_answer && bytes > 0),
        _ => true,
    }
}

/// Ends a client's HTTP/2 connection that is flooded, or whose frames cannot be.
pub(in crate::proxy) struct FrameGuard<T> {
    io: T,
    meter: FrameMeter,
    ledger: Arc<Ledger>,
    held: Held,
    fault: Option<Fault>,
    is_told: bool,
}

impl<T> FrameGuard<T> {
    pub(in crate::proxy) fn new(io: T, ledger: Arc<Ledger>) -> Self {
        Self {
            io,
            meter: FrameMeter::new(),
            ledger,
            held: Held::default(),
            fault: None,
            is_told: false,
        }
    }

    fn wrote(&mut self, polled: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = polled {
            let mut spent = self.ledger.spent();
            self.ledger.discount(self.meter.wrote(*bytes, &mut spent));
            self.ledger.set_spent(spent);
        }
    }
}

impl<T: Read + Write + Unpin> FrameGuard<T> {
    /// Tells the client of `fault`, once, as far as there is room to: the connection ends anyway.
    fn end(&mut self, cx: &mut Context<'_>, fault: Fault) -> io::Error {
        if !self.is_told {
            self.is_told = true;
            let farewell = self.meter.farewell(fault);
            let _ = Pin::new(&mut self.io).poll_write(cx, &farewell);
            let _ = Pin::new(&mut self.io).poll_flush(cx);
        }
        io::Error::new(io::ErrorKind::InvalidData, fault)
    }
}

impl<T: Read + Write + Unpin> Read for FrameGuard<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(fault) = this.fault {
            return Poll::Ready(Err(this.end(cx, fault)));
        }
        let mut spent = this.ledger.spent();
        let (meter, fault) = (&mut this.meter, &mut this.fault);
        let scan = |bytes: &[u8]| {
            let (pass, weighed) = meter.read(bytes, &mut spent);
            *fault = weighed.err();
            Step {
                pass,
                stop: Stop::More,
            }
        };
        let filled = ready!(this.held.poll_fill(&mut this.io, cx, &mut cursor, scan))?;
        this.ledger.set_spent(spent);
        match this.fault {
            // What came before is answered first.
            Some(fault) if filled.passed == 0 => Poll::Ready(Err(this.end(cx, fault))),
            _ => Poll::Ready(Ok(())),
        }
    }
}

write_through!(impl[T: Write + Unpin] for FrameGuard<T>, to io, telling wrote);

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD_BYTES + payload, 0);
        frame
    }

    /// Gives each HEADERS in `bytes` the next stream, and other frames the last one.
    fn number(mut bytes: &mut [u8], stream: &mut u32) {
        while let [l0, l1, l2, kind, _, s0, s1, s2, s3, rest @ ..] = bytes {
            *stream += if *kind == HEADERS { 2 } else { 0 };
            [*s0, *s1, *s2, *s3] = stream.to_be_bytes();
            let length = usize::from(*l0) << 16 | usize::from(*l1) << 8 | usize::from(*l2);
            bytes = &mut rest[length..];
        }
    }

    /// How many of `frame`, each after `before`, pass; at most 5,000.
    fn passing(before: &[u8], frame: &[u8], written: usize) -> usize {
        let (mut meter, mut spent, mut stream) = (FrameMeter::new(), 0, 1);
        let (mut before, mut frame) = (before.to_vec(), frame.to_vec());
        meter.read(&[0; PREFACE_BYTES], &mut spent).1.unwrap();
        let one = |_: &usize| {
            number(&mut before, &mut stream);
            number(&mut frame, &mut stream);
            let read = meter.read(&before, &mut spent).1;
            let read = read.and_then(|()| meter.read(&frame, &mut spent).1);
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
            let flooded = pieces.any(|piece| meter.read(piece, &mut spent).1.is_err());
            assert!(flooded && spent == 1001, "{size}");
        }
    }

    #[test]
    fn a_frame_that_no_client_may_send_ends_the_connection_before_it_passes() {
        let settings = |id: u8, high: u8| [frame(4, 0, 0), vec![0, id, high, 0, 0, 0]].concat();
        let mut window = settings(4, 0x80);
        window[2] = 6;
        let mut largest = settings(4, 0x7f);
        largest[2] = 6;
        for (bytes, passing, expected) in [
            (frame(6, 0, 7), 0, Err(Fault::FrameSize)),
            (frame(2, 0, 4), 0, Err(Fault::FrameSize)),
            (frame(3, 0, 5), 0, Err(Fault::FrameSize)),
            (frame(4, 0, 5), 0, Err(Fault::FrameSize)),
            (frame(4, 1, 6), 0, Err(Fault::FrameSize)),
            (frame(8, 0, 3), 0, Err(Fault::FrameSize)),
            (frame(5, 4, 10), 0, Err(Fault::Protocol)),
            (frame(0, 0, 10), 0, Err(Fault::StreamClosed)),
            (frame(1, 5, 10), 0, Err(Fault::StreamClosed)),
            (window, HEAD_BYTES, Err(Fault::FlowControl)),
            (largest.clone(), largest.len(), Ok(())),
        ] {
            let (mut meter, mut spent) = (FrameMeter::new(), 0);
            let opening = [vec![0; PREFACE_BYTES], frame(1, 5, 3)].concat();
            let (pass, result) = meter.read(&[opening.clone(), bytes].concat(), &mut spent);
            assert_eq!((pass - opening.len(), result), (passing, expected));
            let farewell = meter.farewell(Fault::FrameSize);
            assert_eq!(farewell, [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 6]);
        }
    }
}
