//! Connections that take as long as connections between homes do.
//!
//! Each node runs in a network namespace of its own, which has a loopback and nothing else. Beside it in there runs a relay,
//! a process of this program: it listens on the ports of all the others and carries what comes to their relays, through
//! Unix sockets, which cross namespaces. So each node has the same address everywhere, and nothing goes past a relay.
//!
//! May be used by whoever may make namespaces (`unshare`, `nsenter` and `ip` do it), as the sandbox of builds asks for too.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The hidden area by which this program is a relay.
const AREA: &str = "simulation-relay";
/// Most bytes that are carried as one message.
const PIECE_BYTES: usize = 64 << 10;
/// Most pieces under way in one direction of a connection.
const PIECES_MAX: usize = 256;
/// What a line that is full lets wait in front of it, as the queue of a router.
const QUEUE: Duration = Duration::from_millis(20);

/// What a relay is told, one JSON document a line; it answers each with a line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Order {
    /// Where its own node listens: what other relays bring on `socket` goes there.
    Own { port: u16, socket: PathBuf },
    /// How many bytes its own node can send in a second, over all connections; told first, and without end where it is not.
    Upload { bytes_s: f64 },
    /// Where another node listens, and where that one's relay does.
    Other { port: u16, socket: PathBuf, delay: Delay },
}

/// How long a message takes, one way.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Delay {
    /// The same for all messages of the two nodes, in milliseconds.
    pub fixed_ms: f64,
    /// The mean of what is drawn for each beside that, exponentially distributed, in milliseconds.
    pub jitter_ms: f64,
}

/// A relay and the namespace that it keeps; both end with the value.
#[derive(Debug)]
pub struct Relay {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Relay {
    /// Starts a relay in a new namespace.
    ///
    /// # Errors
    /// There are no namespaces here.
    pub fn start() -> anyhow::Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net"]).arg(std::env::current_exe()?).arg(AREA);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("unshare can't be run")?;
        let orders = child.stdin.take().context("its input is a pipe")?;
        let answers = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        let mut relay = Self { child, orders, answers };
        // The first line says that the namespace is there.
        relay.answer()?;
        Ok(relay)
    }

    /// Tells it something and waits until it has done that.
    ///
    /// # Errors
    /// It could not.
    pub fn tell(&mut self, order: &Order) -> anyhow::Result<()> {
        writeln!(self.orders, "{}", serde_json::to_string(order)?)?;
        self.answer()
    }

    fn answer(&mut self) -> anyhow::Result<()> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(line == "done\n", "a relay ended: network namespaces can't be made here, or a port is taken");
        Ok(())
    }

    /// A command that runs in its namespace.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--preserve-credentials", "--user", "--net", "--target", &self.child.id().to_string()]).arg(program.as_ref());
        command
    }

    /// `command` as one that runs in its namespace, with its environment and its folder.
    pub fn inside(&self, command: &Command) -> Command {
        let mut inside = self.command(command.get_program());
        inside.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            inside.current_dir(folder);
        }
        inside
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The relay's process: carries out orders until there are no more.
///
/// # Errors
/// A port or a socket can't be listened on, or an order can't be read.
pub fn run() -> anyhow::Result<()> {
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("ip can't be run")?;
    ensure!(up.success(), "the loopback of a namespace does not come up");
    println!("done");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut upload: Option<Arc<Upload>> = None;
    for line in std::io::stdin().lines() {
        match serde_json::from_str(&line?)? {
            Order::Upload { bytes_s } => upload = Some(Arc::new(Upload { bytes_s, free: Mutex::new(Instant::now()) })),
            Order::Own { port, socket } => {
                let listener = runtime.block_on(async { UnixListener::bind(socket) })?;
                let upload = upload.clone();
                runtime.spawn(async move {
                    while let Ok((far, _)) = listener.accept().await {
                        let upload = upload.clone();
                        tokio::spawn(async move {
                            if let Ok(own) = connected(TcpStream::connect(("127.0.0.1", port)).await) {
                                join(own, far, None, upload).await;
                            }
                        });
                    }
                });
            }
            Order::Other { port, socket, delay } => {
                let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", port)))?;
                let upload = upload.clone();
                runtime.spawn(async move {
                    while let Ok(own) = connected(listener.accept().await.map(|(from, _)| from)) {
                        let (socket, upload) = (socket.clone(), upload.clone());
                        tokio::spawn(async move {
                            if let Ok(far) = UnixStream::connect(socket).await {
                                join(own, far, Some(delay), upload).await;
                            }
                        });
                    }
                });
            }
        }
        println!("done");
    }
    Ok(())
}

/// Small pieces must not wait for others.
fn connected(stream: std::io::Result<TcpStream>) -> std::io::Result<TcpStream> {
    let stream = stream?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Carries both directions of a connection of its own node until both have ended.
async fn join(own: impl AsyncRead + AsyncWrite, far: impl AsyncRead + AsyncWrite, delay: Option<Delay>, upload: Option<Arc<Upload>>) {
    let (from_own, to_own) = tokio::io::split(own);
    let (from_far, to_far) = tokio::io::split(far);
    tokio::join!(carry(from_own, to_far, delay, upload), carry(from_far, to_own, delay, None));
}

/// Carries one direction. What is later in the stream arrives later, as with TCP.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, delay: Option<Delay>, line: Option<Arc<Upload>>) {
    let (put, mut take) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let read = async move {
        let mut piece = vec![0; PIECE_BYTES];
        let mut last = Instant::now();
        // An error is an end: the one who reads sees the connection close.
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            let through = line.as_ref().map_or_else(Instant::now, |line| line.through(length));
            last = last.max(through + delay.map_or(Duration::ZERO, Delay::draw));
            if put.send((last, piece[..length].to_vec())).await.is_err() {
                return;
            }
            // Until then the sender finds no room.
            tokio::time::sleep_until(through - QUEUE).await;
        }
    };
    let write = async move {
        while let Some((at, piece)) = take.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        // Closed already, perhaps.
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

/// The line on which a node sends, whatever the connection.
#[derive(Debug)]
struct Upload {
    bytes_s: f64,
    /// When all that was sent so far is through.
    free: Mutex<Instant>,
}

impl Upload {
    /// When so many bytes more are through.
    fn through(&self, length: usize) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        *free = (*free).max(Instant::now()) + Duration::from_secs_f64(length as f64 / self.bytes_s);
        *free
    }
}

impl Delay {
    fn draw(self) -> Duration {
        let drawn = self.fixed_ms - unit().ln() * self.jitter_ms;
        Duration::from_secs_f64(drawn.max(0.0) / 1000.0)
    }
}

/// A number between 0 and 1, neither of them included. That it is another one each time is all that is asked of it.
fn unit() -> f64 {
    use std::hash::{BuildHasher as _, RandomState};
    (RandomState::new().hash_one(0) >> 12) as f64 / (1_u64 << 52) as f64 + f64::EPSILON
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_delay_is_what_was_asked_for() {
        let delay = Delay { fixed_ms: 70.0, jitter_ms: 30.0 };
        let total: Duration = (0..20_000).map(|_| delay.draw()).sum();
        let mean_ms = total.as_secs_f64() / 20.0;
        assert!((99.0..101.0).contains(&mean_ms), "{mean_ms}");
    }
}
