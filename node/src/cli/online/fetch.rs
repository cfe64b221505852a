//! `barn fetch`: a file from the swarm, through the node, or with a ticket link through a node that lives only for it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use barnraiser_protocol::ticket::{FetchTarget, Ticket, Wanted};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant as Deadline;

use super::super::args::FetchArgs;
use super::super::interrupt::Interrupts;
use super::super::output::{STATUS_CLOSED_PIPE, Table, bytes};
use super::super::pipe::Pipe;
use super::super::progress::Progress;
use super::super::{CommandResult, Exit};
use super::context::{Context, InNetwork};
use super::words::{length, operators, plain};
use crate::api::{Fetch, FetchEvent, Fetched, Problem, ReleasedTarget, Status};
use crate::client::Lines;
use crate::daemon::{Told, ephemeral_fetch};

/// Events and pieces that may wait to be shown.
const AHEAD: usize = 4;
/// How long a node that lives for one fetch may take to end when that is called off.
const CALLING_OFF: Duration = Duration::from_secs(5);

/// `barn fetch`
pub(super) async fn fetch(context: &Context, args: &FetchArgs) -> CommandResult {
    let target: FetchTarget = args.what.parse().map_err(|error| Problem::usage(format!("{error}")))?;
    let to = Destination::choose(args.output.as_deref(), &target.wanted)?;
    let seed = args.seed.as_deref().map(absolute).transpose()?;
    let started = Instant::now();
    let mut interrupts = Interrupts::listen()?;
    let doing = "looking for who has it";
    let progress = match &to {
        Destination::File(_) => Progress::new(&context.out, doing),
        Destination::Output => Progress::beside_bytes(&context.out, doing),
    };
    let mut work = Work { to: &to, progress: &progress, patience: Patience::new(args.timeout), pipe: None };
    let mut source = None;
    let ended = tokio::select! {
        fetched = work.fetch(context, &target, seed, &mut source) => Ok(fetched),
        exit = interrupts.heard() => Err(exit),
    };
    progress.end();
    if let Some(source) = source {
        // What lives for this fetch only puts its house in order.
        source.end().await;
    }
    let fetched = match ended {
        Ok(Ok(fetched)) => fetched,
        Ok(Err(problem)) if problem.status == STATUS_CLOSED_PIPE && matches!(to, Destination::Output) => return Ok(Exit::CLOSED_PIPE),
        Ok(Err(problem)) => return Err(problem),
        Err(exit) => return interrupted(context, &progress, exit),
    };
    let text = fetched_text(&fetched, to.shown(), started.elapsed());
    progress.event("fetched", &Written { file: to.shown(), fetched_bytes: fetched.bytes_by_peer.values().sum(), fetched: &fetched })?;
    match &to {
        Destination::File(_) => context.out.say(text)?,
        Destination::Output => context.out.note(text),
    }
    Ok(Exit::DONE)
}

/// Says what was kept.
fn interrupted(context: &Context, progress: &Progress, exit: Exit) -> CommandResult {
    let kept = match progress.so_far() {
        (0, _) => "nothing had come yet".to_owned(),
        (done, Some(length)) => format!("{} of {} are verified and kept; the same command goes on from there", bytes(done), bytes(length)),
        (done, None) => format!("{} are verified and kept; the same command goes on from there", bytes(done)),
    };
    let message = format!("interrupted: {kept}");
    progress.event("error", &json!({ "exit": exit.0, "message": message }))?;
    context.out.note(format!("barn: {message}"));
    Ok(exit)
}

fn absolute(path: &Path) -> Result<PathBuf, Problem> {
    std::path::absolute(path).map_err(|error| Problem::usage(format!("{}: {error}", path.display())))
}

/// [`Fetched`], and where it is.
#[derive(serde::Serialize)]
struct Written<'a> {
    /// None where it went to standard output.
    file: Option<&'a Path>,
    /// What came from others, in all.
    #[serde(rename = "fetched")]
    fetched_bytes: u64,
    #[serde(flatten)]
    fetched: &'a Fetched,
}

/// Where the bytes go.
enum Destination {
    /// There, absolute: it appears once it is whole.
    File(PathBuf),
    /// To standard output, in order, as they are verified.
    Output,
}

impl Destination {
    fn choose(output: Option<&Path>, wanted: &Wanted) -> Result<Self, Problem> {
        if output == Some(Path::new("-")) {
            return Ok(Self::Output);
        }
        let name = match wanted {
            Wanted::Blob(hash) => hash.to_string(),
            Wanted::Release { name, .. } => name.to_string(),
        };
        let path = match output {
            Some(folder) if folder.is_dir() => folder.join(name),
            Some(file) => file.to_owned(),
            None => PathBuf::from(name),
        };
        // The node has another working folder.
        let path = absolute(&path)?;
        match path.parent() {
            Some(folder) if !folder.is_dir() => {
                Err(Problem::usage(format!("{} is no folder, so nothing can be written to it", folder.display())))
            }
            _ => Ok(Self::File(path)),
        }
    }

    fn shown(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Output => None,
        }
    }
}

/// What the API calls it.
fn name(wanted: &Wanted) -> String {
    match wanted {
        Wanted::Blob(hash) => hash.to_string(),
        Wanted::Release { channel, name } => format!("{}/{}", &**channel, &**name),
    }
}

/// The ticket's network, where a node of this home is a member of it: it has connections, and perhaps the bytes.
async fn of_ticket<'a>(context: &'a Context, ticket: &Ticket) -> Option<InNetwork<'a>> {
    let status: Status = context.client.get("/api/v1/status").await.ok()?;
    let member = status.networks.iter().any(|network| network.id == ticket.network() && network.state == "live");
    member.then(|| InNetwork { context, id: ticket.network() })
}

/// Where what a fetch gives out comes from.
enum Source {
    /// The node of this home; of announced bytes, so many have not come yet.
    Node { lines: Lines<FetchEvent>, announced: u64 },
    /// A node in this process that lives only for this.
    Here { told: mpsc::Receiver<Told>, node: JoinHandle<()> },
}

impl Source {
    /// Through the node of this home.
    async fn node(network: &InNetwork<'_>, ask: &Fetch) -> Result<Self, Problem> {
        let lines = network.context.client.post_lines(&network.path("fetch"), ask).await?;
        Ok(Self::Node { lines, announced: 0 })
    }

    /// Through a node that lives only for this.
    fn here(ticket: Ticket, wanted: Wanted, to: Option<PathBuf>, seed: Option<PathBuf>) -> Self {
        let (follower, told) = mpsc::channel(AHEAD);
        Self::Here { told, node: tokio::spawn(ephemeral_fetch(ticket, wanted, to, seed, follower)) }
    }

    /// Dropping the future loses nothing.
    async fn next(&mut self) -> Result<Option<Told>, Problem> {
        match self {
            Self::Here { told, .. } => Ok(told.recv().await),
            Self::Node { lines, announced } => loop {
                if *announced > 0 {
                    let piece = lines.bytes(*announced).await?;
                    *announced = announced.saturating_sub(piece.len() as u64);
                    return Ok(Some(Told::Bytes(piece)));
                }
                match lines.next().await? {
                    Some(FetchEvent::Bytes { count }) => *announced = count,
                    event => return Ok(event.map(Told::Event)),
                }
            },
        }
    }

    /// Waits until what lives for this has ended; it does, when nobody listens.
    async fn end(self) {
        if let Self::Here { told, node } = self {
            drop(told);
            let _ = tokio::time::timeout(CALLING_OFF, node).await;
        }
    }
}

/// One fetch, as it is followed.
struct Work<'a> {
    to: &'a Destination,
    progress: &'a Progress,
    patience: Patience,
    pipe: Option<Pipe>,
}

impl Work<'_> {
    /// Follows the fetch to its end; `source` is where that goes on, so that it can be ended whatever becomes of this.
    async fn fetch(
        &mut self,
        context: &Context,
        target: &FetchTarget,
        seed: Option<PathBuf>,
        source: &mut Option<Source>,
    ) -> Result<Fetched, Problem> {
        let to = self.to.shown().map(Path::to_owned);
        let ask = Fetch { what: name(&target.wanted), along: to.is_none(), to: to.clone(), seed: seed.clone() };
        let begun = match &target.ticket {
            Some(ticket) => match of_ticket(context, ticket).await {
                Some(network) => self.patience.wait(Source::node(&network, &ask)).await??,
                None => Source::here(ticket.clone(), target.wanted.clone(), to, seed),
            },
            None => {
                let named = Context { network: target.network.clone().or_else(|| context.network.clone()), ..context.clone() };
                self.patience.wait(Source::node(&named.network().await?, &ask)).await??
            }
        };
        self.follow(source.insert(begun)).await
    }

    async fn follow(&mut self, source: &mut Source) -> Result<Fetched, Problem> {
        if self.to.shown().is_none() {
            self.pipe = Some(Pipe::to_output()?);
        }
        loop {
            let next = self.patience.wait(source.next()).await?;
            match next.map_err(|problem| self.cut_off(&problem))? {
                Some(Told::Bytes(piece)) => {
                    if let Some(pipe) = &mut self.pipe {
                        pipe.put(piece).await?;
                        // A slow reader is no slow network.
                        self.patience.renew();
                    }
                }
                Some(Told::Event(event)) => {
                    if let Some(fetched) = self.hear(event)? {
                        if let Some(pipe) = self.pipe.take() {
                            pipe.end().await?;
                        }
                        return Ok(fetched);
                    }
                }
                None => return Err(self.cut_off(&Problem::unreachable("it ended"))),
            }
        }
    }

    /// The node went away.
    fn cut_off(&self, problem: &Problem) -> Problem {
        let have = bytes(self.patience.done);
        let message = format!("the node stopped before the fetch was done ({problem}); {have} are verified and kept for the next time");
        Problem { status: problem.status, message }
    }

    fn hear(&mut self, event: FetchEvent) -> Result<Option<Fetched>, Problem> {
        match event {
            FetchEvent::Started { hash, length, already_had, providers } => {
                self.progress.begins_at(already_had, Some(length));
                self.progress.doing("fetching");
                let fields = json!({ "hash": hash, "length": length, "already_had": already_had, "providers": providers });
                self.progress.event("started", &fields)?;
                if already_had > 0 && already_had < length {
                    self.progress.note(&format!("{} of {} are here already", bytes(already_had), bytes(length)));
                }
                self.patience.saw(already_had);
            }
            FetchEvent::Progress { done, length, providers, bytes_by_peer } => {
                if length == Some(done) && self.pipe.is_none() {
                    self.progress.doing("writing the file");
                }
                self.progress.at(
                    done,
                    length,
                    Some(providers),
                    |rate| json!({ "verified": done, "length": length, "peers": providers, "bytes_by_peer": bytes_by_peer, "rate": rate }),
                )?;
                self.patience.saw(done);
            }
            // Taken by the source.
            FetchEvent::Bytes { .. } => {}
            FetchEvent::Done(fetched) => return Ok(Some(fetched)),
            FetchEvent::Failed(problem) => return Err(problem),
        }
        Ok(None)
    }
}

/// Ends what makes no progress, where the user says after which time.
struct Patience {
    time: Option<Duration>,
    until: Option<Deadline>,
    done: u64,
}

impl Patience {
    fn new(time: Option<Duration>) -> Self {
        Self { time, until: time.map(|time| Deadline::now() + time), done: 0 }
    }

    /// So many bytes are here.
    fn saw(&mut self, done: u64) {
        if done > self.done {
            self.done = done;
            self.renew();
        }
    }

    /// The time begins anew.
    fn renew(&mut self) {
        self.until = self.time.map(|time| Deadline::now() + time);
    }

    /// When it is over.
    async fn lost(&self) -> Problem {
        match self.until {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
        let time = length(self.time.unwrap_or_default());
        let have = bytes(self.done);
        Problem::unreachable(format!("no progress for {time}, with {have} verified; they are kept, and the next try goes on from there"))
    }

    async fn wait<T>(&self, work: impl Future<Output = T>) -> Result<T, Problem> {
        tokio::select! {
            done = work => Ok(done),
            problem = self.lost() => Err(problem),
        }
    }
}

/// What was fetched, and who stands for it.
fn fetched_text(fetched: &Fetched, file: Option<&Path>, took: Duration) -> String {
    let mut facts = Table::plain();
    let mut fact = |name: &str, value: String| facts.row([name.to_owned(), value]);
    if let Some(file) = file {
        fact("file", file.display().to_string());
    }
    fact("BLAKE3", fetched.hash.to_string());
    fact("size", bytes(fetched.length));
    match &fetched.release {
        Some(release) => {
            let signers: Vec<String> = release.signed_by.iter().map(|key| plain(key)).collect();
            fact("release", format!("{} {}, good until {}", plain(&release.channel), release.version, plain(&release.expires)));
            fact("signed by", format!("{} ({} of {} that are wanted)", signers.join(", "), signers.len(), release.threshold));
        }
        None => fact("release", "none that is known here has it: the hash is all that vouches for it".into()),
    }
    for (batch, label, agreeing) in &fetched.built_by {
        let batch = batch.map_or_else(String::new, |batch| format!(" in batch {}", batch.short()));
        fact("built by", format!("{}  ({}{batch})", operators(agreeing), plain(label)));
    }
    let here = |target: &&ReleasedTarget| target.blake3 == fetched.hash;
    if let Some(target) = fetched.release.as_ref().filter(|_| fetched.built_by.is_empty()).and_then(|of| of.targets.values().find(here)) {
        fact(
            "built by",
            match &target.evidence {
                Some(evidence) => format!("not known here: nobody who is reachable has the evidence {evidence}"),
                None => "nobody in the network: there is no evidence for it".into(),
            },
        );
    }
    let served: u64 = fetched.bytes_by_peer.values().sum();
    for (node, count) in &fetched.bytes_by_peer {
        // A share for people: whole per cents are enough.
        let share = count.saturating_mul(100).checked_div(served).unwrap_or(0);
        fact("from", format!("{}  {} ({share} %)", node.short(), bytes(*count)));
    }
    if fetched.copied > 0 {
        fact("copied", format!("{} that older versions have too; {} were fetched", bytes(fetched.copied), bytes(served)));
    }
    if fetched.already_had > 0 {
        fact("here before", bytes(fetched.already_had));
    }
    fact("took", length(took));
    facts.render()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use barnraiser_protocol::id::{BatchId, BlobHash, NodeId};

    use super::super::samples::operator;
    use super::*;

    #[test]
    fn a_fetch_says_who_stands_for_it_and_who_served_it() {
        let fetched = Fetched {
            hash: BlobHash([1; 32]),
            length: 4096,
            already_had: 1024,
            copied: 512,
            bytes_by_peer: BTreeMap::from([(NodeId([7; 32]), 2048), (NodeId([8; 32]), 1024)]),
            release: None,
            built_by: vec![(Some(BatchId([5; 32])), "image".into(), vec![operator(1), operator(2)])],
        };
        let text = fetched_text(&fetched, Some(Path::new("/x/LE.img")), Duration::from_secs(2));
        let wanted = [
            "/x/LE.img",
            "0101010101 0202020202  (image in batch 0505050505)",
            "0707070707  2.0 KiB (66 %)",
            "1.0 KiB (33 %)",
            "512 B that older versions have too; 3.0 KiB were fetched",
            "the hash is all",
        ];
        for part in wanted {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn files_go_where_people_expect_them() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = Wanted::Blob(BlobHash([1; 32]));
        let name = "01".repeat(32);
        let path = |output: Option<&Path>| Destination::choose(output, &wanted).map(|to| to.shown().unwrap().to_owned());
        assert_eq!(path(Some(folder.path())).unwrap(), folder.path().join(&name));
        assert_eq!(path(Some(&folder.path().join("a"))).unwrap(), folder.path().join("a"));
        assert_eq!(path(None).unwrap(), std::env::current_dir().unwrap().join(name));
        assert_eq!(path(Some(&folder.path().join("no/a"))).unwrap_err().exit_code(), 2);
        assert!(Destination::choose(Some(Path::new("-")), &wanted).unwrap().shown().is_none());
    }

    #[tokio::test]
    async fn patience_ends_without_progress_and_grows_with_it() {
        let mut patience = Patience::new(Some(Duration::from_millis(20)));
        let first = patience.until.unwrap();
        patience.saw(100);
        let second = patience.until.unwrap();
        patience.saw(100);
        assert!(first <= second && patience.until == Some(second));
        let problem = patience.wait(std::future::pending::<()>()).await.unwrap_err();
        assert!(problem.exit_code() == 6 && problem.message.contains("100 B"), "{problem}");
        assert!(Patience::new(None).wait(std::future::ready(())).await.is_ok());
    }
}
