//! Reading of a layer by sections, which know the keys they have.
//!
//! A section notes what is wrong in the [`Report`] and goes on, so that one pass finds every error.

use super::error::{At, Origin, Report, did_you_mean};
use super::layer::{Entry, Node, Value};
use super::scalars::{Wrong, shown};

/// Most elements of any list: more than an operator maintains by hand, and a bound on what checks cost.
pub(super) const LIST_MAX: usize = 1000;

/// A value that was read, and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) at: At,
}

/// An element of a list that may be one value, or a section that says more.
pub(super) enum Element<'a, T> {
    Value(Found<T>),
    Section(Section<'a>),
}

/// One map of keys. Every key that is asked for is a known one; [`Section::finish`] reports the others.
pub(super) struct Section<'a> {
    report: &'a Report,
    /// Where the section begins, and its key.
    pub(super) at: At,
    entries: &'a [Entry],
    known: Vec<&'a str>,
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
    pub(super) fn section(&mut self, key: &'a str) -> Section<'a> {
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
        key: &'a str,
        read: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Found<T>> {
        let path = self.path(key);
        let node = self.node(key)?;
        read_scalar(node, path, self.report, &read)
    }

    /// The value of `key`, or `default`.
    pub(super) fn value_or<T>(
        &mut self,
        key: &'a str,
        read: impl Fn(&str) -> Result<T, Wrong>,
        default: T,
    ) -> T {
        self.value(key, read).map_or(default, |found| found.value)
    }

    /// The values of the list `key`; a single value counts as a list of one. `None` when absent.
    pub(super) fn values<T>(
        &mut self,
        key: &'a str,
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
    pub(super) fn sections(&mut self, key: &'a str) -> Vec<Section<'a>> {
        let path = self.path(key);
        let Some(node) = self.node(key) else {
            return Vec::new();
        };
        let sections = self.elements(node, &path);
        sections
            .map(|(path, element)| Section::open(element, path, self.report))
            .collect()
    }

    /// The elements of the list `key`, each a value or a section; one alone counts as a list of one. `None` when absent.
    pub(super) fn values_or_sections<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Vec<Element<'a, T>>> {
        let path = self.path(key);
        let node = self.node(key)?;
        let report = self.report;
        let element = |(path, node): (String, &'a Node)| match node.value {
            Value::Map(_) => Some(Element::Section(Section::open(node, path, report))),
            _ => read_scalar(node, path, report, &read).map(Element::Value),
        };
        Some(match node.value {
            Value::Scalar(_) | Value::Map(_) => element((path, node)).into_iter().collect(),
            _ => self.elements(node, &path).filter_map(element).collect(),
        })
    }

    /// Declares `key` without reading it.
    pub(super) fn expect_key(&mut self, key: &'a str) {
        self.known.push(key);
    }

    /// The keys that are written, each once.
    pub(super) fn keys(&self) -> Vec<&'a str> {
        let entries: &'a [Entry] = self.entries;
        let mut seen = std::collections::HashSet::new();
        let keys = entries.iter().map(|entry| &*entry.key);
        keys.filter(|key| seen.insert(*key)).collect()
    }

    /// Whether a section is written under `key`.
    pub(super) fn is_section(&self, key: &str) -> bool {
        let entry = self.entries.iter().find(|entry| &*entry.key == key);
        entry.is_some_and(|entry| matches!(entry.node.value, Value::Map(_)))
    }

    /// The place of `key`, or where it would be.
    pub(super) fn at_of(&self, key: &str) -> At {
        let entry = self.entries.iter().find(|entry| &*entry.key == key);
        At {
            origin: entry.map_or(&self.at.origin, |entry| &entry.key_origin).clone(),
            key: self.path(key),
        }
    }

    /// Whether `key` is written at all.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| &*entry.key == key)
    }

    /// Reports `key` unless it is written; what is wrong with a written one is reported by its reader.
    pub(super) fn require(&self, key: &'a str, remedy: &str) {
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
    pub(super) fn require_elements(&self, key: &'a str, remedy: &str) {
        let Some(entry) = self.entries.iter().find(|entry| &*entry.key == key) else {
            return self.require(key, remedy);
        };
        if entry.node.is_empty_list() {
            self.report
                .wrong(&entry.node.at(self.path(key)), "has no elements", remedy);
        }
    }

    fn node(&mut self, key: &'a str) -> Option<&'a Node> {
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
