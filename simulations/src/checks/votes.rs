//! No vote is counted twice, and a verdict is what its evidence says: counted anew from the records of the board.

use std::collections::{BTreeMap, BTreeSet};

use barnraiser_protocol::engine::Engine;
use barnraiser_protocol::id::{ActionId, BatchId, NodeId, OperatorId};
use barnraiser_protocol::outcome::{FailureClass, Outcome};
use barnraiser_protocol::policy::{Policy, Voters};
use barnraiser_protocol::verdict::{Verdict, VerdictState};

use crate::world::work::Work;

/// Whether `operator` may vote, by the charter and the invitations alone.
fn may_vote(engine: &Engine, operator: &OperatorId, policy: &Policy) -> bool {
    match policy.voters {
        Voters::Trusted => engine.params().grants.trusted.contains(operator),
        Voters::Invited => engine.members().membership(operator).is_some(),
    }
}

/// What each operator revealed that it had committed to, one line a lease.
pub fn revealed(engine: &Engine, action: &ActionId) -> BTreeMap<OperatorId, BTreeSet<(bool, Outcome)>> {
    let mut words: BTreeMap<OperatorId, BTreeSet<(bool, Outcome)>> = BTreeMap::new();
    for (record, reveal) in engine.board().reveals(action) {
        let node = NodeId(record.author_key());
        let Some(operator) = engine.members().operator_of(&node) else { continue };
        let committed = engine.board().commitments(action).any(|(other, commitment)| {
            other.author_key() == node.0 && commitment.lease == reveal.lease && commitment.commitment == reveal.opens(&operator)
        });
        if committed {
            words.entry(operator).or_default().insert((reveal.lease.slot.is_arbiter(), reveal.outcome.clone()));
        }
    }
    words
}

/// Checks all verdicts of an action; `lies_may_win` where the quorum may be all liars.
pub fn check(engine: &Engine, action: &ActionId, work: &Work, lies_may_win: bool) -> Result<(), String> {
    let words = revealed(engine, action);
    let mut batches: Vec<BatchId> = engine.jobs_of(action).into_iter().map(|(batch, _)| batch).collect();
    batches.dedup();
    for batch in batches {
        let Some(verdict) = engine.verdict_of(&batch, action) else { continue };
        let Some(policy) = super::policy_of(engine, &batch) else { continue };
        check_verdict(engine, &verdict, policy, &words).map_err(|what| format!("{}: {what}: {verdict:?}", action.short()))?;
        let Some(action) = engine.action(action).filter(|_| verdict.state == VerdictState::CrossVerified) else { continue };
        // Liars never agree with each other, or own too few branches, so what the quorum agrees on is what honest machines make.
        if !lies_may_win
            && let Some(truth) = work.truth(&action)
            && verdict.outcome.as_ref() != Some(&truth)
        {
            return Err(format!("{}: a lie is cross-verified: {verdict:?}", action.id().short()));
        }
    }
    Ok(())
}

fn lacks_room(outcome: &Outcome) -> bool {
    use FailureClass::{OutOfDisk, OutOfMemory, Timeout};
    matches!(outcome, Outcome::Failure { class: OutOfMemory | OutOfDisk | Timeout, .. })
}

fn check_verdict(
    engine: &Engine,
    verdict: &Verdict,
    policy: &Policy,
    words: &BTreeMap<OperatorId, BTreeSet<(bool, Outcome)>>,
) -> Result<(), String> {
    if let Some(both) = verdict.agreeing.iter().find(|operator| verdict.differing.contains_key(*operator)) {
        return Err(format!("operator {} agrees and differs", both.short()));
    }
    let mut branches = BTreeSet::new();
    if matches!(verdict.outcome, Some(Outcome::Failure { class: FailureClass::Lost, .. })) {
        return check_poison(engine, verdict, words);
    }
    // Who lacked memory and who lacked time agree that it wants more than it is given.
    let lacking = verdict.outcome.as_ref().is_some_and(lacks_room);
    for operator in &verdict.agreeing {
        let arbiter = verdict.arbiter == Some(*operator);
        if !arbiter && !may_vote(engine, operator, policy) {
            return Err(format!("operator {} is counted and has no vote", operator.short()));
        }
        let said = words.get(operator).into_iter().flatten();
        let alike = |outcome: &Outcome| Some(outcome) == verdict.outcome.as_ref() || lacks_room(outcome) && lacking;
        if !said.clone().any(|(as_arbiter, outcome)| *as_arbiter == arbiter && alike(outcome)) {
            return Err(format!("operator {} is counted and revealed nothing of the kind", operator.short()));
        }
        branches.insert(engine.members().branch_of(operator).map_or(*operator, |branch| branch.0));
    }
    let agreed = matches!(verdict.state, VerdictState::CrossVerified | VerdictState::Failed);
    if agreed != (branches.len() >= usize::from(policy.quorum)) {
        return Err(format!("{} branches agree, {} are wanted", branches.len(), policy.quorum));
    }
    Ok(())
}

/// Poison: two branches at the least that say so, or many that say nothing any more.
fn check_poison(engine: &Engine, verdict: &Verdict, words: &BTreeMap<OperatorId, BTreeSet<(bool, Outcome)>>) -> Result<(), String> {
    let said =
        |operator: &OperatorId| words.get(operator).into_iter().flatten().any(|(_, outcome)| Some(outcome) == verdict.outcome.as_ref());
    if let Some(silent) = verdict.agreeing.iter().find(|operator| !said(operator)) {
        return Err(format!("operator {} is counted and did not say that it was lost", silent.short()));
    }
    let branch = |operator: &OperatorId| engine.members().branch_of(operator).map_or(*operator, |branch| branch.0);
    let branches: BTreeSet<OperatorId> = verdict.agreeing.iter().map(branch).collect();
    if branches.len() == 1 { Err("a job is poison that one branch was lost with".into()) } else { Ok(()) }
}

/// How many branches with a vote revealed `outcome`, under a policy.
pub fn branches_for(engine: &Engine, action: &ActionId, outcome: &Outcome, policy: &Policy) -> usize {
    let words = revealed(engine, action);
    let agree = words.iter().filter(|(operator, said)| {
        let arbiter = said.iter().any(|(as_arbiter, word)| *as_arbiter && word == outcome);
        arbiter || (may_vote(engine, operator, policy) && said.iter().any(|(_, word)| word == outcome))
    });
    let branches: BTreeSet<OperatorId> =
        agree.map(|(operator, _)| engine.members().branch_of(operator).map_or(*operator, |branch| branch.0)).collect();
    branches.len()
}
