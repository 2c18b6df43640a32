//! The matches of one host, by path: a trie of segments, and the regular expressions beside it.

use std::collections::BTreeMap;

use super::candidate::{Candidate, Wanted};
use crate::config::PathMatch;

/// Where to look for a path. Holds places in a list of candidates, which it is given with every call.
pub(super) struct Table {
    /// The first is the root.
    nodes: Vec<Node>,
    patterns: Vec<usize>,
}

/// The matches of one path. A search tree by name needs no hash, which strangers could make collide.
#[derive(Default)]
struct Node {
    children: BTreeMap<Box<str>, usize>,
    parent: Option<usize>,
    exact: Vec<usize>,
    prefix: Vec<usize>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
            patterns: Vec::new(),
        }
    }
}

impl Table {
    /// Adds `candidate`, which matches by `path`. After the last, [`Table::sort`] is due.
    pub(super) fn insert(&mut self, path: &PathMatch, candidate: usize) {
        match path {
            PathMatch::Regex(_) => self.patterns.push(candidate),
            PathMatch::Exact(path) => self.node_of(segments(path)).exact.push(candidate),
            PathMatch::Prefix(path) => {
                let path = path.trim_end_matches('/');
                let segments = segments(path).filter(|_| !path.is_empty());
                self.node_of(segments).prefix.push(candidate);
            }
        }
    }

    /// Brings the candidates of each path in the order of precedence.
    pub(super) fn sort(&mut self, candidates: &[Candidate]) {
        // Stable: what ranks the same stays in the order of the configuration.
        let sort = |places: &mut Vec<usize>| {
            places.sort_by_key(|place| candidates.get(*place).map(Candidate::rank));
        };
        sort(&mut self.patterns);
        for node in &mut self.nodes {
            sort(&mut node.exact);
            sort(&mut node.prefix);
        }
    }

    /// The place of the first candidate, by precedence, that takes the request.
    pub(super) fn find(&self, candidates: &[Candidate], wanted: &Wanted<'_>) -> Option<usize> {
        let takes = |place: &usize| candidates.get(*place).is_some_and(|one| one.takes(wanted));
        let first = |places: &[usize]| places.iter().copied().find(|place| takes(place));
        let (mut node, is_whole) = self.descend(wanted.path);
        let exact = if is_whole { first(&node.exact) } else { None };
        if let Some(found) = exact.or_else(|| first(&self.patterns)) {
            return Some(found);
        }
        loop {
            if let Some(found) = first(&node.prefix) {
                return Some(found);
            }
            node = self.nodes.get(node.parent?)?;
        }
    }

    /// The last node on the way of `path`, and whether it is the path's end.
    fn descend(&self, path: &str) -> (&Node, bool) {
        let mut node = self.nodes.first().expect("a table has a root");
        for segment in segments(path) {
            let child = node.children.get(segment);
            match child.and_then(|child| self.nodes.get(*child)) {
                Some(child) => node = child,
                None => return (node, false),
            }
        }
        (node, true)
    }

    fn node_of<'p>(&mut self, segments: impl Iterator<Item = &'p str>) -> &mut Node {
        let mut at = 0;
        for segment in segments {
            let new = self.nodes.len();
            let child = *self.nodes[at].children.entry(segment.into()).or_insert(new);
            if child == new {
                self.nodes.push(Node {
                    parent: Some(at),
                    ..Node::default()
                });
            }
            at = child;
        }
        &mut self.nodes[at]
    }
}

/// The segments of a rooted path; a trailing slash is an empty one.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}
