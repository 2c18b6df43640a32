//! A frame in words that do not follow the code: those of docs/protocol.md.

use serde_json::{Value, json};
use weir::replica::ReplicaId;
use weir::replication::codec::{
    Body, Delta, DeltaRow, Digest, DigestEntry, Frame, Grant, Interval, Received, Transfer, TransferKind,
};

/// What `frame` says.
pub(crate) fn describe(frame: &Frame) -> Value {
    let body = match &frame.body {
        Body::Deltas(deltas) => match deltas.as_slice() {
            [delta] => json!({ "delta": describe_delta(delta) }),
            deltas => json!({ "deltas": deltas.iter().map(describe_delta).collect::<Vec<_>>() }),
        },
        Body::Digest(digest) => json!({ "digest": describe_digest(digest) }),
        Body::Transfers(transfers) => {
            json!({ "transfers": transfers.iter().map(transfer).collect::<Vec<_>>() })
        }
    };
    json!({ "sender": replica(&frame.sender), "sent_at": frame.sent_at.0, "body": body })
}

fn describe_delta(delta: &Delta) -> Value {
    json!({
        "log": replica(&delta.log),
        "interval": interval(&delta.interval),
        "complete_at": delta.complete_at,
        "paused": delta.paused,
        "rows": delta.rows.iter().map(row).collect::<Vec<_>>(),
    })
}

fn row(row: &DeltaRow) -> Value {
    let window = row.key.window;
    let mut row_said = json!({
        "version": row.version,
        "subject": row.subject.as_ref().map(replica),
        "rule": format!("{:016x}", row.key.rule.0),
        "window_start": window.start.0,
        "window_millis": window.end.0 - window.start.0,
        "key": format!("{:032x}", row.key.key.0),
        "count": row.count,
    });
    // Versions before 3 do not know of grants.
    if !row.grants.is_empty() {
        row_said["grants"] = row.grants.iter().map(grant).collect();
    }
    row_said
}

fn grant(grant: &Grant) -> Value {
    json!({ "taker": format!("{:016x}", grant.taker), "hits": grant.hits })
}

fn transfer(transfer: &Transfer) -> Value {
    let window = transfer.key.window;
    let said = match transfer.kind {
        TransferKind::Ask(ask) => {
            json!({ "ask": { "held": ask.held, "target": ask.target, "need": ask.need } })
        }
        TransferKind::Answer(answer) => {
            json!({ "answer": { "granted": answer.granted, "empty": answer.empty } })
        }
    };
    json!({
        "rule": format!("{:016x}", transfer.key.rule.0),
        "window_start": window.start.0,
        "window_millis": window.end.0 - window.start.0,
        "key": format!("{:032x}", transfer.key.key.0),
        "said": said,
    })
}

fn describe_digest(digest: &Digest) -> Value {
    json!({
        "wants_reply": digest.wants_reply,
        "above": digest.above.as_ref().map(replica),
        "up_to": digest.up_to.as_ref().map(replica),
        "entries": digest.entries.iter().map(entry).collect::<Vec<_>>(),
    })
}

fn entry(entry: &DigestEntry) -> Value {
    json!({
        "log": replica(&entry.log),
        "confirmed": entry.confirmed,
        "received": entry.received.iter().map(received).collect::<Vec<_>>(),
    })
}

fn received(received: &Received) -> Value {
    json!({ "interval": interval(&received.interval), "complete_at": received.complete_at })
}

fn interval(interval: &Interval) -> Value {
    json!({ "after": interval.after, "to": interval.to })
}

fn replica(replica: &ReplicaId) -> Value {
    json!({ "node": replica.node.as_str(), "generation": replica.generation.0 })
}
