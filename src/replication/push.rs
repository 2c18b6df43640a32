//! Push, driven by significance: what a change is worth decides when it leaves (DESIGN §5.1).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::limit::{Now, RowRef, RowView, UnixMillis};

use super::codec::{self, Body, Frame, Interval, Version};
use super::core::{Replication, Transmit};
use super::log::{LogEntry, OriginIndex};
use super::origin::OWN;
use super::row::{RowState, Rows};

/// Most changed rows taken in at once, so that frames from peers are not kept waiting.
const CHANGES_MAX: usize = 1 << 14;

/// Most ended rows looked at in one go, for the same reason.
const SWEEP_MAX: usize = 1 << 12;

/// For so long our own log is not claimed across a row that was evicted here: peers that hold the row can
/// pass it on meanwhile. After that it is claimed for as long, whatever is evicted: where rows are evicted all
/// the time, peers must not wait for ever.
const OWN_HOLE: Duration = Duration::from_secs(2);

/// When a change leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgency {
    /// Now.
    Due,
    /// With the next tick.
    Dirty,
    /// When it starts to matter.
    Held,
}

impl Replication {
    /// Takes in the rows that request threads changed.
    pub(super) fn take_changes(&mut self, now: Now) {
        for _ in 0..CHANGES_MAX {
            let Some(row) = self.counters.take_changed() else {
                self.changes_left = false;
                return;
            };
            if let Some(view) = self.counters.view(row) {
                self.settle_row(row, view.key.window.end, now.wall);
                self.note_unsent(row, &view, now);
                if view.bounded {
                    self.look_ahead(row, &view, now);
                }
            }
        }
        self.changes_left = true;
        self.backlog = true;
    }

    /// Queues `row` for the push that its unsent hits call for.
    pub(super) fn note_unsent(&mut self, row: RowRef, view: &RowView, now: Now) {
        if !view.replicated || view.own <= view.published {
            return;
        }
        let urgency = self.urgency(row, view, now);
        let Some(state) = self.rows.get_mut(row) else {
            return;
        };
        match urgency {
            Urgency::Due if !state.due => {
                state.due = true;
                list(&mut self.due, row, &self.rows);
            }
            Urgency::Dirty if !state.due && !state.dirty => {
                state.dirty = true;
                list(&mut self.dirty, row, &self.rows);
            }
            _ => {}
        }
    }

    fn urgency(&self, row: RowRef, view: &RowView, now: Now) -> Urgency {
        let Some(limit) = view.limit else {
            return Urgency::Dirty;
        };
        let is_over = view.key.window.end <= now.wall;
        let (significance, replicas) = (self.config.significance, self.replicas());
        let total = view.own.saturating_add(view.peers);
        let unsent = view.own - view.published;
        if self.leaving {
            Urgency::Due
        } else if view.bounded && self.transfers.has_granted(row) {
            Urgency::Dirty
        } else if significance.is_held_back(view.own, total, limit, replicas) {
            // Once its window is over it never will matter: docs/adr/0005.
            Urgency::Held
        } else if !is_over
            // No peer decides by what a bounded row says: rights that move are told of when they are asked for.
            && !view.bounded
            && !self.peers.is_empty()
            && significance.is_due(unsent, limit.saturating_sub(total), replicas)
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
            self.release(due, &Arc::clone(&self.peers), now);
        }
    }

    /// Pushes everything that is unsent and not held back: what is due to every peer, the rest to so many
    /// of them that bulk stays cheap.
    pub(super) fn flush_dirty(&mut self, now: Now) {
        let (due, dirty) = (std::mem::take(&mut self.due), std::mem::take(&mut self.dirty));
        self.stats.pushes_tick += u64::from(!due.is_empty() || !dirty.is_empty());
        self.release(due, &Arc::clone(&self.peers), now);
        self.release(dirty, &Arc::clone(&self.push_to), now);
    }

    /// Gives `rows` the next versions of our log and pushes them, together with what was adopted.
    pub(super) fn release(&mut self, rows: Vec<RowRef>, to: &Arc<[SocketAddr]>, now: Now) {
        let after = self.origins.own().top;
        for row in rows {
            self.release_row(row, now.wall);
        }
        for waiting in std::mem::take(&mut self.adopted) {
            let state = self.rows.get_mut(waiting.row);
            let peer = state.and_then(|state| state.peer_mut(waiting.subject));
            // Adopted before, with this count: whoever is told of our log is told of it.
            if let Some(peer) = peer.filter(|peer| !peer.is_adopted()) {
                peer.set_adopted();
                self.append(waiting.row, waiting.window_end, waiting.subject);
                self.stats.rows_adopted += 1;
            }
        }
        let top = self.origins.own().top;
        if top > after {
            let interval = Interval { after, to: top };
            for (delta, _) in self.compose(OWN, interval, usize::MAX, now) {
                self.send(Body::Deltas(vec![delta]), Arc::clone(to), now);
            }
            self.compact(OWN, now.wall);
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
            let version = self.append(row, view.key.window.end, OWN);
            if let Some(state) = self.rows.get_mut(row) {
                state.own_version = version;
            }
            self.stats.rows_released += 1;
        }
    }

    fn append(&mut self, row: RowRef, window_end: UnixMillis, subject: OriginIndex) -> Version {
        let own = self.origins.own_mut();
        own.top += 1;
        own.log.insert(LogEntry::new(own.top, row, window_end, subject));
        own.top
    }

    /// Puts one frame into the outbox.
    pub(super) fn send(&mut self, body: Body, to: Arc<[SocketAddr]>, now: Now) {
        if to.is_empty() {
            return;
        }
        let frame = Frame {
            sender: self.origins.own().id.clone(),
            sent_at: now.wall,
            body,
        };
        // Whoever fills frames puts one delta into a frame of version 1.
        if let Some(payload) = codec::encode_as(&frame, self.frame_version) {
            self.outbox.push_back(Transmit { to, payload });
        }
    }

    /// Makes `row` the tenant of its slot here, and accounts for the one it displaced.
    pub(super) fn settle_row(&mut self, row: RowRef, window_end: UnixMillis, wall: UnixMillis) {
        if let Some(former) = self.rows.settle(row, window_end) {
            self.transfers.drop_row(former.row_in(row.slot));
            self.account_loss(&former, wall);
        }
    }

    /// The table gave `row` away before its window ended.
    pub(super) fn lose_row(&mut self, row: RowRef, wall: UnixMillis) {
        if let Some(former) = self.rows.remove(row) {
            self.transfers.drop_row(row);
            self.account_loss(&former, wall);
        }
    }

    fn account_removal(&mut self, former: &RowState) {
        for peer in &former.peers {
            if let Some(origin) = self.origins.get_mut(peer.origin()) {
                origin.rows = origin.rows.saturating_sub(1);
            }
        }
        self.origins.uncharge(former.created_by);
    }

    fn record_own_hole(&mut self, version: Version, wall: UnixMillis) {
        let own = self.origins.own_mut();
        match &mut own.hole {
            Some(hole) => hole.at = hole.at.min(version),
            None if self.own_holes_from <= wall => {
                own.record_hole(version, wall.plus(OWN_HOLE));
                self.own_holes_from = wall.plus(OWN_HOLE * 2);
            }
            None => {}
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
            self.record_own_hole(former.own_version, wall);
        }
    }

    /// Drops the places that rows have left, when enough have gathered.
    pub(super) fn compact(&mut self, index: OriginIndex, wall: UnixMillis) {
        let rows = &self.rows;
        let Some(origin) = self.origins.get_mut(index) else {
            return;
        };
        if !origin.log.wants_compaction() {
            return;
        }
        let top = origin.held(index);
        origin.log.compact(top, |entry| {
            let tenant = rows.at(*entry);
            let Some((_, state)) = tenant else {
                // An adopted row that was evicted is known to be a hole by its place alone.
                return entry.subject() != index && entry.ended_by() > wall;
            };
            match (entry.subject() == index, index == OWN) {
                (true, true) => state.own_version == entry.version(),
                (true, false) => state
                    .peer(index)
                    .is_some_and(|peer| peer.version == entry.version()),
                (false, _) => state.peer(entry.subject()).is_some(),
            }
        });
    }

    /// Looks whether rows were evicted, a part of them at a time: their holes must be known before somebody
    /// claims across them, and their slots may stay vacant for long.
    fn patrol(&mut self, wall: UnixMillis) {
        let evicted = self.counters.stats().evicted;
        if std::mem::replace(&mut self.evicted, evicted) != evicted {
            self.rows.patrol_all();
        }
        for row in self.rows.take_patrol(SWEEP_MAX) {
            if self.counters.view(row).is_none() {
                self.lose_row(row, wall);
            }
        }
    }

    /// Releases what is left of ended windows and what may no longer be held back, and forgets rows whose
    /// grace is over.
    pub(super) fn sweep(&mut self, now: Now) {
        let expired = now.wall.minus(self.config.grace);
        self.patrol(now.wall);
        let ended = self.rows.take_ended(now.wall, SWEEP_MAX);
        for row in ended.into_iter().chain(self.rows.take_review(SWEEP_MAX)) {
            if let Some(view) = self.counters.view(row) {
                self.note_unsent(row, &view, now);
            }
        }
        for row in self.rows.take_expired(expired, SWEEP_MAX) {
            if let Some(former) = self.rows.remove(row) {
                self.transfers.drop_row(row);
                self.account_removal(&former);
            }
            self.counters.forget(row);
        }
        self.backlog = self.rows.has_backlog(now.wall, expired);
    }
}

/// So many listed rows that are gone are not worth a pass over the list.
const STALE_MAX: usize = 64;

/// Lists a row to be pushed. Where rows come and go faster than they are pushed, those that are gone are struck
/// off, so that the list stays in proportion to the rows there are.
fn list(listed: &mut Vec<RowRef>, row: RowRef, rows: &Rows) {
    if listed.len() >= 2 * rows.known() + STALE_MAX {
        listed.retain(|row| rows.get(*row).is_some());
    }
    listed.push(row);
}
