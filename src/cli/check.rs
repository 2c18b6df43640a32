//! `weir check`: says whether a configuration is valid, without starting anything.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::CheckArgs;
use crate::config::{Config, ConfigError, ConfigErrors, Origin};

/// Prints `FILE: ok` with a summary, or every error, and returns the exit code: 0 or 1.
#[must_use]
pub fn run(args: &CheckArgs) -> ExitCode {
    let subject = match &args.run.config {
        Some(path) => path.display().to_string(),
        None => "flags and environment".to_owned(),
    };
    let loaded = args.run.load();
    let text = match (args.json, &loaded) {
        (true, Ok(config)) => json_ok(&subject, config).to_string(),
        (true, Err(errors)) => json_errors(&subject, errors).to_string(),
        (false, Ok(config)) => format!("{subject}: ok ({})", summary(config)),
        (false, Err(errors)) => errors.to_string(),
    };
    if args.json || loaded.is_ok() {
        println!("{text}");
    } else {
        eprintln!("{text}");
    }
    match loaded {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
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

fn json_ok(subject: &str, config: &Config) -> Value {
    json!({
        "ok": true,
        "subject": subject,
        "digest": config.digest(),
        "config": config.to_json(),
    })
}

fn json_errors(subject: &str, errors: &ConfigErrors) -> Value {
    let errors = errors.as_slice().iter().map(json_error);
    json!({ "ok": false, "subject": subject, "errors": errors.collect::<Value>() })
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
