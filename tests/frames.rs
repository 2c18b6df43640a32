//! Compatibility of the wire: frames that were captured from each released version, and what they said.
//!
//! `cargo run --example capture-frames` adds captures of a new version; those of an old one never change.

#[path = "frames/describe.rs"]
mod describe;

use std::fs;
use std::path::{Path, PathBuf};

use weir::replication::FrameError;
use weir::replication::codec::{
    Body, Delta, FRAME_VERSION, FRAME_VERSION_MIN, FRAME_VERSION_RIGHTS, Frame, TransferKind, decode,
    encode_as,
};

use describe::describe;

fn captured(version: u8) -> Vec<(PathBuf, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join(format!("cluster-tests/frames/v{version}"));
    let mut frames: Vec<_> = fs::read_dir(&folder)
        .expect("every version has its captures")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "bin"))
        .map(|path| (path.clone(), fs::read(path).expect("readable")))
        .collect();
    frames.sort();
    frames
}

fn expect_frame(path: &Path, bytes: &[u8]) -> Frame {
    decode(bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn versions() -> impl Iterator<Item = u8> {
    FRAME_VERSION_MIN..=FRAME_VERSION
}

#[test]
fn every_captured_frame_still_says_what_it_said() {
    for (version, (path, bytes)) in versions().flat_map(|v| captured(v).into_iter().map(move |c| (v, c))) {
        assert_eq!(bytes.first(), Some(&version), "{}", path.display());
        let frame = expect_frame(&path, &bytes);
        let said = fs::read_to_string(path.with_extension("json")).expect("each capture has its text");
        let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(describe(&frame), said, "{}", path.display());
        assert_eq!(
            expect_frame(&path, &encode_as(&frame, version).expect("it came as one")),
            frame,
            "{}",
            path.display()
        );
    }
}

#[test]
fn the_captures_of_each_version_hold_the_parts_of_the_protocol_listed_here() {
    for version in versions() {
        let mut missing = vec![
            "own log",
            "relayed log",
            "subject",
            "incomplete",
            "groups",
            "reply wanted",
            "single log",
            "received",
        ];
        if version > 1 {
            missing.push("several logs");
        }
        if version >= FRAME_VERSION_RIGHTS {
            missing.extend(["grants", "asks", "answers", "empty", "several transfers"]);
        }
        for (path, bytes) in captured(version) {
            let shown = parts(&expect_frame(&path, &bytes));
            missing.retain(|part| !shown.contains(part));
        }
        assert!(
            missing.is_empty(),
            "no capture of version {version} shows {missing:?}"
        );
    }
}

fn parts(frame: &Frame) -> Vec<&'static str> {
    let parts = match &frame.body {
        Body::Deltas(deltas) => {
            let any = |holds: &dyn Fn(&Delta) -> bool| deltas.iter().any(holds);
            let rules_differ = |delta: &Delta| {
                delta
                    .rows
                    .windows(2)
                    .any(|two| two[0].key.rule != two[1].key.rule)
            };
            vec![
                ("own log", any(&|delta| delta.log == frame.sender)),
                ("relayed log", any(&|delta| delta.log != frame.sender)),
                (
                    "subject",
                    any(&|delta| delta.rows.iter().any(|row| row.subject.is_some())),
                ),
                ("incomplete", any(&|delta| delta.complete_at > delta.interval.to)),
                ("groups", any(&rules_differ)),
                ("several logs", deltas.len() > 1),
                (
                    "grants",
                    any(&|delta| delta.rows.iter().any(|row| !row.grants.is_empty())),
                ),
            ]
        }
        Body::Digest(digest) => vec![
            ("reply wanted", digest.wants_reply),
            (
                "single log",
                digest.above.is_some() && digest.above == digest.up_to,
            ),
            (
                "received",
                digest.entries.iter().any(|entry| !entry.received.is_empty()),
            ),
        ],
        Body::Transfers(transfers) => {
            let any = |holds: &dyn Fn(&TransferKind) -> bool| transfers.iter().any(|t| holds(&t.kind));
            vec![
                ("asks", any(&|kind| matches!(kind, TransferKind::Ask(_)))),
                (
                    "answers",
                    any(&|kind| matches!(kind, TransferKind::Answer(answer) if answer.granted > 0)),
                ),
                (
                    "empty",
                    any(&|kind| matches!(kind, TransferKind::Answer(answer) if answer.empty)),
                ),
                ("several transfers", transfers.len() > 1),
            ]
        }
    };
    parts
        .into_iter()
        .filter(|(_, shown)| *shown)
        .map(|(part, _)| part)
        .collect()
}

#[test]
fn a_frame_of_an_unknown_version_is_refused_by_its_first_byte() {
    for (path, mut bytes) in captured(1) {
        for version in (0..=u8::MAX).filter(|version| !versions().any(|known| known == *version)) {
            bytes[0] = version;
            let refused = decode(&bytes);
            assert!(
                matches!(refused, Err(FrameError::Version(named)) if named == version),
                "{}: {refused:?}",
                path.display()
            );
        }
    }
}
