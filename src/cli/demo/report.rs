//! What the demo prints: each answer as it comes, and the result of every mode.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::limit::SyncMode;

use super::client::Answer;
use super::cluster::Cluster;

/// The result of one mode.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Run {
    /// The sync mode.
    pub(super) mode: SyncMode,
    /// How the requests came: always `sequential`.
    pub(super) pattern: &'static str,
    /// Number of nodes.
    pub(super) nodes: u16,
    /// The limit, in hits per window.
    pub(super) limit: u64,
    /// Requests sent, all within one window.
    pub(super) sent: u64,
    /// Requests that reached the upstream.
    pub(super) admitted: u64,
    /// `admitted / limit`: 1 where the limit holds for the cluster.
    pub(super) ratio: f64,
}

/// Prints for people, or one JSON document for programs.
#[derive(Debug)]
pub(super) struct Report<W> {
    out: W,
    json: bool,
}

impl<W: Write> Report<W> {
    pub(super) fn new(out: W, json: bool) -> Self {
        Self { out, json }
    }

    /// The cluster stands.
    pub(super) fn cluster(&mut self, cluster: &Cluster, limit: &str) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        writeln!(self.out, "upstream http://{}", cluster.upstream)?;
        for node in &cluster.nodes {
            let (id, listen, admin) = (&node.id, &node.listen, &node.admin);
            writeln!(self.out, "node {id:<3} http://{listen}, admin http://{admin}")?;
        }
        writeln!(
            self.out,
            "\nEvery node sees all others. The limit is {limit} for each client."
        )?;
        writeln!(
            self.out,
            "One client sends one request after the other, to the nodes in turn."
        )
    }

    /// Requests of `mode` begin.
    pub(super) fn begin(&mut self, mode: SyncMode) -> io::Result<()> {
        let what = match mode {
            SyncMode::Local => "each node counts alone",
            SyncMode::Gossip => "the nodes count together",
            SyncMode::Bounded => "each node spends its share of the limit",
        };
        self.line(format_args!("\n{mode}: {what}"))
    }

    /// The `number`th answer came.
    pub(super) fn answer(&mut self, number: u64, answer: &Answer) -> io::Result<()> {
        if number == 1 {
            let name = &answer.window_name;
            self.line(format_args!("   #  node  status  X-RateLimit-Remaining-{name}"))?;
        }
        let (node, status, remaining) = (&answer.node, answer.status.as_u16(), &answer.remaining);
        self.line(format_args!("{number:>4}  {node:<4}  {status} {remaining:>5}"))
    }

    /// The requests of a mode met the end of a window, so that its limit began anew.
    pub(super) fn straddled(&mut self) -> io::Result<()> {
        self.line(format_args!(
            "The window ended meanwhile: once more with a new client."
        ))
    }

    /// All is done.
    pub(super) fn finish(&mut self, runs: &[Run]) -> io::Result<()> {
        if self.json {
            return writeln!(self.out, "{}", serde_json::json!({ "runs": runs }));
        }
        writeln!(self.out, "\n{}", table(runs))
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        writeln!(self.out, "{text}")
    }
}

fn table(runs: &[Run]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["mode", "sent", "admitted", "limit", "ratio"]);
    for run in runs {
        let numbers = [run.sent, run.admitted, run.limit].map(|number| number.to_string());
        let [sent, admitted, limit] = numbers;
        table.add_row([
            run.mode.to_string(),
            sent,
            admitted,
            limit,
            format!("{:.2}", run.ratio),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        Run {
            mode: SyncMode::Local,
            pattern: "sequential",
            nodes: 3,
            limit: 5,
            sent: 20,
            admitted: 15,
            ratio: 3.0,
        }
    }

    fn printed(json: bool) -> String {
        let mut out = Vec::new();
        let mut report = Report::new(&mut out, json);
        report.begin(SyncMode::Local).unwrap();
        report.straddled().unwrap();
        report.finish(&[run()]).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_is_one_document_and_nothing_else() {
        let expected = r#"{"runs":[{"mode":"local","pattern":"sequential","nodes":3,"limit":5,"sent":20,"admitted":15,"ratio":3.0}]}"#;
        let document: serde_json::Value = serde_json::from_str(&printed(true)).unwrap();
        assert_eq!(
            document,
            serde_json::from_str::<serde_json::Value>(expected).unwrap()
        );
    }

    #[test]
    fn the_table_shows_the_ratio_to_two_digits() {
        let text = printed(false);
        let row = text.lines().find(|line| line.contains("15")).unwrap();
        let cells: Vec<&str> = row
            .split(['│', '┆'])
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .collect();
        assert_eq!(cells, ["local", "20", "15", "5", "3.00"]);
    }
}
