//! A peer that pushes by hand, frame by frame: to stop in the middle, and to break the rules.

use barnraiser_bootstrap::identity::{keypair, peer_of};
use barnraiser_bootstrap::substream::{Behaviour, Lane, Opener, frame};
use barnraiser_bootstrap::{Multiaddr, swarm};
use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::transfer::ByteRange;
use barnraiser_protocol::transfer::push::{Offered, PUSH_FRAME_BYTES_MAX, PUSH_PROTOCOL, Pushed, Taken};
use barnraiser_store::geometry::unit_range;
use barnraiser_store::{Durability, Store};
use futures::{AsyncWriteExt as _, StreamExt as _};
use libp2p::swarm::{Stream, StreamProtocol, SwarmEvent};

pub struct Pusher {
    pub id: NodeId,
    pub stream: Stream,
    store: Store,
    _opener: Opener,
    _dir: tempfile::TempDir,
}

impl Pusher {
    /// One with a stream to the holder at `address`, and these blobs to read from.
    pub async fn connect(address: &Multiaddr, blobs: &[&[u8]]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for bytes in blobs {
            store.import_bytes(bytes, Durability::Cached).unwrap();
        }
        let key = SecretKey::from_seed(&rand::random());
        let (behaviour, opener, inbound) = Behaviour::new(&[PUSH_PROTOCOL]);
        let mut swarm = swarm::swarm(keypair(&key).unwrap(), behaviour).unwrap();
        swarm.dial(address.clone()).unwrap();
        while !matches!(swarm.select_next_some().await, SwarmEvent::ConnectionEstablished { .. }) {}
        tokio::spawn(async move {
            let _inbound = inbound;
            loop {
                swarm.select_next_some().await;
            }
        });
        let peer = peer_of(address).unwrap();
        let stream = opener.open(peer, StreamProtocol::new(PUSH_PROTOCOL), Lane::Control).await.unwrap();
        Self { id: key.node(), stream, store, _opener: opener, _dir: dir }
    }

    pub async fn say(&mut self, frame: Pushed) {
        // A holder that ends the stream may do so while this is written.
        let _ = frame::write(&mut self.stream, &frame).await;
    }

    pub async fn offer(&mut self, blobs: &[(BlobHash, u64)]) -> Option<Taken> {
        let blobs: Vec<Offered> = blobs.iter().map(|(hash, length)| Offered { hash: *hash, length: *length }).collect();
        self.say(Pushed::Offer { blobs: blobs.try_into().unwrap(), part_of: None }).await;
        self.answer().await
    }

    pub async fn answer(&mut self) -> Option<Taken> {
        frame::read(&mut self.stream, PUSH_FRAME_BYTES_MAX).await.ok().flatten()
    }

    /// Sends a unit, with what `spoil` makes of its encoding.
    pub async fn unit(&mut self, hash: &BlobHash, unit: u64, spoil: impl FnOnce(&mut Vec<u8>)) {
        let length = self.store.length(hash).unwrap().unwrap();
        let range = unit_range(unit, length);
        let mut bytes = Vec::new();
        self.store.encode_ranges(hash, range.clone(), &mut bytes).unwrap();
        spoil(&mut bytes);
        self.say(Pushed::Unit { blob: 0, range: ByteRange { start: range.start, end: range.end } }).await;
        for chunk in bytes.chunks(60_000) {
            let _ = self.stream.write_all(&(chunk.len() as u32).to_le_bytes()).await;
            let _ = self.stream.write_all(chunk).await;
        }
        let _ = self.stream.write_all(&0u32.to_le_bytes()).await;
        let _ = self.stream.flush().await;
    }
}
