//! Compatibility of the wire: frames that were captured from each released version, and what they said.
//!
//! `cargo run --example capture-frames` adds captures of a new version; those of an old one never change.

#[path = "frames/describe.rs"]
mod describe;

use std::fs;
use std::path::{Path, PathBuf};

use weir::replication::FrameError;
use weir::replication::codec::{Body, FRAME_VERSION, Frame, decode, encode};

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

#[test]
fn every_captured_frame_of_version_1_still_says_what_it_said() {
    for (path, bytes) in captured(1) {
        assert_eq!(bytes.first(), Some(&1), "{}", path.display());
        let frame = expect_frame(&path, &bytes);
        let said = fs::read_to_string(path.with_extension("json")).expect("each capture has its text");
        let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(describe(&frame), said, "{}", path.display());
        assert_eq!(expect_frame(&path, &encode(&frame)), frame, "{}", path.display());
    }
}

#[test]
fn the_captures_of_version_1_hold_the_parts_of_the_protocol_listed_here() {
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
    let mut seen = |part: &str, happened: bool| missing.retain(|missing| !(happened && *missing == part));
    for (path, bytes) in captured(1) {
        let frame = expect_frame(&path, &bytes);
        match &frame.body {
            Body::Delta(delta) => {
                seen("own log", delta.log == frame.sender);
                seen("relayed log", delta.log != frame.sender);
                seen("subject", delta.rows.iter().any(|row| row.subject.is_some()));
                seen("incomplete", delta.complete_at > delta.interval.to);
                seen(
                    "groups",
                    delta
                        .rows
                        .windows(2)
                        .any(|two| two[0].key.rule != two[1].key.rule),
                );
            }
            Body::Digest(digest) => {
                seen("reply wanted", digest.wants_reply);
                seen(
                    "single log",
                    digest.above.is_some() && digest.above == digest.up_to,
                );
                seen(
                    "received",
                    digest.entries.iter().any(|entry| !entry.received.is_empty()),
                );
            }
        }
    }
    assert!(missing.is_empty(), "no capture shows {missing:?}");
}

#[test]
fn a_frame_of_an_unknown_version_is_refused_by_its_first_byte() {
    for (path, mut bytes) in captured(1) {
        for version in (0..=u8::MAX).filter(|version| !(1..=FRAME_VERSION).contains(version)) {
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
