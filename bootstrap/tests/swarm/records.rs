//! Records between members: gossip and anti-entropy.

use std::time::{Duration, Instant};

use barnraiser_bootstrap::substream::frame;
use barnraiser_bootstrap::{NetError, SyncError, Topic};
use barnraiser_protocol::id::NetworkId;
use barnraiser_protocol::record::RECORD_BYTES_MAX;
use barnraiser_protocol::time::Timestamp;

use crate::rig::{NETWORK, Node, QUIC, TCP, bytes, id_of, log, network, until};

async fn exchange_by_gossip(listen: &str) {
    log();
    let nodes = network(2, &[listen]).await;
    for (author, other) in [(0, 1), (1, 0)] {
        let record = bytes(900, author as u64);
        nodes[author].net.publish(NETWORK, Topic::Control, record.clone()).await.unwrap();
        until("the record came", async || nodes[other].has_record(&record)).await;
        assert!(nodes[other].seen.lock().arrivals[&id_of(&record)].1, "it came by gossip");
    }
    let addresses = nodes[0].net.addresses().await;
    assert!(addresses.iter().all(|address| address.to_string().contains(if listen == TCP { "tcp" } else { "quic" })));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_gossip_over_tcp() {
    exchange_by_gossip(TCP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_gossip_over_quic() {
    exchange_by_gossip(QUIC).await;
}

/// A network of five that has just formed: no warm-up, no heartbeat to wait for. The first message may find the peers
/// still setting their streams up, so the median is what is promised.
#[tokio::test(flavor = "multi_thread")]
async fn record_reaches_a_fresh_network_of_five_within_ten_milliseconds() {
    log();
    let nodes = network(5, &[TCP]).await;
    let mut times = Vec::new();
    for round in 0..20u64 {
        let author = &nodes[round as usize % 5];
        let record = bytes(600, 100 + round);
        let sent = Instant::now();
        author.net.publish(NETWORK, Topic::Control, record.clone()).await.unwrap();
        let others = || nodes.iter().filter(|node| node.id() != author.id());
        until("all have it", async || others().all(|node| node.has_record(&record))).await;
        times.extend(others().map(|node| node.seen.lock().arrivals[&id_of(&record)].0.saturating_duration_since(sent)));
        // A comparison that is under way, since they have just met, may have been a moment faster; gossip brings it all the same.
        until("by gossip", async || others().all(|node| node.seen.lock().gossiped.contains(&id_of(&record)))).await;
    }
    times.sort_unstable();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!("publish to receive, 5 nodes on loopback: median {median:?}, worst {worst:?}");
    assert!(median < Duration::from_millis(10), "median {median:?}, worst {worst:?}");
}

/// Gossip reaches those who are not connected to the author, through others who accepted it; what they reject stops.
#[tokio::test(flavor = "multi_thread")]
async fn accepted_records_are_passed_on_and_rejected_ones_are_not() {
    log();
    let (left, middle, right) = (Node::new(&[TCP]).await, Node::new(&[TCP]).await, Node::new(&[TCP]).await);
    middle.join(&[]).await;
    left.join(&middle.net.addresses().await).await;
    right.join(&middle.net.addresses().await).await;
    middle.meets(&[&left, &right]).await;
    // They also find each other; a record that is passed on is received all the same.
    let (good, bad) = (bytes(300, 1), [b"bad".to_vec(), bytes(300, 2)].concat());
    left.net.publish(NETWORK, Topic::Control, bad.clone()).await.unwrap();
    left.net.publish(NETWORK, Topic::Control, good.clone()).await.unwrap();
    until("the good one came", async || right.has_record(&good) && middle.has_record(&good)).await;
    assert!(!right.has_record(&bad) && !middle.has_record(&bad));
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_topics_reach_their_subscribers_only() {
    log();
    let nodes = network(3, &[TCP]).await;
    nodes[1].net.subscribe(NETWORK, Topic::Batch(3)).await.unwrap();
    let record = bytes(300, 5);
    // The subscription travels; until it has, nothing is received.
    let start = Instant::now();
    let mut round = 0;
    while !nodes[1].has_record(&record) {
        round += 1;
        nodes[0].net.publish(NETWORK, Topic::Batch(3), record.clone()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(start.elapsed() < Duration::from_secs(20), "not after {round} rounds");
    }
    assert!(!nodes[2].has_record(&record));
    let foreign = nodes[0].net.publish(NetworkId([1; 32]), Topic::Control, vec![1]).await;
    assert_eq!(foreign, Err(NetError::NotAMember(NetworkId([1; 32]))));
    let large = nodes[0].net.publish(NETWORK, Topic::Control, vec![1; RECORD_BYTES_MAX + 1]).await;
    assert!(matches!(large, Err(NetError::TooLarge { .. })), "{large:?}");
    nodes[0].net.publish(NETWORK, Topic::Control, vec![1; RECORD_BYTES_MAX]).await.unwrap();
    until("the largest record came", async || nodes[1].has_record(&vec![1; RECORD_BYTES_MAX])).await;
}

/// By itself, right after connecting, in both directions; what expires before the cut stays where it is.
#[tokio::test(flavor = "multi_thread")]
async fn late_joiner_learns_all_records_by_anti_entropy() {
    log();
    let old = Node::new(&[TCP]).await;
    old.join(&[]).await;
    for number in 0..3000 {
        old.add_record(&bytes(300, number));
    }
    let dying = bytes(300, 1_000_000);
    old.seen.lock().records.insert(id_of(&dying), (Timestamp(1_000), dying.clone()));
    let new = Node::new(&[TCP]).await;
    new.add_record(&bytes(300, 777_777));
    new.join(&old.net.addresses().await).await;
    until("all are everywhere", async || new.seen.lock().records.len() == 3001 && old.has_record(&bytes(300, 777_777))).await;
    assert!(!new.has_record(&dying));
    // And again by hand: there is nothing left to say.
    let report = loop {
        match new.net.sync_with(NETWORK, old.id()).await {
            Err(SyncError::UnderWay) => tokio::time::sleep(Duration::from_millis(5)).await,
            other => break other.unwrap(),
        }
    };
    assert_eq!((report.received, report.turns), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_not_exchanged_with_strangers() {
    log();
    let (member, stranger) = (Node::new(&[TCP]).await, Node::new(&[TCP]).await);
    member.join(&[]).await;
    member.add_record(&bytes(300, 1));
    stranger.net.dial(member.id(), member.net.addresses().await).await.unwrap();
    until("it sees the stranger", async || !member.net.peers().await.is_empty()).await;
    let refused = stranger.net.sync_with(NETWORK, member.id()).await.unwrap_err();
    assert!(matches!(refused, SyncError::Net(NetError::NotAMember(_))), "{refused}");
    let refused = member.net.sync_with(NETWORK, stranger.id()).await.unwrap_err();
    assert!(refused.to_string().contains("not a member"), "{refused}");
    assert!(!stranger.has_record(&bytes(300, 1)));
}

/// A frame that is longer than any may be is not even read; its sender is named.
#[tokio::test(flavor = "multi_thread")]
async fn oversized_and_malformed_frames_are_refused_and_reported() {
    use barnraiser_bootstrap::identity::{keypair, peer_id};
    use barnraiser_bootstrap::substream::{Behaviour, Lane};
    use barnraiser_bootstrap::swarm;
    use barnraiser_protocol::keys::SecretKey;
    use barnraiser_protocol::{sync::SYNC_PROTOCOL, transfer::BLOB_PROTOCOL};
    use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
    use libp2p::swarm::StreamProtocol;

    log();
    let node = Node::new(&[TCP]).await;
    node.join(&[]).await;
    let key = SecretKey::from_seed(&rand::random());
    let (behaviour, opener, _inbound) = Behaviour::new(&[BLOB_PROTOCOL, SYNC_PROTOCOL]);
    let mut raw = swarm::swarm(keypair(&key).unwrap(), behaviour).unwrap();
    raw.dial(node.net.addresses().await.remove(0)).unwrap();
    tokio::spawn(async move {
        loop {
            raw.select_next_some().await;
        }
    });
    let peer = peer_id(&node.id()).unwrap();
    let oversized = [(1u32 << 30).to_le_bytes().to_vec(), vec![0; 64]].concat();
    let malformed = [8u32.to_le_bytes().to_vec(), vec![255; 8]].concat();
    let mut reported = 0;
    for protocol in [BLOB_PROTOCOL, SYNC_PROTOCOL] {
        for frame in [&oversized, &malformed] {
            let mut stream = loop {
                match opener.open(peer, StreamProtocol::new(protocol), Lane::Control).await {
                    Ok(stream) => break stream,
                    // Not connected yet.
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            };
            stream.write_all(frame).await.unwrap();
            stream.flush().await.unwrap();
            let mut end = Vec::new();
            let read = stream.read_to_end(&mut end).await;
            assert!(end.is_empty(), "no answer: {read:?}");
            reported += 1;
            until("it is reported", async || node.seen.lock().misbehaved.len() == reported).await;
            let (who, what) = node.seen.lock().misbehaved[reported - 1].clone();
            assert_eq!(who, key.node());
            assert!(what.to_string().contains(protocol), "{what}");
        }
    }
    assert!(node.net.peers().await.iter().any(|peer| peer.node == key.node() && peer.faults == 4));
    // A well-formed frame of the wrong kind, too.
    let mut stream = opener.open(peer, StreamProtocol::new(SYNC_PROTOCOL), Lane::Control).await.unwrap();
    let refusal = barnraiser_protocol::sync::Frame::Refused(barnraiser_protocol::sync::Refusal::Busy);
    frame::write(&mut stream, &refusal).await.unwrap();
    until("it is reported", async || node.seen.lock().misbehaved.len() == reported + 1).await;
}
