//! Random schedules of bounded mode over the real limiter, core and escrow: whatever happens, no key is admitted
//! more than its limit in a window. `WEIR_SCHEDULES` and `WEIR_SEED` choose how many and from where; a failure
//! prints its seed and the last lines of its trace.

use weir::sim::{BoundedReport, BoundedSchedule, FaultReport, WaitReport, run_bounded};

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// What the schedule of `seed` came to; with the end of its trace if it breaks an invariant.
fn report_of(seed: u64) -> Result<BoundedReport, String> {
    let mut schedule = BoundedSchedule::random(seed);
    run_bounded(&schedule, seed).map_err(|(violation, _)| {
        schedule.world.trace = true;
        let trace = run_bounded(&schedule, seed).map_or_else(|(_, trace)| trace, |_| Vec::new());
        let tail = trace.len().saturating_sub(env("WEIR_TRACE", 60) as usize);
        format!("seed {seed}: {violation}\n{}", trace[tail..].join("\n"))
    })
}

/// The reports of so many seeds from `first` on, on all cores.
fn reports(first: u64, count: u64) -> Vec<Result<BoundedReport, String>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let seeds = |from| (first..first + count).skip(from).step_by(threads);
        let run = |from| scope.spawn(move || seeds(from).map(report_of).collect::<Vec<_>>());
        let runs: Vec<_> = (0..threads).map(run).collect();
        let reports = runs.into_iter().flat_map(|run| run.join().expect("no panic"));
        reports.collect()
    })
}

#[test]
fn no_schedule_admits_more_than_the_limit_and_all_of_it_once_the_network_heals() {
    let (first, count) = (env("WEIR_SEED", 0), env("WEIR_SCHEDULES", 2_000));
    let mut faults = FaultReport::default();
    let mut waits = WaitReport::default();
    let (mut judged, mut filled, mut granted, mut unjudged) = (0, 0, 0, 0);
    let mut broken = Vec::new();
    for report in reports(first, count) {
        match report {
            Ok(report) => {
                faults += report.faults;
                waits += report.waits;
                judged += report.judged;
                filled += report.filled;
                granted += report.granted;
                unjudged += u64::from(report.unjudged);
            }
            Err(what) => broken.push(what),
        }
    }
    let firsts: Vec<_> = broken.iter().take(1).collect();
    let heads: Vec<_> = broken.iter().filter_map(|what| what.lines().next()).collect();
    assert!(
        broken.is_empty(),
        "{} broken:\n{}\n{}",
        broken.len(),
        heads.join("\n"),
        firsts[0]
    );
    println!(
        "{count} schedules, {judged} admissions judged, {filled} rows filled, {granted} hits granted, {unjudged} ends not judged"
    );
    println!("{faults:?}");
    println!(
        "at once {}, served {} (p50 {:?}, p99 {:?}), denied {}, exhausted {}, timed out {}, turned away {}, gone {}",
        waits.at_once,
        waits.served,
        waits.percentile(50),
        waits.percentile(99),
        waits.denied,
        waits.exhausted,
        waits.timed_out,
        waits.turned_away,
        waits.gone
    );
    if count >= 500 {
        for (what, happened) in [
            ("crash", faults.crashes),
            ("restart", faults.restarts),
            ("join", faults.joins),
            ("leave", faults.leaves),
            ("departure", faults.departed),
            ("will", faults.inherited),
            ("forgotten node", faults.forgets),
            ("switch", faults.switches),
            ("partition", faults.partitions),
            ("cut", faults.cut),
            ("loss", faults.lost),
            ("duplication", faults.duplicated),
            ("reordering", faults.reordered),
            ("grant", granted),
            ("wait", waits.served),
            ("exhaustion", waits.exhausted),
            ("deadline", waits.timed_out),
            ("client gone", waits.gone),
            ("full row", filled),
        ] {
            assert!(
                happened > 0,
                "no {what} in {count} schedules: the test proves less than it says"
            );
        }
    }
}
