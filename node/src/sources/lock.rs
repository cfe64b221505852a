//! `barn lock FILE`: fetches the sources of a recipe that have no hash yet, and writes their hashes into its text.

use std::collections::BTreeMap;

use barnraiser_protocol::recipe::{Diagnostic, LockError, Origin, ParseOptions, SourceHash, lock_edits, parse_recipe_with};

use super::{Expected, OnProgress, SourceError, Sources};

/// What [`Sources::lock`] found.
#[derive(Debug)]
pub struct Locked {
    /// The recipe with all hashes in it; the same text where nothing was missing.
    pub text: String,
    /// Each source that was fetched, and the SHA-256 that was written for it.
    pub added: Vec<(String, String)>,
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

impl Sources {
    /// Fetches those sources of the recipe `text` that have `urls` and no hash, keeps them in the store, and gives the
    /// text with their hashes. `file_name` is for messages.
    ///
    /// # Errors
    /// [`LockFileError`]; nothing is written to the recipe's file, that is the caller's part.
    pub fn lock(&self, file_name: &str, text: &str, on_progress: OnProgress<'_>) -> Result<Locked, LockFileError> {
        let options = ParseOptions { allow_missing_hashes: true };
        let recipe = parse_recipe_with(file_name, text, options).map_err(LockFileError::Recipe)?;
        let mut hashes = BTreeMap::new();
        let mut added = Vec::new();
        for (number, source) in recipe.sources.iter().enumerate() {
            let Origin::Urls { urls, sha256: None, blake3: None, .. } = &source.origin else { continue };
            let name = source.name.written();
            let plain: Option<Vec<String>> = urls.iter().map(|url| url.literal().map(str::to_owned)).collect();
            let plain = plain.ok_or_else(|| LockFileError::Axes { name: name.clone() })?;
            let (_, sha256) = self.urls(&name, &plain, Expected::default(), on_progress)?;
            // Without an expected hash the bytes were looked at, so there is a digest.
            let Some(sha256) = sha256 else { continue };
            hashes.insert(number, SourceHash::Sha256(sha256.to_string()));
            added.push((name, sha256.to_string()));
        }
        let text = lock_edits(file_name, text, &hashes)?;
        Ok(Locked { text, added })
    }
}
