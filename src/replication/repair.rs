//! Anti-entropy: digests, and the repairs that answer them (Scuttlebutt, van Renesse et al. 2008;
//! delta-CRDT intervals, Almeida et al. 2018).

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::seq::IteratorRandom;

use crate::limit::Now;

use super::codec::{self, Body, Delta, Digest, DigestEntry, Interval, Received, Version};
use super::compose::Frames;
use super::core::Replication;
use super::log::{LogEntry, OriginIndex};
use super::origin::{OWN, Origin};
use crate::replica::ReplicaId;

/// Received stretches named in a digest, a log.
const RECEIVED_MAX: usize = 16;

/// Frames that answer one digest at most; the last says that there is more.
const ANSWER_MAX: usize = 32;

/// Digests to one peer leave at least this far apart, but for the next after a paused answer: two nodes
/// that lack something of each other must not answer digests with digests at the speed of the network.
const DIGEST_GAP: Duration = Duration::from_millis(10);

/// Received stretches shorter than this are sent again rather than sent around: another frame costs more
/// than the rows of a few versions.
const WORTH_SKIPPING: Version = 32;

/// While leaving, peers are asked this often how far they hold our log.
const LEAVE_TICK: Duration = Duration::from_millis(20);

/// Rows that were refused for want of room are asked for again at most this often.
const RETREAT_GAP: Duration = Duration::from_secs(1);

/// A log that a digest speaks of, and what it says.
type SpokenOf<'a> = (OriginIndex, &'a Origin, Option<&'a DigestEntry>);

impl Replication {
    /// Everything that happens once a tick.
    pub(super) fn tick(&mut self, now: Now) {
        self.count_sharing(now);
        self.adopt_orphans(now);
        self.flush_dirty(now);
        self.exchange_digests(now);
        self.mend_holes(now);
        let indices: Vec<_> = self.origins.sorted().map(|(index, _)| index).collect();
        for index in indices {
            if let Some(origin) = self.origins.get_mut(index) {
                origin.settled = origin.progress.confirmed();
            }
        }
        self.origins.drop_forgotten(now.monotonic);
        self.forget_inherited();
        let tick = if self.leaving {
            LEAVE_TICK
        } else {
            self.config.tick
        };
        // A tenth of jitter keeps nodes that started together from ticking together.
        self.next_tick = now.monotonic + tick.mul_f64(self.rng.random_range(0.95..1.05));
    }

    fn exchange_digests(&mut self, now: Now) {
        let most = if self.leaving {
            usize::MAX
        } else {
            self.config.digest_fanout
        };
        let live = self.origins.live().map(|(index, _)| index);
        let peers: Vec<_> = if most == usize::MAX {
            live.collect()
        } else {
            live.choose_multiple(&mut self.rng, most)
        };
        let whole = self.leaving || !self.is_caught_up();
        if whole {
            for peer in peers {
                self.send_digest(peer, true, now);
            }
            return;
        }
        let pages = self.next_digest_pages();
        for peer in peers {
            self.send_pages(peer, &pages, now);
        }
    }

    /// The part of our digest that this tick sends; the next goes on behind it.
    fn next_digest_pages(&mut self) -> Vec<Digest> {
        let pages = self.digest_pages(self.digest_cursor.as_ref(), false, self.config.digest_pages);
        self.digest_cursor = pages.last().and_then(|page| page.up_to.clone());
        pages
    }

    /// Asks the owners of logs with a gap for what is missing in it.
    pub(super) fn ask_for_gaps(&mut self, now: Now) {
        if self.next_gap.is_none_or(|at| at > now.monotonic) {
            return;
        }
        self.next_gap = None;
        let gaps: Vec<_> = self
            .origins
            .live()
            .filter(|(_, origin)| origin.gap_at.is_some_and(|at| at <= now.monotonic))
            .map(|(index, _)| index)
            .collect();
        for index in gaps {
            let Some(origin) = self.origins.get_mut(index) else {
                continue;
            };
            origin.gap_at = None;
            if let (true, Some(address)) = (origin.progress.has_gap(), origin.address) {
                let entry = entry_of(index, origin);
                let only = Some(origin.id.clone());
                let digest = Digest {
                    wants_reply: false,
                    above: only.clone(),
                    up_to: only,
                    entries: vec![entry],
                };
                self.stats.digests += 1;
                self.send(Body::Digest(digest), Arc::from([address]), now);
            }
        }
        let next = self.origins.live().filter_map(|(_, origin)| origin.gap_at).min();
        self.next_gap = next;
    }

    /// Rows that were let go or refused are asked for again once there is room, and given up once nothing
    /// in the hole can matter any more.
    fn mend_holes(&mut self, now: Now) {
        let has_room = self.rows.known() < self.counters.capacity() as usize / 8 * 7;
        let retreat = has_room && now.monotonic >= self.retreated + RETREAT_GAP;
        let holed: Vec<_> = self
            .origins
            .sorted()
            .filter(|(_, origin)| origin.hole.is_some())
            .map(|(index, _)| index)
            .collect();
        let mut given_up = Vec::new();
        let (rows, counters) = (&self.rows, &self.counters);
        let is_lost = |entry: &LogEntry| {
            let stands = rows
                .at(*entry)
                .is_some_and(|(row, _)| counters.view(row).is_some());
            !stands && entry.ended_by() > now.wall
        };
        for index in holed {
            let Some(origin) = self.origins.get_mut(index) else {
                continue;
            };
            let Some(hole) = origin.hole else { continue };
            if hole.until <= now.wall {
                origin.hole = None;
            } else if retreat && hole.retry_at <= now.wall && index != OWN {
                origin.hole = None;
                // A row that was evicted may have left other places in front, where its count is lacking too.
                let lowest = origin.log.drop_lost(is_lost).unwrap_or(hole.at).min(hole.at);
                let waited = origin.progress.retreat(lowest.saturating_sub(1));
                given_up.extend(waited.into_iter().map(|waiting| (index, waiting)));
                self.retreated = now.monotonic;
            }
        }
        for (log, waiting) in given_up.into_iter().filter(|(_, waiting)| waiting.raised) {
            self.hold_loose(log, waiting);
        }
    }

    /// Sends `peer` what we hold of every log, in as many pages as it takes.
    pub(super) fn send_digest(&mut self, peer: OriginIndex, wants_reply: bool, now: Now) {
        let pages = self.digest_pages(None, wants_reply, usize::MAX);
        self.send_pages(peer, &pages, now);
    }

    fn send_pages(&mut self, peer: OriginIndex, pages: &[Digest], now: Now) {
        let Some(origin) = self.origins.get_mut(peer) else {
            return;
        };
        let Some(address) = origin.address else { return };
        origin.digest_sent = Some(now.monotonic);
        let to: Arc<[_]> = Arc::from([address]);
        for digest in pages {
            self.stats.digests += 1;
            self.send(Body::Digest(digest.clone()), Arc::clone(&to), now);
        }
    }

    /// Our digest from the log above `above` on, in at most `most` pages.
    fn digest_pages(&self, above: Option<&ReplicaId>, wants_reply: bool, most: usize) -> Vec<Digest> {
        let room = self
            .config
            .frame_bytes_max
            .saturating_sub(codec::digest_bytes(&self.origins.own().id));
        let mut bytes = 0;
        let entries = self
            .origins
            .above(above)
            .filter(|(index, origin)| is_worth_telling(*index, origin))
            .map(|(index, origin)| entry_of(index, origin));
        let page = |above| Digest {
            wants_reply,
            above,
            ..Digest::default()
        };
        let mut pages = vec![page(above.cloned())];
        for entry in entries {
            let cost = codec::entry_bytes(&entry);
            let count = pages.len();
            if let Some(full) = pages
                .last_mut()
                .filter(|page| bytes + cost > room && !page.entries.is_empty())
            {
                let last = full.entries.last().map(|entry| entry.log.clone());
                full.up_to.clone_from(&last);
                if count >= most {
                    break;
                }
                pages.push(page(last));
                bytes = 0;
            }
            bytes += cost;
            if let Some(page) = pages.last_mut() {
                page.entries.push(entry);
            }
        }
        pages
    }

    /// Sends the peer what it lacks, and asks for what it holds and we do not.
    pub(super) fn handle_digest(
        &mut self,
        sender: &ReplicaId,
        peer: Option<OriginIndex>,
        digest: &Digest,
        now: Now,
    ) {
        self.note_claims(sender, digest);
        let Some(peer) = peer.filter(|peer| self.origins.get(*peer).is_some_and(Origin::is_live)) else {
            return;
        };
        let claimed = find_entry(digest, &self.origins.own().id).map_or(0, |entry| entry.confirmed);
        if let Some(origin) = self.origins.get_mut(peer) {
            origin.acknowledged = origin.acknowledged.max(claimed);
        }
        self.answer_digest(peer, digest, now);
        let lacks = digest.entries.iter().any(|entry| self.lacks(entry));
        let recently = self
            .origins
            .get(peer)
            .and_then(|origin| origin.digest_sent)
            .is_some_and(|at| at + DIGEST_GAP > now.monotonic);
        if digest.wants_reply || lacks && !recently {
            self.send_digest(peer, false, now);
        }
    }

    fn lacks(&self, entry: &DigestEntry) -> bool {
        match self.origins.index_of(&entry.log) {
            Some(OWN) => false,
            Some(index) => self
                .origins
                .get(index)
                .is_some_and(|origin| origin.progress.confirmed() < entry.confirmed),
            None => entry.confirmed > 0,
        }
    }

    fn answer_digest(&mut self, peer: OriginIndex, digest: &Digest, now: Now) {
        let mut frames = Frames::new(self.delta_room(), self.frame_version);
        let mut is_cut = false;
        for (log, gap) in self.stretches_for(peer, digest) {
            let composed = self.compose(log, gap, ANSWER_MAX - frames.len(), now);
            // Of a dead replica's log that the peer holds nothing of, an empty beginning tells it nothing.
            let is_dead = log != OWN && self.origins.get(log).is_some_and(|origin| !origin.is_live());
            let is_news = |delta: &Delta| !is_dead || delta.interval.after > 0 || !delta.rows.is_empty();
            for (delta, bytes) in composed.into_iter().filter(|(delta, _)| is_news(delta)) {
                frames.push(delta, bytes);
            }
            if frames.len() >= ANSWER_MAX {
                is_cut = true;
                break;
            }
        }
        self.send_repairs(peer, frames.done(is_cut), now);
    }

    /// What `peer` lacks by its digest and this node can give.
    fn stretches_for(&self, peer: OriginIndex, digest: &Digest) -> Vec<(OriginIndex, Interval)> {
        let spoken_of = if digest.above.is_some() && digest.above == digest.up_to {
            self.listed(digest)
        } else {
            self.on_page(digest)
        };
        let others = spoken_of.into_iter().filter(|(index, ..)| *index != peer);
        let missing = others.flat_map(|(index, origin, entry)| {
            let gaps = stretches_missing(relayable(index, origin), entry);
            gaps.into_iter().map(move |gap| (index, gap))
        });
        missing.collect()
    }

    /// The logs that a digest lists.
    fn listed<'a>(&'a self, digest: &'a Digest) -> Vec<SpokenOf<'a>> {
        let listed = digest.entries.iter().filter_map(|entry| {
            let index = self.origins.index_of(&entry.log)?;
            Some((index, self.origins.get(index)?, Some(entry)))
        });
        listed.collect()
    }

    /// Every log in the range of a page, listed or not: one pass over two sorted lists.
    fn on_page<'a>(&'a self, digest: &'a Digest) -> Vec<SpokenOf<'a>> {
        let mut entries = digest.entries.iter().peekable();
        let up_to = digest.up_to.as_ref();
        self.origins
            .above(digest.above.as_ref())
            .take_while(|(_, origin)| up_to.is_none_or(|up_to| origin.id <= *up_to))
            .map(|(index, origin)| {
                while entries.next_if(|entry| entry.log < origin.id).is_some() {}
                (index, origin, entries.next_if(|entry| entry.log == origin.id))
            })
            .collect()
    }

    fn send_repairs(&mut self, peer: OriginIndex, frames: Vec<Vec<Delta>>, now: Now) {
        let Some(address) = self.origins.get(peer).and_then(|origin| origin.address) else {
            return;
        };
        let to: Arc<[_]> = Arc::from([address]);
        for deltas in frames {
            if !self.repairs.take(now.monotonic) {
                return;
            }
            self.stats.repairs += 1;
            self.send(Body::Deltas(deltas), Arc::clone(&to), now);
        }
    }

    /// The first whole digest of a peer after joining is what this node has to catch up with.
    fn note_claims(&mut self, sender: &ReplicaId, digest: &Digest) {
        let catch_up = &mut self.catch_up;
        if catch_up.done || catch_up.complete {
            return;
        }
        let is_first = digest.above.is_none();
        let is_next =
            catch_up.from.as_ref() == Some(sender) && catch_up.covered_to == digest.above && !is_first;
        if digest.above.is_some() && digest.above == digest.up_to || !is_first && !is_next {
            return;
        }
        if is_first {
            catch_up.claims.clear();
        }
        catch_up.from = Some(sender.clone());
        catch_up.covered_to.clone_from(&digest.up_to);
        catch_up.complete = digest.up_to.is_none();
        catch_up.claims.extend(
            digest
                .entries
                .iter()
                .map(|entry| (entry.log.clone(), entry.confirmed)),
        );
        self.check_caught_up();
    }

    pub(super) fn check_caught_up(&mut self) {
        if self.catch_up.done || !self.catch_up.complete {
            return;
        }
        let origins = &self.origins;
        self.catch_up
            .claims
            .retain(|log, claimed| match origins.index_of(log) {
                Some(OWN) => false,
                Some(index) => origins
                    .get(index)
                    .is_none_or(|origin| origin.progress.confirmed() < *claimed),
                None => *claimed > 0,
            });
        self.catch_up.done = self.catch_up.claims.is_empty();
    }
}

/// What this node may send of a log: all of its own, of a dead owner's what it holds, and of a live one's
/// what it has held for a tick, since the owner repairs the rest itself. Never across a hole.
pub(super) fn relayable(index: OriginIndex, origin: &Origin) -> Version {
    let held = match (index == OWN, origin.is_live()) {
        (true, _) => origin.top,
        (false, true) => origin.settled.min(origin.progress.confirmed()),
        (false, false) => origin.progress.confirmed(),
    };
    origin.before_hole(held)
}

/// The stretches of a log up to `given` that a peer lacks by its digest. What it received beyond its claim
/// is skipped if all that the stretch waits for can be given from here; otherwise it would wait in vain.
fn stretches_missing(given: Version, entry: Option<&DigestEntry>) -> Vec<Interval> {
    let mut after = entry.map_or(0, |entry| entry.confirmed);
    let mut missing = Vec::new();
    for Received {
        interval,
        complete_at,
    } in entry.into_iter().flat_map(|entry| &entry.received)
    {
        if *complete_at > given || interval.to - interval.after < WORTH_SKIPPING {
            continue;
        }
        if after < interval.after {
            missing.push(Interval {
                after,
                to: interval.after,
            });
        }
        after = after.max(interval.to);
    }
    if after < given {
        missing.push(Interval { after, to: given });
    }
    missing
}

fn entry_of(index: OriginIndex, origin: &Origin) -> DigestEntry {
    DigestEntry {
        log: origin.id.clone(),
        confirmed: origin.held(index),
        received: origin.progress.received(RECEIVED_MAX),
    }
}

/// What a digest does not list is not held at all; and a dead replica without a live row is nobody's
/// concern any more.
fn is_worth_telling(index: OriginIndex, origin: &Origin) -> bool {
    if index == OWN {
        origin.top > 0
    } else {
        let holds = origin.progress.confirmed() > 0 || !origin.progress.received(1).is_empty();
        holds && (origin.is_live() || origin.rows > 0)
    }
}

fn find_entry<'a>(digest: &'a Digest, log: &ReplicaId) -> Option<&'a DigestEntry> {
    digest.entries.iter().find(|entry| entry.log == *log)
}
