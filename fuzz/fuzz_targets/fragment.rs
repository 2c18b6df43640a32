//! Reassembly: a stream of plaintexts, each from one of eight addresses at a time that moves on. What it
//! keeps stays bounded, and an undisturbed message arrives whole in whatever order its parts come.
//!
//! Format: records of (address, milliseconds / 4, length u16 BE, plaintext).
#![no_main]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use weir::cluster::fragment::{Content, HEADER_BYTES_MAX, MESSAGE_BYTES_MAX, Reassembly, parse, split};
use weir_fuzz::{Counting, live_bytes};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Beyond [`Reassembly::BYTES_MAX`]: the list of messages itself, which grows by doubling.
const SLACK: isize = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    hostile_stream(bytes);
    cut_and_shuffle(bytes);
});

fn peer(index: u8) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7946 + u16::from(index % 8)))
}

fn hostile_stream(mut bytes: &[u8]) {
    let before = live_bytes();
    let mut reassembly = Reassembly::default();
    let mut now = Duration::ZERO;
    while let Some((&[from, millis, high, low], rest)) = bytes.split_first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
        let (plaintext, rest) = rest.split_at(length);
        bytes = rest;
        now += Duration::from_millis(u64::from(millis) * 4);
        if let Ok(Content::Fragment(fragment)) = parse(plaintext) {
            let whole = reassembly.insert(peer(from), fragment, now);
            assert!(whole.is_none_or(|message| message.len() <= MESSAGE_BYTES_MAX));
        }
        assert!(live_bytes() - before <= Reassembly::BYTES_MAX as isize + SLACK);
    }
}

fn cut_and_shuffle(bytes: &[u8]) {
    let Some((&[width, step, id], message)) = bytes.split_first_chunk::<3>() else {
        return;
    };
    let room = HEADER_BYTES_MAX + 1 + usize::from(width);
    let Ok(pieces) = split(message, u32::from(id), room) else {
        assert!(message.len() > 255 * (room - HEADER_BYTES_MAX));
        return;
    };
    let mut plaintexts: Vec<Vec<u8>> = pieces
        .map(|(header, payload)| [header.as_slice(), payload].concat())
        .collect();
    assert!(plaintexts.iter().all(|plaintext| plaintext.len() <= room));
    let turn = usize::from(step) % plaintexts.len();
    plaintexts.rotate_left(turn);
    if step % 2 == 1 {
        plaintexts.reverse();
    }
    let mut reassembly = Reassembly::default();
    let mut arrived = Vec::new();
    for plaintext in &plaintexts {
        match parse(plaintext).expect("own plaintexts parse") {
            Content::Message(whole) => arrived.push(whole.to_vec()),
            Content::Fragment(part) => {
                arrived.extend(reassembly.insert(peer(0), part, Duration::ZERO));
            }
            Content::Frame(_) => unreachable!("no frame was sent"),
        }
    }
    assert_eq!(arrived, [message]);
}
