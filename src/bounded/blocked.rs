//! Why a replica takes no share of a window.

use thiserror::Error;

use crate::limit::{SyncMode, UnixMillis};
use crate::replica::ReplicaId;

/// Why a replica takes no share of a window. Nothing changed; asking again later may succeed, except after
/// [`Blocked::Leaving`], [`Blocked::Superseded`] and [`Blocked::Forgotten`], which are final.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Blocked {
    /// The window has not started by this replica's clock.
    #[error("the window has not started")]
    NotStarted,
    /// The window is no longer open, or what its decision would need was forgotten.
    #[error("the window was given up")]
    TooLate,
    /// The window started before this replica could know who spends in it.
    #[error("booted too late for this window: shares are for windows that start after {after}")]
    BootSkew {
        /// Boot instant plus the tolerated clock difference.
        after: UnixMillis,
    },
    /// A member's record was never heard.
    #[error("member {member} has not been heard{}", since_text(.since))]
    Missing {
        /// The member.
        member: ReplicaId,
        /// Since when membership calls it dead, if it does.
        since: Option<UnixMillis>,
    },
    /// The newest record heard of a member does not list this replica.
    #[error("member {member} does not list this node yet{}", since_text(.since))]
    Unlisted {
        /// The member.
        member: ReplicaId,
        /// Since when membership calls it dead, if it does.
        since: Option<UnixMillis>,
    },
    /// A member lists this replica only since the window started, so it may have counted without it.
    #[error("member {member} lists this node only since {from}, within the window")]
    ListedLate {
        /// The member.
        member: ReplicaId,
        /// Its clock when it added this replica.
        from: UnixMillis,
    },
    /// Nobody is known to have taken a share yet, and too few nodes have gathered to begin.
    #[error("{present} of the {needed} nodes that `min_roster` asks for have gathered")]
    Gathering {
        /// Distinct node ids among the members.
        present: usize,
        /// The configured minimum.
        needed: usize,
    },
    /// This replica may found alone, and still listens whether anybody is there.
    #[error("nobody was heard yet: without peers this node takes its share at {until}")]
    Listening {
        /// Boot instant plus the time to listen.
        until: UnixMillis,
    },
    /// A member decides the window by another mode, or does not say by which: it may admit without rights.
    #[error("member {member} {}", mode_text(.mode))]
    OtherMode {
        /// The member.
        member: ReplicaId,
        /// The mode, where it is known.
        mode: Option<SyncMode>,
    },
    /// A switch to bounded mode that this replica follows has not reached the window.
    #[error("this window began {}; bounded mode holds for windows that start later", former_text(.former))]
    Switched {
        /// The mode that this node announced for the window, where it is known.
        former: Option<SyncMode>,
    },
    /// This replica published that it leaves.
    #[error("this node is leaving")]
    Leaving,
    /// A newer generation of this node exists.
    #[error("a newer process of this node exists")]
    Superseded,
    /// An operator (or `forget_after`) declared this replica gone.
    #[error("this node was forgotten by the cluster; restart it to join again")]
    Forgotten,
    /// More members than a roster holds: the view is incomplete.
    #[error("the roster is full")]
    Full,
}

fn since_text(since: &Option<UnixMillis>) -> String {
    since.map_or(String::new(), |at| format!(" (dead since {at})"))
}

fn former_text(former: &Option<SyncMode>) -> String {
    former.map_or_else(
        || "before the switch was announced".to_owned(),
        |mode| format!("in mode {mode}"),
    )
}

fn mode_text(mode: &Option<SyncMode>) -> String {
    mode.map_or_else(
        || "has not said by which mode it decides this window".to_owned(),
        |mode| format!("decides this window as {mode}"),
    )
}
