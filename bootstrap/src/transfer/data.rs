//! The data that follows an answer: chunks of a `u32` length and that many bytes, up to an end mark.

use std::io;
use std::time::Duration;

use barnraiser_protocol::codec::DecodeError;
use barnraiser_protocol::transfer::{CHUNK_BYTES_MAX, DATA_ABORTED, DATA_END, DATA_ZSTD};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::substream::frame::{FrameError, within};
use crate::traffic::Pace;

/// How data travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is.
    Plain,
    /// As one zstd frame.
    Zstd,
}

/// Reads data of exactly `expected` bytes into `bytes`, each chunk within `patience`; or fewer, compressed, which only who asked
/// for it by `zstd` may be sent. What is in `bytes` is overwritten: who has one that was used already saves the zeroing and the
/// page faults of a new one.
///
/// # Errors
/// [`FrameError::Bad`] where the peer sends another number of bytes, or compressed ones unasked.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
    expected: usize,
    zstd: bool,
    patience: Duration,
) -> Result<Form, FrameError> {
    bytes.resize(expected, 0);
    let (mut read, mut form, mut first) = (0, Form::Plain, true);
    loop {
        let chunk = within(patience, async {
            let mut prefix = [0; 4];
            stream.read_exact(&mut prefix).await?;
            let length = match u32::from_le_bytes(prefix) {
                DATA_END => return Ok(Some(0)),
                DATA_ZSTD if zstd && first => return Ok(None),
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
        first = false;
        match chunk {
            None => form = Form::Zstd,
            Some(0) if form == Form::Zstd => {
                bytes.truncate(read);
                return Ok(form);
            }
            Some(0) if read < expected => return Err(DecodeError::Malformed(format!("{read} of {expected} bytes")).into()),
            Some(0) => return Ok(form),
            Some(length) => read += length,
        }
    }
}

/// Writes `bytes` as data, each chunk within `patience` once it is the peer's turn by `pace`.
///
/// # Errors
/// [`FrameError`].
pub(crate) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    form: Form,
    pace: Pace<'_>,
    patience: Duration,
) -> Result<(), FrameError> {
    let mut mark = (form == Form::Zstd).then_some(DATA_ZSTD);
    for chunk in bytes.chunks(pace.piece(CHUNK_BYTES_MAX)) {
        // With the length, and the mark before or behind.
        pace.pass(4 + chunk.len() + 4).await;
        within(patience, async {
            if let Some(mark) = mark.take() {
                stream.write_all(&mark.to_le_bytes()).await?;
            }
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
    use libp2p::PeerId;

    use super::*;
    use crate::traffic::{Rates, Traffic};

    const PATIENCE: Duration = Duration::from_secs(5);

    async fn written(bytes: &[u8], form: Form) -> Vec<u8> {
        let traffic = Traffic::new(Rates::default());
        let mut wire = Vec::new();
        write(&mut wire, bytes, form, Pace::new(&traffic, PeerId::random()), PATIENCE).await.unwrap();
        wire
    }

    #[tokio::test]
    async fn data_comes_back_whole_and_other_lengths_are_refused() {
        for length in [0, 1, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1, 1 << 20] {
            let bytes = vec![7; length];
            let wire = written(&bytes, Form::Plain).await;
            // A buffer that was used before, for something longer or shorter.
            let mut got = vec![9; 1000];
            assert_eq!(read(&mut Cursor::new(&wire), &mut got, length, true, PATIENCE).await.unwrap(), Form::Plain);
            assert_eq!(got, bytes);
            let longer = read(&mut Cursor::new(&wire), &mut got, length + 1, true, PATIENCE).await.unwrap_err();
            assert!(longer.is_misbehaviour(), "{longer}");
            if length > 0 {
                let shorter = read(&mut Cursor::new(&wire), &mut got, length - 1, true, PATIENCE).await.unwrap_err();
                assert!(shorter.is_misbehaviour(), "{shorter}");
                let cut = read(&mut Cursor::new(&wire[..wire.len() - 4]), &mut got, length, true, PATIENCE).await.unwrap_err();
                assert!(!cut.is_misbehaviour(), "a broken connection is nobody's fault: {cut}");
            }
        }
    }

    /// Compressed data is shorter than what it stands for, and is told apart; unasked, or in the middle, it is a fault.
    #[tokio::test]
    async fn compressed_data_comes_only_to_those_who_asked_and_is_never_longer() {
        let wire = written(&[5; 100_000], Form::Zstd).await;
        let mut got = Vec::new();
        assert_eq!(read(&mut Cursor::new(&wire), &mut got, 1 << 20, true, PATIENCE).await.unwrap(), Form::Zstd);
        assert_eq!(got, [5; 100_000]);
        for (expected, zstd) in [(1 << 20, false), (99_999, true)] {
            assert!(read(&mut Cursor::new(&wire), &mut got, expected, zstd, PATIENCE).await.unwrap_err().is_misbehaviour());
        }
        let twice = [&wire[..4], &wire[..]].concat();
        assert!(read(&mut Cursor::new(&twice), &mut got, 1 << 20, true, PATIENCE).await.unwrap_err().is_misbehaviour());
    }
}
