//! The section `reload`: when a node reads its configuration anew without being told to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::Config;
use super::json::text;
use super::read::Section;
use super::scalars::{Wrong, duration};

/// When a node reads its configuration anew by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadConfig {
    /// How often it looks whether files have changed; `None`: never, only at SIGHUP.
    pub interval: Option<Duration>,
}

impl ReloadConfig {
    /// The section, as a file would say it.
    pub(super) fn to_json(&self) -> Value {
        json!({ "interval": self.interval.map_or_else(|| "never".to_owned(), text) })
    }
}

/// Reads the section.
pub(super) fn read(root: &mut Section<'_>) -> ReloadConfig {
    let mut section = root.section("reload");
    let reload = ReloadConfig {
        interval: section.value_or("interval", interval, None),
    };
    section.finish();
    reload
}

fn interval(text: &str) -> Result<Option<Duration>, Wrong> {
    if text == "never" {
        return Ok(None);
    }
    // Below, files would be read while they are written.
    let range = Duration::from_secs(1)..=Duration::from_secs(3600);
    duration(range)(text).map(Some).map_err(|wrong| Wrong {
        remedy: format!("{}, or `never`", wrong.remedy),
        ..wrong
    })
}

impl Config {
    /// The files that are read with a configuration and are not followed by themselves: those of TLS to upstreams.
    #[must_use]
    pub fn files_read_at_reload(&self) -> Vec<PathBuf> {
        let sections = self.upstreams.iter().map(|upstream| &upstream.tls);
        let files = sections.flat_map(|tls| [&tls.ca_file, &tls.certificate, &tls.key]);
        files
            .filter_map(|file| file.as_deref().map(Path::to_owned))
            .collect()
    }
}
