//! Random schedules of loss, reordering, duplication, partitions, crashes, restarts, joins and leaves over
//! the real core. `WEIR_SCHEDULES` and `WEIR_SEED` choose how many and from where; a failure prints its
//! seed and the last lines of its trace.

use weir::sim::{FaultReport, Schedule, run_schedule};

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

#[test]
fn every_replica_converges_to_the_truth_after_the_network_heals() {
    let (first, count) = (env("WEIR_SEED", 0), env("WEIR_SCHEDULES", 2_000));
    let mut faults = FaultReport::default();
    let mut slowest = Vec::new();
    for seed in first..first + count {
        match run_schedule(&Schedule::random(seed), seed) {
            Ok(report) => {
                faults += report.faults;
                slowest.push(report.converged_after);
            }
            Err((violation, _)) => {
                let mut again = Schedule::random(seed);
                again.world.trace = true;
                let trace = run_schedule(&again, seed).map_or_else(|(_, trace)| trace, |_| Vec::new());
                let tail = trace.len().saturating_sub(env("WEIR_TRACE", 60) as usize);
                panic!("seed {seed}: {violation}\n{}", trace[tail..].join("\n"));
            }
        }
    }
    slowest.sort();
    println!(
        "{count} schedules, converged after p50 {:?} p99 {:?} max {:?}; {faults:?}",
        slowest[slowest.len() / 2],
        slowest[slowest.len() * 99 / 100],
        slowest[slowest.len() - 1],
    );
    if count >= 500 {
        for (fault, happened) in [
            ("crash", faults.crashes),
            ("restart", faults.restarts),
            ("join", faults.joins),
            ("leave", faults.leaves),
            ("partition", faults.partitions),
            ("cut", faults.cut),
            ("loss", faults.lost),
            ("duplication", faults.duplicated),
            ("reordering", faults.reordered),
        ] {
            assert!(
                happened > 0,
                "no {fault} in {count} schedules: the test proves less than it says"
            );
        }
    }
}
