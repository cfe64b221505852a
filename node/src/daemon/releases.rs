//! Proposes releases of what was verified, publishes what the maintainers signed, and fetches for users.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use barnraiser_bootstrap::{FetchError, FetchProgress};
use barnraiser_protocol::engine::query::{JobState, JobView, Obstacle};
use barnraiser_protocol::evidence::{EVIDENCE_BYTES_MAX, Evidence};
use barnraiser_protocol::id::{ActionId, BatchId, BlobHash, NodeId, OperatorId, Sha256};
use barnraiser_protocol::outcome::Outcome;
use barnraiser_protocol::release::{self, Origin, Release, ReleaseTarget, ReleaseTargets};
use barnraiser_protocol::tree::Entry;
use barnraiser_store::{Durability, Fault, PartialError};
use sha2::Digest as _;
use tokio::sync::watch;

use super::Daemon;
use super::engines::now;
use super::fetching::Telling;
use super::networks::Network;
use crate::api::{self, Problem};

/// How long a release is good without a new one: DESIGN leaves it to the timestamp, which comes with full TUF metadata.
const RELEASE_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long the evidence is waited for that says who built a file.
const EVIDENCE_PATIENCE: Duration = Duration::from_secs(10);

/// A job that made a file: its batch, its label, the operators that agree.
type BuiltBy = (Option<BatchId>, String, Vec<OperatorId>);

/// Hashes what is written to it.
struct Hasher(sha2::Sha256);

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What becomes of a blob in the store when it was written to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Afterwards {
    /// It stays, and is served on.
    Kept,
    /// The store ends with the fetch: the file may be its own.
    Given,
}

/// The blob that a user wants.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub hash: BlobHash,
    /// Its length in bytes, where a release says so.
    pub length: Option<u64>,
    /// The release that it belongs to, where one is known.
    release: Option<Arc<Release>>,
}

impl Daemon {
    /// The unsigned release of a batch's targets.
    pub(super) async fn propose_release(&self, network: &Arc<Network>, batch: BatchId, ask: &api::Propose) -> Result<Vec<u8>, Problem> {
        let charter = network.charter().ok_or_else(|| joining(network))?;
        if charter.channel_keys(&ask.channel).is_none() {
            return Err(no_release(network, &ask.channel));
        }
        let jobs = self.engines.ask(&network.id, |engine| engine.jobs(&batch)).unwrap_or_default();
        self.check_closure(network, &batch, &jobs, ask)?;
        let mut targets = ReleaseTargets::new();
        for job in &jobs {
            for (name, path) in &job.targets {
                if !ask.names.is_empty() && !ask.names.contains(name) {
                    continue;
                }
                let target = self.target_of(network, &batch, job, path).await?;
                let name = name.parse().map_err(|error| Problem::usage(format!("target {name:?}: {error}")))?;
                targets.insert(name, target);
            }
        }
        if let Some(missing) = ask.names.iter().find(|name| !jobs.iter().any(|job| job.targets.contains_key(*name))) {
            return Err(Problem::not_found(format!("the batch has no target {missing:?}")));
        }
        if targets.is_empty() {
            return Err(Problem::usage("the batch names no targets; add [batch.targets] to its file"));
        }
        let version = network.release(&ask.channel).map_or(1, |release| release.version() + 1);
        let moment = now();
        let draft = release::propose(network.id, &ask.channel, version, &targets, moment, moment + RELEASE_LIFETIME)
            .map_err(|error| Problem::failed(error.to_string()))?;
        Ok(draft.to_bytes())
    }

    /// Everything that the wanted targets were built from is as good as the batch's policy wants of a release.
    fn check_closure(&self, network: &Network, batch: &BatchId, jobs: &[JobView], ask: &api::Propose) -> Result<(), Problem> {
        let released: BTreeSet<ActionId> = {
            let releases = network.releases.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            let targets = releases.values().flat_map(|release| release.targets().values());
            targets.filter_map(|target| Some(target.origin.as_ref()?.action)).collect()
        };
        let is_wanted = |job: &&JobView| job.targets.keys().any(|name| ask.names.is_empty() || ask.names.contains(name));
        for job in jobs.iter().filter(is_wanted) {
            let found = self.engines.ask(&network.id, |engine| engine.release_obstacle(batch, job.index, &released)).flatten();
            let Some((label, obstacle)) = found else { continue };
            let advice = match obstacle {
                Obstacle::State(_) => format!("`barn why {}/{label}` says what is missing", batch.short()),
                Obstacle::NoTrustedReveal => {
                    "a trusted operator has to build it, or a maintainer trusts one who did (`barn network trust`)".into()
                }
            };
            let what = if label == job.label { label } else { format!("{}: {label}, from which it was built,", job.label) };
            return Err(Problem::failed(format!("{what} can't be released: {obstacle}; {advice}")));
        }
        Ok(())
    }

    async fn target_of(&self, network: &Arc<Network>, batch: &BatchId, job: &JobView, path: &str) -> Result<ReleaseTarget, Problem> {
        let (Some(action), Some(tree)) = (job.action, job.verdict.as_ref().and_then(|verdict| verdict.outcome.as_ref()?.tree())) else {
            return Err(Problem::failed(format!("{} is {}: {}; nothing can be released of it", job.label, job.state, job.why)));
        };
        let from = self.engines.ask(&network.id, |engine| engine.revealers(&tree)).unwrap_or_default();
        let failed = |error: anyhow::Error| Problem::unreachable(format!("{error:#}"));
        let (_, _hold) = self.fetch_tree(network.id, tree, from).await.map_err(failed)?;
        let store = self.store.clone();
        let path = path.to_owned();
        let label = job.label.clone();
        let (blob, length, sha256) = tokio::task::spawn_blocking({
            let path = path.clone();
            move || -> Result<_, Problem> {
                let manifest = store.tree(&tree).map_err(|error| Problem::failed(error.to_string()))?;
                let Some(Entry::File { hash, length, .. }) = manifest.entry(&path) else {
                    return Err(Problem::failed(format!("{label} has no output file {path:?}")));
                };
                let mut hasher = Hasher(sha2::Sha256::new());
                store.read_verified(hash, &mut hasher).map_err(|error| Problem::unverified(error.to_string()))?;
                Ok((*hash, *length, hasher.0.finalize()))
            }
        })
        .await
        .map_err(|error| Problem::failed(error.to_string()))??;
        let charter = network.charter().ok_or_else(|| joining(network))?;
        let evidence = self
            .engines
            .ask(&network.id, |engine| Evidence::gather(engine, &charter, batch, &action))
            .ok_or_else(|| joining(network))?
            .map_err(|error| Problem::failed(error.to_string()))?
            .ok_or_else(|| Problem::not_found("the action is not known any more"))?;
        let store = self.store.clone();
        let bytes = evidence.to_bytes();
        let evidence = tokio::task::spawn_blocking(move || store.import_bytes(&bytes, Durability::Announced))
            .await
            .map_err(|error| Problem::failed(error.to_string()))?
            .map_err(|error| Problem::failed(error.to_string()))?;
        let origin = Origin { action, evidence, tree, path, batch: Some(*batch) };
        Ok(ReleaseTarget { blob, sha256: Sha256(sha256.into()), length, origin: Some(origin) })
    }

    /// Publishes an assembled release.
    pub(super) async fn publish_release(&self, network: &Arc<Network>, document: &str) -> Result<api::ReleaseView, Problem> {
        let charter = network.charter().ok_or_else(|| joining(network))?;
        let release = Release::verify(document.as_bytes(), &charter, now())
            .map_err(|error| Problem::unverified(format!("the release can't be published: {error}")))?;
        if let Some(known) = network.release(release.channel())
            && release.version() <= known.version()
            && release.id() != known.id()
        {
            return Err(Problem::failed(format!(
                "the channel {} is at version {} already, this is version {}; propose it again",
                &**release.channel(),
                known.version(),
                release.version()
            )));
        }
        let view = view(&release, &charter);
        self.adopt_release(network, release).await.map_err(|error| Problem::failed(format!("{error:#}")))?;
        Ok(view)
    }

    /// Which blob a user means by a hash or `CHANNEL/NAME`.
    pub(super) fn wanted_by_user(&self, network: &Network, what: &str) -> Result<Wanted, Problem> {
        match (what.parse::<BlobHash>(), what.split_once('/')) {
            (Ok(hash), _) => Ok(Wanted { hash, length: None, release: self.release_with(network, &hash) }),
            (Err(_), Some((channel, name))) => {
                let release = network.release(channel).ok_or_else(|| no_release(network, channel))?;
                let expires = release.expires();
                if expires <= now() {
                    return Err(Problem::unverified(format!(
                        "release {} of {channel} expired at {expires}; fetch by hash if you want it all the same",
                        release.version()
                    )));
                }
                let target = release.target(name).ok_or_else(|| {
                    let names: Vec<String> = release.targets().keys().map(ToString::to_string).collect();
                    Problem::not_found(format!("{channel} has no file {name:?}; it has {}", names.join(", ")))
                })?;
                Ok(Wanted { hash: target.blob, length: Some(target.length), release: Some(release.clone()) })
            }
            (Err(_), None) => Err(Problem::usage(format!("{what:?} is neither a hash of 64 digits nor CHANNEL/NAME"))),
        }
    }

    /// Fetches a blob, tells of it, and says who stands for it. What is written to a file may be kept in the store `afterwards`.
    pub(super) async fn fetch_for_user(
        &self,
        network: &Arc<Network>,
        ask: &api::Fetch,
        wanted: &Wanted,
        afterwards: Afterwards,
        telling: &Telling,
    ) -> Result<api::Fetched, Problem> {
        let charter = network.charter();
        let Wanted { hash, length, release } = wanted.clone();
        let likely = self.likely_holders(network, &hash, release.as_deref());
        let (progress, seen) = watch::channel(FetchProgress::default());
        let copying = async {
            // Dropped at the end: then there is nothing more to follow.
            let progress = progress;
            self.copy_what_is_here(network, ask, hash, length, &likely, &progress).await
        };
        let nothing = BTreeMap::new();
        let (differences, ()) = tokio::join!(copying, telling.follow(seen, &nothing));
        let differences = differences?;
        let (progress, seen) = watch::channel(FetchProgress::default());
        let fetching = self.fetch_blob(network.id, hash, length, likely, Some(progress));
        let (report, ()) = tokio::join!(fetching, telling.follow(seen, &differences.bytes_by_peer));
        let mut report = report.map_err(|error| not_fetched(&hash, &error))?;
        telling.brought(Some((report.length, report.already_had.saturating_sub(differences.copied + differences.pieces)))).await;
        for (node, bytes) in &differences.bytes_by_peer {
            *report.bytes_by_peer.entry(*node).or_default() += bytes;
        }
        self.remember_fetched(network, &ask.what, &hash);
        if let Some(target) = release.as_ref().and_then(|release| release.targets().values().find(|target| target.blob == hash)) {
            self.check_sha256(hash, target.sha256).await?;
        }
        if let Some(to) = ask.to.clone() {
            let store = self.store.clone();
            let written = move || match afterwards {
                Afterwards::Kept => store.export(&hash, &to),
                Afterwards::Given => store.move_out(&hash, &to),
            };
            tokio::task::spawn_blocking(written)
                .await
                .map_err(|error| Problem::failed(error.to_string()))?
                .map_err(|error| Problem::failed(error.to_string()))?;
        }
        self.announcing.changed();
        let mut built_by = self.built_by(network, &hash, release.as_deref());
        if built_by.is_empty() {
            built_by = self.proven_builders(network, &hash, release.as_deref()).await;
        }
        Ok(api::Fetched {
            hash,
            length: report.length,
            // The fetch found here what was put together just before.
            already_had: report.already_had.saturating_sub(differences.copied + differences.pieces),
            copied: differences.copied,
            bytes_by_peer: report.bytes_by_peer,
            built_by,
            release: release.zip(charter).map(|(release, charter)| view(&release, &charter)),
        })
    }

    async fn check_sha256(&self, hash: BlobHash, wanted: Sha256) -> Result<(), Problem> {
        let store = self.store.clone();
        let found = tokio::task::spawn_blocking(move || {
            let mut hasher = Hasher(sha2::Sha256::new());
            store.read_verified(&hash, &mut hasher).map(|_| Sha256(hasher.0.finalize().into()))
        })
        .await
        .map_err(|error| Problem::failed(error.to_string()))?
        .map_err(|error| Problem::unverified(error.to_string()))?;
        if found != wanted {
            return Err(Problem::unverified(format!("SHA-256 of {hash} is {found}, the release says {wanted}")));
        }
        Ok(())
    }

    fn release_with(&self, network: &Network, hash: &BlobHash) -> Option<Arc<Release>> {
        let releases = network.releases.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        releases.values().find(|release| release.targets().values().any(|target| target.blob == *hash)).cloned()
    }

    /// Nodes that revealed the tree that a released file is in, or that say they have the blob.
    fn likely_holders(&self, network: &Network, hash: &BlobHash, release: Option<&Release>) -> Vec<NodeId> {
        let trees: Vec<BlobHash> = release
            .into_iter()
            .flat_map(|release| release.targets().values())
            .filter(|target| target.blob == *hash)
            .filter_map(|target| Some(target.origin.as_ref()?.tree))
            .chain([*hash])
            .collect();
        let holders =
            |engine: &barnraiser_protocol::engine::Engine| trees.iter().flat_map(|tree| engine.revealers(tree)).collect::<Vec<_>>();
        self.engines.ask(&network.id, holders).unwrap_or_default()
    }

    /// Who built it, as far as this node knows the jobs.
    fn built_by(&self, network: &Network, hash: &BlobHash, release: Option<&Release>) -> Vec<BuiltBy> {
        let actions: Vec<_> = origins(release, hash).map(|origin| origin.action).collect();
        let found = self.engines.ask(&network.id, |engine| {
            let jobs = actions.iter().flat_map(|action| engine.jobs_of(action));
            let views = jobs.filter_map(|(batch, index)| engine.job(&batch, index));
            // Of a job that has only just become known, results may still be on their way.
            let views = views.filter(|job| job.state == JobState::CrossVerified);
            views
                .map(|job| {
                    let agreeing = job.verdict.map_or_else(Vec::new, |verdict| verdict.agreeing.into_iter().collect());
                    (Some(job.batch), job.label, agreeing)
                })
                .collect()
        });
        found.unwrap_or_default()
    }

    /// Who built it, by the evidence that the release names: for a node that has only just come, or came long after.
    /// Nobody where the evidence can't be had; the bytes are good all the same.
    async fn proven_builders(&self, network: &Network, hash: &BlobHash, release: Option<&Release>) -> Vec<BuiltBy> {
        let mut found = Vec::new();
        for origin in origins(release, hash) {
            let holders = self.engines.ask(&network.id, |engine| engine.revealers(&origin.tree)).unwrap_or_default();
            let fetch = self.fetch_bytes(network.id, origin.evidence, None, holders, EVIDENCE_BYTES_MAX as u64);
            let read = match tokio::time::timeout(EVIDENCE_PATIENCE, fetch).await {
                Ok(Ok(bytes)) => agreeing(network, origin, &bytes),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(anyhow::anyhow!("nobody gave it in {EVIDENCE_PATIENCE:?}")),
            };
            match read {
                Ok(operators) => found.push((origin.batch, format!("action {}", origin.action.short()), operators)),
                Err(error) => tracing::warn!(evidence = %origin.evidence, %error, "who built it can't be told: its evidence can't be used"),
            }
        }
        found
    }
}

/// How the released file of that hash came to be.
fn origins<'a>(release: Option<&'a Release>, hash: &BlobHash) -> impl Iterator<Item = &'a Origin> {
    let targets = release.into_iter().flat_map(|release| release.targets().values());
    targets.filter(move |target| target.blob == *hash).filter_map(|target| target.origin.as_ref())
}

/// The operators whose agreement the evidence of a released file proves.
fn agreeing(network: &Network, origin: &Origin, evidence: &[u8]) -> anyhow::Result<Vec<OperatorId>> {
    let evidence = Evidence::from_bytes(evidence)?;
    let findings = evidence.check()?;
    anyhow::ensure!(evidence.network == network.id && findings.action == origin.action, "it is of something else");
    let tree = findings.verdict.outcome.as_ref().and_then(Outcome::tree);
    anyhow::ensure!(tree == Some(origin.tree), "it is of another result than the released one");
    Ok(findings.verdict.agreeing.into_iter().collect())
}

/// A release as people see it.
pub(super) fn view(release: &Release, charter: &barnraiser_protocol::trust::charter::Charter) -> api::ReleaseView {
    let target = |target: &ReleaseTarget| api::ReleasedTarget {
        blake3: target.blob,
        sha256: target.sha256.to_string(),
        length: target.length,
        action: target.origin.as_ref().map(|origin| origin.action),
        evidence: target.origin.as_ref().map(|origin| origin.evidence),
    };
    let targets: BTreeMap<String, api::ReleasedTarget> =
        release.targets().iter().map(|(name, released)| (name.to_string(), target(released))).collect();
    api::ReleaseView {
        channel: release.channel().to_string(),
        version: release.version(),
        expires: release.expires().to_string(),
        signed_by: release.signers().iter().map(ToString::to_string).collect(),
        threshold: charter.channel_keys(release.channel()).map_or(0, |keys| keys.threshold as usize),
        targets,
    }
}

/// A fetch that failed, by who is to blame: this machine, whose disk may be full, or those who should have the bytes.
fn not_fetched(hash: &BlobHash, error: &anyhow::Error) -> Problem {
    let here = error.chain().any(|cause| {
        cause.is::<Fault>()
            || matches!(cause.downcast_ref(), Some(PartialError::Fault(_)))
            || matches!(cause.downcast_ref(), Some(FetchError::Local { .. } | FetchError::Resting { .. }))
    });
    let message = format!("{hash} can't be fetched: {error}");
    if here { Problem::failed(message) } else { Problem::unreachable(message) }
}

/// Why there is no release of a channel.
pub(super) fn no_release(network: &Network, channel: &str) -> Problem {
    let Some(charter) = network.charter() else { return joining(network) };
    if charter.channel_keys(channel).is_some() {
        return Problem::not_found(format!("no release of the channel {channel:?} is known; has one been published?"));
    }
    let known: Vec<String> = charter.channels().map(ToString::to_string).collect();
    Problem::not_found(format!("the network {} has no channel {channel:?}; it has {}", network.name, known.join(", ")))
}

pub(super) fn joining(network: &Network) -> Problem {
    Problem::unreachable(format!(
        "the network {} is still being joined: its charter has not been found yet; is a member reachable?",
        network.name
    ))
}
