//! Who inherits the rights of a replica that leaves.
//!
//! Rights are implicit for every key, so a leaver cannot grant them key by key: it publishes one will.
//! Its heir owns, in every open window, the shares, the grants and the consumption of the leaver and of
//! whomever that had inherited from, once it holds all of their rows. Owning is a matter of whose rows
//! one adds up: the rows themselves stay as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limit::{KeyHash, UnixMillis, Window};
use crate::replica::ReplicaId;

use super::rights::allowance;
use super::rules::InForce;
use super::share::{Membership, affinity};

/// What a replica publishes of wills: its own, and whose it has executed. One atomic versioned record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EstateRecord {
    /// Rises with every change within one generation of the owner.
    pub version: u64,
    /// The owner's will: it spends and grants nothing from now on, and inherits nothing more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub will: Option<Will>,
    /// Leavers whose wills the owner has executed: the acknowledgement that they wait for.
    #[serde(default)]
    pub executed: BTreeSet<ReplicaId>,
}

/// Everything one leaver leaves to one heir.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Will {
    /// Who inherits.
    pub heir: ReplicaId,
    /// The leaver itself, and whomever it inherited from.
    pub estate: Vec<Bequest>,
    /// The memberships that the bequests' shares are of, each once.
    pub memberships: Vec<Vec<ReplicaId>>,
}

/// What one replica had.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Bequest {
    /// Whose rows count.
    pub replica: ReplicaId,
    /// The last version of its log: everything it ever consumed or granted is in the log up to there.
    pub final_version: u64,
    /// The window starts of which it took a share, and the index of the membership it took it under.
    pub shares: Vec<(UnixMillis, usize)>,
}

/// Why a will was not executed, written or replaced. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EstateError {
    /// The record holds no will for this replica.
    #[error("there is no will in favour of this node")]
    NoWill,
    /// Rows are missing that the leaver may have consumed in.
    #[error("the rows of {replica} are held up to version {held} of {needed}")]
    Incomplete {
        /// Whose rows.
        replica: ReplicaId,
        /// The highest version below which none is missing.
        held: u64,
        /// The final version.
        needed: u64,
    },
    /// This replica has published its own will, so what it inherited now would be lost.
    #[error("this node has published its own will")]
    Bequeathed,
    /// The heir may still execute the will, or has done so.
    #[error("the heir may still execute the will")]
    Pending,
    /// The will contradicts itself, or is larger than any that a node writes.
    #[error("malformed will")]
    Malformed,
}

/// What one replica owns beside its own rows, and to whom it leaves everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Estate {
    me: ReplicaId,
    own: EstateRecord,
    inherited: BTreeMap<ReplicaId, Inherited>,
    rules: InForce,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Inherited {
    final_version: u64,
    shares: Vec<Arc<Membership>>,
}

impl EstateRecord {
    /// Longest text. With it a record fits one membership datagram; a larger will is not written, and
    /// what it would have saved is lost until its windows end.
    pub const BYTES_MAX: usize = 48 * 1024;

    /// The record as text, for a membership key-value.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a record has no maps, so no key can fail to serialise")
    }

    /// Reads a record; fields it does not know are ignored.
    ///
    /// # Errors
    /// [`EstateError::Malformed`] when it is too long or not of the expected form.
    pub fn from_text(text: &str) -> Result<Self, EstateError> {
        if text.len() > Self::BYTES_MAX {
            return Err(EstateError::Malformed);
        }
        serde_json::from_str(text).map_err(|_| EstateError::Malformed)
    }
}

impl Estate {
    /// Nothing inherited, no will.
    #[must_use]
    pub fn new(me: ReplicaId) -> Self {
        Self {
            me,
            own: EstateRecord {
                version: 1,
                ..EstateRecord::default()
            },
            inherited: BTreeMap::new(),
            rules: InForce::ALL,
        }
    }

    /// The record to publish: its version has risen if it changed.
    #[must_use]
    pub fn record(&self) -> &EstateRecord {
        &self.own
    }

    /// Executes the will in the record of `leaver`. `held` gives the version of a replica's log below which
    /// nothing is missing. True when something was inherited: every row's allowance is to be computed anew
    /// ([`Estate::allowance`]) before its part is spent. Executing a will again changes nothing.
    ///
    /// # Errors
    /// [`EstateError`]; `Incomplete` passes as the rows come in.
    pub fn execute(
        &mut self,
        leaver: &ReplicaId,
        record: &EstateRecord,
        held: impl Fn(&ReplicaId) -> u64,
    ) -> Result<bool, EstateError> {
        let will = record
            .will
            .as_ref()
            .filter(|will| will.heir == self.me)
            .ok_or(EstateError::NoWill)?;
        if self.own.executed.contains(leaver) {
            return Ok(false);
        }
        if self.own.will.is_some() {
            return Err(EstateError::Bequeathed);
        }
        let estate = will.read().ok_or(EstateError::Malformed)?;
        if !estate.contains_key(leaver) || estate.contains_key(&self.me) {
            return Err(EstateError::Malformed);
        }
        for (replica, part) in &estate {
            let (held, needed) = (held(replica), part.final_version);
            if held < needed && self.rules.get().complete {
                return Err(EstateError::Incomplete {
                    replica: replica.clone(),
                    held,
                    needed,
                });
            }
        }
        for (replica, part) in estate {
            self.inherited.entry(replica).or_insert(part);
        }
        self.own.executed.insert(leaver.clone());
        self.own.version += 1;
        Ok(true)
    }

    /// Leaves everything to `heir`. From now on this replica must neither admit nor grant in bounded rows,
    /// and `final_version` must be the end of its log with every such row released. `taken` are the
    /// memberships that it took shares under.
    ///
    /// A share is passed on while windows that start then are open, by `is_open`, which must say so as long as
    /// any heir may spend in them, and rows must be held for as long. Of whom this replica inherited and
    /// `has_rows` of no more, nothing was consumed in those: the heir need not hold that log, which nobody may
    /// remember any more.
    ///
    /// # Errors
    /// [`EstateError::Bequeathed`] when there is a will already, [`EstateError::Malformed`] when it would be
    /// too large to publish.
    pub fn bequeath<'a>(
        &mut self,
        heir: &ReplicaId,
        final_version: u64,
        taken: impl IntoIterator<Item = &'a Arc<Membership>>,
        is_open: impl Fn(UnixMillis) -> bool,
        has_rows: impl Fn(&ReplicaId) -> bool,
    ) -> Result<(), EstateError> {
        if self.own.will.is_some() {
            return Err(EstateError::Bequeathed);
        }
        let mut will = Will {
            heir: heir.clone(),
            estate: Vec::new(),
            memberships: Vec::new(),
        };
        let open = |membership: &&'a Arc<Membership>| is_open(membership.start());
        will.add(&self.me, final_version, taken.into_iter().filter(open));
        for (replica, part) in &self.inherited {
            let mut shares = part
                .shares
                .iter()
                .filter(|share| is_open(share.start()))
                .peekable();
            match (has_rows(replica), shares.peek()) {
                (false, None) => {}
                (false, Some(_)) => will.add(replica, 0, shares),
                (true, _) => will.add(replica, part.final_version, shares),
            }
        }
        let record = EstateRecord {
            will: Some(will),
            version: self.own.version + 1,
            ..self.own.clone()
        };
        if record.to_text().len() > EstateRecord::BYTES_MAX {
            return Err(EstateError::Malformed);
        }
        self.own = record;
        Ok(())
    }

    /// Rows of those whom the will names may end while the heir still waits for their logs: once this replica
    /// `has_rows` of one no more, the heir need not hold that log.
    pub fn ease(&mut self, has_rows: impl Fn(&ReplicaId) -> bool) {
        let Some(will) = &mut self.own.will else {
            return;
        };
        let mut eased = false;
        for bequest in &mut will.estate {
            if bequest.replica != self.me && bequest.final_version > 0 && !has_rows(&bequest.replica) {
                bequest.final_version = 0;
                eased = true;
            }
        }
        self.own.version += u64::from(eased);
    }

    /// Names another heir, because the first, by its own record, leaves without having executed this will
    /// and so never can. An heir that is only silent may have executed it: then the will stands.
    ///
    /// # Errors
    /// [`EstateError::NoWill`] without one, [`EstateError::Pending`] while the first heir may own it.
    pub fn revise(&mut self, first: &EstateRecord, heir: &ReplicaId) -> Result<(), EstateError> {
        let barred = first.will.is_some() && !first.executed.contains(&self.me);
        let barred = barred || !self.rules.get().revision;
        let will = self.own.will.as_mut().ok_or(EstateError::NoWill)?;
        if !barred {
            return Err(EstateError::Pending);
        }
        will.heir = heir.clone();
        self.own.version += 1;
        Ok(())
    }

    /// Whether the leaver may stop: its heir's record acknowledges the will. Until then only the leaver is
    /// sure to hold its own rows.
    #[must_use]
    pub fn is_executed(&self, heir: &EstateRecord) -> bool {
        heir.executed.contains(&self.me) || !self.rules.get().acknowledgement
    }

    /// The memberships whose shares were inherited.
    pub fn memberships(&self) -> impl Iterator<Item = &Arc<Membership>> {
        self.inherited.values().flat_map(|part| &part.shares)
    }

    /// The replicas whose rows count as this one's own: grants to them are grants to this replica.
    pub fn inherited(&self) -> impl Iterator<Item = &ReplicaId> {
        self.inherited.keys()
    }

    /// What this replica may consume of one row in all, in its own name: the shares it took or inherited,
    /// and the grants to all whose rows are its own, less what the others of them consumed. `taken` is its
    /// own membership, `received` and `consumed` give what the rows held say of a replica.
    #[must_use]
    pub fn allowance(
        &self,
        (limit, key, window): (u64, KeyHash, Window),
        taken: Option<&Membership>,
        received: impl Fn(&ReplicaId) -> u64,
        consumed: impl Fn(&ReplicaId) -> u64,
    ) -> u64 {
        let memberships = self.memberships().map(Arc::as_ref).chain(taken);
        let shares = memberships.map(|membership| membership.share(limit, key, window));
        let grants = self.inherited().chain([&self.me]).map(received);
        allowance(
            shares.fold(0, u64::saturating_add),
            grants,
            self.inherited().map(consumed),
        )
    }

    /// Forgets the inherited shares of all windows but those that start at one of `open` or after `clock`, as
    /// those of a leaver whose clock was ahead, and the replicas that have neither a share nor, by `has_rows`,
    /// any row left.
    pub fn retain(&mut self, open: &[UnixMillis], clock: UnixMillis, has_rows: impl Fn(&ReplicaId) -> bool) {
        self.inherited.retain(|replica, part| {
            part.shares
                .retain(|membership| open.contains(&membership.start()) || membership.start() > clock);
            !part.shares.is_empty() || has_rows(replica)
        });
    }

    /// Forgets the acknowledgements of leavers that are not `known` any more and of whom nothing inherited is
    /// left: nobody waits for them, and if such a will came back, it would give nothing.
    pub fn forget_executed(&mut self, known: impl Fn(&ReplicaId) -> bool) {
        let before = self.own.executed.len();
        let inherited = &self.inherited;
        self.own
            .executed
            .retain(|leaver| known(leaver) || inherited.contains_key(leaver));
        self.own.version += u64::from(self.own.executed.len() != before);
    }

    #[cfg(test)]
    pub(super) fn with_rules(mut self, rules: impl Into<InForce>) -> Self {
        self.rules = rules.into();
        self
    }
}

impl Will {
    fn add<'a>(
        &mut self,
        replica: &ReplicaId,
        final_version: u64,
        taken: impl IntoIterator<Item = &'a Arc<Membership>>,
    ) {
        let shares = taken.into_iter().map(|membership| {
            let members: Vec<_> = membership.members().cloned().collect();
            let known = self.memberships.iter().position(|other| *other == members);
            let index = known.unwrap_or_else(|| {
                self.memberships.push(members);
                self.memberships.len() - 1
            });
            (membership.start(), index)
        });
        let shares = shares.collect();
        self.estate.push(Bequest {
            replica: replica.clone(),
            final_version,
            shares,
        });
    }

    /// The estate by replica; `None` where an index points nowhere, a holder is no member of what it took
    /// a share of, or somebody is named twice.
    fn read(&self) -> Option<BTreeMap<ReplicaId, Inherited>> {
        let mut estate = BTreeMap::new();
        for bequest in &self.estate {
            let share = |(start, index): &(UnixMillis, usize)| {
                let members = self.memberships.get(*index)?.iter().cloned();
                Membership::try_new(*start, &bequest.replica, members).map(Arc::new)
            };
            let shares = bequest.shares.iter().map(share).collect::<Option<_>>()?;
            let part = Inherited {
                final_version: bequest.final_version,
                shares,
            };
            if estate.insert(bequest.replica.clone(), part).is_some() {
                return None;
            }
        }
        Some(estate)
    }
}

/// Who inherits from `leaver`: of the candidates (live, without a will, not leaving) the one of
/// highest rendezvous hash, so that leavers spread over the others.
pub fn heir<'a>(
    leaver: &ReplicaId,
    candidates: impl IntoIterator<Item = &'a ReplicaId>,
) -> Option<&'a ReplicaId> {
    let others = candidates
        .into_iter()
        .filter(|candidate| candidate.node != leaver.node);
    others.max_by_key(|candidate| (affinity(leaver, candidate), *candidate))
}
