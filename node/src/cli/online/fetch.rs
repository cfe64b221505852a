//! `barn fetch`: a file from the swarm, through the node, or with a ticket link through a node that lives only for it.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use barnraiser_bootstrap::FetchProgress;
use barnraiser_protocol::ticket::{FetchTarget, Ticket, Wanted};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::watch;
use tokio::time::Instant as Deadline;

use super::super::args::FetchArgs;
use super::super::output::{Output, Table, bytes, closed_pipe};
use super::super::{CommandResult, Exit};
use super::context::{Context, InNetwork};
use super::words::{length, operators, plain};
use crate::api::{Fetch, FetchEvent, Fetched, Problem, ReleasedTarget, Status};

/// `barn fetch`
pub(super) async fn fetch(context: &Context, args: &FetchArgs) -> CommandResult {
    let target: FetchTarget = args.what.parse().map_err(|error| Problem::usage(format!("{error}")))?;
    let to = Destination::choose(args.output.as_deref(), &target.wanted)?;
    let places = Places { to: to.path().to_owned(), seed: args.seed.as_deref().map(absolute).transpose()? };
    let started = Instant::now();
    let bar = Bar::new(&context.out);
    let patience = Patience::new(args.timeout);
    let fetched = match &target.ticket {
        Some(ticket) => match of_ticket(context, ticket).await {
            Some(network) => by_node(&network, &target.wanted, places, &bar, patience).await,
            None => by_ticket(ticket, &target.wanted, places, &bar, patience).await,
        },
        None => {
            let named = Context { network: target.network.clone().or_else(|| context.network.clone()), ..context.clone() };
            by_node(&named.network().await?, &target.wanted, places, &bar, patience).await
        }
    };
    bar.end();
    let fetched = fetched?;
    let text = fetched_text(&fetched, to.shown(), started.elapsed());
    match &to {
        Destination::File(path) => {
            context.out.document("fetched", &Written { file: path, fetched: &fetched })?;
            context.out.say(text)?;
        }
        Destination::Output { path, .. } => {
            copy_out(path)?;
            context.out.note(text);
        }
    }
    Ok(Exit::DONE)
}

/// The files of a fetch, absolute, since the node has another working folder.
struct Places {
    to: PathBuf,
    seed: Option<PathBuf>,
}

fn absolute(path: &Path) -> Result<PathBuf, Problem> {
    std::path::absolute(path).map_err(|error| Problem::usage(format!("{}: {error}", path.display())))
}

/// [`Fetched`], and where it is.
#[derive(serde::Serialize)]
struct Written<'a> {
    file: &'a Path,
    #[serde(flatten)]
    fetched: &'a Fetched,
}

/// Where the bytes go.
enum Destination {
    /// There, absolute.
    File(PathBuf),
    /// To standard output, by way of a file that is removed afterwards: only what is verified whole is put out.
    Output { path: PathBuf, _folder: tempfile::TempDir },
}

impl Destination {
    fn choose(output: Option<&Path>, wanted: &Wanted) -> Result<Self, Problem> {
        if output == Some(Path::new("-")) {
            let folder = tempfile::Builder::new().prefix("barn-fetch-").tempdir();
            let folder = folder.map_err(|error| Problem::failed(format!("no temporary folder can be made: {error}")))?;
            return Ok(Self::Output { path: folder.path().join("file"), _folder: folder });
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
        let path = absolute(&path)?;
        match path.parent() {
            Some(folder) if !folder.is_dir() => {
                Err(Problem::usage(format!("{} is no folder, so nothing can be written to it", folder.display())))
            }
            _ => Ok(Self::File(path)),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Output { path, .. } => path,
        }
    }

    fn shown(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Output { .. } => None,
        }
    }
}

fn copy_out(path: &Path) -> Result<(), Problem> {
    let mut file = std::fs::File::open(path).map_err(|error| Problem::failed(format!("reading {}: {error}", path.display())))?;
    let mut out = io::stdout().lock();
    let copied = io::copy(&mut file, &mut out).and_then(|_| out.flush());
    copied.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => closed_pipe(),
        _ => Problem::failed(format!("writing to standard output: {error}")),
    })
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

/// Through the node of this home.
async fn by_node(network: &InNetwork<'_>, wanted: &Wanted, places: Places, bar: &Bar, mut patience: Patience) -> Result<Fetched, Problem> {
    let ask = Fetch { what: name(wanted), to: Some(places.to), seed: places.seed };
    let path = network.path("fetch");
    let mut events = patience.wait(network.context.client.post_lines::<_, FetchEvent>(&path, &ask)).await??;
    loop {
        match patience.wait(events.next()).await?? {
            Some(FetchEvent::Progress { done, length, providers }) => {
                bar.at(done, length, providers);
                patience.saw(done);
            }
            Some(FetchEvent::Done(fetched)) => return Ok(fetched),
            Some(FetchEvent::Failed(problem)) => return Err(problem),
            None => {
                return Err(Problem::unreachable("the node stopped before the fetch was done; what is verified is kept for the next time"));
            }
        }
    }
}

/// Through a node that lives only for this.
async fn by_ticket(ticket: &Ticket, wanted: &Wanted, places: Places, bar: &Bar, mut patience: Patience) -> Result<Fetched, Problem> {
    let Wanted::Release { channel, name } = wanted else {
        return Err(Problem::usage(
            "a ticket link to a hash needs a node of its network: `barn join` the ticket first, or fetch CHANNEL/NAME",
        ));
    };
    let (sender, mut progress) = watch::channel(FetchProgress::default());
    let fetching = crate::daemon::ephemeral_fetch(ticket, channel, name, Some(places.to), places.seed, sender);
    tokio::pin!(fetching);
    let mut watching = true;
    loop {
        tokio::select! {
            fetched = &mut fetching => return fetched,
            changed = progress.changed(), if watching => match changed {
                Ok(()) => {
                    let now = progress.borrow_and_update().clone();
                    bar.at(now.verified, now.length, now.bytes_by_peer.len());
                    patience.saw(now.verified);
                }
                // All of it is here; what is left is to write it down.
                Err(_) => watching = false,
            },
            problem = patience.lost() => return Err(problem),
        }
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
            self.until = self.time.map(|time| Deadline::now() + time);
        }
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

/// Shows how far it is, where a person watches.
struct Bar(Option<ProgressBar>);

const TEMPLATE: &str = "[{bar:30}] {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left  {wide_msg}";

impl Bar {
    fn new(out: &Output) -> Self {
        Self(out.live().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // The template is a constant that a test reads.
            bar.set_style(ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar.set_message("looking for who has it");
            bar
        }))
    }

    fn at(&self, done: u64, length: Option<u64>, providers: usize) {
        let Some(bar) = &self.0 else { return };
        if let Some(length) = length {
            bar.set_length(length);
        }
        bar.set_position(done);
        if providers > 0 {
            bar.set_message(super::words::count(providers, "node serves it", "nodes serve it"));
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
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
        let path = |output: Option<&Path>| Destination::choose(output, &wanted).map(|to| to.path().to_owned());
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

    #[test]
    fn the_bar_can_be_drawn() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
