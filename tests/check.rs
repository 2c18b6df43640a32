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

/// Certificates made on the spot, beside a file that names them.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("the temporary directory is writable"))
    }

    /// Puts a certificate that ends in the year `ends` into `NAME.pem`, its key into `NAME.key`.
    fn place(&self, name: &str, ends: i32) {
        let key = rcgen::KeyPair::generate().expect("there is entropy");
        let mut params = rcgen::CertificateParams::new(["a.test".to_owned()]).expect("a valid name");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(ends, 1, 1);
        let certificate = params.self_signed(&key).expect("the key signs");
        self.write(&format!("{name}.pem"), &certificate.pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).expect("it is writable");
    }

    /// What `weir check` says of the configuration `text`, in the folder of the files.
    fn check(&self, text: &str, flags: &[&str]) -> Output {
        self.write("weir.yaml", text);
        Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["check", "--config", "weir.yaml"])
            .args(flags)
            .current_dir(self.0.path())
            .env_clear()
            .output()
            .expect("the binary was built with this test")
    }
}

#[test]
fn files_that_a_configuration_names_are_judged_at_the_setting_that_names_them() {
    let files = Files::new();
    files.place("good", 4000);
    files.place("other", 4000);
    files.place("ended", 2021);
    files.write("empty.pem", "");
    files.write("keys", "no key\n");
    let config = "\
node_id: a
listen:
- address: 127.0.0.1:1
  tls:
    certificates:
    - {cert: good.pem, key: other.key}
    - {cert: missing.pem, key: good.key}
    - {cert: ended.pem, key: ended.key}
    client_ca: empty.pem
cluster: {key_file: keys}
upstreams:
- name: up
  targets: [https://h]
  tls: {ca_file: missing-ca.pem, certificate: good.pem, key: good.pem}
";
    let output = files.check(config, &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a JSON document");
    let places = |kind: &str| -> Vec<String> {
        let findings = report[kind].as_array().expect("a list");
        let place =
            |finding: &serde_json::Value| format!("{} {}", finding["line"], finding["key"].as_str().unwrap());
        findings.iter().map(place).collect()
    };
    let expected = [
        "6 listen[0].tls.certificates[0].key",
        "7 listen[0].tls.certificates[1].cert",
        "9 listen[0].tls.client_ca",
        "10 cluster.key_file",
        "14 upstreams[0].tls.ca_file",
        "14 upstreams[0].tls.key",
    ];
    let mut errors = places("errors");
    errors.sort_by_key(|place| place.split(' ').next().and_then(|line| line.parse::<u32>().ok()));
    assert_eq!(errors, expected, "{report:#}");
    assert_eq!(
        places("warnings"),
        ["8 listen[0].tls.certificates[2].cert"],
        "{report:#}"
    );
    let mismatch = &report["errors"][0];
    assert_eq!(
        mismatch["remedy"],
        "give the key that the certificate was issued for"
    );

    let output = files.check(config, &["--skip-files"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let sound = config
        .replace("other.key", "good.key")
        .replace("missing.pem", "good.pem")
        .replace("empty.pem", "good.pem")
        .replace("missing-ca.pem", "good.pem")
        .replace("key: good.pem", "key: good.key")
        .replace("cluster: {key_file: keys}", "");
    let output = files.check(&sound, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let warnings = String::from_utf8(output.stderr).unwrap();
    let start = "warning: weir.yaml:8:14: listen[0].tls.certificates[2].cert: the certificate in `ended.pem` ended on";
    assert!(
        warnings.starts_with(start) && warnings.lines().count() == 1,
        "{warnings}"
    );
}

#[test]
fn a_misspelt_variable_is_an_error_and_any_other_unknown_one_a_warning() {
    let output = check(
        "minimal.yaml",
        &[("WEIR_HOME", "/opt"), ("WEIR_PORT", "tcp://10.0.0.1:80")],
        &[],
    );
    assert_eq!(output.status.code(), Some(0));
    let warnings = String::from_utf8(output.stderr).unwrap();
    assert_eq!(warnings, "warning: WEIR_HOME: unknown variable, ignored\n");
    let output = check("minimal.yaml", &[("WEIR_LISTENS", "127.0.0.1:1")], &[]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        errors,
        "WEIR_LISTENS: unknown variable; did you mean `WEIR_LISTEN`?\n"
    );
}
