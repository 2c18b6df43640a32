//! YAML text to a tree of texts with their lines and columns.
//!
//! Works on the parser's events, not through serde: serde stops at the first error and does not know
//! where a key stood. Bounds size, nesting and what aliases unfold to, so that no file can exhaust
//! memory.

use std::collections::HashMap;
use std::sync::Arc;

use serde_saphyr::granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError};

use super::error::{ConfigError, Origin};
use super::layer::{Entry, Node, Value};

/// Largest configuration file. A thousand rules with comments are a tenth of it.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Deepest nesting; the deepest key that exists is at 4.
const DEPTH_MAX: usize = 16;

/// Most values after aliases are unfolded: a small file of nested aliases would otherwise grow without
/// limit ("billion laughs").
const NODES_MAX: usize = 100_000;

/// Reads one YAML document; an empty one is an empty map.
pub(super) fn parse(name: &str, text: &str) -> Result<Node, ConfigError> {
    let mut builder = Builder::new(name);
    if text.len() > FILE_BYTES_MAX {
        let problem = format!("the file is larger than {FILE_BYTES_MAX} bytes");
        return Err(builder.error(builder.origin(1, 1), &problem, ""));
    }
    for next in Parser::new_from_str(text) {
        let (event, span) = next.map_err(|error| builder.syntax_error(&error))?;
        let origin = builder.origin_of(span.start);
        builder.event(event, origin)?;
    }
    let root = builder.root.unwrap_or_else(|| Node::map(Origin::Nowhere));
    match root.value {
        Value::Null => Ok(Node::map(root.origin)),
        _ => Ok(root),
    }
}

/// A list or map whose end has not come yet.
struct Open {
    node: Node,
    /// The key that waits for its value.
    key: Option<(Arc<str>, Origin)>,
    anchor: usize,
}

/// Builds the tree from events without recursion.
struct Builder {
    file: Arc<str>,
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

impl Builder {
    fn new(name: &str) -> Self {
        Self {
            file: name.into(),
            open: Vec::new(),
            root: None,
            anchors: HashMap::new(),
            nodes: 0,
        }
    }

    fn event(&mut self, event: Event<'_>, origin: Origin) -> Result<(), ConfigError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.is_some(), &origin)?;
                let value = scalar(&text, style);
                self.finish(Node { origin, value }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_tag(tag.is_some(), &origin)?;
                self.start(origin, Value::List(Vec::new()), anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_tag(tag.is_some(), &origin)?;
                self.start(origin, Value::Map(Vec::new()), anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => self.finish(open.node, open.anchor),
                None => Ok(()),
            },
            Event::Alias(anchor) => self.alias(anchor, origin),
            Event::DocumentStart(..) if self.root.is_some() => Err(self.error(
                origin,
                "a second document starts here",
                "keep one document per file",
            )),
            _ => Ok(()),
        }
    }

    fn start(&mut self, origin: Origin, value: Value, anchor: usize) -> Result<(), ConfigError> {
        if self.open.len() >= DEPTH_MAX {
            let problem = format!("nested deeper than {DEPTH_MAX} levels");
            return Err(self.error(origin, &problem, ""));
        }
        let node = Node { origin, value };
        let key = None;
        self.open.push(Open { node, key, anchor });
        Ok(())
    }

    /// Hangs a complete node into the innermost open list or map.
    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), ConfigError> {
        self.count(1, &node.origin)?;
        if anchor > 0 {
            let size = size(&node);
            self.count(size, &node.origin)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        self.hang(node)
    }

    fn hang(&mut self, node: Node) -> Result<(), ConfigError> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut open.node.value, open.key.take()) {
            (Value::List(nodes), _) => nodes.push(node),
            (Value::Map(entries), Some((key, key_origin))) => entries.push(Entry {
                key,
                key_origin,
                node,
            }),
            (Value::Map(_), None) => match node.value {
                Value::Scalar(key) => open.key = Some((key, node.origin)),
                _ => {
                    return Err(ConfigError {
                        origin: node.origin.clone(),
                        key: String::new(),
                        problem: format!("a key must be a name, this is {}", node.kind()),
                        remedy: "write `name: value`".to_owned(),
                    });
                }
            },
            (Value::Null | Value::Scalar(_), _) => {}
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, origin: Origin) -> Result<(), ConfigError> {
        let Some((node, size)) = self.anchors.get(&anchor) else {
            return Err(self.error(
                origin,
                "this alias refers to a value that contains it",
                "write the value out",
            ));
        };
        let (node, size) = (node.clone(), *size);
        self.count(size, &origin)?;
        let depth = depth(&node);
        if self.open.len() + depth > DEPTH_MAX {
            let problem = format!("nested deeper than {DEPTH_MAX} levels");
            return Err(self.error(origin, &problem, ""));
        }
        self.hang(node)
    }

    fn count(&mut self, nodes: usize, origin: &Origin) -> Result<(), ConfigError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES_MAX {
            let problem = format!("the file has more than {NODES_MAX} values, aliases unfolded");
            return Err(self.error(origin.clone(), &problem, ""));
        }
        Ok(())
    }

    fn refuse_tag(&self, tagged: bool, origin: &Origin) -> Result<(), ConfigError> {
        if tagged {
            return Err(self.error(origin.clone(), "YAML tags are not supported", "remove the tag"));
        }
        Ok(())
    }

    fn syntax_error(&self, error: &ScanError) -> ConfigError {
        let origin = self.origin_of(*error.marker());
        self.error(origin, &format!("not valid YAML: {}", error.kind()), "")
    }

    fn error(&self, origin: Origin, problem: &str, remedy: &str) -> ConfigError {
        ConfigError {
            origin,
            key: String::new(),
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
        }
    }

    fn origin_of(&self, marker: Marker) -> Origin {
        self.origin(marker.line(), marker.col() + 1)
    }

    fn origin(&self, line: usize, column: usize) -> Origin {
        Origin::File {
            file: self.file.clone(),
            line,
            column,
        }
    }
}

/// A plain `~`, `null` or nothing is no value (YAML 1.2 core schema, 10.3.2).
fn scalar(text: &str, style: ScalarStyle) -> Value {
    match (style, text) {
        (ScalarStyle::Plain, "" | "~" | "null" | "Null" | "NULL") => Value::Null,
        _ => Value::Scalar(text.into()),
    }
}

fn children(node: &Node) -> Box<dyn Iterator<Item = &Node> + '_> {
    match &node.value {
        Value::List(nodes) => Box::new(nodes.iter()),
        Value::Map(entries) => Box::new(entries.iter().map(|entry| &entry.node)),
        Value::Null | Value::Scalar(_) => Box::new(std::iter::empty()),
    }
}

fn size(node: &Node) -> usize {
    1 + children(node).map(size).sum::<usize>()
}

fn depth(node: &Node) -> usize {
    match &node.value {
        Value::Null | Value::Scalar(_) => 0,
        Value::List(_) | Value::Map(_) => 1 + children(node).map(depth).max().unwrap_or(0),
    }
}
