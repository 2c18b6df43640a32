//! The reader of PROXY headers: no bytes make it panic, a header reads the same however it is cut, and what follows one
//! changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::proxy::proxy_protocol::{HEADER_BYTES_MAX, Progress, parse};

fuzz_target!(|bytes: &[u8]| {
    let bytes = &bytes[..bytes.len().min(2 * HEADER_BYTES_MAX)];
    let whole = parse(bytes);
    for end in 0..=bytes.len() {
        let part = parse(&bytes[..end]);
        match whole {
            Ok(Progress::Complete { length, .. }) if end >= length => assert_eq!(part, whole),
            Ok(_) => assert_eq!(part, Ok(Progress::Partial)),
            Err(error) => {
                let _ = error.to_string();
                assert!(part == whole || part == Ok(Progress::Partial));
            }
        }
    }
    match whole {
        Ok(Progress::Complete { length, .. }) => assert!(length <= HEADER_BYTES_MAX && length <= bytes.len()),
        Ok(Progress::Partial) => assert!(bytes.len() < HEADER_BYTES_MAX),
        Err(_) => {}
    }
});
