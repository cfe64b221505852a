//! `barn verify`, `barn verdict`: what anyone can check without the network.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use barnraiser_protocol::evidence::{EVIDENCE_BYTES_MAX, Evidence};
use barnraiser_protocol::id::{BlobHash, Sha256};
use barnraiser_protocol::outcome::Outcome;
use barnraiser_protocol::release::{RELEASE_BYTES_MAX, Release, ReleaseTarget};
use barnraiser_protocol::trust::charter::Charter;
use serde_json::{Value, json};
use sha2::Digest as _;

use super::args::{VerdictArgs, VerifyArgs};
use super::here::{Here, in_file, now, read_file};
use super::online::words::count;
use super::output::{Style, Table};
use super::{CommandResult, Exit};
use crate::api::Problem;
use crate::home::NetworkEntry;

/// Bytes that are hashed at once.
const PIECE_BYTES: usize = 1 << 20;

/// What a file is, by its bytes.
struct Digests {
    blob: BlobHash,
    sha256: Sha256,
    length: u64,
}

impl Digests {
    /// Reads a file to its end.
    fn of(path: &Path) -> Result<Self, Problem> {
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => Problem::not_found(format!("{}: there is no such file", path.display())),
            _ => Problem::usage(format!("{} can't be read: {error}", path.display())),
        };
        let mut file = fs::File::open(path).map_err(failed)?;
        let (mut blake3, mut sha256, mut length) = (blake3::Hasher::new(), sha2::Sha256::new(), 0u64);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let count = file.read(&mut piece).map_err(failed)?;
            if count == 0 {
                return Ok(Self { blob: blake3.finalize().into(), sha256: Sha256(sha256.finalize().into()), length });
            }
            blake3.update(&piece[..count]);
            sha256.update(&piece[..count]);
            length += count as u64;
        }
    }

    /// Whether the file is this one. All three must fit: they were signed together.
    fn is(&self, target: &ReleaseTarget) -> bool {
        self.blob == target.blob && self.sha256 == target.sha256 && self.length == target.length
    }
}

/// `barn verify`
pub(super) fn verify(here: &Here, args: VerifyArgs) -> CommandResult {
    let digests = Digests::of(&args.file)?;
    let home = here.home()?;
    let entries = match &here.global.network {
        Some(_) => vec![here.network(&home)?],
        None => home.networks()?,
    };
    if entries.is_empty() {
        return Err(crate::home::HomeError::NoNetwork.into());
    }
    let mut found = Vec::new();
    let mut expired = Vec::new();
    let mut looked_at = 0;
    for entry in &entries {
        let Some(charter) = &entry.charter else { continue };
        let mut releases: Vec<Release> = home.releases(entry)?.into_iter().map(|known| known.release).collect();
        if let Some(path) = &args.release {
            releases.extend(given_release(path, charter, entries.len() == 1)?);
        }
        for release in releases.iter().filter(|release| args.channel.as_deref().is_none_or(|channel| &**release.channel() == channel)) {
            looked_at += 1;
            for (name, target) in release.targets().iter().filter(|(_, target)| digests.is(target)) {
                let good = release.expires() > now() || args.allow_expired;
                let list = if good { &mut found } else { &mut expired };
                list.push((words(here, entry, charter, release, name, target), fields(entry, charter, release, name, target)));
            }
        }
    }
    if let Some((text, _)) = expired.first().filter(|_| found.is_empty()) {
        return Err(Problem::unverified(format!("only an expired release covers this file; --allow-expired accepts it\n{text}")));
    }
    if found.is_empty() {
        return Err(Problem::unverified(format!(
            "{} is in none of the {looked_at} releases that this home knows{}\n  BLAKE3   {}\n  SHA-256  {}",
            args.file.display(),
            args.channel.map(|channel| format!(" of channel {channel}")).unwrap_or_default(),
            digests.blob,
            digests.sha256
        )));
    }
    for (text, _) in &found {
        here.out.say(text)?;
    }
    let releases: Vec<Value> = found.into_iter().map(|(_, fields)| fields).collect();
    let fields = json!({
        "file": args.file, "blake3": digests.blob, "sha256": digests.sha256, "length": digests.length, "releases": releases,
    });
    here.out.document("verified", &fields)?;
    Ok(Exit::DONE)
}

/// The release document that `--release` names. Where several networks are looked at, it may be another one's.
fn given_release(path: &Path, charter: &Charter, only: bool) -> Result<Option<Release>, Problem> {
    let bytes = read_file(path, RELEASE_BYTES_MAX)?;
    match Release::reload(&bytes, charter) {
        Ok(release) => Ok(Some(release)),
        Err(barnraiser_protocol::release::ReleaseError::OtherNetwork { .. }) if !only => Ok(None),
        Err(error) => Err(Problem::unverified(format!("{}: {error}", path.display()))),
    }
}

fn words(here: &Here, entry: &NetworkEntry, charter: &Charter, release: &Release, name: &str, target: &ReleaseTarget) -> String {
    let mut table = Table::plain();
    let head = format!("{} of release {} of {}/{}", here.out.paint(Style::Good, name), release.version(), entry.name, release.channel());
    table.row(["  BLAKE3".into(), target.blob.to_string()]);
    table.row(["  SHA-256".into(), target.sha256.to_string()]);
    for (key, card) in release.signed_by(charter) {
        let operator = card.and_then(|card| card.founder).map(|operator| format!(" (operator {})", operator.short())).unwrap_or_default();
        table.row(["  signed by".into(), format!("key {}{operator}", key.id().short())]);
    }
    match &target.origin {
        Some(origin) => {
            table.row(["  built by".into(), format!("action {}, as {:?}", origin.action, origin.path)]);
            table.row(["  evidence".into(), origin.evidence.to_string()]);
        }
        None => table.row(["  built by".into(), "nobody here: there is no evidence for it".into()]),
    }
    table.row(["  good until".into(), release.expires().to_rfc3339()]);
    format!("{head}\n{}", table.render())
}

fn fields(entry: &NetworkEntry, charter: &Charter, release: &Release, name: &str, target: &ReleaseTarget) -> Value {
    let signed_by: Vec<Value> =
        release.signed_by(charter).map(|(key, card)| json!({ "key": key.id(), "operator": card.and_then(|card| card.founder) })).collect();
    json!({
        "network": entry.id, "channel": release.channel(), "number": release.version(), "expires": release.expires().to_rfc3339(),
        "name": name, "signed-by": signed_by, "origin": target.origin,
    })
}

/// `barn verdict`
pub(super) fn verdict(here: &Here, args: VerdictArgs) -> CommandResult {
    let bytes = read_file(&args.evidence, EVIDENCE_BYTES_MAX)?;
    let evidence = Evidence::from_bytes(&bytes).map_err(|error| in_file(&args.evidence, error))?;
    let findings = evidence.check().map_err(|error| Problem::unverified(format!("{}: {error}", args.evidence.display())))?;
    // A home that is a member knows the network by a name; none is needed to check.
    let known = here.home().ok().and_then(|home| home.network(&evidence.network).ok().flatten()).map(|entry| entry.name);
    let verdict = &findings.verdict;
    let mut table = Table::plain();
    table.row(["network".into(), format!("{}{}", evidence.network, known.as_ref().map(|name| format!(" ({name})")).unwrap_or_default())]);
    table.row(["action".into(), findings.action.to_string()]);
    let results = count(findings.policy.quorum.into(), "result", "equal results");
    table.row(["policy".into(), format!("{}: {results}", findings.policy.name)]);
    table.row(["evidence".into(), BlobHash::of(&bytes).to_string()]);
    let state = serde_json::to_value(verdict.state).ok().and_then(|state| Some(state.as_str()?.to_owned())).unwrap_or_default();
    table.row(["verdict".into(), state]);
    if let Some(outcome) = &verdict.outcome {
        table.row(["outcome".into(), outcome_words(outcome)]);
    }
    here.out.say(table.render())?;
    let mut builders = Table::new(&["operator", "slot", "result", "says"]);
    for attestation in &findings.attestations {
        let operator = &attestation.operator;
        let says = if verdict.wrong.contains(operator) {
            here.out.paint(Style::Bad, "wrong")
        } else if verdict.differing.contains_key(operator) {
            here.out.paint(Style::Warn, "differs")
        } else if verdict.arbiter.as_ref() == Some(operator) {
            here.out.paint(Style::Good, "arbiter")
        } else if verdict.agreeing.contains(operator) {
            here.out.paint(Style::Good, "agrees")
        } else {
            here.out.paint(Style::Dim, "no vote")
        };
        let result = match &attestation.again {
            Some(again) if *again != attestation.outcome => {
                format!("{}, then {}", outcome_words(&attestation.outcome), outcome_words(again))
            }
            Some(_) => format!("{}, twice", outcome_words(&attestation.outcome)),
            None => outcome_words(&attestation.outcome),
        };
        builders.row([operator.short(), attestation.lease.slot.0.to_string(), result, says]);
    }
    here.out.say(format!("\n{}", builders.render()))?;
    if known.is_none() {
        here.out.note("this home is not a member of that network: the evidence fits together, but whether the network is the one you mean, its id must tell");
    }
    let attestations: Vec<Value> = (findings.attestations.iter())
        .map(|attestation| {
            json!({
                "operator": attestation.operator, "slot": attestation.lease.slot, "epoch": attestation.lease.epoch,
                "outcome": attestation.outcome, "again": attestation.again, "hash": attestation.outcome.hash(), "fingerprint": attestation.fingerprint,
            })
        })
        .collect();
    let fields = json!({
        "network": evidence.network, "known": known, "action": findings.action, "policy": findings.policy,
        "attestations": attestations, "verdict": verdict, "evidence": BlobHash::of(&bytes),
    });
    here.out.document("verdict", &fields)?;
    Ok(Exit::DONE)
}

fn outcome_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Success { tree } => tree.to_string(),
        Outcome::Failure { class, stage } => format!("failed: {class} in {}", &**stage),
    }
}
