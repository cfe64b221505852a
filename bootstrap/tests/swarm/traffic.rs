//! Limits on traffic, over loopback: rates, shares, what goes first, what rests, and what is compressed.

use std::time::{Duration, Instant};

use barnraiser_bootstrap::identity::{keypair, peer_id};
use barnraiser_bootstrap::substream::{Behaviour, Lane, frame};
use barnraiser_bootstrap::{FetchError, FetchRequest, Limits, Misbehaviour, Rates, Topic, swarm};
use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::transfer::{BLOB_PROTOCOL, ByteRange, Request};
use barnraiser_store::Durability;
use futures::StreamExt as _;
use libp2p::swarm::StreamProtocol;

use crate::liar::{Liar, Lie};
use crate::rig::{NETWORK, Node, QUIC, TCP, bytes, log, until};

const MIB: usize = 1 << 20;

fn request(hash: BlobHash, from: NodeId) -> FetchRequest {
    FetchRequest { hash, length: None, providers: vec![from], network: None, durability: Durability::Cached, limit: 1 << 30 }
}

fn rates(up: Option<u64>, down: Option<u64>, up_per_peer: Option<u64>) -> Limits {
    Limits { rates: Rates { up, down, up_per_peer }, ..Limits::default() }
}

/// Members with these limits that know each other.
async fn members(limits: Vec<Limits>, listen: &str) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for limits in limits {
        let node = Node::with_limits(&[listen], limits).await;
        let mut known = Vec::new();
        for other in &nodes {
            known.extend(other.net.addresses().await);
        }
        node.join(&known).await;
        nodes.push(node);
    }
    for node in &nodes {
        let others: Vec<&Node> = nodes.iter().filter(|other| other.id() != node.id()).collect();
        node.meets(&others).await;
    }
    nodes
}

/// Text that gets much smaller, and differs from unit to unit.
fn text(length: usize) -> Vec<u8> {
    (0..).flat_map(|line: u32| format!("{line:08} make -C lua linux CFLAGS=-O2 LDFLAGS=-s\n").into_bytes()).take(length).collect()
}

/// Where the upload of one or the download of the other is limited, by TCP and by QUIC: as long as it must take, and not
/// much longer on a machine that has other things to do.
#[tokio::test(flavor = "multi_thread")]
async fn fetch_at_a_rate_takes_the_time_that_it_should() {
    log();
    let rate = 2 << 20;
    for listen in [TCP, QUIC] {
        for [provider, fetcher] in [[rates(Some(rate), None, None), Limits::default()], [Limits::default(), rates(None, Some(rate), None)]]
        {
            let limited = (provider.rates, fetcher.rates);
            let nodes = members(vec![provider, fetcher], listen).await;
            let hash = nodes[0].add_blob(&bytes(6 * MIB, 1));
            let start = Instant::now();
            nodes[1].net.fetch(request(hash, nodes[0].id()), None).await.unwrap();
            let seconds = start.elapsed().as_secs_f64();
            println!("{listen} {limited:?}: {seconds:.2} s");
            // 3 s, less what may move at once.
            assert!((2.75..4.0).contains(&seconds), "{listen} {limited:?}: {seconds} s");
        }
    }
}

/// All that one sends the other receives: both count the same, which is no less than the records have.
#[tokio::test(flavor = "multi_thread")]
async fn gossip_is_counted_at_both_ends() {
    log();
    let nodes = members(vec![Limits::default(), Limits::default()], TCP).await;
    let (before, received) = (nodes[0].net.traffic().usage(), nodes[1].net.traffic().usage());
    assert!(before.up > 0 && before.down > 0, "handshakes count");
    let records: Vec<Vec<u8>> = (0..50).map(|number| bytes(4000, number)).collect();
    for record in &records {
        nodes[0].net.publish(NETWORK, Topic::Control, record.clone()).await.unwrap();
        until("the record came", async || nodes[1].has_record(record)).await;
    }
    let least = 50 * 4000;
    let (sent, got) = (nodes[0].net.traffic().usage().up - before.up, nodes[1].net.traffic().usage().down - received.down);
    assert!((least..least * 13 / 10).contains(&sent) && (least..least * 13 / 10).contains(&got), "{sent} sent, {got} received");
    until("nothing is under way", async || nodes[0].net.traffic().usage().up == nodes[1].net.traffic().usage().down).await;
}

/// Bulk takes all of a small upload; records of the size of a renewal pass as if it were not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_passes_while_bulk_takes_the_whole_rate() {
    log();
    for listen in [TCP, QUIC] {
        let nodes = members(vec![rates(Some(256 << 10), None, None), Limits::default()], listen).await;
        let hash = nodes[0].add_blob(&bytes(8 * MIB, 1));
        let (net, from) = (nodes[1].net.clone(), nodes[0].id());
        let fetching = tokio::spawn(async move { net.fetch(request(hash, from), None).await });
        let start = nodes[0].net.traffic().usage().up;
        until("bulk is under way", async || nodes[0].net.traffic().usage().up > start + (512 << 10)).await;
        for number in 0..5 {
            let record = bytes(1200, 100 + number);
            let sent = Instant::now();
            nodes[0].net.publish(NETWORK, Topic::Control, record.clone()).await.unwrap();
            until("it came", async || nodes[1].has_record(&record)).await;
            let took = sent.elapsed();
            assert!(took < Duration::from_secs(1), "{listen}: {took:?}");
        }
        assert!(!fetching.is_finished());
        fetching.abort();
    }
}

/// One fetches one blob, the other four at once from the same node: the first has its half all the same.
#[tokio::test(flavor = "multi_thread")]
async fn two_peers_share_the_upload_evenly_whatever_they_ask_for() {
    log();
    let rate = 1 << 20;
    let nodes = members(vec![rates(Some(rate), None, None), Limits::default(), Limits::default()], TCP).await;
    let blobs: Vec<BlobHash> = (0..5).map(|number| nodes[0].add_blob(&bytes(3 * MIB, number))).collect();
    let from = nodes[0].id();
    let greedy: Vec<_> = blobs[1..]
        .iter()
        .map(|hash| {
            let (net, hash) = (nodes[2].net.clone(), *hash);
            tokio::spawn(async move { net.fetch(request(hash, from), None).await })
        })
        .collect();
    let before = nodes[2].net.traffic().usage().down;
    until("the greedy one is served", async || nodes[2].net.traffic().usage().down > before + (256 << 10)).await;
    let (start, before) = (Instant::now(), nodes[2].net.traffic().usage().down);
    nodes[1].net.fetch(request(blobs[0], from), None).await.unwrap();
    let (seconds, greedily) = (start.elapsed().as_secs_f64(), nodes[2].net.traffic().usage().down - before);
    println!("3 MiB at half of 1 MiB/s: {seconds:.2} s; the other took {greedily} bytes meanwhile");
    assert!((4.8..8.0).contains(&seconds), "{seconds} s");
    assert!((greedily as f64 / (3.0 * MIB as f64) - 1.0).abs() < 0.25, "{greedily}");
    // And what the first one no longer takes goes to the other: 12 MiB in all at 1 MiB/s.
    for fetch in greedy {
        fetch.await.unwrap().unwrap();
    }
    let whole = start.elapsed().as_secs_f64();
    assert!((12.0..19.0).contains(&whole), "{whole} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_peer_is_held_to_a_rate_of_its_own() {
    log();
    let nodes = members(vec![rates(None, None, Some(1 << 20)), Limits::default(), Limits::default()], TCP).await;
    let blobs = [nodes[0].add_blob(&bytes(3 * MIB, 1)), nodes[0].add_blob(&bytes(3 * MIB, 2))];
    let start = Instant::now();
    let fetch = |node: usize| nodes[node].net.fetch(request(blobs[node - 1], nodes[0].id()), None);
    let (one, other) = tokio::join!(fetch(1), fetch(2));
    one.unwrap();
    other.unwrap();
    let seconds = start.elapsed().as_secs_f64();
    assert!((2.8..4.2).contains(&seconds), "{seconds} s for 3 MiB each at 1 MiB/s each");
}

/// It opens all the streams that it may, asks for unit after unit, and reads nothing: others are served as if it were not
/// there.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_reads_nothing_holds_up_nobody_else() {
    log();
    let nodes = members(vec![Limits::default(), Limits::default()], TCP).await;
    let hash = nodes[0].add_blob(&bytes(8 * MIB, 1));
    let key = SecretKey::from_seed(&rand::random());
    let (behaviour, opener, _inbound) = Behaviour::new(&[BLOB_PROTOCOL]);
    let mut greedy = swarm::swarm(keypair(&key).unwrap(), behaviour).unwrap();
    greedy.dial(nodes[0].net.addresses().await.remove(0)).unwrap();
    let running = tokio::spawn(async move { while greedy.next().await.is_some() {} });
    let provider = peer_id(&nodes[0].id()).unwrap();
    let mut streams = Vec::new();
    for _ in 0..16 {
        let mut stream = opener.open(provider, StreamProtocol::new(BLOB_PROTOCOL), Lane::Control).await.unwrap();
        for unit in 0..8u64 {
            let range = ByteRange { start: unit << 20, end: (unit + 1) << 20 };
            frame::write(&mut stream, &Request::Get { hash, range, zstd: false }).await.unwrap();
        }
        streams.push(stream);
    }
    until("it is served", async || nodes[0].net.traffic().usage().up > 2 * MIB as u64).await;
    let start = Instant::now();
    nodes[1].net.fetch(request(hash, nodes[0].id()), None).await.unwrap();
    // A request that finds no room is answered "busy" after five seconds.
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    let sent = nodes[0].net.traffic().usage().up;
    assert!(sent < 40 * MIB as u64, "{sent} bytes, though one reads nothing");
    drop(streams);
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_bulk_rests_small_blobs_travel_and_large_ones_wait_where_they_are() {
    log();
    let nodes = members(vec![Limits::default(), Limits::default()], TCP).await;
    let (provider, fetcher) = (&nodes[0], &nodes[1]);
    let large: Vec<BlobHash> = (0..3).map(|number| provider.add_blob(&bytes(4 * MIB, number))).collect();
    let small: Vec<BlobHash> = (0..2).map(|number| provider.add_blob(&bytes(200 << 10, 10 + number))).collect();
    let fetch = async |hash| fetcher.net.fetch(request(hash, provider.id()), None).await;
    provider.net.traffic().rest(Some("it is day".into()));
    fetch(small[0]).await.unwrap();
    let refused = fetch(large[0]).await.unwrap_err().to_string();
    assert!(refused.contains("is busy"), "{refused}");
    provider.net.traffic().rest(None);
    fetch(large[0]).await.unwrap();
    fetcher.net.traffic().rest(Some("it is day".into()));
    fetch(small[1]).await.unwrap();
    let error = fetch(large[1]).await.unwrap_err();
    assert!(matches!(&error, FetchError::Resting { why, .. } if why == "it is day"), "{error}");
    // By what has moved: it stops in the middle, and goes on where it was.
    fetcher.net.traffic().rest(None);
    fetcher.net.traffic().allow(Some(2 * MIB as u64));
    let error = fetch(large[2]).await.unwrap_err();
    assert!(matches!(&error, FetchError::Resting { .. }), "{error}");
    fetcher.net.traffic().allow(None);
    let report = fetch(large[2]).await.unwrap();
    assert!((MIB as u64..4 * MIB as u64).contains(&report.already_had), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_slow_line_what_can_be_compressed_is() {
    log();
    let nodes = members(vec![rates(Some(1 << 20), None, None), Limits::default()], TCP).await;
    let content = text(8 * MIB + 77);
    let hash = nodes[0].add_blob(&content);
    let (start, before) = (Instant::now(), nodes[0].net.traffic().usage().up);
    nodes[1].net.fetch(request(hash, nodes[0].id()), None).await.unwrap();
    let (seconds, sent) = (start.elapsed().as_secs_f64(), nodes[0].net.traffic().usage().up - before);
    println!("8 MiB of text at 1 MiB/s: {seconds:.2} s, {sent} bytes");
    assert_eq!(nodes[1].blob(&hash), content);
    assert!(sent < 3 * MIB as u64 && seconds < 5.0, "{sent} bytes in {seconds} s");
    // On a line that nobody limits it is not.
    let nodes = members(vec![Limits::default(), Limits::default()], TCP).await;
    let hash = nodes[0].add_blob(&content);
    let before = nodes[0].net.traffic().usage().up;
    nodes[1].net.fetch(request(hash, nodes[0].id()), None).await.unwrap();
    assert!(nodes[0].net.traffic().usage().up - before > 8 * MIB as u64);
}

/// A frame that would fill the memory, one that is too short, one that is none: each is a wrong byte.
#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_inflates_to_anything_else_is_a_wrong_byte() {
    log();
    let honest = members(vec![Limits::default(), Limits::default()], TCP).await;
    for (number, lie) in [Lie::Bomb, Lie::ShortFrame, Lie::NoFrame].into_iter().enumerate() {
        let content = bytes(3 * MIB, number as u64);
        let hash = honest[0].add_blob(&content);
        let liar = Liar::start(honest[0].store.clone(), lie).await;
        honest[1].net.dial(liar.id, vec![liar.address.clone()]).await.unwrap();
        let providers = vec![liar.id, honest[0].id()];
        // A length that is known: else it is proven first, by bytes that may not be compressed.
        let length = Some(content.len() as u64);
        let report = honest[1].net.fetch(FetchRequest { providers, length, ..request(hash, liar.id) }, None).await.unwrap();
        assert_eq!(honest[1].blob(&hash), content, "{lie:?}");
        assert_eq!(report.bytes_by_peer.get(&liar.id), None, "{lie:?}");
        until("the liar is named", async || honest[1].seen.lock().misbehaved.iter().any(|(node, _)| *node == liar.id)).await;
        let seen = honest[1].seen.lock();
        let named = seen.misbehaved.iter().find(|(node, _)| *node == liar.id);
        assert!(matches!(named, Some((_, Misbehaviour::WrongBytes(_)))), "{lie:?}: {named:?}");
    }
}

/// All at once, right after the two have met: none may be lost on the way, since only the next comparison would bring it.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_records_arrives() {
    log();
    let nodes = members(vec![Limits::default(), Limits::default()], TCP).await;
    let records: Vec<Vec<u8>> = (0..200).map(|number| bytes(4000, number)).collect();
    for record in &records {
        nodes[0].net.publish(NETWORK, Topic::Control, record.clone()).await.unwrap();
    }
    until("all came", async || records.iter().all(|record| nodes[1].has_record(record))).await;
}
