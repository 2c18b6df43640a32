//! Whether the files of a configuration have changed since it came into force.
//!
//! Contents are compared, so it does not matter how a file changes: written over, renamed, or as the swapped symlink of
//! a Kubernetes ConfigMap. A change is believed once two looks in a row have found the same: one that is being written
//! may well be valid, and say half of what was meant.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::config::FILE_BYTES_MAX;

/// Some files as they were at one moment: the SHA-256 of each, `None` where it could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look(BTreeMap<PathBuf, Option<[u8; 32]>>);

impl Look {
    /// Looks at `files`; blocks. Of what is no plain file, such as a pipe, nothing is read.
    #[must_use]
    pub fn at(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let digests = files.into_iter().map(|file| {
            let digest = digest(&file).ok();
            (file, digest)
        });
        Self(digests.collect())
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.keys()
    }
}

/// Of a file that is too large, as much as would be refused.
fn digest(path: &Path) -> io::Result<[u8; 32]> {
    // Opening a pipe would wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(Sha256::digest(&bytes).into())
}

/// The files that are followed.
pub(super) struct Followed {
    /// As they were when they were read for what is in force, or for what was refused last.
    taken_up: Look,
    /// What the last look found instead.
    found: Option<Look>,
}

impl Followed {
    /// Follows `paths`, some of which were looked at `before` they were read; the others are as they are now. Blocks.
    pub(super) fn new(before: &Look, paths: Vec<PathBuf>) -> Self {
        let mut taken_up = Look::at(paths);
        for (path, digest) in &mut taken_up.0 {
            if let Some(seen) = before.0.get(path) {
                *digest = *seen;
            }
        }
        Self {
            taken_up,
            found: None,
        }
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.taken_up.paths().cloned().collect()
    }

    /// Whether what the files are `now` is to be taken up.
    pub(super) fn is_settled_change(&mut self, now: Look) -> bool {
        if now == self.taken_up {
            self.found = None;
            return false;
        }
        let is_settled = self.found.as_ref() == Some(&now);
        self.found = Some(now);
        is_settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.path(name), text).unwrap();
        }

        /// As the kubelet changes a mounted ConfigMap: a symlink to another folder takes the place of the former.
        fn swap(&self, link: &str, target: &str) {
            let beside = self.path("next");
            std::os::unix::fs::symlink(target, &beside).unwrap();
            std::fs::rename(beside, self.path(link)).unwrap();
        }
    }

    #[test]
    fn a_change_is_taken_up_once_two_looks_have_found_the_same() {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.write("a", "one");
        let before = Look::at([folder.path("a")]);
        let mut files = Followed::new(&before, vec![folder.path("a"), folder.path("b")]);
        let mut settled = || {
            let now = Look::at(files.paths());
            files.is_settled_change(now)
        };
        assert_eq!([settled(), settled()], [false; 2]);
        folder.write("a", "tw");
        assert!(!settled());
        folder.write("a", "two");
        assert_eq!([settled(), settled()], [false, true]);
        // Back again in time: nothing has happened.
        folder.write("a", "half");
        assert!(!settled());
        folder.write("a", "one");
        assert_eq!([settled(), settled()], [false; 2]);
        // A file that appears, or goes, is a change.
        folder.write("b", "new");
        assert_eq!([settled(), settled()], [false, true]);
    }

    #[test]
    fn the_swapped_symlink_of_a_config_map_is_a_change_and_a_pipe_is_not_read() {
        let folder = Folder(tempfile::tempdir().unwrap());
        for (version, text) in [("v1", "one"), ("v2", "two")] {
            std::fs::create_dir(folder.path(version)).unwrap();
            folder.write(&format!("{version}/weir.yaml"), text);
        }
        folder.swap("..data", "v1");
        std::os::unix::fs::symlink("..data/weir.yaml", folder.path("weir.yaml")).unwrap();
        let look = || Look::at([folder.path("weir.yaml")]);
        let before = look();
        assert_eq!(look(), before);
        folder.swap("..data", "v2");
        assert_ne!(look(), before);
        let pipe = folder.path("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let unread = Look(BTreeMap::from([(pipe.clone(), None)]));
        assert_eq!(Look::at([pipe]), unread);
    }
}
