//! What sealing and opening a full datagram costs, in processor time of the thread.

#![expect(missing_docs, reason = "criterion's macro writes an undocumented function")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rand::SeedableRng;
use rand::rngs::StdRng;
use weir::cluster::keyring::{GossipKey, Keyring};
use weir::cluster::seal::Envelope;

#[path = "support/cpu_time.rs"]
mod cpu_time;
use cpu_time::CpuTime;

const DATAGRAM_BYTES: usize = 1_200;

fn seal_and_open(criterion: &mut Criterion<CpuTime>) {
    let mut rng = StdRng::seed_from_u64(1);
    let key = GossipKey::generate(&mut rng).to_base64();
    let keyring = Keyring::parse(&key).expect("a generated key is valid");
    let envelope = Envelope::sealed(&keyring, "weir");
    let plaintext = [7; DATAGRAM_BYTES - Envelope::OVERHEAD_BYTES];
    let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);

    let mut group = criterion.benchmark_group("datagram of 1,200 bytes");
    group.throughput(Throughput::Bytes(DATAGRAM_BYTES as u64));
    group.bench_function("seal", |bencher| {
        bencher.iter(|| envelope.seal(&mut rng, &[&plaintext], &mut datagram));
    });
    assert_eq!(datagram.len(), DATAGRAM_BYTES);
    group.bench_function("open", |bencher| {
        // Opening overwrites what it opens, so each gets a copy, made beforehand.
        bencher.iter_batched_ref(
            || datagram.clone(),
            |sealed| {
                envelope
                    .open(sealed)
                    .map(|plaintext| plaintext.len())
                    .expect("it was sealed here")
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = seal_and_open
}
criterion_main!(benches);
