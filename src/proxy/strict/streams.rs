//! Which streams of HTTP/2 a client has yet to end.

/// Most of them that are remembered: more than may be open at once, since streams that Weir has reset stay as long as
/// their client does not end them.
const REMEMBERED_MAX: usize = 512;

/// The client's half of its streams (RFC 9113 §5.1). Pure.
#[derive(Debug, Default)]
pub(super) struct ClientStreams {
    /// Streams that have begun and that the client has neither ended nor reset, in rising order.
    open: Vec<u32>,
    /// The last stream that has begun.
    last: u32,
    /// Nothing is known of streams up to this one.
    forgotten: u32,
}

/// A frame for a stream that its sender has ended (RFC 9113 §5.1, STREAM_CLOSED).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct IsEnded;

impl ClientStreams {
    /// The last stream that has begun; 0 before any has.
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    /// HEADERS: the beginning of a request, or its trailers.
    pub(super) fn headers(&mut self, stream: u32, ends: bool) -> Result<(), IsEnded> {
        if stream <= self.last {
            return self.data(stream, ends);
        }
        if stream > self.last.saturating_add(2) {
            // What is passed over is closed, too, but by another error (RFC 9113 §5.1.1).
            self.forgotten = stream - 2;
        }
        self.last = stream;
        if !ends {
            if self.open.len() >= REMEMBERED_MAX {
                self.forgotten = self.open.remove(0);
            }
            self.open.push(stream);
        }
        Ok(())
    }

    /// DATA. What was never begun is left to who knows of it.
    pub(super) fn data(&mut self, stream: u32, ends: bool) -> Result<(), IsEnded> {
        match self.open.binary_search(&stream) {
            Ok(place) if ends => drop(self.open.remove(place)),
            Ok(_) => {}
            Err(_) if stream > self.last || stream <= self.forgotten => {}
            Err(_) => return Err(IsEnded),
        }
        Ok(())
    }

    /// RST_STREAM.
    pub(super) fn reset(&mut self, stream: u32) {
        if let Ok(place) = self.open.binary_search(&stream) {
            self.open.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_end_of_a_stream_is_found_and_nothing_else() {
        let mut streams = ClientStreams::default();
        assert_eq!(streams.data(1, false), Ok(()));
        assert_eq!(streams.headers(1, true), Ok(()));
        assert_eq!(streams.data(1, false), Err(IsEnded));
        assert_eq!(streams.headers(1, true), Err(IsEnded));
        for (stream, trailers) in [(3, false), (5, true)] {
            assert_eq!(streams.headers(stream, false), Ok(()));
            assert_eq!(streams.data(stream, false), Ok(()));
            if trailers {
                assert_eq!(streams.headers(stream, true), Ok(()));
            } else {
                assert_eq!(streams.data(stream, true), Ok(()));
            }
            assert_eq!(streams.data(stream, true), Err(IsEnded));
        }
        assert_eq!(streams.headers(9, false), Ok(()));
        streams.reset(9);
        assert_eq!(streams.data(9, false), Err(IsEnded));
        // One that was passed over is left to who has the error for it.
        assert_eq!(streams.headers(7, true), Ok(()));
        assert_eq!(streams.last(), 9);
    }

    #[test]
    fn streams_that_are_never_ended_are_forgotten_and_then_not_judged() {
        let mut streams = ClientStreams::default();
        for index in 0..10_000 {
            assert_eq!(streams.headers(2 * index + 1, false), Ok(()));
        }
        assert_eq!(streams.open.len(), REMEMBERED_MAX);
        assert_eq!(streams.data(1, true), Ok(()));
        assert_eq!(streams.data(19_999, true), Ok(()));
        assert_eq!(streams.data(19_999, true), Err(IsEnded));
    }
}
