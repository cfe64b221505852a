//! Bounded memory: what a node keeps grows with what is being built, and with nothing else.

use std::collections::BTreeSet;

use barnraiser_protocol::id::ActionId;
use barnraiser_protocol::record::{Kind, Payload};

use crate::world::World;

/// Claims that may stand on one action on average, beside three of every node (it may try so often what it spoils): with
/// clocks that differ by minutes a claim is not heard of before others are made, but nobody has a reason to claim one slot
/// again and again.
const CLAIMS_PER_ACTION_MAX: usize = 24;
/// Leases given back that may be heard of before the claims on them.
const HAND_BACKS_EARLY: usize = 256;
/// Outputs of one node that wait to be carried out, beside some for each record that it keeps.
const BACKLOG_MAX: usize = 256;

/// Looks at every board.
pub fn check(world: &mut World) {
    let mut faults = Vec::new();
    for (number, node) in world.nodes.iter().enumerate() {
        let Some(engine) = &node.engine else { continue };
        let board = engine.board();
        for kind in Kind::ALL.iter().filter(|kind| kind.latest_only()) {
            let count = board.of_kind(*kind).count();
            // The last word of a machine that left for good stays until its time is over.
            if count > world.nodes.len() + world.replaced {
                faults.push(format!("node {number} keeps {count} records {kind:?}, one a node counts"));
            }
        }
        let claims = board.of_kind(Kind::Claim).count();
        let actions: BTreeSet<ActionId> = board
            .of_kind(Kind::Claim)
            .filter_map(|record| match record.payload() {
                Payload::Claim(claim) => Some(claim.lease.action),
                _ => None,
            })
            .collect();
        if claims > actions.len().max(4) * (CLAIMS_PER_ACTION_MAX + 3 * world.nodes.len()) {
            faults.push(format!("node {number} keeps {claims} claims on {} actions", actions.len()));
        }
        let backs = board.of_kind(Kind::HandBack).filter_map(|record| match record.payload() {
            Payload::HandBack(back) => Some(back.leases.len()),
            _ => None,
        });
        let backs: usize = backs.sum();
        // Some of the claims may be heard of later than that they were given back.
        if backs > 2 * claims + HAND_BACKS_EARLY {
            faults.push(format!("node {number} keeps {backs} leases that were given back, and {claims} claims"));
        }
        let results = engine.own_results().count();
        // Where few build, one can be far ahead of the others: a result waits until somebody else has one of the action.
        if results > actions.len() {
            faults.push(format!("node {number} keeps {results} results of {} actions that are not revealed", actions.len()));
        }
        // A node that starts tells of everything that it reads from its disk.
        if node.backlog() > BACKLOG_MAX + 4 * board.len() {
            faults.push(format!("{} outputs of node {number} wait", node.backlog()));
        }
    }
    let now = world.now;
    faults.into_iter().for_each(|what| world.checks.fault("memory", now, what));
}
