//! Runs the programs that sources come through (cargo, apt-get, git, tar), bounded in time and in what they may say.

use std::io::{self, BufReader, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::error::CommandError;

/// The end of a program's standard error that is kept for the message to the person.
const SAID_BYTES_MAX: usize = 2048;
/// How often a running program is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A program that is about to be run.
pub(super) struct Program {
    name: &'static str,
    command: Command,
    limit: Duration,
    missing_advice: &'static str,
    output_bytes_max: usize,
}

impl Program {
    /// `name`, found on the `PATH`; where it isn't, the error gives `missing_advice`.
    pub(super) fn new(name: &'static str, limit: Duration, missing_advice: &'static str) -> Self {
        let mut command = Command::new(name);
        // Messages in English and dates in UTC, whatever the owner's settings: they are read by programs here.
        command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        // A group of its own, so that what the program starts can be ended with it.
        command.process_group(0);
        Self { name, command, limit, missing_advice, output_bytes_max: 1 << 20 }
    }

    /// Arguments, environment, folder.
    pub(super) fn with(mut self, set: impl FnOnce(&mut Command)) -> Self {
        set(&mut self.command);
        self
    }

    /// The most bytes of standard output that [`Program::output`] may give; 1 MiB if this is not called.
    pub(super) fn output_bytes_max(mut self, bytes: usize) -> Self {
        self.output_bytes_max = bytes;
        self
    }

    /// Runs it to its end; gives its standard output.
    pub(super) fn output(self) -> Result<Vec<u8>, CommandError> {
        let mut output = Vec::new();
        let bytes_max = self.output_bytes_max;
        let name = self.name;
        self.stream(|stdout| {
            stdout.take(bytes_max as u64 + 1).read_to_end(&mut output)?;
            Ok(())
        })?;
        if output.len() > bytes_max {
            return Err(CommandError::TooMuch { program: name, limit: bytes_max });
        }
        Ok(output)
    }

    /// Runs it to its end, `read` getting its standard output as it comes. When `read` returns, output that is left is
    /// thrown away.
    pub(super) fn stream<T>(mut self, read: impl FnOnce(&mut dyn Read) -> io::Result<T>) -> Result<T, CommandError> {
        let mut child = self.start(Stdio::null(), Stdio::piped())?;
        // Both were asked to be piped, so both are there.
        let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(CommandError::Start { program: self.name, error: io::Error::other("no pipes") });
        };
        let (limit, name) = (self.limit, self.name);
        std::thread::scope(|scope| {
            let said = scope.spawn(move || last_bytes(&mut stderr));
            let watch = scope.spawn(move || wait(child, limit));
            let read = read(&mut stdout);
            // A program that is not read from would block for ever, so the rest is read and dropped.
            let _ = io::copy(&mut stdout, &mut io::sink());
            let said = said.join().unwrap_or_default();
            let status = match watch.join() {
                Ok(Ok(Some(status))) => status,
                Ok(Ok(None)) => return Err(CommandError::TimedOut { program: name, limit }),
                Ok(Err(error)) => return Err(CommandError::Start { program: name, error }),
                Err(_) => return Err(CommandError::Start { program: name, error: io::Error::other("it could not be watched") }),
            };
            if !status.success() {
                let status = match (status.code(), status.signal()) {
                    (Some(code), _) => format!("exit code {code}"),
                    (None, signal) => format!("signal {}", signal.unwrap_or_default()),
                };
                return Err(CommandError::Failed { program: name, status, said, advice: String::new() });
            }
            read.map_err(|error| CommandError::Start { program: name, error })
        })
    }

    /// Starts it with pipes to talk with it, for as long as the [`Conversation`] lives.
    pub(super) fn converse(mut self) -> Result<Conversation, CommandError> {
        let mut child = self.start(Stdio::piped(), Stdio::null())?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(ask), Some(answers)) => Ok(Conversation { ask, answers: BufReader::new(answers), child }),
            _ => Err(CommandError::Start { program: self.name, error: io::Error::other("no pipes") }),
        }
    }

    fn start(&mut self, stdin: Stdio, stderr: Stdio) -> Result<Child, CommandError> {
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(stderr).spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CommandError::Missing { program: self.name, advice: self.missing_advice },
            _ => CommandError::Start { program: self.name, error },
        })
    }
}

/// A running program that answers questions; ended on drop.
pub(super) struct Conversation {
    /// Its standard input.
    pub(super) ask: ChildStdin,
    /// Its standard output.
    pub(super) answers: BufReader<ChildStdout>,
    child: Child,
}

impl Drop for Conversation {
    fn drop(&mut self) {
        end_group(&self.child);
        let _ = self.child.wait();
    }
}

/// Waits for `child`, at most `limit`; then ends it and all that it started. `None` where it had to be ended.
fn wait(mut child: Child, limit: Duration) -> io::Result<Option<std::process::ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            end_group(&child);
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Kills the group that `child` leads. It has not been waited for yet, so its number still is its own.
fn end_group(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // Fails only where the group is gone already.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}

/// Reads to the end and keeps the last lines, joined by ` / `.
fn last_bytes(from: &mut dyn Read) -> String {
    let mut kept: Vec<u8> = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(count) = from.read(&mut chunk) {
        if count == 0 {
            break;
        }
        kept.extend_from_slice(&chunk[..count]);
        let excess = kept.len().saturating_sub(SAID_BYTES_MAX);
        kept.drain(..excess);
    }
    let text = String::from_utf8_lossy(&kept);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" / ").chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shell(script: &str, limit: Duration) -> Program {
        Program::new("sh", limit, "install a shell").with(|command| {
            command.args(["-c", script]);
        })
    }

    #[test]
    fn output_of_a_program_is_given_back_and_its_last_words_are_kept() {
        assert_eq!(shell("echo barn", Duration::from_secs(10)).output().unwrap(), b"barn\n");
        let error = shell("echo one >&2; echo two >&2; exit 3", Duration::from_secs(10)).output().unwrap_err();
        assert_eq!(error.to_string(), "`sh` failed (exit code 3): one / two");
    }

    /// What a program started must not outlive it, or the pipe would stay open.
    #[test]
    fn program_that_hangs_is_ended_with_its_children() {
        let began = Instant::now();
        let error = shell("sleep 60 & sleep 60", Duration::from_millis(200)).output().unwrap_err();
        assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn program_that_says_too_much_is_refused() {
        let error = shell("head -c 100000 /dev/zero", Duration::from_secs(10)).output_bytes_max(1000).output().unwrap_err();
        assert!(matches!(error, CommandError::TooMuch { limit: 1000, .. }), "{error}");
    }

    #[test]
    fn program_that_is_missing_comes_with_advice() {
        let error = Program::new("barn-no-such-program", Duration::from_secs(1), "install it").output().unwrap_err();
        assert_eq!(error.to_string(), "`barn-no-such-program` is not installed here; install it");
    }
}
