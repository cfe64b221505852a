//! What a new blob has in common with files and blobs that are here, and putting its units together of that.
//!
//! [`Store::compare`] cuts the seeds as the new blob's chunk list is cut, and remembers where the chunks that it wants
//! are. [`Seeds::plan`] then says for each unit which bytes can be copied and which must be fetched. Nothing is believed: a
//! unit that was put together counts only when [`crate::PartialBlob::write_assembled`] has proven it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use barnraiser_protocol::id::BlobHash;
use barnraiser_protocol::transfer::chunks::{Chunk, ChunkKey, ChunkList, Cutting};

use crate::chunking::cut;
use crate::geometry::unit_range;
use crate::read::BlobReader;
use crate::store::Store;

/// Where a seed is looked at to see whether it has anything in common with the new blob, ...
const PROBES: u64 = 8;
/// ... so many bytes each time.
const PROBE_BYTES: u64 = 256 << 10;

/// Something that may have bytes in common with a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seed {
    /// A file.
    File(PathBuf),
    /// A blob of the store.
    Blob(BlobHash),
}

/// Seeds that were compared with a blob.
#[derive(Debug)]
pub struct Seeds {
    sources: Vec<Source>,
    /// Where each wanted block and chunk is, by key and length. Looked up and never gone through.
    found: HashMap<(ChunkKey, u32), (usize, u64)>,
}

/// How a unit can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitPlan {
    /// Which unit.
    pub unit: u64,
    /// Its bytes, in order, without gaps.
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// From byte `at` of a seed on.
    Copy { source: usize, at: u64, length: u64 },
    /// These bytes of the blob are in no seed.
    Fetch(Range<u64>),
}

impl UnitPlan {
    /// The bytes of the blob that no seed has, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &Range<u64>> {
        self.parts.iter().filter_map(|part| match part {
            Part::Fetch(range) => Some(range),
            Part::Copy { .. } => None,
        })
    }

    /// How many bytes seeds have.
    pub fn copied(&self) -> u64 {
        let length = |part: &Part| if let Part::Copy { length, .. } = part { *length } else { 0 };
        self.parts.iter().map(length).sum()
    }
}

impl Store {
    /// Finds the blocks and chunks of `list` in `seeds`, which reads all of them. Seeds that can't be read are left out, with a
    /// warning. Takes some 100 bytes of memory for each block and chunk, at most 150 MiB.
    pub fn compare(&self, list: &ChunkList, seeds: &[Seed]) -> Seeds {
        let wanted = wanted(list);
        let mut compared = Seeds { sources: Vec::new(), found: HashMap::new() };
        for seed in seeds {
            let read = self.open_seed(seed).and_then(|mut source| {
                let number = compared.sources.len();
                cut(&mut source, Cutting::of(list.length()), &mut |_, start, bytes| {
                    // A chunk is at most 2 MiB.
                    let chunk = (ChunkKey::of(bytes), bytes.len() as u32);
                    if wanted.contains(&chunk) {
                        compared.found.entry(chunk).or_insert((number, start));
                    }
                })?;
                compared.sources.push(source);
                Ok(())
            });
            if let Err(error) = read {
                // What of it was found must not be looked for in the seed that takes its number.
                let number = compared.sources.len();
                compared.found.retain(|_, (source, _)| *source != number);
                tracing::warn!(?seed, %error, "a seed can't be read");
            }
        }
        compared
    }

    /// How many of some blocks and chunks of a seed are in `list`, and of how many: a look at a few places of it that tells
    /// whether comparing it is worth reading it.
    ///
    /// # Errors
    /// The seed can't be read.
    pub fn probe(&self, list: &ChunkList, seed: &Seed) -> io::Result<(u64, u64)> {
        let wanted = wanted(list);
        let mut source = self.open_seed(seed)?;
        let length = source.length()?;
        let cutting = Cutting::of(list.length());
        let (mut hits, mut seen) = (0, 0);
        for probe in 0..PROBES {
            let block = u64::from(cutting.block);
            source.seek(length / PROBES * probe / block * block)?;
            cut(&mut source.by_ref().take(PROBE_BYTES.max(16 * u64::from(cutting.average))), cutting, &mut |_, _, bytes| {
                // Zeros are in every image.
                if bytes.iter().any(|byte| *byte != 0) {
                    seen += 1;
                    hits += u64::from(wanted.contains(&(ChunkKey::of(bytes), bytes.len() as u32)));
                }
            })?;
        }
        Ok((hits, seen))
    }

    fn open_seed(&self, seed: &Seed) -> io::Result<Source> {
        match seed {
            Seed::File(path) => {
                let file = fs::File::open(path)?;
                if !file.metadata()?.is_file() {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
                }
                Ok(Source::File { file, at: 0 })
            }
            Seed::Blob(hash) => self.reader(hash).map(Source::Blob).map_err(io::Error::other),
        }
    }
}

/// What a list is made of.
fn wanted(list: &ChunkList) -> HashSet<(ChunkKey, u32)> {
    let blocks = list.blocks_in(&(0..list.length()));
    list.chunks().iter().copied().chain(blocks).map(|chunk| (chunk.key, chunk.length)).collect()
}

impl Seeds {
    /// How the unit can be had; none where no seed has anything of it.
    pub fn plan(&self, list: &ChunkList, unit: u64) -> Option<UnitPlan> {
        let range = unit_range(unit, list.length());
        let mut parts: Vec<Part> = Vec::new();
        for chunk in list.chunks_in(&range) {
            let of_unit = chunk.start.max(range.start)..chunk.end().min(range.end);
            if self.add(chunk, &of_unit, &mut parts) {
                continue;
            }
            // Changed, or moved by other than the seed's cuts: perhaps some of its blocks are as they were.
            for block in list.blocks_in(&of_unit) {
                let of_chunk = block.start.max(of_unit.start)..block.end().min(of_unit.end);
                if !self.add(&block, &of_chunk, &mut parts) {
                    match parts.last_mut() {
                        Some(Part::Fetch(piece)) => piece.end = of_chunk.end,
                        _ => parts.push(Part::Fetch(of_chunk)),
                    }
                }
            }
        }
        let plan = UnitPlan { unit, parts };
        (plan.copied() > 0).then_some(plan)
    }

    /// Adds the bytes `range` of a chunk to be copied, if a seed has it. Whether one has.
    fn add(&self, chunk: &Chunk, range: &Range<u64>, parts: &mut Vec<Part>) -> bool {
        let Some(&(source, at)) = self.found.get(&(chunk.key, chunk.length)) else { return false };
        let (at, more) = (at + (range.start - chunk.start), range.end - range.start);
        match parts.last_mut() {
            Some(Part::Copy { source: before, at: from, length }) if *before == source && *from + *length == at => *length += more,
            _ => parts.push(Part::Copy { source, at, length: more }),
        }
        true
    }

    /// The bytes of a unit, of which `pieces` are the planned pieces, one after the other. Not proven.
    ///
    /// # Errors
    /// A seed can't be read any more; the pieces are too short.
    pub fn assemble(&mut self, plan: &UnitPlan, mut pieces: &[u8]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for part in &plan.parts {
            match part {
                // A part is at most a unit.
                Part::Fetch(range) => {
                    let (piece, rest) = pieces.split_at_checked((range.end - range.start) as usize).ok_or(io::ErrorKind::UnexpectedEof)?;
                    bytes.extend_from_slice(piece);
                    pieces = rest;
                }
                Part::Copy { source, at, length } => {
                    let start = bytes.len();
                    bytes.resize(start + *length as usize, 0);
                    let source = self.sources.get_mut(*source).ok_or(io::ErrorKind::NotFound)?;
                    source.read_exact_at(&mut bytes[start..], *at)?;
                }
            }
        }
        Ok(bytes)
    }
}

/// A seed, open.
#[derive(Debug)]
enum Source {
    File { file: fs::File, at: u64 },
    Blob(BlobReader),
}

impl Source {
    fn length(&self) -> io::Result<u64> {
        match self {
            Self::File { file, .. } => Ok(file.metadata()?.len()),
            Self::Blob(reader) => Ok(reader.length()),
        }
    }

    fn seek(&mut self, to: u64) -> io::Result<()> {
        match self {
            Self::File { at, .. } => *at = to,
            Self::Blob(reader) => {
                reader.seek(SeekFrom::Start(to))?;
            }
        }
        Ok(())
    }

    fn read_exact_at(&mut self, buffer: &mut [u8], from: u64) -> io::Result<()> {
        self.seek(from)?;
        self.read_exact(buffer)
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File { file, at } => {
                let count = file.read_at(buffer, *at)?;
                *at += count as u64;
                Ok(count)
            }
            Self::Blob(reader) => reader.read(buffer),
        }
    }
}
