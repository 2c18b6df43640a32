//! The normal form of paths: no text makes it panic, normalising is idempotent, and the segments of the form are
//! those of the original, resolved by a second implementation.
#![no_main]

use std::borrow::Cow;

use libfuzzer_sys::fuzz_target;
use weir::path::{EscapedSlashes, PathError, normalize};

fuzz_target!(|path: &str| {
    let strict = normalize(path, EscapedSlashes::Refuse);
    let lenient = normalize(path, EscapedSlashes::Pass);
    match (&strict, &lenient) {
        (Err(PathError::EscapedSlash), _) => {
            let upper = path.to_ascii_uppercase();
            assert!(upper.contains("%2F") || upper.contains("%5C"));
        }
        (one, other) => assert_eq!(one, other),
    }
    if let Ok(normal) = lenient {
        assert_normal(&normal);
        assert_eq!(matches!(normal, Cow::Borrowed(_)), *normal == *path);
        assert!(normal.len() <= path.len());
        assert_eq!(decoded(&normal), resolved(path), "{path} became {normal}");
    }
});

fn assert_normal(normal: &str) {
    for slashes in [EscapedSlashes::Refuse, EscapedSlashes::Pass] {
        match normalize(normal, slashes) {
            Ok(again) => assert!(matches!(again, Cow::Borrowed(same) if same == normal)),
            Err(error) => assert_eq!(
                (error, slashes),
                (PathError::EscapedSlash, EscapedSlashes::Refuse)
            ),
        }
    }
    assert!(normal.starts_with('/') && normal.bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(!normal.contains("//") && !normal.contains(['?', '#', '\\']));
    assert!(!normal.split('/').any(|segment| segment == "." || segment == ".."));
}

/// The segments of `path` with every encoding decoded.
fn decoded(path: &str) -> Vec<Vec<u8>> {
    path.split('/').skip(1).map(octets).collect()
}

/// The segments that remain of `path` when it is walked like a directory; an empty last one is a trailing slash.
fn resolved(path: &str) -> Vec<Vec<u8>> {
    let mut walked = Vec::new();
    let segments = decoded(path);
    for segment in &segments {
        match segment.as_slice() {
            b"" | b"." => {}
            b".." => drop(walked.pop()),
            _ => walked.push(segment.clone()),
        }
    }
    let last = segments.last().map(Vec::as_slice);
    if matches!(last, Some(b"" | b"." | b"..")) {
        walked.push(Vec::new());
    }
    walked
}

fn octets(segment: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut rest = segment.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(octet) if *first == b'%' => {
                octets.push(octet);
                rest = &after[2..];
            }
            _ => {
                octets.push(*first);
                rest = after;
            }
        }
    }
    octets
}
