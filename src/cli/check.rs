//! `weir check`: says whether a configuration is valid, and the files that it names, without starting anything.

#![expect(
    clippy::disallowed_methods,
    reason = "a shell: whether a certificate has ended is told by the wall clock"
)]

use std::process::ExitCode;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::args::{CheckArgs, UnknownVariables};
use crate::cluster::{ClusterError, check_keys};
use crate::config::{Config, ConfigError, Origin};
use crate::proxy::{FileFinding, inspect_files};

/// Prints `FILE: ok` with a summary, or every error, and returns the exit code: 0 or 1. Warnings go to standard error and
/// change nothing about it.
#[must_use]
pub fn run(args: &CheckArgs) -> ExitCode {
    let subject = match &args.run.config {
        Some(path) => path.display().to_string(),
        None => "flags and environment".to_owned(),
    };
    let Checked {
        config,
        errors,
        omitted,
        warnings,
    } = check(args);
    let config = config.filter(|_| errors.is_empty());
    if args.json {
        println!("{}", report(&subject, config.as_ref(), &errors, &warnings));
    } else {
        errors.iter().for_each(|error| eprintln!("{error}"));
        if omitted > 0 {
            eprintln!("and {omitted} more");
        }
        warnings
            .iter()
            .for_each(|warning| eprintln!("warning: {warning}"));
        if let Some(config) = &config {
            println!("{subject}: ok ({})", summary(config));
        }
    }
    match config {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    }
}

/// What came of a check.
struct Checked {
    /// What was read, if it could be.
    config: Option<Config>,
    errors: Vec<ConfigError>,
    /// Errors beyond those.
    omitted: usize,
    warnings: Vec<ConfigError>,
}

fn check(args: &CheckArgs) -> Checked {
    let mut warnings: Vec<_> = UnknownVariables::of_process()
        .strange
        .into_iter()
        .map(|name| ConfigError {
            origin: Origin::Variable(name.into()),
            key: String::new(),
            problem: "unknown variable, ignored".to_owned(),
            remedy: String::new(),
        })
        .collect();
    match args.run.load_with_origins() {
        Err(errors) => Checked {
            config: None,
            errors: errors.as_slice().to_vec(),
            omitted: errors.omitted(),
            warnings,
        },
        Ok((config, layer)) => {
            let findings = match args.skip_files {
                true => Vec::new(),
                false => read_files(&config),
            };
            let (faults, notes): (Vec<_>, Vec<_>) =
                findings.into_iter().partition(|finding| finding.is_fault);
            let place = |finding: FileFinding| ConfigError {
                origin: layer.origin_of(&finding.key),
                key: finding.key,
                problem: finding.problem,
                remedy: finding.remedy.to_owned(),
            };
            warnings.extend(notes.into_iter().map(place));
            Checked {
                config: Some(config),
                errors: faults.into_iter().map(place).collect(),
                omitted: 0,
                warnings,
            }
        }
    }
}

/// What there is to say of the files that `config` names.
fn read_files(config: &Config) -> Vec<FileFinding> {
    let mut findings = inspect_files(config, SystemTime::now());
    if let Err(error) = check_keys(&config.cluster) {
        let (key, remedy) = match (&config.cluster.key_file, &error) {
            (Some(_), ClusterError::KeyFile { .. }) => {
                ("cluster.key_file", "put a file of `weir keygen` there")
            }
            (Some(_), _) => ("cluster.key_file", ""),
            (None, _) => ("cluster.key", ""),
        };
        let problem = match &error {
            ClusterError::KeyFile { source, .. } => format!("{error}: {source}"),
            other => other.to_string(),
        };
        findings.push(FileFinding {
            key: key.to_owned(),
            is_fault: true,
            problem,
            remedy,
        });
    }
    findings
}

fn summary(config: &Config) -> String {
    let counted = |count: usize, noun: &str| match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    };
    [
        counted(config.limits.rules.len(), "rule"),
        counted(config.routes.len(), "route"),
        counted(config.upstreams.len(), "upstream"),
    ]
    .join(", ")
}

fn report(subject: &str, config: Option<&Config>, errors: &[ConfigError], warnings: &[ConfigError]) -> Value {
    let all = |errors: &[ConfigError]| errors.iter().map(json_error).collect::<Value>();
    let mut report = json!({ "ok": config.is_some(), "subject": subject, "warnings": all(warnings) });
    match config {
        Some(config) => {
            report["digest"] = config.digest().into();
            report["config"] = config.to_json();
        }
        None => report["errors"] = all(errors),
    }
    report
}

fn json_error(error: &ConfigError) -> Value {
    let (line, column) = match error.origin {
        Origin::File { line, column, .. } => (Some(line), Some(column)),
        _ => (None, None),
    };
    json!({
        "origin": error.origin.to_string(),
        "line": line,
        "column": column,
        "key": error.key,
        "problem": error.problem,
        "remedy": error.remedy,
    })
}
