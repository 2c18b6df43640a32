//! Replication at full tilt: N processes on loopback, sealed, each changing thousands of keys in every tick.
//!
//! Each process runs what a gateway runs for its limits: the limiter, and the gossip thread with membership,
//! replication and the sealed transport. Requests are direct calls of the limiter, since two cores cannot
//! carry the HTTP of 200,000 requests a second beside it. Measures how long a change takes to reach every
//! other node, what the gossip thread costs, and whether memory grows.
//!
//! `cargo bench --bench replication -- --nodes 10 --keys 2000 --seconds 20`

#![expect(clippy::disallowed_methods, reason = "a benchmark measures with real clocks")]

mod load;
mod node;
mod report;

#[path = "../support/machine.rs"]
mod machine;
#[path = "../support/memory.rs"]
mod memory;
#[path = "../support/threads.rs"]
mod threads;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// Nodes, a process each.
    nodes: usize,
    /// Keys that each node changes in 100 ms.
    keys: u32,
    /// How long is measured.
    measured: Duration,
    /// How long before that the load runs, for tables and logs to reach their size.
    warm_up: Duration,
    /// The window of the loaded rule, as configured. Short, so that rows are made and forgotten all the time.
    window: String,
}

impl Setting {
    fn from_arguments() -> Self {
        let number = |name, default| argument(name).map_or(default, |text| text.parse().expect("a number"));
        Self {
            nodes: number("--nodes", 10) as usize,
            keys: u32::try_from(number("--keys", 2_000)).expect("a number of keys"),
            measured: Duration::from_secs(number("--seconds", 20)),
            warm_up: Duration::from_secs(number("--warm-up", 15)),
            window: argument("--window").unwrap_or_else(|| "10s".to_owned()),
        }
    }

    fn to_arguments(&self) -> Vec<String> {
        let pairs = [
            ("--nodes", self.nodes.to_string()),
            ("--keys", self.keys.to_string()),
            ("--seconds", self.measured.as_secs().to_string()),
            ("--warm-up", self.warm_up.as_secs().to_string()),
            ("--window", self.window.clone()),
        ];
        pairs
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value])
            .collect()
    }
}

fn argument(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1)
}

/// The clock that all processes of a machine share.
fn monotonic() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).expect("it counts from the start of the machine")
}

/// A process of the cluster; ends with this one.
struct Node {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Node {
    fn start(index: usize, seed: Option<&str>, setting: &Setting) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program)
            .args(["--bench", "--node", &index.to_string()])
            .args(["--seed", seed.unwrap_or("none")])
            .args(setting.to_arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started again");
        Self {
            orders: child.stdin.take().expect("it is piped"),
            answers: BufReader::new(child.stdout.take().expect("it is piped")),
            child,
        }
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("its output can be read");
        serde_json::from_str(&line).expect("a node that ends early says why on standard error")
    }

    fn order(&mut self, line: &str) {
        writeln!(self.orders, "{line}").expect("it reads its orders");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn main() {
    // Only `cargo bench` says so; `cargo test --benches` wants to know that this compiles.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let setting = Setting::from_arguments();
    if let Some(index) = argument("--node") {
        return node::run(index.parse().expect("a number"), &setting);
    }
    let machine = machine::machine();
    let mut nodes = vec![Node::start(0, None, &setting)];
    let seed = nodes[0].answer()["gossip"]
        .as_str()
        .expect("an address")
        .to_owned();
    nodes.extend((1..setting.nodes).map(|index| Node::start(index, Some(&seed), &setting)));
    for node in nodes.iter_mut().skip(1) {
        node.answer();
    }
    for node in &mut nodes {
        assert_eq!(node.answer()["formed"], true, "the cluster did not form");
    }
    let start = (monotonic() + Duration::from_secs(1)).as_nanos().to_string();
    nodes.iter_mut().for_each(|node| node.order(&start));
    let answers: Vec<Value> = nodes.iter_mut().map(Node::answer).collect();
    drop(nodes);
    report::print(&setting, &machine, &answers);
}
