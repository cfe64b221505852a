//! What this node has pushed to holders, and what it has yet to push, as the store remembers it.
//!
//! One row for each thing that is pushed as a whole: a tree with its files, or a blob by itself. Rows outlive the process, so
//! that what a stopped node still owed is pushed when it runs again.

use std::collections::BTreeMap;
use std::time::Duration;

use barnraiser_protocol::id::{BlobHash, NetworkId, NodeId};
use barnraiser_protocol::time::Timestamp;
use barnraiser_store::{Fault, Store};
use serde::{Deserialize, Serialize};

/// What the keys of the rows begin with.
const KEY: &[u8] = b"push/";
/// The most rows of a network: a builder makes some hundreds of results a day.
pub const PUSHES_MAX: usize = 20_000;
/// How many rows are remembered of what is done, for people to look at.
pub const DONE_KEPT: usize = 1000;
/// What could not be pushed in so long is given up: whoever wants it has found another way.
pub const GIVE_UP: Duration = Duration::from_secs(30 * 24 * 3600);

/// Something that holders are to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// Whether it is a tree: its manifest and all its files.
    pub tree: bool,
    /// Since when.
    pub since: Timestamp,
    /// How many holders are to have it.
    pub copies: usize,
    /// Who has it, and how many bytes went there.
    pub kept_by: BTreeMap<NodeId, u64>,
    /// How often it was tried in vain since it last got on.
    #[serde(default)]
    pub failures: u32,
    /// When it is tried again.
    #[serde(default)]
    pub next: Timestamp,
    /// What went wrong last.
    #[serde(default)]
    pub problem: Option<String>,
}

impl Push {
    /// One that has just come up.
    pub const fn new(tree: bool, copies: usize, now: Timestamp) -> Self {
        Self { tree, since: now, copies, kept_by: BTreeMap::new(), failures: 0, next: now, problem: None }
    }

    /// Whether enough holders have it.
    pub fn is_done(&self) -> bool {
        self.kept_by.len() >= self.copies
    }
}

/// What was pushed where, in figures.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pushed {
    /// Trees and single blobs that enough holders have.
    pub done: u64,
    /// Those that too few have yet.
    pub waiting: u64,
    /// Holder → how many of them it has, of those that are remembered.
    pub by_holder: BTreeMap<NodeId, u64>,
    /// What went wrong last with one that waits.
    pub problem: Option<String>,
}

fn prefix(network: &NetworkId) -> Vec<u8> {
    [KEY, network.as_bytes()].concat()
}

fn key(network: &NetworkId, what: &BlobHash) -> Vec<u8> {
    [prefix(network).as_slice(), what.as_bytes()].concat()
}

/// All rows of a network. One that can't be read is left out.
///
/// # Errors
/// [`Fault`].
pub fn all(store: &Store, network: &NetworkId) -> Result<BTreeMap<BlobHash, Push>, Fault> {
    let rows = store.meta_scan(&prefix(network), PUSHES_MAX)?;
    Ok(rows.into_iter().filter_map(|(key, value)| Some((what(&key)?, serde_json::from_slice(&value).ok()?))).collect())
}

fn what(key: &[u8]) -> Option<BlobHash> {
    Some(BlobHash(key.get(key.len().checked_sub(32)?..)?.try_into().ok()?))
}

/// Writes a row.
///
/// # Errors
/// [`Fault`].
pub fn put(store: &Store, network: &NetworkId, what: &BlobHash, push: &Push) -> Result<(), Fault> {
    // A struct of numbers and texts always serialises.
    store.meta_put(&key(network, what), &serde_json::to_vec(push).unwrap_or_default(), false)
}

/// Forgets a row.
///
/// # Errors
/// [`Fault`].
pub fn forget(store: &Store, network: &NetworkId, what: &BlobHash) -> Result<(), Fault> {
    store.meta_delete(&key(network, what))
}

/// The figures, of all networks.
///
/// # Errors
/// [`Fault`].
pub fn summary(store: &Store) -> Result<Pushed, Fault> {
    let mut pushed = Pushed::default();
    for (_, value) in store.meta_scan(KEY, usize::MAX)? {
        let Ok(push) = serde_json::from_slice::<Push>(&value) else { continue };
        if push.is_done() {
            pushed.done += 1;
        } else {
            pushed.waiting += 1;
            pushed.problem = push.problem.or(pushed.problem);
        }
        for holder in push.kept_by.into_keys() {
            *pushed.by_holder.entry(holder).or_default() += 1;
        }
    }
    Ok(pushed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rows_come_back_and_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (network, other) = (NetworkId([1; 32]), NetworkId([2; 32]));
        let mut done = Push::new(true, 1, Timestamp(5));
        done.kept_by.insert(NodeId([7; 32]), 100);
        let mut waiting = Push::new(false, 2, Timestamp(6));
        waiting.kept_by.insert(NodeId([7; 32]), 10);
        waiting.problem = Some("nobody holds".into());
        put(&store, &network, &BlobHash([3; 32]), &done).unwrap();
        put(&store, &network, &BlobHash([4; 32]), &waiting).unwrap();
        put(&store, &other, &BlobHash([3; 32]), &Push::new(true, 2, Timestamp(7))).unwrap();
        let rows = all(&store, &network).unwrap();
        assert_eq!(rows, BTreeMap::from([(BlobHash([3; 32]), done), (BlobHash([4; 32]), waiting)]));
        let summary = summary(&store).unwrap();
        assert_eq!((summary.done, summary.waiting, summary.by_holder[&NodeId([7; 32])]), (1, 2, 2));
        assert_eq!(summary.problem.as_deref(), Some("nobody holds"));
        forget(&store, &network, &BlobHash([4; 32])).unwrap();
        assert_eq!(all(&store, &network).unwrap().len(), 1);
    }
}
