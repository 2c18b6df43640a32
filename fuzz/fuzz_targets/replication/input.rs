//! Bytes to steps. Read front to back, so that a captured frame can stand in a seed as it is:
//! `0, length u16 LE, frame`.

use std::time::Duration;

use arbitrary::{Result, Unstructured};
use weir::bounded::{Answer, Ask, replica_hash};
use weir::limit::{KeyHash, RowKey, Rule, RuleId, UnixMillis, Window};
use weir::replica::{Generation, ReplicaId};
use weir::replication::codec::{
    self, Body, COUNT_MAX, Delta, DeltaRow, Digest, DigestEntry, Frame, GRANTS_MAX, Grant, Interval,
    Received, Transfer, TransferKind,
};

/// Where every run starts; that of the simulator, whose frames are among the seeds.
pub const EPOCH: UnixMillis = UnixMillis(1_767_614_400_000);

/// One of 256 keys, spread as a hash spreads them: the table expects that.
pub fn key(number: u8) -> KeyHash {
    KeyHash(u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

/// One step.
pub enum Op {
    /// A peer's datagram.
    Receive(Vec<u8>),
    /// The last one twice more.
    Replay,
    /// Requests at this node.
    Hits { rule: usize, key: u8, times: u8 },
    /// These peers live, one a bit.
    Members(u8),
    /// Time passes.
    Advance(Duration),
    /// The node starts to leave.
    Leave,
}

/// Who and what the frames speak of.
pub struct Peers {
    pub me: ReplicaId,
    pub others: Vec<ReplicaId>,
    rules: Vec<(RuleId, u64)>,
}

impl Peers {
    pub fn new(rules: &[Rule]) -> Self {
        let named = |node: &str, generation| ReplicaId {
            node: node.parse().expect("a node id"),
            generation: Generation(generation),
        };
        let ids = rules.iter().map(|rule| {
            let period = rule.windows[0].period;
            (rule.id(period), period.nominal().as_millis() as u64)
        });
        Self {
            me: named("n0000", 1),
            // Two lives of one node among them.
            others: vec![
                named("n0001", 1),
                named("n0002", 1),
                named("n0003", 1),
                named("n0003", 2),
                named("z", u64::MAX),
            ],
            rules: ids.chain([(RuleId(7), 1_000)]).collect(),
        }
    }

    fn any(&self, u: &mut Unstructured<'_>) -> Result<ReplicaId> {
        let index = usize::from(u.arbitrary::<u8>()?) % (self.others.len() + 1);
        Ok(self.others.get(index).unwrap_or(&self.me).clone())
    }

    fn any_or_none(&self, u: &mut Unstructured<'_>) -> Result<Option<ReplicaId>> {
        if u.arbitrary::<u8>()? % 4 == 0 {
            self.any(u).map(Some)
        } else {
            Ok(None)
        }
    }
}

impl Op {
    pub fn read(u: &mut Unstructured<'_>, peers: &Peers, wall: UnixMillis) -> Result<Self> {
        if u.is_empty() {
            return Err(arbitrary::Error::NotEnoughData);
        }
        Ok(match u.arbitrary::<u8>()? % 9 {
            8 => Self::Receive(codec::encode(&frame(u, peers, wall, transfers)?)),
            0 => {
                let length = usize::from(u.arbitrary::<u16>()?).min(u.len());
                Self::Receive(u.bytes(length)?.to_vec())
            }
            1 => Self::Receive(codec::encode(&frame(u, peers, wall, deltas)?)),
            2 => Self::Receive(codec::encode(&frame(u, peers, wall, digest)?)),
            3 => {
                let mut bytes = codec::encode(&frame(u, peers, wall, deltas)?);
                let at = usize::from(u.arbitrary::<u16>()?) % bytes.len();
                bytes[at] ^= u.arbitrary::<u8>()?;
                Self::Receive(bytes)
            }
            4 => Self::Hits {
                rule: usize::from(u.arbitrary::<u8>()?) % 3,
                key: u.arbitrary()?,
                times: u.arbitrary::<u8>()? % 32,
            },
            5 => match u.arbitrary::<u8>()? {
                bits @ ..0x80 => Self::Members(bits),
                0xff => Self::Leave,
                _ => Self::Replay,
            },
            6 => Self::Replay,
            _ => {
                let steps = u64::from(u.arbitrary::<u8>()?);
                let unit = [1, 10, 100, 1_000, 60_000][usize::from(u.arbitrary::<u8>()?) % 5];
                Self::Advance(Duration::from_millis(steps * unit))
            }
        })
    }
}

type ReadBody = fn(&mut Unstructured<'_>, &Peers, UnixMillis) -> Result<Body>;

fn frame(u: &mut Unstructured<'_>, peers: &Peers, wall: UnixMillis, body: ReadBody) -> Result<Frame> {
    Ok(Frame {
        sender: peers.any(u)?,
        sent_at: if u.arbitrary()? {
            wall
        } else {
            UnixMillis(u.arbitrary()?)
        },
        body: body(u, peers, wall)?,
    })
}

/// Mostly small, now and then anything.
fn version(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.arbitrary::<u8>()? {
        0xff => u.arbitrary()?,
        0xfe => u64::MAX - u64::from(u.arbitrary::<u8>()?),
        small => u64::from(small),
    })
}

fn interval(u: &mut Unstructured<'_>) -> Result<Interval> {
    let after = version(u)?.min(u64::MAX - 1);
    let to = after.saturating_add(version(u)?.max(1));
    Ok(Interval { after, to })
}

fn stretch(u: &mut Unstructured<'_>) -> Result<Received> {
    let interval = interval(u)?;
    let later = u64::from(u.arbitrary::<u8>()?.saturating_sub(128));
    Ok(Received {
        interval,
        complete_at: interval.to.saturating_add(later),
    })
}

fn deltas(u: &mut Unstructured<'_>, peers: &Peers, wall: UnixMillis) -> Result<Body> {
    let count = 1 + u.arbitrary::<u8>()? % 3;
    let deltas = (0..count).map(|_| delta(u, peers, wall));
    Ok(Body::Deltas(deltas.collect::<Result<_>>()?))
}

fn delta(u: &mut Unstructured<'_>, peers: &Peers, wall: UnixMillis) -> Result<Delta> {
    let log = peers.any(u)?;
    let interval = interval(u)?;
    let later = u.arbitrary::<u8>()?;
    let rows = u.arbitrary::<u8>()? % 48;
    Ok(Delta {
        log,
        interval,
        complete_at: interval.to.saturating_add(u64::from(later.saturating_sub(128))),
        paused: later % 2 == 1,
        rows: (0..rows)
            .map(|_| row(u, peers, interval, wall))
            .collect::<Result<_>>()?,
    })
}

fn transfers(u: &mut Unstructured<'_>, peers: &Peers, wall: UnixMillis) -> Result<Body> {
    let count = 1 + u.arbitrary::<u8>()? % 24;
    let transfers = (0..count).map(|_| {
        let kind = if u.arbitrary()? {
            let (held, more) = (version(u)?.min(COUNT_MAX), version(u)?);
            TransferKind::Ask(Ask {
                held,
                target: held.saturating_add(more).min(COUNT_MAX),
                need: version(u)?.min(COUNT_MAX),
            })
        } else {
            TransferKind::Answer(Answer {
                granted: version(u)?.min(COUNT_MAX),
                empty: u.arbitrary()?,
            })
        };
        Ok(Transfer {
            key: row_key(u, peers, wall)?,
            kind,
        })
    });
    Ok(Body::Transfers(transfers.collect::<Result<_>>()?))
}

/// Mostly none; to this node, to its peers, and to whomever.
fn grants(u: &mut Unstructured<'_>, peers: &Peers) -> Result<Vec<Grant>> {
    let count = usize::from(u.arbitrary::<u8>()?).saturating_sub(236);
    let mut grants = (0..count.min(GRANTS_MAX))
        .map(|_| {
            Ok(Grant {
                taker: if u.arbitrary()? {
                    replica_hash(&peers.any(u)?)
                } else {
                    u.arbitrary()?
                },
                hits: version(u)?.clamp(1, COUNT_MAX),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    grants.sort_unstable();
    grants.dedup_by_key(|grant| grant.taker);
    Ok(grants)
}

fn row_key(u: &mut Unstructured<'_>, peers: &Peers, wall: UnixMillis) -> Result<RowKey> {
    let (rule, millis) = peers.rules[usize::from(u.arbitrary::<u8>()?) % peers.rules.len()];
    let start = wall.0 - wall.0 % millis;
    let start = match u.arbitrary::<u8>()? {
        0xff => u.arbitrary::<u64>()? / 2,
        0xf0.. => start + millis,
        0xe0.. => start.saturating_sub(millis),
        _ => start,
    };
    Ok(RowKey {
        rule,
        window: Window {
            start: UnixMillis(start),
            end: UnixMillis(start + millis),
        },
        key: key(u.arbitrary()?),
    })
}

fn row(u: &mut Unstructured<'_>, peers: &Peers, interval: Interval, wall: UnixMillis) -> Result<DeltaRow> {
    let length = interval.to - interval.after;
    let ahead = 1 + version(u)? % length;
    Ok(DeltaRow {
        version: interval.after + ahead,
        subject: peers.any_or_none(u)?,
        key: row_key(u, peers, wall)?,
        count: version(u)?.clamp(1, COUNT_MAX),
        grants: grants(u, peers)?,
    })
}

fn digest(u: &mut Unstructured<'_>, peers: &Peers, _wall: UnixMillis) -> Result<Body> {
    let count = u.arbitrary::<u8>()? % 8;
    let mut entries = (0..count)
        .map(|_| {
            let received = u.arbitrary::<u8>()? % 4;
            Ok(DigestEntry {
                log: peers.any(u)?,
                confirmed: version(u)?,
                received: (0..received).map(|_| stretch(u)).collect::<Result<_>>()?,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    entries.sort_by(|a, b| a.log.cmp(&b.log));
    entries.dedup_by(|a, b| a.log == b.log);
    Ok(Body::Digest(Digest {
        wants_reply: u.arbitrary()?,
        above: peers.any_or_none(u)?,
        up_to: peers.any_or_none(u)?,
        entries,
    }))
}
