//! The rights a replica begins a window with: the seam between the counters and the roster.
//!
//! Owns the question, not the answer: who is a member of a window, and of how many, is decided by the roster.

use super::key::KeyHash;
use super::time::UnixMillis;
use super::window::Window;

/// Says how much of a limit this replica may spend before any peer grants it more (the escrow of O'Neil
/// 1986).
///
/// Asked on the request path when a row of a bounded rule is made. An implementation answers from memory
/// within a microsecond, takes no lock that another thread holds for longer, and does not call the
/// counters.
///
/// For one (limit, key, window) the answers never fall, and those of all replicas never exceed `limit`
/// together: this is what the promise of [`super::SyncMode::Bounded`] rests on. When an answer rises, since
/// the roster decided after rows were made, [`super::Counters::reassess`] tells the rows.
pub trait Shares: Send + Sync {
    /// The share of `limit` hits for `key` in `window`; 0 while this replica has none.
    fn share(&self, limit: u64, key: KeyHash, window: Window) -> u64;

    /// Whether this replica has a share of windows that start at `start`: before that, the answers for them are
    /// 0 and may rise.
    fn is_decided(&self, start: UnixMillis) -> bool;
}

/// No rights at all: the answer of a replica that no roster has given a share.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoShares;

impl Shares for NoShares {
    fn share(&self, _limit: u64, _key: KeyHash, _window: Window) -> u64 {
        0
    }

    fn is_decided(&self, _start: UnixMillis) -> bool {
        false
    }
}

/// Whoever decides goes on deciding while the counters read.
impl<S: Shares + ?Sized> Shares for std::sync::Arc<S> {
    fn share(&self, limit: u64, key: KeyHash, window: Window) -> u64 {
        (**self).share(limit, key, window)
    }

    fn is_decided(&self, start: UnixMillis) -> bool {
        (**self).is_decided(start)
    }
}
