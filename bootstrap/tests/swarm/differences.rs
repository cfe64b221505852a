//! Blobs as differences to what is here: little is fetched, and nothing wrong is ever kept.

use std::path::PathBuf;

use barnraiser_bootstrap::{Differences, FetchProgress, FetchReport, FetchRequest, SeedChoice};
use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::transfer::chunks::{ChunkKey, ChunkList};
use barnraiser_store::{Durability, Seed};
use tokio::sync::watch;

use crate::liar::{Liar, Lie};
use crate::rig::{Node, TCP, bytes, log, network};

const MIB: usize = 1 << 20;

fn request(hash: BlobHash, providers: &[NodeId]) -> FetchRequest {
    FetchRequest { hash, length: None, providers: providers.to_vec(), network: None, durability: Durability::Cached, limit: 1 << 30 }
}

/// An old blob, and a new one with 5000 bytes changed and 100 inserted in each of 12 MiB.
fn versions() -> (Vec<u8>, Vec<u8>) {
    let old = bytes(12 * MIB, 1);
    let mut new = old.clone();
    for place in (0..12).rev() {
        let at = place * MIB + 400_000;
        new[at..at + 5000].copy_from_slice(&bytes(5000, place as u64 + 2));
        new.splice(at..at, bytes(100, 99));
    }
    (old, new)
}

fn file(name: &str, bytes: &[u8]) -> (PathBuf, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (path, folder)
}

fn given(seed: Seed) -> SeedChoice {
    SeedChoice { given: vec![seed], candidates: Vec::new() }
}

/// What is here is copied, then the rest is fetched; the blob is right in the end.
async fn fetch(node: &Node, request: FetchRequest, seeds: SeedChoice, content: &[u8]) -> (Differences, FetchReport) {
    let differences = node.net.copy_from_seeds(&request, seeds, None).await;
    let hash = request.hash;
    let report = node.net.fetch(request, None).await.unwrap();
    assert!(node.blob(&hash) == content);
    (differences, report)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_differs_from_a_seed_is_fetched() {
    log();
    let nodes = network(4, &[TCP]).await;
    let (old, new) = versions();
    let hash = nodes[0].add_blob(&new);
    let (path, _folder) = file("old", &old);
    let old_blob = nodes[2].add_blob(&old);
    for (node, seeds) in [
        (&nodes[1], given(Seed::File(path.clone()))),
        (&nodes[2], SeedChoice { given: Vec::new(), candidates: vec![Seed::File("/no/file".into()), Seed::Blob(old_blob)] }),
        // Seeds that tell nothing don't hurt.
        (&nodes[3], SeedChoice { given: vec![Seed::File("/".into()), Seed::File(path.clone())], candidates: Vec::new() }),
    ] {
        let (progress, seen) = watch::channel(FetchProgress::default());
        let differences = node.net.copy_from_seeds(&request(hash, &[nodes[0].id()]), seeds, Some(&progress)).await;
        assert_eq!(differences.obstacle, None);
        assert!(node.blob(&hash) == new, "all of it is here without a fetch");
        let fetched: u64 = differences.bytes_by_peer.values().sum();
        assert!(fetched < 250_000 && differences.copied + differences.pieces == new.len() as u64, "{differences:?}");
        assert_eq!(seen.borrow().verified, new.len() as u64);
        let report = node.net.fetch(request(hash, &[nodes[0].id()]), None).await.unwrap();
        assert_eq!(report.already_had, new.len() as u64);
        assert!(node.seen.lock().misbehaved.is_empty());
    }
}

/// Seeds that have nothing of it, blobs that are too short for a list, providers that know no lists, nobody at all: the fetch
/// brings everything.
#[tokio::test(flavor = "multi_thread")]
async fn without_seed_or_list_all_is_fetched() {
    log();
    let nodes = network(2, &[TCP]).await;
    let (old, new) = versions();
    let hash = nodes[0].add_blob(&new);
    let (other, _folder) = file("other", &bytes(3 * MIB, 77));
    for seeds in [SeedChoice::default(), given(Seed::File(other.clone())), given(Seed::File("/no/file".into()))] {
        let differences = nodes[1].net.copy_from_seeds(&request(hash, &[nodes[0].id()]), seeds, None).await;
        assert_eq!(differences.copied, 0);
    }
    let (path, _folder) = file("old", &old);
    let differences = nodes[1].net.copy_from_seeds(&request(hash, &[]), given(Seed::File(path.clone())), None).await;
    assert!(differences.obstacle.unwrap().contains("no provider"));
    let wrong_length = FetchRequest { length: Some(new.len() as u64 + 1), ..request(hash, &[nodes[0].id()]) };
    let differences = nodes[1].net.copy_from_seeds(&wrong_length, given(Seed::File(path.clone())), None).await;
    assert!(differences.copied == 0 && differences.obstacle.unwrap().contains("another length"));
    // It answers as one that knows nothing of lists.
    let old_fashioned = Liar::start(nodes[0].store.clone(), Lie::FlippedByte).await;
    nodes[1].net.dial(old_fashioned.id, vec![old_fashioned.address.clone()]).await.unwrap();
    let differences = nodes[1].net.copy_from_seeds(&request(hash, &[old_fashioned.id]), given(Seed::File(path.clone())), None).await;
    assert!(differences.copied == 0 && differences.obstacle.is_some());
    let (_, report) = fetch(&nodes[1], request(hash, &[nodes[0].id()]), SeedChoice::default(), &new).await;
    assert_eq!(report.bytes_by_peer[&nodes[0].id()], new.len() as u64);
    let short = nodes[0].add_blob(&old[..MIB]);
    let (differences, report) = fetch(&nodes[1], request(short, &[nodes[0].id()]), given(Seed::File(path)), &old[..MIB]).await;
    assert!(differences.copied == 0 && report.already_had == 0);
}

/// Lists of another blob, no lists at all, lists with true unit hashes and wrong chunks, and wrong pieces: what is not right
/// is refused, a few times at most, and fetched.
#[tokio::test(flavor = "multi_thread")]
async fn lying_lists_and_pieces_do_no_harm() {
    log();
    let (old, new) = versions();
    let (path, _folder) = file("old", &old);
    let provider = Node::new(&[TCP]).await;
    let hash = provider.add_blob(&new);
    let (list, _) = provider.store.chunk_list(&hash).unwrap().unwrap();
    let true_list = ChunkList::from_bytes(&provider.blob(&list)).unwrap();
    let mut chunks: Vec<(u32, ChunkKey)> = true_list.chunks().iter().map(|chunk| (chunk.length, chunk.key)).collect();
    let last = chunks.len() - 1;
    chunks[..last].reverse();
    let blocks = true_list.blocks_in(&(0..true_list.length())).map(|block| block.key).collect();
    let reversed = ChunkList::new(true_list.length(), true_list.units().to_vec(), blocks, chunks).unwrap();
    let other = provider.add_blob(&old);
    let (of_other, _) = provider.store.chunk_list(&other).unwrap().unwrap();
    let garbage = provider.add_blob(&bytes(5000, 3));
    let lies = [
        (Lie::List(provider.add_blob(&reversed.to_bytes())), "not right"),
        (Lie::List(of_other), "another blob"),
        (Lie::List(garbage), "is none"),
        (Lie::List(provider.add_blob(&bytes((16 << 20) + 1, 4))), "too long"),
        (Lie::Pieces, "not right"),
    ];
    for (lie, reason) in lies {
        let fetcher = Node::new(&[TCP]).await;
        let liar = Liar::start(provider.store.clone(), lie).await;
        fetcher.net.dial(liar.id, vec![liar.address.clone()]).await.unwrap();
        fetcher.net.dial(provider.id(), provider.net.addresses().await).await.unwrap();
        let differences = fetcher.net.copy_from_seeds(&request(hash, &[liar.id]), given(Seed::File(path.clone())), None).await;
        let obstacle = differences.obstacle.clone().unwrap();
        assert!(obstacle.contains(reason), "{lie:?}: {obstacle}");
        let (_, report) = fetch(&fetcher, request(hash, &[provider.id()]), SeedChoice::default(), &new).await;
        assert!(report.already_had <= new.len() as u64);
    }
}

/// A provider that is lost in the middle, or a fetcher: what was put together is there, and the next attempt goes on.
#[tokio::test(flavor = "multi_thread")]
async fn differences_go_on_where_they_were_cut_off() {
    log();
    let nodes = network(2, &[TCP]).await;
    let (old, new) = versions();
    let hash = nodes[0].add_blob(&new);
    let (path, _folder) = file("old", &old);
    // One seed has the first half only, and is all that there is at first.
    let (half, _half_folder) = file("half", &old[..6 * MIB]);
    let providers = [nodes[0].id()];
    let first = nodes[1].net.copy_from_seeds(&request(hash, &providers), given(Seed::File(half)), None).await;
    assert!(first.copied > 5 * MIB as u64 && first.copied < 6 * MIB as u64, "{first:?}");
    drop(first);
    let second = nodes[1].net.copy_from_seeds(&request(hash, &providers), given(Seed::File(path)), None).await;
    assert!(second.copied > 5 * MIB as u64 && second.copied < 7 * MIB as u64, "{second:?}");
    let fetched: u64 = second.bytes_by_peer.values().sum();
    assert_eq!(fetched, second.pieces, "the chunk list is here from the first time");
    assert!(nodes[1].blob(&hash) == new);
}
