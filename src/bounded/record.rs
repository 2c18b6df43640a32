//! What a replica publishes of its roster: one atomic, versioned record.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::limit::UnixMillis;
use crate::replica::{Generation, NodeId, ReplicaId};

/// What one replica says of the roster. Only its owner changes it; whoever hears two versions keeps the
/// newer one. All instants are by the clock of whoever wrote them first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RosterRecord {
    /// Rises with every change within one generation of the owner.
    pub version: u64,
    /// Whom the owner counts, and its clock when it began to.
    #[serde(default, with = "entries")]
    pub members: BTreeMap<ReplicaId, UnixMillis>,
    /// Who spends nothing in windows that start after the instant.
    #[serde(default, with = "entries")]
    pub departed: BTreeMap<ReplicaId, UnixMillis>,
    /// The owner's clock when it began to leave: it takes no share from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving_at: Option<UnixMillis>,
    /// Whether the owner has ever taken a share.
    #[serde(default)]
    pub active: bool,
}

/// Why a text is no record. The record held before stays.
#[derive(Debug, Error)]
pub enum RecordError {
    /// Longer than [`RosterRecord::BYTES_MAX`].
    #[error("a record of {0} bytes is longer than any that a node writes")]
    TooLong(usize),
    /// More entries than a roster holds.
    #[error("a record of {0} entries holds more than any that a node writes")]
    TooMany(usize),
    /// Not JSON of the expected form.
    #[error("malformed: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl RosterRecord {
    /// Most members, and most departed, that a record holds: with every entry at its longest, a record still
    /// fits one membership datagram, beyond which it would reach nobody.
    pub const ENTRIES_MAX: usize = 256;
    /// Longest text: every entry at its longest, a node id of 64 bytes and two numbers of 20 digits.
    pub const BYTES_MAX: usize = 2 * Self::ENTRIES_MAX * 112 + 256;

    /// The record as text, for a membership key-value.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("maps are written as lists, so no key can fail to serialise")
    }

    /// Reads a record; fields it does not know are ignored, those that are absent are empty.
    ///
    /// # Errors
    /// When the text is too long, malformed, or holds too many entries.
    pub fn from_text(text: &str) -> Result<Self, RecordError> {
        if text.len() > Self::BYTES_MAX {
            return Err(RecordError::TooLong(text.len()));
        }
        let record: Self = serde_json::from_str(text)?;
        let entries = record.members.len().max(record.departed.len());
        if entries > Self::ENTRIES_MAX {
            return Err(RecordError::TooMany(entries));
        }
        Ok(record)
    }
}

/// Maps as lists of `[node, generation, instant]`, since JSON keys are only texts. Of a repeated entry the
/// later instant counts, which is the careful reading of both maps.
mod entries {
    use super::{BTreeMap, Deserialize, Deserializer, Generation, NodeId, ReplicaId, Serializer, UnixMillis};

    pub(super) fn serialize<S: Serializer>(
        map: &BTreeMap<ReplicaId, UnixMillis>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map.iter().map(|(id, at)| (&id.node, id.generation, at)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<ReplicaId, UnixMillis>, D::Error> {
        let list = Vec::<(NodeId, Generation, UnixMillis)>::deserialize(deserializer)?;
        let mut map = BTreeMap::new();
        for (node, generation, at) in list {
            let entry = map.entry(ReplicaId { node, generation }).or_insert(at);
            *entry = at.max(*entry);
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_a_later_version_of_the_format_is_understood() {
        let id = |node: &str, generation| ReplicaId {
            node: node.parse().unwrap(),
            generation: Generation(generation),
        };
        let record = RosterRecord {
            version: 7,
            members: BTreeMap::from([(id("a", 1), UnixMillis(5)), (id("a", 2), UnixMillis(6))]),
            departed: BTreeMap::from([(id("b", 1), UnixMillis(9))]),
            leaving_at: Some(UnixMillis(11)),
            active: true,
        };
        let text = record.to_text();
        assert_eq!(RosterRecord::from_text(&text).unwrap(), record);
        let newer = text.replacen('{', "{\"later\":[1],", 1);
        assert_eq!(RosterRecord::from_text(&newer).unwrap(), record);
        let sparse = RosterRecord::from_text("{\"version\":3}").unwrap();
        assert_eq!(
            (sparse.version, sparse.members.len(), sparse.active),
            (3, 0, false)
        );
        let twice = RosterRecord::from_text("{\"version\":1,\"members\":[[\"a\",1,9],[\"a\",1,4]]}").unwrap();
        assert_eq!(twice.members[&id("a", 1)], UnixMillis(9));
    }

    #[test]
    fn the_largest_record_reads_back_and_one_entry_more_is_refused() {
        let entries = |count: usize| {
            let entry = |n| {
                let node = format!("{n:064}").parse().unwrap();
                let generation = Generation(u64::MAX);
                (ReplicaId { node, generation }, UnixMillis(u64::MAX))
            };
            (0..count).map(entry).collect::<BTreeMap<_, _>>()
        };
        let mut record = RosterRecord {
            version: u64::MAX,
            members: entries(RosterRecord::ENTRIES_MAX),
            departed: entries(RosterRecord::ENTRIES_MAX),
            leaving_at: Some(UnixMillis(u64::MAX)),
            active: true,
        };
        assert_eq!(RosterRecord::from_text(&record.to_text()).unwrap(), record);
        record.departed.clear();
        record.members = entries(RosterRecord::ENTRIES_MAX + 1);
        let refused = RosterRecord::from_text(&record.to_text());
        assert!(matches!(refused, Err(RecordError::TooMany(257))), "{refused:?}");
        let long = " ".repeat(RosterRecord::BYTES_MAX + 1);
        assert!(matches!(
            RosterRecord::from_text(&long),
            Err(RecordError::TooLong(_))
        ));
        assert!(RosterRecord::from_text("{\"version\":1,\"members\":[[\"bad name\",1,1]]}").is_err());
    }
}
