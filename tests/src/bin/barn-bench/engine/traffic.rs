//! What a busy network says: the mix of records over which the engine is measured, made once from fixed seeds.
//!
//! A founder and [`OPERATORS`] operators that it invited, a node each. Batches of [`BATCH_JOBS`] jobs follow one another;
//! a job needs up to three others. Every action is built in two slots: for each there are a Claim, a Renewal, two
//! Presences (the machine is taken, the machine is free), a Commitment and a Reveal. Claims, commitments and reveals stay;
//! renewals and presences replace the ones before. [`WINDOW`] actions are under way at any moment.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use barnraiser_protocol::action::{Environment, Step};
use barnraiser_protocol::bounded::{BoundedString, BoundedVec};
use barnraiser_protocol::engine::{Capacity, Config, Engine, Input, Lend, Output, Params};
use barnraiser_protocol::graph::{Graph, Job, JobIndex, JobKind, JobNeed, Limits};
use barnraiser_protocol::id::{ActionId, BatchId, BlobHash, NetworkId};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::outcome::{Outcome, Particulars};
use barnraiser_protocol::platform::Facts;
use barnraiser_protocol::policy::Policy;
use barnraiser_protocol::record::payload::{
    Batch, Claim, ClaimTag, Commitment, Invitation, Invitee, LeaseProgress, LeaseRef, NodeCertificate, OperatorCertificate, Presence,
    Priority, Renewal, Reveal, Says, SlotNo,
};
use barnraiser_protocol::record::{Payload, Record, SharedRecord};
use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::trust::charter::Grants;

/// Operators that build.
pub const OPERATORS: usize = 500;
/// Jobs of a batch.
pub const BATCH_JOBS: usize = 2000;
/// Actions under way at any moment.
pub const WINDOW: usize = 400;
/// The network.
pub const NETWORK: NetworkId = NetworkId([1; 32]);
/// The network's time between two actions.
const STEP: Duration = Duration::from_millis(100);
/// When it begins.
const START: Timestamp = Timestamp(1_800_000_000_000);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A moment's record.
pub type Said = (Timestamp, SharedRecord);

/// Everything that is said.
pub struct Traffic {
    /// Records, in the order in which they are said.
    pub said: Vec<Said>,
    /// The graphs that batches name.
    pub graphs: BTreeMap<BlobHash, Arc<[u8]>>,
}

fn key(role: u8, number: usize) -> SecretKey {
    let mut seed = [role; 32];
    seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
    SecretKey::from_seed(&seed)
}

/// Speaks for the operators and nodes, and keeps their books.
struct Speakers {
    operators: Vec<SecretKey>,
    nodes: Vec<SecretKey>,
    held: Vec<BTreeSet<LeaseRef>>,
    said: Vec<Said>,
    sequence: u64,
}

impl Speakers {
    fn say(&mut self, at: Timestamp, by_operator: bool, who: usize, payload: Payload, lifetime: Duration) -> anyhow::Result<SharedRecord> {
        self.sequence += 1;
        let key = if by_operator { &self.operators[who] } else { &self.nodes[who] };
        let record = Record::author(key, NETWORK, self.sequence, at, at + lifetime, payload).context("a record of the mix is too large")?;
        self.said.push((at, record.clone()));
        Ok(record)
    }

    fn presence(&mut self, at: Timestamp, who: usize) -> anyhow::Result<()> {
        let presence = Presence {
            accepting: true,
            arbiter_only: false,
            free_cores: 8,
            cores: 8,
            free_memory_mib: 16 << 10,
            os: BoundedString::cut("linux"),
            arch: BoundedString::cut("x86_64"),
            isa: BoundedString::cut("x86-64-v3"),
            features: BoundedVec::new(),
        };
        self.say(at, false, who, Payload::Presence(presence.into()), Duration::from_secs(900))?;
        Ok(())
    }

    fn renewal(&mut self, at: Timestamp, who: usize) -> anyhow::Result<()> {
        let progress =
            |lease: &LeaseRef| LeaseProgress { lease: *lease, log_bytes: at.0 % 100_000, cpu_ms: at.0 % 60_000, moved: at, before: at };
        let leases: Vec<_> = self.held[who].iter().map(progress).collect();
        self.say(at, false, who, Payload::Renewal(Renewal { leases: leases.try_into()? }), Duration::from_secs(540))?;
        Ok(())
    }
}

fn job(batch: usize, number: usize) -> Job {
    // Needs stand far enough back to be done: what is under way is built side by side.
    let needs: BTreeSet<usize> = [WINDOW + 50, WINDOW + 120, WINDOW + 333].iter().filter_map(|back| number.checked_sub(*back)).collect();
    let needs = needs.into_iter().filter_map(|need| {
        let job = JobIndex(u32::try_from(need).ok()?);
        Some(JobNeed { job, at: format!("/needs/package-{need}"), closure: false, only: Vec::new() })
    });
    let name = format!("package-{number}");
    Job {
        recipe: name.clone(),
        version: "1.0".into(),
        cell: BTreeMap::from([("device".to_owned(), format!("device-{batch}"))]),
        kind: JobKind::Build,
        sources: Vec::new(),
        needs: needs.collect(),
        vars: BTreeMap::from([("DEVICE".to_owned(), format!("device-{batch}"))]),
        environment: Environment { programs: BTreeSet::from(["make".into()]), ..Environment::host("linux", ["x86_64"]) },
        shell: vec!["sh".into(), "-e".into()],
        steps: vec![Step { name: "build".into(), script: format!("make -C {name} -j$BARN_CORES DESTDIR=/build/out install") }],
        outputs: BTreeMap::from([("out".to_owned(), "out".to_owned())]),
        epoch: 1_700_000_000,
        cores: 2,
        limits: Limits { memory: 2 << 30, disk: 4 << 30, wall: Duration::from_secs(1800), silent: Duration::from_secs(600) },
        targets: BTreeMap::new(),
    }
}

/// One action that is under way.
struct Running {
    action: ActionId,
    builders: [usize; 2],
    leases: [LeaseRef; 2],
}

impl Running {
    fn reveal(&self, slot: usize) -> Reveal {
        Reveal {
            lease: self.leases[slot],
            outcome: Outcome::Success { tree: BlobHash(self.action.0) },
            again: None,
            salt: [9; 32],
            particulars: Particulars {
                log: Some(BlobHash::of(&self.action.0)),
                log_length: 4321,
                wall_ms: 65_000,
                cpu_ms: 110_000,
                memory_peak: 300 << 20,
                fingerprint: BoundedString::cut("linux 6.12 x86_64 gcc 14.2.0 glibc 2.41"),
                sandbox: BoundedString::cut("bwrap, seccomp, cgroup v2"),
            },
        }
    }
}

impl Traffic {
    /// What `batches` batches bring with them.
    pub fn new(batches: usize) -> anyhow::Result<Self> {
        let mut speakers = Speakers {
            operators: (0..=OPERATORS).map(|number| key(1, number)).collect(),
            nodes: (0..=OPERATORS).map(|number| key(2, number)).collect(),
            held: vec![BTreeSet::new(); OPERATORS + 1],
            said: Vec::new(),
            sequence: 0,
        };
        for who in 0..=OPERATORS {
            let operator = speakers.operators[who].operator();
            if who > 0 {
                let invitation = Invitation { invitee: Invitee::Operator(operator), until: Timestamp::MAX };
                speakers.say(START, true, 0, Payload::Invitation(invitation), DAY * 3650)?;
            }
            let certificate = OperatorCertificate { bearer: None };
            speakers.say(START, true, who, Payload::OperatorCertificate(certificate.into()), DAY * 3650)?;
            let certificate = NodeCertificate::new(&speakers.nodes[who], &NETWORK, &operator);
            speakers.say(START, true, who, Payload::NodeCertificate(certificate.into()), DAY * 3650)?;
            speakers.presence(START, who)?;
        }
        let mut graphs = BTreeMap::new();
        let mut running: VecDeque<Running> = VecDeque::new();
        let mut half_done: VecDeque<Running> = VecDeque::new();
        let mut at = START + Duration::from_secs(10);
        for batch in 0..batches {
            let graph = Graph { jobs: (0..BATCH_JOBS).map(|number| job(batch, number)).collect() };
            let bytes: Arc<[u8]> = graph.to_bytes().into();
            let record = Batch {
                name: BoundedString::cut(&format!("nightly {batch}")),
                channel: BoundedString::cut("nightly"),
                priority: Priority::Nightly,
                graph: BlobHash::of(&bytes),
                graph_length: bytes.len() as u64,
                jobs: u32::try_from(BATCH_JOBS)?,
                policy: Policy::small().hash(),
                nonce: [7; 32],
                revision: BoundedString::cut("0123456789abcdef0123456789abcdef01234567"),
                url: BoundedString::default(),
                labels: BoundedVec::new(),
            };
            graphs.insert(record.graph, bytes);
            let id = BatchId::from(speakers.say(at, false, 0, Payload::Batch(record.into()), DAY * 30)?.id());
            let mut outputs: Vec<BlobHash> = Vec::new();
            for number in 0..BATCH_JOBS {
                at = at + STEP;
                let index = JobIndex(u32::try_from(number)?);
                let action = graph.bind(index, |need| outputs.get(need.0 as usize).copied()).context("a need stands later")?.id();
                outputs.push(BlobHash(action.0));
                let turn = (batch * BATCH_JOBS + number) * 2;
                let builders = [turn % OPERATORS + 1, (turn + 1) % OPERATORS + 1];
                let leases = [0, 1].map(|slot| LeaseRef { action, slot: SlotNo(slot), epoch: 1 });
                for (builder, lease) in builders.into_iter().zip(leases) {
                    speakers.say(at, false, builder, Payload::Claim(Claim { lease, batch: id, follows: ClaimTag::default() }), DAY * 7)?;
                    speakers.held[builder].insert(lease);
                    speakers.presence(at, builder)?;
                    speakers.renewal(at, builder)?;
                }
                running.push_back(Running { action, builders, leases });
                Self::go_on(&mut speakers, &mut running, &mut half_done, at, WINDOW / 2)?;
            }
        }
        Self::go_on(&mut speakers, &mut running, &mut half_done, at + STEP, 0)?;
        Ok(Self { said: speakers.said, graphs })
    }

    /// Commits to what is old enough, and reveals what was committed to long enough ago.
    fn go_on(
        speakers: &mut Speakers,
        running: &mut VecDeque<Running>,
        half_done: &mut VecDeque<Running>,
        at: Timestamp,
        keep: usize,
    ) -> anyhow::Result<()> {
        while running.len() > keep
            && let Some(done) = running.pop_front()
        {
            for (slot, builder) in done.builders.into_iter().enumerate() {
                let reveal = done.reveal(slot);
                let commitment = reveal.opens(&speakers.operators[builder].operator());
                let lease = done.leases[slot];
                speakers.held[builder].remove(&lease);
                speakers.presence(at, builder)?;
                speakers.say(
                    at,
                    false,
                    builder,
                    Payload::Commitment(Commitment { lease, commitment, says: Says::Word, renewed_ago_ms: 0 }),
                    DAY * 180,
                )?;
            }
            half_done.push_back(done);
        }
        while half_done.len() > keep
            && let Some(done) = half_done.pop_front()
        {
            for (slot, builder) in done.builders.into_iter().enumerate() {
                speakers.say(at, false, builder, Payload::Reveal(done.reveal(slot).into()), DAY * 180)?;
            }
        }
        Ok(())
    }
}

/// The engine of a member that looks on: its machine is full, so it claims nothing itself.
pub fn onlooker() -> Engine {
    let params = Params {
        network: NETWORK,
        lease_ttl: Duration::from_secs(180),
        clock_difference: Duration::from_secs(60),
        grants: Grants::of_founders([key(1, 0).operator()]),
        policy: Policy::small(),
    };
    let facts = Facts { os: "linux".into(), arch: "x86_64".into(), isa: "x86-64-v3".into(), features: BTreeSet::new() };
    let lend = Lend { builds: true, arbiter_only: false, cores: 8, memory: 16 << 30 };
    let config = Config { key: key(3, 0), facts, programs: BTreeSet::from(["make".to_owned()]), lend };
    let mut engine = Engine::new(params, config, [5; 32], START);
    engine.handle(START, Input::Capacity(Capacity::default()));
    engine
}

/// Does what the engine wants, as far as it concerns what it knows: hands it the graphs. Returns the number of outputs.
pub fn drive(engine: &mut Engine, now: Timestamp, graphs: &BTreeMap<BlobHash, Arc<[u8]>>) -> usize {
    let mut outputs = 0;
    if engine.poll_timeout().is_some_and(|at| at <= now) {
        engine.handle_timeout(now);
    }
    while let Some(output) = engine.poll_output() {
        outputs += 1;
        if let Output::Fetch { want, blob, .. } = output
            && let Some(bytes) = graphs.get(&blob)
        {
            engine.handle(now, Input::Fetched { want, bytes: bytes.clone() });
        }
    }
    outputs
}
