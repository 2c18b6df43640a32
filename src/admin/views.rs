//! The JSON that the admin API speaks, read by the commands that call it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::limit::{SyncMode, UnixMillis};

/// `GET /v1/peers`: this node and the others it knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeersView {
    /// The node that was asked.
    #[serde(rename = "self")]
    pub this: SelfView,
    /// Every other node it knows, live first.
    pub peers: Vec<NodeView>,
}

/// The node that was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelfView {
    /// What is known of any node.
    #[serde(flatten)]
    pub node: NodeView,
    /// Whether `/readyz` answers 200.
    pub ready: bool,
    /// Id of the key that seals its gossip, the same on all nodes once a rotation is complete; `null` when
    /// gossip is open.
    pub gossip_key: Option<String>,
    /// How many keys open what it receives.
    pub gossip_keys: usize,
    /// Version of the gossip frames it sends: the newest that every live peer takes in.
    pub frame_version: u8,
}

/// One node as the asked node sees it. What the node has not told yet is `null`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub node_id: String,
    /// The microsecond it started, Unix time.
    pub generation: u64,
    /// Where it gossips.
    pub gossip_address: Option<String>,
    /// Its admin API.
    pub admin_address: Option<String>,
    /// Where clients connect to it.
    pub listen_address: Option<String>,
    /// What membership thinks of it.
    pub state: NodeState,
    /// Milliseconds since it was last heard; `null` before the first frame.
    pub last_row_age_ms: Option<u64>,
    /// Its wall clock against ours in milliseconds; positive: it is ahead.
    pub clock_offset_ms: Option<i64>,
    /// Digest of the configuration that must agree.
    pub config_digest: Option<String>,
    /// Whether that digest equals ours; `true` while unknown.
    pub config_matches: bool,
    /// Version of its program.
    pub version: Option<String>,
    /// The cluster-wide sync mode in force there.
    pub mode: Option<SyncMode>,
}

/// What membership thinks of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It gossips.
    Live,
    /// It fell silent.
    Dead,
    /// It said that it is stopping.
    Leaving,
}

/// `GET /v1/limits`: the keys that are counted now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitsView {
    /// Counters of windows that have not ended, shown or not.
    pub live_keys: u64,
    /// The most used of them, by total, most used first.
    pub limits: Vec<LimitView>,
}

/// One key in one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitView {
    /// Name of the rule; `null` when only other nodes have it.
    pub rule: Option<String>,
    /// What the rule counts by.
    pub by: Option<String>,
    /// Hash of the identity, 32 hex digits.
    pub key: String,
    /// The identity in readable form; `null` on a node that has not seen it lately.
    pub name: Option<String>,
    /// Length of the window, such as `minute` or `10s`.
    pub period: Option<String>,
    /// First moment of the window, RFC 3339.
    pub window_start: String,
    /// First moment after the window, RFC 3339.
    pub window_end: String,
    /// Most hits in the window.
    pub limit: Option<u64>,
    /// Hits admitted by this node.
    pub own: u64,
    /// Hits admitted by the others, as far as known here.
    pub peers: u64,
    /// Both together.
    pub total: u64,
    /// What is left of the limit, as clients are told. In bounded mode none, too, once no live node has rights.
    pub remaining: Option<u64>,
    /// In bounded mode: what this node may still admit without asking anybody.
    #[serde(default)]
    pub rights: Option<u64>,
    /// By `node/generation`.
    pub replicas: BTreeMap<String, ReplicaView>,
}

/// What one replica did with a key in one window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaView {
    /// Hits that it admitted.
    pub admitted: u64,
    /// In bounded mode: rights that it granted to others.
    pub granted: u64,
}

/// The answer to `PUT /v1/mode`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeView {
    /// The mode now set on this node and on its way to the others.
    pub mode: SyncMode,
    /// Counts the changes of mode; the highest wins over the cluster.
    pub version: u64,
    /// Where bounded mode is involved: the mode holds for windows that start after this instant, RFC 3339.
    /// `null` when it holds at once.
    #[serde(default)]
    pub from: Option<String>,
}

/// `GET /v1/roster`: who shares limits in bounded mode, as the asked node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterView {
    /// Some rule is bounded, or was since the node started; all else is empty until then.
    pub bounded: bool,
    /// Everybody counted, and the departed who still matter.
    pub members: Vec<MemberView>,
    /// The window in progress of every period in use.
    pub shares: Vec<ShareView>,
    /// Replicas, `node/generation`, whose rights the node owns.
    pub inherited: Vec<String>,
    /// The will of the node, and those that name it heir.
    pub wills: Vec<WillView>,
}

/// One member of the roster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// Its name.
    pub node_id: String,
    /// The microsecond it started, Unix time.
    pub generation: u64,
    /// Since when the asked node counts it, RFC 3339.
    pub from: String,
    /// Windows that start later are none of its business; `null` for who did not depart.
    pub departed_until: Option<String>,
    /// Since when membership calls it dead; `null` while it is alive.
    pub dead_since: Option<String>,
    /// Whether it counts the asked node.
    pub lists_this_node: bool,
    /// Whether it has ever taken a share.
    pub active: bool,
}

/// The window in progress of one period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareView {
    /// Length of the window, such as `minute` or `10s`.
    pub period: String,
    /// First moment of the window, RFC 3339.
    pub window_start: String,
    /// First moment after the window, RFC 3339.
    pub window_end: String,
    /// Among how many members the node shares the limits; `null` while it has no share.
    pub members: Option<usize>,
    /// Why it has none.
    pub blocked: Option<String>,
}

/// Who leaves its rights to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WillView {
    /// The replica that leaves, `node/generation`.
    pub leaver: String,
    /// The replica that inherits.
    pub heir: String,
    /// Whether the heir owns everything.
    pub executed: bool,
}

/// The answer to `POST /v1/roster/forget`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetView {
    /// The replicas, `node/generation`, that departed.
    pub forgotten: Vec<String>,
}

/// `GET /readyz`: whether traffic should come here, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadinessView {
    /// Nothing is missing.
    pub ready: bool,
    /// What is missing, one reason each.
    pub missing: Vec<String>,
}

/// Every refusal and failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorView {
    /// What is wrong and what would be right.
    pub message: String,
}

/// An instant as RFC 3339.
#[must_use]
pub fn rfc3339(at: UnixMillis) -> String {
    at.to_string()
}
