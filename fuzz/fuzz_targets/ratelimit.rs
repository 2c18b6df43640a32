//! The readers of questions to the rate limit service: no bytes make them panic, a message is the same once encoded, and
//! what they keep of it is bounded by what came.
#![no_main]

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use weir::ratelimit::CheckRequest;
use weir::ratelimit::messages::RateLimitRequest;
use weir_fuzz::{Counting, live_bytes};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A descriptor without entries is two bytes on the wire, and a struct in memory; vectors grow by doubling.
const GROWTH_MAX: usize = 128;

fuzz_target!(|bytes: &[u8]| {
    let before = live_bytes();
    if let Ok(request) = RateLimitRequest::decode(bytes) {
        let kept = usize::try_from(live_bytes() - before).unwrap_or(0);
        assert!(
            kept <= 1024 + GROWTH_MAX * bytes.len(),
            "{kept} bytes of {}",
            bytes.len()
        );
        let encoded = request.encode_to_vec();
        assert_eq!(RateLimitRequest::decode(&encoded[..]), Ok(request));
    }
    if let Err(why) = CheckRequest::from_json(bytes) {
        let _ = why.to_string();
    }
    let (query, header) = bytes.split_at(bytes.len() / 2);
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(header) {
        headers.insert("x-weir-key", value);
    }
    if let Err(why) = CheckRequest::from_query(&String::from_utf8_lossy(query), &headers) {
        let _ = why.to_string();
    }
});
