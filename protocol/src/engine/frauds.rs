//! Authors who contradict themselves: this node notices among the records that it has, and says so with a
//! [`FraudProof`], which holds both records and needs nobody's word. What follows from a proof, the members say.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::codec;
use crate::id::{OperatorId, RecordId};
use crate::outcome::Outcome;
use crate::record::payload::{FraudProof, LeaseRef};
use crate::record::{Kind, Payload, SharedRecord, contradict};
use crate::table::Place;
use crate::time::Timestamp;

use super::Engine;
use super::io::{Event, Timer};

/// The longest that a node waits for another's proof before it writes its own.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Contradictions that nobody has proven yet: operator → when this node writes the proof, and of what.
pub(super) type Suspects = BTreeMap<OperatorId, (Timestamp, RecordId, RecordId)>;

impl Engine {
    /// Looks whether a record that is new contradicts another of its author's operator.
    pub(super) fn watch(&mut self, now: Timestamp, record: &SharedRecord) {
        let found = match record.payload() {
            Payload::Commitment(_) | Payload::Reveal(_) => {
                let action = self.board.author(&record.author_key()).zip(self.board.action_of_record(&record.id()));
                action.and_then(|(author, action)| self.contradicted(author, record, action))
            }
            Payload::Seal(seal) => {
                let mut others = self.seals.of_round(seal.round);
                others.find(|other| contradict(other, record)).map(|other| other.id())
            }
            _ => None,
        };
        if let Some(other) = found {
            self.suspect(now, record, other);
        }
    }

    /// A record of the action that contradicts `record`.
    fn contradicted(&self, author: Place, record: &SharedRecord, action: Place) -> Option<RecordId> {
        let mut others = self.board.about(action);
        let found = others.find(|(by, other)| *by == author && contradict(other, record));
        found.map(|(_, other)| other.id())
    }

    /// Members changed: what strangers said may be worth a proof now.
    pub(super) fn watch_again(&mut self, now: Timestamp) {
        let mut found = Vec::new();
        for action in self.board.all_actions() {
            let said = self.board.about(action).filter(|(_, record)| matches!(record.kind(), Kind::Commitment | Kind::Reveal));
            let said: Vec<(Place, &SharedRecord)> = said.collect();
            // Mostly each author said one thing of each kind, so that no two come together.
            for (at, (author, record)) in said.iter().enumerate() {
                let other = said[..at].iter().find(|(by, other)| by == author && contradict(other, record));
                found.extend(other.map(|(_, other)| ((*record).clone(), other.id())));
            }
        }
        for (record, other) in found {
            self.suspect(now, &record, other);
        }
    }

    /// Sees to it that a contradiction is proven, by this node where no other does it first. Thousands notice at once, so
    /// they take turns; what those said who have no vote anyhow is not worth a record.
    fn suspect(&mut self, now: Timestamp, record: &SharedRecord, other: RecordId) {
        let Some(operator) = self.speaker(record) else { return };
        let counts = self.members.membership(&operator).is_some() || self.members.is_trusted(&operator);
        if !counts || self.members.is_proven(&operator) || self.suspects.contains_key(&operator) || self.operator().is_none() {
            return;
        }
        let turn = |node: &[u8; 32]| *blake3::hash(&[operator.0, *node].concat()).as_bytes();
        let own = turn(&self.node.0);
        let ahead = self.board.presences().filter(|(node, ..)| turn(&node.0) < own).count();
        let wait = self.propagation().saturating_mul(2).saturating_mul(u32::try_from(ahead).unwrap_or(u32::MAX));
        let at = now + wait.min(WAIT_MAX);
        self.suspects.insert(operator, (at, record.id(), other));
        self.arm_earlier(Timer::Accuse, at);
    }

    /// Writes the proofs whose turn has come and that nobody else has written.
    pub(super) fn accuse(&mut self, now: Timestamp) {
        let mut due = Vec::new();
        self.suspects.retain(|operator, (at, one, other)| {
            let is_due = *at <= now;
            if is_due {
                due.push((*operator, *one, *other));
            }
            !is_due
        });
        for (operator, one, other) in due {
            let (Some(one), Some(other)) = (self.board.record(&one), self.board.record(&other)) else { continue };
            if let Ok(proof) = FraudProof::new(one, other)
                && !self.members.is_proven(&operator)
            {
                self.author(now, Payload::FraudProof(proof.into()), Kind::FraudProof.lifetime_max());
            }
        }
        if let Some(at) = self.suspects.values().map(|(at, ..)| *at).min() {
            self.arm(Timer::Accuse, at);
        }
    }

    /// The salt of this node's commitment under a lease. It is made of what it hides and of the node's secret, so that a
    /// home that was restored from a backup, and builds the same again, commits to it in the same words.
    pub(super) fn salt(&self, lease: &LeaseRef, outcome: &Outcome, again: Option<&Outcome>) -> [u8; 32] {
        let hidden = codec::encode(&(self.config.key.seed(), self.params.network, lease, outcome, again));
        blake3::derive_key("barnraiser 2026 commitment salt v1", &hidden)
    }

    /// Tells whom a new record bars, or suspends for a while; `changed` where it was the first to do so.
    pub(super) fn tell_barred(&mut self, now: Timestamp, record: &SharedRecord, changed: bool) {
        let by = OperatorId(record.author_key());
        match record.payload() {
            Payload::Suspension(suspension) => {
                let (operator, reason) = (suspension.operator, suspension.reason.to_string());
                let Some(until) = self.members.suspended(&operator, now) else { return };
                if self.operator() == Some(operator) {
                    // This node takes no work until then.
                    self.arm_earlier(Timer::Seek, until);
                }
                self.event(Event::Suspended { operator, until, by, reason });
            }
            Payload::FraudProof(proof) if changed => {
                let operator = proof.node().and_then(|node| self.members.operator_of(&node));
                if let Some(operator) = operator.filter(|operator| self.members.is_proven(operator)) {
                    self.suspects.remove(&operator);
                    self.event(Event::FraudProven { operator, proof: record.id() });
                }
            }
            Payload::Ban(order) | Payload::Pardon(order) => {
                let Some((id, order)) = order.order() else { return };
                let (operator, reason) = (order.operator, order.reason.to_string());
                self.event(Event::Ordered { order: id, verb: order.verb, operator, reason });
            }
            _ => {}
        }
    }
}
