//! The sealed envelope, with fixed keys. The first byte chooses: open or sealed, hostile bytes or a round
//! trip with one byte changed on the way.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand::rngs::StdRng;
use weir::cluster::keyring::Keyring;
use weir::cluster::seal::{Envelope, OpenError};

/// 32 bytes of 7, then 32 bytes of 8: the second only opens.
const RING: &str =
    "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\nCAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=\n";
/// Bytes before the plaintext of an open datagram.
const OPEN_HEADER_BYTES: usize = 9;

static SEALED: LazyLock<Envelope> =
    LazyLock::new(|| Envelope::sealed(&Keyring::parse(RING).expect("two valid keys"), "weir"));
static OPEN: LazyLock<Envelope> = LazyLock::new(|| Envelope::open_to_all("weir"));

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, rest)) = bytes.split_first() else {
        return;
    };
    let envelope = if choice & 1 == 0 { &SEALED } else { &OPEN };
    if choice & 2 == 0 {
        open_hostile(envelope, rest);
    } else {
        round_trip(envelope, rest);
    }
});

fn open_hostile(envelope: &Envelope, datagram: &[u8]) {
    let mut copy = datagram.to_vec();
    let opened = envelope.open(&mut copy).map(|plaintext| plaintext.len());
    let least = if envelope.is_sealed() {
        Envelope::OVERHEAD_BYTES
    } else {
        OPEN_HEADER_BYTES
    };
    match opened {
        Ok(length) => assert_eq!(length + least, datagram.len()),
        Err(OpenError::UnknownVersion(version)) => {
            assert_eq!(datagram.first(), Some(&version));
            assert!(version > 1);
        }
        Err(_) => {}
    }
}

fn round_trip(envelope: &Envelope, bytes: &[u8]) {
    let Some((&[seed, at_high, at_low, flip], plaintext)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let (head, tail) = plaintext.split_at(plaintext.len() / 3);
    let mut datagram = vec![0xff; 3];
    let mut rng = StdRng::seed_from_u64(u64::from(seed));
    envelope.seal(&mut rng, &[head, tail], &mut datagram);
    assert!(datagram.len() <= plaintext.len() + Envelope::OVERHEAD_BYTES);
    assert_eq!(
        envelope.open(&mut datagram.clone()),
        Ok(&mut plaintext.to_vec()[..])
    );

    let at = usize::from(u16::from_be_bytes([at_high, at_low])) % datagram.len();
    datagram[at] ^= flip;
    let opened = envelope.open(&mut datagram);
    if flip != 0 && (envelope.is_sealed() || at < OPEN_HEADER_BYTES) {
        opened.expect_err("a changed byte is noticed");
    }
}
