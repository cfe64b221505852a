//! What must hold, a checker in a file each. They see engines from outside, through what any program may ask of them, and
//! judge by rules that are written here a second time, as slow and plain as can be.
//!
//! - always, at every output: [`votes`], [`policy`];
//! - at every tick: [`memory`], [`leases`] (once gossip has settled);
//! - after everything was healed: [`convergence`], [`ending`].

pub mod convergence;
pub mod ending;
pub mod leases;
pub mod memory;
pub mod policy;
pub mod votes;

use barnraiser_protocol::engine::{Engine, Event, Output};
use barnraiser_protocol::id::{BatchId, RecordId};
use barnraiser_protocol::policy::Policy;
use barnraiser_protocol::record::Payload;
use barnraiser_protocol::time::Timestamp;
use serde::Serialize;

use crate::world::work::Work;

/// Names of all checkers, as reports show them.
pub const NAMES: [&str; 6] = ["convergence", "ending", "leases", "memory", "policy", "votes"];
/// A run that fails fails often: what is kept of it.
const FAULTS_MAX: usize = 20;

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The checker.
    pub check: &'static str,
    /// When, in milliseconds since the run began.
    pub at_ms: u64,
    /// What.
    pub what: String,
}

/// The policy that a batch pins, if both are known. Not through what the engine tells people of a batch: that counts all
/// of its jobs.
fn policy_of<'a>(engine: &'a Engine, batch: &BatchId) -> Option<&'a Policy> {
    match engine.record(&RecordId(batch.0))?.payload() {
        Payload::Batch(batch) => engine.policy(&batch.policy).map(AsRef::as_ref),
        _ => None,
    }
}

/// What was found so far.
#[derive(Debug, Default)]
pub struct Checks {
    /// The first faults.
    pub faults: Vec<Fault>,
    /// Leases that two nodes hold.
    pub leases: leases::Leases,
    /// Whether those who agree on lies own as many branches as the quorum asks for, so that one may be cross-verified.
    pub lies_may_win: bool,
}

impl Checks {
    /// Notes a fault.
    pub fn fault(&mut self, check: &'static str, now: Timestamp, what: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(Fault { check, at_ms: now.0.saturating_sub(crate::world::START.0), what });
        }
    }

    /// Looks at what an engine wants at the moment it says so.
    pub fn said(&mut self, engine: &Engine, (node, now): (usize, Timestamp), output: &Output, work: &mut Work) {
        let found = match output {
            Output::Event(Event::Verdict { action, .. }) => {
                votes::check(engine, action, work, self.lies_may_win).map_err(|what| ("votes", what))
            }
            Output::Start(order) => policy::check_start(engine, order).map_err(|what| ("policy", what)),
            Output::Open(result) => policy::check_open(engine, result).map_err(|what| ("policy", what)),
            _ => return,
        };
        if let Err((check, what)) = found {
            self.fault(check, now, format!("node {node}: {what}"));
        }
    }
}
