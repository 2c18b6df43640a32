//! The wire codec: the one place where bincode meets bytes from the network.
//!
//! Every length is bounded before it is allocated, every value is checked once here, and what comes out
//! is safe to use without another look. `docs/protocol.md` specifies each field.

mod size;
mod wire;

#[cfg(test)]
mod tests;

use bincode::{Decode, Encode};
use thiserror::Error;

use crate::bounded::{Answer, Ask};
use crate::limit::{RowKey, UnixMillis};

use crate::replica::ReplicaId;

pub use size::{
    delta_bytes, digest_bytes, entry_bytes, frame_bytes, grants_bytes, group_bytes, row_bytes, transfer_bytes,
};

/// The newest version of frames that this node understands, and sends once every live peer understands it.
pub const FRAME_VERSION: u8 = 3;

/// The oldest version that is still understood.
pub const FRAME_VERSION_MIN: u8 = 1;

/// The first version in which rights to bounded rows move: grants and transfers.
pub const FRAME_VERSION_RIGHTS: u8 = 3;

/// Largest frame that is decoded at all: one UDP datagram.
pub const FRAME_BYTES_MAX: usize = 65_536;

/// Largest own count a row may claim: what the packed counter of a row can hold.
pub const COUNT_MAX: u64 = (1 << 40) - 1;

/// Newest version a frame may name. A million releases a second reach it in nine years; so far from the end
/// of the type no arithmetic on versions overflows.
pub const VERSION_MAX: Version = 1 << 48;

/// Most takers that one replica grants rights of one row to. A row with all of them takes 400 bytes: it still
/// fits every frame, and a node seldom asks more than three peers.
pub const GRANTS_MAX: usize = 16;

/// Longest window a row may name: a leap year.
pub const WINDOW_MILLIS_MAX: u64 = 366 * 86_400_000;

/// A position in a replica's version log. Versions are contiguous and start at 1; 0 means "nothing yet".
pub type Version = u64;

/// A half-open stretch `(after, to]` of a version log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Interval {
    /// Last version before the interval.
    pub after: Version,
    /// Last version in it.
    pub to: Version,
}

/// A stretch that was received beyond a claim, and how far the log must be held for it to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Received {
    /// The stretch.
    pub interval: Interval,
    /// See [`Delta::complete_at`].
    pub complete_at: Version,
}

/// What one datagram carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Who sends it. Trusted because the datagram was sealed, whatever address it came from.
    pub sender: ReplicaId,
    /// The sender's wall clock.
    pub sent_at: UnixMillis,
    /// What it says.
    pub body: Body,
}

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Rows: one delta in version 1, at least one in later ones.
    Deltas(Vec<Delta>),
    /// What the sender holds.
    Digest(Digest),
    /// Asks for rights and what answers them, at least one. From version 3 on.
    Transfers(Vec<Transfer>),
}

/// Rows of one version log, and the interval of the log they stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Whose log.
    pub log: ReplicaId,
    /// The stretch of the log that the rows stand for.
    pub interval: Interval,
    /// Holding the interval means something only once the log is held up to here: rows that left it
    /// stand at most this far on.
    pub complete_at: Version,
    /// The sender has more of this log and paused; ask again.
    pub paused: bool,
    /// The rows, in ascending order of version.
    pub rows: Vec<DeltaRow>,
}

/// One row on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaRow {
    /// Its place in the log.
    pub version: Version,
    /// Whose count it is, when it is not the log owner's: a row adopted from a replica that died.
    pub subject: Option<ReplicaId>,
    /// Which counter.
    pub key: RowKey,
    /// The subject's own count; 1 to [`COUNT_MAX`].
    pub count: u64,
    /// What of that count the subject granted to others: at most [`GRANTS_MAX`], sorted by taker. Versions
    /// before 3 leave it out.
    pub grants: Vec<Grant>,
}

/// Rights to one row that its subject gave away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    /// Who received them: the hash that members are ranked by ([`crate::bounded::replica_hash`]), so that a
    /// grant need not name a replica that the receiver never heard of.
    pub taker: u64,
    /// How many hits in all so far; 1 to [`COUNT_MAX`].
    pub hits: u64,
}

/// One step of a transfer of rights between the sender of a frame and its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The row.
    pub key: RowKey,
    /// What the sender says of it.
    pub kind: TransferKind,
}

/// What one replica says to another of the rights to one row. No number is above [`COUNT_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferKind {
    /// The sender wants rights of the receiver.
    Ask(Ask),
    /// What the sender has granted to the receiver, and whether anything is left.
    Answer(Answer),
}

/// What a replica holds of each log, one page of it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Digest {
    /// Ask the receiver for its own digest in return.
    pub wants_reply: bool,
    /// The page covers the logs of replicas above this one…
    pub above: Option<ReplicaId>,
    /// …up to and including this one; `None`: to the end. A log in the page's range that is not listed
    /// is not held at all.
    pub up_to: Option<ReplicaId>,
    /// The logs, sorted by replica.
    pub entries: Vec<DigestEntry>,
}

/// What a replica holds of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestEntry {
    /// Whose log.
    pub log: ReplicaId,
    /// Everything up to here is held.
    pub confirmed: Version,
    /// Stretches beyond that were received too. Whoever can give all that one asks for may skip it.
    pub received: Vec<Received>,
}

/// Why bytes are no frame. Nothing was changed by them.
#[derive(Debug, Error)]
pub enum FrameError {
    /// A frame of a version this node does not speak.
    #[error("frame version {0} is not understood; this node speaks up to {FRAME_VERSION}")]
    Version(u8),
    /// It does not decode.
    #[error("malformed frame: {0}")]
    Malformed(#[from] bincode::error::DecodeError),
    /// It decodes to something out of bounds.
    #[error("frame out of bounds: {0}")]
    Bounds(&'static str),
}

impl FrameError {
    /// A short label for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Version(_) => "version",
            Self::Malformed(_) => "malformed",
            Self::Bounds(_) => "bounds",
        }
    }
}

/// The bytes of `frame` in the newest version.
#[must_use]
pub fn encode(frame: &Frame) -> Vec<u8> {
    encode_as(frame, FRAME_VERSION).expect("the newest version says everything")
}

/// The bytes of `frame` in `version`: a version byte, then bincode 2 with variable-length integers. `None`
/// when that version cannot say it: version 1 has one delta a frame, and transfers exist from version 3 on.
/// Versions before 3 leave grants out.
#[must_use]
pub fn encode_as(frame: &Frame, version: u8) -> Option<Vec<u8>> {
    let mut bytes = vec![version];
    match version {
        1 => wire::write(&wire::to_v1(frame)?, &mut bytes),
        2 => wire::write(&wire::to_v2(frame)?, &mut bytes),
        3 => wire::write(&wire::to_v3(frame), &mut bytes),
        _ => return None,
    }
    Some(bytes)
}

/// Reads one frame.
///
/// # Errors
/// Any input that [`encode_as`] cannot have produced: unknown version, malformed, trailing bytes, or a value
/// out of bounds.
pub fn decode(bytes: &[u8]) -> Result<Frame, FrameError> {
    let (&version, rest) = bytes.split_first().ok_or(FrameError::Bounds("empty"))?;
    match version {
        1 => wire::from_v1(wire::read(rest)?),
        2 => wire::from_v2(wire::read(rest)?),
        3 => wire::from_v3(wire::read(rest)?),
        _ => Err(FrameError::Version(version)),
    }
}
