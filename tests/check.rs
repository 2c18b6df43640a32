//! `weir check` as an operator meets it: a process with a file, an environment and flags.

use std::process::{Command, Output};

fn check(file: &str, variables: &[(&str, &str)], flags: &[&str]) -> Output {
    let root = env!("CARGO_MANIFEST_DIR");
    Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["check", "--config", &format!("{root}/docs/examples/{file}")])
        .args(flags)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .expect("the binary was built with this test")
}

fn config(output: &Output) -> serde_json::Value {
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a JSON document");
    assert_eq!(json["ok"], true, "{json}");
    json["config"].clone()
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    let variables = [
        ("WEIR_TICK", "300ms"),
        ("WEIR_DRAIN_TIMEOUT", "7s"),
        ("WEIR_SEED", "a:1,b:2"),
        ("WEIR_LOG_JSON", "1"),
        ("WEIR_NODE_ID", ""),
        ("WEIR_IDENTITY_SECRET", "hush"),
    ];
    let output = check("routes.yaml", &variables, &["--json", "--tick", "400ms"]);
    let config = config(&output);
    assert_eq!(config["sync"]["tick"], "400ms");
    assert_eq!(config["proxy"]["drain_timeout"], "7s");
    assert_eq!(config["proxy"]["header_bytes_max"], 32768);
    assert_eq!(config["cluster"]["seeds"], serde_json::json!(["a:1", "b:2"]));
    assert_eq!(config["log"]["json"], true);
    assert_eq!(config["node_id"], "a");
    assert_eq!(config["cluster"]["identity_secret"], "(redacted)");
}

#[test]
fn a_valid_file_exits_with_0_and_a_summary() {
    let output = check("routes.yaml", &[], &[]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.ends_with("routes.yaml: ok (3 rules, 3 routes, 2 upstreams)\n"),
        "{text}"
    );
}

#[test]
fn an_invalid_setting_exits_with_1_and_every_error() {
    let variables = [("WEIR_TICK", "soon"), ("WEIR_GOSSIP", "0.0.0.0:1")];
    let output = check("minimal.yaml", &variables, &["--workers", "0"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    let starts: Vec<_> = text
        .lines()
        .map(|line| line.split_once(": ").unwrap().0)
        .collect();
    let expected = [
        "--gossip (or WEIR_GOSSIP)",
        "--gossip (or WEIR_GOSSIP)",
        "--tick (or WEIR_TICK)",
        "--workers (or WEIR_WORKERS)",
    ];
    assert_eq!(starts, expected, "{text}");
}
