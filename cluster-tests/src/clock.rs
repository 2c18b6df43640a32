//! The windows that nodes count in, by the clock of the test; and nodes whose clock is wrong.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::sleep;

/// Milliseconds since 1970, by the clock of this machine.
///
/// # Panics
/// It is before 1970.
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.expect("a clock after 1970").as_millis()).expect("few enough milliseconds")
}

/// One window of a limit `HITS/Ns`, as every node aligns them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// When it starts, in Unix milliseconds: what nodes report with each answer.
    pub start: u64,
    /// How long it lasts, in milliseconds.
    pub length: u64,
}

impl Window {
    /// The one in progress, of those that last `length`.
    ///
    /// # Panics
    /// `length` is shorter than a millisecond.
    #[must_use]
    pub fn in_progress(length: Duration) -> Self {
        let length = u64::try_from(length.as_millis()).expect("a short time");
        Self {
            start: now() / length * length,
            length,
        }
    }

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self {
            start: self.start + self.length,
            ..self
        }
    }

    /// Waits until it starts.
    pub async fn starts(self) {
        at(self.start).await;
    }

    /// Milliseconds until it ends; 0 once it has.
    #[must_use]
    pub fn left(self) -> u64 {
        (self.start + self.length).saturating_sub(now())
    }
}

/// Waits until the clock of this machine has reached `instant`, in Unix milliseconds.
pub async fn at(instant: u64) {
    loop {
        match instant.saturating_sub(now()) {
            0 => return,
            left => sleep(Duration::from_millis(left)).await,
        }
    }
}

/// The environment of a process whose wall clock is `seconds` ahead, and whose monotonic clock is right.
///
/// # Panics
/// libfaketime is not installed.
#[must_use]
pub fn ahead_by(seconds: f64) -> Vec<(String, String)> {
    let architecture = std::env::consts::ARCH;
    let library = format!("/usr/lib/{architecture}-linux-gnu/faketime/libfaketimeMT.so.1");
    assert!(
        Path::new(&library).is_file(),
        "{library} does not exist (on Debian: apt-get install libfaketime)"
    );
    let variables = [
        ("LD_PRELOAD", library),
        ("FAKETIME", format!("{seconds:+}s")),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    variables.map(|(name, value)| (name.to_owned(), value)).into()
}
