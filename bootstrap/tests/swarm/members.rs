//! How members find each other.

use std::time::{Duration, Instant};

use barnraiser_bootstrap::entry::EntryServer;
use barnraiser_bootstrap::{Limits, Multiaddr, NetError};
use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::keys::SecretKey;

use crate::rig::{NETWORK, Node, QUIC, TCP, log, network, until};

async fn entry() -> (Vec<Multiaddr>, tokio::task::JoinHandle<()>) {
    let key = SecretKey::from_seed(&rand::random());
    let server = EntryServer::start(&key, &[TCP.parse().unwrap(), QUIC.parse().unwrap()], "entry".into()).await.unwrap();
    let addresses = server.addresses();
    assert_eq!(addresses.len(), 2);
    (addresses, tokio::spawn(server.run(|_| {})))
}

/// They know the entry server and nothing else; it knows no networks. Joining at the same moment is the hard case.
#[tokio::test(flavor = "multi_thread")]
async fn members_find_each_other_through_an_entry_server() {
    log();
    let (addresses, _server) = entry().await;
    let start = Instant::now();
    let mut nodes = Vec::new();
    for number in 0..4 {
        let node = Node::new(&[TCP, QUIC]).await;
        node.net.join(NETWORK, vec![addresses[number % 2].clone()], Vec::new()).await.unwrap();
        nodes.push(node);
    }
    for node in &nodes {
        let others: Vec<&Node> = nodes.iter().filter(|other| other.id() != node.id()).collect();
        node.meets(&others).await;
    }
    println!("four members met after {:?}", start.elapsed());
    // Somebody who is in another network is not met.
    let other = Node::new(&[TCP]).await;
    other.net.join(barnraiser_protocol::id::NetworkId([9; 32]), addresses, Vec::new()).await.unwrap();
    until("the stranger is connected", async || !other.net.peers().await.is_empty()).await;
    assert!(other.seen.lock().peers.is_empty());
}

/// The entry server is gone when the node returns.
#[tokio::test(flavor = "multi_thread")]
async fn restarted_node_finds_its_peers_without_the_entry_server() {
    log();
    let (addresses, server) = entry().await;
    let (stays, leaves) = (Node::new(&[TCP]).await, Node::new(&[TCP]).await);
    for node in [&stays, &leaves] {
        node.net.join(NETWORK, addresses.clone(), Vec::new()).await.unwrap();
    }
    leaves.meets(&[&stays]).await;
    stays.meets(&[&leaves]).await;
    // A peer says where it listens a moment after it says what it is a member of.
    until("an address is known", async || !leaves.net.known_addresses(NETWORK).await.is_empty()).await;
    let known = leaves.net.known_addresses(NETWORK).await;
    server.abort();
    let id = leaves.id();
    let back = leaves.restart(&[TCP]).await;
    assert_eq!(back.id(), id);
    back.net.join(NETWORK, addresses, known).await.unwrap();
    back.meets(&[&stays]).await;
    stays.meets(&[&back]).await;
}

/// The entry server starts after the nodes: they keep trying.
#[tokio::test(flavor = "multi_thread")]
async fn entry_server_that_comes_late_is_found() {
    log();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    let (one, two) = (Node::new(&[TCP]).await, Node::new(&[TCP]).await);
    for node in [&one, &two] {
        node.net.join(NETWORK, vec![address.clone()], Vec::new()).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let key = SecretKey::from_seed(&rand::random());
    let server = EntryServer::start(&key, &[address], "entry".into()).await.unwrap();
    tokio::spawn(server.run(|_| {}));
    one.meets(&[&two]).await;
    two.meets(&[&one]).await;
}

/// Connections between members stay although nothing moves; leaving is noticed.
#[tokio::test(flavor = "multi_thread")]
async fn leaving_and_ending_are_noticed() {
    log();
    let mut nodes = network(3, &[TCP]).await;
    nodes[1].net.leave(NETWORK).await.unwrap();
    let left = nodes[1].id();
    until("it is seen to leave", async || !nodes[0].seen.lock().peers.contains(&left)).await;
    let ended = nodes.pop().unwrap();
    ended.net.shutdown().await;
    assert!(matches!(ended.net.join(NETWORK, Vec::new(), Vec::new()).await, Err(NetError::ShutDown)));
    until("it is seen to end", async || nodes[0].seen.lock().peers.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_nodes_are_named() {
    log();
    let node = Node::new(&[TCP]).await;
    let nobody = SecretKey::from_seed(&[1; 32]).node();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = node.net.dial(nobody, vec![format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()]).await.unwrap_err();
    assert!(error.to_string().contains(&nobody.short()), "{error}");
    // Somebody else answers there.
    let other = Node::new(&[TCP]).await;
    let error = node.net.dial(nobody, other.net.addresses().await).await.unwrap_err();
    assert!(matches!(error, NetError::Unreachable { .. }), "{error}");
    let no_key = NodeId([2; 32]);
    assert_eq!(node.net.dial(no_key, Vec::new()).await, Err(NetError::NotANode(no_key)));
    assert_eq!(node.net.who_has(NETWORK, BlobHash([1; 32])).await, []);
}

/// Two networks on one node, and a peer that shares only one of them.
#[tokio::test(flavor = "multi_thread")]
async fn each_network_has_its_own_members() {
    log();
    let (both, one) = (Node::new(&[TCP]).await, Node::new(&[TCP]).await);
    let second = barnraiser_protocol::id::NetworkId([8; 32]);
    both.join(&[]).await;
    both.net.join(second, Vec::new(), Vec::new()).await.unwrap();
    one.join(&both.net.addresses().await).await;
    one.meets(&[&both]).await;
    both.meets(&[&one]).await;
    let peers = both.net.peers().await;
    assert_eq!(peers.len(), 1);
    assert_eq!(peers[0].networks, [NETWORK]);
}

/// Strangers take all the connections that a node lets in; it reaches others all the same.
#[tokio::test(flavor = "multi_thread")]
async fn node_that_is_full_of_strangers_can_still_dial() {
    log();
    let full = Node::with_limits(&[TCP], Limits { connections: 8, ..Limits::default() }).await;
    let mut strangers = Vec::new();
    for _ in 0..7 {
        let stranger = Node::new(&[TCP]).await;
        stranger.net.dial(full.id(), full.net.addresses().await).await.unwrap();
        strangers.push(stranger);
    }
    until("they are all there", async || full.net.peers().await.len() == 7).await;
    let (late, wanted) = (Node::new(&[TCP]).await, Node::new(&[TCP]).await);
    // The connection is refused once it is there, which whoever dials sees as one that closes.
    let _ = late.net.dial(full.id(), full.net.addresses().await).await;
    full.net.dial(wanted.id(), wanted.net.addresses().await).await.unwrap();
    let peers: Vec<NodeId> = full.net.peers().await.iter().map(|peer| peer.node).collect();
    assert!(peers.contains(&wanted.id()) && !peers.contains(&late.id()), "{peers:?}");
}
