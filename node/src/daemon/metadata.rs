//! Charters and releases: announced by records, fetched as blobs, checked, and taken where they are newer.
//!
//! Anybody can announce anything, so what is fetched at once is bounded: for each announcer, and for strangers together,
//! so that they can't keep out what a member says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use barnraiser_protocol::bounded::BoundedString;
use barnraiser_protocol::engine::Engine;
use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::record::payload::Metadata;
use barnraiser_protocol::record::{Kind, Payload, SharedRecord};
use barnraiser_protocol::release::{RELEASE_BYTES_MAX, Release};
use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::trust::charter::{BUNDLE_BYTES_MAX, Charter, CharterParts};
use barnraiser_store::Durability;

use super::Daemon;
use super::engines::now;
use super::networks::Network;

/// The role under which a charter is announced.
const CHARTER_ROLE: &str = "charter";
/// In front of a channel's name, the role under which a release is announced.
const RELEASE_ROLE: &str = "release/";
/// How long announcements of metadata are kept: a year.
const METADATA_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// How often metadata that was announced is asked for, and how long after the first time; each wait is twice the one
/// before. Half a minute in all: after that the next announcement or start brings it.
const TRIES: u32 = 7;
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The most blobs that are fetched at once for a network, for one announcer, and for all strangers together.
const AT_ONCE: usize = 16;
const AT_ONCE_EACH: usize = 2;
const AT_ONCE_STRANGERS: usize = 8;
/// The most announcements that are remembered as waiting, as bad, and as lost.
const REMEMBERED_MAX: usize = 1024;
/// How long what nobody gave is not asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// One announcement: role, version, blob and length. Of one blob anybody can say anything, so nothing is concluded of a
/// blob alone.
type Said = (String, u64, BlobHash, u64);

fn said(metadata: &Metadata) -> Said {
    (metadata.role.to_string(), metadata.version, metadata.blob, metadata.length)
}

/// What is being fetched for a network, and what need not be fetched.
#[derive(Debug, Default)]
pub(super) struct Fetching {
    /// What is being fetched, who announced it, and whether that is a member's node.
    now: BTreeMap<Said, (NodeId, bool)>,
    /// For what there was no room. The board remembers as well, but there is none while the charter is not known.
    waiting: BTreeMap<Said, NodeId>,
    /// What was not what it was announced as.
    bad: BTreeSet<Said>,
    /// What nobody gave or this machine could not take, and when it may be asked for again.
    lost: BTreeMap<Said, Timestamp>,
}

impl Fetching {
    /// Whether what `from` announced is to be fetched now; it counts until [`Fetching::done`].
    fn begin(&mut self, moment: Timestamp, said: Said, from: NodeId, member: bool) -> bool {
        if self.bad.contains(&said) || self.now.contains_key(&said) || self.lost.get(&said).is_some_and(|until| *until > moment) {
            return false;
        }
        let count = |fits: &dyn Fn(&(NodeId, bool)) -> bool| self.now.values().filter(|fetch| fits(fetch)).count();
        let room = self.now.len() < AT_ONCE
            && count(&|(node, _)| *node == from) < AT_ONCE_EACH
            && (member || count(&|(_, member)| !member) < AT_ONCE_STRANGERS);
        if room {
            self.waiting.remove(&said);
            self.now.insert(said, (from, member));
        } else if self.waiting.len() < REMEMBERED_MAX {
            self.waiting.insert(said, from);
        }
        room
    }

    fn done(&mut self, moment: Timestamp, said: Said, ended: &Result<(), TakeError>) {
        self.now.remove(&said);
        self.lost.retain(|_, until| *until > moment);
        if matches!(ended, Err(TakeError::Bad(_))) {
            if self.bad.len() >= REMEMBERED_MAX {
                self.bad.clear();
            }
            self.bad.insert(said);
        } else {
            // Also what was taken: nothing is done twice at once, whatever comes of it.
            if self.lost.len() >= REMEMBERED_MAX {
                self.lost.clear();
            }
            self.lost.insert(said, moment + ASK_AGAIN);
        }
    }

    /// There is a newer charter: what the one before could not vouch for may be good.
    fn charter_changed(&mut self) {
        self.bad.clear();
    }
}

/// Why metadata was not taken.
#[derive(Debug, thiserror::Error)]
enum TakeError {
    /// It is not what it was announced as.
    #[error("{0:#}")]
    Bad(anyhow::Error),
    /// Nobody gave it.
    #[error("{0:#}")]
    Lost(anyhow::Error),
    /// This machine's fault, or it came too early.
    #[error("{0:#}")]
    Here(anyhow::Error),
}

impl Daemon {
    /// Says that there is signed metadata, unless the board says so already.
    fn announce_metadata(&self, network: &Network, role: String, version: u64, blob: BlobHash, length: u64) {
        self.engines.with(&network.id, |engine, now| {
            let known = announced(engine).any(|(_, known)| known.blob == blob && *known.role == *role);
            if !known {
                let payload = Payload::Metadata(Metadata { role: BoundedString::cut(&role), version, blob, length });
                engine.publish(now, payload, METADATA_LIFETIME);
            }
        });
    }

    /// There may be a newer charter or release: fetches and checks it, once.
    pub(super) fn notice_metadata(self: &Arc<Self>, network: &Arc<Network>, record: &SharedRecord) {
        let Payload::Metadata(metadata) = record.payload() else { return };
        self.notice(network, NodeId(record.author_key()), metadata.clone());
    }

    /// Looks through all that was announced: what there was no room for, or no charter to check it with. The newest first.
    pub(super) fn review_metadata(self: &Arc<Self>, network: &Arc<Network>) {
        let found = self.engines.ask(&network.id, |engine| announced(engine).map(|(node, metadata)| (node, metadata.clone())).collect());
        let mut all: Vec<(NodeId, Metadata)> = found.unwrap_or_default();
        let waiting = std::mem::take(&mut network.fetching().waiting);
        all.extend(
            waiting
                .into_iter()
                .map(|((role, version, blob, length), from)| (from, Metadata { role: BoundedString::cut(&role), version, blob, length })),
        );
        all.sort_by_key(|(_, metadata)| std::cmp::Reverse(metadata.version));
        for (node, metadata) in all {
            self.notice(network, node, metadata);
        }
    }

    fn notice(self: &Arc<Self>, network: &Arc<Network>, from: NodeId, metadata: Metadata) {
        if !is_newer(network, &metadata) {
            return;
        }
        // While the network is being joined nobody is known to be a member, and so nobody is held to be less than one.
        let member = self.engines.ask(&network.id, |engine| {
            let members = engine.members();
            members.operator_of(&from).is_some_and(|operator| members.branch_of(&operator).is_some())
        });
        if !network.fetching().begin(now(), said(&metadata), from, member != Some(false)) {
            return;
        }
        let (daemon, network) = (self.clone(), network.clone());
        tokio::spawn(async move {
            let taken = daemon.take_metadata(&network, &metadata, from).await;
            if let Err(error) = &taken {
                tracing::warn!(role = %&*metadata.role, version = metadata.version, from = %from.short(), %error, "metadata can't be taken");
            }
            network.fetching().done(now(), said(&metadata), &taken);
            daemon.review_metadata(&network);
        });
    }

    /// Whoever announced it may be gone for a moment, and says it once only: asked more than once.
    async fn fetch_metadata(&self, network: &Network, metadata: &Metadata, from: NodeId) -> anyhow::Result<Vec<u8>> {
        let mut wait = FIRST_WAIT;
        for _ in 1..TRIES {
            match self.fetch_bytes(network.id, metadata.blob, Some(metadata.length), vec![from], limit(&metadata.role)).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => tracing::debug!(role = %&*metadata.role, version = metadata.version, %error, "not there yet"),
            }
            if !is_newer(network, metadata) {
                anyhow::bail!("it is not the newest any more");
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        self.fetch_bytes(network.id, metadata.blob, Some(metadata.length), vec![from], limit(&metadata.role)).await
    }

    async fn take_metadata(self: &Arc<Self>, network: &Arc<Network>, metadata: &Metadata, from: NodeId) -> Result<(), TakeError> {
        let bytes = self.fetch_metadata(network, metadata, from).await.map_err(TakeError::Lost)?;
        if &*metadata.role == CHARTER_ROLE {
            let parts = CharterParts::from_bundle(&bytes).map_err(|error| TakeError::Bad(error.into()))?;
            let charter = Charter::verify(network.id, parts, now()).map_err(|error| TakeError::Bad(error.into()))?;
            if charter.version() != metadata.version {
                return Err(TakeError::Bad(anyhow::anyhow!("it is version {} of the charter", charter.version())));
            }
            self.adopt_charter(network, charter).await.map_err(TakeError::Here)?;
            let entries = self.home.networks().map_err(|error| TakeError::Here(error.into()))?;
            if let Some(entry) = entries.into_iter().find(|entry| entry.id == network.id) {
                self.take_standing(network, &entry.standing).await;
            }
            return Ok(());
        }
        let charter = network.charter().ok_or_else(|| TakeError::Here(anyhow::anyhow!("the charter is not known yet")))?;
        let release = Release::verify(&bytes, &charter, now()).map_err(|error| TakeError::Bad(error.into()))?;
        if release.version() != metadata.version || metadata.role.strip_prefix(RELEASE_ROLE) != Some(&**release.channel()) {
            return Err(TakeError::Bad(anyhow::anyhow!("it is release {} of {}", release.version(), &**release.channel())));
        }
        self.adopt_release(network, release).await.map_err(TakeError::Here)
    }

    /// Takes a charter that was checked: a newer one than before, or the first.
    pub(super) async fn adopt_charter(self: &Arc<Self>, network: &Arc<Network>, charter: Charter) -> anyhow::Result<()> {
        let _turn = network.taking.lock().await;
        let before = network.charter();
        let charter = match &before {
            Some(before) if charter.version() <= before.version() => return Ok(()),
            Some(before) => before.update(charter.parts().clone(), now())?,
            None => charter,
        };
        let bundle = charter.parts().to_bundle()?;
        let (blob, length) = (BlobHash::of(&bundle), bundle.len() as u64);
        let policy = charter.policy().to_bytes();
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            store.import_bytes(&bundle, Durability::Announced)?;
            store.import_bytes(&policy, Durability::Announced)
        })
        .await??;
        self.home.save_charter(&network.id, &charter)?;
        let charter = Arc::new(charter);
        *network.charter.write().unwrap_or_else(PoisonError::into_inner) = Some(charter.clone());
        if before.is_none() {
            self.start_engine(network, &charter).await?;
        } else {
            let (grants, policy) = (charter.grants().clone(), charter.policy().clone());
            self.engines.with(&network.id, |engine, now| engine.set_charter(now, grants, policy));
        }
        self.branches.changed();
        self.announce_metadata(network, CHARTER_ROLE.into(), charter.version(), blob, length);
        tracing::info!(network = %network.name, version = charter.version(), "charter taken");
        network.fetching().charter_changed();
        self.review_metadata(network);
        Ok(())
    }

    /// Takes a release that was checked, where it is the channel's newest.
    pub(super) async fn adopt_release(&self, network: &Arc<Network>, release: Release) -> anyhow::Result<()> {
        let _turn = network.taking.lock().await;
        let channel = release.channel().to_string();
        if network.release(&channel).is_some_and(|known| !release.supersedes(&known)) {
            return Ok(());
        }
        let bytes = release.to_bytes();
        let (blob, length) = (BlobHash::of(&bytes), bytes.len() as u64);
        let store = self.store.clone();
        let kept = bytes.clone();
        tokio::task::spawn_blocking(move || store.import_bytes(&kept, Durability::Announced)).await??;
        self.home.save_release(&network.id, &channel, &bytes)?;
        let version = release.version();
        network.releases.write().unwrap_or_else(PoisonError::into_inner).insert(channel.clone(), Arc::new(release));
        self.announce_metadata(network, format!("{RELEASE_ROLE}{channel}"), version, blob, length);
        tracing::info!(network = %network.name, channel, version, "release taken");
        self.announcing.changed();
        Ok(())
    }

    /// Whether a newer release of `channel` than is known here was announced and is being fetched.
    pub(super) fn awaits_release(&self, network: &Network, channel: &str) -> bool {
        let version = network.release(channel).map_or(0, |release| release.version());
        let fetching = network.fetching();
        fetching.now.keys().any(|(role, announced, ..)| role.strip_prefix(RELEASE_ROLE) == Some(channel) && *announced > version)
    }
}

/// All metadata that the board knows of, with the nodes that announced it.
fn announced(engine: &Engine) -> impl Iterator<Item = (NodeId, &Metadata)> {
    engine.board().of_kind(Kind::Metadata).filter_map(|record| match record.payload() {
        Payload::Metadata(metadata) => Some((NodeId(record.author_key()), metadata)),
        _ => None,
    })
}

/// The most bytes that metadata of a role may have.
fn limit(role: &str) -> u64 {
    if role == CHARTER_ROLE { BUNDLE_BYTES_MAX as u64 } else { RELEASE_BYTES_MAX as u64 }
}

/// Whether metadata is of use here, and newer than what is known.
fn is_newer(network: &Network, metadata: &Metadata) -> bool {
    if metadata.length == 0 || metadata.length > limit(&metadata.role) {
        return false;
    }
    if &*metadata.role == CHARTER_ROLE {
        network.charter().is_none_or(|charter| metadata.version > charter.version())
    } else if let Some(channel) = metadata.role.strip_prefix(RELEASE_ROLE) {
        // Without a charter nothing could check it; what the board has is looked at again when the charter is there.
        let known = |charter: Arc<Charter>| charter.channels().any(|known| **known == *channel);
        network.charter().is_some_and(known) && network.release(channel).is_none_or(|release| metadata.version > release.version())
    } else {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: usize) -> NodeId {
        NodeId(*BlobHash::of(&n.to_le_bytes()).as_bytes())
    }
    fn said(n: usize) -> Said {
        (CHARTER_ROLE.into(), 7, BlobHash::of(&n.to_le_bytes()), 100)
    }

    /// However many keys strangers have, what a member announces is fetched.
    #[test]
    fn strangers_leave_room_for_members() {
        let mut fetching = Fetching::default();
        let at = Timestamp(5);
        assert!(fetching.begin(at, said(0), node(0), false) && !fetching.begin(at, said(0), node(1), true), "one thing is one fetch");
        assert!(fetching.begin(at, said(1), node(0), false) && !fetching.begin(at, said(2), node(0), false), "one announcer has two");
        assert_eq!(fetching.waiting.len(), 1, "what has no room is not forgotten");
        let begun = (10..100).filter(|n| fetching.begin(at, said(*n), node(*n), false)).count();
        assert_eq!(begun, AT_ONCE_STRANGERS - 2);
        let begun = (100..200).filter(|n| fetching.begin(at, said(*n), node(*n), true)).count();
        assert_eq!(begun, AT_ONCE - AT_ONCE_STRANGERS);
        for n in 1000..9000 {
            fetching.begin(at, said(n), node(n), false);
        }
        assert_eq!(fetching.waiting.len(), REMEMBERED_MAX);
    }

    /// A lie about a blob is remembered of the lie, not of the blob.
    #[test]
    fn what_was_bad_or_lost_is_that_announcement_and_no_other() {
        let mut fetching = Fetching::default();
        let (lie, truth) = (said(1), ("release/nightly".to_owned(), 7, said(1).2, 100));
        let at = Timestamp(5);
        assert!(fetching.begin(at, lie.clone(), node(0), true));
        fetching.done(at, lie.clone(), &Err(TakeError::Bad(anyhow::anyhow!("no charter"))));
        assert!(!fetching.begin(at, lie.clone(), node(1), true) && fetching.begin(at, truth.clone(), node(1), true));
        fetching.done(at, truth.clone(), &Err(TakeError::Lost(anyhow::anyhow!("nobody has it"))));
        assert!(!fetching.begin(at, truth.clone(), node(2), true));
        assert!(fetching.begin(at + ASK_AGAIN, truth, node(2), true), "it may be there later");
        fetching.charter_changed();
        assert!(fetching.begin(at, lie, node(1), true), "a newer charter may vouch for it");
    }
}
