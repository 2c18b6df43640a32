//! What the demo prints: each answer as it comes, and the result of every mode.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::limit::SyncMode;

use super::client::Answer;
use super::cluster::Cluster;
use super::scene::{Pattern, Scene};

/// The result of one mode.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Run {
    /// The sync mode.
    pub(super) mode: SyncMode,
    /// How the requests came.
    pub(super) pattern: Pattern,
    /// Number of nodes.
    pub(super) nodes: u16,
    /// The limit, in hits per window.
    pub(super) limit: u64,
    /// Length of the window, such as `minute` or `10s`.
    pub(super) window: String,
    /// Requests sent, all within one window.
    pub(super) sent: u64,
    /// Requests that reached the upstream.
    pub(super) admitted: u64,
    /// `admitted / limit`: 1 where the limit holds for the cluster.
    pub(super) ratio: f64,
}

impl Run {
    /// What `scene` came to on `nodes` nodes.
    #[expect(clippy::cast_precision_loss, reason = "both counts are far below 2^52")]
    pub(super) fn new(scene: &Scene, nodes: u16, admitted: u64) -> Self {
        let limit = scene.limit.limit.hits();
        Self {
            mode: scene.mode,
            pattern: scene.pattern,
            nodes,
            limit,
            window: scene.limit.period.to_string(),
            sent: scene.sent,
            admitted,
            ratio: admitted as f64 / limit as f64,
        }
    }
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
    pub(super) fn cluster(&mut self, cluster: &Cluster) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        writeln!(self.out, "upstream http://{}", cluster.upstream)?;
        for node in &cluster.nodes {
            let (id, listen, admin) = (&node.id, &node.listen, &node.admin);
            writeln!(self.out, "node {id:<3} http://{listen}, admin http://{admin}")?;
        }
        writeln!(self.out, "\nEvery node sees all others.")
    }

    /// Requests of `scene` begin.
    pub(super) fn begin(&mut self, scene: &Scene) -> io::Result<()> {
        let what = match scene.mode {
            SyncMode::Local => "each node counts alone",
            SyncMode::Gossip => "the nodes count together",
            SyncMode::Bounded => "each node spends its share of the limit, and gives of it to others",
        };
        let how = match scene.pattern {
            Pattern::Sequential => "one client sends one request after the other, to the nodes in turn",
            Pattern::Burst => "the client sends all requests at the same moment, to all nodes",
        };
        let (mode, limit) = (scene.mode, scene.limit);
        self.line(format_args!("\n{mode}: {what}.\nThe limit is {limit}; {how}."))
    }

    /// A scene is over.
    pub(super) fn end(&mut self, run: &Run) -> io::Result<()> {
        self.line(format_args!(
            "{} of {} requests were admitted.",
            run.admitted, run.sent
        ))
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
    table.set_header(["requests", "mode", "limit", "sent", "admitted", "ratio"]);
    for run in runs {
        let requests = match run.pattern {
            Pattern::Sequential => "one by one",
            Pattern::Burst => "all at once",
        };
        table.add_row([
            requests.to_owned(),
            run.mode.to_string(),
            format!("{}/{}", run.limit, run.window),
            run.sent.to_string(),
            run.admitted.to_string(),
            format!("{:.2}", run.ratio),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
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
            pattern: Pattern::Sequential,
            nodes: 3,
            limit: 5,
            window: "minute".to_owned(),
            sent: 20,
            admitted: 15,
            ratio: 3.0,
        }
    }

    fn printed(json: bool) -> String {
        let mut out = Vec::new();
        let mut report = Report::new(&mut out, json);
        let limit = "5/minute".parse().unwrap();
        let scene = Scene::new(SyncMode::Local, Pattern::Sequential, 3, limit);
        report.begin(&scene).unwrap();
        report.straddled().unwrap();
        report.end(&run()).unwrap();
        report.finish(&[run()]).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_is_one_document_and_nothing_else() {
        let expected = r#"{"runs":[{"mode":"local","pattern":"sequential","nodes":3,"limit":5,"window":"minute","sent":20,"admitted":15,"ratio":3.0}]}"#;
        let document: serde_json::Value = serde_json::from_str(&printed(true)).unwrap();
        assert_eq!(
            document,
            serde_json::from_str::<serde_json::Value>(expected).unwrap()
        );
    }

    #[test]
    fn the_table_shows_the_ratio_to_two_digits() {
        let text = printed(false);
        let row = text.lines().find(|line| line.contains("3.00")).unwrap();
        let cells: Vec<&str> = row
            .split(['│', '┆'])
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .collect();
        assert_eq!(cells, ["one by one", "local", "5/minute", "20", "15", "3.00"]);
    }
}
