//! From whom the inputs of a build can be had.

use std::collections::BTreeSet;

use crate::id::{ActionId, BlobHash, NodeId};
use crate::record::{Kind, Payload, SharedRecord};
use crate::table::Place;

use super::super::Engine;

impl Engine {
    /// Authors of the batches whose jobs stand for the action.
    pub fn submitters(&self, action: &ActionId) -> Vec<NodeId> {
        let Some(state) = self.state_of(action) else { return Vec::new() };
        let authors: BTreeSet<NodeId> =
            state.jobs.iter().filter_map(|(batch, _)| Some(NodeId(self.batches.get(batch)?.record.author_key()))).collect();
        authors.into_iter().collect()
    }

    /// Nodes that revealed an input of an action: mostly it is one of those that its jobs name themselves.
    pub(super) fn revealers_of_need(&self, place: Place, tree: &BlobHash) -> Vec<NodeId> {
        let first = self.state(place).and_then(|state| state.jobs.first());
        let of = first.and_then(|(batch, job)| Some((self.batches.get(batch)?, *job)));
        let needs =
            of.and_then(|(of, job)| Some(of.graph.as_ref()?.needs(job).filter_map(|need| of.bindings.get(need.0 as usize)?.action())));
        let said = needs.into_iter().flatten().flat_map(|need| self.board.about(need)).filter(|(_, record)| reveals(record, tree));
        let nodes: BTreeSet<NodeId> = said.map(|(_, record)| NodeId(record.author_key())).collect();
        if nodes.is_empty() { self.revealers(tree) } else { nodes.into_iter().collect() }
    }

    /// Whether a node works for an operator that was let in.
    pub fn is_member(&self, node: &NodeId) -> bool {
        self.members.operator_of(node).is_some_and(|operator| self.members.branch_of(&operator).is_some())
    }

    /// Nodes that revealed a tree, or say that they have the blob.
    pub fn revealers(&self, blob: &BlobHash) -> Vec<NodeId> {
        let revealed = self.board.of_kind(Kind::Reveal).filter(|record| reveals(record, blob));
        let have =
            self.board.of_kind(Kind::Have).filter(|record| matches!(record.payload(), Payload::Have(have) if have.blobs.contains(blob)));
        let nodes: BTreeSet<NodeId> = revealed.chain(have).map(|record| NodeId(record.author_key())).collect();
        nodes.into_iter().collect()
    }
}

/// Whether a record is a reveal of that output.
fn reveals(record: &SharedRecord, tree: &BlobHash) -> bool {
    let Payload::Reveal(reveal) = record.payload() else { return false };
    std::iter::once(&reveal.outcome).chain(reveal.again.as_deref()).any(|outcome| outcome.tree() == Some(*tree))
}
