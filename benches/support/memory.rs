//! Memory of this process, from `/proc`.

use std::fs;

/// One number of `/proc/self/status` or `/proc/self/smaps_rollup` that is given in KiB, in bytes.
pub(crate) fn own_bytes(file: &str, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|rest| {
        rest.trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()
    });
    kib.unwrap_or(0) * 1024
}
