//! `weir sim`: how well a cluster that does not exist yet would keep a limit.

use std::io::{self, Write as _};

use comfy_table::{CellAlignment, Table, presets};

use super::args::SimArgs;
use crate::sim::{Plan, PlanReport};

/// Simulates and prints the result.
///
/// # Errors
/// When the flags together ask for more than a simulation may take, or standard output is closed.
pub fn run(args: &SimArgs) -> anyhow::Result<()> {
    let report = plan(args).run()?;
    let text = if args.json {
        serde_json::to_string(&report)?
    } else {
        table(&report).to_string()
    };
    writeln!(io::stdout(), "{text}")?;
    Ok(())
}

fn plan(args: &SimArgs) -> Plan {
    Plan {
        nodes: args.nodes,
        limit: args.limit,
        rate: args.rate,
        pattern: args.pattern,
        clients: args.clients,
        delay: args.delay,
        loss: args.loss,
        mode: args.mode,
        duration: args.duration,
        seed: args.seed,
    }
}

fn table(report: &PlanReport) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let [p50, p99] = report
        .convergence_ms
        .map_or([None, None], |times| [Some(times.p50), Some(times.p99)])
        .map(|time| time.map_or("-".to_owned(), |time| format!("{time:.1} ms")));
    let rows = [
        ("nodes", report.nodes.to_string()),
        ("mode", report.mode.to_string()),
        (
            "pattern",
            format!("{}, {} clients", report.pattern, report.clients),
        ),
        ("limit", format!("{}/{}", report.limit, report.period)),
        ("offered", report.offered.to_string()),
        ("admitted", report.admitted.to_string()),
        ("ratio to one exact counter", format!("{:.4}", report.ratio)),
        (
            "worst client, ratio to the limit",
            format!("{:.4}", report.worst_ratio),
        ),
        ("convergence near the limit, p50", p50),
        ("convergence near the limit, p99", p99),
        (
            "bytes per node per second",
            format!("{:.0}", report.bytes_per_node_per_second),
        ),
        (
            "datagrams per node per second",
            format!("{:.0}", report.datagrams_per_node_per_second),
        ),
        (
            "datagrams per request",
            format!("{:.2}", report.datagrams_per_request),
        ),
    ];
    for (what, value) in rows.into_iter().chain(waits(report)) {
        table.add_row([what.to_owned(), value]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn waits(report: &PlanReport) -> impl Iterator<Item = (&'static str, String)> {
    let rows = report.waits.map(|waits| {
        let time = |time: Option<f64>| time.map_or("-".to_owned(), |time| format!("{time:.1} ms"));
        let share = waits.admitted_share * 100.0;
        [
            ("admitted after a wait for rights", format!("{share:.2} %")),
            ("wait for rights, p50", time(waits.p50_ms)),
            ("wait for rights, p99", time(waits.p99_ms)),
            ("denied after a wait", waits.denied.to_string()),
        ]
    });
    rows.into_iter().flatten()
}
