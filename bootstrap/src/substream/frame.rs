//! Length-prefixed frames on a stream: `u32` little-endian length, then that many bytes.

use std::io;
use std::time::Duration;

use barnraiser_protocol::codec::{self, DecodeError};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a frame was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed, or ended inside a frame.
    #[error("the stream failed: {0}")]
    Io(#[from] io::Error),
    /// Nothing moved for too long.
    #[error("the peer stalled for {0:?}")]
    Stalled(Duration),
    /// The frame is longer than its kind may be, or not of that kind: the peer's fault.
    #[error("a bad frame: {0}")]
    Bad(#[from] DecodeError),
}

impl FrameError {
    /// Whether the peer broke the protocol, rather than its connection broke.
    pub const fn is_misbehaviour(&self) -> bool {
        matches!(self, Self::Bad(_))
    }
}

/// `future`, or [`FrameError::Stalled`] after `patience`.
///
/// # Errors
/// Those of `future`, and the stall.
pub async fn within<T>(patience: Duration, future: impl Future<Output = Result<T, FrameError>>) -> Result<T, FrameError> {
    tokio::time::timeout(patience, future).await.unwrap_or(Err(FrameError::Stalled(patience)))
}

/// Writes `value` as one frame and flushes it.
///
/// # Errors
/// [`FrameError::Io`].
pub async fn write<T: Serialize>(stream: &mut (impl AsyncWrite + Unpin), value: &T) -> Result<(), FrameError> {
    let bytes = codec::encode(value);
    let mut frame = Vec::with_capacity(4 + bytes.len());
    // Frames of ours are far below 4 GiB; a longer one would be refused by the receiver.
    frame.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    frame.extend_from_slice(&bytes);
    stream.write_all(&frame).await?;
    stream.flush().await?;
    Ok(())
}

/// Reads one frame of at most `limit` bytes; `None` where the stream ended before it began.
///
/// # Errors
/// [`FrameError`]. After one the stream is of no more use.
pub async fn read<T: Serialize + DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin), limit: usize) -> Result<Option<T>, FrameError> {
    let mut prefix = [0; 4];
    let first = stream.read(&mut prefix).await?;
    if first == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut prefix[first..]).await?;
    let given = u32::from_le_bytes(prefix) as usize;
    if given > limit {
        return Err(DecodeError::TooLarge { given, limit }.into());
    }
    let mut bytes = vec![0; given];
    stream.read_exact(&mut bytes).await?;
    Ok(Some(codec::decode(&bytes, limit)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::io::Cursor;

    use super::*;

    #[tokio::test]
    async fn oversized_truncated_and_malformed_frames_are_told_apart() {
        let mut bytes = Vec::new();
        write(&mut bytes, &(7u32, true)).await.unwrap();
        assert_eq!(read::<(u32, bool)>(&mut Cursor::new(&bytes), 64).await.unwrap(), Some((7, true)));
        assert_eq!(read::<(u32, bool)>(&mut Cursor::new(&[]), 64).await.unwrap(), None);
        let cut = read::<(u32, bool)>(&mut Cursor::new(&bytes[..6]), 64).await.unwrap_err();
        assert!(!cut.is_misbehaviour());
        let large = read::<(u32, bool)>(&mut Cursor::new(&bytes), 4).await.unwrap_err();
        assert!(large.is_misbehaviour() && large.to_string().contains("at most 4"), "{large}");
        let lying = read::<Vec<u8>>(&mut Cursor::new(u32::MAX.to_le_bytes()), 64).await.unwrap_err();
        assert!(lying.is_misbehaviour());
        bytes[8] = 9;
        assert!(read::<(u32, bool)>(&mut Cursor::new(&bytes), 64).await.unwrap_err().is_misbehaviour());
    }
}
