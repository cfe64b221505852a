//! The provider's side: which blob is a blob's chunk list, and bytes without proof.

use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::sync::Arc;
use std::time::{Duration, Instant};

use barnraiser_protocol::id::{BlobHash, NodeId};
use barnraiser_protocol::transfer::{Answer, ByteRange, Data, GET_BYTES_MAX, Held};
use barnraiser_store::Store;

use super::making::May;
use crate::net::Context;

/// How long an answer waits for a list that is being made: less than a peer waits for an answer.
const MAKING: Duration = Duration::from_secs(5);

/// The answer to `node`'s request for a blob's chunk list. Making one reads the whole blob, so one is made at a time, and each
/// once; who asks for one that takes long hears that the provider is busy, and finds it later.
pub(in crate::transfer) async fn chunks(context: &Arc<Context>, node: NodeId, hash: BlobHash) -> Answer {
    let store = context.config.store.clone();
    let known = tokio::task::spawn_blocking(move || store.known_chunk_list(&hash)).await;
    if let Ok(Ok(Some((list, length)))) = known {
        return Answer::Chunks { list, length };
    }
    match context.making().may(&node, &hash, Instant::now()) {
        May::Make => {}
        May::Later => return Answer::Busy,
        May::Never => return Answer::NotFound,
    }
    let Ok(permit) = Arc::clone(&context.chunking).try_acquire_owned() else { return Answer::Busy };
    let shared = context.clone();
    // Goes on when nobody waits for it any more.
    let made = tokio::task::spawn_blocking(move || {
        let (_permit, start) = (permit, Instant::now());
        let made = shared.config.store.chunk_list(&hash);
        shared.making().made(node, hash, matches!(made, Ok(Some(_))), start.elapsed(), Instant::now());
        made
    });
    match tokio::time::timeout(MAKING, made).await {
        Ok(Ok(Ok(Some((list, length))))) => Answer::Chunks { list, length },
        Ok(Ok(Ok(None))) => Answer::NotFound,
        Ok(Ok(Err(error))) => {
            tracing::debug!(%hash, %error, "no chunk list can be made");
            Answer::NotFound
        }
        Ok(Err(error)) => {
            tracing::error!(%hash, %error, "no chunk list was made");
            Answer::NotFound
        }
        Err(_) => Answer::Busy,
    }
}

/// The answer to a request for pieces of a blob of `length` bytes, and the pieces. Each byte is proven as it is read.
pub(in crate::transfer) fn pieces(store: &Store, hash: &BlobHash, ranges: &[ByteRange], length: u64) -> (Answer, Option<Vec<u8>>) {
    if !are_pieces(ranges, length) {
        return (Answer::NotFound, None);
    }
    match read(store, hash, ranges) {
        Ok(bytes) => (Answer::Found { length, held: Held::All, data: Data::Pieces }, Some(bytes)),
        Err(error) => {
            tracing::warn!(%hash, %error, "pieces of a blob can't be served");
            (Answer::NotFound, None)
        }
    }
}

/// Whether these are pieces of a blob of `length` bytes: in order, none empty, and none farther from another than the bytes of a
/// unit. All is read and proven that lies between two pieces that are near each other: a byte here and there of a large blob
/// would cost this machine much for a request of a few KiB.
fn are_pieces(ranges: &[ByteRange], length: u64) -> bool {
    let mut at = 0;
    for range in ranges {
        if range.start < at || range.length() == 0 || range.end > length {
            return false;
        }
        at = range.end;
    }
    ranges.first().is_some_and(|first| at - first.start <= GET_BYTES_MAX)
}

fn read(store: &Store, hash: &BlobHash, ranges: &[ByteRange]) -> io::Result<Vec<u8>> {
    let mut reader = store.reader(hash).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(ranges.iter().map(ByteRange::length).sum::<u64>() as usize);
    for range in ranges {
        reader.seek(SeekFrom::Start(range.start))?;
        let start = bytes.len();
        // At most a unit in all.
        bytes.resize(start + range.length() as usize, 0);
        reader.read_exact(&mut bytes[start..])?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_in_order_within_the_blob_and_no_more_than_a_unit() {
        let range = |start, end| ByteRange { start, end };
        assert!(are_pieces(&[range(0, 1), range(1, 5), range(9, 10)], 10));
        assert!(are_pieces(&[range(5, 5 + GET_BYTES_MAX)], 2 * GET_BYTES_MAX));
        let bad: [&[ByteRange]; 7] = [
            &[],
            &[range(3, 3)],
            &[range(5, 3)],
            &[range(3, 5), range(4, 6)],
            &[range(3, 5), range(0, 2)],
            &[range(3, 11)],
            &[range(0, 1), range(GET_BYTES_MAX, GET_BYTES_MAX + 1)],
        ];
        for ranges in bad {
            assert!(!are_pieces(ranges, if ranges.len() == 2 { 2 * GET_BYTES_MAX } else { 10 }), "{ranges:?}");
        }
    }
}
