//! One live lease a slot and epoch once gossip has settled; and no machine promises more than it has.

use std::collections::BTreeMap;

use barnraiser_protocol::engine::Engine;
use barnraiser_protocol::record::payload::{LEASES_PER_NODE_MAX, LeaseRef};
use barnraiser_protocol::time::Timestamp;

use crate::world::World;
use crate::world::lease_text;

/// How long two nodes may hold one lease in a healed network, in mean times between two comparisons of a node: claims
/// from before are heard of by comparison only, and a rumour that doubles each time reaches hundreds in a few of them.
const SETTLED_ROUNDS: u32 = 8;

/// Leases that several nodes hold, and since when.
#[derive(Debug, Default)]
pub struct Leases {
    shared: BTreeMap<LeaseRef, Timestamp>,
}

/// Looks at all leases. `healed` says whether messages arrive.
pub fn check(world: &mut World, healed: bool) {
    let now = world.now;
    let mut held: BTreeMap<LeaseRef, Vec<usize>> = BTreeMap::new();
    let mut faults = Vec::new();
    for (number, node) in world.nodes.iter().enumerate() {
        let Some(engine) = &node.engine else { continue };
        let own = engine.own_leases();
        if own.len() > LEASES_PER_NODE_MAX {
            faults.push(format!("node {number} holds {} leases", own.len()));
        }
        let (used, lend) = (engine.in_use(), engine.config().lend);
        // What runs goes on when the owner lends less.
        if lend.builds && (used.cores > lend.cores || used.memory > lend.memory) {
            faults.push(format!("node {number} uses {used:?} of {lend:?}"));
        }
        faults.extend(unknown_builds(number, engine, world));
        own.into_iter().for_each(|lease| held.entry(lease).or_default().push(number));
    }
    held.retain(|_, nodes| nodes.len() > 1);
    let settled = world.compare_every * SETTLED_ROUNDS;
    let shared = &mut world.checks.leases.shared;
    shared.retain(|lease, _| healed && held.contains_key(lease));
    for (lease, nodes) in held.iter().filter(|_| healed) {
        let since = *shared.entry(*lease).or_insert(now);
        if now.since(since) > settled {
            faults.push(format!("nodes {nodes:?} hold {} since {} s", lease_text(lease), now.since(since).as_secs()));
        }
    }
    faults.into_iter().for_each(|what| world.checks.fault("leases", now, what));
}

/// Builds that run without a lease.
fn unknown_builds(number: usize, engine: &Engine, world: &World) -> Option<String> {
    let own = engine.own_leases();
    let mut running = world.nodes[number].builds.keys();
    // An order to stop may wait for the disk; longer than that it may not.
    running
        .find(|lease| !own.contains(lease) && engine.proving() != Some(**lease) && world.nodes[number].is_idle())
        .map(|lease| format!("node {number} builds {} without a lease", lease_text(lease)))
}
