//! `barn lock FILE`: fetches the sources of a recipe that have no hash yet, and writes their hashes into its text. Hashes
//! that are there already are checked where their bytes are here.

use std::collections::BTreeMap;
use std::str::FromStr;

use barnraiser_protocol::recipe::{Diagnostic, LockError, Origin, ParseOptions, SourceHash, Text, lock_edits, parse_recipe_with};

use super::packages::Package;
use super::{Attempt, Expected, OnProgress, SourceError, Sources};

/// What [`Sources::lock`] found.
#[derive(Debug)]
pub struct Locked {
    /// The recipe with all hashes in it; the same text where nothing was missing.
    pub text: String,
    /// Each source that was fetched, and the SHA-256 that was written for it.
    pub added: Vec<(String, String)>,
    /// Sources whose written hash was checked and is right.
    pub checked: Vec<String>,
    /// Sources whose written hash was not checked, since the bytes are not here.
    pub unchecked: Vec<String>,
}

/// Why a recipe could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockFileError {
    /// The recipe has errors.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Recipe(Vec<Diagnostic>),
    /// An address depends on the matrix, so there is more than one file to be hashed.
    #[error(
        "source {name:?}: its addresses mention axes of the matrix, so each cell has a hash of its own: write the hash as a text with axes, or one source for each"
    )]
    Axes {
        /// The source's name as written.
        name: String,
    },
    /// A source could not be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The hashes could not be written into the text.
    #[error(transparent)]
    Edit(#[from] LockError),
}

impl LockFileError {
    /// The exit code of the command line.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Source(error) => error.exit_code(),
            Self::Recipe(_) | Self::Axes { .. } | Self::Edit(_) => 2,
        }
    }
}

/// A hash as written: `Some(None)` where there is none, `None` where it is not one text for all cells.
fn written<T: FromStr>(hash: Option<&Text>) -> Option<Option<T>> {
    match hash {
        None => Some(None),
        Some(hash) => hash.literal()?.parse().ok().map(Some),
    }
}

impl Sources {
    /// Fetches those sources of the recipe `text` that have `urls` and no hash, keeps them in the store, and gives the
    /// text with their hashes. Those that have one are checked where that needs no network. `file_name` is for messages.
    ///
    /// # Errors
    /// [`LockFileError`], also for a written hash that is wrong; nothing is written to the recipe's file, that is the caller's part.
    pub fn lock(&self, file_name: &str, text: &str, on_progress: OnProgress<'_>) -> Result<Locked, LockFileError> {
        let options = ParseOptions { allow_missing_hashes: true };
        let recipe = parse_recipe_with(file_name, text, options).map_err(LockFileError::Recipe)?;
        let mut hashes = BTreeMap::new();
        let (mut added, mut checked, mut unchecked) = (Vec::new(), Vec::new(), Vec::new());
        for (number, source) in recipe.sources.iter().enumerate() {
            let Origin::Urls { urls, sha256, blake3, .. } = &source.origin else { continue };
            let name = source.name.written();
            let plain: Option<Vec<String>> = urls.iter().map(|url| url.literal().map(str::to_owned)).collect();
            if sha256.is_none() && blake3.is_none() {
                let plain = plain.ok_or_else(|| LockFileError::Axes { name: name.clone() })?;
                let (_, sha256) = self.urls(&name, &plain, Expected::default(), on_progress)?;
                // Without an expected hash the bytes were looked at, so there is a digest.
                let Some(sha256) = sha256 else { continue };
                hashes.insert(number, SourceHash::Sha256(sha256.to_string()));
                added.push((name, sha256.to_string()));
                continue;
            }
            // A hash that depends on the matrix is one for each cell: the plan knows them, the recipe alone does not.
            let known = match (plain, written(sha256.as_ref()), written(blake3.as_ref())) {
                (Some(urls), Some(sha256), Some(blake3)) => self.check_written(&name, &urls, Expected { sha256, blake3 }, on_progress)?,
                _ => false,
            };
            let list = if known { &mut checked } else { &mut unchecked };
            list.push(name);
        }
        let text = lock_edits(file_name, text, &hashes)?;
        Ok(Locked { text, added, checked, unchecked })
    }

    /// Checks written hashes against the bytes, where these are here: in the store, on this disk, in cargo's cache. Bytes
    /// that came from one of the addresses before and had another hash are fetched anew, to see which is right. Whether
    /// there was anything to check.
    fn check_written(&self, name: &str, urls: &[String], expected: Expected, on_progress: OnProgress<'_>) -> Result<bool, SourceError> {
        if self.kept(name, expected)?.is_some() {
            return Ok(true);
        }
        let scratch = self.scratch()?;
        let mut attempts = Vec::new();
        for (number, url) in self.candidates(urls).into_iter().enumerate() {
            let is_here = match url.split_once(':') {
                Some(("file", _)) => true,
                Some(("crate", package)) => Package::of_crate(package).is_ok_and(|package| package.is_cached(self.cargo_home.as_deref())),
                _ => self.keep.by_address(name, &url)?.is_some(),
            };
            if !is_here {
                continue;
            }
            match self.attempt(&url, &scratch.path().join(number.to_string()), expected, on_progress) {
                Ok(_) => return Ok(true),
                Err(error) => attempts.push(Attempt { url, error }),
            }
        }
        if attempts.is_empty() { Ok(false) } else { Err(SourceError::Unreachable { name: name.to_owned(), attempts }) }
    }
}
