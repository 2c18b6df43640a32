//! Cutting stretches of a log into deltas, and packing deltas into frames.

use std::collections::HashMap;

use smallvec::SmallVec;

use crate::limit::{Now, RowView, UnixMillis};

use super::codec::{self, Delta, DeltaRow, Grant, Interval, Version};
use super::core::Replication;
use super::log::{LogEntry, OriginIndex};
use super::origin::OWN;

/// A delta, and the bytes it takes in a frame at most.
pub(super) type Sized = (Delta, usize);

impl Replication {
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
    ) -> Vec<Sized> {
        let mut composer = Composer::new(self, log, interval, now.wall);
        let lost = composer.run(most);
        let deltas = composer.deltas;
        if let Some(lost) = lost {
            self.note_lost(log, lost, now.wall);
        }
        deltas
    }

    /// A row of a log was found evicted at its place: the place is a hole from now on.
    fn note_lost(&mut self, log: OriginIndex, lost: LogEntry, wall: UnixMillis) {
        if let Some((row, _)) = self.rows.at(lost) {
            self.lose_row(row, wall);
        }
        if log != OWN
            && let Some(origin) = self.origins.get_mut(log)
        {
            origin.log.remove(lost);
            origin.record_hole(lost.version(), lost.ended_by());
        }
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
    overhead: usize,
    held: Version,
    wall: UnixMillis,
    deltas: Vec<Sized>,
}

impl<'a> Composer<'a> {
    fn new(core: &'a Replication, log: OriginIndex, interval: Interval, wall: UnixMillis) -> Self {
        let own = &core.origins.own().id;
        let overhead = codec::delta_bytes(core.origins.get(log).map_or(own, |origin| &origin.id));
        Self {
            core,
            log,
            room: core.delta_room().saturating_sub(overhead),
            after: interval.after,
            to: interval.to,
            rows: Vec::new(),
            places: HashMap::new(),
            groups: SmallVec::new(),
            bytes: 0,
            overhead,
            held: core
                .origins
                .get(log)
                .map_or(0, |origin| origin.before_hole(origin.held(log))),
            wall,
            deltas: Vec::new(),
        }
    }

    /// Returns the place at which an evicted row was found.
    fn run(&mut self, most: usize) -> Option<LogEntry> {
        let core = self.core;
        let origin = core.origins.get(self.log)?;
        let end = self.to;
        for entry in origin
            .log
            .above(self.after)
            .take_while(|entry| entry.version() <= end)
        {
            let tenant = core.rows.at(entry);
            let Some((row, state)) = tenant else {
                // Of our own log, what was evicted is empty: docs/protocol.md, "Holes".
                if self.log == OWN || entry.ended_by() <= self.wall {
                    continue;
                }
                self.close(entry.version() - 1);
                return Some(entry);
            };
            let peer_count = state.peer(entry.subject()).map(|peer| peer.count());
            if entry.subject() != OWN && peer_count.is_none() {
                continue;
            }
            let Some(view) = core.counters.view(row) else {
                if self.log == OWN && origin.hole.is_none() && core.own_holes_from > self.wall {
                    continue;
                }
                self.close(entry.version() - 1);
                return Some(entry);
            };
            let count = if entry.subject() == OWN {
                view.published
            } else {
                peer_count.unwrap_or_default()
            };
            if count == 0 || self.moves_within(&entry, count) {
                continue;
            }
            let grants = core.transfers.grants_of(row, entry.subject());
            if !self.fits(&entry, count, &grants, &view) {
                self.close(entry.version() - 1);
                if self.deltas.len() >= most {
                    return None;
                }
            }
            self.push(&entry, count, grants, &view);
        }
        self.close(end);
        None
    }

    /// The row already stands in this delta at a place it has left since: it moves to this one.
    fn moves_within(&mut self, entry: &LogEntry, count: u64) -> bool {
        let Some(at) = self.places.get(&(entry.slot(), entry.subject())) else {
            return false;
        };
        let Some(row) = self.rows.get_mut(*at) else {
            return false;
        };
        (row.version, row.count) = (entry.version(), count);
        true
    }

    fn group(entry: &LogEntry, view: &RowView) -> (OriginIndex, u64, UnixMillis) {
        (entry.subject(), view.key.rule.0, view.key.window.start)
    }

    fn subject(&self, entry: &LogEntry) -> Option<&'a crate::replica::ReplicaId> {
        if entry.subject() == self.log {
            None
        } else {
            self.core.origins.get(entry.subject()).map(|o| &o.id)
        }
    }

    fn cost(&self, entry: &LogEntry, count: u64, grants: &[Grant], view: &RowView) -> usize {
        // A row may move to a later place of its delta, so it is charged at the last.
        let row = codec::row_bytes(self.to - self.after, count) + codec::grants_bytes(grants);
        let is_known = self.groups.contains(&Self::group(entry, view));
        if is_known {
            row
        } else {
            row + codec::group_bytes(self.subject(entry))
        }
    }

    fn fits(&self, entry: &LogEntry, count: u64, grants: &[Grant], view: &RowView) -> bool {
        self.rows.is_empty() || self.bytes + self.cost(entry, count, grants, view) <= self.room
    }

    fn push(&mut self, entry: &LogEntry, count: u64, grants: Vec<Grant>, view: &RowView) {
        self.bytes += self.cost(entry, count, &grants, view);
        let group = Self::group(entry, view);
        if !self.groups.contains(&group) {
            self.groups.push(group);
        }
        self.places
            .insert((entry.slot(), entry.subject()), self.rows.len());
        let subject = self.subject(entry).cloned();
        self.rows.push(DeltaRow {
            version: entry.version(),
            subject,
            key: view.key,
            count,
            grants,
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
        let interval = Interval {
            after: self.after,
            to,
        };
        let delta = Delta {
            log: origin.id.clone(),
            interval,
            complete_at: origin.log.complete_at(self.after, to, self.held),
            paused: false,
            rows,
        };
        self.deltas.push((delta, self.overhead + self.bytes));
        self.after = to;
        self.places.clear();
        self.groups.clear();
        self.bytes = 0;
    }
}

/// Deltas packed into frames: in version 1 one a frame, later as many as fit.
pub(super) struct Frames {
    frames: Vec<Vec<Delta>>,
    room: usize,
    left: usize,
    packs: bool,
}

impl Frames {
    pub(super) fn new(room: usize, frame_version: u8) -> Self {
        Self {
            frames: Vec::new(),
            room,
            left: 0,
            packs: frame_version > 1,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    pub(super) fn push(&mut self, delta: Delta, bytes: usize) {
        match self
            .frames
            .last_mut()
            .filter(|_| self.packs && bytes <= self.left)
        {
            Some(frame) => frame.push(delta),
            None => {
                self.frames.push(vec![delta]);
                self.left = self.room;
            }
        }
        self.left = self.left.saturating_sub(bytes);
    }

    /// All frames; the last says that there `is_more`.
    pub(super) fn done(mut self, is_more: bool) -> Vec<Vec<Delta>> {
        if let Some(last) = self.frames.last_mut().and_then(|frame| frame.last_mut()) {
            last.paused = is_more;
        }
        self.frames
    }
}
