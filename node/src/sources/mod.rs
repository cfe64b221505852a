//! Sources: what the `[[source]]` of a recipe names becomes blobs of this node's store, checked against their hashes.
//!
//! This happens once, where a batch is submitted; builders then fetch blobs from peers and never look at an address.
//! [`Sources::resolve`] answers one request of a plan, [`Sources::resolve_all`] all of them, and [`lock`] finds the
//! hashes that a recipe does not have yet.
//!
//! | Room | Brings |
//! |---|---|
//! | `download` | http and https |
//! | `packages` | `crate:` through cargo, `debian:` through apt-get |
//! | `git` | the tree of a commit |
//! | `local` | files and folders beside the recipe |
//! | `keep` | what is in the store already, and what was learnt of it |
//! | `date` | the newest date, for `SOURCE_DATE_EPOCH` |
//!
//! All calls block; async callers go through a thread of their own.

mod command;
mod date;
mod digest;
mod download;
mod error;
mod git;
mod keep;
mod local;
pub mod lock;
mod packages;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use barnraiser_protocol::action::SourceForm;
use barnraiser_protocol::id::{BlobHash, Sha256};
use barnraiser_protocol::recipe::{GitPoint, RequestId, ResolvedSource, SourceKind, SourceRequest};
use barnraiser_store::Store;
use serde::Deserialize;

pub use digest::{Digests, ExpectedHash};
pub use error::{Attempt, AttemptError, CommandError, SourceError};
pub use keep::KeepError;

use digest::{CopyError, copy};
use keep::Keep;
use packages::Package;

/// Sources that are fetched at the same time. They come from different servers, so a few more than one helps; many would
/// only share the line.
const FETCHES_MAX: usize = 4;

/// Bounds of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of a file, or of all files of a folder or commit.
    pub bytes_max: u64,
    /// The most entries of a folder or commit.
    pub entries_max: u64,
}

impl Default for Limits {
    /// 4 GiB (a kernel with its whole tree is a tenth of that) and 400,000 entries (what a manifest can hold).
    fn default() -> Self {
        Self { bytes_max: 4 << 30, entries_max: 400_000 }
    }
}

/// Another place for addresses that begin with `prefix`, tried before them: `[mirrors]` of `barn.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The beginning of an address.
    pub prefix: String,
    /// What stands in its place.
    pub replace: String,
}

/// How far a fetch is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The address.
    pub what: &'a str,
    /// Bytes so far.
    pub bytes: u64,
    /// Bytes in all, where that is known.
    pub total: Option<u64>,
}

/// Hears how far fetches are, from several threads.
pub type OnProgress<'a> = &'a (dyn Fn(Progress<'_>) + Sync);

/// The hashes that the bytes of a source must have; `barn lock` may ask with none.
#[derive(Debug, Clone, Copy, Default)]
struct Expected {
    sha256: Option<Sha256>,
    blake3: Option<BlobHash>,
}

impl Expected {
    fn check(&self, digests: &Digests) -> Result<(), AttemptError> {
        let hashes = [self.blake3.map(ExpectedHash::Blake3), self.sha256.map(ExpectedHash::Sha256)];
        for expected in hashes.into_iter().flatten() {
            if let Some(actual) = digests.mismatch(expected) {
                return Err(AttemptError::WrongHash { expected, actual });
            }
        }
        Ok(())
    }
}

/// Finds the bytes of sources.
pub struct Sources {
    keep: Keep,
    scratch: PathBuf,
    mirrors: Vec<Mirror>,
    limits: Limits,
    cargo_home: Option<PathBuf>,
}

impl Sources {
    /// Sources go into `store`, by way of temporary files in the folder `scratch`, which is made if it is missing.
    pub fn new(store: Store, scratch: PathBuf, mirrors: Vec<Mirror>) -> Self {
        Self { keep: Keep::new(store), scratch, mirrors, limits: Limits::default(), cargo_home: None }
    }

    /// Other limits than the default ones.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Cargo's home, where it is not the one of this process's environment.
    #[must_use]
    pub fn with_cargo_home(mut self, home: PathBuf) -> Self {
        self.cargo_home = Some(home);
        self
    }

    /// Answers all requests of a plan, a few at a time; the map is what [`barnraiser_protocol::recipe::Plan::resolve`]
    /// wants.
    ///
    /// # Errors
    /// Every source that could not be had, in the order of the plan.
    pub fn resolve_all(
        &self,
        requests: &[SourceRequest],
        on_progress: OnProgress<'_>,
    ) -> Result<BTreeMap<RequestId, ResolvedSource>, Vec<SourceError>> {
        let next = AtomicUsize::new(0);
        let answers: Mutex<BTreeMap<RequestId, Result<ResolvedSource, SourceError>>> = Mutex::new(BTreeMap::new());
        std::thread::scope(|scope| {
            for _ in 0..FETCHES_MAX.min(requests.len()) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        // A plan has far fewer requests than a u32 can count: its whole graph has 64 MiB at most.
                        let (Some(request), Ok(id)) = (requests.get(index), u32::try_from(index)) else { return };
                        let answer = self.resolve(request, on_progress);
                        // The map is whole between two inserts, so a thread that panicked left it whole.
                        answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(RequestId(id), answer);
                    }
                });
            }
        });
        let (mut found, mut errors) = (BTreeMap::new(), Vec::new());
        for (id, answer) in answers.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            match answer {
                Ok(source) => drop(found.insert(id, source)),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(found) } else { Err(errors) }
    }

    /// Answers one request.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn resolve(&self, request: &SourceRequest, on_progress: OnProgress<'_>) -> Result<ResolvedSource, SourceError> {
        let name = request.name.as_str();
        match &request.kind {
            SourceKind::Urls { urls, sha256, blake3, unpack } => {
                // The parser accepts nothing else than 64 digits; if it did, there would be no hash to check.
                let sha256 = sha256.as_deref().map(str::parse).transpose();
                let sha256 = sha256.map_err(|_| SourceError::Unreachable { name: name.to_owned(), attempts: Vec::new() })?;
                let (blob, _) = self.urls(name, urls, Expected { sha256, blake3: *blake3 }, on_progress)?;
                let form = if *unpack { SourceForm::Archive } else { SourceForm::File };
                // Always of the first address: whichever answered, the action must be the same.
                let file_name = urls.first().map(|url| file_name(url, name)).unwrap_or_default();
                let newest_date = if *unpack { self.date(name, &blob)? } else { None };
                Ok(ResolvedSource { blob, file_name, form, newest_date })
            }
            SourceKind::Path { recipe_file, path, unpack } => {
                let base = match Path::new(recipe_file).parent() {
                    Some(folder) if !folder.as_os_str().is_empty() => folder,
                    _ => Path::new("."),
                };
                self.path(name, path, base, *unpack)
            }
            SourceKind::Git { url, point, submodules } => self.git(name, url, point, *submodules, on_progress),
        }
    }

    /// The blob that one of `urls` gives, and its SHA-256 where that had to be computed.
    fn urls(
        &self,
        name: &str,
        urls: &[String],
        expected: Expected,
        on_progress: OnProgress<'_>,
    ) -> Result<(BlobHash, Option<Sha256>), SourceError> {
        if let Some(blob) = self.kept(name, expected)? {
            return Ok((blob, expected.sha256));
        }
        let scratch = self.scratch()?;
        let mut attempts = Vec::new();
        for (number, url) in self.candidates(urls).into_iter().enumerate() {
            let folder = scratch.path().join(number.to_string());
            match self.attempt(&url, &folder, expected, on_progress) {
                Ok((file, digests)) => {
                    let blob = self.keep.file(name, &file)?;
                    self.keep.note_sha256(name, &digests.sha256, &blob)?;
                    self.keep.note_address(name, &url, &blob)?;
                    return Ok((blob, Some(digests.sha256)));
                }
                Err(error) => attempts.push(Attempt { url, error }),
            }
        }
        Err(SourceError::Unreachable { name: name.to_owned(), attempts })
    }

    /// The blob that is wanted, where the store has it already.
    fn kept(&self, name: &str, expected: Expected) -> Result<Option<BlobHash>, SourceError> {
        let by_sha256 = match expected.sha256 {
            Some(sha256) => match self.keep.by_sha256(name, &sha256)? {
                Some(blob) => Some(blob),
                // A SHA-256 that was never computed here: the bytes must be looked at.
                None => return Ok(None),
            },
            None => None,
        };
        let blob = match (expected.blake3, by_sha256) {
            // Two hashes of two different files: fetching shows which one is wrong.
            (Some(blake3), Some(blob)) if blake3 != blob => return Ok(None),
            (Some(blob), _) | (None, Some(blob)) => blob,
            (None, None) => return Ok(None),
        };
        Ok(self.keep.has(name, &blob)?.then_some(blob))
    }

    /// All addresses to be tried: first those of mirrors, then the recipe's own.
    fn candidates(&self, urls: &[String]) -> Vec<String> {
        let mirrored = urls.iter().flat_map(|url| {
            self.mirrors.iter().filter_map(move |mirror| url.strip_prefix(&mirror.prefix).map(|rest| format!("{}{rest}", mirror.replace)))
        });
        let mut candidates: Vec<String> = Vec::new();
        for url in mirrored.chain(urls.iter().cloned()) {
            if !candidates.contains(&url) {
                candidates.push(url);
            }
        }
        candidates
    }

    /// A file with the expected hash from one address; `folder` is made for it.
    fn attempt(
        &self,
        url: &str,
        folder: &Path,
        expected: Expected,
        on_progress: OnProgress<'_>,
    ) -> Result<(PathBuf, Digests), AttemptError> {
        std::fs::create_dir(folder).map_err(AttemptError::disk("making the folder", folder))?;
        let copied = folder.join("source");
        match url.split_once(':') {
            Some(("https" | "http", _)) => {
                let digests = download::download(url, &copied, &self.limits, on_progress)?;
                expected.check(&digests)?;
                Ok((copied, digests))
            }
            Some(("file", rest)) => {
                let path = Path::new(rest.strip_prefix("//").unwrap_or(rest));
                self.first_good(&[path.to_owned()], &copied, expected)
            }
            Some(("crate", package)) => {
                let package = Package::of_crate(package)?;
                on_progress(Progress { what: url, bytes: 0, total: None });
                self.first_good(&package.crate_archives(self.cargo_home.as_deref(), folder)?, &copied, expected)
            }
            Some(("debian", package)) => {
                let package = Package::of_debian(package)?;
                on_progress(Progress { what: url, bytes: 0, total: None });
                self.first_good(&[package.debian_archive(folder)?], &copied, expected)
            }
            _ => Err(AttemptError::UnknownKind),
        }
    }

    /// A copy of the first of `files` that has the expected hash. A copy, since others may write to the file between
    /// the check and the import.
    fn first_good(&self, files: &[PathBuf], copied: &Path, expected: Expected) -> Result<(PathBuf, Digests), AttemptError> {
        let mut wrong = None;
        for file in files {
            let mut from = File::open(file).map_err(AttemptError::disk("reading", file))?;
            let mut to = File::create(copied).map_err(AttemptError::disk("writing", copied))?;
            let digests = copy(&mut from, &mut to, self.limits.bytes_max, |_| {}).map_err(|error| match error {
                CopyError::TooLarge => AttemptError::TooLarge { limit: self.limits.bytes_max },
                CopyError::Read(error) => AttemptError::Disk { doing: "reading", path: file.clone(), error },
                CopyError::Write(error) => AttemptError::Disk { doing: "writing", path: copied.to_owned(), error },
            })?;
            match expected.check(&digests) {
                Ok(()) => return Ok((copied.to_owned(), digests)),
                Err(error) => wrong = wrong.or(Some(error)),
            }
        }
        // Callers give at least one file, so without a good one there is a wrong one.
        Err(wrong.unwrap_or(AttemptError::UnknownKind))
    }

    /// The newest date in an archive that is in the store.
    fn date(&self, name: &str, blob: &BlobHash) -> Result<Option<u64>, SourceError> {
        if let Some(date) = self.keep.date(name, blob)? {
            return Ok(date);
        }
        let scratch = self.scratch()?;
        let archive = scratch.path().join("archive");
        self.keep.export(name, blob, &archive)?;
        let date =
            date::newest_in_archive(&archive).map_err(|error| SourceError::Date { name: name.to_owned(), error: Box::new(error) })?;
        self.keep.note_date(name, blob, date)?;
        Ok(date)
    }

    /// A file or folder beside the recipe. Its dates are those of a checkout and differ on every machine, so it has none;
    /// what its archive holds, if it is one, are dates that travel.
    fn path(&self, name: &str, path: &str, base: &Path, unpack: bool) -> Result<ResolvedSource, SourceError> {
        match local::find(name, path, base, base, &self.limits)? {
            local::Found::File(file) => {
                let blob = self.keep.file(name, &file)?;
                let newest_date = if unpack { self.date(name, &blob)? } else { None };
                let form = if unpack { SourceForm::Archive } else { SourceForm::File };
                Ok(ResolvedSource { blob, file_name: last_part(path, name), form, newest_date })
            }
            local::Found::Folder(folder) => {
                let blob = self.keep.folder(name, &folder)?;
                Ok(ResolvedSource { blob, file_name: String::new(), form: SourceForm::Tree, newest_date: None })
            }
        }
    }

    /// The tree of a commit; a branch is pinned to the commit that is its newest now.
    fn git(
        &self,
        name: &str,
        url: &str,
        point: &GitPoint<String>,
        submodules: bool,
        on_progress: OnProgress<'_>,
    ) -> Result<ResolvedSource, SourceError> {
        let id = match point {
            GitPoint::Rev(id) => {
                git::check_id(name, id)?;
                id.clone()
            }
            GitPoint::Branch(branch) => git::head_of_branch(name, url, branch)?,
        };
        let (blob, date) = match self.keep.commit(name, &id, submodules)? {
            Some((blob, date)) if self.keep.has_tree(name, &blob)? => (blob, date),
            _ => {
                let scratch = self.scratch()?;
                let folder = |name| {
                    let folder = scratch.path().join(name);
                    let made = std::fs::create_dir(&folder);
                    made.map(|()| folder).map_err(|error| SourceError::Scratch { path: scratch.path().to_owned(), error })
                };
                let (repositories, files) = (folder("git")?, folder("files")?);
                let commit = git::Commit { url: url.to_owned(), id, submodules };
                let date = git::fetch(name, &commit, &repositories, &files, &self.limits, on_progress)?;
                let blob = self.keep.folder(name, &files)?;
                self.keep.note_commit(name, &commit.id, submodules, &blob, date)?;
                (blob, date)
            }
        };
        Ok(ResolvedSource { blob, file_name: String::new(), form: SourceForm::Tree, newest_date: Some(date) })
    }

    fn scratch(&self) -> Result<tempfile::TempDir, SourceError> {
        let failed = |error| SourceError::Scratch { path: self.scratch.clone(), error };
        std::fs::create_dir_all(&self.scratch).map_err(failed)?;
        tempfile::Builder::new().prefix("source-").tempdir_in(&self.scratch).map_err(failed)
    }
}

/// The name of the file that an address gives; `fallback` where it says none.
fn file_name(url: &str, fallback: &str) -> String {
    match url.split_once(':') {
        Some(("crate", package)) => format!("{}.crate", package.replace('@', "-")),
        // Which compression the archive has is only known once it was fetched, and readers look at its first bytes.
        Some(("debian", package)) => format!("{}.orig.tar", package.replace('=', "_")),
        _ => download::file_name(url).unwrap_or_else(|| last_part(fallback, "source")),
    }
}

/// The part of `path` behind its last slash; `fallback` where there is none.
fn last_part(path: &str, fallback: &str) -> String {
    match path.rsplit('/').next() {
        Some(part) if !part.is_empty() => part.to_owned(),
        _ => fallback.to_owned(),
    }
}
