//! What maintainers write: recipes and batches, from their text to a graph of jobs. No I/O: the caller reads files.
//!
//! 1. [`parse_recipe`] and [`parse_batch`] turn text into types, or into every error of the file with its line and column.
//! 2. [`expand`] lays recipes out over a batch's matrix: a [`Plan`] with the graph, what each job stands for, and the
//!    sources that are wanted.
//! 3. The caller finds the bytes of each [`SourceRequest`]; [`Plan::resolve`] puts them in and gives the graph that is submitted.
//!
//! [`lock_edits`] writes missing hashes into a recipe and leaves the rest of its text alone. The book's page
//! `recipes.md` describes the format; a test reads its examples.

mod batch;
mod body;
mod check;
mod diagnostic;
mod expand;
mod file;
mod json;
mod lock;
mod matrix;
mod needs;
mod plan;
mod reader;
mod sections;
mod template;
mod units;
mod value;

pub use batch::{BatchFile, Matrix, MatrixEntry, Target, is_batch, parse_batch};
pub use diagnostic::{DIAGNOSTICS_MAX, Diagnostic, Place, SourceText};
pub use expand::{ExpandOptions, expand};
pub use file::{
    Arches, EnvironmentEntry, GitPoint, NeedEntry, Never, Origin, ParseOptions, PlatformEntry, Recipe, RecipeLimits, SourceEntry,
    parse_recipe, parse_recipe_with,
};
pub use lock::{LockError, SourceHash, lock_edits};
pub use plan::{
    CellIndex, EPOCH_DEFAULT, Plan, Planned, RequestId, ResolveError, ResolvedSource, Skipped, SourceKind, SourceRequest, SymbolicKey,
};
pub use template::Text;
pub use units::{UnitError, parse_duration, parse_size};

/// The most bytes a recipe or batch file may have. A recipe is pages, not megabytes; what is larger is a mistake.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// The most axes a matrix may have.
pub const AXES_MAX: usize = 32;
/// The most cells a matrix may have.
pub const CELLS_MAX: usize = 10_000;
/// The most bytes that an axis' value may have.
pub const AXIS_VALUE_BYTES_MAX: usize = 256;
/// The most needs and recipes, each counted once a cell, that one batch may lay out. Bounds the time of [`expand`].
pub const PLACEMENTS_MAX: usize = 4_000_000;

#[cfg(test)]
mod tests;
