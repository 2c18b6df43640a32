//! The command that a newcomer runs first.

use std::collections::HashSet;
use std::fs;
use std::process::{Command, Stdio};

use cluster_tests::{DEADLINE, binary, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// One demo at a time: it shows a fast client, and two at once would slow each other's gossip.
static ALONE: Mutex<()> = Mutex::const_new(());

#[test]
fn the_demo_admits_three_times_the_limit_in_local_mode_and_once_in_bounded_mode() {
    let _alone = ALONE.blocking_lock();
    let output = binary::run(&["demo", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    let run = |mode: &str, pattern: &str, limit: u64, window: &str, admitted: u64| {
        json!({
            "mode": mode, "pattern": pattern, "nodes": 3, "limit": limit, "window": window,
            "sent": 4 * limit, "admitted": admitted, "ratio": admitted as f64 / limit as f64,
        })
    };
    // Nobody slows the clients down, so what gossip lets through depends on how late its news is: to a sequential
    // client little or nothing, of a burst more.
    let [one_by_one, at_once] = [1, 4].map(|run| report["runs"][run]["admitted"].as_u64().expect("a number"));
    assert!(
        (5..15).contains(&one_by_one) && (100..=300).contains(&at_once),
        "{report}"
    );
    assert_eq!(
        report,
        json!({ "runs": [
            run("local", "sequential", 5, "minute", 15),
            run("gossip", "sequential", 5, "minute", one_by_one),
            run("bounded", "sequential", 5, "10s", 5),
            run("local", "burst", 100, "10s", 300),
            run("gossip", "burst", 100, "10s", at_once),
            run("bounded", "burst", 100, "10s", 100),
        ]})
    );
}

#[test]
fn the_demo_shows_each_response_and_a_table() {
    let _alone = ALONE.blocking_lock();
    let output = binary::run(&["demo", "--nodes", "2", "--limit", "3/hour"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    // Three modes, each with 2·3 + 3 requests one after the other.
    let answers = text.lines().filter(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        matches!(columns[..], [_number, "a" | "b", "200" | "429", _remaining])
    });
    assert_eq!(answers.count(), 27, "{text}");
    assert!(text.contains("X-RateLimit-Remaining-Hour"), "{text}");
    assert!(text.contains("ratio") && text.contains("2.00"), "{text}");
    assert!(
        text.contains("200 of 300 requests were admitted"),
        "local mode and a burst: {text}"
    );
}

#[test]
fn a_limit_that_the_demo_cannot_show_in_time_is_refused_with_the_reason() {
    let output = binary::run(&["demo", "--limit", "1000000/hour"]);
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("1000000"), "{message}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_interrupted_demo_leaves_no_process_behind() {
    let _alone = ALONE.lock().await;
    for signal in [Signal::INT, Signal::TERM] {
        let mut demo = Command::new(binary::weir())
            .args(["demo", "--limit", "500/hour"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the weir binary starts");
        let parent = demo.id();
        let children = wait_until("upstream and nodes run", DEADLINE, async || {
            let children = children_of(parent);
            if children.len() == 4 {
                Ok(children)
            } else {
                Err(format!("{} do", children.len()))
            }
        })
        .await;

        kill_process(Pid::from_child(&demo), signal).expect("the demo runs");
        let status = wait_until("the demo ends", DEADLINE, async || {
            demo.try_wait()
                .map_err(|error| error.to_string())?
                .ok_or_else(|| "not yet".to_owned())
        })
        .await;

        assert!(!status.success(), "an interrupted demo has shown nothing");
        let left: Vec<_> = children
            .iter()
            .filter(|&&child| parent_of(child).is_some())
            .collect();
        assert!(left.is_empty(), "after {signal:?}: {left:?} still run");
    }
}

#[cfg(target_os = "linux")]
fn children_of(parent: u32) -> HashSet<u32> {
    let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid| parent_of(pid) == Some(parent))
        .collect()
}

/// The parent of a process that runs; `None` for one that is gone.
#[cfg(target_os = "linux")]
fn parent_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // `PID (NAME) STATE PPID …`, where the name may hold anything.
    status.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
