//! A file over one libp2p substream, on libp2p's own transports as it sets them up (TCP, Noise, yamux), and nothing else: no
//! proof, no store.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use barnraiser_bootstrap::Multiaddr;
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{StreamProtocol, SwarmEvent};
use libp2p::{PeerId, Swarm, SwarmBuilder, noise, tcp, yamux};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/barn-bench/raw/1");
/// Bytes that are read, sent and written at a time.
const PIECE_BYTES: usize = 1 << 20;

fn swarm() -> anyhow::Result<Swarm<libp2p_stream::Behaviour>> {
    let builder = SwarmBuilder::with_new_identity().with_tokio();
    let builder = builder.with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)?;
    Ok(builder.with_behaviour(|_| libp2p_stream::Behaviour::new())?.build())
}

/// Sends `file` to everybody who opens a stream; says where it can be had.
pub async fn send(file: PathBuf, listen: Multiaddr) -> anyhow::Result<()> {
    let mut swarm = swarm()?;
    let mut streams = swarm.behaviour().new_control().accept(PROTOCOL)?;
    swarm.listen_on(listen)?;
    let local = *swarm.local_peer_id();
    tokio::spawn(async move {
        while let Some((_, mut stream)) = streams.next().await {
            let file = file.clone();
            tokio::spawn(async move {
                let mut file = std::fs::File::open(file)?;
                let mut piece = vec![0; PIECE_BYTES];
                loop {
                    let read = file.read(&mut piece)?;
                    if read == 0 {
                        return stream.close().await;
                    }
                    stream.write_all(&piece[..read]).await?;
                }
            });
        }
    });
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            println!("{}", serde_json::to_string(&address.with(Protocol::P2p(local)))?);
        }
    }
}

/// Writes what a sender has to `to`.
pub async fn receive(from: Multiaddr, to: &Path) -> anyhow::Result<()> {
    let mut swarm = swarm()?;
    let mut control = swarm.behaviour().new_control();
    let peer: PeerId = from.iter().find_map(|part| if let Protocol::P2p(peer) = part { Some(peer) } else { None }).context("no PeerId")?;
    swarm.dial(from)?;
    while !matches!(swarm.select_next_some().await, SwarmEvent::ConnectionEstablished { .. }) {}
    tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    let mut stream = control.open_stream(peer, PROTOCOL).await.map_err(|error| anyhow!("no stream: {error}"))?;
    let mut file = std::fs::File::create(to)?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = stream.read(&mut piece).await?;
        if read == 0 {
            return Ok(());
        }
        file.write_all(&piece[..read])?;
    }
}
