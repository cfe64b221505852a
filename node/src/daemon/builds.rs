//! Carries out build orders: inputs from the swarm, the sandbox, outputs into the store.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use barnraiser_protocol::action::{Rootfs, SourceForm};
use barnraiser_protocol::engine::{BuildOrder, Input, OwnResult};
use barnraiser_protocol::id::{BlobHash, NetworkId, NodeId};
use barnraiser_protocol::outcome::{FailureClass, Outcome, Particulars};
use barnraiser_protocol::record::payload::LeaseRef;
use barnraiser_protocol::time::Timestamp;
use barnraiser_store::{Durability, LayOut, Pattern, Store};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Daemon;
use super::artefacts::{Private, ResultId};
use super::engines::now;
use super::networks::result_prefix;
use crate::builder::{self, BuildOutcome, BuildRequest, Inputs, OutputSink, Progress, Shell, Variation};

/// How often the engine hears of a build's progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// A build that runs.
pub(super) struct Running {
    /// How people call it.
    pub label: String,
    /// Since when.
    pub since: Timestamp,
    /// How far it is.
    pub progress: watch::Receiver<Progress>,
    /// Stops it.
    pub cancel: CancellationToken,
}

/// A result that is not revealed yet, as the store keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeptResult {
    #[serde(flatten)]
    pub result: OwnResult,
    /// What must not be served before it is revealed.
    #[serde(default)]
    pub private: Option<Vec<BlobHash>>,
}

/// What came of an order.
struct Built {
    outcome: Outcome,
    /// Of the second build, where one was asked for.
    again: Option<Outcome>,
    particulars: Particulars,
}

impl Built {
    /// Nothing could be built: the machine's fault, not the job's.
    fn nothing(class: FailureClass, stage: &str, particulars: Particulars) -> Self {
        Self { outcome: failure(class, stage), again: None, particulars }
    }
}

/// Copies outputs into the store, and keeps to this node what is new in them until they are revealed.
struct StoreSink {
    store: Store,
    private: Arc<Private>,
    result: ResultId,
    /// What the action is built from.
    public: Arc<BTreeSet<BlobHash>>,
}

impl OutputSink for StoreSink {
    fn file(&mut self, _name: &str, file: File, _executable: bool) -> io::Result<(BlobHash, u64)> {
        let (hash, length) = self.store.import_opened(&file, Durability::Announced).map_err(|error| io::Error::other(error.to_string()))?;
        if !self.public.contains(&hash) {
            self.private.hide(self.result, [hash]);
        }
        Ok((hash, length))
    }
}

/// Removes what builds of a killed process left.
pub(super) fn sweep(builds: &Path) {
    let Ok(left) = std::fs::read_dir(builds) else { return };
    for folder in left.flatten() {
        builder::end_sandboxes_of(&folder.path());
        if let Err(error) = builder::remove_scratch(&folder.path()) {
            tracing::warn!(%error, folder = %folder.path().display(), "what a build left can't be removed");
        }
    }
}

impl Daemon {
    pub(super) fn start_build(self: &Arc<Self>, network: NetworkId, order: BuildOrder) {
        let (progress, seen) = watch::channel(Progress::default());
        let cancel = self.stop.child_token();
        let running = Running { label: order.label.clone(), since: now(), progress: seen, cancel: cancel.clone() };
        self.running().insert((network, order.lease), running);
        let daemon = self.clone();
        tokio::spawn(async move {
            let lease = order.lease;
            let ended = daemon.build(network, order, progress, cancel.clone()).await;
            daemon.running().remove(&(network, lease));
            if let Some(Built { outcome, again, particulars }) = ended
                && !cancel.is_cancelled()
            {
                let input = Input::Finished { lease, outcome, again, particulars };
                daemon.engines.with(&network, |engine, now| engine.handle(now, input));
            }
        });
    }

    pub(super) fn stop_build(&self, network: &NetworkId, lease: &LeaseRef) {
        if let Some(running) = self.running().get(&(*network, *lease)) {
            running.cancel.cancel();
        }
    }

    /// Builds; `None` where it was cancelled.
    async fn build(
        self: &Arc<Self>,
        network: NetworkId,
        order: BuildOrder,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Option<Built> {
        let lease = order.lease;
        let name = format!("{}-{}-{}-{}", network.short(), lease.action.short(), lease.slot.0, lease.epoch);
        let folder = self.home.builds_dir().join(name);
        let log = self.log_path(&network, &lease);
        let ended = tokio::select! {
            ended = self.build_in(network, &order, &folder, &log, progress, cancel.clone()) => ended,
            () = self.tell_progress(network, lease) => None,
        };
        let left = folder.clone();
        let _ = tokio::task::spawn_blocking(move || builder::remove_scratch(&left)).await;
        if ended.is_none() {
            // What a cancelled build gave is nobody's result.
            self.private.open(&(network, lease));
        }
        ended
    }

    /// Tells the engine how far a build is, for ever.
    async fn tell_progress(&self, network: NetworkId, lease: LeaseRef) {
        let mut told = Progress::default();
        loop {
            tokio::time::sleep(PROGRESS_INTERVAL).await;
            let seen = self.running().get(&(network, lease)).map(|running| running.progress.borrow().clone());
            if let Some(seen) = seen.filter(|seen| *seen != told) {
                let input = Input::Progress { lease, log_bytes: seen.log_bytes, cpu_ms: seen.cpu_ms };
                self.engines.with(&network, |engine, now| engine.handle(now, input));
                told = seen;
            }
        }
    }

    async fn build_in(
        self: &Arc<Self>,
        network: NetworkId,
        order: &BuildOrder,
        folder: &Path,
        log: &Path,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Option<Built> {
        let (inputs, public) = match self.inputs(network, order, folder).await {
            Ok((inputs, public)) => (inputs, Arc::new(public)),
            Err(error) => {
                tracing::warn!(job = %order.label, error = %format!("{error:#}"), "inputs can't be had");
                let _ = tokio::fs::write(log, format!("==> inputs\n{error:#}\n")).await;
                return Some(Built::nothing(FailureClass::Fetch, "inputs", nothing_ran()));
            }
        };
        let request = BuildRequest {
            action: order.action.clone(),
            limits: order.limits.clone(),
            scratch: folder.join("scratch"),
            inputs,
            log: log.to_owned(),
            shell: Shell::Never,
            variation: Variation::None,
        };
        let result = (network, order.lease);
        let build = |request, progress, cancel| self.build_once(&order.label, result, public.clone(), request, progress, cancel);
        let (outcome, mut particulars) = build(request.clone(), progress.clone(), cancel.clone()).await?;
        let mut again = None;
        // A machine that failed at the first build settles nothing with a second one.
        if order.twice && outcome.is_vote() {
            let request = BuildRequest { log: folder.join("again.log"), ..chaotic(request) };
            let of_second = request.log.clone();
            let (second, told) = build(request, progress, cancel).await?;
            particulars.wall_ms = particulars.wall_ms.saturating_add(told.wall_ms);
            particulars.cpu_ms = particulars.cpu_ms.saturating_add(told.cpu_ms);
            particulars.memory_peak = particulars.memory_peak.max(told.memory_peak);
            if let Err(error) = append(log, &of_second).await {
                tracing::warn!(job = %order.label, %error, "the log of the second build can't be kept");
            }
            again = Some(second);
        }
        let (store, log) = (self.store.clone(), log.to_owned());
        let kept = tokio::task::spawn_blocking(move || store.import_file(&log, Durability::Announced)).await;
        match kept.map_err(anyhow::Error::from).and_then(|kept| Ok(kept?)) {
            Ok((hash, length)) => {
                particulars.log = Some(hash);
                particulars.log_length = length;
                self.private.hide(result, [hash]);
                Some(Built { outcome, again, particulars })
            }
            Err(error) => {
                tracing::error!(job = %order.label, error = %format!("{error:#}"), "the log can't be stored");
                Some(Built::nothing(FailureClass::Upload, "outputs", particulars))
            }
        }
    }

    /// Builds once and stores the outputs, hidden but for what is `public`; `None` where it was cancelled.
    async fn build_once(
        self: &Arc<Self>,
        label: &str,
        result: ResultId,
        public: Arc<BTreeSet<BlobHash>>,
        request: BuildRequest,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Option<(Outcome, Particulars)> {
        if cancel.is_cancelled() {
            return None;
        }
        let sink = StoreSink { store: self.store.clone(), private: self.private.clone(), result, public: public.clone() };
        let report = self.bench.build(request, Box::new(sink), progress, cancel).await;
        if let Some(message) = &report.message {
            tracing::info!(job = %label, message, "the build ended badly");
        }
        let outcome = report.outcome();
        let particulars = report.particulars;
        let store = self.store.clone();
        let kept = tokio::task::spawn_blocking(move || match &report.outcome {
            BuildOutcome::Success { tree } => store.import_tree_manifest(tree, Durability::Announced).map(drop),
            _ => Ok(()),
        })
        .await;
        // Its files are hidden since they were taken.
        let tree = outcome.as_ref().and_then(Outcome::tree);
        self.private.hide(result, tree.filter(|tree| !public.contains(tree)));
        match kept.map_err(anyhow::Error::from).and_then(|kept| Ok(kept?)) {
            Ok(()) => outcome.map(|outcome| (outcome, particulars)),
            Err(error) => {
                tracing::error!(job = %label, error = %format!("{error:#}"), "outputs can't be stored");
                outcome.map(|_| (failure(FailureClass::Upload, "outputs"), particulars))
            }
        }
    }

    /// Fetches what the action names and lays it out below `folder`; gives its blobs, too.
    async fn inputs(
        self: &Arc<Self>,
        network: NetworkId,
        order: &BuildOrder,
        folder: &Path,
    ) -> anyhow::Result<(Inputs, BTreeSet<BlobHash>)> {
        tokio::fs::create_dir_all(folder).await?;
        let mut inputs = Inputs::default();
        let mut blobs = BTreeSet::new();
        for (index, source) in order.action.sources.iter().enumerate() {
            let to = folder.join(format!("source-{index}"));
            if source.form == SourceForm::Tree {
                let (of_tree, _hold) = self.fetch_tree(network, source.blob, order.sources_from.clone()).await?;
                blobs.extend(of_tree);
                self.lay_out(source.blob, &to, LayOut { epoch_s: order.action.epoch, ..LayOut::default() }).await?;
            } else {
                let _hold = self.hold(self.store.hold(), vec![source.blob]).await?;
                self.fetch_blob(network, source.blob, None, order.sources_from.clone(), None).await?;
                blobs.insert(source.blob);
                let (store, blob, path) = (self.store.clone(), source.blob, to.clone());
                tokio::task::spawn_blocking(move || store.export(&blob, &path)).await??;
            }
            inputs.sources.push((source.clone(), to));
        }
        for (index, need) in order.action.needs.iter().enumerate() {
            let to = folder.join(format!("need-{index}"));
            let from: Vec<NodeId> = order.needs_from.get(index).map_or_else(Vec::new, |(_, nodes)| nodes.clone());
            let (of_tree, _hold) = self.fetch_tree(network, need.tree, from).await?;
            blobs.extend(of_tree);
            let only = need.only.iter().map(|pattern| Pattern::new(pattern)).collect();
            self.lay_out(need.tree, &to, LayOut { read_only: true, only, epoch_s: order.action.epoch }).await?;
            inputs.needs.push((need.clone(), to));
        }
        if let Rootfs::Tree(tree) = order.action.environment.rootfs {
            let to = folder.join("rootfs");
            let (of_tree, _hold) = self.fetch_tree(network, tree, order.sources_from.clone()).await?;
            blobs.extend(of_tree);
            self.lay_out(tree, &to, LayOut { read_only: true, epoch_s: 1, ..LayOut::default() }).await?;
            inputs.rootfs = Some(to);
        }
        Ok((inputs, blobs))
    }

    async fn lay_out(&self, tree: BlobHash, to: &Path, how: LayOut) -> anyhow::Result<()> {
        let (store, to): (Store, PathBuf) = (self.store.clone(), to.to_owned());
        tokio::task::spawn_blocking(move || store.lay_out(&tree, &to, &how)).await??;
        Ok(())
    }

    pub(super) async fn forget_result(&self, network: &NetworkId, lease: &LeaseRef) {
        let (store, key) = (self.store.clone(), result_key(network, lease));
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || store.meta_delete(&key)).await {
            tracing::warn!(%error, "a result that was revealed can't be forgotten");
        }
    }

    /// Keeps what a result that is not revealed yet has given to this node, as after a restart: what `kept` lists. Where
    /// an earlier version kept no list, all of its outputs.
    pub(super) async fn hide_result(&self, network: NetworkId, kept: &KeptResult) {
        let result = (network, kept.result.lease);
        match &kept.private {
            Some(blobs) => self.private.hide(result, blobs.iter().copied()),
            None => {
                for tree in kept.result.outcomes().filter_map(Outcome::tree) {
                    self.private.hide(result, self.blobs_of(tree).await);
                }
                self.private.hide(result, kept.result.particulars.log);
            }
        }
    }

    /// A result is about to be revealed: its blobs may be served from now on.
    pub(super) async fn open_result(&self, network: NetworkId, result: &OwnResult) {
        self.private.open(&(network, result.lease));
        let pin = format!("result/{network}/{}", result.lease.action);
        // A job that is not deterministic has two outputs; people look at what differs.
        for (outcome, pin) in result.outcomes().zip([pin.clone(), format!("{pin}/again")]) {
            let Some(tree) = outcome.tree() else { continue };
            let store = self.store.clone();
            let pinned = tokio::task::spawn_blocking(move || store.pin_tree(&pin, &tree)).await;
            if let Ok(Err(error)) = pinned {
                tracing::warn!(%error, "an output can't be pinned");
            }
        }
    }
}

/// `request` with everything made to differ that must not matter. It may have fewer CPUs than the action asks for, and so
/// much more time: a slow build is no sign of anything.
fn chaotic(mut request: BuildRequest) -> BuildRequest {
    let slower = u32::from(request.action.cores).max(2);
    request.limits.wall = request.limits.wall.saturating_mul(slower);
    request.limits.silent = request.limits.silent.saturating_mul(slower);
    request.variation = Variation::Chaos;
    request
}

/// Puts the log of the second build behind that of the first.
async fn append(log: &Path, second: &Path) -> io::Result<()> {
    let (log, second) = (log.to_owned(), second.to_owned());
    let copied = tokio::task::spawn_blocking(move || {
        let mut all = File::options().append(true).open(log)?;
        all.write_all(b"==> built again, with everything made to differ that must not matter\n")?;
        io::copy(&mut File::open(second)?, &mut all).map(drop)
    });
    copied.await.map_err(io::Error::other)?
}

pub(super) fn result_key(network: &NetworkId, lease: &LeaseRef) -> Vec<u8> {
    let mut key = result_prefix(network);
    key.extend_from_slice(lease.action.as_bytes());
    key.extend_from_slice(&lease.slot.0.to_be_bytes());
    key.extend_from_slice(&lease.epoch.to_be_bytes());
    key
}

fn failure(class: FailureClass, stage: &str) -> Outcome {
    Outcome::Failure { class, stage: barnraiser_protocol::bounded::BoundedString::cut(stage) }
}

fn nothing_ran() -> Particulars {
    Particulars { fingerprint: crate::platform::Platform::this().fingerprint(), ..Particulars::default() }
}
