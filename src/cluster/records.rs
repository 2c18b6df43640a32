//! The roster and estate records of all replicas, as read from membership's key-values.
//!
//! Pure. A record is read once per version of its value: views are made far more often than records change.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::debug;

use crate::bounded::{EstateRecord, RosterRecord};
use crate::replica::ReplicaId;

/// A value under a key, and its version in the owner's state.
pub(super) type Versioned<'a> = Option<(u64, &'a str)>;

/// What was read of each replica.
#[derive(Debug, Default)]
pub(super) struct Records {
    rosters: BTreeMap<ReplicaId, Read<RosterRecord>>,
    estates: BTreeMap<ReplicaId, Read<EstateRecord>>,
    malformed: u64,
}

/// A value of some version, and the record in it or in the last one that could be read.
#[derive(Debug)]
struct Read<T> {
    version: u64,
    record: Option<Arc<T>>,
}

impl Records {
    /// The roster record in `value`; where that cannot be read, the one before it.
    pub(super) fn roster(&mut self, owner: &ReplicaId, value: Versioned<'_>) -> Option<Arc<RosterRecord>> {
        let parse = |text: &str| RosterRecord::from_text(text).map_err(|error| error.to_string());
        read(&mut self.rosters, owner, value, parse, &mut self.malformed)
    }

    /// As [`Records::roster`], of estate records.
    pub(super) fn estate(&mut self, owner: &ReplicaId, value: Versioned<'_>) -> Option<Arc<EstateRecord>> {
        let parse = |text: &str| EstateRecord::from_text(text).map_err(|error| error.to_string());
        read(&mut self.estates, owner, value, parse, &mut self.malformed)
    }

    /// Forgets all replicas but those that are `known`.
    pub(super) fn retain(&mut self, known: impl Fn(&ReplicaId) -> bool) {
        self.rosters.retain(|replica, _| known(replica));
        self.estates.retain(|replica, _| known(replica));
    }

    /// Values that could not be read, since the start.
    pub(super) fn malformed(&self) -> u64 {
        self.malformed
    }
}

fn read<T>(
    known: &mut BTreeMap<ReplicaId, Read<T>>,
    owner: &ReplicaId,
    value: Versioned<'_>,
    parse: impl FnOnce(&str) -> Result<T, String>,
    malformed: &mut u64,
) -> Option<Arc<T>> {
    let (version, text) = value?;
    if let Some(read) = known.get(owner).filter(|read| read.version == version) {
        return read.record.clone();
    }
    let record = match parse(text) {
        Ok(record) => Some(Arc::new(record)),
        Err(error) => {
            debug!(replica = %owner, %error, "record ignored");
            *malformed += 1;
            known.get(owner).and_then(|read| read.record.clone())
        }
    };
    let read = Read {
        version,
        record: record.clone(),
    };
    known.insert(owner.clone(), read);
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::Generation;

    #[test]
    fn a_record_is_read_once_per_version_and_one_that_cannot_be_read_changes_nothing() {
        let owner = ReplicaId {
            node: "a".parse().unwrap(),
            generation: Generation(1),
        };
        let mut records = Records::default();
        assert_eq!(records.roster(&owner, None), None);
        let first = records.roster(&owner, Some((4, "{\"version\":7}"))).unwrap();
        assert_eq!(first.version, 7);
        let again = records.roster(&owner, Some((4, "{\"version\":7}"))).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        for _ in 0..2 {
            let kept = records.roster(&owner, Some((5, "{"))).unwrap();
            assert_eq!((kept.version, records.malformed()), (7, 1));
        }
        assert_eq!(
            records
                .roster(&owner, Some((6, "{\"version\":8}")))
                .unwrap()
                .version,
            8
        );
        assert_eq!(records.estate(&owner, Some((6, "[]"))), None);
        records.retain(|_| false);
        assert_eq!(records.malformed(), 2);
        assert!(records.rosters.is_empty() && records.estates.is_empty());
    }
}
