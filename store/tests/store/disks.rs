//! Disks that lose what was not synced, and disks that are full.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use barnraiser_store::disk::{Disk, DiskFile, RealDisk};

use crate::support::Random;

/// A disk that knows what a power loss could leave, and can write that down at any of its operations.
///
/// The model is harsher than real file systems: each name that changed since its folder was synced, and each 4 KiB of a
/// file that changed since the file was synced, may be lost or kept by itself, in any order.
#[derive(Debug, Clone)]
pub struct LosingDisk {
    model: Arc<Mutex<Model>>,
}

#[derive(Debug, Default)]
struct Model {
    operations: u64,
    /// What exists now: path to file number.
    names: BTreeMap<PathBuf, u64>,
    /// What exists after a power loss for certain.
    synced_names: BTreeMap<PathBuf, u64>,
    files: HashMap<u64, FileModel>,
    next_file: u64,
    plan: Option<Plan>,
}

#[derive(Debug, Default, Clone)]
struct FileModel {
    now: Vec<u8>,
    synced: Vec<u8>,
}

/// The power loss to come.
#[derive(Debug)]
struct Plan {
    at_operation: u64,
    seed: u64,
    from: PathBuf,
    to: PathBuf,
}

impl LosingDisk {
    pub fn new() -> Self {
        Self { model: Arc::default() }
    }

    /// Loses power just before the operation of that number: from then on `to` is what a machine that starts again finds
    /// of `from`. Work goes on as if nothing had happened.
    pub fn lose_power_at(&self, at_operation: u64, seed: u64, from: &Path, to: &Path) {
        self.model.lock().unwrap().plan = Some(Plan { at_operation, seed, from: from.into(), to: to.into() });
    }

    pub fn operations(&self) -> u64 {
        self.model.lock().unwrap().operations
    }

    /// Whether the planned power loss has happened.
    pub fn has_lost_power(&self) -> bool {
        self.model.lock().unwrap().plan.is_none()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Model) -> T) -> T {
        let mut model = self.model.lock().unwrap();
        if model.plan.as_ref().is_some_and(|plan| plan.at_operation == model.operations) {
            let plan = model.plan.take().unwrap();
            model.write_down(&plan);
        }
        model.operations += 1;
        change(&mut model)
    }
}

impl Model {
    fn write_down(&self, plan: &Plan) {
        let mut random = Random(plan.seed);
        for folder in ["tmp", "partials", "blobs", "db"] {
            std::fs::create_dir_all(plan.to.join(folder)).unwrap();
        }
        for first in 0..=255u8 {
            std::fs::create_dir_all(plan.to.join("blobs").join(format!("{first:02x}"))).unwrap();
        }
        // Neither is there where power is lost while the store is made.
        if plan.from.join("version").exists() {
            std::fs::copy(plan.from.join("version"), plan.to.join("version")).unwrap();
        }
        // The database keeps in memory what it has not synced, so its files are what it would find.
        for entry in std::fs::read_dir(plan.from.join("db")).into_iter().flatten() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), plan.to.join("db").join(entry.file_name())).unwrap();
        }
        let paths: BTreeSet<&PathBuf> = self.names.keys().chain(self.synced_names.keys()).collect();
        for path in paths {
            let (now, synced) = (self.names.get(path), self.synced_names.get(path));
            let survivor = if now == synced || random.chance(2) { synced } else { now };
            if let Some(file) = survivor {
                let to = plan.to.join(path.strip_prefix(&plan.from).unwrap());
                std::fs::write(to, self.files[file].after_power_loss(&mut random)).unwrap();
            }
        }
    }
}

impl FileModel {
    fn after_power_loss(&self, random: &mut Random) -> Vec<u8> {
        if self.now == self.synced {
            return self.synced.clone();
        }
        let length = match random.below(3) {
            0 => self.synced.len(),
            1 => self.now.len(),
            _ => random.below(self.now.len() as u64 + 1) as usize,
        };
        let mut bytes = vec![0; length];
        for (index, block) in bytes.chunks_mut(4096).enumerate() {
            let from = if random.chance(2) { &self.now } else { &self.synced };
            let part = from.get(index * 4096..).unwrap_or_default();
            let count = part.len().min(block.len());
            block[..count].copy_from_slice(&part[..count]);
        }
        bytes
    }
}

#[derive(Debug)]
struct LosingFile {
    disk: LosingDisk,
    file: u64,
    real: Box<dyn DiskFile>,
}

impl DiskFile for LosingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.real.read_at(buffer, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.change(|model| {
            let now = &mut model.files.get_mut(&self.file).unwrap().now;
            let end = offset as usize + bytes.len();
            now.resize(now.len().max(end), 0);
            now[offset as usize..end].copy_from_slice(bytes);
            self.real.write_all_at(bytes, offset)
        })
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.disk.change(|model| {
            model.files.get_mut(&self.file).unwrap().now.resize(length as usize, 0);
            self.real.set_length(length)
        })
    }
    fn length(&self) -> io::Result<u64> {
        self.real.length()
    }
    fn sync(&self) -> io::Result<()> {
        self.disk.change(|model| {
            let file = model.files.get_mut(&self.file).unwrap();
            file.synced = file.now.clone();
        });
        Ok(())
    }
}

impl Disk for LosingDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_folder(path)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let real = RealDisk.create(path)?;
        let file = self.change(|model| {
            model.next_file += 1;
            model.files.insert(model.next_file, FileModel::default());
            model.names.insert(path.into(), model.next_file);
            model.next_file
        });
        Ok(Box::new(LosingFile { disk: self.clone(), file, real }))
    }
    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn DiskFile>> {
        let real = RealDisk.open(path, write)?;
        let file = self.model.lock().unwrap().names[path];
        Ok(Box::new(LosingFile { disk: self.clone(), file, real }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|model| {
            RealDisk.rename(from, to)?;
            let file = model.names.remove(from).unwrap();
            model.names.insert(to.into(), file);
            Ok(())
        })
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|model| {
            RealDisk.remove(path)?;
            model.names.remove(path);
            Ok(())
        })
    }
    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>> {
        RealDisk.list(path)
    }
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.change(|model| {
            let inside = |name: &Path| name.parent() == Some(path);
            model.synced_names.retain(|name, _| !inside(name));
            let now: Vec<_> = model.names.iter().filter(|(name, _)| inside(name)).map(|(name, file)| (name.clone(), *file)).collect();
            model.synced_names.extend(now);
        });
        Ok(())
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(path)
    }
}

/// A disk on which every change fails for want of room once `left` of them were made.
#[derive(Debug, Clone)]
pub struct FullDisk {
    left: Arc<AtomicU64>,
}

impl FullDisk {
    pub fn new() -> Self {
        Self { left: Arc::new(AtomicU64::new(u64::MAX)) }
    }

    pub fn fill_after(&self, changes: u64) {
        self.left.store(changes, Ordering::SeqCst);
    }

    /// Whether it has come to a failure.
    pub fn is_full(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    fn take(&self) -> io::Result<()> {
        let taken = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        taken.map(|_| ()).map_err(|_| io::Error::from(io::ErrorKind::StorageFull))
    }
}

#[derive(Debug)]
struct FullFile {
    disk: FullDisk,
    real: Box<dyn DiskFile>,
}

impl DiskFile for FullFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.real.read_at(buffer, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Err(error) = self.disk.take() {
            // A full disk often takes some of it.
            self.real.write_all_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(error);
        }
        self.real.write_all_at(bytes, offset)
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.disk.take()?;
        self.real.set_length(length)
    }
    fn length(&self) -> io::Result<u64> {
        self.real.length()
    }
    fn sync(&self) -> io::Result<()> {
        self.disk.take()?;
        self.real.sync()
    }
}

impl Disk for FullDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_folder(path)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.take()?;
        Ok(Box::new(FullFile { disk: self.clone(), real: RealDisk.create(path)? }))
    }
    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(FullFile { disk: self.clone(), real: RealDisk.open(path, write)? }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.take()?;
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>> {
        RealDisk.list(path)
    }
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.take()?;
        RealDisk.sync_folder(path)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(path)
    }
}
