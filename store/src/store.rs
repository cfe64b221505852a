//! The store itself: its folder, its lock, and what it knows of each blob.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use barnraiser_protocol::codec;
use barnraiser_protocol::id::BlobHash;
use rocksdb::WriteBatch;

use crate::disk::{Disk, RealDisk};
use crate::error::{Fault, OpenError};
use crate::metadata::{BlobEntry, Family, Metadata, State, Sync, decode};
use crate::partial::PartialState;
use crate::quota::Room;

/// The layout that this program writes.
const VERSION: u32 = 2;
/// The oldest version that reads as it is: 2 has one more class of blobs, which programs for 1 would stumble over.
const VERSION_MIN: u32 = 1;
/// Bytes of the disk that are never used up: a database that can't write its log is harder to mend than a refused blob.
const RESERVE_BYTES: u64 = 32 << 20;
/// How stale the time of last use may be, so that reading a blob does not mean a write each time.
const LAST_USED_STEP_S: u64 = 3600;
/// Blobs of which it is remembered that this process fetched them: who fetches without a node fetches a few.
const FETCHED_REMEMBERED: usize = 16;

/// Blobs by hash, and the metadata beside them. Cheap to clone; all calls block.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    metadata: Metadata,
    reserve_bytes: u64,
    /// One lock for the blobs of each first byte: what changes a blob's entry and its files does so under it.
    stripes: Vec<Mutex<()>>,
    /// Known once somebody has asked; counting again at each start would make that slow.
    stats: Mutex<Option<Stats>>,
    partials: Mutex<HashMap<BlobHash, Weak<PartialState>>>,
    /// How often pins have changed: a collection that read them before must not act on what it read.
    pins_changed: RwLock<u64>,
    room: Mutex<Room>,
    /// How often each blob is held against eviction.
    held: Mutex<HashMap<BlobHash, usize>>,
    staged: AtomicU64,
    /// Blobs that this process has fetched, and so proven byte by byte before it wrote them: the latest ones.
    fetched: Mutex<VecDeque<BlobHash>>,
    /// Held as long as the store is open; closing it ends the lock.
    _lock: fs::File,
}

/// How much is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Number of blobs.
    pub blobs: u64,
    /// Sum of their lengths, without hash trees and metadata.
    pub bytes: u64,
}

/// How long something lasts, and what that costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It survives a power loss when the call returns, and may be announced then. Never evicted.
    Announced,
    /// It survives the end of this process, and a power loss only some time later; it can be fetched again. May be
    /// evicted.
    Cached,
}

/// How to open a store, where the defaults won't do.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The file system that blobs are kept in.
    pub disk: Arc<dyn Disk>,
    /// Bytes of the disk that imports and fetches leave free.
    pub reserve_bytes: u64,
    /// Keep unsynced metadata in this process's memory instead of the operating system's. A copy of the folder is then
    /// what a power loss would leave; tests that lose power use it. Much that is only cached is lost when the process ends.
    pub hold_unsynced_metadata: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { disk: Arc::new(RealDisk), reserve_bytes: RESERVE_BYTES, hold_unsynced_metadata: false }
    }
}

impl Store {
    /// Opens the store in `root`, or makes one there.
    ///
    /// # Errors
    /// [`OpenError`]: another process has it, a newer program wrote it, it is damaged, or this machine can't.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        Self::open_with(root, StoreOptions::default())
    }

    /// As [`Store::open`], with options.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(root: &Path, options: StoreOptions) -> Result<Self, OpenError> {
        let StoreOptions { disk, reserve_bytes, hold_unsynced_metadata } = options;
        fs::create_dir_all(root).map_err(|source| Fault::io("make the folder", root, 4096, source))?;
        let lock = lock(root)?;
        let fresh = check_version(root)?;
        if fresh {
            make_folders(&*disk, root)?;
        }
        let metadata = Metadata::open(root, &root.join("db"), hold_unsynced_metadata)?;
        if fresh {
            // Last of all, so that a start which was cut short is simply done again.
            write_version(root)?;
        }
        let inner = Inner {
            root: root.to_owned(),
            disk,
            metadata,
            reserve_bytes,
            stripes: (0..=u8::MAX).map(|_| Mutex::new(())).collect(),
            stats: Mutex::new(None),
            partials: Mutex::new(HashMap::new()),
            pins_changed: RwLock::new(0),
            room: Mutex::default(),
            held: Mutex::default(),
            staged: AtomicU64::new(0),
            fetched: Mutex::default(),
            _lock: lock,
        };
        let store = Self { inner: Arc::new(inner) };
        store.clear_staged()?;
        Ok(store)
    }

    /// The folder that the store is in.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Whether the whole blob is here and not known to be damaged.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn contains(&self, hash: &BlobHash) -> Result<bool, Fault> {
        Ok(self.good_entry(hash)?.is_some())
    }

    /// The length in bytes of a blob that is here.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn length(&self, hash: &BlobHash) -> Result<Option<u64>, Fault> {
        Ok(self.good_entry(hash)?.map(|entry| entry.length))
    }

    /// How many blobs there are and how long. The first call reads the whole list.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn stats(&self) -> Result<Stats, Fault> {
        if let Some(stats) = *self.inner.stats.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(stats);
        }
        // Under all stripes nothing changes between counting and remembering.
        let _stripes = self.all_stripes();
        let mut known = self.inner.stats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stats) = *known {
            return Ok(stats);
        }
        let mut stats = Stats::default();
        for item in self.metadata().prefixed(Family::Blobs, b"") {
            let entry: BlobEntry = decode(Family::Blobs, &item?.1)?;
            if entry.state == State::Good {
                stats.blobs += 1;
                stats.bytes += entry.length;
            }
        }
        *known = Some(stats);
        Ok(stats)
    }

    /// All good blobs with their lengths, in the order of hashes. Read as the iterator goes on.
    pub fn blobs(&self) -> impl Iterator<Item = Result<(BlobHash, u64), Fault>> + use<'_> {
        self.entries().filter_map(|item| match item {
            Ok((hash, entry)) => (entry.state == State::Good).then_some(Ok((hash, entry.length))),
            Err(fault) => Some(Err(fault)),
        })
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = Result<(BlobHash, BlobEntry), Fault>> + use<'_> {
        self.entries_from(b"")
    }

    /// The entries of the hashes that begin with these bytes.
    pub(crate) fn entries_from(&self, beginning: &[u8]) -> impl Iterator<Item = Result<(BlobHash, BlobEntry), Fault>> + use<'_> {
        self.metadata().prefixed(Family::Blobs, beginning).map(|item| {
            let (key, value) = item?;
            let wrong = |_| Fault::Entry { family: Family::Blobs.name(), message: format!("a key of {} bytes", key.len()) };
            Ok((BlobHash(<[u8; 32]>::try_from(&*key).map_err(wrong)?), decode(Family::Blobs, &value)?))
        })
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.inner.metadata
    }

    pub(crate) fn pins_changed(&self) -> &RwLock<u64> {
        &self.inner.pins_changed
    }

    pub(crate) fn room(&self) -> MutexGuard<'_, Room> {
        // Whole after each call. Likewise below.
        self.inner.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn held(&self) -> MutexGuard<'_, HashMap<BlobHash, usize>> {
        self.inner.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn reserve_bytes(&self) -> u64 {
        self.inner.reserve_bytes
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.inner.disk
    }

    pub(crate) fn partials(&self) -> MutexGuard<'_, HashMap<BlobHash, Weak<PartialState>>> {
        self.inner.partials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock under which a blob's entry and files are changed.
    pub(crate) fn stripe(&self, hash: &BlobHash) -> MutexGuard<'_, ()> {
        // The lock guards no data of its own, so a holder that panicked left nothing broken in it.
        self.inner.stripes[usize::from(hash.0[0])].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them, always in the same order, so that nobody waits for anybody in a ring.
    pub(crate) fn all_stripes(&self) -> Vec<MutexGuard<'_, ()>> {
        self.inner.stripes.iter().map(|stripe| stripe.lock().unwrap_or_else(PoisonError::into_inner)).collect()
    }

    pub(crate) fn entry(&self, hash: &BlobHash) -> Result<Option<BlobEntry>, Fault> {
        self.metadata().decoded(Family::Blobs, hash.as_bytes())
    }

    pub(crate) fn good_entry(&self, hash: &BlobHash) -> Result<Option<BlobEntry>, Fault> {
        Ok(self.entry(hash)?.filter(|entry| entry.state == State::Good))
    }

    /// Adds the change of a blob's entry to `batch`, writes it, and keeps the figures. The caller holds the stripe.
    pub(crate) fn commit(&self, hash: &BlobHash, new: Option<&BlobEntry>, mut batch: WriteBatch, sync: Sync) -> Result<(), Fault> {
        // Nobody begins to count meanwhile, since that takes all stripes.
        let counted = self.inner.stats.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let old = if counted { self.good_entry(hash)? } else { None };
        let family = self.metadata().family(Family::Blobs);
        match new {
            Some(entry) => batch.put_cf(family, hash.as_bytes(), codec::encode(entry)),
            None => batch.delete_cf(family, hash.as_bytes()),
        }
        self.metadata().write(batch, sync)?;
        let mut stats = self.inner.stats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stats) = &mut *stats {
            if let Some(old) = old {
                stats.blobs = stats.blobs.saturating_sub(1);
                stats.bytes = stats.bytes.saturating_sub(old.length);
            }
            if let Some(new) = new.filter(|entry| entry.state == State::Good) {
                stats.blobs += 1;
                stats.bytes += new.length;
            }
        }
        Ok(())
    }

    /// Notes that a blob was used, once an hour at most.
    pub(crate) fn touch(&self, hash: &BlobHash, entry: &BlobEntry) -> Result<(), Fault> {
        let now = now_s();
        if now < entry.last_used_s.saturating_add(LAST_USED_STEP_S) {
            return Ok(());
        }
        let _stripe = self.stripe(hash);
        if let Some(mut entry) = self.good_entry(hash)? {
            entry.last_used_s = now;
            self.commit(hash, Some(&entry), WriteBatch::default(), Sync::Later)?;
        }
        Ok(())
    }

    /// Marks a blob as damaged: it counts as absent from now on.
    pub(crate) fn quarantine(&self, hash: &BlobHash) -> Result<(), Fault> {
        let _stripe = self.stripe(hash);
        self.inner.fetched.lock().unwrap_or_else(PoisonError::into_inner).retain(|fetched| fetched != hash);
        if let Some(mut entry) = self.good_entry(hash)? {
            tracing::warn!(%hash, length = entry.length, "a blob is damaged on disk and is not served any more");
            entry.state = State::Damaged;
            self.commit(hash, Some(&entry), WriteBatch::default(), Sync::Now)?;
        }
        Ok(())
    }

    /// Remembers that this process has fetched a blob: all of it was proven, then written.
    pub(crate) fn remember_fetched(&self, hash: &BlobHash) {
        let mut fetched = self.inner.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        if fetched.len() == FETCHED_REMEMBERED {
            fetched.pop_front();
        }
        fetched.push_back(*hash);
    }

    /// Whether this process has fetched a blob, as far as it remembers.
    pub(crate) fn has_fetched(&self, hash: &BlobHash) -> bool {
        self.inner.fetched.lock().unwrap_or_else(PoisonError::into_inner).contains(hash)
    }

    /// Refuses what would use up the disk.
    pub(crate) fn check_room(&self, what: &str, needed: u64) -> Result<(), Fault> {
        if self.free_bytes()? < needed.saturating_add(self.inner.reserve_bytes) {
            return Err(Fault::NoSpace { what: format!("{what} in {}", self.root().display()), needed });
        }
        Ok(())
    }

    pub(crate) fn blob_folder(&self, hash: &BlobHash) -> PathBuf {
        self.inner.root.join("blobs").join(format!("{:02x}", hash.0[0]))
    }

    pub(crate) fn blob_path(&self, hash: &BlobHash) -> PathBuf {
        self.blob_folder(hash).join(hash.to_string())
    }

    pub(crate) fn tree_path(&self, hash: &BlobHash) -> PathBuf {
        self.blob_folder(hash).join(format!("{hash}.tree"))
    }

    pub(crate) fn partial_folder(&self) -> PathBuf {
        self.inner.root.join("partials")
    }

    /// A new name for something that is being written.
    pub(crate) fn staged_path(&self) -> PathBuf {
        let number = self.inner.staged.fetch_add(1, Ordering::Relaxed);
        self.inner.root.join("tmp").join(number.to_string())
    }

    /// Removes what a process that ended was writing.
    fn clear_staged(&self) -> Result<(), Fault> {
        let folder = self.inner.root.join("tmp");
        let files = self.disk().list(&folder).map_err(|source| Fault::io("list", &folder, 0, source))?;
        for (name, _) in files {
            let path = folder.join(name);
            self.disk().remove(&path).map_err(|source| Fault::io("remove", &path, 0, source))?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("root", &self.inner.root).finish_non_exhaustive()
    }
}

/// Seconds since 1970 by this machine's clock; only used to tell what was used long ago.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn lock(root: &Path) -> Result<fs::File, OpenError> {
    let path = root.join("lock");
    let fault = |source| Fault::io("open the lock file", &path, 4096, source);
    let mut file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(fault)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            // The holder writes its number for people; a lock file that can't be read locks all the same.
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(OpenError::Locked { root: root.to_owned(), pid });
        }
        Err(error) => return Err(Fault::io("lock", &path, 0, error.into()).into()),
    }
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(fault)?;
    Ok(file)
}

/// Checks that the folder is a store of a version that is understood. True where it is a new one.
fn check_version(root: &Path) -> Result<bool, OpenError> {
    let path = root.join("version");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(OpenError::NotAStore { root: root.to_owned(), reason: "its file `version` is no text".into() });
        }
        Err(source) => return Err(Fault::io("read", &path, 0, source).into()),
    };
    let not_a_store = || OpenError::NotAStore {
        root: root.to_owned(),
        reason: format!("its file `version` says {:?}", text.chars().take(40).collect::<String>()),
    };
    let found: u32 = text.trim().parse().map_err(|_| not_a_store())?;
    match found {
        0 => Err(not_a_store()),
        VERSION => Ok(false),
        VERSION_MIN..VERSION => write_version(root).map(|()| false).map_err(Into::into),
        _ => Err(OpenError::Newer { root: root.to_owned(), found, known: VERSION }),
    }
}

fn make_folders(disk: &dyn Disk, root: &Path) -> Result<(), Fault> {
    let make = |path: PathBuf| match disk.create_folder(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Fault::io("make the folder", &path, 4096, error)),
        _ => Ok(path),
    };
    make(root.join("tmp"))?;
    make(root.join("partials"))?;
    let blobs = make(root.join("blobs"))?;
    for first in 0..=u8::MAX {
        make(blobs.join(format!("{first:02x}")))?;
    }
    for path in [blobs.as_path(), root] {
        disk.sync_folder(path).map_err(|source| Fault::io("sync the folder", path, 0, source))?;
    }
    Ok(())
}

fn write_version(root: &Path) -> Result<(), Fault> {
    let (new, path) = (root.join("version.new"), root.join("version"));
    let write = || {
        let mut file = fs::File::create(&new)?;
        writeln!(file, "{VERSION}")?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        fs::File::open(root)?.sync_all()
    };
    write().map_err(|source| Fault::io("write", &path, 4096, source))
}
