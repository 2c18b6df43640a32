//! Typed reading of a layer: sections that know which keys they have, and readers of single values.
//!
//! A reader notes what is wrong in the [`Report`] and goes on, so that one pass finds every error.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::{At, Origin, Report, did_you_mean};
use super::layer::{Entry, Node, Value};

/// Most elements of any list: more than an operator maintains by hand, and a bound on what checks cost.
pub(super) const LIST_MAX: usize = 1000;

/// A value that was read, and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) at: At,
}

/// Why a text is no value of the type, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) problem: String,
    pub(super) remedy: String,
}

pub(super) fn wrong<T>(problem: impl Into<String>, remedy: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong {
        problem: problem.into(),
        remedy: remedy.into(),
    })
}

/// One map of keys. Every key that is asked for is a known one; [`Section::finish`] reports the others.
pub(super) struct Section<'a> {
    report: &'a Report,
    /// Where the section begins, and its key.
    pub(super) at: At,
    entries: &'a [Entry],
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// Opens `node` as a section. Anything else than a map is reported and read as an empty one.
    pub(super) fn open(node: &'a Node, key: String, report: &'a Report) -> Self {
        let at = node.at(key);
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Null => &[],
            Value::Scalar(_) | Value::List(_) => {
                report.wrong(
                    &at,
                    format!("expected a section of keys, this is {}", node.kind()),
                    "",
                );
                &[]
            }
        };
        let section = Self {
            report,
            at,
            entries,
            known: Vec::new(),
        };
        section.report_duplicates();
        section
    }

    /// The section under `key`, empty if there is none.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'a> {
        let path = self.path(key);
        match self.node(key) {
            Some(node) => Section::open(node, path, self.report),
            None => Section {
                report: self.report,
                at: At {
                    origin: Origin::Nowhere,
                    key: path,
                },
                entries: &[],
                known: Vec::new(),
            },
        }
    }

    /// The value of `key`, or `None` when it is absent or wrong (which is reported).
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Found<T>> {
        let path = self.path(key);
        let node = self.node(key)?;
        read_scalar(node, path, self.report, &read)
    }

    /// The value of `key`, or `default`.
    pub(super) fn value_or<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, Wrong>,
        default: T,
    ) -> T {
        self.value(key, read).map_or(default, |found| found.value)
    }

    /// The values of the list `key`; a single value counts as a list of one. `None` when absent.
    pub(super) fn values<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Found<Vec<Found<T>>>> {
        let path = self.path(key);
        let node = self.node(key)?;
        if let Value::Scalar(_) = node.value {
            let found = read_scalar(node, path.clone(), self.report, &read);
            return Some(Found {
                value: found.into_iter().collect(),
                at: node.at(path),
            });
        }
        let values = self.elements(node, &path);
        let values = values.filter_map(|(path, element)| read_scalar(element, path, self.report, &read));
        Some(Found {
            value: values.collect(),
            at: node.at(path),
        })
    }

    /// The sections of the list `key`; none when it is absent.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let path = self.path(key);
        let Some(node) = self.node(key) else {
            return Vec::new();
        };
        let sections = self.elements(node, &path);
        sections
            .map(|(path, element)| Section::open(element, path, self.report))
            .collect()
    }

    /// Declares `key` without reading it.
    pub(super) fn expect_key(&mut self, key: &'static str) {
        self.known.push(key);
    }

    /// Whether `key` is written at all.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| &*entry.key == key)
    }

    /// Reports `key` unless it is written; what is wrong with a written one is reported by its reader.
    pub(super) fn require(&self, key: &'static str, remedy: &str) {
        if !self.has(key) {
            self.report.wrong(&self.at.child(key), "missing", remedy);
        }
    }

    /// Reports the keys that nobody asked for, each with the nearest key that exists.
    pub(super) fn finish(self) {
        for entry in self.entries {
            if self.known.contains(&&*entry.key) {
                continue;
            }
            let at = At {
                origin: entry.key_origin.clone(),
                key: self.path(&entry.key),
            };
            let mut remedy = did_you_mean(&entry.key, self.known.iter().copied());
            if remedy.is_empty() {
                remedy = format!("the keys here are {}", self.known.join(", "));
            }
            self.report
                .wrong(&at, format!("unknown key `{}`", shown(&entry.key)), remedy);
        }
    }

    /// Reports the list `key` unless it is written and has an element.
    pub(super) fn require_elements(&self, key: &'static str, remedy: &str) {
        let Some(entry) = self.entries.iter().find(|entry| &*entry.key == key) else {
            return self.require(key, remedy);
        };
        if entry.node.is_empty_list() {
            self.report
                .wrong(&entry.node.at(self.path(key)), "has no elements", remedy);
        }
    }

    fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        self.known.push(key);
        let entries: &'a [Entry] = self.entries;
        entries
            .iter()
            .find(|entry| &*entry.key == key)
            .map(|entry| &entry.node)
    }

    fn path(&self, key: &str) -> String {
        self.at.child(&shown(key)).key
    }

    fn elements(&self, node: &'a Node, path: &str) -> impl Iterator<Item = (String, &'a Node)> + use<'a> {
        let nodes: &'a [Node] = match &node.value {
            Value::List(nodes) => nodes,
            Value::Null => &[],
            Value::Scalar(_) | Value::Map(_) => {
                let at = node.at(path.to_owned());
                let problem = format!("expected a list, this is {}", node.kind());
                self.report.wrong(&at, problem, "begin each element with `- `");
                &[]
            }
        };
        if nodes.len() > LIST_MAX {
            let at = node.at(path.to_owned());
            let problem = format!("{} elements are too many", nodes.len());
            self.report
                .wrong(&at, problem, format!("keep at most {LIST_MAX}"));
        }
        let path = path.to_owned();
        let numbered = nodes.iter().take(LIST_MAX).enumerate();
        numbered.map(move |(index, node)| (format!("{path}[{index}]"), node))
    }

    fn report_duplicates(&self) {
        let mut seen = std::collections::HashMap::new();
        for entry in self.entries {
            if let Some(first) = seen.insert(&*entry.key, &entry.key_origin) {
                let at = At {
                    origin: entry.key_origin.clone(),
                    key: self.path(&entry.key),
                };
                self.report.wrong(
                    &at,
                    format!("given twice, first at {first}"),
                    "keep one of the two",
                );
            }
        }
    }
}

fn read_scalar<T>(
    node: &Node,
    path: String,
    report: &Report,
    read: &impl Fn(&str) -> Result<T, Wrong>,
) -> Option<Found<T>> {
    let at = node.at(path);
    match &node.value {
        Value::Scalar(text) => match read(text) {
            Ok(value) => return Some(Found { value, at }),
            Err(Wrong { problem, remedy }) => report.wrong(&at, problem, remedy),
        },
        Value::Null => report.wrong(&at, "has no value", "give one, or remove the key"),
        Value::List(_) | Value::Map(_) => {
            report.wrong(
                &at,
                format!("expected a single value, this is {}", node.kind()),
                "",
            );
        }
    }
    None
}

/// `text` fit for a message: short, and without control characters that would garble a terminal.
pub(super) fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let mut shown: String = text
        .chars()
        .take(CHARS_MAX)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// Reads a duration such as `100ms` or `1m 30s` within `range`.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Result<Duration, Wrong> {
    move |text| {
        let Ok(value) = humantime::parse_duration(text) else {
            return wrong(
                format!("`{}` is no duration", shown(text)),
                "write a number and a unit, such as `100ms`, `2s` or `1m`",
            );
        };
        let show = |duration: &Duration| humantime::format_duration(*duration).to_string();
        if range.contains(&value) {
            Ok(value)
        } else {
            out_of_range(text, show(range.start()), show(range.end()))
        }
    }
}

/// Reads a whole number within `range`; `_` may group its digits.
pub(super) fn integer<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, Wrong>
where
    T: TryFrom<u64> + PartialOrd + Display,
{
    move |text| {
        let digits = text.replace('_', "");
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return wrong(format!("`{}` is no whole number", shown(text)), "");
        }
        let value = digits
            .parse::<u64>()
            .ok()
            .and_then(|value| T::try_from(value).ok());
        match value {
            Some(value) if range.contains(&value) => Ok(value),
            _ => out_of_range(text, range.start(), range.end()),
        }
    }
}

/// Reads a share such as `0.2` in thousandths, within `permille`.
pub(super) fn share(permille: RangeInclusive<u32>) -> impl Fn(&str) -> Result<u32, Wrong> {
    move |text| {
        let Ok(value) = text.parse::<f64>() else {
            return wrong(format!("`{}` is no number", shown(text)), "");
        };
        let scaled = (value * 1000.0).round();
        let (low, high) = (f64::from(*permille.start()), f64::from(*permille.end()));
        if !(low..=high).contains(&scaled) {
            return out_of_range(text, low / 1000.0, high / 1000.0);
        }
        if (scaled - value * 1000.0).abs() > 1e-6 {
            return wrong(
                format!("`{text}` is finer than a thousandth"),
                "round it to three decimals",
            );
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "within the range of a u32, and whole"
        )]
        Ok(scaled as u32)
    }
}

/// Reads `true` or `false`.
pub(super) fn boolean(text: &str) -> Result<bool, Wrong> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => wrong(format!("`{}` is neither `true` nor `false`", shown(text)), ""),
    }
}

/// Reads `ADDRESS:PORT`; port 0 lets the system choose.
pub(super) fn socket_addr(text: &str) -> Result<SocketAddr, Wrong> {
    let remedy = "write ADDRESS:PORT, such as `127.0.0.1:8000` or `[::1]:8000`";
    text.parse()
        .or_else(|_| wrong(format!("`{}` is no address with a port", shown(text)), remedy))
}

/// Reads a name: 1 to 64 ASCII letters, digits, `-`, `_` and `.`.
pub(super) fn plain_name(text: &str) -> Result<String, Wrong> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        wrong(
            format!("`{}` is no name", shown(text)),
            "use 1 to 64 letters, digits, `-`, `_` or `.`",
        )
    }
}

/// Reads a secret, which no message repeats.
pub(super) fn secret(text: &str) -> Result<String, Wrong> {
    if !text.is_empty() && text.len() <= 4096 && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        wrong(
            "the secret is empty, too long or holds other than visible ASCII",
            "",
        )
    }
}

fn out_of_range<T>(text: &str, low: impl Display, high: impl Display) -> Result<T, Wrong> {
    wrong(
        format!("`{}` is out of range", shown(text)),
        format!("use {low} to {high}"),
    )
}
