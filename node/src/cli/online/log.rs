//! `barn log`: what a build printed, whole or as it goes on.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use barnraiser_protocol::engine::query::JobView;
use barnraiser_protocol::id::OperatorId;
use bytes::Bytes;
use regex::Regex;

use super::super::args::LogArgs;
use super::super::output::{Output, closed_pipe};
use super::super::{CommandResult, Exit};
use super::context::{Context, InNetwork, segment};
use super::jobs::find_job;
use super::words::{plain, printable};
use crate::api::Problem;

/// How soon a log that is followed is asked for more.
const ASK_AGAIN: Duration = Duration::from_millis(300);
/// The most bytes of one line that are held back until its end comes.
const LINE_BYTES_MAX: usize = 1 << 20;
/// How much of a log's end is looked at for its last lines.
const TAIL_BYTES: u64 = 64 << 10;

/// `barn log ID`
pub(super) async fn log(context: &Context, args: &LogArgs) -> CommandResult {
    let network = context.network().await?;
    let job = find_job(&network, &args.id).await?;
    let mut reader = Reader { network: &network, job: &job, by: args.by.as_deref().map(str::to_ascii_lowercase), offset: 0 };
    let mut printer = Printer::new(context.out, args);
    let mut settled = false;
    loop {
        match reader.part().await {
            Ok(part) => {
                printer.print(&part.bytes)?;
                if part.complete || (part.bytes.is_empty() && !args.follow) {
                    break;
                }
                if part.bytes.is_empty() {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            }
            // Not built yet, or committed and not revealed: both end by themselves. Once the job is settled there is
            // one more look, since the result may have come in between.
            Err(problem) if args.follow && problem.status == 404 && !settled => {
                let path = network.path(&format!("batches/{}/jobs/{}", job.batch, job.index.0));
                let now: JobView = context.client.get(&path).await?;
                settled = now.state.is_over();
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Err(problem) => return Err(problem),
        }
    }
    printer.end()?;
    Ok(Exit::DONE)
}

/// The last lines of the log of a job that was attested, and whose it is: first of those whose word stands.
///
/// # Errors
/// [`Problem`] where the log is known and can't be had.
pub(super) async fn tail(network: &InNetwork<'_>, job: &JobView, lines: usize) -> Result<Option<(OperatorId, String)>, Problem> {
    let with_log = |attestation: &&barnraiser_protocol::engine::query::AttestationView| {
        attestation.particulars.as_ref().is_some_and(|told| told.log.is_some())
    };
    let stands = |operator: &OperatorId| job.verdict.as_ref().is_some_and(|verdict| verdict.agreeing.contains(operator));
    let mut attested: Vec<_> = job.attestations.iter().filter(with_log).collect();
    attested.sort_by_key(|attestation| !stands(&attestation.operator));
    let Some(first) = attested.first() else { return Ok(None) };
    let log_length = first.particulars.as_ref().map_or(0, |told| told.log_length);
    let offset = log_length.saturating_sub(TAIL_BYTES);
    let mut reader = Reader { network, job, by: Some(first.operator.to_string()), offset };
    let mut bytes = Vec::new();
    loop {
        let part = reader.part().await?;
        bytes.extend_from_slice(&part.bytes);
        // A liar may have said any length; only the end is wanted.
        let surplus = bytes.len().saturating_sub(TAIL_BYTES as usize);
        bytes.drain(..surplus);
        if part.complete || part.bytes.is_empty() {
            return Ok(Some((first.operator, last_lines(&String::from_utf8_lossy(&bytes), lines))));
        }
    }
}

fn last_lines(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let last: Vec<String> = all[all.len().saturating_sub(lines)..].iter().map(|line| plain(line)).collect();
    last.join("\n")
}

/// Reads a log from an offset on.
struct Reader<'a> {
    network: &'a InNetwork<'a>,
    job: &'a JobView,
    by: Option<String>,
    offset: u64,
}

struct Part {
    bytes: Bytes,
    complete: bool,
}

impl Reader<'_> {
    async fn part(&mut self) -> Result<Part, Problem> {
        let by = self.by.as_deref().map_or_else(String::new, |by| format!("&by={}", segment(by)));
        let path = format!("batches/{}/jobs/{}/log?offset={}{by}", self.job.batch, self.job.index.0, self.offset);
        let (headers, bytes) = self.network.context.client.get_bytes(&self.network.path(&path)).await?;
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let complete = header("x-barn-complete") == Some("true");
        // The rest must be of the same build: an offset into one log means nothing in another.
        if let Some(operator) = header("x-barn-operator").filter(|operator| !operator.is_empty()) {
            self.by = Some(operator.to_owned());
        }
        self.offset += bytes.len() as u64;
        Ok(Part { bytes, complete })
    }
}

/// Prints a log that comes in parts.
struct Printer<'a> {
    out: Output,
    filter: Filter<'a>,
    /// Bytes go out as they came: no filter, and nobody's terminal.
    raw: bool,
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
}

impl<'a> Printer<'a> {
    fn new(out: Output, args: &'a LogArgs) -> Self {
        let filter = Filter { step: args.step.as_deref(), pattern: args.grep.as_ref(), inside: false, step_seen: false };
        let raw = filter.step.is_none() && filter.pattern.is_none() && !out.json && !io::stdout().is_terminal();
        Self { out, filter, raw, begun: Vec::new() }
    }

    fn print(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        if self.raw {
            return write_raw(bytes);
        }
        self.begun.extend_from_slice(bytes);
        let whole = match self.begun.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => at + 1,
            None if self.begun.len() > LINE_BYTES_MAX => self.begun.len(),
            None => return Ok(()),
        };
        let lines: Vec<u8> = self.begun.drain(..whole).collect();
        self.lines(&lines)
    }

    fn lines(&mut self, lines: &[u8]) -> Result<(), Problem> {
        let text = String::from_utf8_lossy(lines);
        let mut kept: Vec<String> = Vec::new();
        for line in text.lines().filter(|line| self.filter.keeps(line)) {
            self.out.stream("log-line", &serde_json::json!({ "line": line }))?;
            kept.push(printable(line, self.out.color));
        }
        if kept.is_empty() { Ok(()) } else { self.out.say(kept.join("\n")) }
    }

    /// What is left at the end, and whether the step that was asked for was there at all.
    fn end(&mut self) -> Result<(), Problem> {
        let rest = std::mem::take(&mut self.begun);
        self.lines(&rest)?;
        match self.filter.step {
            Some(step) if !self.filter.step_seen => Err(Problem::not_found(format!("the log has no step {step:?}"))),
            _ => Ok(()),
        }
    }
}

/// Which lines are wanted.
struct Filter<'a> {
    step: Option<&'a str>,
    pattern: Option<&'a Regex>,
    /// Whether the lines that come are of the wanted step.
    inside: bool,
    step_seen: bool,
}

impl Filter<'_> {
    fn keeps(&mut self, line: &str) -> bool {
        if let Some(step) = self.step {
            // As the builder's driver writes them.
            if let Some(begins) = line.strip_prefix("==> step ") {
                self.inside = begins == step;
                self.step_seen |= self.inside;
            } else if line.starts_with("==> unpack ") {
                self.inside = false;
            }
            if !self.inside {
                return false;
            }
        }
        self.pattern.is_none_or(|pattern| pattern.is_match(line))
    }
}

/// Bytes to standard output, as they are.
pub(super) fn write_raw(bytes: &[u8]) -> Result<(), Problem> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => closed_pipe(),
        _ => Problem::failed(format!("writing to standard output: {error}")),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn kept(step: Option<&str>, pattern: Option<&str>) -> Vec<String> {
        let pattern = pattern.map(|text| Regex::new(text).unwrap());
        let log = "==> unpack src\nx\n==> step build\ncc a.c\nerror: no\n==> step check\nok\nerror: yes\n";
        let mut filter = Filter { step, pattern: pattern.as_ref(), inside: false, step_seen: false };
        log.lines().filter(|line| filter.keeps(line)).map(str::to_owned).collect()
    }

    #[test]
    fn steps_and_patterns_pick_lines() {
        assert_eq!(kept(None, None).len(), 8);
        assert_eq!(kept(Some("build"), None), ["==> step build", "cc a.c", "error: no"]);
        assert_eq!(kept(Some("check"), Some("error")), ["error: yes"]);
        assert_eq!(kept(None, Some("error")).len(), 2);
        assert_eq!(kept(None, Some("^error: (no|maybe)$")), ["error: no"]);
        assert_eq!(kept(None, Some(r"cc \w+\.c")), ["cc a.c"]);
        assert!(kept(Some("b"), None).is_empty());
    }

    #[test]
    fn only_the_last_lines_are_shown() {
        assert_eq!(last_lines("a\nb\nc\u{1b}[2J\n", 2), "b\nc[2J");
        assert_eq!(last_lines("", 2), "");
    }
}
