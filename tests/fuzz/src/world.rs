//! A small network with everything in it that can be attacked. The same in every run: keys are counted, time stands still.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use barnraiser_protocol::action::{Environment, Step};
use barnraiser_protocol::bounded::{BoundedString, BoundedVec};
use barnraiser_protocol::engine::{Capacity, Config, Engine, Input, Lend, Output, Params};
use barnraiser_protocol::evidence::Evidence;
use barnraiser_protocol::graph::{Graph, Job, JobIndex, JobKind, JobNeed, Limits};
use barnraiser_protocol::id::{BatchId, BlobHash, NetworkId, OperatorId};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::outcome::{Outcome, Particulars};
use barnraiser_protocol::platform::Facts;
use barnraiser_protocol::policy::Policy;
use barnraiser_protocol::record::payload::{Batch, NodeCertificate, Priority};
use barnraiser_protocol::record::{Payload, Record, SharedRecord};
use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::trust::charter::{Charter, NetworkPlan, propose_network};
use barnraiser_protocol::trust::keys::{NotaryKeys, SigningKey};
use barnraiser_protocol::trust::tuf::PublicKey;

/// When everything happens.
pub const START: Timestamp = Timestamp(1_800_000_000_000);
/// How many operators are founders.
pub const FOUNDERS: u8 = 3;

/// The key of an operator; the first [`FOUNDERS`] are founders.
pub fn operator_key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

/// The key of a node; of the operator with that number, in this world.
pub fn node_key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[100_u8.wrapping_add(n); 32])
}

/// A maintainer's signing key.
pub fn maintainer(n: u8) -> SigningKey {
    SigningKey::from_seed(&[200_u8.wrapping_add(n); 32])
}

/// A network of three founders, of whom two maintainers sign together.
pub struct World {
    /// Its signed state.
    pub charter: Charter,
    /// Two jobs, one upon the other.
    pub graph: Graph,
    /// Who works for whom.
    pub certificates: Vec<SharedRecord>,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// The one world there is.
    pub fn new() -> Self {
        let cards = (0..FOUNDERS).map(|n| maintainer(n).card(Some(operator_key(n).operator()))).collect();
        let plan = NetworkPlan::new("oak", Policy { quorum: 1, slots: 2, ..Policy::small() }, cards, 2);
        let mut plan = plan.unwrap_or_else(|error| unreachable!("the name is one: {error}"));
        let notary = NotaryKeys::of(&operator_key(0));
        plan.snapshot.push(PublicKey::of(&notary.snapshot));
        plan.timestamp.push(PublicKey::of(&notary.timestamp));
        let proposal = propose_network(&plan, START).unwrap_or_else(|error| unreachable!("the plan is good: {error}"));
        let files: Vec<_> = (0..2).filter_map(|n| proposal.sign(&maintainer(n)).ok()).collect();
        let charter = proposal.open(&files).unwrap_or_else(|error| unreachable!("two of three have signed: {error}"));
        let graph = Graph { jobs: vec![job("zlib", &[]), job("tool", &[0])] };
        let mut world = Self { charter, graph, certificates: Vec::new() };
        world.certificates = (0..FOUNDERS + 1).filter_map(|n| world.certificate(n)).collect();
        world
    }

    /// The network's id.
    pub const fn network(&self) -> NetworkId {
        self.charter.network()
    }

    /// A record of the author with that key.
    pub fn record(&self, by: &SecretKey, sequence: u64, issued: Timestamp, payload: Payload) -> Option<SharedRecord> {
        Record::author(by, self.network(), sequence, issued, Timestamp::MAX, payload).ok()
    }

    fn certificate(&self, n: u8) -> Option<SharedRecord> {
        let certificate = NodeCertificate::new(&node_key(n), &self.network(), &operator(n));
        self.record(&operator_key(n), 1, START, Payload::NodeCertificate(certificate.into()))
    }

    /// An engine of the node with that number, that knows who works for whom.
    pub fn engine(&self, node: u8, builds: bool) -> Engine {
        let params = Params {
            network: self.network(),
            lease_ttl: Duration::from_secs(180),
            clock_difference: Duration::from_secs(60),
            grants: self.charter.grants().clone(),
            policy: self.charter.policy().clone(),
        };
        let facts = Facts { os: "linux".into(), arch: "x86_64".into(), isa: "x86-64-v3".into(), features: BTreeSet::new() };
        let lend = Lend { builds, arbiter_only: false, cores: 1, memory: 4 << 30 };
        let config = Config { key: node_key(node), facts, programs: BTreeSet::new(), lend };
        let mut engine = Engine::new(params, config, [7; 32], START);
        for certificate in &self.certificates {
            engine.receive(START, certificate);
        }
        engine
    }

    /// A batch of the world's graph.
    pub fn batch(&self, nonce: u8) -> Batch {
        let bytes = self.graph.to_bytes();
        Batch {
            name: BoundedString::cut("fuzz"),
            channel: BoundedString::cut("nightly"),
            priority: Priority::Nightly,
            graph: BlobHash::of(&bytes),
            graph_length: bytes.len() as u64,
            jobs: u32::try_from(self.graph.jobs.len()).unwrap_or(u32::MAX),
            policy: self.charter.policy().hash(),
            nonce: [nonce; 32],
            revision: BoundedString::cut("4f2a"),
            url: BoundedString::default(),
            labels: BoundedVec::default(),
        }
    }

    /// The evidence of an action that one founder built, as its bytes.
    pub fn evidence(&self) -> Option<Vec<u8>> {
        let mut engine = self.engine(1, true);
        engine.handle(START, Input::Capacity(Capacity { cores: 1, memory: 4 << 30 }));
        let batch = engine.publish(START, Payload::Batch(self.batch(1).into()), Duration::from_secs(86_400))?;
        let batch = BatchId::from(batch);
        let graph: Arc<[u8]> = self.graph.to_bytes().into();
        let mut now = START;
        for _ in 0..20 {
            while let Some(output) = engine.poll_output() {
                match output {
                    Output::Fetch { want, .. } => engine.handle(now, Input::Fetched { want, bytes: graph.clone() }),
                    Output::Start(order) => {
                        let outcome = Outcome::Success { tree: BlobHash([7; 32]) };
                        let (lease, particulars) = (order.lease, particulars());
                        engine.handle(now, Input::Finished { lease, outcome, again: None, particulars });
                    }
                    _ => {}
                }
            }
            now = now + Duration::from_secs(5);
            engine.handle_timeout(now);
        }
        let action = engine.job(&batch, JobIndex(0))?.action?;
        Some(Evidence::gather(&engine, &self.charter, &batch, &action).ok()??.to_bytes())
    }
}

/// What every build here was like.
pub fn particulars() -> Particulars {
    Particulars {
        log: Some(BlobHash([9; 32])),
        log_length: 10,
        wall_ms: 1,
        cpu_ms: 1,
        memory_peak: 0,
        fingerprint: BoundedString::cut("linux 6.1"),
        sandbox: BoundedString::cut("bwrap"),
    }
}

fn job(name: &str, needs: &[u32]) -> Job {
    Job {
        recipe: name.into(),
        version: "1".into(),
        cell: [("device".to_owned(), "RPi5".to_owned())].into(),
        kind: JobKind::Build,
        sources: Vec::new(),
        needs: needs
            .iter()
            .map(|n| JobNeed { job: JobIndex(*n), at: format!("/needs/{n}"), closure: true, only: vec!["lib/**".into()] })
            .collect(),
        vars: [("DEVICE".to_owned(), "RPi5".to_owned())].into(),
        environment: Environment::host("linux", ["x86_64"]),
        shell: vec!["sh".into(), "-e".into()],
        steps: vec![Step { name: "build".into(), script: format!("make {name}") }],
        outputs: [("out".to_owned(), "out".to_owned())].into(),
        epoch: 0,
        cores: 1,
        limits: Limits { memory: 1 << 30, disk: 1 << 30, wall: Duration::from_secs(600), silent: Duration::from_secs(600) },
        targets: [("a.img".to_owned(), "out".to_owned())].into(),
    }
}

/// The operator with that number.
pub fn operator(n: u8) -> OperatorId {
    operator_key(n).operator()
}
