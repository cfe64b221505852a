//! A provider that says to have a blob and sends bytes of which some are wrong.

use std::path::PathBuf;

use anyhow::Context as _;
use barnraiser_bootstrap::Multiaddr;
use barnraiser_bootstrap::substream::frame;
use barnraiser_bootstrap::swarm::swarm as transports;
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::transfer::{
    Answer, BLOB_PROTOCOL, ByteRange, CHUNK_BYTES_MAX, DATA_END, Data, FRAME_BYTES_MAX, Held, Request, end_of,
};
use barnraiser_store::geometry::unit_range;
use barnraiser_store::{Durability, Store};
use futures::{AsyncWriteExt as _, StreamExt as _};
use libp2p::identity::Keypair;
use libp2p::swarm::{Stream, StreamProtocol, SwarmEvent};

use super::node::Ready;

/// Serves lies until its process ends; says where.
pub async fn run(key: SecretKey, store: PathBuf, file: PathBuf, listen: Multiaddr) -> anyhow::Result<()> {
    let store = Store::open(&store)?;
    let (hash, length) = store.import_file(&file, Durability::Cached)?;
    let mut swarm = transports(Keypair::ed25519_from_bytes(key.seed())?, libp2p_stream::Behaviour::new())?;
    let mut streams = swarm.behaviour().new_control().accept(StreamProtocol::new(BLOB_PROTOCOL))?;
    swarm.listen_on(listen)?;
    tokio::spawn(async move {
        while let Some((_, stream)) = streams.next().await {
            tokio::spawn(lies(stream, store.clone(), length));
        }
    });
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            println!("{}", serde_json::to_string(&Ready { node: key.node(), address, hash })?);
        }
    }
}

async fn lies(mut stream: Stream, store: Store, length: u64) -> anyhow::Result<()> {
    while let Some(request) = frame::read::<Request>(&mut stream, FRAME_BYTES_MAX).await? {
        let hash = *request.hash();
        let range = match &request {
            Request::Get { range, .. } => range.start..range.end,
            Request::Any { wanted, .. } => unit_range(wanted.iter().next().context("nothing is wanted")?, length),
            Request::Have { end: true, .. } => end_of(length).start..length,
            _ => {
                frame::write(&mut stream, &Answer::Found { length, held: Held::All, data: Data::Nothing }).await?;
                continue;
            }
        };
        let mut bytes = Vec::new();
        store.encode_ranges(&hash, range.clone(), &mut bytes)?;
        // How long it is, it proves.
        if !matches!(request, Request::Have { .. }) {
            *bytes.last_mut().context("a unit has bytes")? ^= 1;
        }
        let data = Data::Encoded(ByteRange { start: range.start, end: range.end });
        frame::write(&mut stream, &Answer::Found { length, held: Held::All, data }).await?;
        for chunk in bytes.chunks(CHUNK_BYTES_MAX) {
            stream.write_all(&u32::try_from(chunk.len())?.to_le_bytes()).await?;
            stream.write_all(chunk).await?;
        }
        stream.write_all(&DATA_END.to_le_bytes()).await?;
        stream.flush().await?;
    }
    Ok(())
}
