//! No vote is counted twice, and a verdict is what its evidence says: counted anew from the records of the board.

use std::collections::{BTreeMap, BTreeSet};

use barnraiser_protocol::blame::attempt_of;
use barnraiser_protocol::engine::Engine;
use barnraiser_protocol::id::{ActionId, BatchId, NodeId, OperatorId};
use barnraiser_protocol::outcome::{FailureClass, Outcome};
use barnraiser_protocol::policy::{Policy, Voters};
use barnraiser_protocol::record::payload::Says;
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

/// Operators that committed to something besides what they revealed, in the attempts in which they are votes: in each they
/// have at least one commitment that is not opened, or opened to another word. What says nothing of the job, or only that
/// the machine was too small, is beside the point.
fn undecided(engine: &Engine, action: &ActionId) -> BTreeSet<OperatorId> {
    let mut attempts: BTreeMap<(OperatorId, u16), (BTreeSet<Outcome>, bool)> = BTreeMap::new();
    for (record, said) in engine.board().commitments(action).filter(|(_, said)| said.says == Says::Word && !said.lease.slot.is_arbiter()) {
        let node = NodeId(record.author_key());
        let Some(operator) = engine.members().operator_of(&node) else { continue };
        let (words, closed) = attempts.entry((operator, attempt_of(said.lease.slot))).or_default();
        let mut reveals = engine.board().reveals(action).filter(|(other, reveal)| {
            other.author_key() == node.0 && reveal.lease == said.lease && reveal.opens(&operator) == said.commitment
        });
        match reveals.next() {
            Some((_, reveal)) if reveal.outcome.is_vote() && !lacks_room(&reveal.outcome) => drop(words.insert(reveal.outcome.clone())),
            Some(_) => {}
            None => *closed = true,
        }
    }
    let mut clear = BTreeSet::new();
    let mut doubtful = BTreeSet::new();
    for ((operator, _), (words, closed)) in attempts {
        if closed || words.len() > 1 {
            doubtful.insert(operator)
        } else {
            clear.insert(operator)
        };
    }
    doubtful.difference(&clear).copied().collect()
}

/// Checks all verdicts of an action; `lies_may_win` where the quorum may be all liars.
pub fn check(engine: &Engine, action: &ActionId, work: &mut Work, lies_may_win: bool) -> Result<(), String> {
    let words = revealed(engine, action);
    let mut batches: Vec<BatchId> = engine.jobs_of(action).into_iter().map(|(batch, _)| batch).collect();
    batches.dedup();
    for batch in batches {
        let Some(verdict) = engine.verdict_of(&batch, action) else { continue };
        let Some(policy) = super::policy_of(engine, &batch) else { continue };
        // That a machine was lost is no vote, and that it was too small is asked of a larger one: neither can be a copy.
        let no_copy = |outcome: &Outcome| lacks_room(outcome) || matches!(outcome, Outcome::Failure { class: FailureClass::Lost, .. });
        let copied = if verdict.outcome.as_ref().is_some_and(no_copy) { BTreeSet::new() } else { undecided(engine, action) };
        if let Some(operator) = verdict.agreeing.iter().find(|who| copied.contains(who) && verdict.arbiter != Some(**who)) {
            return Err(format!("{}: operator {} is counted and committed to something else, too", action.short(), operator.short()));
        }
        check_verdict(engine, &verdict, policy, &words).map_err(|what| format!("{}: {what}: {verdict:?}", action.short()))?;
        // Liars never agree with each other, or own too few branches, so what the quorum agrees on is what honest machines make.
        if !lies_may_win
            && verdict.state == VerdictState::CrossVerified
            && let Some(truth) = work.truth_of(action, || engine.action(action))
            && verdict.outcome.as_ref() != Some(&truth)
        {
            return Err(format!("{}: a lie is cross-verified: {verdict:?}", action.short()));
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
