//! The handle to the network of a node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use barnraiser_protocol::id::{BlobHash, NetworkId, NodeId};
use barnraiser_protocol::transfer::Given;
use barnraiser_protocol::transfer::spread::Ration;
use barnraiser_store::Store;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{HoldConfig, NetConfig};
use crate::event::{MessageToken, Misbehaviour, NetEvent, Verdict};
use crate::holder::Holder;
use crate::identity::peer_id;
use crate::substream::Opener;
use crate::swarm::{self, Command};
use crate::sync::{self, Answering, SyncError, SyncReport};
use crate::topic::Topic;
use crate::traffic::Traffic;
use crate::transfer::{
    self, Differences, FetchError, FetchProgress, FetchReport, FetchRequest, Lapses, Making, PushError, PushReport, PushRequest,
    SeedChoice, Waits,
};

/// Why the network could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The key is none.
    #[error("the node key can't be used: {0}")]
    Key(String),
    /// An address can't be listened on.
    #[error("can't listen on {address}: {reason}; choose another address or port")]
    Listen {
        /// Which.
        address: Multiaddr,
        /// What the system said.
        reason: String,
    },
    /// A transport can't be set up on this machine.
    #[error("the network can't be set up: {0}")]
    Setup(String),
}

/// Why something asked of the network was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// The network was not joined, or was left.
    #[error("this node is no member of network {}", .0.short())]
    NotAMember(NetworkId),
    /// The 32 bytes are no ed25519 key.
    #[error("{0} is not the id of a node")]
    NotANode(NodeId),
    /// Too large for gossip.
    #[error("{given} bytes are too many for gossip, which carries {limit}")]
    TooLarge {
        /// Bytes given.
        given: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Every peer's queue is full: it is published again by anti-entropy.
    #[error("the message could not be sent now: {0}")]
    NotSent(String),
    /// No connection could be made.
    #[error("node {} can't be reached: {reason}", .node.short())]
    Unreachable {
        /// The node.
        node: NodeId,
        /// What was tried.
        reason: String,
    },
    /// [`Net::shutdown`] was called.
    #[error("the network is shut down")]
    ShutDown,
}

/// A connected peer.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// Who.
    pub node: NodeId,
    /// Where it can be reached, as far as known; without PeerIds.
    pub addresses: Vec<Multiaddr>,
    /// How long it has been connected.
    pub connected: Duration,
    /// The latest measured round trip.
    pub round_trip: Option<Duration>,
    /// The networks that we share.
    pub networks: Vec<NetworkId>,
    /// Whether a bulk connection to it, dialled by us, is open.
    pub bulk: bool,
    /// What it says that it runs.
    pub agent: String,
    /// What it did wrong since it connected.
    pub faults: u32,
}

/// A holder that was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownHolder {
    /// Who.
    pub node: NodeId,
    /// Whether it is an entry server of the network, rather than a member.
    pub entry: bool,
    /// Whether it is connected now.
    pub connected: bool,
}

/// What the tasks of one node's network share.
pub(crate) struct Context {
    pub(crate) local: NodeId,
    pub(crate) config: NetConfig,
    pub(crate) opener: Opener,
    pub(crate) commands: mpsc::Sender<Command>,
    /// Ends with the swarm's task, whoever still holds a handle: that is how the owner sees the end.
    events: mpsc::WeakSender<NetEvent>,
    pub(crate) traffic: Arc<Traffic>,
    /// One permit for each unit that is read for a peer, ...
    serving: Arc<Semaphore>,
    /// ... and of those each peer has so many.
    serving_by_peer: Mutex<BTreeMap<NodeId, Weak<Semaphore>>>,
    /// A unit of some blob was verified, or a fetch ended: whoever waits for more of one should look again.
    pub(crate) verified: Notify,
    /// Who waits for that.
    pub(crate) waits: Waits,
    /// How often units were sent.
    pub(crate) given: Arc<Mutex<Given>>,
    /// Held while a chunk list is made, which reads a whole blob.
    pub(crate) chunking: Arc<Semaphore>,
    /// For whom lists were made.
    making: Mutex<Making>,
    /// Who takes what everybody wants, by the age of `since`.
    rations: Mutex<Ration>,
    since: Instant,
    /// One permit for each exchange of records that we began.
    pub(crate) syncing: Semaphore,
    /// Exchanges that peers began.
    pub(crate) answering: Answering,
    /// One lock for each blob that is being fetched.
    fetching: Mutex<BTreeMap<BlobHash, Weak<tokio::sync::Mutex<()>>>>,
    /// Who has let a fetch down.
    lapses: Mutex<Lapses>,
    /// How many read along while each blob is fetched.
    readers: Arc<Mutex<BTreeMap<BlobHash, usize>>>,
    joined: Mutex<BTreeSet<NetworkId>>,
    under_way: Mutex<BTreeSet<(NetworkId, PeerId)>>,
    /// What this node keeps for others.
    pub(crate) holder: Option<Arc<Holder>>,
    /// Whether others can dial this node, once that is known.
    pub(crate) reachable: watch::Sender<Option<bool>>,
}

impl Context {
    pub(crate) fn new(
        config: NetConfig,
        traffic: Arc<Traffic>,
        holder: Option<Arc<Holder>>,
        opener: Opener,
        commands: mpsc::Sender<Command>,
        events: mpsc::WeakSender<NetEvent>,
    ) -> Self {
        let serving = config.limits.rates.units_at_once(config.limits.serving);
        Self {
            local: config.key.node(),
            opener,
            commands,
            events,
            traffic,
            serving: Arc::new(Semaphore::new(serving)),
            serving_by_peer: Mutex::default(),
            verified: Notify::new(),
            waits: Waits::default(),
            given: Arc::default(),
            chunking: Arc::new(Semaphore::new(1)),
            making: Mutex::default(),
            rations: Mutex::default(),
            since: Instant::now(),
            syncing: Semaphore::new(config.limits.syncs.max(1)),
            answering: Answering::new(config.limits.syncs.max(1)),
            fetching: Mutex::default(),
            lapses: Mutex::default(),
            readers: Arc::default(),
            joined: Mutex::default(),
            under_way: Mutex::default(),
            holder,
            reachable: watch::Sender::new(None),
            config,
        }
    }

    /// Reports an event, waiting as long as the owner does not take it.
    pub(crate) async fn emit(&self, event: NetEvent) -> Result<(), NetError> {
        let events = self.events.upgrade().ok_or(NetError::ShutDown)?;
        events.send(event).await.map_err(|_| NetError::ShutDown)
    }

    /// The networks that were joined.
    pub(crate) fn joined(&self) -> MutexGuard<'_, BTreeSet<NetworkId>> {
        // The set is whole after each call, so a panic elsewhere did not break it. Likewise below.
        self.joined.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Exchanges of records that we began and that have not ended.
    pub(crate) fn under_way(&self) -> MutexGuard<'_, BTreeSet<(NetworkId, PeerId)>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `to` would be given a blob now, as far as others who want it go.
    pub(crate) fn has_room(&self, hash: &BlobHash, to: &NodeId) -> bool {
        !self.config.access.is_rationed(hash) || self.rations().has_room(hash, to, self.since.elapsed())
    }

    /// The same, and `to` takes it until [`Context::served`].
    pub(crate) fn admit(&self, hash: &BlobHash, to: &NodeId) -> bool {
        !self.config.access.is_rationed(hash) || self.rations().admit(hash, to, self.since.elapsed())
    }

    /// What `to` was let take is sent, or can't be.
    pub(crate) fn served(&self, hash: &BlobHash, to: &NodeId) {
        self.rations().served(hash, to, self.since.elapsed());
    }

    fn rations(&self) -> MutexGuard<'_, Ration> {
        self.rations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room to read a unit for `to`. The room of a peer that takes slowly is its own: others don't wait for it.
    pub(crate) async fn serving(&self, to: &NodeId) -> Option<Serving> {
        let of_peer = {
            let mut all = self.serving_by_peer.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, room| room.strong_count() > 0);
            all.get(to).and_then(Weak::upgrade).unwrap_or_else(|| {
                let limits = &self.config.limits;
                // A quarter of all at most, and enough for one stream: a unit that is read, one that waits, one that is sent.
                let quarter = limits.rates.units_at_once(limits.serving) / 4;
                let room = Arc::new(Semaphore::new(limits.serving_per_peer.min(quarter.max(3)).max(1)));
                all.insert(*to, Arc::downgrade(&room));
                room
            })
        };
        let of_peer = of_peer.acquire_owned().await.ok()?;
        Some(Serving { _of_peer: of_peer, _of_all: self.serving.clone().acquire_owned().await.ok()? })
    }

    /// For whom chunk lists were made.
    pub(crate) fn making(&self) -> MutexGuard<'_, Making> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who has let a fetch down.
    pub(crate) fn lapses(&self) -> MutexGuard<'_, Lapses> {
        self.lapses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fetch of `hash` has found out whether `node` gives it: later ones, and who asks this node, ask it first or last.
    pub(crate) fn judge(&self, hash: &BlobHash, node: NodeId, gave: bool) {
        self.lapses().judge(node, gave, tokio::time::Instant::now());
        // Where the swarm has too much to do, it knows one provider less well.
        let _ = self.commands.try_send(Command::Judge { hash: *hash, node, gave });
    }

    /// The lock that a fetch of `hash` holds.
    pub(crate) fn fetch_turn(&self, hash: BlobHash) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        fetching.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = fetching.get(&hash).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        fetching.insert(hash, Arc::downgrade(&turn));
        turn
    }

    /// Whether somebody reads `hash` while it is fetched.
    pub(crate) fn is_read_along(&self, hash: &BlobHash) -> bool {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).contains_key(hash)
    }

    /// Reports that a peer broke a rule; it is scored down, and the owner hears of it.
    pub(crate) async fn report(&self, peer: PeerId, what: Misbehaviour) {
        tracing::debug!(%peer, %what, "a peer misbehaved");
        // Without the swarm nobody is left to be scored.
        let _ = self.commands.send(Command::Misbehaved { peer, what }).await;
    }

    /// Asks the swarm's task.
    pub(crate) async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, NetError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| NetError::ShutDown)?;
        answer.await.map_err(|_| NetError::ShutDown)
    }

    /// Connects to `node`: at once where a connection is there, else by all addresses that are known or can be found.
    pub(crate) async fn connect(&self, node: NodeId, addresses: Vec<Multiaddr>) -> Result<PeerId, NetError> {
        let peer = peer_id(&node).ok_or(NetError::NotANode(node))?;
        self.ask(|reply| Command::Connect { peer, addresses, reply }).await?.map_err(|reason| NetError::Unreachable { node, reason })?;
        Ok(peer)
    }
}

/// Room for one unit that is read and sent; see [`Context::serving`].
pub(crate) struct Serving {
    _of_peer: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// As long as it lives, fetches of one blob bring the first bytes that are missing before all others. See [`Net::read_along`].
#[derive(Debug)]
pub struct ReadAlong {
    hash: BlobHash,
    readers: Arc<Mutex<BTreeMap<BlobHash, usize>>>,
}

impl Drop for ReadAlong {
    fn drop(&mut self) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = readers.get_mut(&self.hash) {
            *count -= 1;
            if *count == 0 {
                readers.remove(&self.hash);
            }
        }
    }
}

/// The network of this node. Cheap to clone; when the last clone is dropped, the network is shut down.
#[derive(Clone)]
pub struct Net {
    context: Arc<Context>,
    verdicts: mpsc::UnboundedSender<(MessageToken, Verdict)>,
    stop: CancellationToken,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
    _stop_when_dropped: Arc<DropGuard>,
}

/// Opens the transports and starts the task that drives them. The events must be taken: while 1,024 wait, gossiped
/// records are dropped and exchanges of records stand still. They end after [`Net::shutdown`].
///
/// # Errors
/// [`StartError`]. Addresses are bound when the call returns; what is listened on comes as [`NetEvent::Listening`].
pub async fn start(config: NetConfig) -> Result<(Net, mpsc::Receiver<NetEvent>), StartError> {
    let stop = CancellationToken::new();
    let (verdicts, given) = mpsc::unbounded_channel();
    let holder = match config.hold.clone() {
        Some(hold) => Some(Arc::new(open_holder(config.store.clone(), hold).await?)),
        None => None,
    };
    let (context, events, driver) = swarm::start(config, holder, given, stop.clone())?;
    let net = Net {
        context,
        verdicts,
        stop: stop.clone(),
        task: Arc::new(Mutex::new(Some(tokio::spawn(driver)))),
        _stop_when_dropped: Arc::new(stop.drop_guard()),
    };
    Ok((net, events))
}

/// Reads what is held in a store, which may be much.
pub(crate) async fn open_holder(store: Store, hold: HoldConfig) -> Result<Holder, StartError> {
    let opened = tokio::task::spawn_blocking(move || Holder::open(store, hold)).await;
    let opened = opened.map_err(|error| StartError::Setup(error.to_string()))?;
    opened.map_err(|fault| StartError::Setup(format!("what is held for others can't be read: {fault}")))
}

impl Net {
    /// This node.
    pub fn local(&self) -> NodeId {
        self.context.local
    }

    /// Joins `network`: finds its members through the entry servers `bootstrap` and the remembered `known` addresses
    /// (with `/p2p/…` at the end), for ever, and subscribes to its control topic. Joining again adds addresses.
    ///
    /// # Errors
    /// [`NetError::ShutDown`].
    pub async fn join(&self, network: NetworkId, bootstrap: Vec<Multiaddr>, known: Vec<Multiaddr>) -> Result<(), NetError> {
        self.context.joined().insert(network);
        self.context.ask(|reply| Command::Join { network, bootstrap, known, reply }).await
    }

    /// Leaves `network` and its topics.
    ///
    /// # Errors
    /// [`NetError::ShutDown`].
    pub async fn leave(&self, network: NetworkId) -> Result<(), NetError> {
        self.context.joined().remove(&network);
        self.context.ask(|reply| Command::Leave { network, reply }).await
    }

    /// Gossips a record. It is no error if nobody listens or if it was published before: peers get it by anti-entropy.
    ///
    /// # Errors
    /// [`NetError`].
    pub async fn publish(&self, network: NetworkId, topic: Topic, bytes: Vec<u8>) -> Result<(), NetError> {
        self.context.ask(|reply| Command::Publish { network, topic, bytes, reply }).await?
    }

    /// Gives the verdict on a gossiped record; without one it is not passed on.
    pub fn validated(&self, message: MessageToken, verdict: Verdict) {
        // The queue is bounded by the tokens that were handed out; after a shutdown verdicts mean nothing.
        let _ = self.verdicts.send((message, verdict));
    }

    /// Subscribes to a topic of a joined network.
    ///
    /// # Errors
    /// [`NetError`].
    pub async fn subscribe(&self, network: NetworkId, topic: Topic) -> Result<(), NetError> {
        self.context.ask(|reply| Command::Subscribe { network, topic, wanted: true, reply }).await?
    }

    /// Ends a subscription.
    ///
    /// # Errors
    /// [`NetError`].
    pub async fn unsubscribe(&self, network: NetworkId, topic: Topic) -> Result<(), NetError> {
        self.context.ask(|reply| Command::Subscribe { network, topic, wanted: false, reply }).await?
    }

    /// Makes the records of this node and of `node` equal. This happens by itself when a member connects and then
    /// periodically with a random one. What comes is reported as [`NetEvent::Record`] before this returns.
    ///
    /// # Errors
    /// [`SyncError`].
    pub async fn sync_with(&self, network: NetworkId, node: NodeId) -> Result<SyncReport, SyncError> {
        sync::open(&self.context, network, node).await
    }

    /// Fetches a blob into the store, from all given providers at once. What an earlier attempt brought is not fetched
    /// again. Dropping the future ends the fetch and keeps what is verified.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn fetch(&self, request: FetchRequest, progress: Option<watch::Sender<FetchProgress>>) -> Result<FetchReport, FetchError> {
        transfer::fetch(&self.context, request, progress).await
    }

    /// Makes fetches of `hash`, those that go on already too, bring the first bytes that are missing before all others, as long as
    /// what is given lives: for who reads them by [`barnraiser_store::Store::read_on`] while they come.
    pub fn read_along(&self, hash: BlobHash) -> ReadAlong {
        let readers = self.context.readers.clone();
        *readers.lock().unwrap_or_else(PoisonError::into_inner).entry(hash).or_default() += 1;
        ReadAlong { hash, readers }
    }

    /// Puts together what `seeds` have of a blob, and fetches what is missing of the units that they have a part of. To be
    /// called before [`Net::fetch`], which then fetches the rest. That it brought nothing is no error: the fetch brings all.
    pub async fn copy_from_seeds(
        &self,
        request: &FetchRequest,
        seeds: SeedChoice,
        progress: Option<&watch::Sender<FetchProgress>>,
    ) -> Differences {
        transfer::copy_from_seeds(&self.context, request, seeds, progress).await
    }

    /// Who has a blob: asks up to 16 connected members of `network`, and Kademlia. Takes 3 seconds at most. A list can
    /// be stuffed with liars; only the bytes are proof.
    pub async fn who_has(&self, network: NetworkId, hash: BlobHash) -> Vec<NodeId> {
        transfer::who_has(&self.context, Some(network), hash).await
    }

    /// Gives blobs to a holder, which says what it has of them already. Dropping the future ends it; what was taken is not
    /// sent again.
    ///
    /// # Errors
    /// [`PushError`]. That the holder does not take a blob is no error: the report says so.
    pub async fn push(&self, request: &PushRequest) -> Result<PushReport, PushError> {
        transfer::push(&self.context, request).await
    }

    /// Holders that were met: members of `network`, and its entry servers.
    ///
    /// # Errors
    /// [`NetError`].
    pub async fn holders(&self, network: NetworkId) -> Result<Vec<KnownHolder>, NetError> {
        self.context.ask(|reply| Command::Holders { network, reply }).await
    }

    /// What this node keeps for others, where it does.
    pub fn holder(&self) -> Option<&Arc<Holder>> {
        self.context.holder.as_ref()
    }

    /// Whether others can dial this node; none until somebody who was asked to try has answered.
    pub fn is_reachable(&self) -> Option<bool> {
        *self.context.reachable.borrow()
    }

    /// Whether `node` says that it has all of a blob, with its length; none where it can't be asked.
    pub async fn has_all(&self, node: NodeId, hash: BlobHash) -> Option<bool> {
        transfer::has_all(&self.context, node, hash).await
    }

    /// The members of `network` that this node is connected to.
    ///
    /// # Errors
    /// [`NetError`].
    pub async fn members(&self, network: NetworkId) -> Result<Vec<NodeId>, NetError> {
        self.context.ask(|reply| Command::Members { network, reply }).await
    }

    /// Announces to Kademlia that this node has a blob. Meant for images and indexes only: each costs traffic for ever.
    ///
    /// # Errors
    /// [`NetError`].
    pub async fn provide(&self, hash: BlobHash) -> Result<(), NetError> {
        self.context.ask(|reply| Command::Provide { hash, wanted: true, reply }).await?
    }

    /// Ends [`Net::provide`]; others forget it within an hour.
    ///
    /// # Errors
    /// [`NetError`].
    pub async fn unprovide(&self, hash: BlobHash) -> Result<(), NetError> {
        self.context.ask(|reply| Command::Provide { hash, wanted: false, reply }).await?
    }

    /// The traffic of this node: how much has moved, and whether bulk may.
    pub fn traffic(&self) -> &Traffic {
        &self.context.traffic
    }

    /// Everybody connected, entry servers included. Empty after a shutdown.
    pub async fn peers(&self) -> Vec<PeerInfo> {
        self.context.ask(|reply| Command::Peers { reply }).await.unwrap_or_default()
    }

    /// Where this node listens, and the addresses that it was told it has; with its PeerId. Empty after a shutdown.
    pub async fn addresses(&self) -> Vec<Multiaddr> {
        self.context.ask(|reply| Command::Addresses { reply }).await.unwrap_or_default()
    }

    /// Addresses of members of `network`, with PeerIds, those connected or seen last first; 64 at most. Worth keeping
    /// for the next [`Net::join`], which then needs no entry server.
    pub async fn known_addresses(&self, network: NetworkId) -> Vec<Multiaddr> {
        self.context.ask(|reply| Command::Known { network, reply }).await.unwrap_or_default()
    }

    /// Connects to a node, by `addresses` and by what else is known or can be found.
    ///
    /// # Errors
    /// [`NetError::Unreachable`] with what was tried.
    pub async fn dial(&self, node: NodeId, addresses: Vec<Multiaddr>) -> Result<(), NetError> {
        self.context.connect(node, addresses).await.map(|_| ())
    }

    /// Closes all connections and ends the task; returns when that is done.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the network's task failed");
        }
    }
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").field("local", &self.context.local).finish_non_exhaustive()
    }
}
