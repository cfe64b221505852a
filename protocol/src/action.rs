//! An action: a build whose inputs are all digests, so that it is a pure function and equal actions are built once.
//!
//! Its canonical bytes hold what can change the output and nothing else: not the recipe's name, not where a source
//! comes from, not the limits on time and memory (DESIGN section 13).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::id::{ActionId, BlobHash};

/// The most bytes an action's canonical form may have.
pub const ACTION_BYTES_MAX: usize = 1 << 20;

/// Domain of [`Action::id`].
const ACTION_DOMAIN: &str = "barnraiser 2026 action v1";

/// What a source blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceForm {
    /// An archive (tar with any compression that `tar` knows, or zip), unpacked inside the sandbox with its one leading folder stripped.
    Archive,
    /// A file, laid down as it is.
    File,
    /// A tree manifest, laid out as a folder.
    Tree,
}

/// A source, at its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The place below `/build`: a folder for [`SourceForm::Archive`] and [`SourceForm::Tree`], a file's path for [`SourceForm::File`].
    pub at: String,
    /// The blob.
    pub blob: BlobHash,
    /// The file name that the blob came under (its ending says which archive format it is); the name of [`Source::at`] otherwise.
    pub file_name: String,
    /// What it is.
    pub form: SourceForm,
}

/// Outputs of another action, read-only at a place in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// An absolute path; several needs may share one, and are laid over each other.
    pub at: String,
    /// The manifest.
    pub tree: BlobHash,
    /// Glob patterns of paths in the manifest; empty means all.
    pub only: Vec<String>,
}

/// The root file system that a build sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rootfs {
    /// The machine's own toolchain.
    Host,
    /// A tree.
    Tree(BlobHash),
}

/// What a build sees beside its inputs, and what the machine must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// The root file system.
    pub rootfs: Rootfs,
    /// Operating system, as Rust's `std::env::consts::OS` spells it.
    pub os: String,
    /// Any of these architectures, as Rust's `std::env::consts::ARCH` spells them; empty means any.
    pub arch: BTreeSet<String>,
    /// Least ISA level, for example `x86-64-v2`; empty means any.
    pub isa: String,
    /// What the machine must have, for example `device:rpi4`.
    pub features: BTreeSet<String>,
    /// Programs that a `host` root file system must have on its `PATH`.
    pub programs: BTreeSet<String>,
}

impl Environment {
    /// The machine's own tools, on any machine of that operating system and one of those architectures; of any where none
    /// is given.
    pub fn host<const N: usize>(os: &str, arch: [&str; N]) -> Self {
        Self {
            rootfs: Rootfs::Host,
            os: os.into(),
            arch: arch.into_iter().map(str::to_owned).collect(),
            isa: String::new(),
            features: BTreeSet::new(),
            programs: BTreeSet::new(),
        }
    }
}

/// One step: its name and the text that the shell runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// For example `build`; a step named `check` fails as [`crate::outcome::FailureClass::Check`].
    pub name: String,
    /// Handed to the shell on its standard input.
    pub script: String,
}

/// A build whose inputs are all digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// Sources, in the recipe's order.
    pub sources: Vec<Source>,
    /// Outputs of other actions, in the recipe's order.
    pub needs: Vec<Need>,
    /// Environment variables of the steps.
    pub vars: BTreeMap<String, String>,
    /// What the build sees.
    pub environment: Environment,
    /// Program and arguments that run a step; the script comes on standard input. Default `["sh", "-e"]`.
    pub shell: Vec<String>,
    /// Steps, in order.
    pub steps: Vec<Step>,
    /// Name in the artefact → file, folder or glob after the build, below `/build`.
    pub outputs: BTreeMap<String, String>,
    /// `SOURCE_DATE_EPOCH`, in seconds.
    pub epoch: u64,
    /// `BARN_CORES`.
    pub cores: u16,
}

impl Action {
    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// The action's name: BLAKE3 of its canonical bytes.
    pub fn id(&self) -> ActionId {
        ActionId(blake3::derive_key(ACTION_DOMAIN, &self.to_bytes()))
    }

    /// The action that `bytes` are the canonical form of.
    ///
    /// # Errors
    /// [`codec::DecodeError`] where they are none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, codec::DecodeError> {
        codec::decode(bytes, ACTION_BYTES_MAX)
    }
}
