//! The frame decoder: no bytes make it panic, and what decodes is a frame that [`encode`] can say again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::replication::codec::{
    Body, COUNT_MAX, Delta, Frame, GRANTS_MAX, Transfer, TransferKind, decode, encode,
};

fuzz_target!(|bytes: &[u8]| {
    let Ok(frame) = decode(bytes) else { return };
    assert_within_bounds(&frame);
    let again = encode(&frame);
    let read = decode(&again).expect("what was decoded is within bounds");
    assert_eq!(read, frame);
    assert_eq!(encode(&read), again);
});

/// What the rest of the node relies on without another look.
fn assert_within_bounds(frame: &Frame) {
    match &frame.body {
        Body::Deltas(deltas) => {
            assert!(!deltas.is_empty());
            deltas.iter().for_each(assert_delta_within_bounds);
        }
        Body::Digest(digest) => {
            assert!(digest.entries.is_sorted_by(|a, b| a.log < b.log));
            let mut received = digest.entries.iter().flat_map(|entry| &entry.received);
            assert!(received.all(|received| received.interval.after < received.interval.to));
        }
        Body::Transfers(transfers) => {
            assert!(!transfers.is_empty());
            transfers.iter().for_each(assert_transfer_within_bounds);
        }
    }
}

fn assert_delta_within_bounds(delta: &Delta) {
    let interval = delta.interval;
    assert!(interval.after < interval.to && interval.to <= delta.complete_at);
    assert!(delta.rows.is_sorted_by_key(|row| row.version));
    for row in &delta.rows {
        assert!(interval.after < row.version && row.version <= interval.to);
        assert!((1..=COUNT_MAX).contains(&row.count));
        assert!(row.key.window.start < row.key.window.end);
        assert!(row.grants.len() <= GRANTS_MAX);
        assert!(row.grants.windows(2).all(|two| two[0].taker < two[1].taker));
        assert!(
            row.grants
                .iter()
                .all(|grant| (1..=COUNT_MAX).contains(&grant.hits))
        );
    }
}

fn assert_transfer_within_bounds(transfer: &Transfer) {
    assert!(transfer.key.window.start < transfer.key.window.end);
    match transfer.kind {
        TransferKind::Ask(ask) => {
            assert!(ask.held <= ask.target && ask.target <= COUNT_MAX && ask.need <= COUNT_MAX);
        }
        TransferKind::Answer(answer) => assert!(answer.granted <= COUNT_MAX),
    }
}
