//! Bytes to standard output, written by a thread of their own: a reader that is slow, or has stopped, holds up nothing but them.

use std::io::{self, Write as _};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::output::closed_pipe;
use crate::api::Problem;

/// Pieces that may wait for the reader: with those of a fetch, of up to 1 MiB, this is what it keeps in memory.
const AHEAD: usize = 2;

/// Standard output, for bytes. It holds no more than a few pieces.
#[derive(Debug)]
pub(super) struct Pipe {
    pieces: mpsc::Sender<Bytes>,
    written: oneshot::Receiver<io::Result<()>>,
}

impl Pipe {
    /// Begins to write.
    ///
    /// # Errors
    /// [`Problem`] where no thread can be had.
    pub fn to_output() -> Result<Self, Problem> {
        let (pieces, mut received) = mpsc::channel::<Bytes>(AHEAD);
        let (done, written) = oneshot::channel();
        // Not one of the runtime's: they are waited for at the end of the process, and this may wait for its reader for ever.
        let thread = std::thread::Builder::new().name("pipe".into()).spawn(move || {
            let mut out = io::stdout().lock();
            let mut write = || -> io::Result<()> {
                while let Some(piece) = received.blocking_recv() {
                    out.write_all(&piece)?;
                    // What is verified is of use at once.
                    out.flush()?;
                }
                Ok(())
            };
            let result = write();
            // Closed before it is told why: who puts the next piece then asks.
            drop(received);
            let _ = done.send(result);
        });
        thread.map_err(|error| Problem::failed(format!("no thread to write with: {error}")))?;
        Ok(Self { pieces, written })
    }

    /// Hands a piece on, as soon as there is room.
    ///
    /// # Errors
    /// [`Problem`]: that nobody reads any more is [`closed_pipe`].
    pub async fn put(&mut self, piece: Bytes) -> Result<(), Problem> {
        if self.pieces.send(piece).await.is_ok() {
            return Ok(());
        }
        match (&mut self.written).await {
            Ok(Err(error)) => Err(unwritable(&error)),
            _ => Err(Problem::failed("the thread that writes to standard output has ended")),
        }
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// As [`Pipe::put`].
    pub async fn end(self) -> Result<(), Problem> {
        drop(self.pieces);
        match self.written.await {
            Ok(written) => written.map_err(|error| unwritable(&error)),
            Err(_) => Err(Problem::failed("the thread that writes to standard output has ended")),
        }
    }
}

/// Why standard output could not be written.
pub(super) fn unwritable(error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::BrokenPipe => closed_pipe(),
        _ => Problem::failed(format!("writing to standard output: {error}")),
    }
}
