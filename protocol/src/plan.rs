//! The planner: what a graph comes to before any input is known. Which jobs are the same, over many graphs, and which of
//! them go first.
//!
//! A job's [`SymbolicKey`] is a Merkle hash over what it says and the keys of what it needs, so equal keys become equal
//! actions. Distinct jobs are ordered by critical path: the time from a job's start to the end of all that waits for it.
//! [`Planner::replace`] plans anew after one job has changed; what the others say is not hashed again.

use std::time::Duration;

use serde::Serialize;

use crate::codec;
use crate::graph::{Graph, Job, JobIndex};
use crate::lists::Lists;
use crate::recipe::SymbolicKey;
use crate::table::Table;

/// Domain of what a job says by itself.
const OWN_DOMAIN: &str = "barnraiser 2026 planned job v1";
/// Domain of a job's key.
const KEY_DOMAIN: &str = "barnraiser 2026 planned key v1";

/// What a job says that its action will say too; its needs are told apart.
#[derive(Serialize)]
struct Own<'a> {
    sources: &'a [crate::action::Source],
    vars: &'a std::collections::BTreeMap<String, String>,
    environment: &'a crate::action::Environment,
    shell: &'a [String],
    steps: &'a [crate::action::Step],
    outputs: &'a std::collections::BTreeMap<String, String>,
    epoch: u64,
    cores: u16,
    needs: Vec<(&'a str, bool, &'a [String])>,
}

fn own(job: &Job) -> [u8; 32] {
    let own = Own {
        sources: &job.sources,
        vars: &job.vars,
        environment: &job.environment,
        shell: &job.shell,
        steps: &job.steps,
        outputs: &job.outputs,
        epoch: job.epoch,
        cores: job.cores,
        needs: job.needs.iter().map(|need| (&*need.at, need.closure, &*need.only)).collect(),
    };
    blake3::derive_key(OWN_DOMAIN, &codec::encode(&own))
}

/// The place of a job among those of all graphs, one graph after the other.
pub type JobPlace = u32;

/// A distinct job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Distinct {
    /// The first job that is it.
    pub job: JobPlace,
    /// The time from its start to the end of the last that waits for it, in milliseconds, if there is always a machine.
    pub rank_ms: u64,
    /// How many distinct jobs need it directly.
    pub fan_out: u32,
}

/// Many graphs, planned as one.
#[derive(Debug, Clone)]
pub struct Planner {
    own: Vec<[u8; 32]>,
    cost_ms: Vec<u64>,
    /// Job → the jobs that it names as needs, as places among all.
    needs: Lists,
    keys: Vec<SymbolicKey>,
    /// Job → its place in `distinct`.
    distinct_of: Vec<u32>,
    distinct: Vec<Distinct>,
    order: Vec<u32>,
}

impl Planner {
    /// Plans `graphs`; `cost` is how long a job is thought to take.
    pub fn new<'a>(graphs: impl IntoIterator<Item = &'a Graph>, cost: impl Fn(&Job) -> Duration) -> Self {
        let mut planner = Self {
            own: Vec::new(),
            cost_ms: Vec::new(),
            needs: Lists::default(),
            keys: Vec::new(),
            distinct_of: Vec::new(),
            distinct: Vec::new(),
            order: Vec::new(),
        };
        for graph in graphs {
            let base = places(planner.own.len());
            for job in &graph.jobs {
                planner.own.push(own(job));
                planner.cost_ms.push(millis(cost(job)));
                planner.needs.push(job.needs.iter().map(|need| base + need.job.0));
            }
        }
        planner.plan();
        planner
    }

    /// Plans anew after the job at `place` became another one. It must need the same jobs in the same order; a graph whose
    /// edges changed is planned with [`Planner::new`]. Returns how many distinct jobs have a new key and so must be built.
    pub fn replace(&mut self, place: JobPlace, job: &Job, cost: Duration) -> usize {
        let Some(own_hash) = self.own.get_mut(place as usize) else { return 0 };
        *own_hash = own(job);
        self.cost_ms[place as usize] = millis(cost);
        let before = self.keys.clone();
        self.plan();
        self.distinct.iter().filter(|distinct| before[distinct.job as usize] != self.keys[distinct.job as usize]).count()
    }

    /// Keys, distinct jobs, ranks and order, in that order, each in one pass: needs stand before what needs them.
    fn plan(&mut self) {
        let jobs = self.own.len();
        let mut keys: Vec<SymbolicKey> = Vec::with_capacity(jobs);
        let mut distinct: Vec<Distinct> = Vec::new();
        // The planner is fed by its own maintainer, and keys are hashes: no secret is needed.
        let mut table = Table::new(0);
        self.distinct_of.clear();
        let mut material = Vec::new();
        let key_hasher = blake3::Hasher::new_derive_key(KEY_DOMAIN);
        for place in 0..jobs {
            material.clear();
            material.extend_from_slice(&self.own[place]);
            for need in self.needs.of(place) {
                material.extend_from_slice(&keys[*need as usize].0);
            }
            let key = SymbolicKey(*key_hasher.clone().update(&material).finalize().as_bytes());
            keys.push(key);
            let found = table.find(&key.0, |at| &keys[distinct[at as usize].job as usize].0).unwrap_or_else(|| {
                let new = places(distinct.len());
                table.insert(&key.0, new);
                distinct.push(Distinct { job: places(place), rank_ms: 0, fan_out: 0 });
                new
            });
            self.distinct_of.push(found);
        }
        let jobs_of: Vec<usize> = distinct.iter().map(|distinct| distinct.job as usize).collect();
        let mut below = Lists::default();
        for job in &jobs_of {
            below.push(self.needs.of(*job).iter().map(|need| self.distinct_of[*need as usize]));
        }
        let ranks = ranks(distinct.len(), |at| self.cost_ms[jobs_of[at]], |at| below.of(at));
        for (distinct, (rank_ms, fan_out)) in distinct.iter_mut().zip(ranks) {
            (distinct.rank_ms, distinct.fan_out) = (rank_ms, fan_out);
        }
        let mut order: Vec<u32> = (0..places(distinct.len())).collect();
        order.sort_unstable_by_key(|at| {
            let distinct = &distinct[*at as usize];
            (std::cmp::Reverse((distinct.rank_ms, distinct.fan_out)), *at)
        });
        self.keys = keys;
        self.distinct = distinct;
        self.order = order;
    }

    /// The key of each job.
    pub fn keys(&self) -> &[SymbolicKey] {
        &self.keys
    }

    /// Which distinct job the job at `place` is.
    pub fn distinct_of(&self, place: JobPlace) -> Option<Distinct> {
        Some(self.distinct[*self.distinct_of.get(place as usize)? as usize])
    }

    /// The distinct jobs in the order in which they should be begun: the longest way to the end first, then what most
    /// others wait for. Needs stand before what needs them.
    pub fn in_order(&self) -> impl Iterator<Item = Distinct> + '_ {
        self.order.iter().map(|at| self.distinct[*at as usize])
    }

    /// The rank of every job of a single graph, by [`JobIndex`]: what the engine orders its work by.
    pub fn rank_ms(&self, job: JobIndex) -> u64 {
        self.distinct_of(job.0).map_or(0, |distinct| distinct.rank_ms)
    }
}

/// For every vertex its rank in milliseconds, and how many need it directly; needs have lower places.
pub(crate) fn ranks<'a>(count: usize, cost_ms: impl Fn(usize) -> u64, needs: impl Fn(usize) -> &'a [u32]) -> Vec<(u64, u32)> {
    let mut ranks = vec![(0u64, 0u32); count];
    for at in (0..count).rev() {
        // Nothing takes no time at all, so whoever needs another always stands behind it.
        let rank = ranks[at].0.saturating_add(cost_ms(at).max(1));
        ranks[at].0 = rank;
        for need in needs(at) {
            let (longest, fan_out) = &mut ranks[*need as usize];
            *longest = rank.max(*longest);
            *fan_out += 1;
        }
    }
    ranks
}

/// Graphs have at most [`crate::graph::JOBS_MAX`] jobs, and nobody plans so many graphs that `u32` is too small.
fn places(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
