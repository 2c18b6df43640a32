//! Cutting and putting together, under every order, loss and repetition.

use proptest::prelude::*;

use super::*;

const NOW: Duration = Duration::from_secs(100);

fn peer(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn plaintexts(message: &[u8], id: u32, room: usize) -> Vec<Vec<u8>> {
    split(message, id, room)
        .unwrap()
        .map(|(header, payload)| [header.as_slice(), payload].concat())
        .collect()
}

fn fragment(message: u32, index: u8, count: u8, payload: &[u8]) -> Fragment<'_> {
    Fragment {
        message,
        index,
        count,
        payload,
    }
}

fn feed(reassembly: &mut Reassembly, from: SocketAddr, plaintext: &[u8]) -> Option<Vec<u8>> {
    match parse(plaintext).unwrap() {
        Content::Fragment(fragment) => reassembly.insert(from, fragment, NOW),
        Content::Message(message) => Some(message.to_vec()),
        Content::Frame(_) => None,
    }
}

#[test]
fn a_message_goes_whole_while_it_fits_and_not_a_byte_longer() {
    let whole = plaintexts(&[5; 99], 1, 100);
    assert_eq!(whole.len(), 1);
    assert_eq!(parse(&whole[0]), Ok(Content::Message(&[5; 99])));
    let cut = plaintexts(&[5; 100], 1, 100);
    assert_eq!(cut.iter().map(Vec::len).collect::<Vec<_>>(), [100, 14]);
}

#[test]
fn the_largest_message_of_chitchat_fits_default_datagrams_and_a_longer_one_than_255_parts_is_refused() {
    let room = 1_200 - 45;
    assert_eq!(plaintexts(&[0; MESSAGE_BYTES_MAX], 1, room).len(), 58);
    let longest = 255 * (room - HEADER_BYTES_MAX);
    assert_eq!(plaintexts(&vec![0; longest], 1, room).len(), 255);
    assert!(split(&vec![0; longest + 1], 1, room).is_err());
    assert!(split(&[0; 8], 1, HEADER_BYTES_MAX).is_err());
}

#[test]
fn a_fifth_message_of_one_peer_drops_its_oldest_and_nobody_elses() {
    let mut reassembly = Reassembly::default();
    reassembly.insert(peer(2), fragment(0, 0, 2, b"other "), NOW);
    for message in 0..5 {
        reassembly.insert(peer(1), fragment(message, 0, 2, b"first "), NOW);
    }
    assert_eq!(reassembly.expired(), 1);
    assert_eq!(reassembly.insert(peer(1), fragment(0, 1, 2, b"half"), NOW), None);
    let other = reassembly.insert(peer(2), fragment(0, 1, 2, b"half"), NOW);
    assert_eq!(other.unwrap(), b"other half");
    let newest = reassembly.insert(peer(1), fragment(4, 1, 2, b"half"), NOW);
    assert_eq!(newest.unwrap(), b"first half");
}

#[test]
fn an_incomplete_message_is_given_up_after_its_age() {
    let mut reassembly = Reassembly::default();
    reassembly.insert(peer(1), fragment(1, 0, 2, b"a"), NOW);
    reassembly.insert(peer(1), fragment(2, 0, 2, b"b"), NOW);
    let late = NOW + Reassembly::AGE_MAX;
    let kept = reassembly.insert(peer(1), fragment(1, 1, 2, b"z"), late);
    assert_eq!(kept.unwrap(), b"az");
    let later = late + Duration::from_millis(1);
    assert_eq!(reassembly.insert(peer(1), fragment(2, 1, 2, b"z"), later), None);
}

#[test]
fn a_flood_of_fragments_stays_within_the_byte_bound() {
    let mut reassembly = Reassembly::default();
    let payload = [0; 30_000];
    for port in 1..200 {
        for message in 0..6 {
            reassembly.insert(peer(port), fragment(message, 0, 255, &payload), NOW);
            reassembly.insert(peer(port), fragment(message, 1, 255, &payload), NOW);
            assert!(reassembly.bytes <= Reassembly::BYTES_MAX, "{}", reassembly.bytes);
            assert_eq!(
                reassembly.bytes,
                reassembly.partials.iter().map(Partial::cost).sum::<usize>()
            );
        }
    }
    assert!(reassembly.expired() > 1_000);
}

proptest! {
    #[test]
    fn any_order_loss_and_repetition_gives_the_message_or_nothing(
        message in prop::collection::vec(any::<u8>(), 0..3_000),
        room in 32_usize..400,
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..200),
    ) {
        let pieces = plaintexts(&message, 7, room);
        let mut reassembly = Reassembly::default();
        let mut seen = std::collections::BTreeSet::new();
        let mut completed = false;
        for pick in picks {
            let index = pick.index(pieces.len());
            seen.insert(index);
            if let Some(whole) = feed(&mut reassembly, peer(1), &pieces[index]) {
                prop_assert_eq!(&whole, &message);
                completed = true;
            }
        }
        prop_assert_eq!(completed, seen.len() == pieces.len());
    }

    #[test]
    fn random_plaintexts_never_panic_and_never_pass_the_bounds(
        plaintexts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..64),
    ) {
        let mut reassembly = Reassembly::default();
        for (step, mut plaintext) in plaintexts.into_iter().enumerate() {
            if let Some(channel) = plaintext.first_mut() {
                *channel %= 4;
            }
            if let Ok(Content::Fragment(fragment)) = parse(&plaintext) {
                let now = NOW + Duration::from_millis(step as u64 * 40);
                reassembly.insert(peer(u16::from(fragment.index % 3)), fragment, now);
            }
            prop_assert!(reassembly.bytes <= Reassembly::BYTES_MAX);
        }
    }
}
