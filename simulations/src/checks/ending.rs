//! Every job ends if somebody is there who may build it.

use std::collections::BTreeSet;

use barnraiser_protocol::engine::Engine;
use barnraiser_protocol::engine::query::{JobState, JobView};
use barnraiser_protocol::id::{BatchId, NodeId, OperatorId};

use crate::world::World;

/// Jobs that have not ended, as the first node sees them, though somebody could go on with them.
pub fn unended(world: &World) -> Vec<String> {
    let Some(engine) = world.nodes.iter().find_map(|node| node.engine.as_ref()) else { return Vec::new() };
    let mut found = Vec::new();
    for batch in engine.batches() {
        // A graph that can't be had would be one more reason; in a healed network it can.
        if batch.halted.as_ref().is_some_and(|why| why.contains("being fetched")) {
            found.push(format!("{}: {}", batch.name, batch.halted.unwrap_or_default()));
            continue;
        }
        let jobs = engine.jobs(&batch.id);
        let hanging = hanging(&jobs);
        for job in jobs {
            // A job that hangs on another ends with it.
            let own = hanging.contains(&job.label) && !job.needs.iter().any(|need| hanging.contains(need));
            if own && could_go_on(world, engine, &job) {
                found.push(describe(world, engine, &job));
            }
        }
    }
    found
}

/// What the first node for which a batch has failed knows of the job that did.
pub fn failed(world: &World, batch: &BatchId) -> String {
    let up = world.nodes.iter().enumerate().filter_map(|(number, node)| Some((number, node.engine.as_ref()?)));
    let mut thinks_so = up.filter(|(_, engine)| engine.batch_result(batch) == Some(false));
    let told = thinks_so.find_map(|(number, engine)| {
        let jobs = engine.jobs(batch);
        let job = jobs.iter().find(|job| job.state == JobState::Failed)?;
        Some(format!("node {number}: {}", describe(world, engine, job)))
    });
    told.unwrap_or_else(|| "no node that is up thinks so any more".into())
}

/// Everything that is known of a job, for whoever looks for the reason.
pub fn describe(world: &World, engine: &Engine, job: &JobView) -> String {
    let number = |node: &NodeId| world.nodes.iter().position(|other| other.config.key.node() == *node);
    let up = |node: Option<usize>| node.is_some_and(|node| world.nodes[node].engine.is_some());
    let mut text = format!("{} is {}: {}", job.label, job.state, job.why);
    for slot in &job.slots {
        let node = slot.node.as_ref().and_then(number);
        let until = slot.until.map(|until| until.0 as i64 - world.now.0 as i64);
        text += &format!("; slot {} {} epoch {} node {node:?} up {} until {until:?}", slot.slot.0, slot.state, slot.epoch, up(node));
    }
    for word in &job.attestations {
        let node = number(&word.node);
        let branch = engine.members().branch_of(&word.operator).map(|branch| branch.0.short());
        text += &format!(
            "; {}@{} by node {node:?} of {} in {branch:?}: {:?}",
            word.lease.slot.0,
            word.lease.epoch,
            word.operator.short(),
            word.outcome
        );
    }
    text
}

/// Labels of the jobs of a batch that have not ended or are built upon one that has not.
pub fn hanging(jobs: &[JobView]) -> BTreeSet<String> {
    let mut hanging = BTreeSet::new();
    // Needs stand before what needs them.
    for job in jobs {
        let ended = matches!(job.state, JobState::CrossVerified | JobState::Failed | JobState::Withdrawn);
        if !ended || job.needs.iter().any(|need| hanging.contains(need)) {
            hanging.insert(job.label.clone());
        }
    }
    hanging
}

/// Whether a live node may and can take a slot of the job, or holds one.
fn could_go_on(world: &World, engine: &Engine, job: &JobView) -> bool {
    let Some(id) = job.action else { return false };
    let (Some(action), Some(policy)) = (engine.action(&id), super::policy_of(engine, &job.batch)) else {
        return false;
    };
    let live = |slot: &&barnraiser_protocol::engine::query::SlotView| {
        slot.state == "held"
            && slot.node.is_some_and(|node| world.nodes.iter().any(|other| other.engine.is_some() && other.config.key.node() == node))
    };
    if job.slots.iter().any(|slot| live(&slot)) {
        return true;
    }
    let branch = |operator: &OperatorId| engine.members().branch_of(operator).map_or(*operator, |branch| branch.0);
    let arbiter = matches!(job.state, JobState::Disputed | JobState::PlatformDependent);
    let committed = engine.board().commitments(&id).filter(|(_, commitment)| !(arbiter && commitment.lease.slot.is_arbiter()));
    let used: BTreeSet<OperatorId> = committed
        .filter_map(|(record, _)| engine.members().operator_of(&NodeId(record.author_key())))
        .map(|operator| branch(&operator))
        .collect();
    world.nodes.iter().filter(|node| node.engine.is_some()).any(|node| {
        let lend = node.config.lend;
        let may = if arbiter {
            // Three builds that a machine spoilt are enough of one arbiter.
            let tried = job.attestations.iter().filter(|said| said.operator == node.operator && said.lease.slot.is_arbiter());
            engine.params().grants.trusted.contains(&node.operator) && tried.count() < 3
        } else {
            engine.members().may_vote(&node.operator, policy) && !lend.arbiter_only
        };
        let able = lend.builds && lend.cores >= action.cores && node.config.facts.unmet(&action.environment).is_none();
        may && able && !used.contains(&branch(&node.operator))
    })
}
