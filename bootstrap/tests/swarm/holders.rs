//! Holders: entry servers and nodes that keep what others push.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use barnraiser_bootstrap::entry::{EntryServer, Hold};
use barnraiser_bootstrap::identity::node_id;
use barnraiser_bootstrap::{
    Everybody, FetchRequest, HoldConfig, Holder, Limits, Misbehaviour, Multiaddr, PushAccess, PushError, PushReport, PushRequest, Rates,
};
use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::transfer::push::{PushRefusal, Pushed, Taken, Want};
use barnraiser_store::{Durability, Store, StoreOptions};
use tokio::task::JoinHandle;

use crate::pusher::Pusher;
use crate::rig::{NETWORK, Node, TCP, bytes, log, until};

const MIB: usize = 1 << 20;

/// An entry server that holds blobs in a folder.
struct Entry {
    id: NodeId,
    addresses: Vec<Multiaddr>,
    holder: Arc<Holder>,
    task: JoinHandle<()>,
}

impl Entry {
    async fn start(folder: &Path, key: &SecretKey, quota: u64) -> Self {
        // What an earlier one of this folder is still doing lets the store go when it is done.
        until("the store is free", async || Store::open(folder).is_ok()).await;
        Self::with(Store::open(folder).unwrap(), key, quota).await
    }

    async fn with(store: Store, key: &SecretKey, quota: u64) -> Self {
        let server = EntryServer::start(key, &[TCP.parse().unwrap()], "entry".into(), Some(Hold { store, quota })).await.unwrap();
        let (id, addresses, holder) = (node_id(&server.peer()).unwrap(), server.addresses(), server.holder().unwrap());
        Self { id, addresses, holder, task: tokio::spawn(server.run(|_| {})) }
    }

    /// Ends it at once.
    async fn end(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    fn request(&self, blobs: &[(BlobHash, u64)]) -> PushRequest {
        PushRequest { holder: self.id, addresses: self.addresses.clone(), blobs: blobs.to_vec(), part_of: None }
    }
}

fn key() -> SecretKey {
    SecretKey::from_seed(&rand::random())
}

fn fetch(hash: BlobHash, from: NodeId) -> FetchRequest {
    FetchRequest { hash, length: None, providers: vec![from], network: None, durability: Durability::Cached, limit: 1 << 30 }
}

async fn push(node: &Node, entry: &Entry, blobs: &[(BlobHash, u64)]) -> PushReport {
    node.net.push(&entry.request(blobs)).await.unwrap()
}

/// Empty, small and large; whoever pushed them is gone when they are fetched, and the holder has been restarted.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_served_to_anybody_and_survives_a_restart() {
    log();
    let (folder, key) = (tempfile::tempdir().unwrap(), key());
    let entry = Entry::start(folder.path(), &key, 1 << 30).await;
    let pusher = Node::new(&[]).await;
    let contents: Vec<Vec<u8>> =
        [0, 1, 16 << 10, 100_000, MIB, 5 * MIB + 77].into_iter().zip(0..).map(|(n, seed)| bytes(n, seed)).collect();
    let blobs: Vec<(BlobHash, u64)> = contents.iter().map(|content| (pusher.add_blob(content), content.len() as u64)).collect();
    let total: u64 = blobs.iter().map(|(_, length)| length).sum();
    let report = push(&pusher, &entry, &blobs).await;
    assert_eq!((report.kept.len(), report.refused.len(), report.sent), (blobs.len(), 0, total));
    let again = push(&pusher, &entry, &blobs).await;
    assert_eq!((again.kept.len(), again.sent), (blobs.len(), 0), "what is there is not sent again");
    pusher.net.shutdown().await;
    let stats = entry.holder.stats();
    assert_eq!((stats.blobs, stats.bytes, stats.parts), (blobs.len() as u64, total, 0));
    assert_eq!(entry.holder.told(100).len(), blobs.len());
    entry.end().await;

    let entry = Entry::start(folder.path(), &key, 1 << 30).await;
    assert_eq!(entry.holder.stats(), stats);
    let stranger = Node::new(&[TCP]).await;
    stranger.net.dial(entry.id, entry.addresses.clone()).await.unwrap();
    for ((hash, length), content) in blobs.iter().zip(&contents) {
        let report = stranger.net.fetch(fetch(*hash, entry.id), None).await.unwrap();
        assert_eq!(report.length, *length);
        assert_eq!(stranger.blob(hash), *content);
    }
    entry.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn push_goes_on_where_it_was_when_the_holder_comes_back() {
    log();
    let (folder, key) = (tempfile::tempdir().unwrap(), key());
    let entry = Entry::start(folder.path(), &key, 1 << 30).await;
    let content = bytes(8 * MIB, 1);
    let (hash, length) = (BlobHash::of(&content), content.len() as u64);
    let mut first = Pusher::connect(&entry.addresses[0], &[&content]).await;
    let Some(Taken::Wants(wants)) = first.offer(&[(hash, length)]).await else { panic!("it wants all of it") };
    assert!(matches!(&wants[0], Want::Part(ranges) if ranges.len() == 1));
    for unit in [7, 0, 3] {
        first.unit(&hash, unit, |_| {}).await;
    }
    first.say(Pushed::Done).await;
    let Some(Taken::Wants(wants)) = first.answer().await else { panic!("it wants the rest") };
    assert!(matches!(&wants[0], Want::Part(ranges) if ranges.iter().map(|range| range.length()).sum::<u64>() == 5 * MIB as u64));
    entry.end().await;

    let entry = Entry::start(folder.path(), &key, 1 << 30).await;
    let stats = entry.holder.stats();
    assert_eq!((stats.blobs, stats.parts), (0, 1));
    assert!(stats.used > 3 * MIB as u64, "{stats:?}");
    let node = Node::new(&[]).await;
    node.add_blob(&content);
    let report = push(&node, &entry, &[(hash, length)]).await;
    assert_eq!((report.kept, report.sent), (vec![hash], 5 * MIB as u64), "what was proven before is not sent again");
    let stats = entry.holder.stats();
    assert_eq!((stats.blobs, stats.bytes, stats.parts), (1, length, 0));
}

/// Nothing of it is kept, and the owner is told who it was.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_refused_and_their_sender_is_named() {
    log();
    let hold = HoldConfig { quota: 1 << 30, access: Arc::new(Everybody) };
    let holder = Node::with(&[TCP], Limits::default(), Some(hold)).await;
    let address = holder.net.addresses().await[0].clone();
    let content = bytes(3 * MIB, 1);
    let (hash, length) = (BlobHash::of(&content), content.len() as u64);
    for (spoilt_unit, wanted) in [(2, "wrong bytes"), (0, "before the last one")] {
        let mut pusher = Pusher::connect(&address, &[&content]).await;
        assert!(matches!(pusher.offer(&[(hash, length)]).await, Some(Taken::Wants(_))));
        pusher.unit(&hash, spoilt_unit, |bytes| bytes[100] ^= 1).await;
        pusher.say(Pushed::Done).await;
        assert_eq!(pusher.answer().await, Some(Taken::Ended(PushRefusal::WrongBytes)));
        until("it is named", async || {
            let seen = holder.seen.lock();
            seen.misbehaved.iter().any(|(node, what)| *node == pusher.id && what.to_string().contains(wanted))
        })
        .await;
    }
    // A length that is not the blob's, in units that are right otherwise.
    let mut pusher = Pusher::connect(&address, &[&content]).await;
    assert!(matches!(pusher.offer(&[(hash, length + MIB as u64)]).await, Some(Taken::Wants(_))));
    pusher.unit(&hash, 2, |_| {}).await;
    pusher.say(Pushed::Done).await;
    assert_eq!(pusher.answer().await, Some(Taken::Ended(PushRefusal::WrongBytes)));
    // Out of turn.
    let mut pusher = Pusher::connect(&address, &[&content]).await;
    pusher.say(Pushed::Done).await;
    assert_eq!(pusher.answer().await, Some(Taken::Ended(PushRefusal::WrongBytes)));
    until("it is named", async || {
        let seen = holder.seen.lock();
        seen.misbehaved.iter().any(|(node, what)| *node == pusher.id && matches!(what, Misbehaviour::Protocol { .. }))
    })
    .await;
    let kept = holder.net.holder().unwrap();
    assert_eq!((kept.stats().blobs, kept.stats().parts, kept.holds(&hash)), (0, 0, false));
    assert!(!holder.store.contains(&hash).unwrap());
    // An honest one is taken all the same.
    let node = Node::new(&[]).await;
    node.add_blob(&content);
    let addresses = holder.net.addresses().await;
    let report = node.net.push(&PushRequest { holder: holder.id(), addresses, blobs: vec![(hash, length)], part_of: None }).await.unwrap();
    assert_eq!(report.kept, [hash]);
}

#[tokio::test(flavor = "multi_thread")]
async fn flood_pushes_out_its_own_and_nothing_else() {
    log();
    let folder = tempfile::tempdir().unwrap();
    let entry = Entry::start(folder.path(), &key(), 16 * MIB as u64).await;
    let (quiet, loud) = (Node::new(&[]).await, Node::new(&[]).await);
    let precious = bytes(2 * MIB, 0);
    let kept = (quiet.add_blob(&precious), precious.len() as u64);
    push(&quiet, &entry, &[kept]).await;
    let mut flood = Vec::new();
    for seed in 1..=20 {
        let content = bytes(2 * MIB, seed);
        flood.push((loud.add_blob(&content), content.len() as u64));
        let report = push(&loud, &entry, &flood[flood.len() - 1..]).await;
        assert_eq!(report.kept.len(), 1, "{report:?}");
    }
    let stats = entry.holder.stats();
    assert!(stats.used <= stats.quota && stats.blobs == 7, "{stats:?}");
    assert!(entry.holder.holds(&kept.0));
    assert!(!entry.holder.holds(&flood[0].0) && entry.holder.holds(&flood[19].0), "the newest of the flood are there");
    // Larger than what it could have without taking what is not its to take.
    let content = bytes(15 * MIB, 99);
    let large = (loud.add_blob(&content), content.len() as u64);
    let report = push(&loud, &entry, &[large]).await;
    assert_eq!(report.refused[&large.0], PushRefusal::Full);
    assert_eq!(report.sent, 0, "it is told before it sends anything");
    let content = bytes(17 * MIB, 98);
    let larger = (loud.add_blob(&content), content.len() as u64);
    assert_eq!(push(&loud, &entry, &[larger]).await.refused[&larger.0], PushRefusal::TooLarge);
}

/// What a member announces itself stays when it is pushed out, whether it was here before it was pushed or came after.
#[tokio::test(flavor = "multi_thread")]
async fn own_announced_blobs_survive_that_they_are_pushed_out() {
    log();
    let hold = HoldConfig { quota: 8 * MIB as u64, access: Arc::new(Everybody) };
    let holder = Node::with(&[TCP], Limits::default(), Some(hold)).await;
    let addresses = holder.net.addresses().await;
    let node = Node::new(&[]).await;
    let push = async |content: &[u8]| {
        let blob = (node.add_blob(content), content.len() as u64);
        let request = PushRequest { holder: holder.id(), addresses: addresses.clone(), blobs: vec![blob], part_of: None };
        (blob.0, node.net.push(&request).await.unwrap())
    };
    let (before, after) = (bytes(2 * MIB, 100), bytes(2 * MIB, 101));
    holder.store.import_bytes(&before, Durability::Announced).unwrap();
    let (before, report) = push(&before).await;
    assert_eq!((report.kept, report.sent), (vec![before], 0));
    let (_, report) = push(&after).await;
    assert_eq!(report.sent, after.len() as u64);
    let after = holder.store.import_bytes(&after, Durability::Announced).unwrap();
    let mut flood = Vec::new();
    for seed in 0..10 {
        let (hash, report) = push(&bytes(2 * MIB, seed)).await;
        assert_eq!(report.kept, [hash], "{report:?}");
        flood.push(hash);
    }
    let kept = holder.net.holder().unwrap();
    assert!(!kept.holds(&before) && !kept.holds(&after) && !kept.holds(&flood[0]));
    holder.store.gc(0).unwrap();
    let here = [before, after, flood[0]].map(|hash| holder.store.contains(&hash).unwrap());
    assert_eq!(here, [true, true, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_first_unit_leaves_no_file() {
    log();
    let folder = tempfile::tempdir().unwrap();
    let entry = Entry::start(folder.path(), &key(), 1 << 30).await;
    let content = bytes(3 * MIB, 1);
    let (hash, length) = (BlobHash::of(&content), content.len() as u64);
    let files = || std::fs::read_dir(folder.path().join("partials")).unwrap().count();
    let mut pusher = Pusher::connect(&entry.addresses[0], &[&content]).await;
    assert!(matches!(pusher.offer(&[(hash, length)]).await, Some(Taken::Wants(_))));
    assert_eq!(files(), 0, "nothing is made for an offer");
    pusher.unit(&hash, 2, |bytes| bytes[100] ^= 1).await;
    pusher.say(Pushed::Done).await;
    assert_eq!(pusher.answer().await, Some(Taken::Ended(PushRefusal::WrongBytes)));
    assert_eq!((files(), entry.holder.stats().used), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn units_that_are_not_wanted_end_the_push() {
    log();
    let folder = tempfile::tempdir().unwrap();
    let entry = Entry::start(folder.path(), &key(), 1 << 30).await;
    let content = bytes(2 * MIB, 1);
    let (hash, length) = (BlobHash::of(&content), content.len() as u64);
    let mut pusher = Pusher::connect(&entry.addresses[0], &[&content]).await;
    assert!(matches!(pusher.offer(&[(hash, length)]).await, Some(Taken::Wants(_))));
    for _ in 0..18 {
        pusher.unit(&hash, 1, |_| {}).await;
    }
    assert_eq!(pusher.answer().await, Some(Taken::Ended(PushRefusal::WrongBytes)));
    let stats = entry.holder.stats();
    assert_eq!((stats.parts, stats.used), (1, MIB as u64 + 4096), "what came is kept");
}

/// Neither does a member say that it has what it hides, nor is a length believed that is not the blob's.
#[tokio::test(flavor = "multi_thread")]
async fn hidden_blobs_are_put_off_and_stated_lengths_compared() {
    log();
    struct Hides(BlobHash);
    impl PushAccess for Hides {
        fn may_push(&self, _: &NodeId) -> bool {
            true
        }
        fn may_tell(&self, hash: &BlobHash, _: &NodeId) -> bool {
            *hash != self.0
        }
    }
    let (hidden, open) = (bytes(2 * MIB, 1), bytes(2 * MIB, 2));
    let hold = HoldConfig { quota: 1 << 30, access: Arc::new(Hides(BlobHash::of(&hidden))) };
    let holder = Node::with(&[TCP], Limits::default(), Some(hold)).await;
    let [hidden, open] = [hidden, open].map(|content| holder.store.import_bytes(&content, Durability::Announced).unwrap());
    let length = 2 * MIB as u64;
    let mut pusher = Pusher::connect(&holder.net.addresses().await[0], &[]).await;
    let Some(Taken::Wants(wants)) = pusher.offer(&[(hidden, length), (open, length)]).await else { panic!("it answers") };
    assert_eq!(wants[..], [Want::No(PushRefusal::Busy), Want::Kept]);
    let mut pusher = Pusher::connect(&holder.net.addresses().await[0], &[]).await;
    assert_eq!(pusher.offer(&[(open, length + 1)]).await, Some(Taken::Ended(PushRefusal::WrongBytes)));
    until("it is named", async || {
        let seen = holder.seen.lock();
        seen.misbehaved.iter().any(|(node, what)| *node == pusher.id && matches!(what, Misbehaviour::WrongLength(_)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_refuses_until_there_is_room() {
    log();
    let (folder, key) = (tempfile::tempdir().unwrap(), key());
    let full = StoreOptions { reserve_bytes: u64::MAX / 2, ..StoreOptions::default() };
    let entry = Entry::with(Store::open_with(folder.path(), full).unwrap(), &key, 1 << 30).await;
    let node = Node::new(&[]).await;
    let content = bytes(3 * MIB, 1);
    let blob = (node.add_blob(&content), content.len() as u64);
    let report = push(&node, &entry, &[blob]).await;
    assert_eq!((report.refused[&blob.0], report.sent), (PushRefusal::Failing, 0));
    assert!(PushRefusal::Failing.may_pass());
    assert_eq!(entry.holder.stats().used, 0);
    entry.end().await;
    let entry = Entry::start(folder.path(), &key, 1 << 30).await;
    assert_eq!(push(&node, &entry, &[blob]).await.kept, [blob.0]);
}

/// What is not for everybody yet never leaves, and a node takes from those only that it wants to take from.
#[tokio::test(flavor = "multi_thread")]
async fn private_blobs_are_not_pushed_and_strangers_push_to_no_member() {
    log();
    struct Nobody;
    impl PushAccess for Nobody {
        fn may_push(&self, _: &NodeId) -> bool {
            false
        }
        fn may_tell(&self, _: &BlobHash, _: &NodeId) -> bool {
            false
        }
    }
    let hold = HoldConfig { quota: 1 << 30, access: Arc::new(Nobody) };
    let holder = Node::with(&[TCP], Limits::default(), Some(hold)).await;
    let node = Node::new(&[]).await;
    let content = bytes(100, 1);
    let request = PushRequest {
        holder: holder.id(),
        addresses: holder.net.addresses().await,
        blobs: vec![(node.add_blob(&content), 100)],
        part_of: None,
    };
    let error = node.net.push(&request).await.unwrap_err();
    assert!(matches!(error, PushError::Refused { why: PushRefusal::NotAMember, .. }), "{error}");
    node.access.0.lock().unwrap().insert(holder.id());
    let error = node.net.push(&request).await.unwrap_err();
    assert!(matches!(error, PushError::Private(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_learn_whether_they_can_be_dialled_and_who_holds() {
    log();
    let folder = tempfile::tempdir().unwrap();
    let entry = Entry::start(folder.path(), &key(), 1 << 30).await;
    let (open, shut) = (Node::new(&[TCP]).await, Node::new(&[]).await);
    for node in [&open, &shut] {
        node.net.join(NETWORK, entry.addresses.clone(), Vec::new()).await.unwrap();
    }
    until("both know", async || open.net.is_reachable() == Some(true) && shut.net.is_reachable() == Some(false)).await;
    until("both know the holder", async || {
        let knows = async |node: &Node| node.net.holders(NETWORK).await.unwrap().iter().any(|known| known.entry && known.node == entry.id);
        knows(&open).await && knows(&shut).await
    })
    .await;
}

/// All of it counts, and by the owner's rate.
#[tokio::test(flavor = "multi_thread")]
async fn push_at_a_rate_takes_the_time_that_it_should() {
    log();
    let folder = tempfile::tempdir().unwrap();
    let entry = Entry::start(folder.path(), &key(), 1 << 30).await;
    let rates = Rates { up: Some(2 * MIB as u64), ..Rates::default() };
    let node = Node::with_limits(&[], Limits { rates, ..Limits::default() }).await;
    let content = bytes(6 * MIB, 1);
    let blob = (node.add_blob(&content), content.len() as u64);
    let start = Instant::now();
    assert_eq!(push(&node, &entry, &[blob]).await.kept, [blob.0]);
    // 3 s, less what may move at once.
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(2750), "{took:?}");
    assert!(node.net.traffic().usage().up > blob.1, "{:?}", node.net.traffic().usage());
}

/// Whichever end's owner wants it so; nothing of a large one moves, and small ones are pushed as ever.
#[tokio::test(flavor = "multi_thread")]
async fn large_pushes_wait_while_blobs_rest() {
    log();
    let hold = HoldConfig { quota: 1 << 30, access: Arc::new(Everybody) };
    let holder = Node::with(&[TCP], Limits::default(), Some(hold)).await;
    let addresses = holder.net.addresses().await;
    let node = Node::new(&[]).await;
    let large = bytes(3 * MIB, 1);
    let large = (node.add_blob(&large), large.len() as u64);
    let push = async |blob| {
        node.net.push(&PushRequest { holder: holder.id(), addresses: addresses.clone(), blobs: vec![blob], part_of: None }).await
    };
    for (seed, resting) in [(2, &node), (3, &holder)] {
        resting.net.traffic().rest(Some("it is day".into()));
        let small = bytes(100_000, seed);
        let small = (node.add_blob(&small), small.len() as u64);
        assert_eq!(push(small).await.unwrap().kept, [small.0]);
        match push(large).await {
            Ok(report) => assert_eq!((report.refused[&large.0], report.sent), (PushRefusal::Busy, 0)),
            Err(error) => assert!(seed == 2 && matches!(&error, PushError::Resting(why) if why == "it is day"), "{error}"),
        }
        resting.net.traffic().rest(None);
    }
    // By what has moved: it stops in the middle, and goes on where it was.
    node.net.traffic().allow(Some(MIB as u64));
    let error = push(large).await.unwrap_err();
    assert!(matches!(error, PushError::Resting(_)), "{error}");
    node.net.traffic().allow(None);
    until("what came is noted", async || holder.net.holder().unwrap().stats().parts == 1).await;
    let mut report = push(large).await.unwrap();
    // The other push may not have ended there yet.
    while report.refused.get(&large.0) == Some(&PushRefusal::Busy) {
        report = push(large).await.unwrap();
    }
    assert_eq!(report.kept, [large.0]);
    assert!((1..large.1).contains(&report.sent), "{report:?}");
}
