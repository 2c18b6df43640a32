//! Runs random schedules of the simulator on all cores: `scripts/simulate`.
#![expect(
    clippy::disallowed_methods,
    reason = "says how long a run took; the schedules read no clock"
)]

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};

use weir::sim::{
    BoundedReport, BoundedSchedule, FaultReport, Schedule, ScheduleReport, Violation, WaitReport,
    run_bounded, run_schedule,
};

/// Runs random schedules against the invariants, and prints the first that breaks one.
#[derive(Parser)]
struct Args {
    /// How many.
    #[arg(default_value_t = 1_000_000)]
    schedules: u64,
    /// The seed of the first.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Of what kind.
    #[arg(long, value_enum, default_value = "random")]
    profile: Profile,
    /// Threads; as many as there are cores unless given.
    #[arg(long)]
    threads: Option<usize>,
    /// Goes on after a violation, and prints one line for each.
    #[arg(long)]
    keep_going: bool,
    /// Lines of trace printed with a violation.
    #[arg(long, default_value_t = 60)]
    trace: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// Loss, delay, partitions, crashes, joins, leaves, skew, tables that overflow, floods.
    Random,
    /// Ten nodes, one datagram in five lost, 50 ms of delay: exact agreement after the last change.
    Lossy,
    /// Bounded mode: rosters, wills, transfers and waits under the same misfortunes, and the limit judged at
    /// every admission.
    Bounded,
}

/// What one schedule came to.
struct Held {
    admitted: u64,
    faults: FaultReport,
    /// How long agreement took, where that is measured.
    took: Option<Duration>,
    waits: WaitReport,
}

impl From<ScheduleReport> for Held {
    fn from(report: ScheduleReport) -> Self {
        Self {
            admitted: report.admitted,
            faults: report.faults,
            took: Some(report.converged_after),
            waits: WaitReport::default(),
        }
    }
}

impl From<BoundedReport> for Held {
    fn from(report: BoundedReport) -> Self {
        Self {
            admitted: report.admitted,
            faults: report.faults,
            took: None,
            waits: report.waits,
        }
    }
}

impl Args {
    /// Runs the schedule of `seed`; a violation comes with its trace, if one is kept.
    fn run(&self, seed: u64, trace: bool) -> Result<Held, (Violation, Vec<String>)> {
        let mut schedule = match self.profile {
            Profile::Random => Schedule::random(seed),
            Profile::Lossy => Schedule::lossy(seed),
            Profile::Bounded => {
                let mut schedule = BoundedSchedule::random(seed);
                schedule.world.trace = trace;
                return run_bounded(&schedule, seed).map(Held::from);
            }
        };
        schedule.world.trace = trace;
        run_schedule(&schedule, seed).map(Held::from)
    }
}

/// What the threads share: the next seed, and whether to stop.
struct Shared {
    next: AtomicU64,
    end: u64,
    stop: AtomicBool,
}

#[derive(Default)]
struct Tally {
    faults: FaultReport,
    admitted: u64,
    held: usize,
    took: Vec<Duration>,
    waits: WaitReport,
    broken: Vec<(u64, Violation)>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let begun = Instant::now();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(cores).max(1);
    let shared = Shared {
        next: AtomicU64::new(args.seed),
        end: args.seed.saturating_add(args.schedules),
        stop: AtomicBool::new(false),
    };
    let tallies = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| work(&args, &shared)))
            .collect();
        let joined = workers.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.collect::<Result<Vec<_>, _>>()
    });
    let Ok(tallies) = tallies else {
        eprintln!("a schedule panicked: see above");
        return ExitCode::FAILURE;
    };
    report(&args, tallies, begun.elapsed())
}

fn work(args: &Args, shared: &Shared) -> Tally {
    let mut tally = Tally::default();
    while !shared.stop.load(Relaxed) {
        let seed = shared.next.fetch_add(1, Relaxed);
        if seed >= shared.end {
            break;
        }
        match args.run(seed, false) {
            Ok(report) => {
                tally.held += 1;
                tally.faults += report.faults;
                tally.admitted += report.admitted;
                tally.took.extend(report.took);
                tally.waits += report.waits;
            }
            Err((violation, _)) => {
                tally.broken.push((seed, violation));
                if !args.keep_going {
                    shared.stop.store(true, Relaxed);
                }
            }
        }
    }
    tally
}

fn report(args: &Args, tallies: Vec<Tally>, elapsed: Duration) -> ExitCode {
    let mut all = Tally::default();
    for tally in tallies {
        all.faults += tally.faults;
        all.admitted += tally.admitted;
        all.held += tally.held;
        all.took.extend(tally.took);
        all.waits += tally.waits;
        all.broken.extend(tally.broken);
    }
    all.broken.sort_by_key(|(seed, _)| *seed);
    if let Some((seed, _)) = all.broken.first().filter(|_| !args.keep_going) {
        print_trace(args, *seed);
    }
    for (seed, violation) in &all.broken {
        println!("seed {seed}: {violation}");
    }
    all.took.sort_unstable();
    let measured = all.took.len();
    println!(
        "{} schedules held in {elapsed:.0?}, {} admissions",
        all.held, all.admitted
    );
    // The nearest rank: the least time that so many of a hundred do not exceed.
    let at = |percent: usize| all.took.get((measured * percent).div_ceil(100).max(1) - 1);
    if let (Some(p50), Some(p99), Some(most)) = (at(50), at(99), all.took.last()) {
        println!("agreed after p50 {p50:?}, p99 {p99:?}, at most {most:?}");
    }
    if args.profile == Profile::Bounded {
        let waits = &all.waits;
        let [p50, p99] = [50, 99].map(|percent| waits.percentile(percent).unwrap_or_default());
        println!(
            "admitted {} at once and {} after a wait, p50 {p50:?}, p99 {p99:?}",
            waits.at_once, waits.served
        );
    }
    println!("{:#?}", all.faults);
    if all.broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn print_trace(args: &Args, seed: u64) {
    if let Err((_, trace)) = args.run(seed, true) {
        let from = trace.len().saturating_sub(args.trace);
        for line in trace.iter().skip(from) {
            println!("{line}");
        }
    }
}
