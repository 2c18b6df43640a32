//! The frame decoder: no bytes make it panic, and what decodes is a frame that [`encode`] can say again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::replication::codec::{Body, COUNT_MAX, Delta, Frame, decode, encode};

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
    }
}
