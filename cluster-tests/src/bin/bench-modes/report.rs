//! The result: a Markdown table, and the same as JSON.

use serde_json::json;

use crate::contestant::NODES;
use crate::measure::Round;

/// All rounds of one contestant.
pub(crate) struct Figures {
    mode: String,
    /// Messages a second while idle.
    idle: f64,
    rounds: Vec<Round>,
}

/// What is printed in the end.
pub(crate) struct Report<'a> {
    limit: u64,
    rounds: usize,
    load: &'a str,
    figures: &'a [Figures],
}

impl Figures {
    pub(crate) fn new(mode: &str, idle: f64) -> Self {
        Self {
            mode: mode.to_owned(),
            idle,
            rounds: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, round: Round) {
        self.rounds.push(round);
    }

    fn sorted(&self, figure: impl Fn(&Round) -> f64) -> Vec<f64> {
        let mut all: Vec<f64> = self.rounds.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    fn median(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        let all = self.sorted(figure);
        all.get(all.len() / 2).copied().unwrap_or_default()
    }

    fn worst(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        self.sorted(figure).last().copied().unwrap_or_default()
    }
}

impl<'a> Report<'a> {
    pub(crate) fn new(limit: u64, rounds: usize, load: &'a str, figures: &'a [Figures]) -> Self {
        Self {
            limit,
            rounds,
            load,
            figures,
        }
    }

    pub(crate) fn print(&self) {
        println!();
        println!(
            "| mode | admitted / L, steady | admitted / L, burst | worst of any round | added p50 | added p99 \
             | messages / request | idle messages / s | waited for rights |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        for figures in self.figures {
            let worst = figures.worst(|round| round.steady.max(round.burst));
            println!(
                "| `{}` | {:.4} | {:.4} | {worst:.4} | {:+.3} ms | {:+.3} ms | {:.3} | {:.0} | {:.1} % |",
                figures.mode,
                figures.median(|round| round.steady),
                figures.median(|round| round.burst),
                figures.median(|round| round.added_p50),
                figures.median(|round| round.added_p99),
                figures.median(|round| round.messages),
                figures.idle,
                figures.median(|round| round.waited) * 100.0,
            );
        }
        println!("\n{}", self.json());
    }

    fn json(&self) -> serde_json::Value {
        let modes: Vec<_> = self.figures.iter().map(Figures::json).collect();
        json!({
            "benchmark": "modes", "nodes": NODES, "limit": self.limit, "rounds": self.rounds,
            "load_at_start": self.load, "modes": modes,
        })
    }
}

impl Figures {
    fn json(&self) -> serde_json::Value {
        let rounds: Vec<_> = self
            .rounds
            .iter()
            .map(|round| {
                json!({
                    "steady": round.steady, "burst": round.burst,
                    "added_p50_ms": round.added_p50, "added_p99_ms": round.added_p99,
                    "messages_per_request": round.messages, "waited": round.waited,
                })
            })
            .collect();
        json!({ "mode": self.mode, "idle_messages_per_second": self.idle, "rounds": rounds })
    }
}
