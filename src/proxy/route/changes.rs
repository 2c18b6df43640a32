//! What a route changes: header fields and paths.

use http::HeaderMap;

use crate::config::{HeaderChanges, PathChange, PathMatch};
use crate::path::{EscapedSlashes, PathError, normalize};

/// Makes `changes`. No field is in two of them, so their order means nothing.
pub(super) fn apply(changes: &HeaderChanges, headers: &mut HeaderMap) {
    for name in &changes.remove {
        headers.remove(name);
    }
    for (name, value) in &changes.set {
        headers.insert(name.clone(), value.clone());
    }
    for (name, value) in &changes.add {
        headers.append(name.clone(), value.clone());
    }
}

/// The normalised `path` after `change`, in normal form, too. `matched` is how its route took it.
///
/// # Errors
/// When a replacement puts together what is no path.
pub(super) fn changed_path(
    change: &PathChange,
    matched: &PathMatch,
    path: &str,
    slashes: EscapedSlashes,
) -> Result<String, PathError> {
    match change {
        PathChange::Prefix(new) => {
            let changed = format!("{new}{}", below(path, matched));
            Ok(if changed.is_empty() {
                "/".to_owned()
            } else {
                changed
            })
        }
        PathChange::Full(new) => Ok(new.clone()),
        PathChange::Regex(pattern, replacement) => match replacement.expand(pattern, path) {
            // Groups of one path can make dot segments of another.
            Some(changed) => normalize(&changed, slashes).map(|normal| normal.into_owned()),
            None => Ok(path.to_owned()),
        },
    }
}

/// What remains of `path` below the prefix that matched: empty, or beginning with a slash.
fn below<'p>(path: &'p str, matched: &PathMatch) -> &'p str {
    let prefix = match matched {
        PathMatch::Prefix(prefix) => prefix.trim_end_matches('/'),
        PathMatch::Exact(_) | PathMatch::Regex(_) => "",
    };
    path.strip_prefix(prefix).unwrap_or(path)
}
