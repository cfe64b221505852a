//! Taking blobs in: hashed while they are copied, in constant memory, never seen half-done.
//!
//! A blob's bytes are staged in `tmp`, synced if that was promised, renamed to their place, and only then entered in the
//! database. Whatever is cut short leaves a staged file, which the next start removes, or a file without entry, which the
//! next collection removes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Seek as _, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use barnraiser_protocol::id::BlobHash;
use blake3::Hash;
use rocksdb::WriteBatch;

use crate::disk::{DiskFile, PIECE_BYTES};
use crate::error::{Fault, ImportError};
use crate::geometry::{BLOB_BYTES_MAX, GROUP_BYTES, INLINE_BYTES_MAX};
use crate::hashing::TreeBuilder;
use crate::metadata::{BlobEntry, Class, Family, Place, State, Sync};
use crate::store::{Durability, Store, now_s};

/// Bytes that are hashed at once; a multiple of the group.
const STEP_BYTES: usize = 1 << 20;
/// Steps that may be on their way from the reader to the hashing thread.
const STEPS_AHEAD: usize = 3;
/// The longest hash tree that is kept in the database (of a blob of 4 MiB); it saves a file and its sync.
pub(crate) const TREE_INLINE_MAX: usize = 16 << 10;

/// Is told how many bytes were read since it was told last; may call off what reads them.
pub type Seen<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// A reader that tells how much was read.
struct Watched<'a, R> {
    reader: R,
    seen: Seen<'a>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        match (self.seen)(count as u64) {
            ControlFlow::Continue(()) => Ok(count),
            ControlFlow::Break(()) => Err(io::Error::other("it was called off")),
        }
    }
}

/// Reads what lies in a staged file.
struct StagedReader<'a> {
    file: &'a dyn DiskFile,
    at: u64,
}

impl Read for StagedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// What is done for a blob before the call that brings it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Everything is synced.
    Announced,
    /// As well, for others.
    Kept,
    /// The bytes are synced; name and entry are not yet. [`Store::announce`] does that for many at once.
    Prepared,
    /// Nothing is synced.
    Cached,
}

impl From<Durability> for Level {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Announced => Self::Announced,
            Durability::Cached => Self::Cached,
        }
    }
}

/// A file that is removed again unless it was put to use.
pub(crate) struct Staged<'a> {
    store: &'a Store,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    used: bool,
}

impl<'a> Staged<'a> {
    fn new(store: &'a Store) -> Result<Self, Fault> {
        let path = store.staged_path();
        let file = store.disk().create(&path).map_err(|source| Fault::io("create", &path, 4096, source))?;
        Ok(Self { store, path, file, used: false })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), Fault> {
        self.file.write_all_at(bytes, offset).map_err(|source| Fault::io("write", &self.path, bytes.len() as u64, source))
    }

    fn sync(&self) -> Result<(), Fault> {
        self.file.sync().map_err(|source| Fault::io("sync", &self.path, 0, source))
    }

    fn rename(mut self, to: &Path) -> Result<(), Fault> {
        self.store.disk().rename(&self.path, to).map_err(|source| Fault::io("rename to", to, 4096, source))?;
        self.used = true;
        Ok(())
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if !self.used
            && let Err(error) = self.store.disk().remove(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "a staged file could not be removed; the next start does it");
        }
    }
}

/// A hash tree that is being written: in memory while it is short, then in a staged file.
pub(crate) enum StagedTree<'a> {
    /// Still short.
    Memory(Vec<u8>),
    /// Spilled, with what is not yet written.
    File { file: Staged<'a>, written: u64, buffer: Vec<u8> },
}

/// A writer for a hash tree that remembers its fault, which `io::Write` would blur.
struct TreeWriter<'a> {
    store: &'a Store,
    tree: StagedTree<'a>,
    fault: Option<Fault>,
}

impl TreeWriter<'_> {
    fn write_step(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        match &mut self.tree {
            StagedTree::Memory(memory) if memory.len() + bytes.len() <= TREE_INLINE_MAX => memory.extend_from_slice(bytes),
            StagedTree::Memory(memory) => {
                let mut buffer = std::mem::take(memory);
                buffer.extend_from_slice(bytes);
                self.tree = StagedTree::File { file: Staged::new(self.store)?, written: 0, buffer };
            }
            StagedTree::File { file, written, buffer } => {
                buffer.extend_from_slice(bytes);
                if buffer.len() >= 4 * TREE_INLINE_MAX {
                    file.write_at(buffer, *written)?;
                    *written += buffer.len() as u64;
                    buffer.clear();
                }
            }
        }
        Ok(())
    }

    fn flush_step(&mut self) -> Result<(), Fault> {
        if let StagedTree::File { file, written, buffer } = &mut self.tree {
            file.write_at(buffer, *written)?;
            *written += buffer.len() as u64;
            buffer.clear();
        }
        Ok(())
    }
}

impl Write for TreeWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_step(bytes).map(|()| bytes.len()).map_err(|fault| {
            self.fault = Some(fault);
            io::Error::other("see the fault")
        })
    }
    fn flush(&mut self) -> io::Result<()> {
        self.flush_step().map_err(|fault| {
            self.fault = Some(fault);
            io::Error::other("see the fault")
        })
    }
}

/// The hashing side of an import.
struct Hashing<'a>(TreeBuilder<TreeWriter<'a>>);

impl<'a> Hashing<'a> {
    fn new(store: &'a Store) -> Self {
        Self(TreeBuilder::new(TreeWriter { store, tree: StagedTree::Memory(Vec::new()), fault: None }))
    }

    fn update(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let store = self.0.writer().store;
        self.0.update(bytes).map_err(|error| self.0.writer().fault.take().unwrap_or_else(|| Fault::io("hash in", store.root(), 0, error)))
    }

    fn finish(self) -> Result<(Hash, StagedTree<'a>), Fault> {
        self.0
            .finish()
            .map(|(root, writer)| (root, writer.tree))
            .map_err(|(error, mut writer)| writer.fault.take().unwrap_or_else(|| Fault::io("hash in", writer.store.root(), 0, error)))
    }
}

impl Store {
    /// Takes `bytes` in. Returns their hash.
    ///
    /// # Errors
    /// [`ImportError::Fault`] where this machine can't.
    pub fn import_bytes(&self, bytes: &[u8], durability: Durability) -> Result<BlobHash, ImportError> {
        if bytes.len() as u64 > INLINE_BYTES_MAX {
            return self.import_reader(bytes, durability).map(|(hash, _)| hash);
        }
        let hash = BlobHash::of(bytes);
        self.commit_inline(&hash, bytes, durability.into())?;
        Ok(hash)
    }

    /// Takes a copy of a file in, sharing its bytes where the file system can; the file stays as it is. Returns hash and
    /// length in bytes.
    ///
    /// # Errors
    /// [`ImportError`]: the file can't be read, is too long, or this machine can't.
    pub fn import_file(&self, path: &Path, durability: Durability) -> Result<(BlobHash, u64), ImportError> {
        self.import_file_watched(path, durability, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`Store::import_file`]; `seen` is told how many bytes were read since it was told last, and may call it off.
    ///
    /// # Errors
    /// As [`Store::import_file`]; [`ImportError::Source`] where it was called off, and then nothing of it stays.
    pub fn import_file_watched(&self, path: &Path, durability: Durability, seen: Seen<'_>) -> Result<(BlobHash, u64), ImportError> {
        let unreadable = |source| ImportError::Source { path: Some(path.to_owned()), source };
        let file = fs::File::open(path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.is_dir() {
            return Err(unreadable(io::ErrorKind::IsADirectory.into()));
        }
        self.import_opened_at(&file, durability.into(), seen).map_err(|error| match error {
            ImportError::Source { source, .. } => unreadable(source),
            other => other,
        })
    }

    /// As [`Store::import_file`], for a file that is open already; read from where it stands.
    ///
    /// # Errors
    /// As [`Store::import_file`].
    pub fn import_opened(&self, file: &fs::File, durability: Durability) -> Result<(BlobHash, u64), ImportError> {
        self.import_opened_at(file, durability.into(), &mut |_| ControlFlow::Continue(()))
    }

    pub(crate) fn import_opened_at(&self, mut file: &fs::File, level: Level, seen: Seen<'_>) -> Result<(BlobHash, u64), ImportError> {
        // Only a file has bytes to share, and only what is read from its beginning is all of it.
        read_ahead(file.as_fd());
        let whole = file.metadata().is_ok_and(|metadata| metadata.is_file()) && file.stream_position().is_ok_and(|at| at == 0);
        self.import_source(&mut Watched { reader: file, seen }, whole.then(|| file.as_fd()), level)
    }

    /// Takes in all that `reader` gives, whose length need not be known, in constant memory. Returns hash and length in
    /// bytes.
    ///
    /// # Errors
    /// [`ImportError`]: the reader fails or gives too much, or this machine can't. Then nothing of it stays.
    pub fn import_reader(&self, reader: impl Read, durability: Durability) -> Result<(BlobHash, u64), ImportError> {
        self.import_level(reader, durability.into())
    }

    pub(crate) fn import_level(&self, reader: impl Read, level: Level) -> Result<(BlobHash, u64), ImportError> {
        self.import_source(&mut Watched { reader, seen: &mut |_| ControlFlow::Continue(()) }, None, level)
    }

    /// Takes in what `source` gives, or shares the bytes of `share`, which is the same file, where the file system can.
    fn import_source<R: Read>(
        &self,
        source: &mut Watched<'_, R>,
        share: Option<BorrowedFd<'_>>,
        level: Level,
    ) -> Result<(BlobHash, u64), ImportError> {
        let mut first = Vec::new();
        let small = INLINE_BYTES_MAX as usize + 1;
        fill(source, &mut first, 0, small)?;
        if first.len() < small {
            let hash = BlobHash::of(&first);
            self.commit_inline(&hash, &first, level)?;
            return Ok((hash, first.len() as u64));
        }
        self.make_room(first.len() as u64, first.len() as u64)?;
        self.check_room("import a blob", first.len() as u64)?;
        let data = Staged::new(self)?;
        let shared = match share {
            Some(file) => data.file.reflink_from(file).map_err(|error| Fault::io("share bytes with", &data.path, 0, error))?,
            None => false,
        };
        if shared {
            // What is hashed is what the store has now, whatever becomes of the file.
            if let Some(descriptor) = data.file.descriptor() {
                read_ahead(descriptor);
            }
            let mut clone = Watched { reader: StagedReader { file: &*data.file, at: 0 }, seen: &mut *source.seen };
            fill(&mut clone, &mut first, 0, STEP_BYTES)?;
            let (root, tree, length) = self.stage_long(&mut clone, first, None)?;
            let hash = BlobHash::from(root);
            self.commit_staged(&hash, length, data, tree, level)?;
            return Ok((hash, length));
        }
        fill(source, &mut first, small, STEP_BYTES)?;
        let (root, tree, length) = if first.len() < STEP_BYTES {
            let mut hashing = Hashing::new(self);
            hashing.update(&first)?;
            data.write_at(&first, 0)?;
            let (root, tree) = hashing.finish()?;
            (root, tree, first.len() as u64)
        } else {
            self.stage_long(source, first, Some(&data))?
        };
        let hash = BlobHash::from(root);
        self.commit_staged(&hash, length, data, tree, level)?;
        Ok((hash, length))
    }

    /// Reads, and writes to `copy_to` where there is one, on this thread while another one hashes.
    fn stage_long<'a>(
        &'a self,
        reader: &mut impl Read,
        first: Vec<u8>,
        copy_to: Option<&Staged<'_>>,
    ) -> Result<(Hash, StagedTree<'a>, u64), ImportError> {
        thread::scope(|scope| {
            let (full_in, full_out) = mpsc::sync_channel::<Vec<u8>>(STEPS_AHEAD);
            let (used_in, used_out) = mpsc::channel::<Vec<u8>>();
            let hashing = scope.spawn(move || {
                let mut hashing = Hashing::new(self);
                for step in full_out {
                    hashing.update(&step)?;
                    // The reader may be gone by now and need no more buffers.
                    let _ = used_in.send(step);
                }
                hashing.finish()
            });
            let copy = || {
                let (mut filled, mut step, mut length) = (first.len(), first, 0u64);
                loop {
                    step.resize(STEP_BYTES, 0);
                    // Read as it is written: what was read is in the processor's cache yet.
                    let mut taken = 0;
                    for end in (PIECE_BYTES..=STEP_BYTES).step_by(PIECE_BYTES) {
                        if filled < end {
                            filled += read_full(reader, &mut step[filled..end])?;
                        }
                        let here = filled.min(end);
                        if let Some(data) = copy_to {
                            data.write_at(&step[taken..here], length)?;
                        }
                        length += (here - taken) as u64;
                        taken = here;
                        if taken < end {
                            // Not asked again once it has ended: a terminal would wait for more.
                            break;
                        }
                    }
                    if length > BLOB_BYTES_MAX {
                        return Err(ImportError::TooLong);
                    }
                    step.truncate(taken);
                    if full_in.send(step).is_err() || taken < STEP_BYTES {
                        // The hashing thread ended early, and its fault is seen below; or that was all.
                        break;
                    }
                    if copy_to.is_some() {
                        // What was written is on the disk already, and no blob yet.
                        self.make_room(length, STEP_BYTES as u64)?;
                        self.check_room("import a blob", STEP_BYTES as u64)?;
                    }
                    // As long as it was, so that it is not zeroed again.
                    step = used_out.try_recv().unwrap_or_default();
                    filled = 0;
                }
                Ok(length)
            };
            let copied = copy();
            drop(full_in);
            let hashed = hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let length = copied?;
            let (root, tree) = hashed?;
            Ok((root, tree, length))
        })
    }

    /// Enters a blob of one group.
    pub(crate) fn commit_inline(&self, hash: &BlobHash, bytes: &[u8], level: Level) -> Result<(), Fault> {
        let _stripe = self.stripe(hash);
        if self.suffices(hash, level)? {
            return Ok(());
        }
        self.check_room("import a blob", bytes.len() as u64)?;
        let mut batch = WriteBatch::default();
        batch.put_cf(self.metadata().family(Family::Inline), hash.as_bytes(), bytes);
        self.commit(hash, Some(&entry(bytes.len() as u64, Place::Inline, Place::None, level)), batch, sync(level))
    }

    fn commit_staged(&self, hash: &BlobHash, length: u64, data: Staged<'_>, tree: StagedTree<'_>, level: Level) -> Result<(), Fault> {
        if level != Level::Cached && !self.suffices(hash, level)? {
            // Before the lock is taken, since it may take long.
            data.sync()?;
            if let StagedTree::File { file, .. } = &tree {
                file.sync()?;
            }
        }
        let _stripe = self.stripe(hash);
        if self.suffices(hash, level)? {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        let tree_place = match tree {
            StagedTree::Memory(tree) => {
                batch.put_cf(self.metadata().family(Family::Trees), hash.as_bytes(), tree);
                Place::Inline
            }
            StagedTree::File { file, .. } => {
                file.rename(&self.tree_path(hash))?;
                Place::File
            }
        };
        data.rename(&self.blob_path(hash))?;
        self.enter_files(hash, length, tree_place, batch, level)
    }

    /// Enters a blob whose files are in place; their names are synced first where that was promised. The caller holds the
    /// stripe and has synced the files' bytes.
    pub(crate) fn enter_files(&self, hash: &BlobHash, length: u64, tree: Place, batch: WriteBatch, level: Level) -> Result<(), Fault> {
        if sync(level) == Sync::Now {
            self.sync_blob_folder(hash)?;
        }
        self.commit(hash, Some(&entry(length, Place::File, tree, level)), batch, sync(level))
    }

    fn sync_blob_folder(&self, hash: &BlobHash) -> Result<(), Fault> {
        let folder = self.blob_folder(hash);
        self.disk().sync_folder(&folder).map_err(|source| Fault::io("sync the folder", &folder, 0, source))
    }

    /// Whether the blob is here already, kept at least as well as `level` asks. One that is only cached and is to be
    /// announced is taken in anew: its file was never synced. So is one that is kept for others, which is rare.
    pub(crate) fn suffices(&self, hash: &BlobHash, level: Level) -> Result<bool, Fault> {
        let entry = self.good_entry(hash)?;
        Ok(entry.is_some_and(|entry| match level {
            Level::Cached => true,
            Level::Kept => entry.class != Class::Cached,
            Level::Announced | Level::Prepared => entry.class == Class::Announced,
        }))
    }

    /// Makes blobs that were taken in with [`Level::Prepared`] survive a power loss, with one sync of the database and one
    /// of each folder.
    pub(crate) fn announce(&self, hashes: &BTreeSet<BlobHash>) -> Result<(), ImportError> {
        let _stripes = self.all_stripes();
        let mut batch = WriteBatch::default();
        let mut synced = None;
        for hash in hashes {
            let mut entry = self.good_entry(hash)?.ok_or(ImportError::Evicted(*hash))?;
            // Hashes come in order, so those of one folder come together.
            if entry.place == Place::File && synced != Some(hash.0[0]) {
                self.sync_blob_folder(hash)?;
                synced = Some(hash.0[0]);
            }
            entry.class = Class::Announced;
            batch.put_cf(self.metadata().family(Family::Blobs), hash.as_bytes(), barnraiser_protocol::codec::encode(&entry));
        }
        Ok(self.metadata().write(batch, Sync::Now)?)
    }
}

fn entry(length: u64, place: Place, tree: Place, level: Level) -> BlobEntry {
    let class = match level {
        Level::Announced => Class::Announced,
        Level::Kept => Class::Kept,
        Level::Prepared | Level::Cached => Class::Cached,
    };
    BlobEntry { length, place, tree, class, state: State::Good, last_used_s: now_s() }
}

fn sync(level: Level) -> Sync {
    if matches!(level, Level::Announced | Level::Kept) { Sync::Now } else { Sync::Later }
}

/// Says that the file is read from its beginning to its end, so that more is read ahead. A hint: what can't take it needs none.
fn read_ahead(file: BorrowedFd<'_>) {
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Sequential);
}

/// Reads behind the first `filled` bytes of `buffer` until it has `wanted` bytes or the reader ends; what else was in it is
/// read over.
fn fill(reader: &mut impl Read, buffer: &mut Vec<u8>, filled: usize, wanted: usize) -> Result<(), ImportError> {
    buffer.resize(wanted.max(filled), 0);
    let count = read_full(reader, &mut buffer[filled..])?;
    buffer.truncate(filled + count);
    Ok(())
}

/// Reads until `buffer` is full or the reader ends. Returns how many bytes were read.
fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> Result<usize, ImportError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(ImportError::Source { path: None, source }),
        }
    }
    Ok(filled)
}

const _: () = assert!(STEP_BYTES.is_multiple_of(PIECE_BYTES), "a step that is not full must be the last");
const _: () = assert!(STEP_BYTES.is_multiple_of(GROUP_BYTES as usize), "steps must be whole groups, or the tree would be wrong");
