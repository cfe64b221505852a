//! What is announced to Kademlia: found by strangers, renewed, ended, told after a restart, and not to be crowded out.

use std::time::Duration;

use barnraiser_bootstrap::entry::EntryServer;
use barnraiser_bootstrap::{Limits, Multiaddr};
use barnraiser_protocol::id::{BlobHash, NetworkId, OperatorId};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::trust::members::Branch;

use crate::rig::{NETWORK, Node, TCP, log, until};

/// In which nobody is: then only Kademlia can tell who has something.
const NOWHERE: NetworkId = NetworkId([99; 32]);

async fn knows(node: &Node, hash: BlobHash, holder: &Node) -> bool {
    node.net.who_has(NOWHERE, hash).await.contains(&holder.id())
}

async fn meets(one: &Node, other: &Node) {
    one.net.dial(other.id(), other.net.addresses().await).await.unwrap();
}

fn short_lived() -> Limits {
    Limits { announced_for: Duration::from_secs(4), ..Limits::default() }
}

/// Announced before anybody is there, it is told to whoever comes; it outlives its time several times over as long as it is
/// renewed, and ends when it is not.
#[tokio::test(flavor = "multi_thread")]
async fn announcement_is_told_late_renewed_and_ends() {
    log();
    let hash = BlobHash([1; 32]);
    // All of them: whoever is asked may also be told.
    let [holder, keeper, asker] = [(); 3].map(|()| Node::with_limits(&[TCP], short_lived()));
    let (holder, keeper, asker) = (holder.await, keeper.await, asker.await);
    holder.net.provide(hash).await.unwrap();
    meets(&holder, &keeper).await;
    meets(&asker, &keeper).await;
    until("it is told", async || knows(&asker, hash, &holder).await).await;
    let start = std::time::Instant::now();
    // Kept connected by asking: twice the time that it lives without being renewed.
    until("it is renewed", async || {
        assert!(knows(&asker, hash, &holder).await, "it ended after {:?}", start.elapsed());
        start.elapsed() > 2 * short_lived().announced_for
    })
    .await;
    holder.net.unprovide(hash).await.unwrap();
    until("it ends", async || !knows(&asker, hash, &holder).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn announcement_is_told_again_after_a_restart() {
    log();
    let hash = BlobHash([2; 32]);
    let (holder, keeper) = (Node::new(&[TCP]).await, Node::new(&[TCP]).await);
    let holder = holder.restart(&[TCP]).await;
    holder.net.provide(hash).await.unwrap();
    meets(&keeper, &holder).await;
    until("the node that came is told", async || knows(&keeper, hash, &holder).await).await;
}

/// An entry server, which knows no network, tells strangers of each other.
#[tokio::test(flavor = "multi_thread")]
async fn entry_server_names_those_who_announce() {
    log();
    let key = SecretKey::from_seed(&rand::random());
    let server = EntryServer::start(&key, &[TCP.parse().unwrap()], "entry".into()).await.unwrap();
    let addresses: Vec<Multiaddr> = server.addresses();
    tokio::spawn(server.run(|_| {}));
    let hash = BlobHash([3; 32]);
    let (holder, asker) = (Node::new(&[TCP]).await, Node::new(&[TCP]).await);
    for node in [&holder, &asker] {
        node.net.join(NETWORK, addresses.clone(), Vec::new()).await.unwrap();
    }
    holder.net.provide(hash).await.unwrap();
    until("it is found", async || knows(&asker, hash, &holder).await).await;
}

/// More strangers of one place than a key has room for announce it; a member, who is known to the node, is named all the same.
#[tokio::test(flavor = "multi_thread")]
async fn member_is_named_beside_a_crowd_of_strangers() {
    log();
    let hash = BlobHash([4; 32]);
    let keeper = Node::new(&[TCP]).await;
    let mut strangers = Vec::new();
    for _ in 0..24 {
        let stranger = Node::new(&[TCP]).await;
        meets(&stranger, &keeper).await;
        stranger.net.provide(hash).await.unwrap();
        strangers.push(stranger);
    }
    let member = Node::new(&[TCP]).await;
    keeper.kin.0.lock().unwrap().insert(member.id(), Branch(OperatorId([1; 32])));
    meets(&member, &keeper).await;
    member.net.provide(hash).await.unwrap();
    let asker = Node::new(&[TCP]).await;
    meets(&asker, &keeper).await;
    until("the member is named", async || knows(&asker, hash, &member).await).await;
}
