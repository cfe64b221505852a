//! The data that follows an answer: chunks of a `u32` length and that many bytes, up to an end mark.

use std::io;
use std::time::Duration;

use barnraiser_protocol::codec::DecodeError;
use barnraiser_protocol::transfer::{CHUNK_BYTES_MAX, DATA_ABORTED, DATA_END};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::substream::frame::{FrameError, within};

/// Reads data of exactly `expected` bytes into `bytes`, each chunk within `patience`. What is in `bytes` is overwritten: who
/// has one that was used already saves the zeroing and the page faults of a new one.
///
/// # Errors
/// [`FrameError::Bad`] where the peer sends another number of bytes.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
    expected: usize,
    patience: Duration,
) -> Result<(), FrameError> {
    bytes.resize(expected, 0);
    let mut read = 0;
    loop {
        let chunk = within(patience, async {
            let mut prefix = [0; 4];
            stream.read_exact(&mut prefix).await?;
            let length = match u32::from_le_bytes(prefix) {
                DATA_END => return Ok(None),
                DATA_ABORTED => return Err(io::Error::other("the peer could not read on").into()),
                length => length as usize,
            };
            let room = bytes.get_mut(read..read + length).filter(|_| length <= CHUNK_BYTES_MAX);
            let Some(room) = room else {
                return Err(DecodeError::TooLarge { given: read + length, limit: expected }.into());
            };
            stream.read_exact(room).await?;
            Ok(Some(length))
        })
        .await?;
        match chunk {
            Some(length) => read += length,
            None if read < expected => return Err(DecodeError::Malformed(format!("{read} of {expected} bytes")).into()),
            None => return Ok(()),
        }
    }
}

/// Writes `bytes` as data, each chunk within `patience`.
///
/// # Errors
/// [`FrameError`].
pub(super) async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8], patience: Duration) -> Result<(), FrameError> {
    for chunk in bytes.chunks(CHUNK_BYTES_MAX) {
        within(patience, async {
            // A chunk is far below 4 GiB. By itself, its length costs less than putting the two together would.
            stream.write_all(&(chunk.len() as u32).to_le_bytes()).await?;
            Ok(stream.write_all(chunk).await?)
        })
        .await?;
    }
    within(patience, async {
        stream.write_all(&DATA_END.to_le_bytes()).await?;
        Ok(stream.flush().await?)
    })
    .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::io::Cursor;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn data_comes_back_whole_and_other_lengths_are_refused() {
        for length in [0, 1, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1, 1 << 20] {
            let bytes = vec![7; length];
            let mut wire = Vec::new();
            write(&mut wire, &bytes, PATIENCE).await.unwrap();
            // A buffer that was used before, for something longer or shorter.
            let mut got = vec![9; 1000];
            read(&mut Cursor::new(&wire), &mut got, length, PATIENCE).await.unwrap();
            assert_eq!(got, bytes);
            let longer = read(&mut Cursor::new(&wire), &mut got, length + 1, PATIENCE).await.unwrap_err();
            assert!(longer.is_misbehaviour(), "{longer}");
            if length > 0 {
                let shorter = read(&mut Cursor::new(&wire), &mut got, length - 1, PATIENCE).await.unwrap_err();
                assert!(shorter.is_misbehaviour(), "{shorter}");
                let cut = read(&mut Cursor::new(&wire[..wire.len() - 4]), &mut got, length, PATIENCE).await.unwrap_err();
                assert!(!cut.is_misbehaviour(), "a broken connection is nobody's fault: {cut}");
            }
        }
    }
}
