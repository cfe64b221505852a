//! Made-up answers of a node, for tests of how they are shown.

use std::collections::{BTreeMap, BTreeSet};

use barnraiser_protocol::bounded::BoundedString;
use barnraiser_protocol::engine::query::{AttestationView, BatchView, JobState, JobView, SlotView};
use barnraiser_protocol::graph::JobIndex;
use barnraiser_protocol::id::{ActionId, BatchId, BlobHash, NodeId, OperatorId};
use barnraiser_protocol::outcome::{Outcome, Particulars};
use barnraiser_protocol::record::payload::{LeaseRef, Priority, SlotNo};
use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::verdict::{Verdict, VerdictState};

use super::super::args::Global;
use super::context::Context;
use crate::api::BatchPage;
use crate::client::Client;

pub fn context() -> Context {
    Context::new(&Global { color: super::super::args::ColorWhen::Never, ..Global::default() }, Client::at("/nonexistent"))
}

pub fn operator(number: u8) -> OperatorId {
    OperatorId([number; 32])
}

fn attestation(operator_number: u8, slot: u16, tree: u8) -> AttestationView {
    let outcome = Outcome::Success { tree: BlobHash([tree; 32]) };
    AttestationView {
        lease: LeaseRef { action: ActionId([9; 32]), slot: SlotNo(slot), epoch: 1 },
        operator: operator(operator_number),
        node: NodeId([operator_number | 0x80; 32]),
        outcome_hash: Some(outcome.hash()),
        outcome: Some(outcome),
        again: None,
        particulars: Some(Particulars {
            log: None,
            log_length: 0,
            wall_ms: 1500,
            cpu_ms: 900,
            memory_peak: 1 << 20,
            fingerprint: BoundedString::cut("linux x86_64"),
            sandbox: BoundedString::cut("bwrap, seccomp"),
        }),
        committed: Timestamp(60_000),
    }
}

/// Two builders agree.
pub fn agreed() -> JobView {
    let attestations = vec![attestation(1, 0, 7), attestation(2, 1, 7)];
    let slot = |of: &AttestationView| SlotView {
        slot: of.lease.slot,
        arbiter: of.lease.slot.is_arbiter(),
        state: "closed".into(),
        epoch: 1,
        operator: Some(of.operator),
        node: Some(of.node),
        until: Some(Timestamp(80_000)),
    };
    JobView {
        batch: BatchId([5; 32]),
        index: JobIndex(0),
        label: "zlib[device=x]".into(),
        version: "1.3".into(),
        action: Some(ActionId([9; 32])),
        generation: 1,
        state: JobState::CrossVerified,
        why: "2 operators agree, 2 are wanted".into(),
        verdict: Some(Verdict {
            state: VerdictState::CrossVerified,
            outcome: attestations[0].outcome.clone(),
            agreeing: BTreeSet::from([operator(1), operator(2)]),
            differing: BTreeMap::new(),
            wrong: BTreeSet::new(),
            arbiter: None,
        }),
        needs: Vec::new(),
        slots: attestations.iter().map(slot).collect(),
        attestations,
        targets: BTreeMap::from([("LE.img".into(), "image/LE.img".into())]),
    }
}

/// Operator 3 attested something else than 1, and 4 settled it.
pub fn cheated() -> JobView {
    let mut job = agreed();
    job.attestations = vec![attestation(1, 0, 7), attestation(3, 1, 66), attestation(4, SlotNo::ARBITER.0, 7)];
    if let Some(verdict) = &mut job.verdict {
        verdict.agreeing = BTreeSet::from([operator(1), operator(4)]);
        verdict.differing = job.attestations[1].outcome_hash.map(|hash| (operator(3), hash)).into_iter().collect();
        verdict.wrong = BTreeSet::from([operator(3)]);
        verdict.arbiter = Some(operator(4));
    }
    job
}

/// Waits for the other one.
pub fn waiting() -> JobView {
    JobView {
        index: JobIndex(1),
        label: "image[device=x]".into(),
        action: None,
        state: JobState::Waiting,
        why: "waits for zlib[device=x] (building)".into(),
        verdict: None,
        needs: vec!["zlib[device=x]".into()],
        slots: Vec::new(),
        attestations: Vec::new(),
        ..agreed()
    }
}

/// A batch of both.
pub fn page() -> BatchPage {
    let jobs = vec![agreed(), waiting()];
    let batch = BatchView {
        id: BatchId([5; 32]),
        name: "nightly".into(),
        channel: "stable".into(),
        priority: Priority::Nightly,
        issued: Timestamp(50_000),
        operator: Some(operator(1)),
        policy: BlobHash([8; 32]),
        job_count: 2,
        halted: None,
        result: None,
        states: BTreeMap::from([(JobState::CrossVerified, 1), (JobState::Waiting, 1)]),
    };
    BatchPage { batch, jobs }
}
