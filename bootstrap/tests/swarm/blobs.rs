//! Blobs between nodes: from one and from many, with peers that lie, stall and leave.

use std::time::{Duration, Instant};

use barnraiser_bootstrap::{FetchError, FetchProgress, FetchRequest, Limits, Misbehaviour, Rates, Topic};
use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::transfer::spread::{COPIES_A_PERIOD, PERIOD};
use barnraiser_store::geometry::{unit_count, unit_range};
use barnraiser_store::{Durability, UNIT_BYTES};
use tokio::sync::watch;

use crate::liar::{Liar, Lie};
use crate::rig::{DEADLINE, NETWORK, Node, QUIC, TCP, bytes, log, network, until};

const MIB: usize = 1 << 20;

fn request(hash: BlobHash, providers: &[NodeId]) -> FetchRequest {
    FetchRequest { hash, length: None, providers: providers.to_vec(), network: None, durability: Durability::Cached, limit: 1 << 30 }
}

/// Empty, one group, inline, one unit, several units and a bit; TCP and QUIC.
#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_every_size_are_fetched_from_one_provider() {
    log();
    for listen in [TCP, QUIC] {
        let nodes = network(2, &[listen]).await;
        for (number, length) in [0, 1, 16 << 10, 100_000, 256 << 10, (256 << 10) + 1, MIB, 3 * MIB + 77].into_iter().enumerate() {
            let content = bytes(length, number as u64);
            let hash = nodes[0].add_blob(&content);
            let report = nodes[1].net.fetch(request(hash, &[nodes[0].id()]), None).await.unwrap();
            assert_eq!((report.length, report.already_had), (length as u64, 0));
            assert_eq!(nodes[1].blob(&hash), content);
            let again = nodes[1].net.fetch(request(hash, &[nodes[0].id()]), None).await.unwrap();
            assert_eq!((again.already_had, again.bytes_by_peer.len()), (length as u64, 0));
        }
        let peers = nodes[1].net.peers().await;
        assert!(peers[0].bulk, "large ones came over a connection of their own");
        assert!(nodes[0].net.peers().await.iter().all(|peer| !peer.bulk), "which the provider did not dial");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_three_providers_serves_its_share() {
    log();
    let nodes = network(4, &[TCP]).await;
    for (number, length) in [8 * MIB, 33 * MIB + 5].into_iter().enumerate() {
        let content = bytes(length, number as u64);
        let hash = BlobHash::of(&content);
        for node in &nodes[..3] {
            node.add_blob(&content);
        }
        let providers: Vec<NodeId> = nodes[..3].iter().map(Node::id).collect();
        let start = Instant::now();
        let report = nodes[3].net.fetch(request(hash, &providers), None).await.unwrap();
        println!("{length} bytes in {:?}: {report:?}", start.elapsed());
        assert_eq!(nodes[3].blob(&hash), content);
        assert_eq!(report.bytes_by_peer.values().sum::<u64>(), length as u64);
        for provider in &providers {
            let served = report.bytes_by_peer.get(provider).copied().unwrap_or(0);
            assert!(served * 5 >= length as u64, "{provider:?} served {served} of {length}");
        }
    }
}

/// Its unit is thrown away, it is named and dropped, and the others do its work.
#[tokio::test(flavor = "multi_thread")]
async fn provider_that_lies_is_dropped_and_the_blob_is_right() {
    log();
    let honest = network(3, &[TCP]).await;
    let fetcher = &honest[2];
    for (number, lie) in
        [Lie::FlippedByte, Lie::LongerBlob, Lie::OversizedAnswer, Lie::EndlessData, Lie::OtherRange].into_iter().enumerate()
    {
        let content = bytes(6 * MIB + number, number as u64);
        let hash = honest[0].add_blob(&content);
        honest[1].add_blob(&content);
        let liar = Liar::start(honest[0].store.clone(), lie).await;
        fetcher.net.dial(liar.id, vec![liar.address.clone()]).await.unwrap();
        // The liar is asked first.
        let providers = [liar.id, honest[0].id(), honest[1].id()];
        let report = fetcher.net.fetch(request(hash, &providers), None).await.unwrap();
        assert_eq!(fetcher.blob(&hash), content, "{lie:?}");
        assert_eq!(report.bytes_by_peer.get(&liar.id), None, "{lie:?}: nothing of it counts");
        let seen = fetcher.seen.lock();
        let (_, what) = seen.misbehaved.iter().find(|(node, _)| *node == liar.id).unwrap_or_else(|| panic!("{lie:?} is not named"));
        let expected = match lie {
            Lie::FlippedByte => matches!(what, Misbehaviour::WrongBytes(_)),
            Lie::LongerBlob => matches!(what, Misbehaviour::WrongLength(_) | Misbehaviour::WrongBytes(_) | Misbehaviour::Protocol { .. }),
            _ => matches!(what, Misbehaviour::Protocol { .. }),
        };
        assert!(expected, "{lie:?}: {what:?}");
    }
}

/// Alone, a liar leads to an error that says what it did; with a true statement of the length it is not even asked.
#[tokio::test(flavor = "multi_thread")]
async fn fetch_from_liars_alone_fails_and_says_why() {
    log();
    let nodes = network(2, &[TCP]).await;
    let content = bytes(3 * MIB, 1);
    let hash = nodes[0].add_blob(&content);
    let flips = Liar::start(nodes[0].store.clone(), Lie::FlippedByte).await;
    nodes[1].net.dial(flips.id, vec![flips.address]).await.unwrap();
    let error = nodes[1].net.fetch(request(hash, &[flips.id]), None).await.unwrap_err();
    assert!(error.to_string().contains("wrong bytes"), "{error}");
    let longer = Liar::start(nodes[0].store.clone(), Lie::LongerBlob).await;
    nodes[1].net.dial(longer.id, vec![longer.address]).await.unwrap();
    let known = FetchRequest { length: Some(content.len() as u64), ..request(hash, &[longer.id]) };
    let error = nodes[1].net.fetch(known, None).await.unwrap_err();
    assert!(error.to_string().contains("are wanted"), "{error}");
    let report = nodes[1].net.fetch(request(hash, &[nodes[0].id()]), None).await.unwrap();
    assert_eq!(report.length, content.len() as u64);
}

/// What it had in hand is fetched from others, without waiting for its time limit.
#[tokio::test(flavor = "multi_thread")]
async fn units_of_a_stalled_provider_are_stolen() {
    log();
    let nodes = network(2, &[TCP]).await;
    let content = bytes(8 * MIB, 1);
    let hash = nodes[0].add_blob(&content);
    let staller = Liar::start(nodes[0].store.clone(), Lie::Stall).await;
    nodes[1].net.dial(staller.id, vec![staller.address]).await.unwrap();
    let start = Instant::now();
    let known = FetchRequest { length: Some(content.len() as u64), ..request(hash, &[staller.id, nodes[0].id()]) };
    let report = nodes[1].net.fetch(known, None).await.unwrap();
    assert_eq!(nodes[1].blob(&hash), content);
    assert!(report.stolen >= 1, "{report:?}");
    assert!(start.elapsed() < Limits::default().stall, "after {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn provider_that_only_stalls_is_given_up() {
    log();
    let holder = Node::new(&[TCP]).await;
    let hash = holder.add_blob(&bytes(3 * MIB, 1));
    let limits = Limits { stall: Duration::from_millis(200), ..Limits::default() };
    let fetcher = Node::with_limits(&[TCP], limits).await;
    let staller = Liar::start(holder.store.clone(), Lie::Stall).await;
    fetcher.net.dial(staller.id, vec![staller.address]).await.unwrap();
    let error = fetcher.net.fetch(request(hash, &[staller.id]), None).await.unwrap_err();
    assert!(matches!(error, FetchError::Lost { .. }), "{error}");
    assert!(error.to_string().contains("stalled"), "{error}");
}

/// Counted by what the second attempt fetches.
#[tokio::test(flavor = "multi_thread")]
async fn aborted_fetch_goes_on_where_it_was() {
    log();
    let mut nodes = network(2, &[TCP]).await;
    let content = bytes(24 * MIB, 1);
    let hash = nodes[0].add_blob(&content);
    let provider = nodes[0].id();
    let (progress, mut seen) = watch::channel(FetchProgress::default());
    let net = nodes[1].net.clone();
    let fetch = tokio::spawn(async move { net.fetch(request(hash, &[provider]), Some(progress)).await });
    seen.wait_for(|progress| progress.verified >= 4 * UNIT_BYTES).await.unwrap();
    fetch.abort();
    let _ = fetch.await;
    let fetcher = nodes.pop().unwrap().restart(&[TCP]).await;
    fetcher.join(&nodes[0].net.addresses().await).await;
    fetcher.meets(&[&nodes[0]]).await;
    let report = fetcher.net.fetch(request(hash, &[provider]), None).await.unwrap();
    assert!(report.already_had >= 4 * UNIT_BYTES, "{report:?}");
    assert_eq!(report.bytes_by_peer[&provider], report.length - report.already_had);
    assert_eq!(fetcher.blob(&hash), content);
}

/// What is read along is right and not far behind what has come; and no provider that stands still holds the reader up.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_along_gets_the_first_bytes_first() {
    log();
    let nodes = network(2, &[TCP]).await;
    let content = bytes(64 * MIB + 999, 5);
    let hash = nodes[0].add_blob(&content);
    nodes[1].add_blob(&content);
    let staller = Liar::start(nodes[0].store.clone(), Lie::Stall).await;
    for with_staller in [false, true] {
        let fetcher = Node::new(&[TCP]).await;
        let mut known = nodes[0].net.addresses().await;
        known.extend(nodes[1].net.addresses().await);
        fetcher.join(&known).await;
        fetcher.meets(&[&nodes[0], &nodes[1]]).await;
        let mut providers: Vec<NodeId> = nodes[..2].iter().map(Node::id).collect();
        if with_staller {
            fetcher.net.dial(staller.id, vec![staller.address.clone()]).await.unwrap();
            providers.insert(0, staller.id);
        }
        let (start, (progress, mut seen)) = (Instant::now(), watch::channel(FetchProgress::default()));
        let first_bytes_first = fetcher.net.read_along(hash);
        let net = fetcher.net.clone();
        let wanted = FetchRequest { length: Some(content.len() as u64), ..request(hash, &providers) };
        let fetch = tokio::spawn(async move { net.fetch(wanted, Some(progress)).await });
        let (mut read, mut behind) = (Vec::new(), 0);
        let read_on = |read: &mut Vec<u8>| while fetcher.store.read_on(&hash, read.len() as u64, read).unwrap() > 0 {};
        while seen.changed().await.is_ok() {
            let verified = seen.borrow_and_update().verified;
            read_on(&mut read);
            behind = behind.max(verified.saturating_sub(read.len() as u64));
        }
        fetch.await.unwrap().unwrap();
        read_on(&mut read);
        assert!(read == content);
        if with_staller {
            assert!(start.elapsed() < Limits::default().stall, "it was waited for: {:?}", start.elapsed());
        } else {
            assert!(behind <= 30 * UNIT_BYTES, "the reader was {behind} bytes behind");
        }
        drop(first_bytes_first);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_that_nobody_has_is_said_to_be_so() {
    log();
    let nodes = network(3, &[TCP]).await;
    let hash = BlobHash([1; 32]);
    let error = nodes[0].net.fetch(request(hash, &[nodes[1].id()]), None).await.unwrap_err();
    assert!(matches!(error, FetchError::Nobody { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("nobody has blob") && text.contains(&nodes[1].id().short()), "{text}");
    let searched = FetchRequest { network: Some(NETWORK), ..request(hash, &[]) };
    let start = Instant::now();
    assert!(matches!(nodes[0].net.fetch(searched, None).await, Err(FetchError::Nobody { .. })));
    assert!(start.elapsed() < Duration::from_secs(10));
    let none = nodes[0].net.fetch(request(hash, &[]), None).await.unwrap_err();
    assert!(none.to_string().contains("no provider is known"), "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_refusals_are_respected() {
    log();
    let nodes = network(2, &[TCP]).await;
    let hash = nodes[0].add_blob(&bytes(2 * MIB, 1));
    let limited = FetchRequest { limit: MIB as u64, ..request(hash, &[nodes[0].id()]) };
    let error = nodes[1].net.fetch(limited, None).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLong { length, .. } if length == 2 * MIB as u64), "{error}");
    nodes[0].access.0.lock().unwrap().insert(nodes[1].id());
    let error = nodes[1].net.fetch(request(hash, &[nodes[0].id()]), None).await.unwrap_err();
    assert!(error.to_string().contains("refuses"), "{error}");
}

/// No provider is named: members are asked, and what one of them fetched can be had from it at once.
#[tokio::test(flavor = "multi_thread")]
async fn providers_are_found_among_members_and_through_kademlia() {
    log();
    let nodes = network(3, &[TCP]).await;
    let content = bytes(2 * MIB, 1);
    let hash = nodes[0].add_blob(&content);
    assert_eq!(nodes[2].net.who_has(NETWORK, hash).await, [nodes[0].id()]);
    let searched = || FetchRequest { network: Some(NETWORK), ..request(hash, &[]) };
    nodes[1].net.fetch(searched(), None).await.unwrap();
    let mut holders = nodes[2].net.who_has(NETWORK, hash).await;
    holders.sort_unstable();
    let mut expected = [nodes[0].id(), nodes[1].id()];
    expected.sort_unstable();
    assert_eq!(holders, expected);
    // A stranger to the network finds it by Kademlia alone.
    nodes[0].net.provide(hash).await.unwrap();
    let outsider = Node::new(&[TCP]).await;
    outsider.net.dial(nodes[1].id(), nodes[1].net.addresses().await).await.unwrap();
    until("Kademlia names a holder", async || outsider.net.who_has(NETWORK, hash).await.contains(&nodes[0].id())).await;
    outsider.net.fetch(searched(), None).await.unwrap();
    assert_eq!(outsider.blob(&hash), content);
}

/// Who fetches serves what is verified already: here to a node that knows nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn fetcher_serves_what_it_has_so_far() {
    log();
    let nodes = network(3, &[TCP]).await;
    let content = bytes(12 * MIB, 1);
    let hash = BlobHash::of(&content);
    // What the first fetcher has: the last unit, which proves the length, and every second one.
    let partial = nodes[1].store.partial(&hash, content.len() as u64).unwrap();
    nodes[0].add_blob(&content);
    let hand_over = |unit: u64| {
        let range = unit * UNIT_BYTES..(unit + 1) * UNIT_BYTES;
        let mut encoded = Vec::new();
        nodes[0].store.encode_ranges(&hash, range.clone(), &mut encoded).unwrap();
        partial.write_unit(range, &encoded).unwrap();
    };
    (1..12).step_by(2).for_each(hand_over);
    let (progress, mut seen) = watch::channel(FetchProgress::default());
    let (net, provider) = (nodes[2].net.clone(), nodes[1].id());
    let fetch = tokio::spawn(async move { net.fetch(request(hash, &[provider]), Some(progress)).await });
    seen.wait_for(|progress| progress.verified == 6 * UNIT_BYTES).await.unwrap();
    (0..12).step_by(2).for_each(hand_over);
    let report = tokio::time::timeout(DEADLINE, fetch).await.unwrap().unwrap().unwrap();
    assert_eq!(report.bytes_by_peer[&provider], content.len() as u64);
    assert_eq!(nodes[2].blob(&hash), content);
}

/// Three nodes that all want the same end with it, whoever gave what.
#[tokio::test(flavor = "multi_thread")]
async fn many_fetch_one_blob_at_once() {
    log();
    let nodes = network(4, &[TCP]).await;
    let content = bytes(24 * MIB, 1);
    let hash = nodes[0].add_blob(&content);
    let all: Vec<NodeId> = nodes.iter().map(Node::id).collect();
    let fetches: Vec<_> = nodes[1..]
        .iter()
        .map(|node| {
            let request = FetchRequest { network: Some(NETWORK), ..request(hash, &all) };
            let net = node.net.clone();
            tokio::spawn(async move { net.fetch(request, None).await })
        })
        .collect();
    for fetch in fetches {
        tokio::time::timeout(DEADLINE, fetch).await.unwrap().unwrap().unwrap();
    }
    for node in &nodes[1..] {
        assert_eq!(BlobHash::of(&node.blob(&hash)), hash);
    }
}

/// A volunteer behind a router: nobody can dial it, but it has dialled us, and what it built is wanted.
#[tokio::test(flavor = "multi_thread")]
async fn blob_is_fetched_from_a_node_that_cannot_be_dialled() {
    log();
    let (fetcher, hidden) = (Node::new(&[TCP]).await, Node::new(&[]).await);
    fetcher.join(&[]).await;
    hidden.join(&fetcher.net.addresses().await).await;
    fetcher.meets(&[&hidden]).await;
    let content = bytes(5 * MIB, 1);
    let hash = hidden.add_blob(&content);
    let report = fetcher.net.fetch(request(hash, &[hidden.id()]), None).await.unwrap();
    assert_eq!(report.bytes_by_peer[&hidden.id()], content.len() as u64);
    assert!(!fetcher.net.peers().await[0].bulk);
}

/// Records keep passing at their usual speed while both ends push as much as they can at each other.
#[tokio::test(flavor = "multi_thread")]
async fn records_pass_while_both_ends_push_blobs() {
    log();
    let nodes = network(2, &[TCP]).await;
    let hashes: Vec<BlobHash> = (0..2).map(|n| nodes[n].add_blob(&bytes(64 * MIB, n as u64))).collect();
    let fetch = |to: usize| {
        let (net, request) = (nodes[to].net.clone(), request(hashes[1 - to], &[nodes[1 - to].id()]));
        tokio::spawn(async move { net.fetch(request, None).await })
    };
    let fetches = [fetch(0), fetch(1)];
    let mut passed = Vec::new();
    while !fetches.iter().all(tokio::task::JoinHandle::is_finished) || passed.len() < 5 {
        let record = bytes(500, 1000 + passed.len() as u64);
        let start = Instant::now();
        nodes[0].net.publish(NETWORK, Topic::Control, record.clone()).await.unwrap();
        until("the record came", async || nodes[1].has_record(&record)).await;
        passed.push(start.elapsed());
    }
    for fetch in fetches {
        fetch.await.unwrap().unwrap();
    }
    passed.sort_unstable();
    println!("{} records beside 128 MiB: median {:?}, worst {:?}", passed.len(), passed[passed.len() / 2], passed[passed.len() - 1]);
    assert!(nodes.iter().all(|node| node.seen.lock().misbehaved.is_empty()));
}

/// Two parts of the node want the same blob at the same time: it comes once.
#[tokio::test(flavor = "multi_thread")]
async fn two_fetches_of_one_blob_fetch_it_once() {
    log();
    let nodes = network(2, &[TCP]).await;
    let hash = nodes[0].add_blob(&bytes(4 * MIB, 1));
    let providers = [nodes[0].id()];
    let fetch = || nodes[1].net.fetch(request(hash, &providers), None);
    let (one, two) = tokio::join!(fetch(), fetch());
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.already_had + two.already_had, 4 * MIB as u64);
}

/// As with the graph of a batch: its author serves some and sends the others away, who find it at those.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_rationed_is_given_to_so_many_within_a_minute_and_the_next_one_finds_it_at_them() {
    log();
    let author = Node::new(&[TCP]).await;
    author.join(&[]).await;
    let content = bytes(300 << 10, 1);
    let hash = author.add_blob(&content);
    author.access.1.lock().unwrap().insert(hash);
    let mut known = author.net.addresses().await;
    let mut takers: Vec<Node> = Vec::new();
    for number in 0..=COPIES_A_PERIOD {
        let taker = Node::new(&[TCP]).await;
        taker.join(&known).await;
        taker.meets(&[&author]).await;
        if number == 0 {
            known.extend(taker.net.addresses().await);
        }
        takers.push(taker);
    }
    let begin = Instant::now();
    // Who comes while four others take it is told that it is busy, and comes again.
    for taker in &takers[..COPIES_A_PERIOD] {
        taker.net.fetch(request(hash, &[author.id()]), None).await.unwrap();
    }
    let last = &takers[COPIES_A_PERIOD];
    let refused = last.net.fetch(request(hash, &[author.id()]), None).await;
    assert!(begin.elapsed() < PERIOD, "this machine is too slow to see it: {:?}", begin.elapsed());
    assert!(matches!(&refused, Err(FetchError::Nobody { outcomes, .. }) if outcomes[&author.id()] == "is busy"), "{refused:?}");
    last.meets(&[&takers[0]]).await;
    let report = last.net.fetch(request(hash, &[author.id(), takers[0].id()]), None).await.unwrap();
    assert_eq!(report.bytes_by_peer.into_keys().collect::<Vec<_>>(), [takers[0].id()]);
    assert_eq!(last.blob(&hash), content);
}

/// Somebody who pushes the blob here shares what has come with the fetch, and may be through first.
#[tokio::test(flavor = "multi_thread")]
async fn fetch_ends_when_somebody_else_completes_the_blob() {
    log();
    let slow = Limits { rates: Rates { up: Some(4 << 20), ..Rates::default() }, ..Limits::default() };
    let (provider, fetcher) = (Node::with_limits(&[TCP], slow).await, Node::new(&[TCP]).await);
    fetcher.net.dial(provider.id(), provider.net.addresses().await).await.unwrap();
    let content = bytes(64 * MIB, 7);
    let hash = provider.add_blob(&content);
    let (progress, mut seen) = watch::channel(FetchProgress::default());
    let (net, from) = (fetcher.net.clone(), provider.id());
    let fetch = tokio::spawn(async move { net.fetch(request(hash, &[from]), Some(progress)).await });
    seen.wait_for(|progress| progress.verified >= 2 * UNIT_BYTES).await.unwrap();
    let partial = fetcher.store.partial(&hash, content.len() as u64).unwrap();
    for unit in 0..unit_count(partial.length()) {
        let range = unit_range(unit, partial.length());
        let mut encoded = Vec::new();
        provider.store.encode_ranges(&hash, range.clone(), &mut encoded).unwrap();
        partial.write_unit(range, &encoded).unwrap();
    }
    partial.complete(Durability::Announced).unwrap();
    let report = tokio::time::timeout(DEADLINE, fetch).await.expect("it ends").unwrap().unwrap();
    assert!(report.bytes_by_peer[&from] < report.length / 2, "{report:?}");
    assert_eq!(fetcher.blob(&hash), content);
}
