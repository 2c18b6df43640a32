//! What an envelope lets through, and what it does not.

use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

fn rng() -> StdRng {
    StdRng::seed_from_u64(7)
}

fn ring_of(seeds: &[u64]) -> Keyring {
    let lines: String = seeds
        .iter()
        .map(|seed| GossipKey::generate(&mut StdRng::seed_from_u64(*seed)).to_base64() + "\n")
        .collect();
    Keyring::parse(&lines).unwrap()
}

fn sealed(seeds: &[u64], cluster: &str) -> Envelope {
    Envelope::sealed(&ring_of(seeds), cluster)
}

fn seal(envelope: &Envelope, plaintext: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    envelope.seal(&mut rng(), &[plaintext], &mut datagram);
    datagram
}

#[test]
fn it_is_xchacha20_poly1305_as_another_implementation_computes_it() {
    let envelope = sealed(&[1], "weir");
    let datagram = seal(&envelope, b"a row");
    let key = hash(
        b"weir gossip aead v1",
        ring_of(&[1]).keys().first().unwrap().as_bytes(),
        "weir",
    );
    let mut body = datagram[29..].to_vec();
    let tag = body.split_off(body.len() - 16);
    let mut associated_data = datagram[..5].to_vec();
    associated_data.extend_from_slice(b"weir");
    XChaCha20Poly1305::new(&key.into())
        .decrypt_in_place_detached(
            datagram[5..29].into(),
            &associated_data,
            &mut body,
            Tag::from_slice(&tag),
        )
        .unwrap();
    assert_eq!(body, b"a row");
}

#[test]
fn strangers_are_refused_by_reason() {
    let ours = sealed(&[1], "weir");
    let mut datagram = seal(&sealed(&[2], "weir"), b"x");
    assert_eq!(ours.open(&mut datagram), Err(OpenError::UnknownKey));
    let mut datagram = seal(&sealed(&[1], "other"), b"x");
    assert_eq!(ours.open(&mut datagram), Err(OpenError::BadTag));
    let mut datagram = seal(&Envelope::open_to_all("weir"), b"x");
    assert_eq!(ours.open(&mut datagram), Err(OpenError::ProtectionMismatch));
    let mut datagram = seal(&ours, b"x");
    assert_eq!(
        Envelope::open_to_all("weir").open(&mut datagram),
        Err(OpenError::ProtectionMismatch)
    );
    let mut datagram = seal(&Envelope::open_to_all("other"), b"x");
    assert_eq!(
        Envelope::open_to_all("weir").open(&mut datagram),
        Err(OpenError::WrongCluster)
    );
    assert_eq!(ours.open(&mut [9; 64]), Err(OpenError::UnknownVersion(9)));
    assert_eq!(ours.open(&mut []), Err(OpenError::TooShort));
}

#[test]
fn every_flipped_bit_and_every_truncation_is_refused() {
    let envelope = sealed(&[1], "weir");
    let datagram = seal(&envelope, b"count 5");
    for bit in 0..datagram.len() * 8 {
        let mut damaged = datagram.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(envelope.open(&mut damaged).is_err(), "bit {bit}");
    }
    for length in 0..datagram.len() {
        assert!(
            envelope.open(&mut datagram.clone()[..length]).is_err(),
            "{length}"
        );
    }
}

/// Adds a key, promotes it and removes the old one, one node after the other: at every moment each
/// node opens what every other node seals.
#[test]
fn a_key_rotates_without_a_lost_datagram() {
    let stages: [&[u64]; 4] = [&[1], &[1, 2], &[2, 1], &[2]];
    let mut nodes = [stages[0]; 3];
    let mut exchanged = 0;
    for stage in &stages[1..] {
        for turn in 0..nodes.len() {
            nodes[turn] = stage;
            for sender in nodes {
                for receiver in nodes {
                    let mut datagram = seal(&sealed(sender, "weir"), b"row");
                    let opened = sealed(receiver, "weir");
                    assert_eq!(opened.open(&mut datagram).unwrap(), b"row");
                    exchanged += 1;
                }
            }
        }
    }
    assert_eq!(exchanged, 81);
}

proptest! {
    #[test]
    fn what_is_sealed_opens_and_costs_at_most_the_overhead(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..700), 0..3),
        keyed: bool,
    ) {
        let envelope = if keyed { sealed(&[1, 2], "weir") } else { Envelope::open_to_all("weir") };
        let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let mut datagram = Vec::new();
        envelope.seal(&mut rng(), &slices, &mut datagram);
        prop_assert!(datagram.len() <= parts.concat().len() + Envelope::OVERHEAD_BYTES);
        prop_assert_eq!(envelope.open(&mut datagram).unwrap(), parts.concat());
    }

    #[test]
    fn random_bytes_never_open_and_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(sealed(&[1], "weir").open(&mut bytes).is_err());
        let _ = Envelope::open_to_all("weir").open(&mut bytes);
    }
}
