//! What differs between two builds of one action.

use std::fmt;

use barnraiser_protocol::id::BlobHash;
use barnraiser_protocol::tree::{Entry, Tree};
use barnraiser_store::Store;
use serde::Serialize;

use super::super::output::bytes;
use crate::api::Problem;

/// The most bytes of a file that are compared to find the first difference.
const COMPARED_BYTES_MAX: u64 = 64 << 20;

/// A path at which two trees differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Difference {
    /// The path.
    pub path: String,
    /// What is there in the first build.
    pub first: Option<Entry>,
    /// What is there in the second one.
    pub second: Option<Entry>,
    /// Offset of the first byte that differs, of two files.
    pub at_byte: Option<u64>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path)?;
        match (&self.first, &self.second) {
            (Some(first), Some(second)) => write!(f, "{} / {}", words(first), words(second))?,
            (Some(first), None) => write!(f, "only in the first build ({})", words(first))?,
            (None, Some(second)) => write!(f, "only in the second build ({})", words(second))?,
            (None, None) => {}
        }
        match self.at_byte {
            Some(offset) => write!(f, ", from byte {offset} on"),
            None => Ok(()),
        }
    }
}

fn words(entry: &Entry) -> String {
    match entry {
        Entry::File { hash, length, executable } => {
            format!("{}, {}{}", hash.short(), bytes(*length), if *executable { ", executable" } else { "" })
        }
        Entry::Symlink { target } => format!("link to {target:?}"),
        Entry::EmptyFolder => "empty folder".to_owned(),
    }
}

/// All differences of two trees of the store, in the order of paths.
pub(super) fn trees(store: &Store, first: &BlobHash, second: &BlobHash) -> Result<Vec<Difference>, Problem> {
    if first == second {
        return Ok(Vec::new());
    }
    let read = |hash| store.tree(hash).map_err(|error| Problem::failed(format!("the local store: {error}")));
    let mut differences = entries(&read(first)?, &read(second)?);
    for difference in &mut differences {
        if let (Some(Entry::File { hash: a, .. }), Some(Entry::File { hash: b, .. })) = (&difference.first, &difference.second)
            && a != b
        {
            // A file that is too large to be looked at is named all the same.
            let look = |hash| store.read_all(hash, COMPARED_BYTES_MAX).ok();
            difference.at_byte = look(a).zip(look(b)).and_then(|(a, b)| first_difference(&a, &b));
        }
    }
    Ok(differences)
}

fn entries(first: &Tree, second: &Tree) -> Vec<Difference> {
    let mut differences = Vec::new();
    for (path, entry) in first.entries() {
        let other = second.entry(path);
        if other != Some(entry) {
            differences.push(Difference { path: path.to_owned(), first: Some(entry.clone()), second: other.cloned(), at_byte: None });
        }
    }
    for (path, entry) in second.entries().filter(|(path, _)| first.entry(path).is_none()) {
        differences.push(Difference { path: path.to_owned(), first: None, second: Some(entry.clone()), at_byte: None });
    }
    differences.sort_by(|a, b| a.path.cmp(&b.path));
    differences
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<u64> {
    let at = a.iter().zip(b).position(|(a, b)| a != b);
    // Where one is the beginning of the other, they differ at its end.
    let at = at.or((a.len() != b.len()).then_some(a.len().min(b.len())))?;
    u64::try_from(at).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn file(bytes: &[u8]) -> Entry {
        Entry::File { hash: BlobHash::of(bytes), length: bytes.len() as u64, executable: false }
    }

    #[test]
    fn every_kind_of_difference_is_found_in_the_order_of_paths() {
        let (mut first, mut second) = (Tree::new(), Tree::new());
        first.insert("same", file(b"x")).unwrap();
        second.insert("same", file(b"x")).unwrap();
        first.insert("z", file(b"1")).unwrap();
        second.insert("z", file(b"2")).unwrap();
        first.insert("gone", Entry::EmptyFolder).unwrap();
        second.insert("added", Entry::Symlink { target: "z".into() }).unwrap();
        let found = entries(&first, &second);
        assert_eq!(found.iter().map(|difference| difference.path.as_str()).collect::<Vec<_>>(), ["added", "gone", "z"]);
    }

    #[test]
    fn the_first_byte_that_differs_is_named() {
        assert_eq!(first_difference(b"abc", b"abd"), Some(2));
        assert_eq!(first_difference(b"abc", b"ab"), Some(2));
        assert_eq!(first_difference(b"abc", b"abc"), None);
    }
}
