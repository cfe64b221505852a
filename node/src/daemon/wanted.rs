//! What an engine lacks of a batch: its graph and its policy. All nodes of a network want them at the same moment, so who is
//! asked, and who is served, goes by [`barnraiser_protocol::transfer::spread`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use barnraiser_bootstrap::FetchRequest;
use barnraiser_protocol::engine::{Input, Want};
use barnraiser_protocol::id::{BlobHash, NetworkId, NodeId};
use barnraiser_protocol::transfer::spread::{Round, Seeker};
use barnraiser_store::Durability;

use super::Daemon;

/// The most bytes of a graph or policy that is handed to an engine.
const WANTED_BYTES_MAX: u64 = 64 << 20;

impl Daemon {
    /// Fetches what an engine wants, which `author` had first, and hands it over; tries for as long as it is wanted.
    pub(super) fn fetch_wanted(self: &Arc<Self>, network: NetworkId, want: Want, blob: BlobHash, length: Option<u64>, author: NodeId) {
        let daemon = self.clone();
        tokio::spawn(async move {
            let began = Instant::now();
            let mut seeker = Seeker::new(author, rand::random());
            loop {
                match daemon.wanted_round(network, blob, length, &mut seeker, began.elapsed()).await {
                    Ok(bytes) => {
                        let bytes: Arc<[u8]> = bytes.into();
                        daemon.engines.with(&network, |engine, now| engine.handle(now, Input::Fetched { want, bytes }));
                        let taken = daemon.engines.ask(&network, |engine| match want {
                            Want::Graph(batch) => engine.graph(&batch).is_some(),
                            Want::Policy(policy) => engine.policy(&policy).is_some(),
                        });
                        // Anybody can write a Batch that names a released image as its graph: that goes on being served to all.
                        if taken == Some(true) {
                            daemon.private.ration(blob);
                        }
                        return;
                    }
                    Err(error) => tracing::debug!(?want, %error, "not there yet"),
                }
                let gone = daemon.engines.ask(&network, |engine| match want {
                    Want::Graph(batch) => engine.batch(&batch).is_none(),
                    Want::Policy(_) => false,
                });
                if gone != Some(false) {
                    return;
                }
                let pause: Duration = seeker.pause(began.elapsed());
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = daemon.stop.cancelled() => return,
                }
            }
        });
    }

    /// Asks those whose turn it is. What a round in vain brought is kept for the next.
    async fn wanted_round(
        &self,
        network: NetworkId,
        hash: BlobHash,
        length: Option<u64>,
        seeker: &mut Seeker,
        age: Duration,
    ) -> anyhow::Result<Vec<u8>> {
        let Round { providers, search } = seeker.next(&self.net.members(network).await?, age);
        let network = search.then_some(network);
        let request = FetchRequest { hash, length, providers, network, durability: Durability::Cached, limit: WANTED_BYTES_MAX };
        self.net.fetch(request, None).await?;
        let store = self.store.clone();
        Ok(tokio::task::spawn_blocking(move || store.read_all(&hash, WANTED_BYTES_MAX)).await??)
    }
}
