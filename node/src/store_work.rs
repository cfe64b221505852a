//! What `barn store` does to an open store. The node does it for its API, and the command itself where no node runs: there
//! is one meaning of each word, whoever has the store's lock.
//!
//! All calls block. They tell how far they are through `tell`, which may end them by [`ControlFlow::Break`].

mod words;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use barnraiser_protocol::id::BlobHash;
use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::tree::Tree;
use barnraiser_store::{BlobInfo, Collecting, Durability, LayOut, Pin, Store};

use crate::api::{BlobCount, Problem, StoreAsk, StoreDone, StoreEvent, StoreStats, StoredBlob};
use words::{damaged, export, fault, import, lay_out, read};

/// How often progress is told.
pub const TELL_EVERY: Duration = Duration::from_millis(100);
/// What the names of pins that people make begin with. The node's own begin otherwise.
const PIN_PREFIX: &str = "yours/";

/// Is told what happens, and may end it.
pub type Tell<'a> = &'a mut dyn FnMut(StoreEvent) -> ControlFlow<()>;

/// Does what is asked. [`StoreDone`] is given back and not told.
///
/// # Errors
/// [`Problem`], with the exit code that it has.
pub fn run(store: &Store, ask: &StoreAsk, tell: Tell<'_>) -> Result<StoreDone, Problem> {
    match ask {
        StoreAsk::Add { path } => add(store, path, tell),
        StoreAsk::Get { hash, to, tree } => get(store, hash, to, *tree, tell),
        StoreAsk::Ls { beginning } => list(store, beginning, tell),
        StoreAsk::Pin { hash, tree } => pin(store, hash, *tree),
        StoreAsk::Unpin { hash, tree, release } => unpin(store, hash, *tree, *release),
        StoreAsk::Gc { quota } => collect(store, *quota, tell),
        StoreAsk::Scrub => scrub(store, tell),
        StoreAsk::Stats => stats(store).map(StoreDone::Stats),
    }
}

/// Takes in all that `reader` gives, as one blob that is kept.
///
/// # Errors
/// [`Problem`]; then nothing of it stays.
pub fn add_reader(store: &Store, reader: impl Read, tell: Tell<'_>) -> Result<StoreDone, Problem> {
    let mut seen = Seen::new(None, tell);
    let (hash, length) = store.import_reader(Watched { reader, seen: &mut seen }, Durability::Announced).map_err(import)?;
    Ok(StoreDone::Added { hash, length, entries: None })
}

/// The blob whose hash is `text`, or begins so.
///
/// # Errors
/// [`Problem`]: no such blob, several, or no hash at all. A blob that is damaged is a failed verification.
pub fn find(store: &Store, text: &str) -> Result<BlobInfo, Problem> {
    let info = find_any(store, text)?;
    if info.damaged { Err(damaged(&info.hash)) } else { Ok(info) }
}

fn find_any(store: &Store, text: &str) -> Result<BlobInfo, Problem> {
    let absent = || Problem::not_found(format!("no blob {text:?} is in the store; `barn fetch HASH` fetches one from the swarm"));
    let mut found = beginning(store, text)?;
    let first = found.next().ok_or_else(absent)?.map_err(fault)?;
    match found.next() {
        None => Ok(first),
        Some(_) => Err(Problem::usage(format!("{text:?} fits several blobs; give more digits"))),
    }
}

/// All blobs whose hash begins with the digits `text`.
fn beginning<'a>(
    store: &'a Store,
    text: &str,
) -> Result<impl Iterator<Item = Result<BlobInfo, barnraiser_store::Fault>> + use<'a>, Problem> {
    let text = text.to_ascii_lowercase();
    if text.len() > 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Problem::usage(format!("{text:?} is no hash: 64 hexadecimal digits are wanted, or as many as tell it from others")));
    }
    // Whole bytes are looked up; the digit that may be left over is compared.
    let whole: Vec<u8> =
        text.as_bytes().chunks_exact(2).filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
    let fits = move |info: &BlobInfo| info.hash.to_string().starts_with(&text);
    Ok(store.infos(&whole).filter(move |item| item.as_ref().map_or(true, &fits)))
}

/// Tells progress now and then, and remembers that nobody listens any more.
struct Seen<'a, 'b> {
    done: u64,
    length: Option<u64>,
    told: Option<Instant>,
    tell: &'a mut (dyn FnMut(StoreEvent) -> ControlFlow<()> + 'b),
}

impl<'a, 'b> Seen<'a, 'b> {
    fn new(length: Option<u64>, tell: &'a mut (dyn FnMut(StoreEvent) -> ControlFlow<()> + 'b)) -> Self {
        Self { done: 0, length, told: None, tell }
    }

    fn more(&mut self, count: u64) -> ControlFlow<()> {
        self.done += count;
        if self.told.is_some_and(|told| told.elapsed() < TELL_EVERY) {
            return ControlFlow::Continue(());
        }
        self.told = Some(Instant::now());
        (self.tell)(StoreEvent::Progress { done: self.done, length: self.length })
    }
}

struct Watched<'a, 'b, 'c, R> {
    reader: R,
    seen: &'a mut Seen<'b, 'c>,
}

impl<R: Read> Read for Watched<'_, '_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        match self.seen.more(count as u64) {
            ControlFlow::Continue(()) => Ok(count),
            ControlFlow::Break(()) => Err(io::Error::other("it was called off")),
        }
    }
}

fn add(store: &Store, path: &Path, tell: Tell<'_>) -> Result<StoreDone, Problem> {
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Problem::not_found(format!("{}: there is no such file or folder", path.display())),
        _ => Problem::usage(format!("{} can't be read: {error}", path.display())),
    })?;
    if metadata.is_dir() {
        let mut seen = Seen::new(None, tell);
        let (hash, tree) = store.import_tree_watched(path, Durability::Announced, &mut |count| seen.more(count)).map_err(import)?;
        return Ok(StoreDone::Added { hash, length: tree_bytes(&tree), entries: Some(tree.len()) });
    }
    if !metadata.is_file() {
        let text = format!("{} is neither a file nor a folder; what comes from a pipe is taken with `barn store add -`", path.display());
        return Err(Problem::usage(text));
    }
    let mut seen = Seen::new(Some(metadata.len()), tell);
    let imported = store.import_file_watched(path, Durability::Announced, &mut |count| seen.more(count));
    let (hash, length) = imported.map_err(import)?;
    Ok(StoreDone::Added { hash, length, entries: None })
}

/// Bytes of all files of a tree, each path counted.
fn tree_bytes(tree: &Tree) -> u64 {
    let files = tree.entries().filter_map(|(_, entry)| match entry {
        barnraiser_protocol::tree::Entry::File { length, .. } => Some(*length),
        _ => None,
    });
    files.fold(0, u64::saturating_add)
}

fn get(store: &Store, hash: &str, to: &Path, tree: bool, tell: Tell<'_>) -> Result<StoreDone, Problem> {
    let BlobInfo { hash, length, .. } = find(store, hash)?;
    if tree {
        let manifest = store.tree(&hash).map_err(lay_out)?;
        let entries = store.lay_out(&hash, to, &LayOut::default()).map_err(lay_out)?;
        return Ok(StoreDone::Written { hash, to: to.to_owned(), length: tree_bytes(&manifest), entries: Some(entries) });
    }
    let mut seen = Seen::new(Some(length), tell);
    let length = store.export_watched(&hash, to, &mut |count| seen.more(count)).map_err(|error| export(to, error))?;
    Ok(StoreDone::Written { hash, to: to.to_owned(), length, entries: None })
}

/// Blob → the names of the pins that keep it.
fn pins(store: &Store) -> Result<BTreeMap<BlobHash, Vec<String>>, Problem> {
    let mut kept: BTreeMap<BlobHash, Vec<String>> = BTreeMap::new();
    for (name, pin) in store.pins().map_err(fault)? {
        let mut blobs = vec![*pin.hash()];
        if let Pin::Tree(hash) = pin
            // What is no tree, or not here yet, keeps nothing but itself.
            && let Ok(tree) = store.tree(&hash)
        {
            blobs.extend(tree.blobs().map(|(hash, _)| hash));
        }
        for blob in blobs {
            kept.entry(blob).or_default().push(name.clone());
        }
    }
    Ok(kept)
}

fn shown(info: &BlobInfo, pins: &BTreeMap<BlobHash, Vec<String>>) -> StoredBlob {
    StoredBlob {
        hash: info.hash,
        length: info.length,
        class: if info.durability == Durability::Announced { "announced" } else { "cached" }.into(),
        damaged: info.damaged,
        pins: pins.get(&info.hash).cloned().unwrap_or_default(),
        last_used: Timestamp(info.last_used_s.saturating_mul(1000)),
    }
}

fn list(store: &Store, text: &str, tell: Tell<'_>) -> Result<StoreDone, Problem> {
    let pins = pins(store)?;
    let mut listed = BlobCount::default();
    for info in beginning(store, text)? {
        let info = info.map_err(fault)?;
        count(&mut listed, info.length);
        if tell(StoreEvent::Blob(shown(&info, &pins))).is_break() {
            break;
        }
    }
    Ok(StoreDone::Listed { blobs: listed.blobs, bytes: listed.bytes })
}

fn count(counted: &mut BlobCount, length: u64) {
    counted.blobs += 1;
    counted.bytes = counted.bytes.saturating_add(length);
}

fn pin(store: &Store, hash: &str, tree: bool) -> Result<StoreDone, Problem> {
    let hash = find(store, hash)?.hash;
    let name = format!("{PIN_PREFIX}{hash}");
    if tree {
        // What is no tree would keep nothing, and nobody would know.
        store.tree(&hash).map_err(lay_out)?;
        store.pin_tree(&name, &hash).map_err(fault)?;
    } else {
        store.pin(&name, &hash).map_err(fault)?;
    }
    Ok(StoreDone::Pinned { hash, tree })
}

fn unpin(store: &Store, text: &str, tree: bool, release: bool) -> Result<StoreDone, Problem> {
    // A pin outlives what it keeps, if that is damaged and given up: it goes by its own name.
    let yours = format!("{PIN_PREFIX}{}", text.to_ascii_lowercase());
    let pinned = store.pins().map_err(fault)?;
    let fits: Vec<&(String, Pin)> = pinned.iter().filter(|(name, _)| !text.is_empty() && name.starts_with(&yours)).collect();
    let (hash, was_tree) = match fits[..] {
        [(_, Pin::Blob(hash))] => (*hash, false),
        [(_, Pin::Tree(hash))] => (*hash, true),
        [] => (find_any(store, text)?.hash, false),
        _ => return Err(Problem::usage(format!("{text:?} fits several pins; give more digits"))),
    };
    let found = store.unpin(&format!("{PIN_PREFIX}{hash}")).map_err(fault)?;
    let pins = pins(store)?.remove(&hash).unwrap_or_default();
    if !found && !release {
        let by = if pins.is_empty() { String::new() } else { format!("; the node itself keeps it: {}", pins.join(", ")) };
        return Err(Problem::not_found(format!("{hash} is not pinned by you{by}")));
    }
    let mut released = 0;
    if release {
        let mut blobs = vec![hash];
        if tree || was_tree {
            blobs.extend(store.tree(&hash).map_err(lay_out)?.blobs().map(|(hash, _)| hash));
        }
        for blob in blobs {
            let announced = store.info(&blob).map_err(fault)?.is_some_and(|info| info.durability == Durability::Announced);
            released += u64::from(announced && store.release(&blob).map_err(fault)?);
        }
    }
    Ok(StoreDone::Unpinned { hash, released, pins })
}

fn collect(store: &Store, quota: Option<u64>, tell: Tell<'_>) -> Result<StoreDone, Problem> {
    let mut seen = Seen::new(None, tell);
    let collected = store.gc_watched(quota.unwrap_or(u64::MAX), &mut |at| {
        if let Collecting::Evicting { done, goal } = at {
            (seen.done, seen.length) = (done, Some(goal));
        }
        seen.more(0)
    });
    let collected = collected.map_err(fault)?;
    Ok(StoreDone::Collected {
        blobs: collected.blobs,
        bytes: collected.bytes,
        orphans: collected.orphans,
        partials: collected.partials,
        left: store.stats().map_err(fault)?.bytes,
        free: store.free_bytes().map_err(fault)?,
    })
}

fn scrub(store: &Store, tell: Tell<'_>) -> Result<StoreDone, Problem> {
    let mut seen = Seen::new(Some(store.stats().map_err(fault)?.bytes), &mut *tell);
    let scrubbed = store.scrub(&mut |count| seen.more(count)).map_err(fault)?;
    // Those too that were found before, by whoever read them.
    let (mut damaged, pins) = (Vec::new(), pins(store)?);
    for info in store.infos(b"") {
        let info = info.map_err(fault)?;
        if info.damaged {
            damaged.push(info.hash);
            // Who does not listen any more is not told; what was found stays in quarantine.
            let _ = tell(StoreEvent::Damaged(shown(&info, &pins)));
        }
    }
    Ok(StoreDone::Scrubbed { blobs: scrubbed.blobs, bytes: scrubbed.bytes, damaged, mended: 0, recovered: scrubbed.recovered })
}

fn stats(store: &Store) -> Result<StoreStats, Problem> {
    let pins = pins(store)?;
    let mut stats = StoreStats {
        folder: store.root().to_owned(),
        announced: BlobCount::default(),
        cached: BlobCount::default(),
        pinned: BlobCount::default(),
        damaged: BlobCount::default(),
        fetches: BlobCount::default(),
        pins: store.pins().map_err(fault)?.len() as u64,
        database: store.database_bytes().map_err(fault)?,
        free: store.free_bytes().map_err(fault)?,
        quota: store.quota_bytes().map_err(fault)?,
        pushed: crate::pushes::summary(store).map_err(fault)?,
    };
    for info in store.infos(b"") {
        let info = info.map_err(fault)?;
        let kind = match (info.damaged, info.durability) {
            (true, _) => &mut stats.damaged,
            (false, Durability::Announced) => &mut stats.announced,
            (false, Durability::Cached) => &mut stats.cached,
        };
        count(kind, info.length);
        if !info.damaged && info.durability == Durability::Cached && pins.contains_key(&info.hash) {
            count(&mut stats.pinned, info.length);
        }
    }
    for (_, length) in store.partials_begun().map_err(fault)? {
        count(&mut stats.fetches, length);
    }
    Ok(stats)
}

/// Writes the bytes of a blob, proven piece by piece.
///
/// # Errors
/// [`Problem`]; what was written before is right, but not all.
pub fn write(store: &Store, hash: &BlobHash, to: &mut impl io::Write) -> Result<u64, Problem> {
    store.read_verified(hash, to).map_err(read)
}

#[cfg(test)]
mod tests;
