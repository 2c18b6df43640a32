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
        grants(),
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
                .map(
                    |((subject, rule, window, key, count, grants), version)| DeltaRow {
                        version,
                        subject,
                        key: RowKey {
                            rule: RuleId(rule),
                            window,
                            key: KeyHash(key),
                        },
                        count,
                        grants,
                    },
                )
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

/// Mostly none, now and then as many as there may be.
fn grants() -> impl Strategy<Value = Vec<Grant>> {
    let some = proptest::collection::btree_map(any::<u64>(), 1..=COUNT_MAX, 0..=GRANTS_MAX);
    let some = some.prop_map(|grants| {
        grants
            .into_iter()
            .map(|(taker, hits)| Grant { taker, hits })
            .collect()
    });
    prop_oneof![Just(Vec::new()), some]
}

fn transfers() -> impl Strategy<Value = Transfer> {
    let ask = (0..=COUNT_MAX, 0..=COUNT_MAX, 0..=COUNT_MAX).prop_map(|(a, b, need)| {
        let (held, target) = (a.min(b), a.max(b));
        TransferKind::Ask(Ask { held, target, need })
    });
    let answer = (0..=COUNT_MAX, any::<bool>())
        .prop_map(|(granted, empty)| TransferKind::Answer(Answer { granted, empty }));
    let kind = prop_oneof![ask, answer];
    (any::<u64>(), windows(), any::<u128>(), kind).prop_map(|(rule, window, key, kind)| Transfer {
        key: RowKey {
            rule: RuleId(rule),
            window,
            key: KeyHash(key),
        },
        kind,
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
        digests().prop_map(Body::Digest),
        proptest::collection::vec(transfers(), 1..20).prop_map(Body::Transfers),
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
        for version in FRAME_VERSION_MIN..FRAME_VERSION {
            match (encode_as(&frame, version), &frame.body) {
                (Some(old), _) => prop_assert_eq!(decode(&old).expect("decodes"), without_grants(&frame)),
                (None, Body::Deltas(deltas)) => prop_assert!(version == 1 && deltas.len() > 1),
                (None, Body::Digest(_)) => prop_assert!(false, "every version has digests"),
                (None, Body::Transfers(_)) => prop_assert!(version < FRAME_VERSION_RIGHTS),
            }
        }
        let row = |row: &DeltaRow, after| {
            let grants = grants_bytes(&row.grants);
            group_bytes(row.subject.as_ref()) + row_bytes(row.version - after, row.count) + grants
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
            Body::Transfers(transfers) => {
                frame_bytes(&frame.sender) + transfers.iter().map(transfer_bytes).sum::<usize>()
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

/// What versions before 3 say of `frame`.
fn without_grants(frame: &Frame) -> Frame {
    let mut frame = frame.clone();
    if let Body::Deltas(deltas) = &mut frame.body {
        let rows = deltas.iter_mut().flat_map(|delta| &mut delta.rows);
        rows.for_each(|row| row.grants.clear());
    }
    frame
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
        grants: Vec::new(),
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

/// A frame of one row with these grants, encoded as they are.
fn granting(grants: &[(u64, u64)]) -> Result<Frame, FrameError> {
    let mut frame = delta_of_three_rows([5, 9]);
    if let Body::Deltas(deltas) = &mut frame.body {
        let grants = grants.iter().map(|(taker, hits)| Grant {
            taker: *taker,
            hits: *hits,
        });
        deltas[0].rows[1].grants = grants.collect();
    }
    decode(&encode(&frame))
}

#[test]
fn grants_out_of_order_out_of_bounds_or_to_too_many_are_refused() {
    let refused = |grants: &[(u64, u64)]| match granting(grants) {
        Err(FrameError::Bounds(reason)) => reason,
        other => panic!("{other:?}"),
    };
    granting(&[(1, 1), (2, COUNT_MAX)]).expect("in order");
    assert_eq!(refused(&[(2, 1), (1, 1)]), "grants not sorted");
    assert_eq!(refused(&[(2, 1), (2, 1)]), "grants not sorted");
    assert_eq!(refused(&[(1, 0)]), "count");
    assert_eq!(refused(&[(1, COUNT_MAX + 1)]), "count");
    let takers: Vec<_> = (0..=GRANTS_MAX as u64).map(|taker| (taker, 1)).collect();
    granting(&takers[1..]).expect("as many as there may be");
    assert_eq!(refused(&takers), "takers of a row");
}

#[test]
fn transfers_out_of_bounds_are_refused() {
    let read = |kind| {
        let mut frame = delta_of_three_rows([5, 9]);
        let Body::Deltas(deltas) = &frame.body else {
            unreachable!("it was made as such")
        };
        let key = deltas[0].rows[0].key;
        frame.body = Body::Transfers(vec![Transfer { key, kind }]);
        decode(&encode(&frame))
    };
    let ask = |held, target, need| read(TransferKind::Ask(Ask { held, target, need }));
    let answer = |granted| read(TransferKind::Answer(Answer { granted, empty: true }));
    ask(0, 0, 0).expect("an ask for nothing");
    ask(COUNT_MAX, COUNT_MAX, COUNT_MAX).expect("at the bound");
    answer(COUNT_MAX).expect("at the bound");
    for refused in [
        ask(1, 0, 0),
        ask(0, COUNT_MAX + 1, 0),
        ask(0, 1, COUNT_MAX + 1),
        answer(COUNT_MAX + 1),
    ] {
        assert!(matches!(refused, Err(FrameError::Bounds(_))), "{refused:?}");
    }
    let mut none = delta_of_three_rows([5, 9]);
    none.body = Body::Transfers(Vec::new());
    let refused = decode(&encode(&none));
    assert!(matches!(refused, Err(FrameError::Bounds("no transfer"))));
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
