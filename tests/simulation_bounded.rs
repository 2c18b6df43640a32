//! Random schedules of bounded mode over the real limiter, core and escrow: whatever happens, no key is admitted
//! more than its limit in a window. `WEIR_SCHEDULES` and `WEIR_SEED` choose how many and from where; a failure
//! prints its seed and the last lines of its trace.

use weir::limit::WindowLimit;
use weir::sim::{BoundedReport, BoundedSchedule, FaultReport, Sabotage, Spread, WaitReport, run_bounded};

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
        assert!(unjudged * 2 < count, "{unjudged} of {count} ends not judged");
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

/// The first of the schedules that admits more than a limit, or may, when `sabotage` is done, and how.
fn caught(sabotage: Sabotage) -> Option<(u64, String)> {
    (0..env("WEIR_SABOTAGED", 400)).find_map(|seed| {
        let mut schedule = BoundedSchedule::random(seed);
        // That less than the limit is admitted when rules are broken is not what is looked for.
        schedule.overflows = true;
        if let Some(bounded) = &mut schedule.world.bounded {
            bounded.sabotage = Some(sabotage);
        }
        let (violation, _) = run_bounded(&schedule, seed).err()?;
        violation
            .what
            .contains("admitted of")
            .then_some((seed, violation.what))
    })
}

#[test]
fn the_judge_sees_each_rule_that_is_broken() {
    for sabotage in [
        Sabotage::Undeducted,
        Sabotage::Undated,
        Sabotage::Undeparted,
        Sabotage::Incomplete,
    ] {
        let (seed, what) = caught(sabotage).unwrap_or_else(|| panic!("{sabotage:?} was not seen"));
        println!("{sabotage:?}: seed {seed}: {what}");
    }
}

#[test]
fn a_burst_of_requests_that_no_node_has_the_rights_for_spends_the_limit() {
    // Grants cross each other on their way, and rights that were given are nobody's admission.
    for (nodes, limit, hits) in [
        (2, 2, 2),
        (5, 2, 2),
        (5, 5, 5),
        (4, 218, 2),
        (6, 280, 5),
        (3, 1, 1),
        (6, 41, 4),
    ] {
        for seed in 0..10 {
            let window: WindowLimit = format!("{limit}/second").parse().expect("a valid limit");
            for spread in [Spread::Burst, Spread::OneNode, Spread::Even] {
                let schedule = BoundedSchedule::quiet(nodes, window, spread, hits);
                let report = run_bounded(&schedule, seed);
                let (violation, what) = (format!("{nodes} nodes, {limit} by {hits}, seed {seed}"), spread);
                let report = report.unwrap_or_else(|(broken, _)| panic!("{violation}, {what:?}: {broken}"));
                let spendable = limit / u64::from(hits) * u64::from(hits);
                assert_eq!(report.last, (spendable, spendable), "{violation}, {what:?}");
                assert!(!report.unjudged, "{violation}, {what:?}");
            }
        }
    }
}
