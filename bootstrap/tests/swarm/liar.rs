//! A peer that speaks the blob protocol by hand, to break its rules.

use barnraiser_bootstrap::identity::{keypair, with_peer};
use barnraiser_bootstrap::substream::{Behaviour, Inbound, frame};
use barnraiser_bootstrap::{Multiaddr, swarm};
use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::transfer::{Answer, BLOB_PROTOCOL, ByteRange, DATA_ZSTD, Data, FRAME_BYTES_MAX, Held, Request, end_of};
use barnraiser_store::{Store, UNIT_BYTES};
use futures::{AsyncWriteExt as _, StreamExt as _};
use libp2p::swarm::SwarmEvent;

/// What it does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Flips one byte of each unit.
    FlippedByte,
    /// States a longer blob, and encodes what it has.
    LongerBlob,
    /// Sends half a unit, then nothing.
    Stall,
    /// Answers with a frame that is longer than any may be.
    OversizedAnswer,
    /// Sends data without end.
    EndlessData,
    /// Says that it sends a byte less than the unit.
    OtherRange,
    /// Names another blob as the chunk list; all else is true.
    List(BlobHash),
    /// Compresses 64 MiB of nothing and sends them as a unit.
    Bomb,
    /// Compresses less than was asked for.
    ShortFrame,
    /// Says that its bytes are compressed, and they are not.
    NoFrame,
    /// Sends pieces that are not the blob's; all else is true.
    Pieces,
}

pub struct Liar {
    pub id: NodeId,
    pub address: Multiaddr,
}

impl Liar {
    /// A liar with the blobs of `store`.
    pub async fn start(store: Store, lie: Lie) -> Self {
        let key = SecretKey::from_seed(&rand::random());
        let (behaviour, opener, mut inbound) = Behaviour::new(&[BLOB_PROTOCOL]);
        let mut swarm = swarm::swarm(keypair(&key).unwrap(), behaviour).unwrap();
        swarm.listen_on(super::rig::TCP.parse().unwrap()).unwrap();
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
                    Some(stream) = inbound.recv() => {
                        tokio::spawn(lies(store.clone(), stream, lie));
                    }
                }
            }
        });
        Self { id: key.node(), address }
    }
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut packed = vec![0; zstd_safe::compress_bound(bytes.len())];
    let length = zstd_safe::compress(&mut packed[..], bytes, 3).unwrap();
    packed.truncate(length);
    packed
}

async fn lies(store: Store, inbound: Inbound, lie: Lie) {
    let Inbound { mut stream, .. } = inbound;
    while let Ok(Some(request)) = frame::read::<Request>(&mut stream, FRAME_BYTES_MAX).await {
        let hash = *request.hash();
        let real = store.length(&hash).unwrap().unwrap();
        let honest = match (&request, lie) {
            (Request::Chunks { .. }, Lie::List(list)) => Some((list, store.length(&list).unwrap().unwrap())),
            (Request::Chunks { .. }, Lie::Pieces) => store.chunk_list(&hash).unwrap(),
            _ => None,
        };
        if let Some((list, length)) = honest {
            frame::write(&mut stream, &Answer::Chunks { list, length }).await.unwrap();
            continue;
        }
        let length = if lie == Lie::LongerBlob { real + 1 } else { real };
        let unit = |unit: u64| ByteRange { start: unit * UNIT_BYTES, end: ((unit + 1) * UNIT_BYTES).min(length) };
        let data = match &request {
            Request::Have { end: true, .. } => Data::Encoded(end_of(length)),
            Request::Get { range, .. } if lie == Lie::OtherRange => Data::Encoded(ByteRange { end: range.end - 1, ..*range }),
            Request::Any { wanted, .. } if lie == Lie::OtherRange => {
                let range = unit(wanted.iter().next().unwrap());
                Data::Encoded(ByteRange { end: range.end - 1, ..range })
            }
            Request::Get { range, .. } => Data::Encoded(*range),
            Request::Any { wanted, .. } => Data::Encoded(unit(wanted.iter().next().unwrap())),
            Request::Pieces { .. } => Data::Pieces,
            _ => Data::Nothing,
        };
        if lie == Lie::OversizedAnswer {
            let _ = stream.write_all(&(FRAME_BYTES_MAX as u32 + 1).to_le_bytes()).await;
            let _ = stream.write_all(&vec![0; FRAME_BYTES_MAX + 1]).await;
            return;
        }
        if frame::write(&mut stream, &Answer::Found { length, held: Held::All, data }).await.is_err() {
            return;
        }
        let mut bytes = Vec::new();
        match (data, &request) {
            (Data::Encoded(range), _) => store.encode_ranges(&hash, range.start..range.end.min(real), &mut bytes).unwrap(),
            (_, Request::Pieces { ranges, .. }) => bytes.resize(ranges.iter().map(|range| range.length()).sum::<u64>() as usize, 9),
            _ => continue,
        }
        // How long it is, most of them say truly, and prove.
        let lie = if matches!(request, Request::Have { .. }) { Lie::LongerBlob } else { lie };
        match lie {
            Lie::FlippedByte => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            Lie::Stall => bytes.truncate(bytes.len() / 2),
            Lie::Bomb => bytes = compressed(&vec![0; 64 << 20]),
            Lie::ShortFrame => bytes = compressed(&bytes[..1000]),
            Lie::NoFrame => bytes.truncate(1000),
            _ => {}
        }
        if matches!(lie, Lie::Bomb | Lie::ShortFrame | Lie::NoFrame) {
            let _ = stream.write_all(&DATA_ZSTD.to_le_bytes()).await;
        }
        for chunk in bytes.chunks(60_000) {
            let _ = stream.write_all(&(chunk.len() as u32).to_le_bytes()).await;
            let _ = stream.write_all(chunk).await;
        }
        if lie == Lie::EndlessData {
            while stream.write_all(&[1, 0, 0, 0, 9]).await.is_ok() {}
            return;
        }
        let _ = stream.flush().await;
        if lie == Lie::Stall {
            // Keeps the stream open and silent until the other side gives up.
            let _ = frame::read::<Request>(&mut stream, FRAME_BYTES_MAX).await;
            std::future::pending::<()>().await;
        }
        let _ = stream.write_all(&0u32.to_le_bytes()).await;
        let _ = stream.flush().await;
    }
}
