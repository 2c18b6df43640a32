//! The keyring reader: no text makes it panic, and what it accepts reads back from its own lines.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::cluster::keyring::{GossipKey, Keyring};

fuzz_target!(|text: &str| {
    match Keyring::parse(text) {
        Ok(ring) => {
            assert!((1..=Keyring::KEYS_MAX).contains(&ring.keys().len()));
            let lines: Vec<_> = ring.keys().iter().map(GossipKey::to_base64).collect();
            assert_eq!(Keyring::parse(&lines.join("\n")), Ok(ring));
        }
        Err(error) => {
            let _ = error.to_string();
        }
    }
});
