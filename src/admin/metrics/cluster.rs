//! Gossip, replication, and the members, shares and rights of bounded mode.

use std::fmt;

use prometheus_client::metrics::MetricType;

use super::Metrics;
use super::families::Families;

impl Metrics {
    pub(super) fn encode_gossip(&self, out: &mut Families<'_>) -> fmt::Result {
        let gossip = &self.gossip;
        let datagrams = [
            ("received", gossip.datagrams_received),
            ("sent", gossip.datagrams_sent),
        ];
        out.counters("gossip_datagrams", "Gossip datagrams", "direction", &datagrams)?;
        let bytes = [("received", gossip.bytes_received), ("sent", gossip.bytes_sent)];
        out.counters(
            "gossip_bytes",
            "Gossip bytes on the wire, sealed",
            "direction",
            &bytes,
        )?;
        out.counters(
            "gossip_dropped",
            "Gossip datagrams dropped",
            "reason",
            &gossip.dropped,
        )?;
        out.gauge("peers_live", "Other nodes that are alive", self.peers_live)?;
        let help = "Clock of a peer against ours; positive: it is ahead";
        out.family("peer_clock_offset_seconds", help, MetricType::Gauge, |samples| {
            self.peer_clock_offsets_ms
                .iter()
                .try_for_each(|(peer, offset)| samples.gauge_seconds(&[("peer", peer.as_str())], *offset))
        })?;
        let help = "Live peers whose configuration differs from ours";
        out.gauge("config_mismatch", help, self.config_mismatches)
    }

    pub(super) fn encode_replication(&self, out: &mut Families<'_>) -> fmt::Result {
        let stats = &self.replication;
        out.gauge("replication_rows", "Rows of all replicas held", stats.rows)?;
        let frames = [
            ("received", stats.frames_received),
            ("refused", stats.frames_refused),
        ];
        out.counters(
            "replication_frames",
            "Frames handled and refused",
            "outcome",
            &frames,
        )?;
        let rows = [("raised", stats.rows_merged), ("refused", stats.rows_refused)];
        out.counters(
            "replication_rows_received",
            "Rows merged and refused",
            "outcome",
            &rows,
        )?;
        let pushes = [("due", stats.pushes_due), ("tick", stats.pushes_tick)];
        out.counters("replication_pushes", "Pushes of own rows", "cause", &pushes)?;
        let help = "Rows of dead replicas that this node passes on as its own";
        out.counter("replication_rows_adopted", help, stats.rows_adopted)?;
        let help = "Version of the replication frames sent: the newest that every live peer takes in";
        out.gauge("replication_frame_version", help, stats.frame_version.into())?;
        let help = "Frames sent to repair what a peer lacked";
        out.counter("replication_repairs", help, stats.repairs)
    }

    pub(super) fn encode_roster(&self, out: &mut Families<'_>) -> fmt::Result {
        let roster = &self.roster;
        let help = "Replicas that share limits in bounded mode, this one included";
        out.gauge("roster_members", help, roster.members)?;
        let help = "Of them, those that are dead or do not count this one";
        out.gauge("roster_members_missing", help, roster.members_missing)?;
        let help = "Window starts of which this node took its share";
        out.counter("shares_decided", help, roster.shares_decided)?;
        let help = "Windows in progress of bounded rules of which this node has no share";
        out.gauge("shares_blocked", help, roster.shares_blocked)?;
        let help = "Replicas that left and whose rights this node owns";
        out.gauge("estates_inherited", help, roster.inherited)?;
        let help = "Roster and estate records of peers that could not be read";
        out.counter("records_malformed", help, self.records_malformed)
    }

    pub(super) fn encode_rights(&self, out: &mut Families<'_>) -> fmt::Result {
        let transfers = &self.transfers;
        out.counter(
            "rights_asks",
            "Asks for rights sent, repeated ones included",
            transfers.asks,
        )?;
        let help = "Asks of this node that were answered with nothing left";
        out.counter("rights_asks_empty", help, transfers.answers_empty)?;
        let moved = [("granted", transfers.granted), ("received", transfers.received)];
        out.counters("rights_moved", "Hits of rights that moved", "direction", &moved)?;
        let help = "Counters of which rights moved or were asked for";
        out.gauge("rights_rows", help, transfers.rows)?;
        let help = "Of them, those of which no live node has rights left";
        out.gauge("rights_rows_exhausted", help, transfers.exhausted)?;
        let waits = &self.waits;
        out.counter(
            "rights_waits_started",
            "Requests that waited for rights",
            waits.started,
        )?;
        let help = "Requests that found too many others waiting for rights";
        out.counter("rights_waits_turned_away", help, waits.turned_away)?;
        out.counters(
            "rights_waits",
            "Waits for rights that ended",
            "outcome",
            &waits.ended,
        )?;
        let help = "Time that requests waited for rights";
        out.histogram("rights_wait_seconds", help, &waits.duration)?;
        let help = "Requests denied that lacked nothing but rights, which other nodes may have had";
        out.counter("denied_short_of_rights", help, waits.denied_short)?;
        let help = "Requests denied in windows of bounded rules of which this node has no share";
        out.counter("denied_without_share", help, waits.denied_without_share)
    }
}
