//! What stands on the wire, version by version, and the checks that bytes pass to become a frame.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{Decode, Encode};

use crate::bounded::{Answer, Ask};
use crate::limit::{KeyHash, RowKey, RuleId, UnixMillis, Window};
use crate::replica::{Generation, ReplicaId};

use super::{
    Body, COUNT_MAX, Delta, DeltaRow, Digest, DigestEntry, FRAME_BYTES_MAX, Frame, FrameError, GRANTS_MAX,
    Grant, Interval, Received, Transfer, TransferKind, VERSION_MAX, Version, WINDOW_MILLIS_MAX,
};

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
pub(super) struct WireFrame<Body> {
    sender: WireReplica,
    sent_at: u64,
    body: Body,
}

#[derive(Encode, Decode)]
pub(super) enum BodyV1 {
    Delta(WireDelta<WireGroup>),
    Digest(WireDigest),
}

#[derive(Encode, Decode)]
pub(super) enum BodyV2 {
    Deltas(Vec<WireDelta<WireGroup>>),
    Digest(WireDigest),
}

#[derive(Encode, Decode)]
pub(super) enum BodyV3 {
    Deltas(Vec<WireDelta<GrantingGroup>>),
    Digest(WireDigest),
    Transfers(Vec<WireTransfer>),
}

#[derive(Encode, Decode)]
pub(super) struct WireDelta<Group> {
    log: Option<WireReplica>,
    interval: Interval,
    complete_at: u64,
    paused: bool,
    groups: Vec<Group>,
}

#[derive(Encode, Decode)]
pub(super) struct WireGroup {
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

/// A group of version 3: the rows, and what their subject granted of them.
#[derive(Encode, Decode)]
pub(super) struct GrantingGroup {
    group: WireGroup,
    grants: Vec<WireGrant>,
}

#[derive(Encode, Decode)]
struct WireGrant {
    row: u32,
    taker: u64,
    hits: u64,
}

impl From<WireGroup> for GrantingGroup {
    fn from(group: WireGroup) -> Self {
        Self {
            group,
            grants: Vec::new(),
        }
    }
}

impl From<GrantingGroup> for WireGroup {
    fn from(granting: GrantingGroup) -> Self {
        granting.group
    }
}

#[derive(Encode, Decode)]
pub(super) struct WireTransfer {
    rule: [u8; 8],
    window_start: u64,
    window_millis: u64,
    key: [u8; 16],
    kind: WireKind,
}

#[derive(Encode, Decode)]
enum WireKind {
    Ask { held: u64, target: u64, need: u64 },
    Answer { granted: u64, empty: bool },
}

#[derive(Encode, Decode)]
pub(super) struct WireDigest {
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

/// Appends the bytes of `wire`.
pub(super) fn write(wire: &impl Encode, bytes: &mut Vec<u8>) {
    bincode::encode_into_std_write(wire, bytes, bincode::config::standard())
        .expect("writing to a Vec does not fail and every field has a plain encoding");
}

/// Reads all of `bytes`.
pub(super) fn read<W: Decode<()>>(bytes: &[u8]) -> Result<W, FrameError> {
    let (wire, used): (W, usize) = bincode::decode_from_slice(bytes, wire_config())?;
    if used == bytes.len() {
        Ok(wire)
    } else {
        Err(FrameError::Bounds("trailing bytes"))
    }
}

/// Version 1, unless `frame` carries more than one delta.
pub(super) fn to_v1(frame: &Frame) -> Option<WireFrame<BodyV1>> {
    let body = match &frame.body {
        Body::Deltas(deltas) => match deltas.as_slice() {
            [delta] => BodyV1::Delta(delta_to_wire(delta, &frame.sender)),
            _ => return None,
        },
        Body::Digest(digest) => BodyV1::Digest(digest_to_wire(digest)),
        Body::Transfers(_) => return None,
    };
    Some(around(frame, body))
}

/// Version 2, unless `frame` moves rights.
pub(super) fn to_v2(frame: &Frame) -> Option<WireFrame<BodyV2>> {
    let body = match &frame.body {
        Body::Deltas(deltas) => BodyV2::Deltas(deltas_to_wire(deltas, &frame.sender)),
        Body::Digest(digest) => BodyV2::Digest(digest_to_wire(digest)),
        Body::Transfers(_) => return None,
    };
    Some(around(frame, body))
}

/// Version 3.
pub(super) fn to_v3(frame: &Frame) -> WireFrame<BodyV3> {
    let body = match &frame.body {
        Body::Deltas(deltas) => BodyV3::Deltas(deltas_to_wire(deltas, &frame.sender)),
        Body::Digest(digest) => BodyV3::Digest(digest_to_wire(digest)),
        Body::Transfers(transfers) => BodyV3::Transfers(transfers.iter().map(transfer_to_wire).collect()),
    };
    around(frame, body)
}

/// Checks a frame of version 1.
pub(super) fn from_v1(wire: WireFrame<BodyV1>) -> Result<Frame, FrameError> {
    checked(wire, |body, sender| {
        Ok(match body {
            BodyV1::Delta(delta) => Body::Deltas(vec![delta_from_wire(delta, sender)?]),
            BodyV1::Digest(digest) => Body::Digest(digest_from_wire(digest)?),
        })
    })
}

/// Checks a frame of version 2.
pub(super) fn from_v2(wire: WireFrame<BodyV2>) -> Result<Frame, FrameError> {
    checked(wire, |body, sender| {
        Ok(match body {
            BodyV2::Deltas(deltas) => deltas_from_wire(deltas, sender)?,
            BodyV2::Digest(digest) => Body::Digest(digest_from_wire(digest)?),
        })
    })
}

/// Checks a frame of version 3.
pub(super) fn from_v3(wire: WireFrame<BodyV3>) -> Result<Frame, FrameError> {
    checked(wire, |body, sender| {
        Ok(match body {
            BodyV3::Deltas(deltas) => deltas_from_wire(deltas, sender)?,
            BodyV3::Digest(digest) => Body::Digest(digest_from_wire(digest)?),
            BodyV3::Transfers(transfers) if transfers.is_empty() => {
                return Err(FrameError::Bounds("no transfer"));
            }
            BodyV3::Transfers(transfers) => {
                let transfers = transfers.iter().map(transfer_from_wire);
                Body::Transfers(transfers.collect::<Result<_, _>>()?)
            }
        })
    })
}

fn around<B>(frame: &Frame, body: B) -> WireFrame<B> {
    WireFrame {
        sender: replica_to_wire(&frame.sender),
        sent_at: frame.sent_at.0,
        body,
    }
}

fn checked<B>(
    wire: WireFrame<B>,
    check: impl FnOnce(B, &ReplicaId) -> Result<Body, FrameError>,
) -> Result<Frame, FrameError> {
    let sender = replica_from_wire(&wire.sender)?;
    let body = check(wire.body, &sender)?;
    Ok(Frame {
        sender,
        sent_at: UnixMillis(wire.sent_at),
        body,
    })
}

fn digest_to_wire(digest: &Digest) -> WireDigest {
    WireDigest {
        wants_reply: digest.wants_reply,
        above: digest.above.as_ref().map(replica_to_wire),
        up_to: digest.up_to.as_ref().map(replica_to_wire),
        entries: digest.entries.iter().map(entry_to_wire).collect(),
    }
}

fn deltas_to_wire<G: From<GrantingGroup>>(deltas: &[Delta], sender: &ReplicaId) -> Vec<WireDelta<G>> {
    deltas.iter().map(|delta| delta_to_wire(delta, sender)).collect()
}

fn delta_to_wire<G: From<GrantingGroup>>(delta: &Delta, sender: &ReplicaId) -> WireDelta<G> {
    let mut groups: Vec<(Option<&ReplicaId>, RuleId, Window, Vec<WireRow>, Vec<WireGrant>)> = Vec::new();
    for row in &delta.rows {
        let wire = WireRow {
            key: row.key.key.0.to_le_bytes(),
            ahead: row.version.saturating_sub(delta.interval.after),
            count: row.count,
        };
        let same = groups.iter().position(|(subject, rule, window, ..)| {
            *subject == row.subject.as_ref() && *rule == row.key.rule && *window == row.key.window
        });
        let at = same.unwrap_or_else(|| {
            groups.push((
                row.subject.as_ref(),
                row.key.rule,
                row.key.window,
                Vec::new(),
                Vec::new(),
            ));
            groups.len() - 1
        });
        let (.., rows, grants) = &mut groups[at];
        let index = u32::try_from(rows.len()).expect("a frame holds fewer rows");
        rows.push(wire);
        grants.extend(row.grants.iter().map(|grant| WireGrant {
            row: index,
            taker: grant.taker,
            hits: grant.hits,
        }));
    }
    WireDelta {
        log: (delta.log != *sender).then(|| replica_to_wire(&delta.log)),
        interval: delta.interval,
        complete_at: delta.complete_at,
        paused: delta.paused,
        groups: groups
            .into_iter()
            .map(|(subject, rule, window, rows, grants)| {
                let group = WireGroup {
                    subject: subject.map(replica_to_wire),
                    rule: rule.0.to_le_bytes(),
                    window_start: window.start.0,
                    window_millis: window.end.0.saturating_sub(window.start.0),
                    rows,
                };
                GrantingGroup { group, grants }.into()
            })
            .collect(),
    }
}

fn transfer_to_wire(transfer: &Transfer) -> WireTransfer {
    let RowKey { rule, window, key } = transfer.key;
    WireTransfer {
        rule: rule.0.to_le_bytes(),
        window_start: window.start.0,
        window_millis: window.end.0.saturating_sub(window.start.0),
        key: key.0.to_le_bytes(),
        kind: match transfer.kind {
            TransferKind::Ask(Ask { held, target, need }) => WireKind::Ask { held, target, need },
            TransferKind::Answer(Answer { granted, empty }) => WireKind::Answer { granted, empty },
        },
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

fn deltas_from_wire<G: Into<GrantingGroup>>(
    deltas: Vec<WireDelta<G>>,
    sender: &ReplicaId,
) -> Result<Body, FrameError> {
    if deltas.is_empty() {
        return Err(FrameError::Bounds("no delta"));
    }
    let deltas = deltas.into_iter().map(|delta| delta_from_wire(delta, sender));
    deltas.collect::<Result<_, _>>().map(Body::Deltas)
}

fn delta_from_wire<G: Into<GrantingGroup>>(
    wire: WireDelta<G>,
    sender: &ReplicaId,
) -> Result<Delta, FrameError> {
    let interval = interval_checked(wire.interval)?;
    if wire.complete_at < interval.to {
        return Err(FrameError::Bounds("complete before its own end"));
    }
    let groups: Vec<GrantingGroup> = wire.groups.into_iter().map(Into::into).collect();
    let mut rows = Vec::with_capacity(groups.iter().map(|granting| granting.group.rows.len()).sum());
    for GrantingGroup { group, grants } in groups {
        let first = rows.len();
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
                grants: Vec::new(),
            });
        }
        for grant in grants {
            let row = rows
                .get_mut(first..)
                .and_then(|rows| rows.get_mut(grant.row as usize));
            grant_from_wire(row.ok_or(FrameError::Bounds("grant of no row"))?, &grant)?;
        }
    }
    // Two rows may claim one version; what was read must not depend on the order of the groups even then.
    rows.sort_by(|a, b| {
        let rest = |row: &DeltaRow| (row.key, row.count);
        let rest = || rest(a).cmp(&rest(b)).then_with(|| a.grants.cmp(&b.grants));
        let tie = || a.subject.cmp(&b.subject).then_with(rest);
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

/// Grants stand in the order of their rows, and of their takers within a row: what repeats is refused.
fn grant_from_wire(row: &mut DeltaRow, wire: &WireGrant) -> Result<(), FrameError> {
    if row.grants.len() >= GRANTS_MAX {
        return Err(FrameError::Bounds("takers of a row"));
    }
    if row.grants.last().is_some_and(|last| last.taker >= wire.taker) {
        return Err(FrameError::Bounds("grants not sorted"));
    }
    row.grants.push(Grant {
        taker: wire.taker,
        hits: count_checked(wire.hits)?,
    });
    Ok(())
}

fn transfer_from_wire(wire: &WireTransfer) -> Result<Transfer, FrameError> {
    let key = RowKey {
        rule: RuleId(u64::from_le_bytes(wire.rule)),
        window: window_checked(wire.window_start, wire.window_millis)?,
        key: KeyHash(u128::from_le_bytes(wire.key)),
    };
    let kind = match wire.kind {
        WireKind::Ask { held, target, need } => {
            if held > target || target.max(need) > COUNT_MAX {
                return Err(FrameError::Bounds("ask"));
            }
            TransferKind::Ask(Ask { held, target, need })
        }
        WireKind::Answer { granted, .. } if granted > COUNT_MAX => {
            return Err(FrameError::Bounds("grant"));
        }
        WireKind::Answer { granted, empty } => TransferKind::Answer(Answer { granted, empty }),
    };
    Ok(Transfer { key, kind })
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
