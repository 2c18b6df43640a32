//! What a benchmark says of the machine that it ran on.

use std::fs;

use serde_json::{Value, json};

/// Processors, and how busy they were: a figure from a loaded machine says so itself.
pub(crate) fn machine() -> Value {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<f64> = load
        .split(' ')
        .take(3)
        .filter_map(|word| word.parse().ok())
        .collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    json!({ "cores": cores, "load_average": load })
}
