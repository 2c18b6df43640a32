//! How many retries may be under way: a share of the requests in flight, so that an upstream in trouble does not
//! get several times its load (Google, "Site Reliability Engineering", ch. 22; Envoy's retry budgets). Pure.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The retries of one upstream, over all workers.
#[derive(Debug)]
pub(super) struct RetryBudget {
    under_way: AtomicU32,
    permille: u32,
    min: u32,
}

impl RetryBudget {
    /// Allows `permille` thousandths of the requests in flight, or `min` if that is more.
    pub(super) fn new(permille: u32, min: u32) -> Self {
        Self {
            under_way: AtomicU32::new(0),
            permille,
            min,
        }
    }

    /// Leave for one more retry while `in_flight` requests are; kept until the answer is dropped.
    pub(super) fn take(&self, in_flight: u64) -> Option<RetryPermit<'_>> {
        let share = in_flight.saturating_mul(u64::from(self.permille)) / 1000;
        let most = share.max(u64::from(self.min));
        let more = |now: u32| (u64::from(now) < most).then_some(now + 1);
        self.under_way.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(RetryPermit(self))
    }
}

/// Leave for a retry.
#[derive(Debug)]
pub(super) struct RetryPermit<'b>(&'b RetryBudget);

impl Drop for RetryPermit<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_bounded_by_the_share_and_the_minimum_and_come_free_again() {
        let budget = RetryBudget::new(200, 2);
        let few: Vec<_> = (0..5).filter_map(|_| budget.take(4)).collect();
        assert_eq!(few.len(), 2);
        let more: Vec<_> = (0..50).filter_map(|_| budget.take(100)).collect();
        assert_eq!(more.len(), 18);
        assert!(budget.take(100).is_none() && budget.take(105).is_some());
        drop((few, more));
        assert!(budget.take(0).is_some());
        let none = RetryBudget::new(0, 0);
        assert!(none.take(1_000_000).is_none());
    }
}
