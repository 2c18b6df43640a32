//! When a change matters enough to be sent at once, and when it may be held back (DESIGN §5).
//!
//! The threshold scheme of distributed functional monitoring (Cormode, Muthukrishnan, Yi 2008): with
//! `remaining` known to be left and `replicas` nodes counting, a node announces its unsent hits when
//! they reach `max(1, α·remaining / replicas)`. Peers can then hide at most `α·remaining` together, so
//! nobody is misled before little remains, and then every hit is announced.

/// The share of what remains that all peers together may leave unannounced, and the share of a limit
/// below which a row may be held back, both in parts per thousand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Significance {
    /// α in thousandths; 1 to 999.
    pub alpha_permille: u32,
    /// ε in thousandths; 0 sends every row.
    pub epsilon_permille: u32,
}

impl Default for Significance {
    /// α = 0.2: simulated at 34 to 331 datagrams per node and ten-second window, over-admission ≤ 1.003.
    /// ε = 0.01: the error that an island adds if it never hears the release.
    fn default() -> Self {
        Self {
            alpha_permille: 200,
            epsilon_permille: 10,
        }
    }
}

impl Significance {
    /// Whether `unsent` hits are due: to be sent at the decision rather than at the next tick.
    #[must_use]
    pub fn is_due(self, unsent: u64, remaining: u64, replicas: u32) -> bool {
        // `unsent ≥ ⌊scaled / divisor⌋`, without the division, which costs more than the whole decision.
        let scaled = u128::from(remaining) * u128::from(self.alpha_permille);
        let divisor = 1000 * u128::from(replicas.max(1));
        unsent >= 1 && (u128::from(unsent) + 1) * divisor > scaled
    }

    /// Whether a row of `own` hits under `limit` cannot matter yet and may stay unsent: it is at most
    /// `ε·limit / replicas`, and the known `total` is below half of the limit.
    #[must_use]
    pub fn is_held_back(self, own: u64, total: u64, limit: u64, replicas: u32) -> bool {
        let share = u128::from(own) * 1000 * u128::from(replicas.max(1));
        share <= u128::from(limit) * u128::from(self.epsilon_permille) && total < limit / 2
    }
}
