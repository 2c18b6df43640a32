//! Push, driven by significance: what a change is worth decides when it leaves (DESIGN §5.1).

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::limit::{Now, RowRef, RowView, UnixMillis};

use super::codec::{self, Body, Delta, DeltaRow, Frame, Interval, Version};
use super::core::{Replication, Transmit};
use super::log::{LogEntry, OriginIndex};
use super::origin::{OWN, Waiting};
use super::row::RowState;

/// Most changed rows taken in at once, so that frames from peers are not kept waiting.
const CHANGES_MAX: usize = 1 << 14;

/// Most ended rows looked at in one go, for the same reason.
const SWEEP_MAX: usize = 1 << 12;

/// For so long our own log is not claimed across a row that was evicted here: peers that hold the row can
/// pass it on meanwhile.
const OWN_HOLE_MILLIS: u64 = 2_000;

/// When a change leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgency {
    /// Now.
    Due,
    /// With the next tick.
    Dirty,
    /// When it starts to matter, or its window ends.
    Held,
}

/// What [`Replication::compose`] made of a stretch of a log.
pub(super) struct Composed {
    pub(super) deltas: Vec<Delta>,
    /// All of the stretch is in them.
    pub(super) whole: bool,
}

impl Replication {
    /// Takes in the rows that request threads changed.
    pub(super) fn take_changes(&mut self, now: Now) {
        for _ in 0..CHANGES_MAX {
            let Some(row) = self.counters.take_changed() else {
                return;
            };
            if let Some(view) = self.counters.view(row) {
                self.settle_row(row, view.key.window.end, now.wall);
                self.note_unsent(row, &view, now);
            }
        }
        self.backlog = true;
    }

    /// Queues `row` for the push that its unsent hits call for.
    pub(super) fn note_unsent(&mut self, row: RowRef, view: &RowView, now: Now) {
        if !view.replicated || view.own <= view.published {
            return;
        }
        let urgency = self.urgency(view, now);
        let Some(state) = self.rows.get_mut(row) else {
            return;
        };
        match urgency {
            Urgency::Due if !state.due => {
                state.due = true;
                self.due.push(row);
            }
            Urgency::Dirty if !state.due && !state.dirty => {
                state.dirty = true;
                self.dirty.push(row);
            }
            _ => {}
        }
    }

    fn urgency(&self, view: &RowView, now: Now) -> Urgency {
        let Some(limit) = view.limit.filter(|_| view.key.window.end > now.wall) else {
            return Urgency::Dirty;
        };
        let (significance, replicas) = (self.config.significance, self.replicas(now));
        let total = view.own.saturating_add(view.peers);
        let unsent = view.own - view.published;
        if self.leaving {
            Urgency::Due
        } else if significance.is_held_back(view.own, total, limit, replicas) {
            Urgency::Held
        } else if !self.peers.is_empty() && significance.is_due(unsent, limit.saturating_sub(total), replicas)
        {
            Urgency::Due
        } else {
            Urgency::Dirty
        }
    }

    /// Pushes what is due, as soon as the pacer lets it.
    pub(super) fn flush_due(&mut self, now: Now) {
        let waiting = !self.due.is_empty() || !self.adopted.is_empty();
        if waiting && self.bursts.take(now.monotonic) {
            self.stats.pushes_due += 1;
            let due = std::mem::take(&mut self.due);
            self.release(due, now);
        }
    }

    /// Pushes everything that is dirty.
    pub(super) fn flush_dirty(&mut self, now: Now) {
        let mut rows = std::mem::take(&mut self.due);
        rows.append(&mut self.dirty);
        if !rows.is_empty() {
            self.stats.pushes_tick += 1;
            self.release(rows, now);
        }
    }

    /// Gives `rows` the next versions of our log and pushes them, together with what was adopted.
    pub(super) fn release(&mut self, rows: Vec<RowRef>, now: Now) {
        let before = self.origins.own().top;
        for row in rows {
            self.release_row(row, now.wall);
        }
        for Waiting { row, subject, .. } in std::mem::take(&mut self.adopted) {
            if self
                .rows
                .get(row)
                .is_some_and(|state| state.peer(subject).is_some())
            {
                self.append(row.slot, subject);
            }
        }
        let top = self.origins.own().top;
        if top > before {
            let to = Arc::clone(&self.push_to);
            let composed = self.compose(
                OWN,
                Interval {
                    after: before,
                    to: top,
                },
                usize::MAX,
                now,
            );
            for delta in composed.deltas {
                self.send(Body::Delta(delta), Arc::clone(&to), now);
            }
            self.compact(OWN);
        }
    }

    fn release_row(&mut self, row: RowRef, wall: UnixMillis) {
        let view = self.counters.view(row);
        let Some(state) = self.rows.get_mut(row) else {
            return;
        };
        (state.due, state.dirty) = (false, false);
        let Some(view) = view else {
            return self.lose_row(row, wall);
        };
        if view.replicated && view.own > view.published {
            self.counters.store_published(row, view.own);
            let version = self.append(row.slot, OWN);
            if let Some(state) = self.rows.get_mut(row) {
                state.own_version = version;
            }
            self.stats.rows_released += 1;
        }
    }

    fn append(&mut self, slot: u32, subject: OriginIndex) -> Version {
        let own = self.origins.own_mut();
        own.top += 1;
        own.log.insert(LogEntry {
            version: own.top,
            slot,
            subject,
        });
        own.top
    }

    /// Puts one frame into the outbox.
    pub(super) fn send(&mut self, body: Body, to: Arc<[std::net::SocketAddr]>, now: Now) {
        if !to.is_empty() {
            let frame = Frame {
                sender: self.origins.own().id.clone(),
                sent_at: now.wall,
                body,
            };
            self.outbox.push_back(Transmit {
                to,
                payload: codec::encode(&frame),
            });
        }
    }

    /// The stretch `interval` of a log as deltas that fit a frame each, at most `most` of them.
    ///
    /// A row that has left the stretch for a later place is still sent with it, at the place it left, as
    /// long as the log remembers. Stops short of a row that was evicted here: nobody may claim what this
    /// node cannot give.
    pub(super) fn compose(
        &mut self,
        log: OriginIndex,
        interval: Interval,
        most: usize,
        now: Now,
    ) -> Composed {
        let mut composer = Composer::new(self, log, interval);
        let evicted = composer.run(most);
        let Composer { deltas, whole, .. } = composer;
        if let Some((row, version)) = evicted {
            self.lose_row(row, now.wall);
            let until = self.hole_end(log, row, now.wall);
            if let Some(origin) = self.origins.get_mut(log) {
                origin.record_hole(version, until);
            }
        }
        Composed { deltas, whole }
    }

    fn hole_end(&self, log: OriginIndex, row: RowRef, wall: UnixMillis) -> UnixMillis {
        let soon = UnixMillis(wall.0.saturating_add(OWN_HOLE_MILLIS));
        let window_end = self.rows.get(row).map_or(soon, |state| state.window_end);
        if log == OWN { soon } else { window_end.max(soon) }
    }

    /// Makes `row` the tenant of its slot here, and accounts for the one it displaced.
    pub(super) fn settle_row(&mut self, row: RowRef, window_end: UnixMillis, wall: UnixMillis) {
        if let Some(former) = self.rows.settle(row, window_end) {
            self.account_loss(&former, wall);
        }
    }

    /// The table gave `row` away before its window ended.
    pub(super) fn lose_row(&mut self, row: RowRef, wall: UnixMillis) {
        if let Some(former) = self.rows.remove(row) {
            self.account_loss(&former, wall);
        }
    }

    fn account_removal(&mut self, former: &RowState) {
        for peer in &former.peers {
            if let Some(origin) = self.origins.get_mut(peer.origin()) {
                origin.rows = origin.rows.saturating_sub(1);
            }
        }
        if let Some(creator) = self.origins.get_mut(former.created_by) {
            creator.created = creator.created.saturating_sub(1);
        }
    }

    fn account_loss(&mut self, former: &RowState, wall: UnixMillis) {
        self.account_removal(former);
        if former.window_end <= wall {
            return;
        }
        for peer in former.peers.iter().filter(|peer| peer.version > 0) {
            if let Some(origin) = self.origins.get_mut(peer.origin()) {
                origin.record_hole(peer.version, former.window_end);
            }
        }
        if former.own_version > 0 {
            let until = UnixMillis(wall.0.saturating_add(OWN_HOLE_MILLIS)).min(former.window_end);
            self.origins.own_mut().record_hole(former.own_version, until);
        }
    }

    /// Drops the places that rows have left, when enough have gathered.
    pub(super) fn compact(&mut self, index: OriginIndex) {
        let rows = &self.rows;
        let Some(origin) = self.origins.get_mut(index) else {
            return;
        };
        if origin.log.wants_compaction() {
            let top = if index == OWN {
                origin.top
            } else {
                origin.progress.confirmed()
            };
            origin.log.compact(top, |entry| {
                let Some((_, state)) = rows.tenant(entry.slot) else {
                    return false;
                };
                match (entry.subject == index, index == OWN) {
                    (true, true) => state.own_version == entry.version,
                    (true, false) => state
                        .peer(index)
                        .is_some_and(|peer| peer.version == entry.version),
                    (false, _) => state.peer(entry.subject).is_some(),
                }
            });
        }
    }

    /// Releases what is left of ended windows and what may no longer be held back, and forgets rows whose
    /// grace is over.
    pub(super) fn sweep(&mut self, now: Now) {
        let expired = now.wall.minus(self.config.grace);
        let ended = self.rows.take_ended(now.wall, SWEEP_MAX);
        for row in ended.into_iter().chain(self.rows.take_review(SWEEP_MAX)) {
            if let Some(view) = self.counters.view(row) {
                self.note_unsent(row, &view, now);
            }
        }
        for row in self.rows.take_expired(expired, SWEEP_MAX) {
            if let Some(former) = self.rows.remove(row) {
                self.account_removal(&former);
            }
            self.counters.forget(row);
        }
        self.backlog = self.rows.has_backlog(now.wall, expired);
    }
}

/// Cuts one stretch of one log into deltas.
struct Composer<'a> {
    core: &'a Replication,
    log: OriginIndex,
    room: usize,
    after: Version,
    to: Version,
    rows: Vec<DeltaRow>,
    places: HashMap<(u32, OriginIndex), usize>,
    groups: SmallVec<[(OriginIndex, u64, UnixMillis); 8]>,
    bytes: usize,
    deltas: Vec<Delta>,
    whole: bool,
}

impl<'a> Composer<'a> {
    fn new(core: &'a Replication, log: OriginIndex, interval: Interval) -> Self {
        let own = &core.origins.own().id;
        let overhead = codec::delta_bytes(own, core.origins.get(log).map_or(own, |origin| &origin.id));
        Self {
            core,
            log,
            room: core.config.frame_bytes_max.saturating_sub(overhead),
            after: interval.after,
            to: interval.to,
            rows: Vec::new(),
            places: HashMap::new(),
            groups: SmallVec::new(),
            bytes: 0,
            deltas: Vec::new(),
            whole: false,
        }
    }

    /// Returns the row that was found evicted, and where.
    fn run(&mut self, most: usize) -> Option<(RowRef, Version)> {
        let core = self.core;
        let origin = core.origins.get(self.log)?;
        let end = self.to;
        for entry in origin
            .log
            .above(self.after)
            .take_while(|entry| entry.version <= end)
        {
            let Some((row, state)) = core.rows.tenant(entry.slot) else {
                continue;
            };
            let peer_count = state.peer(entry.subject).map(|peer| peer.count());
            if entry.subject != OWN && peer_count.is_none() {
                continue;
            }
            let Some(view) = core.counters.view(row) else {
                self.close(entry.version - 1);
                return Some((row, entry.version));
            };
            let count = if entry.subject == OWN {
                view.published
            } else {
                peer_count.unwrap_or_default()
            };
            if count == 0 || self.moves_within(entry, count) {
                continue;
            }
            if !self.fits(entry, count, &view) {
                self.close(entry.version - 1);
                if self.deltas.len() >= most {
                    return None;
                }
            }
            self.push(entry, count, &view);
        }
        self.close(end);
        self.whole = true;
        None
    }

    /// The row already stands in this delta at a place it has left since: it moves to this one.
    fn moves_within(&mut self, entry: &LogEntry, count: u64) -> bool {
        let Some(at) = self.places.get(&(entry.slot, entry.subject)) else {
            return false;
        };
        let Some(row) = self.rows.get_mut(*at) else {
            return false;
        };
        (row.version, row.count) = (entry.version, count);
        true
    }

    fn group(entry: &LogEntry, view: &RowView) -> (OriginIndex, u64, UnixMillis) {
        (entry.subject, view.key.rule.0, view.key.window.start)
    }

    fn subject(&self, entry: &LogEntry) -> Option<&'a super::id::ReplicaId> {
        if entry.subject == self.log {
            None
        } else {
            self.core.origins.get(entry.subject).map(|o| &o.id)
        }
    }

    fn cost(&self, entry: &LogEntry, count: u64, view: &RowView) -> usize {
        // A row may move to a later place of its delta, so it is charged at the last.
        let row = codec::row_bytes(self.to - self.after, count);
        let is_known = self.groups.contains(&Self::group(entry, view));
        if is_known {
            row
        } else {
            row + codec::group_bytes(self.subject(entry))
        }
    }

    fn fits(&self, entry: &LogEntry, count: u64, view: &RowView) -> bool {
        self.rows.is_empty() || self.bytes + self.cost(entry, count, view) <= self.room
    }

    fn push(&mut self, entry: &LogEntry, count: u64, view: &RowView) {
        self.bytes += self.cost(entry, count, view);
        let group = Self::group(entry, view);
        if !self.groups.contains(&group) {
            self.groups.push(group);
        }
        self.places.insert((entry.slot, entry.subject), self.rows.len());
        let subject = self.subject(entry).cloned();
        self.rows.push(DeltaRow {
            version: entry.version,
            subject,
            key: view.key,
            count,
        });
    }

    /// Ends the current delta at `to`.
    fn close(&mut self, to: Version) {
        if to <= self.after {
            return;
        }
        let Some(origin) = self.core.origins.get(self.log) else {
            return;
        };
        let mut rows = std::mem::take(&mut self.rows);
        rows.sort_by_key(|row| row.version);
        self.deltas.push(Delta {
            log: origin.id.clone(),
            interval: Interval {
                after: self.after,
                to,
            },
            complete_at: origin.log.complete_at(self.after, to),
            paused: false,
            rows,
        });
        self.after = to;
        self.places.clear();
        self.groups.clear();
        self.bytes = 0;
    }
}
