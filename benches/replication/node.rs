//! One process of the cluster.

use std::io::BufRead;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use weir::cluster::{Cluster, ClusterHandle};
use weir::config::Config;
use weir::limit::{Limiter, UnixMillis};
use weir::replica::{Generation, ReplicaId};

use super::load::{LOAD_POOL_TICKS, Load, SAMPLE_POOL};
use super::memory::own_bytes;
use super::threads::processor_time;
use super::{Setting, argument, monotonic};

/// The load comes, and peers are looked at, in steps of this length: what is measured is late by half of it.
const STEP: Duration = Duration::from_millis(4);

/// After the load, how long a sample may still take to arrive.
const GRACE: Duration = Duration::from_secs(3);

/// Longest wait for the cluster to form.
const FORMS_WITHIN: Duration = Duration::from_secs(60);

/// The name of the thread that replicates, in `/proc`.
const GOSSIP_THREAD: &str = "weir-gossip";

/// Runs node `index` until it has reported.
pub(crate) fn run(index: usize, setting: &Setting) {
    let (cluster, limiter) = start(index, setting);
    say(&json!({ "gossip": cluster.gossip_address().to_string() }));
    let formed = wait_until_formed(&cluster, setting.nodes);
    say(&json!({ "formed": formed }));
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .expect("orders can be read");
    let start = Duration::from_nanos(line.trim().parse().expect("a time in nanoseconds"));
    let mut load = Load::new(index, setting, limiter, start);
    let report = measure(setting, &cluster, &mut load, start);
    say(&report);
}

fn say(line: &Value) {
    println!("{line}");
}

fn start(index: usize, setting: &Setting) -> (ClusterHandle, Arc<Limiter>) {
    let window = &setting.window;
    let text = format!(
        "node_id: node-{index:03}\ncluster: {{ id: bench, gossip: 127.0.0.1:0 }}\n\
         rules: [{{ name: load, by: ip, windows: [1000000000/{window}] }}, \
         {{ name: samples, by: ip, windows: [1000000000/year] }}]\n\
         upstreams: [{{ name: app, targets: ['http://127.0.0.1:9'] }}]\n\
         routes: [{{ name: all, upstream: app }}]\n"
    );
    let mut config = Config::from_yaml("bench.yaml", &text).expect("a valid configuration");
    config.cluster.seeds = argument("--seed")
        .filter(|seed| seed != "none")
        .into_iter()
        .collect();
    config.cluster.key = Some("QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=".to_owned());
    // Every change is sent: with the default, rows so far from their limit would be held back.
    config.sync.significance.epsilon_permille = 0;
    // Rows of two windows at a time, those that ended and those that run, and some to spare.
    let rows = setting.keys * LOAD_POOL_TICKS * 3 + SAMPLE_POOL * setting.nodes as u32;
    let limiter = Limiter::new(
        config.limits.rules.clone(),
        config.sync.mode,
        config.sync.significance,
        rows,
    );
    let limiter = Arc::new(limiter);
    let me = ReplicaId {
        node: config.node_id.clone(),
        generation: Generation(u64::try_from(since_epoch().as_micros()).expect("a time in this age")),
    };
    let cluster = Cluster::start(&config, me, Arc::clone(&limiter)).expect("loopback can be bound");
    (cluster, limiter)
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970")
}

/// The wall clock, as windows need it.
pub(crate) fn wall() -> UnixMillis {
    UnixMillis(u64::try_from(since_epoch().as_millis()).expect("a time in this age"))
}

fn wait_until_formed(cluster: &ClusterHandle, nodes: usize) -> bool {
    let start = Instant::now();
    let is_formed = || {
        let members = cluster.members();
        members.iter().filter(|member| member.live).count() == nodes && cluster.ready()
    };
    while !is_formed() {
        if start.elapsed() > FORMS_WITHIN {
            return false;
        }
        sleep(Duration::from_millis(20));
    }
    true
}

/// Runs the load, and looks at this process while it does.
fn measure(setting: &Setting, cluster: &ClusterHandle, load: &mut Load, start: Duration) -> Value {
    let from = start + setting.warm_up;
    let to = from + setting.measured;
    let mut at = start;
    let mut before = None;
    let mut resident = Vec::new();
    let mut resident_at = start;
    while at < to {
        at += STEP;
        sleep(at.saturating_sub(monotonic()));
        load.step(at, &cluster.flusher());
        if at >= resident_at {
            resident_at += Duration::from_secs(1);
            resident.push(own_bytes("status", "VmRSS"));
        }
        if at >= from {
            before.get_or_insert_with(|| Reading::take(cluster));
        }
    }
    let after = Reading::take(cluster);
    let before = before.expect("the load ran beyond its warm-up");
    // All stay until the end: who left at once would take its last changes along.
    while monotonic() < to + GRACE {
        sleep(STEP);
        load.look();
    }
    let dropped = cluster.status().transport.dropped.clone();
    json!({
        "changed": load.changed_since(from),
        "seen": load.seen(),
        "resident_bytes": resident,
        "changes": load.changes(),
        "rows": load.live_rows(),
        "dropped": dropped.into_iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>(),
        "gossip_share": after.share(&before, |reading| reading.gossip),
        "process_share": after.share(&before, |reading| reading.process),
        "bytes_sent": after.bytes_sent - before.bytes_sent,
        "datagrams_sent": after.datagrams_sent - before.datagrams_sent,
        "measured_seconds": (after.at - before.at).as_secs_f64(),
    })
}

/// What has been used so far.
struct Reading {
    at: Duration,
    gossip: Duration,
    process: Duration,
    bytes_sent: u64,
    datagrams_sent: u64,
}

impl Reading {
    fn take(cluster: &ClusterHandle) -> Self {
        let transport = &cluster.status().transport;
        Self {
            at: monotonic(),
            gossip: processor_time(Some(GOSSIP_THREAD)),
            process: processor_time(None),
            bytes_sent: transport.bytes_sent,
            datagrams_sent: transport.datagrams_sent,
        }
    }

    /// The share of one core that `of` took since `before`.
    fn share(&self, before: &Self, of: impl Fn(&Self) -> Duration) -> f64 {
        (of(self) - of(before)).as_secs_f64() / (self.at - before.at).as_secs_f64()
    }
}
