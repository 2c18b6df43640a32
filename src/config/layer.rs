//! A partial configuration: a tree of texts, each with the place it was written, and how one such tree
//! is laid over another.

use std::sync::Arc;

use super::error::{At, ConfigError, ConfigErrors, Origin};
use super::file;

/// What one source says: some of the settings, unchecked. Layers are laid over one another and then
/// read and checked by [`super::Config::resolve`].
#[derive(Clone, Debug)]
pub struct Layer {
    pub(super) root: Node,
    /// What could not be laid over another layer.
    pub(super) conflicts: Vec<ConfigError>,
}

/// One value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) origin: Origin,
    pub(super) value: Value,
}

/// A value as YAML has it. Scalars stay texts: whether `007` is a number is for its reader to say.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Scalar(Arc<str>),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a map and its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: Arc<str>,
    pub(super) key_origin: Origin,
    pub(super) node: Node,
}

impl Default for Layer {
    fn default() -> Self {
        Self {
            root: Node::map(Origin::Nowhere),
            conflicts: Vec::new(),
        }
    }
}

impl Layer {
    /// Reads a YAML document. `name` is what errors call the file.
    ///
    /// # Errors
    /// When the text is too large, is no YAML, or is nested too deeply. Keys and values are not checked
    /// here.
    pub fn from_yaml(name: &str, text: &str) -> Result<Self, ConfigErrors> {
        Ok(Self {
            root: file::parse(name, text)?,
            conflicts: Vec::new(),
        })
    }

    /// Sets one value by its path, such as `["sync", "tick"]`.
    pub fn set(&mut self, path: &[&str], origin: Origin, text: &str) {
        let value = Node::scalar(origin, text);
        self.root.put(path, value);
    }

    /// Sets a list of values by its path.
    pub fn set_list(&mut self, path: &[&str], origin: &Origin, texts: &[String]) {
        self.root.put(path, Node::scalars(origin, texts));
    }

    /// Sets the one rule that `--limit` and `--limit-by` stand for: `default`, for every request.
    pub fn set_rule(&mut self, windows: (Origin, &[String]), count_by: Option<(Origin, &str)>) {
        let (origin, texts) = windows;
        let mut rule = Node::map(origin.clone());
        rule.put(&["name"], Node::scalar(origin.clone(), "default"));
        rule.put(&["windows"], Node::scalars(&origin, texts));
        if let Some((by_origin, text)) = count_by {
            rule.put(&["by"], Node::scalar(by_origin, text));
        }
        self.root.put(&["rules"], Node::list(origin, vec![rule]));
    }

    /// Sets the one upstream that `--upstream` stands for: `default`, with these targets.
    pub fn set_upstream(&mut self, origin: Origin, targets: &[String]) {
        let mut upstream = Node::map(origin.clone());
        upstream.put(&["name"], Node::scalar(origin.clone(), "default"));
        upstream.put(&["targets"], Node::scalars(&origin, targets));
        self.root.put(&["upstreams"], Node::list(origin, vec![upstream]));
    }

    /// Notes that what `origin` says makes no sense here.
    pub fn refuse(&mut self, origin: Origin, problem: &str, remedy: &str) {
        self.conflicts.push(ConfigError {
            origin,
            key: String::new(),
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
        });
    }

    /// Where the setting `key`, such as `listen[0].tls.client_ca`, was written; else the section in which it would be.
    #[must_use]
    pub fn origin_of(&self, key: &str) -> Origin {
        let mut node = &self.root;
        for step in key.split('.') {
            let (name, index) = step.split_once('[').unwrap_or((step, ""));
            let Some(entry) = node.get(name) else { break };
            node = &entry.node;
            let index: Option<usize> = index.strip_suffix(']').and_then(|index| index.parse().ok());
            // A list of one may be written as its element.
            if let (Some(index), Value::List(nodes)) = (index, &node.value) {
                let Some(element) = nodes.get(index) else { break };
                node = element;
            }
        }
        node.origin.clone()
    }

    /// This layer over `lower`: what both say, this one decides.
    ///
    /// `rules` and `upstreams` are the exception. Flags can say only the simplest of them, so a file's
    /// rules silently replaced by one flag would be a surprise; saying both is an error.
    #[must_use]
    pub fn over(mut self, mut lower: Self) -> Self {
        for key in ["rules", "upstreams"] {
            if let (Some(upper), Some(under)) = (self.root.get(key), lower.root.get(key))
                && !under.node.is_empty_list()
            {
                self.conflicts.push(ConfigError {
                    origin: upper.node.origin.clone(),
                    key: String::new(),
                    problem: format!("cannot be combined with `{key}` of {}", under.key_origin),
                    remedy: "keep one of the two".to_owned(),
                });
            }
        }
        self.conflicts.append(&mut lower.conflicts);
        Self {
            root: self.root.over(lower.root),
            conflicts: self.conflicts,
        }
    }
}

impl Node {
    pub(super) fn scalar(origin: Origin, text: &str) -> Self {
        Self {
            origin,
            value: Value::Scalar(text.into()),
        }
    }

    pub(super) fn map(origin: Origin) -> Self {
        Self {
            origin,
            value: Value::Map(Vec::new()),
        }
    }

    fn list(origin: Origin, nodes: Vec<Self>) -> Self {
        Self {
            origin,
            value: Value::List(nodes),
        }
    }

    fn scalars(origin: &Origin, texts: &[String]) -> Self {
        let nodes = texts.iter().map(|text| Self::scalar(origin.clone(), text));
        Self::list(origin.clone(), nodes.collect())
    }

    /// What kind of value it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a section of keys",
        }
    }

    /// The place of this node under `key`.
    pub(super) fn at(&self, key: String) -> At {
        At {
            origin: self.origin.clone(),
            key,
        }
    }

    pub(super) fn is_empty_list(&self) -> bool {
        matches!(&self.value, Value::Null) || matches!(&self.value, Value::List(nodes) if nodes.is_empty())
    }

    fn get(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| &*entry.key == key),
            _ => None,
        }
    }

    /// Puts `node` at `path`, making the maps on the way.
    fn put(&mut self, path: &[&str], node: Self) {
        let Some((key, rest)) = path.split_first() else {
            *self = node;
            return;
        };
        if !matches!(self.value, Value::Map(_)) {
            self.value = Value::Map(Vec::new());
        }
        let Value::Map(entries) = &mut self.value else {
            return;
        };
        let index = entries.iter().position(|entry| &*entry.key == *key);
        let index = index.unwrap_or_else(|| {
            entries.push(Entry {
                key: (*key).into(),
                key_origin: node.origin.clone(),
                node: Self::map(node.origin.clone()),
            });
            entries.len() - 1
        });
        entries[index].node.put(rest, node);
    }

    fn over(self, lower: Self) -> Self {
        match (self.value, lower.value) {
            (Value::Map(upper), Value::Map(mut under)) => {
                for entry in upper {
                    match under.iter_mut().find(|other| other.key == entry.key) {
                        Some(other) => {
                            let below = std::mem::replace(&mut other.node, Node::map(Origin::Nowhere));
                            other.node = entry.node.over(below);
                        }
                        None => under.push(entry),
                    }
                }
                Self {
                    origin: lower.origin,
                    value: Value::Map(under),
                }
            }
            (value, _) => Self {
                origin: self.origin,
                value,
            },
        }
    }
}
