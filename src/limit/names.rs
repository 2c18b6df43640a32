//! Which client a key hash stands for, on the node that saw it: for the operator's eyes only.

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};

use super::key::{Identity, KeyHash};

/// The readable names of the keys this node met most recently; the oldest go first.
#[derive(Debug)]
pub struct KeyNames {
    table: Mutex<Table>,
    keys_max: usize,
}

#[derive(Debug, Default)]
struct Table {
    names: HashMap<KeyHash, Box<str>>,
    oldest_first: VecDeque<KeyHash>,
}

impl KeyNames {
    /// Longest name kept, in bytes: a long path is still told apart, and a table of them stays small.
    pub const BYTES_MAX: usize = 128;

    /// A table of at most `keys_max` names.
    #[must_use]
    pub fn new(keys_max: usize) -> Self {
        Self {
            table: Mutex::default(),
            keys_max,
        }
    }

    /// Notes that `key` stands for `identity`. Never waits: while somebody reads the table, the note is
    /// dropped. Meant to be called when a decision made a row, not on every request.
    pub fn record(&self, key: KeyHash, identity: &Identity<'_>) {
        let Ok(mut table) = self.table.try_lock() else {
            return;
        };
        if self.keys_max == 0 || table.names.contains_key(&key) {
            return;
        }
        if table.oldest_first.len() >= self.keys_max
            && let Some(oldest) = table.oldest_first.pop_front()
        {
            table.names.remove(&oldest);
        }
        table.oldest_first.push_back(key);
        table.names.insert(key, printable(identity));
    }

    /// The name of `key`, with control characters escaped.
    #[must_use]
    pub fn name(&self, key: KeyHash) -> Option<String> {
        // A panic while the lock was held can only have lost a name.
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.names.get(&key).map(|name| name.to_string())
    }
}

/// Takes text until its bound is reached, whole escapes at a time.
struct Printable(String);

impl fmt::Write for Printable {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            let start = self.0.len();
            if c.is_control() || c == '\u{202e}' {
                self.0.extend(c.escape_default());
            } else {
                self.0.push(c);
            }
            if self.0.len() > KeyNames::BYTES_MAX {
                self.0.truncate(start);
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}

fn printable(identity: &Identity<'_>) -> Box<str> {
    let mut text = Printable(String::new());
    // An error says that the bound was reached, and what fits is wanted.
    let _ = write!(text, "{identity}");
    text.0.into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_name_makes_room_and_a_reader_stops_no_writer() {
        let names = KeyNames::new(2);
        for (key, path) in [(1, "/a"), (2, "/b"), (1, "/again"), (3, "/c")] {
            names.record(KeyHash(key), &Identity::Path(path));
        }
        assert_eq!(names.name(KeyHash(1)), None);
        assert_eq!(names.name(KeyHash(2)).as_deref(), Some("/b"));
        let reader = names.table.lock().unwrap();
        names.record(KeyHash(4), &Identity::All);
        drop(reader);
        assert_eq!(names.name(KeyHash(4)), None);
    }

    #[test]
    fn a_name_is_bounded_and_cannot_control_a_terminal() {
        let names = KeyNames::new(4);
        names.record(KeyHash(1), &Identity::Header(b"\x1b[2J\nroot\xff"));
        assert_eq!(
            names.name(KeyHash(1)).as_deref(),
            Some("\\u{1b}[2J\\nroot\u{fffd}")
        );
        let long = "é".repeat(100);
        names.record(KeyHash(2), &Identity::Path(&long));
        assert_eq!(names.name(KeyHash(2)).unwrap(), "é".repeat(64));
    }
}
