//! Who speaks in a record: the operator behind its author, looked up once for each author and not for each record.

use crate::id::{NodeId, OperatorId};
use crate::policy::{Policy, Voters};
use crate::record::{Kind, Payload, SharedRecord};
use crate::table::Place;
use crate::verdict::Branch;

use super::Engine;

/// Who answers for an author.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Voice {
    /// The operator that the author, a node, works for.
    pub operator: Option<OperatorId>,
    /// The operator's branch; `None` for the uninvited and the barred.
    pub branch: Option<Branch>,
    /// Whether the policy trusts the operator.
    pub trusted: bool,
}

impl Voice {
    /// Whether its results are votes under `policy`.
    pub const fn may_vote(&self, policy: &Policy) -> bool {
        match policy.voters {
            Voters::Trusted => self.trusted,
            Voters::Invited => self.branch.is_some(),
        }
    }
}

impl Engine {
    /// Who answers for the author at a place.
    pub(super) fn voice(&self, author: Place) -> Voice {
        self.voices.get(author as usize).copied().unwrap_or_default()
    }

    /// Who answers for a node.
    pub(super) fn find_voice(&self, node: &NodeId) -> Voice {
        let Some(operator) = self.members.operator_of(node) else { return Voice::default() };
        // Who is barred has no vote, as who was never invited.
        let branch = self.members.branch_of(&operator).filter(|_| !self.members.is_barred(&operator)).map(|branch| branch.0);
        Voice { operator: Some(operator), branch, trusted: self.members.is_trusted(&operator) }
    }

    /// Whether no member vouches for the author of a record. What an invitation calls for counts as vouched for: a guest
    /// must get in however full the place of strangers is.
    pub(super) fn is_strange(&self, record: &SharedRecord) -> bool {
        let key = record.author_key();
        let author = self.board.author(&key);
        if key == self.node.0 || author.is_some_and(|author| !self.board.is_stranger(author)) {
            return false;
        }
        if record.kind().by_operator() {
            return !self.members.expects(record);
        }
        let voice = author.map_or_else(|| self.find_voice(&NodeId(key)), |author| self.voice(author));
        voice.branch.is_none() && !voice.trusted
    }

    /// Looks up who answers for authors that are new to the board.
    pub(super) fn meet_authors(&mut self) {
        for author in self.board.take_fresh_authors() {
            let voice = self.find_voice(&NodeId(self.board.author_key(author)));
            if self.voices.len() <= author as usize {
                self.voices.resize(author as usize + 1, Voice::default());
            }
            self.voices[author as usize] = voice;
        }
    }

    /// Members changed: looks up everyone anew. Returns whether what anybody said of an action is somebody else's word now.
    pub(super) fn meet_again(&mut self) -> bool {
        self.meet((0..self.voices.len().min(self.board.authors_len())).filter_map(|at| Place::try_from(at).ok()).collect())
    }

    /// [`Engine::meet_again`], where the change is about one node.
    pub(super) fn meet_node(&mut self, node: &NodeId) -> bool {
        self.meet(self.board.author(&node.0).into_iter().collect())
    }

    /// [`Engine::meet_again`], where the change is about one operator.
    pub(super) fn meet_member(&mut self, operator: &OperatorId) -> bool {
        self.meet(self.members.certified_by(operator).filter_map(|node| self.board.author(&node.0)).collect())
    }

    fn meet(&mut self, authors: Vec<Place>) -> bool {
        let mut changed = false;
        for author in authors {
            let voice = self.find_voice(&NodeId(self.board.author_key(author)));
            let before = std::mem::replace(&mut self.voices[author as usize], voice);
            if voice.branch.is_some() || voice.trusted {
                self.board.vouch(author);
            }
            if before != voice {
                // Whose word counted for nothing and still does changes nothing: anybody can be that as often as it likes.
                let counts = |voice: &Voice| voice.branch.is_some() || voice.trusted;
                changed |= (counts(&before) || counts(&voice)) && self.board.speaks_of_actions(author);
                self.sort_into_crowd(author);
            }
        }
        changed
    }

    /// Counts the author at a place among those who could build, if it says so and a member vouches for it: ten thousand
    /// keys of nobody would make everyone wait for their turn.
    pub(super) fn sort_into_crowd(&mut self, author: Place) {
        let (node, voice) = (NodeId(self.board.author_key(author)), self.voice(author));
        match self.board.latest_of(&node, Kind::Presence).map(|record| record.payload()) {
            Some(Payload::Presence(presence)) if voice.branch.is_some() || voice.trusted => self.crowd.appear(node, presence),
            _ => self.crowd.vanish(&node),
        }
    }
}
