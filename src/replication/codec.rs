//! The wire codec: the one place where bincode meets bytes from the network.
//!
//! Every length is bounded before it is allocated, every value is checked once here, and what comes out
//! is safe to use without another look. `docs/protocol.md` specifies each field.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{Decode, Encode};
use thiserror::Error;

use crate::limit::{KeyHash, RowKey, RuleId, UnixMillis, Window};

use super::id::{Generation, NodeId, ReplicaId};

/// The version of the frames this node sends, and the newest it understands.
pub const FRAME_VERSION: u8 = 1;

/// Largest frame that is decoded at all: one UDP datagram.
pub const FRAME_BYTES_MAX: usize = 65_536;

/// Largest own count a row may claim: what the packed counter of a row can hold.
pub const COUNT_MAX: u64 = (1 << 40) - 1;

/// Newest version a frame may name. A million releases a second reach it in nine years; so far from the end
/// of the type no arithmetic on versions overflows.
pub const VERSION_MAX: Version = 1 << 48;

/// Longest window a row may name: a leap year.
const WINDOW_MILLIS_MAX: u64 = 366 * 86_400_000;

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

/// One datagram's worth of replication.
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
    /// Rows.
    Delta(Delta),
    /// What the sender holds.
    Digest(Digest),
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

type WireConfig = Configuration<LittleEndian, Varint, Limit<FRAME_BYTES_MAX>>;

fn wire_config() -> WireConfig {
    bincode::config::standard().with_limit::<FRAME_BYTES_MAX>()
}

#[derive(Encode, Decode)]
struct WireReplica {
    node: String,
    generation: u64,
}

#[derive(Encode, Decode)]
struct WireFrame {
    sender: WireReplica,
    sent_at: u64,
    body: WireBody,
}

#[derive(Encode, Decode)]
enum WireBody {
    Delta(WireDelta),
    Digest(WireDigest),
}

#[derive(Encode, Decode)]
struct WireDelta {
    log: Option<WireReplica>,
    interval: Interval,
    complete_at: u64,
    paused: bool,
    groups: Vec<WireGroup>,
}

#[derive(Encode, Decode)]
struct WireGroup {
    subject: Option<WireReplica>,
    rule: [u8; 8],
    window_start: u64,
    window_millis: u64,
    rows: Vec<WireRow>,
}

#[derive(Encode, Decode)]
struct WireRow {
    key: [u8; 16],
    ahead: u64,
    count: u64,
}

#[derive(Encode, Decode)]
struct WireDigest {
    wants_reply: bool,
    above: Option<WireReplica>,
    up_to: Option<WireReplica>,
    entries: Vec<WireEntry>,
}

#[derive(Encode, Decode)]
struct WireEntry {
    log: WireReplica,
    confirmed: u64,
    received: Vec<Received>,
}

/// Most bytes that [`encode`] adds around the rows of a delta that `sender` sends of `log`.
#[must_use]
pub fn delta_bytes(sender: &ReplicaId, log: &ReplicaId) -> usize {
    // Version, sender, time, body tag; log; interval, complete_at, paused, number of groups.
    1 + replica_bytes(sender) + 9 + 1 + (1 + replica_bytes(log)) + 3 * 9 + 1 + 9
}

/// Most bytes that [`encode`] adds around the entries of a digest that `sender` sends.
#[must_use]
pub fn digest_bytes(sender: &ReplicaId) -> usize {
    // Version, sender, time, body tag; wants_reply, two replicas at their longest, number of entries.
    1 + replica_bytes(sender) + 9 + 1 + 1 + 2 * (1 + 1 + NodeId::MAX_BYTES + 9) + 9
}

/// Most bytes that a group header adds to a delta when it names `subject`.
#[must_use]
pub fn group_bytes(subject: Option<&ReplicaId>) -> usize {
    1 + subject.map_or(0, replica_bytes) + 8 + 9 + 9 + 9
}

/// Bytes of one row at its exact width.
#[must_use]
pub fn row_bytes(ahead: u64, count: u64) -> usize {
    16 + varint_bytes(ahead) + varint_bytes(count)
}

/// Most bytes that `entry` adds to a digest.
#[must_use]
pub fn entry_bytes(entry: &DigestEntry) -> usize {
    replica_bytes(&entry.log) + 9 + 3 + entry.received.len() * 27
}

fn replica_bytes(replica: &ReplicaId) -> usize {
    1 + replica.node.as_str().len() + 9
}

fn varint_bytes(value: u64) -> usize {
    match value {
        0..=250 => 1,
        251..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

/// The bytes of `frame`: a version byte, then bincode 2 with variable-length integers.
#[must_use]
pub fn encode(frame: &Frame) -> Vec<u8> {
    let mut bytes = vec![FRAME_VERSION];
    let wire = to_wire(frame);
    bincode::encode_into_std_write(&wire, &mut bytes, bincode::config::standard())
        .expect("writing to a Vec does not fail and every field has a plain encoding");
    bytes
}

/// Reads one frame.
///
/// # Errors
/// Any input that [`encode`] cannot have produced: unknown version, malformed, trailing bytes, or a value
/// out of bounds.
pub fn decode(bytes: &[u8]) -> Result<Frame, FrameError> {
    let (&version, rest) = bytes.split_first().ok_or(FrameError::Bounds("empty"))?;
    if version != FRAME_VERSION {
        return Err(FrameError::Version(version));
    }
    let (wire, used): (WireFrame, usize) = bincode::decode_from_slice(rest, wire_config())?;
    if used != rest.len() {
        return Err(FrameError::Bounds("trailing bytes"));
    }
    from_wire(wire)
}

fn to_wire(frame: &Frame) -> WireFrame {
    let body = match &frame.body {
        Body::Delta(delta) => WireBody::Delta(delta_to_wire(delta, &frame.sender)),
        Body::Digest(digest) => WireBody::Digest(WireDigest {
            wants_reply: digest.wants_reply,
            above: digest.above.as_ref().map(replica_to_wire),
            up_to: digest.up_to.as_ref().map(replica_to_wire),
            entries: digest.entries.iter().map(entry_to_wire).collect(),
        }),
    };
    WireFrame {
        sender: replica_to_wire(&frame.sender),
        sent_at: frame.sent_at.0,
        body,
    }
}

fn delta_to_wire(delta: &Delta, sender: &ReplicaId) -> WireDelta {
    let mut groups: Vec<(Option<&ReplicaId>, RuleId, Window, Vec<WireRow>)> = Vec::new();
    for row in &delta.rows {
        let wire = WireRow {
            key: row.key.key.0.to_le_bytes(),
            ahead: row.version.saturating_sub(delta.interval.after),
            count: row.count,
        };
        let same = groups.iter_mut().find(|(subject, rule, window, _)| {
            *subject == row.subject.as_ref() && *rule == row.key.rule && *window == row.key.window
        });
        match same {
            Some((.., rows)) => rows.push(wire),
            None => groups.push((row.subject.as_ref(), row.key.rule, row.key.window, vec![wire])),
        }
    }
    WireDelta {
        log: (delta.log != *sender).then(|| replica_to_wire(&delta.log)),
        interval: delta.interval,
        complete_at: delta.complete_at,
        paused: delta.paused,
        groups: groups
            .into_iter()
            .map(|(subject, rule, window, rows)| WireGroup {
                subject: subject.map(replica_to_wire),
                rule: rule.0.to_le_bytes(),
                window_start: window.start.0,
                window_millis: window.end.0.saturating_sub(window.start.0),
                rows,
            })
            .collect(),
    }
}

fn entry_to_wire(entry: &DigestEntry) -> WireEntry {
    WireEntry {
        log: replica_to_wire(&entry.log),
        confirmed: entry.confirmed,
        received: entry.received.clone(),
    }
}

fn replica_to_wire(replica: &ReplicaId) -> WireReplica {
    WireReplica {
        node: replica.node.as_str().to_owned(),
        generation: replica.generation.0,
    }
}

fn from_wire(wire: WireFrame) -> Result<Frame, FrameError> {
    let sender = replica_from_wire(&wire.sender)?;
    let body = match wire.body {
        WireBody::Delta(delta) => Body::Delta(delta_from_wire(delta, &sender)?),
        WireBody::Digest(digest) => Body::Digest(digest_from_wire(digest)?),
    };
    Ok(Frame {
        sender,
        sent_at: UnixMillis(wire.sent_at),
        body,
    })
}

fn delta_from_wire(wire: WireDelta, sender: &ReplicaId) -> Result<Delta, FrameError> {
    let interval = interval_checked(wire.interval)?;
    if wire.complete_at < interval.to {
        return Err(FrameError::Bounds("complete before its own end"));
    }
    let mut rows = Vec::with_capacity(wire.groups.iter().map(|group| group.rows.len()).sum());
    for group in wire.groups {
        let subject = group.subject.as_ref().map(replica_from_wire).transpose()?;
        let window = window_checked(group.window_start, group.window_millis)?;
        let rule = RuleId(u64::from_le_bytes(group.rule));
        for row in group.rows {
            let version = interval
                .after
                .checked_add(row.ahead)
                .filter(|version| interval.after < *version && *version <= interval.to);
            rows.push(DeltaRow {
                version: version.ok_or(FrameError::Bounds("row outside its interval"))?,
                subject: subject.clone(),
                key: RowKey {
                    rule,
                    window,
                    key: KeyHash(u128::from_le_bytes(row.key)),
                },
                count: count_checked(row.count)?,
            });
        }
    }
    // Two rows may claim one version; what was read must not depend on the order of the groups even then.
    rows.sort_by(|a, b| {
        let rest = |row: &DeltaRow| (row.key, row.count);
        let tie = || a.subject.cmp(&b.subject).then_with(|| rest(a).cmp(&rest(b)));
        a.version.cmp(&b.version).then_with(tie)
    });
    Ok(Delta {
        log: wire
            .log
            .as_ref()
            .map(replica_from_wire)
            .transpose()?
            .unwrap_or_else(|| sender.clone()),
        interval,
        complete_at: version_checked(wire.complete_at)?,
        paused: wire.paused,
        rows,
    })
}

fn digest_from_wire(wire: WireDigest) -> Result<Digest, FrameError> {
    let entries = wire
        .entries
        .into_iter()
        .map(|entry| {
            let received = entry
                .received
                .into_iter()
                .map(received_checked)
                .collect::<Result<Vec<_>, _>>()?;
            Ok(DigestEntry {
                log: replica_from_wire(&entry.log)?,
                confirmed: version_checked(entry.confirmed)?,
                received,
            })
        })
        .collect::<Result<Vec<_>, FrameError>>()?;
    if !entries.is_sorted_by(|a, b| a.log < b.log) {
        return Err(FrameError::Bounds("digest not sorted"));
    }
    Ok(Digest {
        wants_reply: wire.wants_reply,
        above: wire.above.as_ref().map(replica_from_wire).transpose()?,
        up_to: wire.up_to.as_ref().map(replica_from_wire).transpose()?,
        entries,
    })
}

fn replica_from_wire(wire: &WireReplica) -> Result<ReplicaId, FrameError> {
    let node = wire.node.parse().map_err(|_| FrameError::Bounds("node id"))?;
    Ok(ReplicaId {
        node,
        generation: Generation(wire.generation),
    })
}

fn interval_checked(interval: Interval) -> Result<Interval, FrameError> {
    if interval.after >= interval.to {
        return Err(FrameError::Bounds("empty interval"));
    }
    version_checked(interval.to).map(|_| interval)
}

fn version_checked(version: Version) -> Result<Version, FrameError> {
    if version <= VERSION_MAX {
        Ok(version)
    } else {
        Err(FrameError::Bounds("version"))
    }
}

fn received_checked(received: Received) -> Result<Received, FrameError> {
    interval_checked(received.interval)?;
    if received.complete_at < received.interval.to {
        return Err(FrameError::Bounds("complete before its own end"));
    }
    Ok(received)
}

fn window_checked(start: u64, millis: u64) -> Result<Window, FrameError> {
    if !(1..=WINDOW_MILLIS_MAX).contains(&millis) {
        return Err(FrameError::Bounds("window length"));
    }
    let end = start
        .checked_add(millis)
        .ok_or(FrameError::Bounds("window end"))?;
    Ok(Window {
        start: UnixMillis(start),
        end: UnixMillis(end),
    })
}

fn count_checked(count: u64) -> Result<u64, FrameError> {
    if (1..=COUNT_MAX).contains(&count) {
        Ok(count)
    } else {
        Err(FrameError::Bounds("count"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn replicas() -> impl Strategy<Value = ReplicaId> {
        ("[a-z][a-z0-9-]{0,20}", any::<u64>()).prop_map(|(node, generation)| ReplicaId {
            node: node.parse().expect("a valid id"),
            generation: Generation(generation),
        })
    }

    fn windows() -> impl Strategy<Value = Window> {
        (0..u64::MAX / 2, 1..=WINDOW_MILLIS_MAX).prop_map(|(start, millis)| Window {
            start: UnixMillis(start),
            end: UnixMillis(start + millis),
        })
    }

    fn deltas() -> impl Strategy<Value = Delta> {
        let row = (
            proptest::option::of(replicas()),
            any::<u64>(),
            windows(),
            any::<u128>(),
            1..=COUNT_MAX,
        );
        (
            replicas(),
            0..VERSION_MAX / 2,
            proptest::collection::vec(row, 1..20),
            any::<bool>(),
            0..9_u64,
        )
            .prop_map(|(log, after, rows, paused, later)| {
                let rows: Vec<_> = rows
                    .into_iter()
                    .zip(after + 1..)
                    .map(|((subject, rule, window, key, count), version)| DeltaRow {
                        version,
                        subject,
                        key: RowKey {
                            rule: RuleId(rule),
                            window,
                            key: KeyHash(key),
                        },
                        count,
                    })
                    .collect();
                let to = after + rows.len() as u64;
                Delta {
                    log,
                    interval: Interval { after, to },
                    complete_at: to + later,
                    paused,
                    rows,
                }
            })
    }

    fn digests() -> impl Strategy<Value = Digest> {
        let entry = (
            0..VERSION_MAX,
            proptest::collection::vec((0..1_000_u64, 1..9_u64), 0..4),
        );
        let logs = proptest::collection::btree_map(replicas(), entry, 0..10);
        (
            any::<bool>(),
            proptest::option::of(replicas()),
            proptest::option::of(replicas()),
            logs,
        )
            .prop_map(|(wants_reply, above, up_to, logs)| Digest {
                wants_reply,
                above,
                up_to,
                entries: logs
                    .into_iter()
                    .map(|(log, (confirmed, received))| DigestEntry {
                        log,
                        confirmed,
                        received: received
                            .into_iter()
                            .map(|(after, len)| Received {
                                interval: Interval {
                                    after,
                                    to: after + len,
                                },
                                complete_at: after + 2 * len,
                            })
                            .collect(),
                    })
                    .collect(),
            })
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let body = prop_oneof![deltas().prop_map(Body::Delta), digests().prop_map(Body::Digest)];
        (replicas(), any::<u64>(), body).prop_map(|(sender, at, body)| Frame {
            sender,
            sent_at: UnixMillis(at),
            body,
        })
    }

    proptest! {
        #[test]
        fn a_frame_survives_the_wire_within_its_stated_size(frame in frames()) {
            let bytes = encode(&frame);
            prop_assert_eq!(decode(&bytes).expect("decodes"), frame.clone());
            let row = |row: &DeltaRow, after| {
                group_bytes(row.subject.as_ref()) + row_bytes(row.version - after, row.count)
            };
            let most = match &frame.body {
                Body::Delta(delta) => {
                    let rows = delta.rows.iter().map(|each| row(each, delta.interval.after));
                    delta_bytes(&frame.sender, &delta.log) + rows.sum::<usize>()
                }
                Body::Digest(digest) => {
                    digest_bytes(&frame.sender) + digest.entries.iter().map(entry_bytes).sum::<usize>()
                }
            };
            prop_assert!(bytes.len() <= most);
        }

        #[test]
        fn a_cut_or_lengthened_frame_is_refused(frame in frames(), cut in any::<prop::sample::Index>()) {
            let mut bytes = encode(&frame);
            prop_assert!(decode(&bytes[..cut.index(bytes.len())]).is_err());
            bytes.push(0);
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let _ = decode(&bytes);
            let mut versioned = vec![FRAME_VERSION];
            versioned.extend(bytes);
            let _ = decode(&versioned);
        }
    }

    fn delta_of_three_rows(versions: [u64; 2]) -> Frame {
        let replica = ReplicaId {
            node: "a".parse().expect("valid"),
            generation: Generation(1),
        };
        let row = |version, key, rule| DeltaRow {
            version,
            subject: None,
            key: RowKey {
                rule: RuleId(rule),
                window: Window {
                    start: UnixMillis(0),
                    end: UnixMillis(1),
                },
                key: KeyHash(key),
            },
            count: 1,
        };
        let [first, second] = versions;
        let delta = Delta {
            log: replica.clone(),
            interval: Interval { after: 4, to: 9 },
            complete_at: 9,
            paused: false,
            rows: vec![row(first, 1, 1), row(second, 2, 2), row(second, 3, 1)],
        };
        Frame {
            sender: replica,
            sent_at: UnixMillis(1),
            body: Body::Delta(delta),
        }
    }

    #[test]
    fn a_row_in_front_of_its_interval_is_refused() {
        assert!(decode(&encode(&delta_of_three_rows([5, 9]))).is_ok());
        let refused = decode(&encode(&delta_of_three_rows([4, 9])));
        assert!(matches!(
            refused,
            Err(FrameError::Bounds("row outside its interval"))
        ));
    }

    #[test]
    fn rows_that_claim_one_version_read_back_as_they_were_read() {
        let read = decode(&encode(&delta_of_three_rows([5, 6]))).expect("decodes");
        assert_eq!(decode(&encode(&read)).expect("decodes"), read);
    }

    #[test]
    fn a_hostile_length_is_refused_without_an_allocation() {
        let frame = Frame {
            sender: ReplicaId {
                node: "a".parse().expect("valid"),
                generation: Generation(1),
            },
            sent_at: UnixMillis(1),
            body: Body::Digest(Digest::default()),
        };
        let mut bytes = encode(&frame);
        bytes.truncate(bytes.len() - 1);
        bytes.extend([253, 255, 255, 255, 255, 255, 255, 255, 255]);
        assert!(matches!(decode(&bytes), Err(FrameError::Malformed(_))));
    }
}
