//! Tree artefacts: a manifest of paths, with modes, lengths and hashes, and no archive format.
//!
//! A manifest is what its type says or it is refused: paths are relative, normal and unique, links stay inside, and
//! there are no devices, no owners and no set-user-id bits, since none of them can be written down.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::id::BlobHash;

/// The most bytes a manifest may have: some 400,000 entries.
pub const MANIFEST_BYTES_MAX: usize = 64 << 20;
/// The most bytes a path may have, Linux's `PATH_MAX` less what the place it is laid out at needs.
pub const PATH_BYTES_MAX: usize = 3072;

/// One thing in a tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// A regular file.
    File {
        /// BLAKE3 of its bytes.
        hash: BlobHash,
        /// Its length in bytes.
        length: u64,
        /// Mode 0755 if true, else 0644.
        executable: bool,
    },
    /// A symbolic link, relative, that stays inside the tree.
    Symlink {
        /// Where it points, as written.
        target: String,
    },
    /// A folder with nothing in it (others follow from the paths in them).
    EmptyFolder,
}

/// A manifest: what is at each path, in the order of the paths' bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

/// Why something can't be in a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Not a manifest's bytes.
    #[error("not a tree manifest: {0}")]
    Decode(#[from] codec::DecodeError),
    /// Absolute, empty, too long, or with `.`, `..`, an empty part or a control character.
    #[error("path {path:?}: {reason}")]
    BadPath {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two things at one path, or a thing below a file.
    #[error("path {0:?} collides with another entry")]
    Collision(String),
    /// A link that is absolute or leaves the tree.
    #[error(
        "link {path:?} points to {target:?}, which may be outside the tree: neither absolute, nor `..` behind a name, nor more of them than folders above it"
    )]
    LinkLeaves {
        /// Where the link is.
        path: String,
        /// Where it points.
        target: String,
    },
}

impl Tree {
    /// A tree with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `entry` at `path`.
    ///
    /// # Errors
    /// [`TreeError`] where the path is not normal, is taken, or the link leaves the tree.
    pub fn insert(&mut self, path: &str, entry: Entry) -> Result<(), TreeError> {
        check_path(path)?;
        if let Entry::Symlink { target } = &entry {
            check_link(path, target)?;
        }
        // What is below a path sorts behind it, so one look each way finds every collision.
        let below = format!("{path}/");
        if self.entries.contains_key(path) || self.entries.range(below.clone()..).next().is_some_and(|(k, _)| k.starts_with(&below)) {
            return Err(TreeError::Collision(path.to_owned()));
        }
        for (at, _) in path.match_indices('/') {
            if self.entries.contains_key(&path[..at]) {
                return Err(TreeError::Collision(path.to_owned()));
            }
        }
        self.entries.insert(path.to_owned(), entry);
        Ok(())
    }

    /// All entries, in the order of their paths' bytes.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// What is at `path`.
    pub fn entry(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sum of the files' lengths in bytes.
    pub fn content_length(&self) -> u64 {
        self.entries.values().fold(0, |sum, entry| match entry {
            Entry::File { length, .. } => sum.saturating_add(*length),
            _ => sum,
        })
    }

    /// Every blob that the tree needs, in the order of paths, with its length; one hash may come several times.
    pub fn blobs(&self) -> impl Iterator<Item = (BlobHash, u64)> {
        self.entries.values().filter_map(|entry| match entry {
            Entry::File { hash, length, .. } => Some((*hash, *length)),
            _ => None,
        })
    }

    /// The canonical bytes, whose BLAKE3 names the tree.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(&self.entries)
    }

    /// The tree's name.
    pub fn hash(&self) -> BlobHash {
        BlobHash::of(&self.to_bytes())
    }

    /// The tree that `bytes` are the canonical form of.
    ///
    /// # Errors
    /// [`TreeError`] where they are none, or where an entry breaks a rule of this module.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TreeError> {
        let entries: BTreeMap<String, Entry> = codec::decode(bytes, MANIFEST_BYTES_MAX)?;
        let mut tree = Self::new();
        for (path, entry) in entries {
            tree.insert(&path, entry)?;
        }
        Ok(tree)
    }
}

/// Checks that `path` is relative and normal: parts separated by one `/`, none empty, `.` or `..`, no control
/// characters, no backslash, at most [`PATH_BYTES_MAX`] bytes in all and 255 in a part.
///
/// # Errors
/// [`TreeError::BadPath`] with the reason.
pub fn check_path(path: &str) -> Result<(), TreeError> {
    let bad = |reason| Err(TreeError::BadPath { path: path.chars().take(200).collect(), reason });
    if path.is_empty() {
        return bad("is empty");
    }
    if path.len() > PATH_BYTES_MAX {
        return bad("is too long");
    }
    if path.starts_with('/') {
        return bad("is absolute");
    }
    if path.chars().any(|c| c.is_control() || c == '\\') {
        return bad("has a control character or a backslash");
    }
    for part in path.split('/') {
        match part {
            "" => return bad("has an empty part"),
            "." | ".." => return bad("has a part `.` or `..`"),
            _ if part.len() > 255 => return bad("has a part of more than 255 bytes"),
            _ => {}
        }
    }
    Ok(())
}

fn check_link(path: &str, target: &str) -> Result<(), TreeError> {
    let leaves = || TreeError::LinkLeaves { path: path.to_owned(), target: target.chars().take(200).collect() };
    if target.is_empty() || target.starts_with('/') || target.len() > PATH_BYTES_MAX || target.chars().any(char::is_control) {
        return Err(leaves());
    }
    let mut depth = path.matches('/').count();
    let mut named = false;
    for part in target.split('/') {
        match part {
            "" | "." => {}
            // Behind a name it would go back from wherever that leads, which another link decides.
            ".." if named => return Err(leaves()),
            ".." => depth = depth.checked_sub(1).ok_or_else(leaves)?,
            _ => named = true,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Entry {
        Entry::File { hash: BlobHash::of(b"x"), length: 1, executable: false }
    }

    #[test]
    fn manifest_survives_its_bytes() {
        let mut tree = Tree::new();
        tree.insert("lib/libz.so.1", file()).unwrap();
        tree.insert("lib/libz.so", Entry::Symlink { target: "libz.so.1".into() }).unwrap();
        tree.insert("share/empty", Entry::EmptyFolder).unwrap();
        assert_eq!(Tree::from_bytes(&tree.to_bytes()).unwrap(), tree);
        assert_eq!(tree.content_length(), 1);
    }

    #[test]
    fn paths_that_leave_or_are_not_normal_are_refused() {
        for path in ["", "/etc/passwd", "a/../b", "./a", "a//b", "a/", "..", "a\nb", "a\\b"] {
            assert!(Tree::new().insert(path, file()).is_err(), "{path:?}");
        }
    }

    #[test]
    fn links_that_leave_are_refused() {
        for target in ["/etc", "..", "../../x", "a/../../../x", ""] {
            let mut tree = Tree::new();
            assert!(tree.insert("d/link", Entry::Symlink { target: target.into() }).is_err() == (target != ".."), "{target:?}");
        }
    }

    /// Each of two links stays inside by its words, and both together leave: `a/b/up` is the root, so `a/b/up/..` is above.
    #[test]
    fn links_that_leave_by_way_of_another_are_refused() {
        let mut tree = Tree::new();
        tree.insert("a/b/up", Entry::Symlink { target: "../..".into() }).unwrap();
        assert!(tree.insert("a/b/out", Entry::Symlink { target: "up/../etc".into() }).is_err());
        tree.insert("a/b/in", Entry::Symlink { target: "./../../c//d".into() }).unwrap();
    }

    #[test]
    fn a_thing_below_a_file_is_refused() {
        let mut tree = Tree::new();
        tree.insert("a/b", file()).unwrap();
        assert!(matches!(tree.insert("a/b/c", file()), Err(TreeError::Collision(_))));
        assert!(matches!(tree.insert("a", file()), Err(TreeError::Collision(_))));
        assert!(matches!(tree.insert("a/b", file()), Err(TreeError::Collision(_))));
        tree.insert("a/bc", file()).unwrap();
    }
}
