//! No result is used outside policy: nothing is built upon what is not good enough, nothing is opened too early.

use std::collections::BTreeSet;

use barnraiser_protocol::blame::is_larger;
use barnraiser_protocol::engine::{BuildOrder, Engine, OwnResult};
use barnraiser_protocol::id::{ActionId, BlobHash, NodeId};
use barnraiser_protocol::outcome::Outcome;
use barnraiser_protocol::policy::{Policy, Standard};
use barnraiser_protocol::verdict::VerdictState;

use super::votes::branches_for;

/// A build that starts must have inputs that its batch's policy lets others use.
pub fn check_start(engine: &Engine, order: &BuildOrder) -> Result<(), String> {
    let Some(graph) = engine.graph(&order.batch) else { return Err(format!("{} is built for a batch without graph", order.label)) };
    let Some(policy) = super::policy_of(engine, &order.batch) else {
        return Err(format!("{} is built for a batch without policy", order.label));
    };
    let jobs = engine.jobs_of(&order.lease.action);
    let Some((_, index)) = jobs.iter().find(|(batch, _)| *batch == order.batch) else {
        return Err(format!("{} is built for a batch that does not ask for it", order.label));
    };
    let below = graph.job(*index).into_iter().flat_map(|job| job.needs).flat_map(|need| graph.laid_by(&need));
    let actions: BTreeSet<ActionId> = below.filter_map(|need| engine.job(&order.batch, need)).filter_map(|job| job.action).collect();
    for need in &order.action.needs {
        if !actions.iter().any(|action| is_good(engine, order, action, &need.tree, policy)) {
            return Err(format!("{} is built upon {}, which its policy does not allow", order.label, need.tree.short()));
        }
    }
    Ok(())
}

fn is_good(engine: &Engine, order: &BuildOrder, action: &ActionId, tree: &BlobHash, policy: &Policy) -> bool {
    let outcome = Outcome::Success { tree: *tree };
    let wanted = match policy.inputs {
        Standard::Candidate => 1,
        Standard::CrossVerified => usize::from(policy.quorum),
    };
    // An input that fell into dispute after its dependant was bound stays bound: nothing better is known (DESIGN
    // section 8.6 re-opens bindings, not builds).
    let disputed = engine
        .verdict_of(&order.batch, action)
        .is_some_and(|verdict| matches!(verdict.state, VerdictState::Disputed | VerdictState::PlatformDependent));
    let wanted = if disputed { 1 } else { wanted };
    branches_for(engine, action, &outcome, policy) >= wanted
}

/// A result that is opened must have the quorum's commitments beside it, or be one that nobody could copy to any use.
pub fn check_open(engine: &Engine, result: &OwnResult) -> Result<(), String> {
    // An arbiter and a larger machine are asked since others have spoken; what a machine spoilt tells nobody anything.
    if result.lease.slot.is_arbiter() || is_larger(result.lease.slot) || !result.outcome.is_vote() {
        return Ok(());
    }
    let action = result.lease.action;
    let wanted = engine
        .jobs_of(&action)
        .iter()
        .filter_map(|(batch, _)| super::policy_of(engine, batch))
        .map(|policy| usize::from(policy.quorum))
        .min();
    let branches: BTreeSet<_> = engine
        .board()
        .commitments(&action)
        .filter_map(|(record, _)| engine.members().operator_of(&NodeId(record.author_key())))
        .filter_map(|operator| engine.members().branch_of(&operator))
        .collect();
    match wanted {
        Some(wanted) if branches.len() >= wanted => Ok(()),
        _ => Err(format!("a result of {} is opened with {} branches committed, {wanted:?} are wanted", action.short(), branches.len())),
    }
}
