//! Anti-entropy over the network: drives [`barnraiser_protocol::sync::Session`] on a stream.

mod answering;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use barnraiser_protocol::id::{NetworkId, NodeId};
use barnraiser_protocol::sync::{CUT_AHEAD, Frame, Refusal, SYNC_FRAME_BYTES_MAX, SYNC_PROTOCOL, Session, SyncFault, Turn};
use barnraiser_protocol::time::Timestamp;
use libp2p::PeerId;
use libp2p::swarm::{Stream, StreamProtocol};

use crate::config::RecordSource;
use crate::event::{Misbehaviour, NetEvent, Via};
use crate::identity::node_id;
use crate::net::{Context, NetError};
use crate::substream::frame::{self, FrameError, within};
use crate::substream::{Inbound, Lane, OpenError};
pub(crate) use answering::Answering;

/// The longest that a peer may think about its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest that one exchange may take.
const SESSION_TIMEOUT: Duration = Duration::from_secs(600);

/// The longest that one may take that a stranger began: what came is kept, and the next one goes on.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(120);

/// What an exchange of records brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyncReport {
    /// Records that came.
    pub received: u64,
    /// Turns of this side.
    pub turns: u64,
}

/// Why records were not exchanged.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Not connected, or not a member.
    #[error(transparent)]
    Net(#[from] NetError),
    /// No stream.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The peer does not want to.
    #[error("the peer refuses to exchange records: {0}")]
    Refused(Refusal),
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Fault(#[from] SyncFault),
    /// The peer sent something out of turn.
    #[error("the peer sent a frame out of turn")]
    OutOfTurn,
    /// The stream.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer closed before the end.
    #[error("the peer closed the stream before the end")]
    Closed,
    /// An exchange of these records with this peer is under way already.
    #[error("an exchange with this peer is under way already")]
    UnderWay,
    /// It took longer than any exchange should.
    #[error("not done after {} s", SESSION_TIMEOUT.as_secs())]
    TimedOut,
    /// A thread of this node failed.
    #[error("this node failed to look its records up: {0}")]
    Local(String),
}

impl SyncError {
    /// What the peer did wrong, if it is to blame.
    fn misbehaviour(&self) -> Option<Misbehaviour> {
        let is_fault = match self {
            Self::Fault(_) | Self::OutOfTurn => true,
            Self::Frame(error) => error.is_misbehaviour(),
            _ => false,
        };
        is_fault.then(|| Misbehaviour::Protocol { protocol: SYNC_PROTOCOL, what: self.to_string() })
    }
}

/// Forgets that an exchange is under way, however it ends.
struct UnderWay<'a> {
    context: &'a Context,
    key: (NetworkId, PeerId),
}

impl<'a> UnderWay<'a> {
    fn begin(context: &'a Context, key: (NetworkId, PeerId)) -> Result<Self, SyncError> {
        if !context.under_way().insert(key) {
            return Err(SyncError::UnderWay);
        }
        Ok(Self { context, key })
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.context.under_way().remove(&self.key);
    }
}

/// Begins an exchange with `node` and sees it through.
pub(crate) async fn open(context: &Arc<Context>, network: NetworkId, node: NodeId) -> Result<SyncReport, SyncError> {
    if !context.joined().contains(&network) {
        return Err(NetError::NotAMember(network).into());
    }
    let peer = context.connect(node, Vec::new()).await?;
    let _under_way = UnderWay::begin(context, (network, peer))?;
    // Closed never: the semaphore lives as long as its context.
    let _permit = context.syncing.acquire().await.map_err(|_| NetError::ShutDown)?;
    let exchange = async {
        let mut stream = context.opener.open(peer, StreamProtocol::new(SYNC_PROTOCOL), Lane::Control).await?;
        let cut = now() + CUT_AHEAD;
        let mut side = Side::open(context, network, node, cut).await?;
        let turn = side.turn().await?;
        within(TURN_TIMEOUT, frame::write(&mut stream, &Frame::Open { network, cut, turn })).await?;
        loop {
            match read(&mut stream).await? {
                Some(Frame::Turn(turn)) => side.take(turn).await?,
                Some(Frame::Refused(refusal)) => return Err(SyncError::Refused(refusal)),
                Some(Frame::Open { .. }) => return Err(SyncError::OutOfTurn),
                None => return Err(SyncError::Closed),
            }
            if side.is_finished() {
                return Ok(side.report);
            }
            let turn = side.turn().await?;
            within(TURN_TIMEOUT, frame::write(&mut stream, &Frame::Turn(turn))).await?;
        }
    };
    let result = tokio::time::timeout(SESSION_TIMEOUT, exchange).await.unwrap_or(Err(SyncError::TimedOut));
    finish(context, network, peer, node, result).await
}

/// Sees an exchange through that a peer began.
pub(crate) async fn answer(context: Arc<Context>, inbound: Inbound) {
    let Inbound { peer, mut stream, slot: _slot, .. } = inbound;
    let Some(node) = node_id(&peer) else { return };
    let is_stranger = context.config.branches.branch_of(&node).is_none();
    let most = if is_stranger { STRANGER_TIMEOUT } else { SESSION_TIMEOUT };
    let mut asked = None;
    let exchange = async {
        let (network, cut, turn) = match read(&mut stream).await? {
            Some(Frame::Open { network, cut, turn }) => (network, cut, turn),
            Some(_) => return Err(SyncError::OutOfTurn),
            None => return Ok(SyncReport::default()),
        };
        let slot = if context.joined().contains(&network) {
            context.answering.begin((network, node), is_stranger).ok_or(Refusal::Busy)
        } else {
            Err(Refusal::UnknownNetwork)
        };
        let _slot = match slot {
            Ok(slot) => slot,
            Err(refusal) => {
                within(TURN_TIMEOUT, frame::write(&mut stream, &Frame::Refused(refusal))).await?;
                return Ok(SyncReport::default());
            }
        };
        asked = Some(network);
        let mut side = Side::answer(&context, network, node, cut);
        let mut next = turn;
        loop {
            side.take(next).await?;
            let turn = side.turn().await?;
            within(TURN_TIMEOUT, frame::write(&mut stream, &Frame::Turn(turn))).await?;
            next = match read(&mut stream).await? {
                Some(Frame::Turn(turn)) => turn,
                Some(_) => return Err(SyncError::OutOfTurn),
                // The opener closes once neither has anything left.
                None => return Ok(side.report),
            };
        }
    };
    let result = tokio::time::timeout(most, exchange).await.unwrap_or(Err(SyncError::TimedOut));
    match asked {
        // The result is logged and reported there.
        Some(network) => drop(finish(&context, network, peer, node, result).await),
        None => {
            if let Some(what) = result.err().and_then(|error| error.misbehaviour()) {
                context.report(peer, what).await;
            }
        }
    }
}

async fn finish(
    context: &Context,
    network: NetworkId,
    peer: PeerId,
    node: NodeId,
    result: Result<SyncReport, SyncError>,
) -> Result<SyncReport, SyncError> {
    match &result {
        Ok(report) => {
            tracing::debug!(network = %network.short(), %peer, ?report, "records exchanged");
            // Whoever does not listen does not need to know.
            let _ = context.emit(NetEvent::Synced { network, node, received: report.received }).await;
        }
        Err(error) => {
            tracing::debug!(network = %network.short(), %peer, %error, "records not exchanged");
            if let Some(what) = error.misbehaviour() {
                context.report(peer, what).await;
            }
        }
    }
    result
}

async fn read(stream: &mut Stream) -> Result<Option<Frame>, FrameError> {
    within(TURN_TIMEOUT, frame::read(stream, SYNC_FRAME_BYTES_MAX)).await
}

/// This side of an exchange. Its work is done on threads where blocking is allowed: comparing 100,000 ids takes a
/// millisecond, and looking records up reads the disk.
struct Side<'a> {
    context: &'a Context,
    network: NetworkId,
    peer: NodeId,
    cut: Timestamp,
    records: Arc<dyn RecordSource>,
    /// Always there but while a step is under way.
    session: Option<Session>,
    report: SyncReport,
}

impl<'a> Side<'a> {
    /// The side that answers.
    fn answer(context: &'a Context, network: NetworkId, peer: NodeId, cut: Timestamp) -> Self {
        let (records, session) = (context.config.records.clone(), Some(Session::answer()));
        Self { context, network, peer, cut, records, session, report: SyncReport::default() }
    }

    /// The side that begins.
    async fn open(context: &'a Context, network: NetworkId, peer: NodeId, cut: Timestamp) -> Result<Self, SyncError> {
        let mut side = Self::answer(context, network, peer, cut);
        let records = side.records.clone();
        let session = on_thread(move || {
            let mut opened = None;
            records.look(&network, cut, &mut |window| opened = Some(Session::open(window)));
            opened
        });
        side.session = Some(session.await?.ok_or_else(not_shown)??);
        Ok(side)
    }

    async fn step<T: Send + 'static>(&mut self, work: impl FnOnce(&mut Session) -> T + Send + 'static) -> Result<T, SyncError> {
        let mut session = self.session.take().ok_or(SyncError::OutOfTurn)?;
        let (session, result) = on_thread(move || {
            let result = work(&mut session);
            (session, result)
        })
        .await?;
        self.session = Some(session);
        Ok(result)
    }

    async fn turn(&mut self) -> Result<Turn, SyncError> {
        let (records, network) = (self.records.clone(), self.network);
        self.report.turns += 1;
        self.step(move |session| session.turn(|ids| records.get(&network, ids))).await
    }

    async fn take(&mut self, turn: Turn) -> Result<(), SyncError> {
        let (records, network, cut) = (self.records.clone(), self.network, self.cut);
        let handle = move |session: &mut Session| {
            let (mut turn, mut handled) = (Some(turn), None);
            records.look(&network, cut, &mut |window| handled = turn.take().map(|turn| session.handle(turn, window)));
            handled
        };
        for bytes in self.step(handle).await?.ok_or_else(not_shown)?? {
            self.report.received += 1;
            let event = NetEvent::Record { network: self.network, bytes, from: self.peer, via: Via::Sync };
            self.context.emit(event).await?;
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_finished)
    }
}

async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, SyncError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| SyncError::Local(error.to_string()))
}

fn not_shown() -> SyncError {
    SyncError::Local("its records were not shown".into())
}

/// This machine's clock.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
