use proptest::prelude::*;

use super::*;
use crate::limit::{KeyHash, RuleId, Window};
use crate::replica::Generation;

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
    let body = prop_oneof![
        proptest::collection::vec(deltas(), 1..4).prop_map(Body::Deltas),
        digests().prop_map(Body::Digest)
    ];
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
        match (encode_as(&frame, FRAME_VERSION_MIN), &frame.body) {
            (Some(old), _) => prop_assert_eq!(decode(&old).expect("decodes"), frame.clone()),
            (None, Body::Deltas(deltas)) => prop_assert!(deltas.len() > 1),
            (None, Body::Digest(_)) => prop_assert!(false, "version 1 has digests"),
        }
        let row = |row: &DeltaRow, after| {
            group_bytes(row.subject.as_ref()) + row_bytes(row.version - after, row.count)
        };
        let delta = |delta: &Delta| {
            let rows = delta.rows.iter().map(|each| row(each, delta.interval.after));
            delta_bytes(&delta.log) + rows.sum::<usize>()
        };
        let most = match &frame.body {
            Body::Deltas(deltas) => frame_bytes(&frame.sender) + deltas.iter().map(delta).sum::<usize>(),
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
        for version in FRAME_VERSION_MIN..=FRAME_VERSION {
            let mut versioned = vec![version];
            versioned.extend(&bytes);
            let _ = decode(&versioned);
        }
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
        body: Body::Deltas(vec![delta]),
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
