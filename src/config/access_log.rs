//! The section `access_log`: what is written of each request, and where.

use std::fmt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::error::did_you_mean;
use super::read::Section;
use super::scalars::{Wrong, share, shown, wrong};
use super::syntax::path;

/// What is written of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogConfig {
    /// How a line looks; `None`: nothing is written.
    pub format: Option<AccessLogFormat>,
    /// Where lines go.
    pub path: AccessLogPath,
    /// How many of a thousand requests are written.
    pub sample_permille: u32,
}

impl Default for AccessLogConfig {
    fn default() -> Self {
        Self {
            format: None,
            path: AccessLogPath::Stdout,
            sample_permille: 1000,
        }
    }
}

/// How a line of the access log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// One JSON object.
    Json,
    /// Apache's and nginx's combined format, with what only a gateway knows behind it.
    Text,
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogPath {
    /// Standard output.
    Stdout,
    /// Standard error, where the node's own log is.
    Stderr,
    /// A file, to whose end lines are added. Opened anew on a reload.
    File(PathBuf),
}

const FORMATS: [(&str, Option<AccessLogFormat>); 3] = [
    ("off", None),
    ("json", Some(AccessLogFormat::Json)),
    ("text", Some(AccessLogFormat::Text)),
];

pub(super) fn read(root: &mut Section<'_>) -> AccessLogConfig {
    let default = AccessLogConfig::default();
    let mut section = root.section("access_log");
    let config = AccessLogConfig {
        format: section.value_or("format", format, default.format),
        path: section.value_or("path", destination, default.path),
        sample_permille: section.value_or("sample", share(1..=1000), default.sample_permille),
    };
    section.finish();
    config
}

fn format(text: &str) -> Result<Option<AccessLogFormat>, Wrong> {
    let names = FORMATS.map(|(name, _)| name);
    let known = FORMATS.iter().find(|(name, _)| *name == text);
    known.map_or_else(
        || {
            let mut remedy = did_you_mean(text, names);
            if remedy.is_empty() {
                remedy = format!("use one of {}", names.join(", "));
            }
            wrong(format!("`{}` is no format of an access log", shown(text)), remedy)
        },
        |(_, format)| Ok(*format),
    )
}

fn destination(text: &str) -> Result<AccessLogPath, Wrong> {
    match text {
        "stdout" => Ok(AccessLogPath::Stdout),
        "stderr" => Ok(AccessLogPath::Stderr),
        _ => path(text).map(AccessLogPath::File),
    }
}

impl fmt::Display for AccessLogPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => formatter.write_str("stdout"),
            Self::Stderr => formatter.write_str("stderr"),
            Self::File(path) => write!(formatter, "{}", path.display()),
        }
    }
}

impl AccessLogConfig {
    pub(super) fn to_json(&self) -> Value {
        let format = FORMATS.iter().find(|(_, format)| *format == self.format);
        json!({
            "format": format.map(|(name, _)| *name),
            "path": self.path.to_string(),
            "sample": f64::from(self.sample_permille) / 1000.0,
        })
    }
}
