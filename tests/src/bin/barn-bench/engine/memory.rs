//! Resident memory of a live record, in a process of its own: it reads the records from its standard input as they come
//! over the wire, so what making them took does not count.

use std::collections::BTreeMap;
use std::io::{BufReader, BufWriter, Read as _};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use barnraiser_protocol::id::BlobHash;
use barnraiser_protocol::record::Record;
use barnraiser_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::figure::Figure;
use super::LIVE;
use super::traffic::{NETWORK, Traffic, drive, onlooker};

/// Bytes of resident memory for each live record.
const BYTES_GOAL: f64 = 600.0;
/// Records after which counting begins: programs, tables and threads are there by then.
const WARM: usize = 2_000;
/// The argument that makes this program the child.
const CHILD: &str = "engine-memory";
/// A frame that holds a graph.
const GRAPH: u8 = b'g';
/// A frame that holds a record.
const RECORD: u8 = b'r';

/// What the child found.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    /// Live records beyond the first.
    records: usize,
    /// Resident bytes beyond the first.
    resident: u64,
}

fn resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no resident memory")?;
    Ok(line.split_whitespace().nth(1).context("no figure")?.parse::<u64>()? * 1024)
}

/// Measures in a child.
pub fn measure(traffic: &Traffic, mix: &str) -> anyhow::Result<Figure> {
    let mut child = Command::new(std::env::current_exe()?).arg(CHILD).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut to = BufWriter::new(child.stdin.take().context("no pipe")?);
    for bytes in traffic.graphs.values() {
        frame(&mut to, GRAPH, Timestamp::default(), bytes)?;
    }
    for (at, record) in &traffic.said {
        // The child leaves once it has enough.
        if frame(&mut to, RECORD, *at, &record.bytes()).is_err() {
            break;
        }
    }
    drop(to);
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the process that is measured failed");
    let found: Found = serde_json::from_slice(&output.stdout)?;
    let each = found.resident as f64 / found.records as f64;
    let note = format!(
        "growth of resident memory from {WARM} to {LIVE} live records, verdicts, leases and what is known of actions included, the bytes of \
         graphs not; {mix}"
    );
    Ok(Figure::lower("engine.memory_per_record", "bytes", BYTES_GOAL, vec![each], note))
}

fn frame(to: &mut impl std::io::Write, kind: u8, at: Timestamp, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(&[kind])?;
    to.write_all(&at.0.to_le_bytes())?;
    to.write_all(&(bytes.len() as u64).to_le_bytes())?;
    to.write_all(bytes)
}

/// What the child does: applies what it reads until enough is live, and says what that took.
pub fn child() -> anyhow::Result<()> {
    let mut from = BufReader::new(std::io::stdin().lock());
    let mut graphs: BTreeMap<BlobHash, Arc<[u8]>> = BTreeMap::new();
    let mut engine = onlooker();
    let mut begin = None;
    let mut head = [0; 17];
    while from.read_exact(&mut head).is_ok() {
        let (at, length) = head[1..].split_at(8);
        let at = Timestamp(u64::from_le_bytes(at.try_into()?));
        let mut bytes = vec![0; usize::try_from(u64::from_le_bytes(length.try_into()?))?];
        from.read_exact(&mut bytes)?;
        if head[0] == GRAPH {
            graphs.insert(BlobHash::of(&bytes), bytes.into());
            continue;
        }
        engine.receive(at, &Record::open(&bytes, NETWORK)?);
        drop(bytes);
        drive(&mut engine, at, &graphs);
        let live = engine.board().len();
        if live >= WARM && begin.is_none() {
            begin = Some((live, resident()?));
        }
        if live >= LIVE {
            break;
        }
    }
    let (records, before) = begin.context("too few records")?;
    let found = Found { records: engine.board().len() - records, resident: resident()?.saturating_sub(before) };
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}
