//! Taking in deltas, and what remains of a replica that died.

use std::time::Duration;

use crate::limit::{Now, RowKey, RowRef, UnixMillis};

use super::codec::{Delta, DeltaRow, Received};
use super::core::Replication;
use super::log::{COMPACT_MIN, LogEntry, OriginIndex};
use super::origin::{OWN, Waiting};
use super::row::Merge;

/// A stretch received out of order waits so long for what is in front of it before the owner is asked:
/// reordering on one path is shorter, and a tick is longer.
const GAP_PATIENCE: Duration = Duration::from_millis(3);

/// A row refused because its window starts too far ahead is asked for again after so long.
const FUTURE_RETRY: Duration = Duration::from_secs(10);

impl Replication {
    /// Merges the rows of a delta, and claims its interval once all in front of it is held.
    pub(super) fn handle_delta(&mut self, sender: Option<OriginIndex>, delta: &Delta, now: Now) {
        if delta.rows.is_empty() && self.origins.index_of(&delta.log).is_none() {
            // Nothing to hold, and no claim worth remembering about a replica that nothing is left of.
            return;
        }
        let Some(log) = self.origins.hear_of(&delta.log).filter(|log| *log != OWN) else {
            return;
        };
        let Some(origin) = self.origins.get(log) else {
            return;
        };
        let confirmed = origin.progress.confirmed();
        let claimable = self.make_room(log, delta);
        self.counters.prefetch_rows(delta.rows.iter().map(|row| &row.key));
        let mut waiting = Vec::with_capacity(delta.rows.len());
        for row in &delta.rows {
            let Some(merged) = self.merge_row(sender, log, row, now) else {
                continue;
            };
            if claimable && row.version > confirmed {
                waiting.push((row.version, merged));
            } else if merged.raised {
                self.hold_loose(log, merged);
            }
        }
        if claimable {
            self.claim(log, delta, waiting, now);
        }
        self.watch_gap(log, sender, now);
        // What found no room would only be sent again, at the speed of the network.
        if let Some(peer) = sender.filter(|_| delta.paused && claimable) {
            self.send_digest(peer, false, now);
        }
    }

    /// Whether a delta's interval can be claimed, or wait to be. What was received further beyond the claim is
    /// given up for it: should the owner die before that comes again, this node has to pass it on itself.
    fn make_room(&mut self, log: OriginIndex, delta: &Delta) -> bool {
        let pending_max = pending_max(self.counters.capacity() as usize);
        let Some(origin) = self.origins.get_mut(log) else {
            return false;
        };
        let versions: Vec<_> = delta.rows.iter().map(|row| row.version).collect();
        let stretch = Received {
            interval: delta.interval,
            complete_at: delta.complete_at,
        };
        let given_up = origin.progress.make_room(stretch, &versions, pending_max);
        let has_room = origin.progress.has_room(stretch, &versions, pending_max);
        for waiting in given_up.into_iter().filter(|waiting| waiting.raised) {
            self.hold_loose(log, waiting);
        }
        has_room
    }

    /// Merges one row into the table. `None` when nothing is held of it: refused, or its window is over.
    fn merge_row(
        &mut self,
        sender: Option<OriginIndex>,
        log: OriginIndex,
        row: &DeltaRow,
        now: Now,
    ) -> Option<Waiting> {
        let window = row.key.window;
        if window.end <= now.wall.minus(self.config.grace) {
            return None;
        }
        if window.start > now.wall.plus(self.config.max_clock_skew) {
            self.refuse_row(sender, log, row, now, now.wall.plus(FUTURE_RETRY));
            return None;
        }
        let subject = match &row.subject {
            Some(id) => self.origins.hear_of(id)?,
            None => log,
        };
        if subject == OWN {
            return None;
        }
        let Some(found) = self.find_or_make(subject, &row.key, now) else {
            self.refuse_row(sender, log, row, now, now.wall);
            return None;
        };
        let state = self.rows.get_mut(found)?;
        let merge = state.merge(subject, row.count);
        if merge == Merge::New
            && let Some(origin) = self.origins.get_mut(subject)
        {
            origin.rows += 1;
        }
        if merge != Merge::Known {
            self.stats.rows_merged += 1;
            self.show_peers(found);
            if let Some(view) = self.counters.view(found) {
                self.note_unsent(found, &view, now);
            }
        }
        self.note_grants(found, subject, &row.grants);
        Some(Waiting {
            row: found,
            subject,
            window_end: window.end,
            raised: merge != Merge::Known,
        })
    }

    /// The row in the table, made if the replica on whose account it is made has not used up its share: half of
    /// the table, so that one broken peer cannot crowd out everybody else.
    pub(super) fn find_or_make(&mut self, subject: OriginIndex, key: &RowKey, now: Now) -> Option<RowRef> {
        let end = key.window.end;
        if let Some(found) = self.counters.find(key) {
            self.settle_row(found, end, now.wall);
            return Some(found);
        }
        let share = self.counters.capacity() as usize / 2;
        if !self.origins.charge(subject, share) {
            return None;
        }
        let Ok(made) = self.counters.find_or_insert(key, now.wall) else {
            self.origins.uncharge(subject);
            return None;
        };
        self.settle_row(made, end, now.wall);
        match self.rows.get_mut(made) {
            Some(state) => state.created_by = subject,
            None => self.origins.uncharge(subject),
        }
        Some(made)
    }

    /// A row that found no place is counted against whoever sent it, and is a hole in the log it stands in.
    fn refuse_row(
        &mut self,
        sender: Option<OriginIndex>,
        log: OriginIndex,
        row: &DeltaRow,
        now: Now,
        retry_at: UnixMillis,
    ) {
        self.stats.rows_refused += 1;
        if let Some(origin) = self.origins.get_mut(sender.unwrap_or(log)) {
            origin.refused += 1;
        }
        if row.key.window.end > now.wall
            && let Some(origin) = self.origins.get_mut(log)
        {
            origin.record_hole_until(row.version, row.key.window.end, retry_at);
        }
    }

    fn claim(&mut self, log: OriginIndex, delta: &Delta, waiting: Vec<(u64, Waiting)>, now: Now) {
        let Some(origin) = self.origins.get_mut(log) else {
            return;
        };
        // An empty place within a delta may be one that a row has left for a later one of the same delta.
        if delta.interval.to - delta.interval.after != delta.rows.len() as u64 {
            origin.log.note_moved(delta.interval.to);
        }
        for (
            version,
            Waiting {
                row,
                subject,
                window_end,
                ..
            },
        ) in origin
            .progress
            .record(delta.interval, delta.complete_at, waiting, Waiting::join)
        {
            let Some(state) = self.rows.get_mut(row) else {
                // Evicted, or forgotten after its window, while it waited.
                origin.record_hole(version, window_end);
                continue;
            };
            if let Some(peer) = state.peer_mut(subject) {
                if subject == log {
                    peer.version = peer.version.max(version);
                }
                origin
                    .log
                    .insert(LogEntry::new(version, row, window_end, subject));
            }
        }
        self.compact(log, now.wall);
    }

    /// A live owner is asked soon for what is missing.
    fn watch_gap(&mut self, log: OriginIndex, sender: Option<OriginIndex>, now: Now) {
        let few = self.peers.len() <= self.config.push_fanout;
        let Some(origin) = self.origins.get_mut(log) else {
            return;
        };
        origin.last_delta = now.monotonic;
        if !origin.progress.has_gap() {
            origin.gap_at = None;
        } else if few && origin.is_live() && sender == Some(log) && origin.gap_at.is_none() {
            let at = now.monotonic + GAP_PATIENCE;
            origin.gap_at = Some(at);
            self.next_gap = Some(self.next_gap.map_or(at, |next| next.min(at)));
        }
    }

    /// A count rose without a place to show for it: a relay sent a row at a place that is claimed already,
    /// with a newer count. Should the owner die, this node has to pass it on itself.
    pub(super) fn hold_loose(&mut self, log: OriginIndex, waiting: Waiting) {
        if let Some(origin) = self.origins.get_mut(log) {
            origin.loose.push(waiting);
            if origin.loose.len() >= LOOSE_MAX {
                self.adopt(log);
            }
        }
    }

    /// Membership says that a replica is gone. Its rows stay; those that no claim covers are put into our
    /// own log, since their owner will not repair them any more.
    pub(super) fn handle_death(&mut self, index: OriginIndex, now: Now) {
        let Some(origin) = self.origins.get_mut(index) else {
            return;
        };
        if origin.address.take().is_some() {
            origin.live_until = Some(now.monotonic);
            origin.gap_at = None;
            self.adopt(index);
            if self.catch_up.from == self.origins.get(index).map(|origin| origin.id.clone()) {
                self.catch_up = super::core::CatchUp {
                    done: self.catch_up.done,
                    ..Default::default()
                };
            }
        }
    }

    /// Adopts what dead replicas left behind and no relay has gone on with for a while: late frames of
    /// theirs, or the beginning of a repair whose relay died as well.
    pub(super) fn adopt_orphans(&mut self, now: Now) {
        let orphaned: Vec<_> = self
            .origins
            .sorted()
            .filter(|(index, origin)| {
                let waits =
                    origin.progress.has_pending() || !origin.loose.is_empty() || origin.holds_unclaimed();
                let quiet = origin.last_delta + ORPHANED_AFTER <= now.monotonic;
                *index != OWN && !origin.is_live() && waits && quiet
            })
            .map(|(index, _)| index)
            .collect();
        for log in orphaned {
            self.adopt(log);
        }
    }

    /// Takes over what nobody is told of under the name of a dead replica.
    fn adopt(&mut self, log: OriginIndex) {
        let Some(origin) = self.origins.get_mut(log) else {
            return;
        };
        let pending = origin
            .progress
            .take_pending()
            .into_iter()
            .filter(|waiting| waiting.raised);
        self.adopted.extend(pending.chain(origin.loose.drain(..)));
        // Claimed once, until the claim was taken back to a hole: nobody is told of these either.
        let rows = &self.rows;
        let untold = origin.log.take_above(origin.progress.confirmed());
        self.adopted.extend(untold.filter_map(|entry| {
            let (row, state) = rows.at(entry)?;
            Some(Waiting {
                row,
                subject: entry.subject(),
                window_end: state.window_end,
                raised: true,
            })
        }));
    }
}

/// Rows of one log that may wait beyond its claim: as many as the log of a node with a table of `capacity` rows
/// has places, since a stretch that was compacted counts only as a whole.
fn pending_max(capacity: usize) -> usize {
    2 * (capacity + COMPACT_MIN)
}

/// Relays answer every tick: one that has said nothing of a dead log for so long has nothing to add.
const ORPHANED_AFTER: Duration = Duration::from_secs(1);

/// Loose rows of one log; above this they are adopted without waiting for the owner to die.
const LOOSE_MAX: usize = 4096;
