//! How the nodes of a cluster keep one limit together, and what happens where there is no room to count.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::rule::RuleError;

/// How the nodes of a cluster keep one limit together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncMode {
    /// Each node counts alone: L per node, N·L per cluster. The baseline, as Kong's `policy: local`.
    Local,
    /// Counts are shared by gossip; a decision never waits for the network.
    #[default]
    Gossip,
    /// A bounded counter (Balegas et al. 2015): each node spends rights that it holds, and all nodes
    /// together never hold more than the limit.
    Bounded,
}

impl FromStr for SyncMode {
    type Err = RuleError;
    fn from_str(text: &str) -> Result<Self, RuleError> {
        match text {
            "local" => Ok(Self::Local),
            "gossip" => Ok(Self::Gossip),
            "bounded" => Ok(Self::Bounded),
            other => Err(RuleError(format!(
                "unknown sync mode `{other}`: expected `local`, `gossip` or `bounded`"
            ))),
        }
    }
}

impl fmt::Display for SyncMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Gossip => "gossip",
            Self::Bounded => "bounded",
        })
    }
}

/// What becomes of requests under a bounded rule while this replica has taken no share of their window. What
/// peers grant is spent in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WithoutShare {
    /// They are denied unless peers grant rights: the promise holds.
    #[default]
    Deny,
    /// They are decided as in gossip mode: the promise does not hold meanwhile.
    Gossip,
    /// They are decided as in local mode: the promise does not hold meanwhile.
    Local,
}

impl WithoutShare {
    /// The mode that decides instead, if any.
    #[must_use]
    pub fn fallback(self) -> Option<SyncMode> {
        match self {
            Self::Deny => None,
            Self::Gossip => Some(SyncMode::Gossip),
            Self::Local => Some(SyncMode::Local),
        }
    }
}

impl fmt::Display for WithoutShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deny => "deny",
            Self::Gossip => "gossip",
            Self::Local => "local",
        })
    }
}

/// What becomes of a request under a bounded rule whose row finds no room in the table. Rows of a bounded
/// rule are kept until their window ends, since one that came back would spend its share twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overflow {
    /// It is denied: the promise of the mode holds for every key.
    #[default]
    Deny,
    /// It passes uncounted: the promise holds only for the keys that found room.
    Allow,
}

impl FromStr for Overflow {
    type Err = RuleError;
    fn from_str(text: &str) -> Result<Self, RuleError> {
        match text {
            "deny" => Ok(Self::Deny),
            "allow" => Ok(Self::Allow),
            other => Err(RuleError(format!("`{other}` is neither `deny` nor `allow`"))),
        }
    }
}
