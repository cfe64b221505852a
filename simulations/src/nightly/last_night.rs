//! What is left of the night before: everything was built once, at other versions, and how long that took is known.

use std::time::Duration;

use anyhow::Context as _;
use barnraiser_protocol::graph::{Graph, JobIndex};
use barnraiser_protocol::outcome::{Outcome, Particulars};
use barnraiser_protocol::policy::Policy;
use barnraiser_protocol::record::payload::{Commitment, LeaseRef, Priority, Reveal, Says, SlotNo};
use barnraiser_protocol::record::{Payload, Record, SharedRecord};
use barnraiser_protocol::time::Timestamp;

use super::night::Night;
use crate::dice::Dice;
use crate::world::START;
use crate::world::people::{NETWORK, People};
use crate::world::work::{MEMORY, Nature, Task, Work};

/// How long ago.
const AGO: Duration = Duration::from_secs(24 * 3600);
/// The network keeps batches for a month.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// How much durations differ from one night to the next: the standard deviation of their logarithm.
const DIFFERENCE_SIGMA: f64 = 0.1;

/// The records of last night: its batch, and for each recipe what the two founders said of it.
///
/// # Errors
/// A record can't be made.
pub fn records(night: &Night, people: &People, policy: &Policy, work: &mut Work, dice: &mut Dice) -> anyhow::Result<Vec<SharedRecord>> {
    let then = Timestamp(START.0 - u64::try_from(AGO.as_millis())?);
    let mut graph = Graph::default();
    let mut millis = Vec::new();
    for (name, cost) in &night.costs {
        let task = Task { nature: Nature::Sound, core_seconds: cost.core_seconds, output_bytes: 0, memory: MEMORY / 2 };
        let mut job = work.add(&format!("{name} of last night"), &[], cost.cores, "x86_64", task);
        job.recipe.clone_from(name);
        graph.jobs.push(job);
        millis.push((cost.millis() as f64 * dice.log_normal(1.0, DIFFERENCE_SIGMA)) as u64);
    }
    let batch = work.batch("images of last night", &graph, policy, Priority::Nightly, dice.bytes(), super::MAINTAINER);
    let say = |node: usize, number: u64, payload| Record::author(&people.nodes[node], NETWORK, number, then, then + KEPT, payload);
    let mut records = vec![say(super::MAINTAINER, 1, Payload::Batch(batch.into()))?];
    for (index, wall_ms) in (0u32..).zip(millis) {
        let action = graph.bind(JobIndex(index), |_| None).context("a job without needs is bound at once")?;
        let outcome = work.truth(&action).context("every build of last night was sound")?;
        for founder in 0..2u16 {
            let node = usize::from(founder);
            let lease = LeaseRef { action: action.id(), slot: SlotNo(founder), epoch: 1 };
            let salt = dice.bytes();
            let commitment = outcome.commitment(None, &people.operators[node], &salt);
            let number = u64::from(index) * 2 + 2;
            records.push(say(node, number, Payload::Commitment(Commitment { lease, commitment, says: Says::Word, renewed_ago_ms: 0 }))?);
            records.push(say(node, number + 1, Payload::Reveal(reveal(lease, &outcome, salt, wall_ms).into()))?);
        }
    }
    Ok(records)
}

fn reveal(lease: LeaseRef, outcome: &Outcome, salt: [u8; 32], wall_ms: u64) -> Reveal {
    let particulars = Particulars { wall_ms, ..crate::world::work::unmeasured() };
    Reveal { lease, outcome: outcome.clone(), again: None, salt, particulars }
}
