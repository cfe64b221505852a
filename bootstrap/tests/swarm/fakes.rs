//! Providers that say they have a blob and are of no use: each kind alone, and twenty of a kind before the true one.
//!
//! They speak by hand what [`crate::liar`] does not: nothing at all, a byte now and then, lengths of every kind.

use std::time::{Duration, Instant};

use barnraiser_bootstrap::identity::{keypair, with_peer};
use barnraiser_bootstrap::substream::{Behaviour, Inbound, frame};
use barnraiser_bootstrap::{FetchError, FetchRequest, Limits, Misbehaviour, Multiaddr, swarm};
use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::transfer::{Answer, BLOB_PROTOCOL, ByteRange, Data, FRAME_BYTES_MAX, Held, Request, UnitSet, end_of};
use barnraiser_store::geometry::unit_range;
use barnraiser_store::{Durability, Store};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::swarm::{Stream, SwarmEvent};

use crate::rig::{Node, TCP, bytes, log, until};

const MIB: usize = 1 << 20;

/// What it does instead of serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fake {
    /// Takes the question and says nothing, for ever.
    Silent,
    /// Says that it does not have it.
    NotFound,
    /// Says that it is busy, each time.
    Busy,
    /// Says that it may not.
    Refuses,
    /// States this length, and then stands still.
    Length(u64),
    /// States this length more than the true one, and serves as if that were so.
    Longer(i64),
    /// Proves the length and says that it has a part of it, which is none, for ever.
    Nothing,
    /// The true length, then data a byte at a time.
    Trickle,
    /// The true length, then the stream ends in the middle of a unit.
    HangsUp,
    /// The true length, then bytes that are none of the blob's.
    Wrong,
    /// The true length, then data that never ends, in the smallest chunks there are.
    Endless,
    /// No frame at all.
    Garbage,
    /// A well-formed answer to another question.
    OtherAnswer,
    /// Another length each time that it is asked, the true one first.
    Changing,
}

const ALL: [Fake; 18] = [
    Fake::Silent,
    Fake::NotFound,
    Fake::Busy,
    Fake::Refuses,
    Fake::Length(0),
    Fake::Length(1),
    Fake::Length(900 << 20),
    Fake::Length(u64::MAX),
    Fake::Longer(1),
    Fake::Longer(-1),
    Fake::Nothing,
    Fake::Trickle,
    Fake::HangsUp,
    Fake::Wrong,
    Fake::Endless,
    Fake::Garbage,
    Fake::OtherAnswer,
    Fake::Changing,
];

impl Fake {
    /// Whether what it does can be no accident, so that it is named.
    fn is_provable(self) -> bool {
        match self {
            Self::Longer(_) | Self::Wrong | Self::Endless | Self::Garbage | Self::OtherAnswer => true,
            // Stands still before anything is proven, or has nothing, as it says.
            Self::Silent | Self::NotFound | Self::Busy | Self::Refuses | Self::Length(_) | Self::Nothing => false,
            Self::Trickle | Self::HangsUp | Self::Changing => false,
        }
    }

    async fn start(self, store: Store) -> (NodeId, Multiaddr) {
        let key = SecretKey::from_seed(&rand::random());
        let (behaviour, opener, mut inbound) = Behaviour::new(&[BLOB_PROTOCOL]);
        let mut swarm = swarm::swarm(keypair(&key).unwrap(), behaviour).unwrap();
        swarm.listen_on(TCP.parse().unwrap()).unwrap();
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break with_peer(address, *swarm.local_peer_id());
            }
        };
        tokio::spawn(async move {
            let _opener = opener;
            loop {
                tokio::select! {
                    _ = swarm.select_next_some() => {}
                    Some(inbound) = inbound.recv() => drop(tokio::spawn(self.serve(store.clone(), inbound))),
                }
            }
        });
        (key.node(), address)
    }

    async fn serve(self, store: Store, inbound: Inbound) {
        let Inbound { mut stream, slot: _slot, .. } = inbound;
        // However it ends: the other side has left.
        let _ = self.answers(&store, &mut stream).await;
    }

    async fn answers(self, store: &Store, stream: &mut Stream) -> Result<(), frame::FrameError> {
        let mut asked = 0;
        while let Some(request) = frame::read::<Request>(stream, FRAME_BYTES_MAX).await? {
            asked += 1;
            let hash = *request.hash();
            let real = store.length(&hash).unwrap().unwrap();
            // What it sends, if anything: where it states a length, the end that would prove it.
            let data = |length| match &request {
                Request::Have { end: true, .. } => Data::Encoded(end_of(length)),
                Request::Get { range, .. } => Data::Encoded(*range),
                Request::Any { wanted, .. } => {
                    let range = unit_range(wanted.iter().next().unwrap(), length);
                    Data::Encoded(ByteRange { start: range.start, end: range.end })
                }
                _ => Data::Nothing,
            };
            let is_question = matches!(request, Request::Have { .. } | Request::Wait { .. });
            let found = |length| Answer::Found { length, held: Held::All, data: data(length) };
            let answer = match self {
                Self::Silent => still(stream).await?,
                Self::NotFound => Answer::NotFound,
                Self::Busy => Answer::Busy,
                Self::Refuses => Answer::Refused,
                Self::Length(_) if !is_question => still(stream).await?,
                Self::Length(length) => found(length),
                Self::Longer(more) => found(real.saturating_add_signed(more)),
                Self::Nothing if is_question => Answer::Found { length: real, held: Held::Units(UnitSet::default()), data: data(real) },
                Self::Nothing => Answer::NotFound,
                Self::OtherAnswer => Answer::Chunks { list: hash, length: 9 },
                Self::Changing => found(real + asked - 1),
                Self::Garbage => {
                    stream.write_all(&[[8, 0, 0, 0].as_slice(), &[255; 8]].concat()).await?;
                    stream.flush().await?;
                    continue;
                }
                Self::Trickle | Self::HangsUp | Self::Wrong | Self::Endless => found(real),
            };
            frame::write(stream, &answer).await?;
            if let Answer::Found { data: Data::Encoded(range), .. } = answer {
                self.data(store, stream, hash, range, real).await?;
                if self == Self::HangsUp {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn data(self, store: &Store, stream: &mut Stream, hash: BlobHash, range: ByteRange, real: u64) -> Result<(), frame::FrameError> {
        let mut encoded = Vec::new();
        let start = range.start.min(real.saturating_sub(1));
        store.encode_ranges(&hash, start..range.end.clamp(start + 1, real), &mut encoded).unwrap();
        match self {
            Self::Length(_) => drop(still(stream).await?),
            Self::Trickle => loop {
                stream.write_all(&[1, 0, 0, 0, 7]).await?;
                stream.flush().await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            },
            Self::Endless => loop {
                stream.write_all(&[1, 0, 0, 0, 7]).await?;
            },
            Self::Wrong => encoded.fill(7),
            Self::HangsUp => {
                stream.write_all(&(encoded.len().min(60_000) as u32).to_le_bytes()).await?;
                stream.write_all(&encoded[..encoded.len().min(60_000) / 2]).await?;
                stream.flush().await?;
                return Ok(());
            }
            _ => {}
        }
        for chunk in encoded.chunks(60_000) {
            stream.write_all(&(chunk.len() as u32).to_le_bytes()).await?;
            stream.write_all(chunk).await?;
        }
        stream.write_all(&0u32.to_le_bytes()).await?;
        stream.flush().await?;
        Ok(())
    }
}

/// Says nothing until the other side has left.
async fn still(stream: &mut Stream) -> Result<Answer, frame::FrameError> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await?;
    std::future::pending().await
}

fn request(hash: BlobHash, providers: Vec<NodeId>) -> FetchRequest {
    FetchRequest { hash, length: None, providers, network: None, durability: Durability::Cached, limit: 1 << 30 }
}

/// Nodes of one kind that `fetcher` is connected to.
async fn fakes(fake: Fake, count: usize, store: &Store, fetcher: &Node) -> Vec<NodeId> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let (id, address) = fake.start(store.clone()).await;
        fetcher.net.dial(id, vec![address]).await.unwrap();
        ids.push(id);
    }
    ids
}

/// Which of them were reported.
fn reported(fetcher: &Node, ids: &[NodeId]) -> usize {
    let seen = fetcher.seen.lock();
    ids.iter().filter(|id| seen.misbehaved.iter().any(|(node, _)| node == *id)).count()
}

/// Twenty of each kind are named before the one that has it. The blob comes, it is right, nothing of theirs counts, and none
/// of them holds it up for longer than a few seconds, though each would for minutes or for ever.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_fakes_of_each_kind_hold_the_true_provider_up_for_seconds_only() {
    log();
    // Three rounds of eight places, three seconds each, the hedges, and what a busy machine needs.
    const MOST: Duration = Duration::from_secs(20);
    let provider = Node::new(&[TCP]).await;
    for (number, fake) in ALL.into_iter().enumerate() {
        // Small ones come with the first answer, large ones in units.
        for length in [100_000, 3 * MIB + 77] {
            let fetcher = Node::new(&[TCP]).await;
            let content = bytes(length, (2 * number + length % 2) as u64);
            let hash = provider.add_blob(&content);
            let ids = fakes(fake, 20, &provider.store, &fetcher).await;
            fetcher.net.dial(provider.id(), provider.net.addresses().await).await.unwrap();
            let start = Instant::now();
            let all = ids.iter().copied().chain([provider.id()]).collect();
            let report = fetcher.net.fetch(request(hash, all), None).await.unwrap();
            println!("{fake:?}, {length} bytes: {:?}, {} lost", start.elapsed(), report.lost.len());
            assert!(start.elapsed() < MOST, "{fake:?}: {:?}", start.elapsed());
            assert!(fetcher.blob(&hash) == content, "{fake:?}");
            if fake == Fake::Changing {
                // It is right the first time, with a unit that counts.
                assert!(report.bytes_by_peer.iter().all(|(id, bytes)| *id == provider.id() || *bytes <= MIB as u64), "{report:?}");
            } else {
                assert_eq!(report.bytes_by_peer.keys().collect::<Vec<_>>(), [&provider.id()], "{fake:?}");
            }
            assert!(!report.lost.contains_key(&provider.id()), "{fake:?}: {:?}", report.lost);
            if fake.is_provable() {
                until("a fake is named", async || reported(&fetcher, &ids) > 0).await;
            } else if fake != Fake::Changing {
                assert_eq!(reported(&fetcher, &ids), 0, "{fake:?} could be an accident");
            }
        }
    }
}

/// Alone, each kind leads to an error that says what it did, within the time limits; nothing of it stays.
#[tokio::test(flavor = "multi_thread")]
async fn fetch_from_fakes_alone_ends_and_says_why() {
    log();
    let holder = Node::new(&[TCP]).await;
    let limits = Limits { stall: Duration::from_millis(300), unit_time_max: Duration::from_secs(1), ..Limits::default() };
    for (number, fake) in ALL.into_iter().enumerate() {
        for length in [100_000, 2 * MIB + 5] {
            let fetcher = Node::with_limits(&[TCP], limits.clone()).await;
            let hash = holder.add_blob(&bytes(length, (1000 + 2 * number + length % 2) as u64));
            let ids = fakes(fake, 1, &holder.store, &fetcher).await;
            let start = Instant::now();
            let error = fetcher.net.fetch(request(hash, ids.clone()), None).await.unwrap_err();
            println!("{fake:?}, {length} bytes: {:?}: {error}", start.elapsed());
            assert!(start.elapsed() < Duration::from_secs(15), "{fake:?}: {:?}", start.elapsed());
            if let Fake::Length(length) = fake
                && length > 1 << 30
            {
                assert!(matches!(error, FetchError::TooLong { .. }), "{fake:?}: {error}");
            } else {
                assert!(error.to_string().contains(&ids[0].short()), "{fake:?}: {error}");
            }
            let proven = if matches!(fake, Fake::Nothing | Fake::Changing) { vec![(hash, length as u64)] } else { vec![] };
            assert_eq!(fetcher.store.partials_begun().unwrap(), proven, "{fake:?}: of a length that nobody proved nothing is begun");
            assert!(!fetcher.store.contains(&hash).unwrap());
            if fake.is_provable() || fake == Fake::Changing {
                until("the fake is named", async || reported(&fetcher, &ids) == 1).await;
            } else {
                assert_eq!(reported(&fetcher, &ids), 0, "{fake:?}: {error}");
            }
        }
    }
}

/// A lie about the length used to be tried first, made a file of that length, and failed the fetch where the disk was too
/// small for it.
#[tokio::test(flavor = "multi_thread")]
async fn length_that_no_disk_has_room_for_does_not_fail_the_fetch() {
    log();
    let (provider, fetcher) = (Node::new(&[TCP]).await, Node::new(&[TCP]).await);
    let content = bytes(2 * MIB, 5);
    let hash = provider.add_blob(&content);
    let mut all = fakes(Fake::Length(1 << 40), 2, &provider.store, &fetcher).await;
    fetcher.net.dial(provider.id(), provider.net.addresses().await).await.unwrap();
    all.push(provider.id());
    let report = fetcher.net.fetch(FetchRequest { limit: 1 << 40, ..request(hash, all) }, None).await.unwrap();
    assert_eq!(report.length, content.len() as u64);
}

/// Who let this node down is asked last the next time.
#[tokio::test(flavor = "multi_thread")]
async fn fakes_are_asked_last_by_the_next_fetch() {
    log();
    let (provider, fetcher) = (Node::new(&[TCP]).await, Node::new(&[TCP]).await);
    let ids = fakes(Fake::Silent, 8, &provider.store, &fetcher).await;
    fetcher.net.dial(provider.id(), provider.net.addresses().await).await.unwrap();
    let all: Vec<NodeId> = ids.iter().copied().chain([provider.id()]).collect();
    let mut times = Vec::new();
    for seed in 0..2 {
        let hash = provider.add_blob(&bytes(2 * MIB, 50 + seed));
        let start = Instant::now();
        fetcher.net.fetch(request(hash, all.clone()), None).await.unwrap();
        times.push(start.elapsed());
    }
    assert!(times[0] > Duration::from_secs(2), "all eight places were theirs: {times:?}");
    // What a place costs at least that is held by somebody silent; the rest is the machine's.
    assert!(times[1] + Duration::from_secs(1) < times[0], "{times:?}");
}

/// Named, so that the owner hears of it: what it did is in words.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_fake_did_is_said_in_words() {
    log();
    let (holder, fetcher) = (Node::new(&[TCP]).await, Node::new(&[TCP]).await);
    let hash = holder.add_blob(&bytes(2 * MIB, 9));
    for (fake, said) in [(Fake::Wrong, "wrong bytes"), (Fake::Garbage, "broke the protocol"), (Fake::Endless, "broke the protocol")] {
        let ids = fakes(fake, 1, &holder.store, &fetcher).await;
        fetcher.net.fetch(request(hash, ids.clone()), None).await.unwrap_err();
        until("the fake is named", async || reported(&fetcher, &ids) == 1).await;
        let seen = fetcher.seen.lock();
        let (_, what): &(NodeId, Misbehaviour) = seen.misbehaved.iter().find(|(node, _)| *node == ids[0]).unwrap();
        assert!(what.to_string().contains(said), "{fake:?}: {what}");
    }
}
