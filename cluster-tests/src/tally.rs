//! Answers, counted by the window that the node reported.
//!
//! A wall-clock second at the client may hold parts of two windows of the nodes; the window id that a
//! node reports with each answer says which window the request was counted in.

use std::collections::BTreeMap;

use hyper::StatusCode;

use crate::Answer;

/// How the requests of one window ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests that passed.
    pub admitted: u64,
    /// Requests that were denied with 429.
    pub denied: u64,
}

/// What one client saw.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    windows: BTreeMap<u64, Count>,
    other: Vec<StatusCode>,
    unanswered: u64,
}

impl Tally {
    /// Counts `answer` in the window that it names.
    ///
    /// # Panics
    /// The answer is a 200 or 429 that names no window: the node runs without `--debug-headers`.
    pub fn record(&mut self, answer: &Answer) {
        if !matches!(answer.status, StatusCode::OK | StatusCode::TOO_MANY_REQUESTS) {
            self.other.push(answer.status);
            return;
        }
        let window = answer.window().expect("a limited response names its window");
        let count = self.windows.entry(window).or_default();
        if answer.status == StatusCode::OK {
            count.admitted += 1;
        } else {
            count.denied += 1;
        }
    }

    /// Counts a request that was sent and not answered: it may have passed.
    pub fn record_unanswered(&mut self) {
        self.unanswered += 1;
    }

    /// Adds what another client saw.
    pub fn add(&mut self, other: Self) {
        for (window, count) in other.windows {
            let sum = self.windows.entry(window).or_default();
            *sum = [*sum, count].into_iter().sum();
        }
        self.other.extend(other.other);
        self.unanswered += other.unanswered;
    }

    /// The counts by window: its start in Unix milliseconds.
    #[must_use]
    pub fn windows(&self) -> &BTreeMap<u64, Count> {
        &self.windows
    }

    /// Requests that were sent and not answered.
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        self.unanswered
    }

    /// Answers that were neither 200 nor 429.
    #[must_use]
    pub fn other(&self) -> &[StatusCode] {
        &self.other
    }

    /// Requests that passed, in the one window of this tally.
    ///
    /// # Panics
    /// The tally spans windows or holds other statuses than 200 and 429, so the figure would mislead.
    #[must_use]
    pub fn admitted(&self) -> u64 {
        self.only().admitted
    }

    /// Requests that were denied, in the one window of this tally.
    ///
    /// # Panics
    /// See [`Tally::admitted`].
    #[must_use]
    pub fn denied(&self) -> u64 {
        self.only().denied
    }

    fn only(&self) -> Count {
        assert!(self.other.is_empty(), "unexpected statuses: {:?}", self.other);
        assert_eq!(
            self.windows.len(),
            1,
            "spans other than one window: {:?}",
            self.windows
        );
        self.windows.values().copied().sum()
    }
}

impl std::iter::Sum for Count {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |sum, count| Self {
            admitted: sum.admitted + count.admitted,
            denied: sum.denied + count.denied,
        })
    }
}
