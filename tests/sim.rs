//! `weir sim` as an operator meets it.

use std::process::{Command, Output};

use serde_json::Value;

fn sim(flags: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weir"))
        .arg("sim")
        .args(flags.split_whitespace())
        .env_clear()
        .output()
        .expect("the binary was built with this test")
}

fn report(flags: &str) -> Value {
    let output = sim(flags);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

const SMALL: &str = "--nodes 4 --limit 100/10s --rate 500 --duration 2s --delay 2ms --loss 1% --json";

#[test]
fn local_mode_admits_the_limit_on_every_node_and_gossip_once() {
    let local = report(&format!("{SMALL} --pattern one --mode local"));
    assert_eq!(local["admitted"], 400, "four nodes with a limit of 100: {local}");
    assert_eq!(local["ratio"], 4.0);
    assert!(local["convergence_ms"].is_null(), "{local}");

    let gossip = report(&format!("{SMALL} --pattern one --mode gossip"));
    assert_eq!((&gossip["nodes"], &gossip["limit"]), (&4.into(), &100.into()));
    assert_eq!(gossip["pattern"], "one");
    let ratio = gossip["ratio"].as_f64().unwrap();
    assert!((1.0..1.1).contains(&ratio), "{gossip}");
    let [p50, p99] = ["p50", "p99"].map(|name| gossip["convergence_ms"][name].as_f64().unwrap());
    assert!(p50 >= 2.0 && p99 >= p50, "faster than the network: {gossip}");
    assert!(
        gossip["bytes_per_node_per_second"].as_f64().unwrap() > 0.0,
        "{gossip}"
    );
}

#[test]
fn bounded_mode_admits_the_limit_exactly_and_says_who_waited() {
    for pattern in ["one", "even", "zipf", "burst"] {
        let flags = format!("{SMALL} --pattern {pattern} --mode bounded --clients 1");
        let bounded = report(&flags);
        assert_eq!(bounded["admitted"], 100, "{bounded}");
        assert_eq!(
            (&bounded["ratio"], &bounded["worst_ratio"]),
            (&1.0.into(), &1.0.into())
        );
        let waits = &bounded["waits"];
        assert!(waits["admitted_share"].as_f64().unwrap() < 0.2, "{bounded}");
        assert!(waits["denied"].is_u64() && bounded["datagrams_per_request"].as_f64().unwrap() > 0.0);
        assert_eq!(bounded, report(&flags), "a seed repeats a run");
    }
    let output = sim("--mode bounded --nodes 257");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("--nodes 257") && error.contains("256"), "{error}");
    assert!(report(&format!("{SMALL} --mode gossip"))["waits"].is_null());
}

#[test]
fn a_seed_repeats_a_run_and_another_seed_does_not() {
    for pattern in ["even", "zipf", "one", "burst"] {
        let flags = format!("{SMALL} --pattern {pattern} --seed");
        let [first, again, other] = [7, 7, 8].map(|seed| report(&format!("{flags} {seed}")));
        assert_eq!(first, again);
        assert_ne!(first["offered"], other["offered"]);
    }
}

#[test]
fn zipf_gives_its_first_client_more_than_even_does() {
    // Evenly, each of fifty asks twenty times of a hundred; by Zipf, the first asks more than two hundred times.
    let [even, zipf] =
        ["even", "zipf"].map(|pattern| report(&format!("{SMALL} --clients 50 --pattern {pattern}")));
    assert_eq!(even["admitted"], even["offered"], "{even}");
    assert!(
        zipf["admitted"].as_u64() < zipf["offered"].as_u64(),
        "nobody reached the limit: {zipf}"
    );
}

#[test]
fn the_table_is_for_people() {
    let output = sim("--nodes 2 --limit 10/second --rate 50");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("bytes per node per second"), "{text}");
    assert!(serde_json::from_str::<Value>(&text).is_err());
}

#[test]
fn a_bad_value_is_refused_with_the_flag_and_the_remedy() {
    for (flags, flag, remedy) in [
        ("--nodes 0", "--nodes", "1..=1000"),
        ("--nodes 1001", "--nodes", "1..=1000"),
        ("--limit 5", "--limit", "5/minute"),
        ("--rate 0", "--rate", "1..="),
        ("--pattern fair", "--pattern", "`zipf`"),
        ("--clients 0", "--clients", "1..="),
        ("--delay soon", "--delay", "20ms"),
        ("--delay 11s", "--delay", "10s"),
        ("--loss 100%", "--loss", "below 1"),
        ("--loss -1", "--loss", "--help"),
        ("--loss NaN", "--loss", "below 1"),
        ("--mode redis", "--mode", "`gossip`"),
        ("--duration 2h", "--duration", "1h"),
        ("--rate 1000000", "--rate", "set --duration to at most 5s"),
        ("--nodes 1000 --clients 61", "--clients", "at most 30"),
        ("--pattern one --clients 2", "--clients", "leave --clients out"),
    ] {
        let output = sim(flags);
        assert!(!output.status.success(), "{flags} was accepted");
        let error = String::from_utf8(output.stderr).unwrap();
        let named = error.contains(flag) || flags == "--loss -1";
        assert!(named && error.contains(remedy), "{flags}: {error}");
    }
}
