//! What the plaintext of a datagram carries, and the fragments of membership messages.
//!
//! Pure. The first byte of a plaintext is its channel: a replication frame (which always fits), a whole
//! membership message, or a fragment of one. chitchat's messages may fill 65,507 bytes, and IP fragments
//! do not survive every overlay network, so they are cut and put together here.
//!
//! Promises that reassembly keeps no more than [`Reassembly::BYTES_MAX`] whatever arrives.

use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;

const CHANNEL_FRAME: u8 = 0;
const CHANNEL_MESSAGE: u8 = 1;
const CHANNEL_FRAGMENT: u8 = 2;

/// Largest membership message in bytes: chitchat fills at most the payload of one UDP datagram.
pub const MESSAGE_BYTES_MAX: usize = 65_507;
/// Longest header in bytes: channel, message id, index, count.
pub const HEADER_BYTES_MAX: usize = 7;
/// First byte of the plaintext that carries a replication frame.
pub const FRAME_HEADER: &[u8] = &[CHANNEL_FRAME];

/// What a plaintext carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// A replication frame.
    Frame(&'a [u8]),
    /// A whole membership message.
    Message(&'a [u8]),
    /// A part of one.
    Fragment(Fragment<'a>),
}

/// A part of a membership message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// Which message, unique per sender while fragments of it may be on the way.
    pub message: u32,
    /// Which part; below `count`.
    pub index: u8,
    /// How many parts there are; at least 1.
    pub count: u8,
    /// The bytes.
    pub payload: &'a [u8],
}

/// A plaintext that carries nothing known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("unknown channel or malformed fragment header")]
pub struct ContentError;

/// Reads the channel of `plaintext`.
///
/// # Errors
/// [`ContentError`] for an unknown channel, or a fragment that is cut short or out of its own range.
pub fn parse(plaintext: &[u8]) -> Result<Content<'_>, ContentError> {
    match plaintext.split_first() {
        Some((&CHANNEL_FRAME, frame)) => Ok(Content::Frame(frame)),
        Some((&CHANNEL_MESSAGE, message)) => Ok(Content::Message(message)),
        Some((&CHANNEL_FRAGMENT, fragment)) => parse_fragment(fragment).map(Content::Fragment),
        _ => Err(ContentError),
    }
}

fn parse_fragment(bytes: &[u8]) -> Result<Fragment<'_>, ContentError> {
    let (id, rest) = bytes.split_first_chunk::<4>().ok_or(ContentError)?;
    let (&[index, count], payload) = rest.split_first_chunk::<2>().ok_or(ContentError)?;
    if index >= count || payload.is_empty() {
        return Err(ContentError);
    }
    Ok(Fragment {
        message: u32::from_be_bytes(*id),
        index,
        count,
        payload,
    })
}

/// A membership message that cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a membership message of {0} bytes does not fit 255 fragments")]
pub struct TooLong(pub usize);

/// Cuts `message` into plaintexts of at most `plaintext_bytes_max`, each given as its header and payload.
/// A message that fits goes whole and does not use `id`.
///
/// # Errors
/// [`TooLong`] if it needs more than 255 fragments.
pub fn split(
    message: &[u8],
    id: u32,
    plaintext_bytes_max: usize,
) -> Result<impl Iterator<Item = (Header, &[u8])>, TooLong> {
    let whole = message.len() < plaintext_bytes_max;
    let room = match plaintext_bytes_max.saturating_sub(HEADER_BYTES_MAX) {
        _ if whole => plaintext_bytes_max,
        0 => return Err(TooLong(message.len())),
        room => room,
    };
    // A whole message may be empty, and is still one piece.
    let count = u8::try_from(message.len().div_ceil(room).max(1)).map_err(|_| TooLong(message.len()))?;
    let piece = move |index: u8| {
        let start = usize::from(index) * room;
        let payload = message.get(start..message.len().min(start + room));
        let header = if whole {
            Header::message()
        } else {
            Header::fragment(id, index, count)
        };
        (header, payload.unwrap_or_default())
    };
    Ok((0..count).map(piece))
}

/// The bytes before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    bytes: [u8; HEADER_BYTES_MAX],
    length: usize,
}

impl Header {
    fn message() -> Self {
        Self {
            bytes: [CHANNEL_MESSAGE, 0, 0, 0, 0, 0, 0],
            length: 1,
        }
    }

    fn fragment(message: u32, index: u8, count: u8) -> Self {
        let [a, b, c, d] = message.to_be_bytes();
        Self {
            bytes: [CHANNEL_FRAGMENT, a, b, c, d, index, count],
            length: HEADER_BYTES_MAX,
        }
    }

    /// The header as it goes into the plaintext.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Puts the fragments of membership messages together again.
#[derive(Debug, Default)]
pub struct Reassembly {
    // Oldest first. Short by `MESSAGES_MAX`, so that scanning it beats any index.
    partials: Vec<Partial>,
    bytes: usize,
    expired: u64,
}

#[derive(Debug)]
struct Partial {
    from: SocketAddr,
    message: u32,
    started: Duration,
    parts: Vec<Option<Box<[u8]>>>,
    missing: usize,
    payload_bytes: usize,
}

impl Reassembly {
    /// Most bytes kept, bookkeeping included: sixteen of the largest messages.
    pub const BYTES_MAX: usize = 1 << 20;
    /// Most incomplete messages kept of one address: chitchat has a handshake or two under way.
    pub const MESSAGES_PER_PEER_MAX: usize = 4;
    /// Most incomplete messages kept in all.
    pub const MESSAGES_MAX: usize = 256;
    /// How long an incomplete message is kept: many round trips, and far below chitchat's patience.
    pub const AGE_MAX: Duration = Duration::from_secs(2);

    /// Takes in `fragment` from `from` at the monotonic instant `now`, and returns the message that it
    /// completes, if any. Repeated fragments, and fragments that contradict earlier ones, are ignored.
    /// The oldest messages go when a bound is reached.
    pub fn insert(&mut self, from: SocketAddr, fragment: Fragment<'_>, now: Duration) -> Option<Vec<u8>> {
        self.expire(now);
        let known = |partial: &Partial| partial.from == from && partial.message == fragment.message;
        let index = match self.partials.iter().position(known) {
            Some(index) => index,
            None => self.begin(from, fragment, now),
        };
        let partial = self.partials.get_mut(index)?;
        let added = partial.add(fragment)?;
        self.bytes += added;
        if partial.payload_bytes > MESSAGE_BYTES_MAX {
            self.remove(index);
            return None;
        }
        if partial.missing == 0 {
            return Some(self.remove(index).concat());
        }
        while self.bytes > Self::BYTES_MAX {
            self.remove_oldest(|_| true);
        }
        None
    }

    /// How many incomplete messages were given up.
    #[must_use]
    pub fn expired(&self) -> u64 {
        self.expired
    }

    fn begin(&mut self, from: SocketAddr, fragment: Fragment<'_>, now: Duration) -> usize {
        let of_peer = |partial: &Partial| partial.from == from;
        if self.partials.iter().filter(|partial| of_peer(partial)).count() >= Self::MESSAGES_PER_PEER_MAX {
            self.remove_oldest(of_peer);
        }
        if self.partials.len() >= Self::MESSAGES_MAX {
            self.remove_oldest(|_| true);
        }
        let partial = Partial::new(from, fragment, now);
        self.bytes += partial.cost();
        self.partials.push(partial);
        self.partials.len() - 1
    }

    fn expire(&mut self, now: Duration) {
        let stale = |partial: &Partial| now.saturating_sub(partial.started) > Self::AGE_MAX;
        while self.partials.first().is_some_and(stale) {
            self.remove_oldest(|_| true);
        }
    }

    fn remove_oldest(&mut self, which: impl Fn(&Partial) -> bool) {
        if let Some(index) = self.partials.iter().position(which) {
            self.remove(index);
            self.expired += 1;
        }
    }

    fn remove(&mut self, index: usize) -> Partial {
        let partial = self.partials.remove(index);
        self.bytes -= partial.cost();
        partial
    }
}

impl Partial {
    fn new(from: SocketAddr, fragment: Fragment<'_>, now: Duration) -> Self {
        let count = usize::from(fragment.count);
        Self {
            from,
            message: fragment.message,
            started: now,
            parts: vec![None; count],
            missing: count,
            payload_bytes: 0,
        }
    }

    /// Keeps the fragment and returns its length, or `None` if it brings nothing new.
    fn add(&mut self, fragment: Fragment<'_>) -> Option<usize> {
        if self.parts.len() != usize::from(fragment.count) {
            return None;
        }
        let part = self.parts.get_mut(usize::from(fragment.index))?;
        if part.is_some() {
            return None;
        }
        *part = Some(fragment.payload.into());
        self.missing -= 1;
        self.payload_bytes += fragment.payload.len();
        Some(fragment.payload.len())
    }

    fn cost(&self) -> usize {
        size_of::<Self>() + self.parts.len() * size_of::<Option<Box<[u8]>>>() + self.payload_bytes
    }

    fn concat(self) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.payload_bytes);
        for part in self.parts.into_iter().flatten() {
            message.extend_from_slice(&part);
        }
        message
    }
}

#[cfg(test)]
#[path = "fragment_tests.rs"]
mod tests;
