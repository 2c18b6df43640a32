//! The HTTP/1 scanners: no bytes make them panic; how bytes are split does not change what passes; and each head
//! that passes is the one head that httparse reads, with the same length.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::proxy::strict::{Limits, RequestScanner, ResponseScanner, Step, Stop};

const LIMITS: Limits = Limits {
    request_line_bytes_max: 1024,
    head_bytes_max: 4096,
    fields_max: 32,
    body_bytes_max: 1 << 20,
};

// The first byte says how the others are split.
fuzz_target!(|bytes: &[u8]| {
    let Some((&seed, bytes)) = bytes.split_first() else {
        return;
    };
    let pieces: Vec<&[u8]> = bytes.chunks(usize::from(seed).max(1)).collect();

    let (whole, whole_stop) = request(&[bytes]);
    let (split, split_stop) = request(&pieces);
    match (whole_stop, split_stop) {
        // A body that is bad from the start takes its head along, if that has not passed yet.
        (Stop::Refused(_), Stop::Broken(_)) => assert!(split.starts_with(&whole)),
        _ => {
            assert_eq!(whole, split);
            assert_eq!(kind(whole_stop), kind(split_stop));
        }
    }
    assert_reads_alike(&whole);

    for is_head in [false, true] {
        let (whole, split) = (response(&[bytes], is_head), response(&pieces, is_head));
        assert_eq!(whole.0, split.0);
        assert_eq!(kind(whole.1), kind(split.1));
    }
});

fn kind(stop: Stop) -> std::mem::Discriminant<Stop> {
    std::mem::discriminant(&stop)
}

fn request(pieces: &[&[u8]]) -> (Vec<u8>, Stop) {
    let mut scanner = RequestScanner::new(LIMITS);
    passed(|bytes| scanner.scan(bytes), pieces)
}

fn response(pieces: &[&[u8]], is_head: bool) -> (Vec<u8>, Stop) {
    let mut scanner = ResponseScanner::new(LIMITS);
    scanner.ask(is_head);
    passed(|bytes| scanner.scan(bytes), pieces)
}

fn passed(mut scan: impl FnMut(&[u8]) -> Step, pieces: &[&[u8]]) -> (Vec<u8>, Stop) {
    let (mut held, mut passed, mut stop) = (Vec::new(), Vec::new(), Stop::More);
    for piece in pieces {
        held.extend_from_slice(piece);
        let step = scan(&held);
        passed.extend(held.drain(..step.pass));
        assert!(held.len() <= LIMITS.head_bytes_max + piece.len() || step.stop != Stop::More);
        stop = step.stop;
    }
    (passed, stop)
}

/// The first head is read by httparse as it was by us: all of it, no more fields than lines, and the target that a
/// URI parser takes.
fn assert_reads_alike(passed: &[u8]) {
    let mut scanner = RequestScanner::new(LIMITS);
    let Some(end) = (1..=passed.len()).find(|end| scanner.scan(&passed[..*end]).pass > 0) else {
        return;
    };
    let mut fields = [httparse::EMPTY_HEADER; LIMITS.fields_max];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(&passed[..end]);
    assert_eq!(
        parsed,
        Ok(httparse::Status::Complete(end)),
        "{}",
        passed[..end].escape_ascii()
    );
    let target = request.path.expect("a complete request has a target");
    assert!(target.parse::<http::Uri>().is_ok(), "{target}");
}
