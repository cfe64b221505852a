//! Blobs on disk, their hash trees, and the metadata beside them.
//!
//! A blob is named by the BLAKE3 of its plain bytes. What [`Store`] hands out is verified against that name, always: a
//! byte that changed on disk is refused, never served. What was imported as [`Durability::Announced`] survives a power
//! loss from the moment the call returns.
//!
//! The crate touches files under its root and nothing else: no network, no policy. All calls block; async callers go
//! through a thread of their own.
//!
//! Where to go next: [`Store`] for everything, [`PartialBlob`] for what is being fetched, [`geometry`] for the sizes
//! that peers agree on, [`disk`] for the file layer under it, `docs/src/store.md` for layout and durability.
#![forbid(unsafe_code)]

mod chunking;
pub mod disk;
mod error;
mod export;
mod gc;
pub mod geometry;
mod hashing;
mod import;
mod keep;
mod listing;
mod metadata;
mod outline;
mod partial;
mod quota;
mod read;
mod seeds;
mod store;
mod tree;
mod verify;

pub use error::{Fault, ImportError, LayOutError, OpenError, PartialError, ReadError};
pub use gc::{Collected, Collecting, Scrubbed};
pub use geometry::{BLOB_BYTES_MAX, GROUP_BYTES, INLINE_BYTES_MAX, UNIT_BYTES};
pub use import::Seen;
pub use keep::Keeping;
pub use listing::BlobInfo;
pub use metadata::{MetaRow, Pin, StoredRecord};
pub use outline::Outline;
pub use partial::{PartialBlob, check_length};
pub use quota::{Hold, Quota};
pub use read::{Available, BlobReader};
pub use seeds::{Seed, Seeds, UnitPlan};
pub use store::{Durability, Stats, Store, StoreOptions};
pub use tree::{LayOut, Pattern};
