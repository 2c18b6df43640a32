//! Faults: what may go wrong, and the proof that it did.

use std::time::Duration;

use crate::limit::SyncMode;

use super::flood::Flood;

/// One fault, at a time of the virtual clock.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The node stops without a word; what it did not send is lost.
    Crash {
        /// Which.
        node: usize,
    },
    /// A stopped node starts again under the same id, with a new generation and no memory.
    Restart {
        /// Which.
        node: usize,
    },
    /// A new node starts.
    Join,
    /// The node leaves in good order: pushes what it has, waits until it is acknowledged, stops.
    Leave {
        /// Which.
        node: usize,
    },
    /// Nothing gets from one side to the other until the end.
    Partition {
        /// One side; everybody else is the other.
        side: Vec<usize>,
        /// Only from that side outwards; the other direction still works.
        one_way: bool,
        /// How long.
        lasts: Duration,
    },
    /// The operator gives a node up that has stopped.
    Forget {
        /// Which.
        node: usize,
    },
    /// The operator switches the mode of the whole cluster.
    Switch {
        /// To what.
        mode: SyncMode,
    },
    /// A peer appears that sends made-up rows to everybody, and answers nobody.
    Flood {
        /// Of what kind.
        flood: Flood,
        /// So many frames.
        frames: u32,
    },
}

/// How often each fault really happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultReport {
    /// Nodes stopped without a word.
    pub crashes: u64,
    /// Nodes started again.
    pub restarts: u64,
    /// Nodes added.
    pub joins: u64,
    /// Nodes that left in good order.
    pub leaves: u64,
    /// Of those, the ones whose rights and counts all arrived.
    pub departed: u64,
    /// Replicas whose rights others inherited.
    pub inherited: u64,
    /// Nodes given up by an operator.
    pub forgets: u64,
    /// Switches of the cluster's mode.
    pub switches: u64,
    /// Partitions begun.
    pub partitions: u64,
    /// Floods begun.
    pub floods: u64,
    /// Rows made up.
    pub flooded: u64,
    /// Rows evicted for others at the bound of the table.
    pub evicted: u64,
    /// Rows of peers refused.
    pub refused: u64,
    /// Datagrams dropped at partitions.
    pub cut: u64,
    /// Datagrams lost by chance.
    pub lost: u64,
    /// Datagrams delivered twice.
    pub duplicated: u64,
    /// Datagrams overtaken by a later one.
    pub reordered: u64,
    /// Datagrams dropped for their size.
    pub oversized: u64,
}

impl std::ops::AddAssign for FaultReport {
    fn add_assign(&mut self, other: Self) {
        self.crashes += other.crashes;
        self.restarts += other.restarts;
        self.joins += other.joins;
        self.leaves += other.leaves;
        self.departed += other.departed;
        self.inherited += other.inherited;
        self.forgets += other.forgets;
        self.switches += other.switches;
        self.partitions += other.partitions;
        self.floods += other.floods;
        self.flooded += other.flooded;
        self.evicted += other.evicted;
        self.refused += other.refused;
        self.cut += other.cut;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.oversized += other.oversized;
    }
}
