//! Processor time of the threads of this process, from `/proc`.

use std::fs;
use std::time::Duration;

/// Processor time of this process's threads called `name`, or of all of them.
///
/// From `schedstat`, which counts nanoseconds; `stat` counts hundredths of a second.
pub(crate) fn processor_time(name: Option<&str>) -> Duration {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanos = tasks.filter_map(|task| {
        let comm = fs::read_to_string(task.path().join("comm")).ok()?;
        let is_wanted = name.is_none_or(|name| comm.trim_end() == name);
        let stat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let nanos: u64 = stat.split(' ').next()?.parse().ok()?;
        is_wanted.then_some(nanos)
    });
    Duration::from_nanos(nanos.sum())
}
