//! `barn store …`

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// The commands of `barn store`.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Take a file or folder in, to be kept; prints its hash
    Add(StoreAddArgs),
    /// Write a blob to a file, or lay a tree out in a folder
    Get(StoreGetArgs),
    /// The blobs that are here
    Ls(StoreLsArgs),
    /// Keep a blob from being evicted
    Pin(PinArgs),
    /// Remove your pin of a blob
    Unpin(UnpinArgs),
    /// Collect garbage
    Gc(GcArgs),
    /// Read and prove everything; damaged blobs are fetched again where a node runs
    Scrub,
    /// How much is here
    Stats,
}

/// `barn store add`
#[derive(Debug, Args)]
pub struct StoreAddArgs {
    /// A file, a folder (which becomes a tree), or - for standard input
    #[arg(value_name = "FILE|FOLDER|-")]
    pub what: PathBuf,
}

/// `barn store get`
#[derive(Debug, Args)]
pub struct StoreGetArgs {
    /// The blob: its hash, or any unique beginning of it
    pub hash: String,
    /// Where to write it; - for standard output [default: the hash, in this folder]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// It is a tree: lay it out in that folder
    #[arg(long)]
    pub tree: bool,
}

/// `barn store ls`
#[derive(Debug, Args)]
pub struct StoreLsArgs {
    /// Only blobs whose hash begins so
    #[arg(default_value = "", hide_default_value = true)]
    pub hash: String,
}

/// `barn store pin`
#[derive(Debug, Args)]
pub struct PinArgs {
    /// The blob: its hash, or any unique beginning of it
    pub hash: String,
    /// It is a tree: keep all that is in it
    #[arg(long)]
    pub tree: bool,
}

/// `barn store unpin`
#[derive(Debug, Args)]
pub struct UnpinArgs {
    /// The blob: its hash, or any unique beginning of it
    pub hash: String,
    /// Give up the promise to keep it, too: what was added or built here may be evicted then
    #[arg(long)]
    pub release: bool,
    /// It is a tree: release all that is in it
    #[arg(long, requires = "release")]
    pub tree: bool,
}

/// `barn store gc`
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Evict what is only cached, the longest unused first, until all blobs take so much at most, for example "20 GiB"; 0 B
    /// evicts all that can be fetched again [default: evict nothing that could be of use]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub quota: Option<u64>,
}

fn size(text: &str) -> Result<u64, String> {
    barnraiser_protocol::recipe::parse_size(text).map_err(|error| error.to_string())
}
