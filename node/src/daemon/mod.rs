//! The background node: it drives the engines, moves records and blobs, runs builds, and answers the command line.
//!
//! It decides nothing that the engine should: [`engines`] calls them, [`networks`] moves records, [`builds`] carries out
//! build orders, [`artefacts`] fetches and keeps blobs, [`wanted`] what engines lack of batches, [`releases`] proposes and
//! publishes, [`pushing`] gives outputs to holders, [`holding`] is one, [`keeping`] keeps releases on enough of them, [`http`]
//! answers on the home's Unix socket, [`storing`] does what people want of the store, [`room`] keeps it to its quota, [`traffic`]
//! looks at the clock and the month.

mod announcing;
mod artefacts;
mod branches;
mod builds;
mod durable;
pub mod engines;
mod ephemeral;
mod fetching;
mod holding;
mod http;
mod keeping;
mod logs;
mod metadata;
mod networks;
mod pushing;
mod relay;
mod releases;
mod room;
mod seeds;
mod storing;
mod traffic;
mod wanted;
pub mod workbench;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use barnraiser_bootstrap::{Limits, Multiaddr, Net, NetConfig, RecordSource};
use barnraiser_protocol::engine::{Input, Lend, Output};
use barnraiser_protocol::id::{NetworkId, NodeId, RecordId};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::record::payload::LeaseRef;
use barnraiser_protocol::sync::{ItemSet, Window};
use barnraiser_protocol::time::Timestamp;
use barnraiser_store::Store;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

pub(crate) use ephemeral::ephemeral_fetch;
pub(crate) use fetching::Told;

use crate::config::Config;
use crate::home::Home;
use engines::{Engines, now};
use networks::Network;
use traffic::Ledger;
use workbench::{SandboxBench, Workbench};

/// How many events a slow listener may lag behind.
const EVENTS_KEPT: usize = 1024;
/// How long shutdown waits for records that hand leases back and say goodbye.
const FAREWELL: Duration = Duration::from_millis(300);

/// Why a node takes no builds that could.
const NO_BUILDS: &str = "it was started with --no-build, or its barn.toml says `builds = false` or `seed_only = true`";

/// What the command line says about a run.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Takes no work: stores, relays and fetches only.
    pub no_build: bool,
    /// Listens here instead of where the configuration says.
    pub listen: Vec<String>,
}

/// The running node.
pub struct Daemon {
    home: Home,
    config: Config,
    node_key: SecretKey,
    operator_key: SecretKey,
    store: Store,
    net: Net,
    engines: Arc<Engines>,
    networks: RwLock<BTreeMap<NetworkId, Arc<Network>>>,
    builds: Mutex<BTreeMap<(NetworkId, LeaseRef), builds::Running>>,
    bench: Arc<dyn Workbench>,
    private: Arc<artefacts::Private>,
    branches: Arc<branches::KnownBranches>,
    announcing: announcing::Announcing,
    /// Something came up that holders are to have.
    to_push: Notify,
    events: broadcast::Sender<(NetworkId, Timestamp, Arc<serde_json::Value>)>,
    since: Timestamp,
    /// Whether it was started to build at all.
    wants_builds: bool,
    rest: Mutex<Option<(String, Option<Timestamp>)>>,
    ledger: Mutex<Ledger>,
    /// Why nothing can be written now.
    stuck: Mutex<Option<String>>,
    stop: CancellationToken,
}

/// Why the node can't run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The home can't be used.
    #[error("{0}")]
    Home(String),
    /// The store can't be used.
    #[error("{0}")]
    Store(#[from] barnraiser_store::OpenError),
    /// An address to listen on is none.
    #[error("{0:?} is not an address to listen on; it looks like /ip4/0.0.0.0/tcp/4327")]
    Address(String),
    /// The network can't be opened.
    #[error("{0}")]
    Net(#[from] barnraiser_bootstrap::StartError),
    /// Anything else.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

/// Anti-entropy reads the boards of the engines.
struct Boards(Arc<Engines>);

impl RecordSource for Boards {
    fn look(&self, network: &NetworkId, cut: Timestamp, look: &mut dyn FnMut(&Window<'_>)) {
        let shown = self.0.show(network, |engine, unwritten| {
            let hidden = unwritten.iter().filter_map(|id| Some((engine.record(id)?.forget_at(), *id)));
            look(&engine.items().window(cut, hidden));
        });
        if shown.is_none() {
            look(&ItemSet::default().window(cut, []));
        }
    }
    fn get(&self, network: &NetworkId, ids: &[RecordId]) -> Vec<Vec<u8>> {
        let bytes = self.0.show(network, |engine, unwritten| {
            let shown = ids.iter().filter(|id| !unwritten.contains(id));
            shown.filter_map(|id| Some(engine.record(id)?.bytes().to_vec())).collect()
        });
        bytes.unwrap_or_default()
    }
}

/// Runs the node of `home` until `stop` is cancelled. Says on standard output where it listens.
///
/// # Errors
/// [`RunError`] where it can't start.
pub async fn run(home: Home, options: RunOptions, stop: CancellationToken) -> Result<(), RunError> {
    run_with(home, options, stop, Arc::new(SandboxBench)).await
}

/// As [`run`], with builds done on `bench`.
///
/// # Errors
/// [`RunError`] where it can't start.
pub async fn run_with(home: Home, options: RunOptions, stop: CancellationToken, bench: Arc<dyn Workbench>) -> Result<(), RunError> {
    let lock = home.lock().map_err(|error| RunError::Home(error.to_string()))?;
    let daemon = Daemon::start(home, options, stop.clone(), bench).await?;
    let socket = daemon.home.socket_path();
    let served = http::serve(daemon.clone(), &socket).await?;
    let mut text = format!("barn: node {} is running; its socket is {}\n", daemon.node().short(), socket.display());
    for address in daemon.net.addresses().await {
        text.push_str(&format!("  listens on {address}\n"));
    }
    // That nobody reads it (a closed pipe) is no reason to end.
    let _ = std::io::stdout().write_all(text.as_bytes());
    stop.cancelled().await;
    daemon.farewell().await;
    served.abort();
    let _ = std::fs::remove_file(&socket);
    drop(lock);
    Ok(())
}

impl Daemon {
    /// Opens the store and the network, and brings all networks of the home to life.
    pub(crate) async fn start(
        home: Home,
        options: RunOptions,
        stop: CancellationToken,
        bench: Arc<dyn Workbench>,
    ) -> Result<Arc<Self>, RunError> {
        let open = home.open().map_err(|error| RunError::Home(error.to_string()))?;
        let config = open.config;
        let listen_on = if options.listen.is_empty() { config.listen.addresses_now() } else { options.listen.clone() };
        let listen = listen_on
            .iter()
            .map(|text| text.parse::<Multiaddr>().map_err(|_| RunError::Address(text.clone())))
            .collect::<Result<Vec<_>, _>>()?;
        let store = {
            let folder = home.store_dir();
            tokio::task::spawn_blocking(move || Store::open(&folder)).await.map_err(anyhow::Error::from)??
        };
        let wants = config.lend.builds && !options.no_build && !config.serve.seed_only;
        let sandbox = crate::builder::sandbox_check();
        if let (true, Err(problem)) = (wants, &sandbox) {
            tracing::error!(%problem, "this node takes no work");
        }
        let lend = Lend {
            builds: wants && sandbox.is_ok(),
            arbiter_only: config.lend.arbiter_only,
            // What is not lent can't be free either: nobody must count on it.
            cores: if wants { config.lend.cores } else { 0 },
            memory: if wants { config.lend.memory.0 } else { 0 },
        };
        let ledger = {
            let store = store.clone();
            tokio::task::spawn_blocking(move || Ledger::open(&store)).await.map_err(anyhow::Error::from)??
        };
        let engines = Arc::new(Engines::new(lend));
        let private = Arc::new(artefacts::Private::default());
        let branches = Arc::new(branches::KnownBranches::default());
        let (net, net_events) = barnraiser_bootstrap::start(NetConfig {
            key: open.node.clone(),
            listen,
            external: Vec::new(),
            agent: concat!("barn/", env!("CARGO_PKG_VERSION")).into(),
            limits: Limits { connections: config.traffic.connections, rates: config.traffic.rates(), ..Limits::default() },
            store: store.clone(),
            access: private.clone(),
            records: Arc::new(Boards(engines.clone())),
            branches: branches.clone(),
            hold: holding::hold_config(&config.serve, &store, &engines, &private),
        })
        .await?;
        let rest = sandbox.err().filter(|_| wants).map(|problem| (problem.to_string(), None));
        let daemon = Arc::new(Self {
            config,
            node_key: open.node,
            operator_key: open.operator,
            store,
            net,
            engines,
            networks: RwLock::default(),
            builds: Mutex::default(),
            bench,
            private,
            branches,
            announcing: announcing::Announcing::default(),
            to_push: Notify::new(),
            events: broadcast::channel(EVENTS_KEPT).0,
            since: now(),
            wants_builds: wants,
            rest: Mutex::new(rest),
            ledger: Mutex::new(ledger),
            stuck: Mutex::default(),
            stop,
            home,
        });
        builds::sweep(&daemon.home.builds_dir());
        // Before anything can travel.
        daemon.look_at_traffic();
        tokio::spawn(daemon.clone().watch_traffic());
        tokio::spawn(daemon.clone().keep_room());
        tokio::spawn(daemon.clone().take_events(net_events));
        tokio::spawn(daemon.clone().drive());
        tokio::spawn(daemon.clone().copy_branches());
        tokio::spawn(daemon.clone().push_all());
        if let Some(holder) = daemon.net.holder().cloned() {
            tokio::spawn(daemon.clone().tell_held(holder));
        }
        daemon.reload().await?;
        tokio::spawn(daemon.clone().announce_what_is_here());
        Ok(daemon)
    }

    /// Reads the home again: new networks, new charters, new standing records.
    pub(crate) async fn reload(self: &Arc<Self>) -> anyhow::Result<()> {
        let entries = self.home.networks()?;
        let left: Vec<NetworkId> = self.networks().keys().filter(|id| !entries.iter().any(|entry| entry.id == **id)).copied().collect();
        for id in left {
            self.engines.remove(&id);
            self.networks_mut().remove(&id);
            self.net.leave(id).await?;
            self.branches.changed();
            self.announcing.changed();
        }
        for entry in entries {
            let name = entry.name.clone();
            if let Err(error) = self.start_network(entry).await {
                tracing::error!(network = %name, error = %format!("{error:#}"), "a network can't be started");
            }
        }
        Ok(())
    }

    /// This node.
    pub(crate) fn node(&self) -> NodeId {
        self.node_key.node()
    }

    fn networks(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<NetworkId, Arc<Network>>> {
        self.networks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn networks_mut(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<NetworkId, Arc<Network>>> {
        self.networks.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<(NetworkId, LeaseRef), builds::Running>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out what the engines want, for ever.
    async fn drive(self: Arc<Self>) {
        loop {
            let outputs = tokio::select! {
                outputs = self.engines.next() => outputs,
                () = self.stop.cancelled() => return,
            };
            self.carry_out(outputs).await;
        }
    }

    async fn carry_out(self: &Arc<Self>, outputs: Vec<(NetworkId, Output)>) {
        // Everything that must be durable first: it may be earlier than asked, never later.
        if !self.make_durable(&outputs).await {
            return;
        }
        for (network, output) in outputs {
            match output {
                Output::Persist(_) | Output::PersistResult(_) => {}
                Output::Send(record) => self.send(network, &record).await,
                Output::ForgetResult(lease) => self.forget_result(&network, &lease).await,
                Output::Fetch { want, blob, length, from } => self.fetch_wanted(network, want, blob, length, from),
                Output::Start(order) => self.start_build(network, order),
                Output::Stop(lease) => self.stop_build(&network, &lease),
                Output::Open(result) => self.open_result(network, &result).await,
                Output::Forget(ids) => tracing::debug!(count = ids.len(), "records forgotten"),
                Output::Event(event) => {
                    tracing::debug!(?event, "event");
                    if let Ok(value) = serde_json::to_value(&event) {
                        // Nobody listening is no error.
                        let _ = self.events.send((network, now(), Arc::new(value)));
                    }
                }
            }
        }
    }

    /// Rests, for a time or until told otherwise; leases go back without penalty.
    pub(crate) fn pause(&self, until: Option<Timestamp>) {
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = Some(("its owner paused it".into(), until));
        self.engines.set_lend(Lend { builds: false, ..self.engines.lend() });
        let networks: Vec<NetworkId> = self.networks().keys().copied().collect();
        for network in networks {
            self.engines.with(&network, |engine, now| engine.handle(now, Input::HandBackAll));
        }
    }

    /// Takes work again.
    ///
    /// # Errors
    /// Why it can't.
    pub(crate) fn resume(&self) -> Result<(), String> {
        if !self.wants_builds {
            return Err(format!("this node takes no builds: {NO_BUILDS}; it has to be started anew"));
        }
        crate::builder::sandbox_check().map_err(|problem| problem.to_string())?;
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.settle_lend();
        Ok(())
    }

    fn resting(&self) -> Option<String> {
        if let Some(problem) = self.stuck() {
            return Some(format!("nothing can be written, so nothing is promised or published: {problem}"));
        }
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match rest {
            Some((why, Some(until))) => Some(format!("{why} until {until}")),
            Some((why, None)) => Some(why),
            None if !self.wants_builds => Some(format!("it takes no builds: {NO_BUILDS}")),
            None => self.net.traffic().resting(),
        }
    }

    /// Hands leases back, says goodbye, stops builds and closes the network.
    pub(crate) async fn farewell(self: &Arc<Self>) {
        let networks: Vec<NetworkId> = self.networks().keys().copied().collect();
        for network in &networks {
            self.engines.with(network, |engine, now| engine.handle(now, Input::Leave));
        }
        // The driver has stopped: what is left is carried out here, for a moment.
        let _ = tokio::time::timeout(FAREWELL, async {
            loop {
                let outputs = self.engines.next().await;
                self.carry_out(outputs).await;
            }
        })
        .await;
        for running in self.running().values() {
            running.cancel.cancel();
        }
        for network in networks {
            // Waited for: the network is closed next, and the process ends.
            self.keep_peers(network).await;
        }
        self.net.shutdown().await;
        self.look_at_traffic();
        self.keep_traffic().await;
    }

    /// Where the log of a build that runs or ran here is.
    fn log_path(&self, network: &NetworkId, lease: &LeaseRef) -> PathBuf {
        let name = format!("{}-{}-{}-{}.log", network.short(), lease.action.short(), lease.slot.0, lease.epoch);
        self.home.logs_dir().join(name)
    }
}
