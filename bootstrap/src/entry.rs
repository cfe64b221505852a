//! The entry server: a node that only helps others to find each other, and that may hold blobs for them.
//!
//! It speaks Kademlia and identify, knows no networks and relays no records. Members of a network announce themselves under
//! a key that only members can make and look each other up there. It dials back whoever asks whether it can be reached
//! ([`crate::reach`]). With a [`Hold`] it is a holder as well: it takes what anybody pushes ([`crate::holder`]) and serves
//! it to anybody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use barnraiser_protocol::id::{BlobHash, NetworkId, NodeId, RecordId};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::sync::{ItemSet, Window};
use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::transfer::BLOB_PROTOCOL;
use barnraiser_protocol::transfer::push::PUSH_PROTOCOL;
use barnraiser_protocol::transfer::reach::REACH_PROTOCOL;
use barnraiser_store::Store;
use futures::StreamExt as _;
use libp2p::kad::{self, InboundRequest};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, connection_limits, identify, ping};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::{ANNOUNCED_FOR, BlobAccess, Everybody, HoldConfig, Limits, NetConfig, RecordSource, Strangers};
use crate::holder::{self, Holder};
use crate::identity::{keypair, with_peer};
use crate::net::{Context, StartError, open_holder};
use crate::reach::Dialler;
use crate::substream::{self, ControlOnly, Inbound, Opener};
use crate::swarm::Command;
use crate::swarm::behaviour::{self, KAD_PROTOCOL};
use crate::swarm::providers::{self, Kademlia, Party};
use crate::traffic::{Rates, Traffic};
use crate::transfer;

/// Connections of an entry server.
const CONNECTIONS_MAX: u32 = 2048;
/// How long the addresses that were asked for may take to be bound.
const BIND_TIMEOUT: Duration = Duration::from_secs(10);
/// What tasks want of the swarm and what waits for it: of that, a holder's tasks only report who misbehaves.
const COMMANDS_MAX: usize = 64;
/// How often it is looked for blobs that began to come and were left.
const TIDY_EVERY: Duration = Duration::from_secs(3600);
/// How often, beside that, for files and blobs that nothing refers to, as something that was cut short leaves them: at the
/// start, and four times a day.
const TIDIES_PER_COLLECTION: u32 = 6;

/// What an entry server speaks on control connections.
#[derive(NetworkBehaviour)]
pub struct EntryControl {
    kad: Kademlia,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// What an entry server speaks.
#[derive(NetworkBehaviour)]
pub struct EntryBehaviour {
    limits: connection_limits::Behaviour,
    // Before the substreams, as in a node.
    control: ControlOnly<EntryControl>,
    substream: substream::Behaviour,
}

/// What an entry server holds for others.
#[derive(Debug)]
pub struct Hold {
    /// Where; nothing else may use it.
    pub store: Store,
    /// Bytes that may be held.
    pub quota: u64,
}

/// A running entry server; [`EntryServer::run`] drives it.
pub struct EntryServer {
    swarm: Swarm<EntryBehaviour>,
    /// Where the latest connection of each connected peer comes from.
    seen_at: HashMap<PeerId, Multiaddr>,
    listening: Vec<Multiaddr>,
    opener: Opener,
    inbound: mpsc::Receiver<Inbound>,
    commands: mpsc::Receiver<Command>,
    dialler: Arc<Dialler>,
    /// Where it holds blobs: what serves them.
    context: Option<Arc<Context>>,
    tasks: JoinSet<()>,
}

/// Serves what is held to everybody.
struct Held;

impl BlobAccess for Held {
    fn may_serve(&self, _: &BlobHash, _: &NodeId) -> bool {
        true
    }
}

/// It knows no records.
struct NoRecords;

impl RecordSource for NoRecords {
    fn look(&self, _: &NetworkId, cut: Timestamp, look: &mut dyn FnMut(&Window<'_>)) {
        look(&ItemSet::default().window(cut, []));
    }
    fn get(&self, _: &NetworkId, _: &[RecordId]) -> Vec<Vec<u8>> {
        Vec::new()
    }
}

impl EntryServer {
    /// Binds `listen` and returns once every address is bound.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(key: &SecretKey, listen: &[Multiaddr], agent: String, hold: Option<Hold>) -> Result<Self, StartError> {
        let keys = keypair(key).map_err(|error| StartError::Key(error.to_string()))?;
        let mut protocols = vec![REACH_PROTOCOL];
        if hold.is_some() {
            protocols.extend([BLOB_PROTOCOL, PUSH_PROTOCOL]);
        }
        let (substream, opener, inbound) = substream::Behaviour::new(&protocols);
        let control = EntryControl {
            kad: behaviour::kademlia(&keys, ANNOUNCED_FOR),
            identify: behaviour::identify(&keys, agent.clone()),
            ping: behaviour::ping(),
        };
        let behaviour = EntryBehaviour {
            limits: behaviour::connection_limits(CONNECTIONS_MAX),
            control: ControlOnly::new(control, substream.bulk_connections()),
            substream,
        };
        let swarm = crate::swarm::swarm(keys, behaviour)?;
        let (commands_in, commands) = mpsc::channel(COMMANDS_MAX);
        let context = match hold {
            Some(hold) => Some(serving(key, hold, agent, opener.clone(), commands_in).await?),
            None => None,
        };
        let mut server = Self {
            swarm,
            seen_at: HashMap::new(),
            listening: Vec::new(),
            opener,
            inbound,
            commands,
            dialler: Arc::default(),
            context,
            tasks: JoinSet::new(),
        };
        for address in listen {
            server.listen(address).await?;
        }
        Ok(server)
    }

    async fn listen(&mut self, address: &Multiaddr) -> Result<(), StartError> {
        let failed = |reason: String| StartError::Listen { address: address.clone(), reason };
        let id = self.swarm.listen_on(address.clone()).map_err(|error| failed(error.to_string()))?;
        let bound = async {
            loop {
                match self.swarm.select_next_some().await {
                    SwarmEvent::NewListenAddr { listener_id, address } => {
                        self.listening.push(address);
                        if listener_id == id {
                            return Ok(());
                        }
                    }
                    SwarmEvent::ListenerClosed { listener_id, reason, .. } if listener_id == id => {
                        let reason = reason.err().map_or("it was closed".into(), |error| error.to_string());
                        return Err(reason);
                    }
                    other => self.on_event(other),
                }
            }
        };
        tokio::time::timeout(BIND_TIMEOUT, bound).await.unwrap_or_else(|_| Err("nothing happened".into())).map_err(failed)
    }

    /// Its PeerId.
    pub fn peer(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    /// Where it listens, with its PeerId. More may come where it listens on all interfaces.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        self.listening.iter().map(|address| with_peer(address.clone(), self.peer())).collect()
    }

    /// What it holds, where it does.
    pub fn holder(&self) -> Option<Arc<Holder>> {
        self.context.as_ref()?.holder.clone()
    }

    /// Serves for ever. `on_address` is told of each address that is listened on later.
    pub async fn run(mut self, mut on_address: impl FnMut(Multiaddr)) {
        let peer = self.peer();
        let mut tidy = tokio::time::interval(TIDY_EVERY);
        let mut tidied = 0u32;
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => match event {
                    SwarmEvent::NewListenAddr { address, .. } => on_address(with_peer(address, peer)),
                    SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                        tracing::error!(?addresses, ?reason, "no longer listening");
                    }
                    other => self.on_event(other),
                },
                Some(inbound) = self.inbound.recv() => self.on_inbound(inbound),
                Some(command) = self.commands.recv() => self.on_command(command),
                _ = tidy.tick() => {
                    self.tidy(tidied.is_multiple_of(TIDIES_PER_COLLECTION));
                    tidied = tidied.wrapping_add(1);
                }
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(%error, "a task of the entry server failed");
                    }
                }
            }
        }
    }

    fn on_inbound(&mut self, inbound: Inbound) {
        match (inbound.protocol.as_ref(), self.context.clone()) {
            (REACH_PROTOCOL, _) => {
                let (dialler, opener) = (self.dialler.clone(), self.opener.clone());
                self.tasks.spawn(async move { dialler.answer(&opener, inbound).await });
            }
            (PUSH_PROTOCOL, Some(context)) => {
                self.tasks.spawn(async move {
                    let Some(holder) = context.holder.clone() else { return };
                    if let Some((peer, what)) = holder::take(holder, context.config.limits.clone(), context.traffic.clone(), inbound).await
                    {
                        context.report(peer, what).await;
                    }
                });
            }
            (_, Some(context)) => {
                self.tasks.spawn(transfer::serve(context, inbound));
            }
            // Not so: without a context it speaks nothing else.
            (_, None) => {}
        }
    }

    fn on_command(&mut self, command: Command) {
        // A holder serves and is pushed to; what else a node's tasks ask is not asked here. Its reply is dropped, which says so.
        if let Command::Misbehaved { peer, what } = command {
            tracing::warn!(%peer, %what, "a peer misbehaved");
            // Nobody else scores it here; it may be gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    fn tidy(&mut self, collect: bool) {
        let Some((holder, store)) = self.holder().zip(self.context.as_ref().map(|context| context.config.store.clone())) else { return };
        self.tasks.spawn(async move {
            let tidied = tokio::task::spawn_blocking(move || {
                let left = holder.tidy()?;
                if collect {
                    // All that is held is kept; what is only cached here is what could not go when it was let go.
                    let collected = store.gc(0)?;
                    tracing::debug!(?collected, "what nothing refers to is gone");
                }
                Ok::<usize, barnraiser_store::Fault>(left)
            });
            match tidied.await {
                Ok(Ok(0)) => {}
                Ok(Ok(count)) => tracing::info!(count, "blobs that began to come and were left are gone"),
                Ok(Err(error)) => tracing::error!(%error, "what was left can't be removed"),
                Err(error) => tracing::error!(%error, "what was left can't be removed"),
            }
        });
    }

    fn on_event(&mut self, event: SwarmEvent<EntryBehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => {
                self.seen_at.insert(peer_id, endpoint.get_remote_address().clone());
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                self.seen_at.remove(&peer_id);
            }
            SwarmEvent::Behaviour(EntryBehaviourEvent::Control(EntryControlEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                ..
            }))) => {
                tracing::debug!(peer = %peer_id, agent = %info.agent_version.escape_debug(), "a node came");
                if info.protocols.contains(&KAD_PROTOCOL) {
                    let addresses = providers::told(info.listen_addrs, self.seen_at.get(&peer_id));
                    providers::learn(&mut self.swarm.behaviour_mut().control.inner_mut().kad, &peer_id, &addresses);
                }
            }
            SwarmEvent::Behaviour(EntryBehaviourEvent::Control(EntryControlEvent::Kad(kad::Event::InboundRequest {
                request: InboundRequest::AddProvider { record: Some(record) },
            }))) => {
                let seen_at = self.seen_at.get(&record.provider);
                // It knows no network, and so nobody's branch.
                let party = seen_at.map_or(Party::Elsewhere, Party::of_stranger);
                self.swarm.behaviour_mut().control.inner_mut().kad.store_mut().announced(record, party, seen_at);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(%send_back_addr, %error, "an incoming connection failed");
            }
            _ => {}
        }
    }
}

/// What the tasks of a holder share.
async fn serving(
    key: &SecretKey,
    hold: Hold,
    agent: String,
    opener: Opener,
    commands: mpsc::Sender<Command>,
) -> Result<Arc<Context>, StartError> {
    let config = HoldConfig { quota: hold.quota, access: Arc::new(Everybody) };
    let holder = Arc::new(open_holder(hold.store.clone(), config).await?);
    let config = NetConfig {
        key: key.clone(),
        listen: Vec::new(),
        external: Vec::new(),
        agent,
        limits: Limits::default(),
        store: hold.store,
        access: Arc::new(Held),
        records: Arc::new(NoRecords),
        branches: Arc::new(Strangers),
        hold: None,
    };
    // Nobody takes its events: there are none but of records.
    let (events, _) = mpsc::channel(1);
    // Its owner limits what is held, not how fast it travels.
    let traffic = Arc::new(Traffic::new(Rates::default()));
    Ok(Arc::new(Context::new(config, traffic, Some(holder), opener, commands, events.downgrade())))
}
