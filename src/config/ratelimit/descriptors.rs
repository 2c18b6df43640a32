//! Domains and their descriptors: what is limited, as a tree of keys and values.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::config::BoundedConfig;
use crate::config::bounded::check_windows as check_bounded;
use crate::config::error::{At, Report, did_you_mean};
use crate::config::json::period_text;
use crate::config::read::{Found, Section};
use crate::config::rules::check_windows;
use crate::config::scalars::{Wrong, boolean, integer, shown, wrong};
use crate::config::syntax::{sync_mode, window_limit};
use crate::limit::{CountBy, Limit, Period, Rule, SyncMode, WindowLimit};

/// Longest domain, key or value in bytes: such a text is part of a rule's name, which operators read.
const TEXT_BYTES_MAX: usize = 256;

/// A week, which the calendar of rules does not have.
const WEEK_MILLIS: u64 = 7 * 24 * 3600 * 1000;

/// What callers that name this domain are limited by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainConfig {
    /// The name that callers give.
    pub name: String,
    /// What the first entry of a descriptor may be.
    pub descriptors: Vec<DescriptorConfig>,
}

/// One entry that descriptors may have at this place, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescriptorConfig {
    /// The key of the entry.
    pub key: String,
    /// Its value; with `*` at its end, what the value begins with. `None`: any that no other descriptor here names.
    pub value: Option<String>,
    /// The limit of descriptors that end with this entry.
    pub limit: DescriptorLimit,
    /// Counts and reports, and denies nobody.
    pub shadow: bool,
    /// What the next entry may be.
    pub descriptors: Vec<DescriptorConfig>,
}

/// The limit of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DescriptorLimit {
    /// None: it is not known to the service.
    None,
    /// None, and the caller is told so.
    Unlimited,
    /// Nothing is admitted: 0 requests per unit.
    Nothing {
        /// The unit.
        period: Period,
        /// What callers are told that the limit is called.
        name: Option<String>,
    },
    /// A rule that counts by all entries.
    Rule {
        /// The rule.
        rule: Box<Rule>,
        /// What callers are told that the limit is called.
        name: Option<String>,
    },
}

impl DescriptorConfig {
    /// Adds the rules of this descriptor and of those below it.
    pub(super) fn add_rules(&self, rules: &mut Vec<Rule>) {
        if let DescriptorLimit::Rule { rule, .. } = &self.limit {
            rules.push((**rule).clone());
        }
        self.descriptors.iter().for_each(|below| below.add_rules(rules));
    }

    fn to_json(&self) -> Value {
        let mut json = json!({
            "key": self.key,
            "value": self.value,
            "shadow_mode": self.shadow,
            "descriptors": self.descriptors.iter().map(Self::to_json).collect::<Value>(),
        });
        match &self.limit {
            DescriptorLimit::None => {}
            DescriptorLimit::Unlimited => json["rate_limit"] = json!({ "unlimited": true }),
            DescriptorLimit::Nothing { period, name } => {
                json["rate_limit"] =
                    json!({ "unit": unit_text(*period), "requests_per_unit": 0, "name": name });
            }
            DescriptorLimit::Rule { rule, name } => {
                json["windows"] = rule.windows.iter().map(ToString::to_string).collect::<Value>();
                json["mode"] = json!(rule.mode);
                json["name"] = json!(name);
            }
        }
        json
    }
}

impl DomainConfig {
    /// As a file would say it.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "domain": self.name,
            "descriptors": self.descriptors.iter().map(DescriptorConfig::to_json).collect::<Value>(),
        })
    }
}

/// Reads all domains.
pub(super) fn domains(
    section: &mut Section<'_>,
    modes: (SyncMode, &BoundedConfig),
    report: &Report,
) -> Vec<DomainConfig> {
    let mut names = HashMap::new();
    let mut domains = Vec::new();
    for mut section in section.sections("domains") {
        section.require("domain", "give the name that callers use");
        let name = section.value("domain", plain_text);
        let path = name.as_ref().map_or(String::new(), |name| escaped(&name.value));
        if let Some(name) = &name {
            unique(&mut names, name.value.clone(), &name.at, "domain", report);
        }
        let reader = Reader { modes, report };
        let descriptors = reader.level(&mut section, &path);
        section.finish();
        domains.extend(name.map(|name| DomainConfig {
            name: name.value,
            descriptors,
        }));
    }
    domains
}

struct Reader<'r> {
    modes: (SyncMode, &'r BoundedConfig),
    report: &'r Report,
}

impl Reader<'_> {
    /// Reads what may stand at one place. The nesting of files is bounded, and so is this recursion.
    fn level(&self, section: &mut Section<'_>, path: &str) -> Vec<DescriptorConfig> {
        let mut known = HashMap::new();
        let mut level = Vec::new();
        for section in section.sections("descriptors") {
            let at = section.at.clone();
            let Some(descriptor) = self.descriptor(section, path) else {
                continue;
            };
            let entry = (descriptor.key.clone(), descriptor.value.clone());
            unique(&mut known, entry, &at, "descriptor", self.report);
            level.push(descriptor);
        }
        level
    }

    fn descriptor(&self, mut section: Section<'_>, path: &str) -> Option<DescriptorConfig> {
        section.require("key", "give the key of the entry, such as `remote_address`");
        let key = section.value("key", plain_text);
        let value = section.value("value", plain_text).map(|found| found.value);
        let path = key.as_ref().map_or(path.to_owned(), |key| {
            let value = value
                .as_ref()
                .map_or(String::new(), |value| format!("={}", escaped(value)));
            format!("{path}/{}{value}", escaped(&key.value))
        });
        let limit = self.limit(&mut section, &path);
        let shadow = section.value_or("shadow_mode", boolean, false);
        // What it says is about metrics of that service.
        section.expect_key("detailed_metric");
        section.expect_key("value_to_metric");
        let descriptors = self.level(&mut section, &path);
        section.finish();
        Some(DescriptorConfig {
            key: key?.value,
            value,
            limit: limit?,
            shadow,
            descriptors,
        })
    }

    /// `windows`, as rules have it, or `rate_limit`.
    fn limit(&self, section: &mut Section<'_>, path: &str) -> Option<DescriptorLimit> {
        let at = section.at.clone();
        let windows = section.values("windows", window_limit);
        let mode = section.value("mode", sync_mode);
        let name = section.value("name", plain_text).map(|found| found.value);
        let rate_limit = section.has("rate_limit").then(|| section.section("rate_limit"));
        section.expect_key("rate_limit");
        let written = section.has("windows");
        let mode_value = mode.as_ref().map(|found| found.value);
        let limit = match (written, rate_limit) {
            (true, Some(rate_limit)) => {
                let problem = "a limit is said twice, by `windows` and by `rate_limit`";
                self.report.wrong(&rate_limit.at, problem, "keep one of the two");
                return None;
            }
            (true, None) => {
                section.require_elements("windows", "give at least one, such as `5/minute`");
                let windows = windows?;
                check_windows(&windows, self.report);
                let windows: Vec<_> = windows.value;
                (!windows.is_empty()).then(|| self.rule(path, &windows, mode_value, name))?
            }
            (false, Some(rate_limit)) => self.rate_limit(rate_limit, path, mode_value, name)?,
            (false, None) => DescriptorLimit::None,
        };
        if let (Some(mode), false) = (&mode, matches!(limit, DescriptorLimit::Rule { .. })) {
            let problem = format!("there is no limit at {} that the mode could apply to", at.key);
            self.report
                .wrong(&mode.at, problem, "give one, such as `windows: [5/minute]`");
        }
        Some(limit)
    }

    fn rate_limit(
        &self,
        mut section: Section<'_>,
        path: &str,
        mode: Option<SyncMode>,
        name: Option<String>,
    ) -> Option<DescriptorLimit> {
        let unlimited = section.value("unlimited", boolean);
        let unit = section.value("unit", unit);
        let requests = section.value("requests_per_unit", integer(0..=Limit::MAX));
        let own_name = section.value("name", plain_text).map(|found| found.value);
        let name = own_name.or(name);
        if unlimited.is_some_and(|found| found.value) {
            for key in ["unit", "requests_per_unit"] {
                if section.has(key) {
                    let at = section.at_of(key);
                    let problem = "what is unlimited has no limit";
                    self.report.wrong(&at, problem, "remove this, or `unlimited`");
                }
            }
            section.finish();
            return Some(DescriptorLimit::Unlimited);
        }
        section.require("unit", "give one, such as `minute`");
        section.require("requests_per_unit", "give a whole number");
        let at = section.at.clone();
        section.finish();
        let (period, requests) = (unit?.value, requests?.value);
        let Some(limit) = Limit::try_new(requests) else {
            return Some(DescriptorLimit::Nothing { period, name });
        };
        let value = WindowLimit { limit, period };
        Some(self.rule(path, &[Found { value, at }], mode, name))
    }

    fn rule(
        &self,
        path: &str,
        windows: &[Found<WindowLimit>],
        mode: Option<SyncMode>,
        name: Option<String>,
    ) -> DescriptorLimit {
        let (cluster_mode, bounded) = self.modes;
        check_bounded(mode.unwrap_or(cluster_mode), windows, bounded, self.report);
        let mut rule = Rule::new(path, windows.iter().map(|found| found.value));
        rule.count_by = CountBy::Descriptor;
        rule.mode = mode;
        let rule = Box::new(rule);
        DescriptorLimit::Rule { rule, name }
    }
}

/// Reports what is there already.
fn unique<K: std::hash::Hash + Eq>(known: &mut HashMap<K, At>, key: K, at: &At, kind: &str, report: &Report) {
    if let Some(first) = known.get(&key) {
        let problem = format!("the same {kind} as {} at {}", first.key, first.origin);
        report.wrong(at, problem, "keep one of the two");
    } else {
        known.insert(key, at.clone());
    }
}

/// Reads a domain, a key, a value or a name.
fn plain_text(text: &str) -> Result<String, Wrong> {
    if (1..=TEXT_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        wrong(
            format!("`{}` is empty, too long or unprintable", shown(text)),
            format!("use 1 to {TEXT_BYTES_MAX} bytes without control characters"),
        )
    }
}

/// Reads a unit of time, in any case.
fn unit(text: &str) -> Result<Period, Wrong> {
    const UNITS: [&str; 7] = ["second", "minute", "hour", "day", "week", "month", "year"];
    let lower = text.to_ascii_lowercase();
    if !UNITS.contains(&lower.as_str()) {
        let mut remedy = did_you_mean(&lower, UNITS);
        if remedy.is_empty() {
            remedy = format!("use {}", UNITS.join(", "));
        }
        return wrong(format!("`{}` is no unit", shown(text)), remedy);
    }
    let period = if lower == "week" { "7d" } else { lower.as_str() };
    period
        .parse()
        .or_else(|error: crate::limit::RuleError| wrong(error.to_string(), ""))
}

fn unit_text(period: Period) -> String {
    match period {
        Period::Every(millis) if millis.get() == WEEK_MILLIS => "week".to_owned(),
        other => period_text(other),
    }
}

/// `text` without what separates the parts of a rule's name, or makes it hard to read: percent-encoded, as in a URL.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.:*@".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            write!(escaped, "%{byte:02X}").expect("a String takes every text");
        }
    }
    escaped
}
