//! After everything was healed, all live nodes know the same records and conclude the same from them.

use std::time::Duration;

use barnraiser_protocol::engine::Engine;

use crate::world::World;

/// Records younger than this may still be on their way.
const YOUNG: Duration = Duration::from_secs(90);
/// Records this close to their end may be forgotten here and not yet there.
const OLD: Duration = Duration::from_secs(180);

/// What keeps the live nodes from being alike; `None` where nothing does.
pub fn difference(world: &World) -> Option<String> {
    difference_between(world, 0..world.nodes.len())
}

/// What keeps those of `nodes` that are up from being alike.
pub fn difference_between(world: &World, nodes: impl Iterator<Item = usize>) -> Option<String> {
    let up: Vec<usize> = nodes.filter(|node| world.nodes[*node].engine.is_some()).collect();
    let (&first, others) = up.split_first()?;
    let known = settled_records(world, first);
    let concluded = world.nodes[first].engine.as_ref().map(conclusions);
    for &other in others {
        let theirs = settled_records(world, other);
        if theirs != known {
            let lacks =
                |has: &[String], lacks: &[String]| has.iter().filter(|line| !lacks.contains(line)).take(3).cloned().collect::<Vec<_>>();
            return Some(format!(
                "node {first} has {} records, node {other} {}; only there {:?}, only here {:?}",
                known.len(),
                theirs.len(),
                lacks(&theirs, &known),
                lacks(&known, &theirs),
            ));
        }
        let theirs = world.nodes[other].engine.as_ref().map(conclusions);
        if theirs != concluded {
            let (Some(ours), Some(theirs)) = (&concluded, &theirs) else { return Some(format!("node {other} is down")) };
            let only = |has: &[String], lacks: &[String]| has.iter().find(|line| !lacks.contains(line)).cloned();
            let (here, there) = (only(ours, theirs), only(theirs, ours));
            return Some(format!("nodes {first} and {other} conclude differently from the same records: {here:?}, {there:?}"));
        }
    }
    None
}

fn settled_records(world: &World, node: usize) -> Vec<String> {
    let Some(engine) = &world.nodes[node].engine else { return Vec::new() };
    let cut = world.now + OLD;
    let settled = engine.items().iter().filter(|(at, _)| *at >= cut).filter_map(|(_, id)| engine.record(&id));
    let young = |record: &barnraiser_protocol::record::SharedRecord| record.issued() + YOUNG > world.now;
    // Of renewals and presences only the latest of a node is kept, and one that is young here may be on its way there.
    let settled = settled.filter(|record| !young(record) && !record.kind().latest_only());
    settled.map(|record| format!("{:?} {}", record.kind(), record.id().short())).collect()
}

/// What a node says of every job, without what depends on when it heard of it.
fn conclusions(engine: &Engine) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in engine.batches() {
        // A batch that was cancelled is bound no further, so what is shown of it depends on when a node heard of that.
        if batch.halted.is_some() {
            lines.push(format!("{} {:?}", batch.id.short(), batch.halted));
            continue;
        }
        lines.push(format!("{} {:?}", batch.id.short(), batch.result));
        let jobs = engine.jobs(&batch.id);
        // Where a dispute waits for an arbiter, what was bound before it stays bound, and nothing new is: that, too,
        // depends on when a node heard of what.
        let hanging = super::ending::hanging(&jobs);
        for job in jobs.iter().filter(|job| !hanging.contains(&job.label)) {
            let closed: Vec<_> =
                job.slots.iter().filter(|slot| slot.state == "closed").map(|slot| (slot.slot, slot.epoch, slot.node)).collect();
            lines.push(format!("{} {:?} {} {:?} {closed:?}", job.label, job.action, job.state, job.verdict));
        }
    }
    lines
}
