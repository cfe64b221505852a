//! Being told to end: by Ctrl-C, or politely by the system.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Exit;
use crate::api::Problem;

/// What is heard of the signals that end long work in good order. While it lives, they don't end the process by themselves.
#[derive(Debug)]
pub(super) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Listens from now on.
    ///
    /// # Errors
    /// [`Problem`] where the system does not allow it.
    pub fn listen() -> Result<Self, Problem> {
        let listen = |kind| signal(kind).map_err(|error| Problem::failed(format!("signals can't be listened to: {error}")));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for one; gives the exit code that shells show of a process which it ended: 128 and its number.
    pub async fn heard(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::INTERRUPTED,
            _ = self.terminate.recv() => Exit::TERMINATED,
        }
    }
}
