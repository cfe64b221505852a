//! What a user has already of what is being fetched: files that are named, earlier versions, and blobs like it.

use std::cmp::Reverse;
use std::path::Path;

use barnraiser_bootstrap::{Differences, FetchProgress, FetchRequest, SeedChoice};
use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::transfer::chunks::{CHUNKED_BYTES_MAX, has_list};
use barnraiser_store::{Durability, Fault, Seed, Store};
use tokio::sync::watch;

use super::Daemon;
use super::artefacts::BLOB_BYTES_MAX;
use super::networks::Network;
use crate::api::{self, Problem};

/// As many blobs of the store are looked at, those of the likeliest lengths first. A look reads some 2 MiB.
const CANDIDATES_MAX: usize = 16;
/// A blob that is so many times as long or as short is another thing.
const LENGTH_RATIO_MAX: u64 = 4;

/// Under which key it is remembered what was fetched last of a channel's file.
fn last_key(network: &Network, what: &str) -> Vec<u8> {
    [b"fetched/", network.id.as_bytes().as_slice(), b"/", what.as_bytes()].concat()
}

/// The blob that was fetched last of a channel's file.
fn last(store: &Store, key: &[u8]) -> Result<Option<BlobHash>, Fault> {
    let found = store.meta_get(key)?;
    Ok(found.and_then(|hash| Some(BlobHash(hash.try_into().ok()?))))
}

/// Blobs that are about as long as what is fetched: an earlier version has another hash and a length like it. Where the length
/// is not known, the longest: those are worth most.
fn alike(store: &Store, hash: &BlobHash, length: Option<u64>) -> Result<Vec<BlobHash>, Fault> {
    let (wanted, ratio) = length.map_or((CHUNKED_BYTES_MAX, u64::MAX), |length| (length, LENGTH_RATIO_MAX));
    let mut found = Vec::new();
    for item in store.blobs() {
        let (other, other_length) = item?;
        let is_alike = other_length.saturating_mul(ratio) >= wanted && other_length <= wanted.saturating_mul(ratio);
        if is_alike && has_list(other_length) && other != *hash {
            found.push((other_length.abs_diff(wanted), other));
            // What is known to be further off than as many others goes, so that a large store takes no memory.
            if found.len() >= 4 * CANDIDATES_MAX {
                found.sort_unstable();
                found.truncate(CANDIDATES_MAX);
            }
        }
    }
    found.sort_unstable_by_key(|(off, other)| (*off, Reverse(*other)));
    Ok(found.into_iter().take(CANDIDATES_MAX).map(|(_, other)| other).collect())
}

impl Daemon {
    /// Copies what is here of what is to be fetched. Never an error of the fetch, but where the user named a seed that can't be
    /// read.
    pub(super) async fn copy_what_is_here(
        &self,
        network: &Network,
        ask: &api::Fetch,
        hash: BlobHash,
        length: Option<u64>,
        likely: &[NodeId],
        progress: &watch::Sender<FetchProgress>,
    ) -> Result<Differences, Problem> {
        if let Some(seed) = &ask.seed {
            let readable = std::fs::File::open(seed).and_then(|file| file.metadata());
            match readable {
                Ok(metadata) if metadata.is_file() => {}
                Ok(_) => return Err(Problem::usage(format!("the seed {} is not a file", seed.display()))),
                Err(error) => return Err(Problem::usage(format!("the seed {} can't be read: {error}", seed.display()))),
            }
        }
        let (store, asked) = (self.store.clone(), ask.clone());
        let key = last_key(network, &ask.what);
        let choice = tokio::task::spawn_blocking(move || choose(&store, &asked, last(&store, &key)?, &hash, length)).await;
        let seeds = match choice {
            Ok(Ok(seeds)) => seeds,
            Ok(Err(error)) => {
                tracing::warn!(%error, "what is here can't be compared with what is fetched");
                return Ok(Differences::default());
            }
            Err(error) => return Err(Problem::failed(error.to_string())),
        };
        if seeds.given.is_empty() && seeds.candidates.is_empty() {
            return Ok(Differences::default());
        }
        let mut providers = likely.to_vec();
        for node in self.net.who_has(network.id, hash).await {
            if !providers.contains(&node) {
                providers.push(node);
            }
        }
        let request =
            FetchRequest { hash, length, providers, network: Some(network.id), durability: Durability::Cached, limit: BLOB_BYTES_MAX };
        Ok(self.net.copy_from_seeds(&request, seeds, Some(progress)).await)
    }

    /// Remembers what was fetched by name, for the next version.
    pub(super) fn remember_fetched(&self, network: &Network, what: &str, hash: &BlobHash) {
        if what.parse::<BlobHash>().is_ok() {
            return;
        }
        if let Err(error) = self.store.meta_put(&last_key(network, what), hash.as_bytes(), false) {
            tracing::warn!(%error, "what was fetched can't be remembered for the next version");
        }
    }
}

/// What to compare with: what the user names; else the file that will be replaced, what was fetched of it before, and
/// blobs of a like length.
fn choose(store: &Store, ask: &api::Fetch, earlier: Option<BlobHash>, hash: &BlobHash, length: Option<u64>) -> Result<SeedChoice, Fault> {
    let mut choice = SeedChoice::default();
    if store.contains(hash)? || length.is_some_and(|length| !has_list(length)) {
        return Ok(choice);
    }
    choice.given.extend(ask.seed.clone().map(Seed::File));
    if choice.given.is_empty() {
        let replaced = ask.to.as_deref().filter(|to| is_long_file(to));
        choice.candidates.extend(replaced.map(|to| Seed::File(to.to_owned())));
        if let Some(earlier) = earlier.filter(|earlier| earlier != hash)
            && store.contains(&earlier)?
        {
            choice.candidates.push(Seed::Blob(earlier));
        }
        let found = alike(store, hash, length)?.into_iter().filter(|other| Some(*other) != earlier);
        choice.candidates.extend(found.map(Seed::Blob));
    }
    Ok(choice)
}

fn is_long_file(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && has_list(metadata.len()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MIB: usize = 1 << 20;

    /// Noise that no two seeds share.
    fn bytes(seed: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn seeds_are_what_is_named_or_what_is_like_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let take = |seed, length| store.import_bytes(&bytes(seed, length), Durability::Cached).unwrap();
        let (near, nearer, _, _) = (take(1, 3 * MIB), take(2, 4 * MIB + 5), take(3, 100), take(4, MIB));
        let earlier = take(5, 5 * MIB);
        let new = BlobHash([7; 32]);
        let ask = |seed: Option<&Path>, to: Option<&Path>| api::Fetch {
            what: "stable/a.img".into(),
            to: to.map(Path::to_owned),
            seed: seed.map(Path::to_owned),
            along: false,
        };
        let length = Some(4 * MIB as u64);
        let choice = choose(&store, &ask(None, None), Some(earlier), &new, length).unwrap();
        assert!(choice.given.is_empty());
        assert_eq!(choice.candidates, [earlier, nearer, near].map(Seed::Blob));
        let old = folder.path().join("old.img");
        std::fs::write(&old, bytes(6, 2 * MIB)).unwrap();
        let choice = choose(&store, &ask(None, Some(&old)), None, &new, None).unwrap();
        assert_eq!(choice.candidates[0], Seed::File(old.clone()));
        assert_eq!(choice.candidates[1..], [earlier, nearer, near].map(Seed::Blob));
        let choice = choose(&store, &ask(Some(&old), None), Some(earlier), &new, length).unwrap();
        assert_eq!((choice.given, choice.candidates), (vec![Seed::File(old)], vec![]));
        // What is here, or too short to be compared, needs no seed.
        for (hash, length) in [(near, Some(3 * MIB as u64)), (new, Some(100))] {
            let choice = choose(&store, &ask(None, None), Some(earlier), &hash, length).unwrap();
            assert!(choice.candidates.is_empty());
        }
        // Far more blobs than are looked at.
        for seed in 10..90 {
            take(seed, 2 * MIB + usize::from(seed));
        }
        assert_eq!(alike(&store, &new, Some(2 * MIB as u64 + 10)).unwrap()[0], BlobHash::of(&bytes(10, 2 * MIB + 10)));
        assert_eq!(alike(&store, &new, Some(2 * MIB as u64 + 10)).unwrap().len(), CANDIDATES_MAX);
    }
}
