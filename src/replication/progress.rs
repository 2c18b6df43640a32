//! How far a replica holds another's version log, with loss and reordering.
//!
//! A stretch of a log may be received long before what lies in front of it. Its rows are merged at once,
//! since merging is harmless in any order, but it is *claimed* only when everything before it is held and
//! every row that has since left it for a later place is held too (`complete_at`). [`Progress::confirmed`]
//! is that claim:
//!
//! > For every row that the owner released at a version up to `confirmed`, this replica holds at least
//! > the count that was released there, or the row's window has ended.

use std::collections::BTreeMap;

use super::codec::{Interval, Received, Version};

/// Received stretches beyond the claim, at most this many; a datagram that would need more is merged, but
/// not claimed. With one lost datagram in five, a tick of 100 bursts leaves about 20 gaps.
const SEGMENTS_MAX: usize = 256;

type Segment = Received;

/// The claim on one log, and what was received beyond it. `T` is what waits at a version.
#[derive(Debug)]
pub(super) struct Progress<T> {
    confirmed: Version,
    segments: Vec<Segment>,
    pending: BTreeMap<Version, T>,
}

impl<T> Default for Progress<T> {
    fn default() -> Self {
        Self {
            confirmed: 0,
            segments: Vec::new(),
            pending: BTreeMap::new(),
        }
    }
}

impl<T> Progress<T> {
    /// Everything up to here is held.
    pub(super) fn confirmed(&self) -> Version {
        self.confirmed
    }

    /// What was received beyond the claim, the first `most` stretches.
    pub(super) fn received(&self, most: usize) -> Vec<Received> {
        self.segments.iter().take(most).copied().collect()
    }

    /// Whether something in front of a received stretch is missing.
    pub(super) fn has_gap(&self) -> bool {
        self.segments
            .first()
            .is_some_and(|first| first.interval.after > self.confirmed)
            || self
                .segments
                .windows(2)
                .any(|pair| pair[0].interval.to < pair[1].interval.after)
    }

    /// Whether a stretch with rows at `versions` would be taken in, where at most `pending_max` rows may wait.
    /// What is claimed at once always is: it waits for nothing.
    pub(super) fn has_room(&self, stretch: Received, versions: &[Version], pending_max: usize) -> bool {
        let Received {
            interval,
            complete_at,
        } = stretch;
        let continues = interval.after <= self.confirmed && complete_at <= interval.to;
        if continues || interval.to <= self.confirmed {
            return true;
        }
        let is_fresh = |version: &&Version| **version > self.confirmed && !self.pending.contains_key(version);
        let fresh = versions.iter().filter(is_fresh).count();
        self.segments.len() + 2 <= SEGMENTS_MAX && self.pending.len() + fresh <= pending_max
    }

    /// Gives up what was received furthest beyond a stretch for which there is no room: a claim grows from its
    /// front, and must never wait for room that what lies behind takes. Returns what waited there.
    pub(super) fn make_room(
        &mut self,
        stretch: Received,
        versions: &[Version],
        pending_max: usize,
    ) -> Vec<T> {
        let mut given_up = Vec::new();
        while !self.has_room(stretch, versions, pending_max) {
            let beyond = |last: &mut Segment| last.interval.after >= stretch.interval.to;
            let Some(last) = self.segments.pop_if(beyond) else {
                break;
            };
            let waited = self.pending.split_off(&last.interval.after.saturating_add(1));
            given_up.extend(waited.into_values());
        }
        given_up
    }

    /// Takes in a stretch, what stands in it, and how far the log must be held for it to count; `join`s what
    /// already waits at a version with what comes for it. Returns
    /// what has become part of the claim, ascending.
    pub(super) fn record(
        &mut self,
        interval: Interval,
        complete_at: Version,
        rows: impl IntoIterator<Item = (Version, T)>,
        join: impl Fn(T, T) -> T,
    ) -> Vec<(Version, T)> {
        let confirmed = self.confirmed;
        for (version, row) in rows.into_iter().filter(|(version, _)| *version > confirmed) {
            let row = match self.pending.remove(&version) {
                Some(known) => join(known, row),
                None => row,
            };
            self.pending.insert(version, row);
        }
        if interval.to > confirmed {
            let clipped = Interval {
                after: interval.after.max(confirmed),
                to: interval.to,
            };
            self.overlay(Segment {
                interval: clipped,
                complete_at,
            });
        }
        self.advance()
    }

    /// Gives back the claim on what lies beyond `to`, and what was received there, because rows of it are not
    /// held here. Returns what waited.
    pub(super) fn retreat(&mut self, to: Version) -> Vec<T> {
        self.confirmed = self.confirmed.min(to);
        self.segments.retain_mut(|segment| {
            segment.interval.to = segment.interval.to.min(to);
            segment.interval.after < segment.interval.to
        });
        let beyond = to.checked_add(1).map(|from| self.pending.split_off(&from));
        beyond.unwrap_or_default().into_values().collect()
    }

    /// Whether rows wait beyond the claim.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Rows that wait beyond the claim.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Gives up all that was received beyond the claim, and returns what waited there.
    pub(super) fn take_pending(&mut self) -> Vec<T> {
        self.segments.clear();
        std::mem::take(&mut self.pending).into_values().collect()
    }

    /// Lays a stretch over those received before: where they overlap, the lesser condition holds, since
    /// the union of both sends was received.
    fn overlay(&mut self, new: Segment) {
        let mut laid = Vec::with_capacity(self.segments.len() + 2);
        let mut cursor = new.interval.after;
        for old in std::mem::take(&mut self.segments) {
            if old.interval.to <= new.interval.after {
                laid.push(old);
                continue;
            }
            if old.interval.after >= new.interval.to {
                push_piece(&mut laid, cursor, new.interval.to, new.complete_at);
                cursor = cursor.max(new.interval.to);
                laid.push(old);
                continue;
            }
            let from = old.interval.after.max(new.interval.after);
            let to = old.interval.to.min(new.interval.to);
            push_piece(&mut laid, old.interval.after, from, old.complete_at);
            push_piece(&mut laid, cursor, from, new.complete_at);
            push_piece(&mut laid, from, to, old.complete_at.min(new.complete_at));
            push_piece(&mut laid, to, old.interval.to, old.complete_at);
            cursor = to;
        }
        push_piece(&mut laid, cursor, new.interval.to, new.complete_at);
        laid.sort_by_key(|segment| segment.interval.after);
        laid.dedup_by(|next, kept| {
            let joins = kept.interval.to == next.interval.after
                && kept.complete_at.max(next.interval.to) == next.complete_at.max(next.interval.to);
            if joins {
                kept.interval.to = next.interval.to;
                kept.complete_at = next.complete_at.max(kept.complete_at);
            }
            joins
        });
        self.segments = laid;
    }

    /// Moves the claim to the last end of a connected stretch at which every condition so far is met.
    fn advance(&mut self) -> Vec<(Version, T)> {
        let (mut reached, mut needed, mut closed) = (self.confirmed, 0, self.confirmed);
        for segment in &self.segments {
            if segment.interval.after > reached {
                break;
            }
            reached = segment.interval.to;
            needed = needed.max(segment.complete_at);
            if needed <= reached {
                closed = reached;
            }
        }
        if closed == self.confirmed {
            return Vec::new();
        }
        self.confirmed = closed;
        self.segments.retain(|segment| segment.interval.to > closed);
        // A hostile peer may claim the last version there is.
        let next = closed.checked_add(1);
        let later = next.map(|next| self.pending.split_off(&next)).unwrap_or_default();
        std::mem::replace(&mut self.pending, later).into_iter().collect()
    }
}

fn push_piece(laid: &mut Vec<Segment>, after: Version, to: Version, complete_at: Version) {
    if after < to {
        laid.push(Segment {
            interval: Interval { after, to },
            complete_at,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(progress: &mut Progress<u64>, after: u64, to: u64, complete_at: u64) -> Vec<u64> {
        let rows = (after + 1..=to).map(|version| (version, version));
        let applied = progress.record(Interval { after, to }, complete_at, rows, |_, new| new);
        applied.into_iter().map(|(version, _)| version).collect()
    }

    #[test]
    fn a_stretch_counts_only_once_all_before_it_is_held() {
        let mut progress = Progress::default();
        assert!(record(&mut progress, 2, 4, 4).is_empty());
        assert!(progress.has_gap());
        let interval = Interval { after: 2, to: 4 };
        assert_eq!(
            progress.received(8),
            [Received {
                interval,
                complete_at: 4
            }]
        );
        assert_eq!(record(&mut progress, 0, 2, 2), [1, 2, 3, 4]);
        assert_eq!(progress.confirmed(), 4);
        assert!(!progress.has_gap());
    }

    #[test]
    fn the_last_version_there_is_can_be_claimed() {
        let mut progress = Progress::default();
        let claimed = progress.record(
            Interval {
                after: 0,
                to: u64::MAX,
            },
            u64::MAX,
            [(3, "a"), (u64::MAX, "b")],
            |_, new| new,
        );
        assert_eq!(claimed, [(3, "a"), (u64::MAX, "b")]);
        assert!(progress.take_pending().is_empty());
    }

    #[test]
    fn a_stretch_that_rows_have_left_counts_only_once_they_are_held() {
        let mut progress = Progress::default();
        assert!(record(&mut progress, 0, 2, 5).is_empty());
        assert_eq!(progress.confirmed(), 0);
        assert!(record(&mut progress, 2, 4, 4).is_empty());
        assert_eq!(record(&mut progress, 4, 5, 5), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_front_of_a_full_buffer_takes_the_room_of_what_lies_furthest_behind() {
        let mut progress = Progress::default();
        let stretch = |after, to, complete_at| Received {
            interval: Interval { after, to },
            complete_at,
        };
        // Four may wait, and do: (0, 2] for what is compacted up to 4, and two pushes.
        assert!(record(&mut progress, 0, 2, 4).is_empty());
        assert!(record(&mut progress, 6, 7, 7).is_empty());
        assert!(record(&mut progress, 8, 9, 9).is_empty());
        assert_eq!(
            progress.make_room(stretch(9, 10, 10), &[10], 4),
            Vec::<u64>::new()
        );
        assert!(!progress.has_room(stretch(9, 10, 10), &[10], 4));
        // Known versions need no room; new ones take that of the last.
        assert!(progress.has_room(stretch(0, 2, 4), &[1, 2], 4));
        assert_eq!(progress.make_room(stretch(2, 4, 4), &[3], 4), [9]);
        assert_eq!(progress.make_room(stretch(2, 4, 4), &[3, 4], 4), [7]);
        assert_eq!(record(&mut progress, 2, 4, 4), [1, 2, 3, 4]);
        assert!(progress.received(8).is_empty() && !progress.has_pending());
    }

    #[test]
    fn a_stretch_that_waits_for_more_than_may_wait_is_refused_even_in_front() {
        let mut progress = Progress::<u64>::default();
        let endless = |to| Received {
            interval: Interval { after: 0, to },
            complete_at: u64::MAX,
        };
        assert!(progress.has_room(endless(4), &[1, 2, 3, 4], 4));
        assert!(!progress.has_room(endless(5), &[1, 2, 3, 4, 5], 4));
        assert!(progress.make_room(endless(5), &[1, 2, 3, 4, 5], 4).is_empty());
    }

    #[test]
    fn a_claim_taken_back_gives_up_what_was_received_beyond() {
        let mut progress = Progress::default();
        assert_eq!(record(&mut progress, 0, 4, 4), [1, 2, 3, 4]);
        assert!(record(&mut progress, 6, 9, 9).is_empty());
        assert_eq!(progress.retreat(7), [8, 9]);
        assert_eq!((progress.confirmed(), progress.pending()), (4, 1));
        assert_eq!(progress.retreat(2), [7]);
        assert_eq!((progress.confirmed(), progress.has_gap()), (2, false));
        // Once what is missing has come, so has what lay beyond it: not before.
        assert_eq!(record(&mut progress, 2, 6, 6), [3, 4, 5, 6]);
        assert_eq!(progress.confirmed(), 6);
    }

    #[test]
    fn a_second_send_with_a_lesser_condition_frees_the_stretch() {
        let mut progress = Progress::default();
        assert!(record(&mut progress, 0, 3, 9).is_empty());
        assert_eq!(record(&mut progress, 0, 3, 3), [1, 2, 3]);
    }

    proptest! {
        /// The reference keeps, for each single version, the least condition it was received under.
        #[test]
        fn the_claim_equals_that_of_a_version_by_version_reference(
            sends in proptest::collection::vec((0_u64..40, 1_u64..12, 0_u64..12), 1..60)
        ) {
            let mut progress = Progress::default();
            let mut conditions: BTreeMap<u64, u64> = BTreeMap::new();
            let mut confirmed = 0;
            for (after, len, later) in sends {
                let to = after + len;
                let complete_at = to + later.saturating_sub(6);
                record(&mut progress, after, to, complete_at);
                for version in (after + 1..=to).filter(|version| *version > confirmed) {
                    let least = conditions.get(&version).map_or(complete_at, |old| complete_at.min(*old));
                    conditions.insert(version, least);
                }
                let (mut needed, mut closed) = (0, confirmed);
                for version in confirmed + 1.. {
                    let Some(condition) = conditions.get(&version) else { break };
                    needed = needed.max(*condition);
                    if needed <= version {
                        closed = version;
                    }
                }
                prop_assert_eq!(progress.confirmed(), closed);
                confirmed = progress.confirmed();
                conditions.retain(|version, _| *version > confirmed);
                let held: u64 = progress.received(usize::MAX).iter().map(|r| r.interval.to - r.interval.after).sum();
                prop_assert_eq!(held as usize, conditions.len());
            }
        }
    }
}
