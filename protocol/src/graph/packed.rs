//! A graph as the engine keeps it: its canonical bytes, and beside them only what is asked for again and again.
//!
//! A decoded job takes kilobytes, and a node that follows a nightly knows tens of thousands of jobs that it looks at twice
//! each. So a job is decoded when it is bound or shown. What is here depends on nothing but the bytes: engines share it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{GRAPH_BYTES_MAX, GraphError, JOBS_MAX, Job, JobIndex, JobNeed, Limits, laid_by};
use crate::action::{Action, Environment};
use crate::codec;
use crate::id::BlobHash;
use crate::lists::Lists;

/// What decides where a job can be built, and for how long; the same for most jobs of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFacts {
    /// Limits of a build.
    pub limits: Limits,
    /// `BARN_CORES`.
    pub cores: u16,
    /// What the machine must be.
    pub environment: Environment,
}

/// A checked graph in its canonical bytes.
#[derive(Debug)]
pub struct Packed {
    bytes: Arc<[u8]>,
    /// Where each job begins in the bytes; one more than there are.
    starts: Vec<u32>,
    needs: Lists,
    dependants: Lists,
    /// Job → its facts.
    facts_of: Vec<u32>,
    facts: Vec<JobFacts>,
    /// Job → a number for its recipe's name, by which measured times are kept.
    names: Vec<u64>,
}

impl Packed {
    /// The graph that `bytes` are the canonical form of, checked as [`super::Graph::from_bytes`] does.
    ///
    /// # Errors
    /// [`GraphError`].
    pub fn from_bytes(bytes: Arc<[u8]>) -> Result<Self, GraphError> {
        if bytes.len() > GRAPH_BYTES_MAX {
            return Err(codec::DecodeError::TooLarge { given: bytes.len(), limit: GRAPH_BYTES_MAX }.into());
        }
        let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX); // graphs have at most 64 MiB
        let (count, mut at): (u64, usize) = codec::decode_front(&bytes)?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count == 0 || count > JOBS_MAX {
            return Err(GraphError::JobCount(count));
        }
        let mut starts = vec![place(at)];
        let mut needs = Lists::default();
        // Nothing is believed of the count but what the bytes bear out.
        let mut dependants: Vec<Vec<u32>> = Vec::new();
        let mut known: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        let (mut facts_of, mut facts, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..place(count) {
            // One job at a time: all of them decoded would take far more memory than what is kept.
            let (job, length): (Job, usize) = codec::decode_front(bytes.get(at..).unwrap_or_default())?;
            job.check(index)?;
            at += length;
            starts.push(place(at));
            needs.push(job.needs.iter().map(|need| need.job.0));
            dependants.push(Vec::new());
            let below = |job: JobIndex| needs.of(job.0 as usize).iter().map(|job| JobIndex(*job)).collect();
            let mut laid: Vec<JobIndex> = job.needs.iter().flat_map(|need| laid_by(need, below)).collect();
            laid.sort_unstable();
            laid.dedup();
            for below in laid {
                dependants[below.0 as usize].push(index);
            }
            let spelled = codec::encode(&(&job.limits, job.cores, &job.environment));
            facts_of.push(*known.entry(spelled).or_insert_with(|| {
                facts.push(JobFacts { limits: job.limits, cores: job.cores, environment: job.environment });
                place(facts.len() - 1)
            }));
            let name = *blake3::hash(job.recipe.as_bytes()).as_bytes();
            names.push(u64::from_le_bytes(std::array::from_fn(|byte| name[byte])));
        }
        if at != bytes.len() {
            return Err(codec::DecodeError::Trailing(bytes.len() - at).into());
        }
        let mut above = Lists::default();
        for jobs in dependants {
            above.push(jobs);
        }
        Ok(Self { bytes, starts, needs, dependants: above, facts_of, facts, names })
    }

    /// Number of jobs.
    pub const fn len(&self) -> usize {
        self.facts_of.len()
    }

    /// Whether there are none, which no checked graph is.
    pub const fn is_empty(&self) -> bool {
        self.facts_of.is_empty()
    }

    /// All jobs' places.
    pub fn indexes(&self) -> impl DoubleEndedIterator<Item = JobIndex> + ExactSizeIterator + use<> {
        (0..self.facts_of.len()).map(|at| JobIndex(u32::try_from(at).unwrap_or(u32::MAX)))
    }

    /// The job at `index`, decoded.
    pub fn job(&self, index: JobIndex) -> Option<Job> {
        let (from, to) = (*self.starts.get(index.0 as usize)?, *self.starts.get(index.0 as usize + 1)?);
        codec::decode_own(self.bytes.get(from as usize..to as usize)?)
    }

    /// How people call a job; empty where there is none.
    pub fn label(&self, index: JobIndex) -> String {
        self.job(index).map_or_else(String::new, |job| job.label())
    }

    /// What decides where a job can be built.
    pub fn facts(&self, index: JobIndex) -> Option<&JobFacts> {
        self.facts.get(*self.facts_of.get(index.0 as usize)? as usize)
    }

    /// The jobs that a job names as its needs.
    pub fn needs(&self, index: JobIndex) -> impl Iterator<Item = JobIndex> + '_ {
        self.needs.of(index.0 as usize).iter().map(|job| JobIndex(*job))
    }

    /// As [`super::Graph::laid_by`].
    pub fn laid_by(&self, need: &JobNeed) -> Vec<JobIndex> {
        laid_by(need, |job| self.needs(job).collect())
    }

    /// The jobs whose action holds this one's output.
    pub fn dependants(&self, index: JobIndex) -> impl Iterator<Item = JobIndex> + '_ {
        self.dependants.of(index.0 as usize).iter().map(|job| JobIndex(*job))
    }

    /// A number for the job's recipe: equal for equal names.
    pub fn name_number(&self, index: JobIndex) -> u64 {
        self.names.get(index.0 as usize).copied().unwrap_or_default()
    }

    /// As [`super::Graph::bind`], with the job's label.
    pub fn bind(&self, index: JobIndex, output: impl Fn(JobIndex) -> Option<BlobHash>) -> Option<(Action, String)> {
        // Asked first what is cheap to ask: most jobs wait.
        if self.needs(index).any(|need| output(need).is_none()) {
            return None;
        }
        let job = self.job(index)?;
        let label = job.label();
        Some((job.bind(|need| self.laid_by(need), output)?, label))
    }

    /// For every job, how long it is from its start to the end of the last that waits for it, where `cost_ms` tells how
    /// long a job takes and there is always a machine; and how many wait for it directly.
    pub fn ranks(&self, cost_ms: impl Fn(JobIndex) -> u64) -> Vec<(u64, u32)> {
        crate::plan::ranks(self.len(), |at| cost_ms(JobIndex(u32::try_from(at).unwrap_or(u32::MAX))), |at| self.needs.of(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;
    use crate::graph::tests::graph;

    /// What is packed says what the graph says, job by job.
    #[test]
    fn packed_graph_says_what_the_graph_says() {
        let graph = graph();
        let packed = Packed::from_bytes(graph.to_bytes().into()).unwrap();
        assert_eq!(packed.len(), graph.jobs.len());
        let output = |need: JobIndex| Some(BlobHash([u8::try_from(need.0).unwrap(); 32]));
        for index in packed.indexes() {
            let job = graph.job(index).unwrap();
            assert_eq!(packed.job(index).as_ref(), Some(job));
            assert_eq!(packed.facts(index).unwrap().limits, job.limits);
            assert_eq!(packed.bind(index, output), graph.bind(index, output).map(|action| (action, job.label())));
            for below in packed.indexes() {
                let laid = job.needs.iter().any(|need| graph.laid_by(need).contains(&below));
                assert_eq!(packed.dependants(below).any(|above| above == index), laid);
            }
        }
        assert_eq!(packed.bind(JobIndex(2), |_| None), None);
        assert_eq!(packed.job(JobIndex(99)), None);
    }

    /// What the whole graph's reader refuses, this one refuses too, and neither takes memory for what a length claims.
    #[test]
    fn packed_graph_refuses_what_the_graph_refuses() {
        let good = graph().to_bytes();
        let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|at| good[..at].to_vec()).collect();
        bad.push([&good[..], &[0]].concat());
        bad.push([&u64::MAX.to_le_bytes()[..], &good[8..]].concat());
        bad.push([&50_000u64.to_le_bytes()[..], &good[8..]].concat());
        bad.push(0u64.to_le_bytes().to_vec());
        let mut late = graph();
        late.jobs[0].needs = late.jobs[1].needs.clone();
        bad.push(late.to_bytes());
        for bytes in bad {
            assert!(Graph::from_bytes(&bytes).is_err());
            assert!(Packed::from_bytes(bytes.into()).is_err());
        }
        for at in 0..good.len() {
            let mut other = good.clone();
            other[at] ^= 0x41;
            assert_eq!(Graph::from_bytes(&other).is_ok(), Packed::from_bytes(other.into()).is_ok(), "byte {at}");
        }
    }
}
