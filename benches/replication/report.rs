//! Puts the reports of all processes together: a table for people, then a line of JSON for programs.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::Setting;

/// Prints what `answers` come to.
pub(crate) fn print(setting: &Setting, machine: &Value, answers: &[Value]) {
    let staleness = Staleness::of(answers);
    let (gossip, process) = (
        Spread::of(answers, "gossip_share"),
        Spread::of(answers, "process_share"),
    );
    let memory = Memory::of(setting, answers);
    let seconds = (setting.warm_up + setting.measured).as_secs_f64();
    let changes = mean(answers, |answer| Some(answer["changes"].as_f64()? / seconds));
    let bytes = mean(answers, |answer| rate(answer, "bytes_sent"));
    let datagrams = mean(answers, |answer| rate(answer, "datagrams_sent"));
    let dropped: Vec<_> = answers
        .iter()
        .filter_map(|answer| answer["dropped"].as_array())
        .flatten()
        .collect();

    println!(
        "{} nodes, {changes:.0} changes/s each, {:.0} s, sealed, loopback; {machine}",
        setting.nodes,
        setting.measured.as_secs_f64()
    );
    let [p50, p99, max] = staleness.everywhere();
    println!(
        "staleness until all have it  p50 {p50:.1} ms  p99 {p99:.1} ms  max {max:.1} ms  ({} changes, {} lost)",
        staleness.to_all.len(),
        staleness.lost
    );
    let [p50, p99, max] = percentiles(&staleness.to_one);
    println!("staleness at one peer        p50 {p50:.1} ms  p99 {p99:.1} ms  max {max:.1} ms");
    println!(
        "gossip thread                {:.3} of a core, worst {:.3}",
        gossip.mean, gossip.worst
    );
    let per_row = gossip.mean / changes / (answers.len() as f64 - 1.0).max(1.0) * 1e9;
    println!("  for each peer's change     {per_row:.0} ns");
    println!(
        "whole process, with its load {:.3} of a core, worst {:.3}",
        process.mean, process.worst
    );
    println!(
        "memory of a process          {:.1} MiB after the warm-up, {:.1} MiB at the end, worst growth {:.2} MiB",
        memory.first / MIB,
        memory.last / MIB,
        memory.worst_growth / MIB
    );
    println!(
        "sent by a node               {:.2} MB/s, {datagrams:.0} datagrams/s",
        bytes / 1e6
    );
    println!("dropped                      {dropped:?}");
    println!(
        "{}",
        json!({
            "bench": "replication",
            "machine": machine,
            "nodes": setting.nodes,
            "changes_per_second_per_node": changes,
            "measured_seconds": setting.measured.as_secs_f64(),
            "staleness_ms": { "to_all": staleness.everywhere(), "to_one": percentiles(&staleness.to_one),
                "percentiles": ["p50", "p99", "max"], "samples": staleness.to_all.len(), "lost": staleness.lost },
            "gossip_thread_cores": { "mean": gossip.mean, "worst": gossip.worst },
            "gossip_thread_ns_per_peer_change": per_row,
            "process_cores": { "mean": process.mean, "worst": process.worst },
            "resident_bytes": { "after_warm_up": memory.first, "end": memory.last, "worst_growth": memory.worst_growth },
            "resident_bytes_by_second": answers.first().map(|answer| &answer["resident_bytes"]),
            "rows_per_node": mean(answers, |answer| answer["rows"].as_f64()),
            "bytes_per_second_per_node": bytes,
            "datagrams_per_second_per_node": datagrams,
            "dropped": dropped,
        })
    );
}

const MIB: f64 = 1_048_576.0;

fn rate(answer: &Value, field: &str) -> Option<f64> {
    Some(answer[field].as_f64()? / answer["measured_seconds"].as_f64()?)
}

fn mean(answers: &[Value], of: impl Fn(&Value) -> Option<f64>) -> f64 {
    answers.iter().filter_map(of).sum::<f64>() / answers.len() as f64
}

/// A figure over all processes.
struct Spread {
    mean: f64,
    worst: f64,
}

impl Spread {
    fn of(answers: &[Value], field: &str) -> Self {
        let each = answers.iter().filter_map(|answer| answer[field].as_f64());
        Self {
            mean: mean(answers, |answer| answer[field].as_f64()),
            worst: each.fold(0.0, f64::max),
        }
    }
}

/// Resident bytes of a process: the mean of three seconds after the warm-up, and of the last three. The
/// growth of one process is what its second half has over its first at most.
struct Memory {
    first: f64,
    last: f64,
    worst_growth: f64,
}

impl Memory {
    fn of(setting: &Setting, answers: &[Value]) -> Self {
        let series = |answer: &Value| -> Vec<f64> {
            let bytes = answer["resident_bytes"].as_array().into_iter().flatten();
            let measured = bytes.skip(setting.warm_up.as_secs() as usize);
            measured.filter_map(Value::as_f64).collect()
        };
        let highest = |bytes: &[f64]| bytes.iter().copied().fold(0.0, f64::max);
        let growth = answers.iter().map(|answer| {
            let bytes = series(answer);
            let (former, latter) = bytes.split_at(bytes.len() / 2);
            highest(latter) - highest(former)
        });
        let some = |bytes: &[f64]| Some(bytes.iter().sum::<f64>() / bytes.len() as f64);
        Self {
            first: mean(answers, |answer| some(series(answer).get(..3)?)),
            last: mean(answers, |answer| {
                series(answer).last_chunk::<3>().and_then(|three| some(three))
            }),
            worst_growth: growth.fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

/// How long changes took, in milliseconds, ascending.
struct Staleness {
    /// Until the last of all peers had it.
    to_all: Vec<f64>,
    /// Until one peer had it, each peer by itself.
    to_one: Vec<f64>,
    /// Changes that some peer had not when it stopped looking.
    lost: usize,
}

impl Staleness {
    fn of(answers: &[Value]) -> Self {
        let mut arrivals: HashMap<(u64, u64), Vec<u64>> = HashMap::new();
        for row in answers
            .iter()
            .filter_map(|answer| answer["seen"].as_array())
            .flatten()
        {
            if let (Some(of), Some(number), Some(at)) = (row[0].as_u64(), row[1].as_u64(), row[2].as_u64()) {
                arrivals.entry((of, number)).or_default().push(at);
            }
        }
        let (mut to_all, mut to_one, mut lost) = (Vec::new(), Vec::new(), 0);
        for (of, answer) in (0..).zip(answers) {
            for row in answer["changed"].as_array().into_iter().flatten() {
                let (number, changed) = (row[0].as_u64().unwrap_or(0), row[1].as_u64().unwrap_or(0));
                let seen = arrivals.remove(&(of, number)).unwrap_or_default();
                let times = seen.iter().map(|at| at.saturating_sub(changed) as f64 / 1e6);
                to_one.extend(times.clone());
                if seen.len() + 1 == answers.len() {
                    to_all.push(times.fold(0.0, f64::max));
                } else {
                    lost += 1;
                }
            }
        }
        to_all.sort_by(f64::total_cmp);
        to_one.sort_by(f64::total_cmp);
        Self { to_all, to_one, lost }
    }

    fn everywhere(&self) -> [f64; 3] {
        percentiles(&self.to_all)
    }
}

/// The median, the 99th percentile and the largest of ascending numbers, by nearest rank.
fn percentiles(ascending: &[f64]) -> [f64; 3] {
    [500, 990, 1000].map(|permille| {
        let rank = (ascending.len() * permille).div_ceil(1000);
        ascending.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    })
}
