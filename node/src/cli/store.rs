//! `barn store …`: by way of the home's node where one runs, since it has the store; else the command opens the store itself.

use std::io::{self, BufWriter, Write as _};
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use barnraiser_store::Store;
use futures::TryStreamExt as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

use super::args::{StoreCommand, StoreGetArgs};
use super::here::{Here, now};
use super::interrupt::Interrupts;
use super::online::words::{ago, count, plain};
use super::output::{STATUS_CLOSED_PIPE, Style, Table, bytes};
use super::pipe::unwritable;
use super::progress::Progress;
use super::{CommandResult, Exit};
use crate::api::{BlobCount, Problem, StoreAsk, StoreDone, StoreEvent, StoreStats};
use crate::client::{Client, Lines};
use crate::home::{Home, HomeError};
use crate::store_work;

/// Events that may wait to be shown.
const AHEAD: usize = 16;
/// Bytes of standard input that are handed on at once.
const PIECE_BYTES: usize = 256 << 10;

/// `barn store …`
pub(super) async fn run(here: &Here, command: StoreCommand) -> CommandResult {
    let home = here.home()?;
    if !home.exists()? {
        return Err(HomeError::NoHome { root: home.root().to_owned() }.into());
    }
    let work = Work { here, keeper: Keeper::find(here, &home).await? };
    let (is_add, mut interrupts) = (matches!(command, StoreCommand::Add(_)), Interrupts::listen()?);
    tokio::select! {
        done = work.run(command) => done,
        // Whoever does it sees that nobody waits any more, and ends it.
        exit = interrupts.heard() => {
            let message = if is_add { "interrupted: nothing of it is kept" } else { "interrupted" };
            here.out.stream("error", &json!({ "exit": exit.0, "message": message }))?;
            here.out.note(format!("barn: {message}"));
            Ok(exit)
        }
    }
}

/// Who does it.
enum Keeper {
    Node(Client),
    Here(Store),
}

impl Keeper {
    async fn find(here: &Here, home: &Home) -> Result<Self, Problem> {
        if here.status(home).await?.is_some() {
            return Ok(Self::Node(Client::connect(home)));
        }
        let folder = home.store_dir();
        let opened = tokio::task::spawn_blocking(move || Store::open(&folder)).await;
        Ok(Self::Here(opened.map_err(|error| Problem::failed(error.to_string()))??))
    }

    async fn ask(&self, ask: StoreAsk) -> Result<Events, Problem> {
        match self {
            Self::Node(client) => Ok(Events::Node(client.post_lines("/api/v1/store", &ask).await?)),
            Self::Here(store) => Ok(Events::of_work(store, move |store, tell| store_work::run(store, &ask, tell))),
        }
    }
}

/// What happens meanwhile, and at last what came of it.
enum Events {
    Node(Lines<StoreEvent>),
    Here(mpsc::Receiver<StoreEvent>),
}

impl Events {
    fn of_work(store: &Store, work: impl FnOnce(&Store, store_work::Tell<'_>) -> Result<StoreDone, Problem> + Send + 'static) -> Self {
        let (sender, events) = mpsc::channel(AHEAD);
        let store = store.clone();
        tokio::task::spawn_blocking(move || {
            let mut tell = |event| if sender.blocking_send(event).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
            let last = work(&store, &mut tell).map_or_else(StoreEvent::Failed, StoreEvent::Done);
            // Closed before the end is told: the process may end right after it, and another may want the store.
            drop(store);
            let _ = tell(last);
        });
        Self::Here(events)
    }

    async fn next(&mut self) -> Result<Option<StoreEvent>, Problem> {
        match self {
            Self::Node(lines) => lines.next().await,
            Self::Here(events) => Ok(events.recv().await),
        }
    }
}

/// A command, and who does it.
struct Work<'a> {
    here: &'a Here,
    keeper: Keeper,
}

impl Work<'_> {
    /// Does what was typed.
    async fn run(&self, command: StoreCommand) -> CommandResult {
        match command {
            StoreCommand::Add(args) if args.what == Path::new("-") => self.add_input().await,
            StoreCommand::Add(args) => self.add(&args.what).await,
            StoreCommand::Get(args) => self.get(args).await,
            StoreCommand::Ls(args) => self.list(args.hash).await,
            StoreCommand::Pin(args) => self.answer(StoreAsk::Pin { hash: args.hash, tree: args.tree }).await,
            StoreCommand::Unpin(args) => self.answer(StoreAsk::Unpin { hash: args.hash, tree: args.tree, release: args.release }).await,
            StoreCommand::Gc(args) => self.collect(args.quota).await,
            StoreCommand::Scrub => self.scrub().await,
            StoreCommand::Stats => self.answer(StoreAsk::Stats).await,
        }
    }

    /// Follows what happens to its end; `each` gets what is neither progress nor the end.
    async fn follow(
        &self,
        mut events: Events,
        bar: &Progress,
        mut each: impl FnMut(StoreEvent) -> Result<(), Problem>,
    ) -> Result<StoreDone, Problem> {
        loop {
            match events.next().await? {
                Some(StoreEvent::Progress { done, length }) => tell(bar, done, length)?,
                Some(StoreEvent::Done(done)) => return Ok(done),
                Some(StoreEvent::Failed(problem)) => return Err(problem),
                Some(event) => each(event)?,
                None => return Err(Problem::unreachable("the node stopped before it was done")),
            }
        }
    }

    /// The last line of a stream, or the only document.
    fn document(&self, done: &StoreDone, streams: bool) -> Result<(), Problem> {
        let unwritten = |error: serde_json::Error| Problem::failed(format!("the answer can't be written as JSON: {error}"));
        let mut fields = serde_json::to_value(done).map_err(unwritten)?;
        let kind = fields.as_object_mut().and_then(|fields| fields.remove("did"));
        let kind = kind.as_ref().and_then(Value::as_str).unwrap_or("done");
        if streams { self.here.out.stream(kind, &fields) } else { self.here.out.document(kind, &fields) }
    }

    /// A command that is answered at once.
    async fn answer(&self, ask: StoreAsk) -> CommandResult {
        let done = self.follow(self.keeper.ask(ask).await?, &Progress::none(&self.here.out), |_| Ok(())).await?;
        self.document(&done, false)?;
        self.here.out.say(answer_text(&done))?;
        Ok(Exit::DONE)
    }

    async fn collect(&self, quota: Option<u64>) -> CommandResult {
        let bar = Progress::new(&self.here.out, "collecting");
        let done = self.follow(self.keeper.ask(StoreAsk::Gc { quota }).await?, &bar, |_| Ok(())).await;
        bar.end();
        let done = done?;
        self.document(&done, true)?;
        self.here.out.say(answer_text(&done))?;
        Ok(Exit::DONE)
    }

    async fn add(&self, what: &Path) -> CommandResult {
        let path = absolute(what)?;
        let bar = Progress::new(&self.here.out, "taking it in");
        // What can't be read is an error of who does it.
        let length = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file).map(|file| file.len());
        bar.event("started", &json!({ "length": length }))?;
        let done = self.follow(self.keeper.ask(StoreAsk::Add { path }).await?, &bar, |_| Ok(())).await;
        bar.end();
        self.added(&done?)
    }

    /// Standard input, of any length.
    async fn add_input(&self) -> CommandResult {
        let bar = Arc::new(Progress::new(&self.here.out, "taking it in"));
        bar.event("started", &json!({ "length": null }))?;
        let done = match &self.keeper {
            Keeper::Here(store) => {
                let events = Events::of_work(store, |store, tell| store_work::add_reader(store, io::stdin().lock(), tell));
                self.follow(events, &bar, |_| Ok(())).await
            }
            Keeper::Node(client) => {
                let (mut taken, shown) = (0, bar.clone());
                let input = io::stdin().as_fd().try_clone_to_owned();
                let input = input.map_err(|error| Problem::usage(format!("standard input can't be read: {error}")))?;
                let input = tokio::fs::File::from_std(std::fs::File::from(input));
                let input = ReaderStream::with_capacity(input, PIECE_BYTES).inspect_ok(move |piece| {
                    taken += piece.len() as u64;
                    // That it can't be shown is seen when the result is.
                    let _ = tell(&shown, taken, None);
                });
                client.post_stream("/api/v1/store/add", input).await
            }
        };
        bar.end();
        self.added(&done?)
    }

    fn added(&self, done: &StoreDone) -> CommandResult {
        self.document(done, true)?;
        if let StoreDone::Added { hash, length, entries } = done {
            self.here.out.say(hash.to_string())?;
            let what = match entries {
                Some(entries) => format!("a tree of {}, {}", count(*entries, "entry", "entries"), bytes(*length)),
                None => bytes(*length),
            };
            self.here.out.note(format!("{what}, safe on the disk: it survives a power loss, and is kept until you release it"));
        }
        Ok(Exit::DONE)
    }

    async fn get(&self, args: StoreGetArgs) -> CommandResult {
        let StoreGetArgs { hash, output, tree } = args;
        if output.as_deref() == Some(Path::new("-")) {
            if tree {
                return Err(Problem::usage("a tree is laid out in a folder; it can't go to standard output"));
            }
            return match self.get_to_output(hash).await {
                // Who reads it has seen enough.
                Err(problem) if problem.status == STATUS_CLOSED_PIPE => Ok(Exit::CLOSED_PIPE),
                other => other,
            };
        }
        let to = match output {
            Some(folder) if !tree && folder.is_dir() => folder.join(&hash),
            Some(file) => file,
            None => PathBuf::from(&hash),
        };
        let to = absolute(&to)?;
        if let Some(folder) = to.parent().filter(|folder| !folder.is_dir()) {
            return Err(Problem::usage(format!("{} is no folder, so nothing can be written to it", folder.display())));
        }
        let bar = Progress::new(&self.here.out, "writing");
        let done = self.follow(self.keeper.ask(StoreAsk::Get { hash, to, tree }).await?, &bar, |_| Ok(())).await;
        bar.end();
        let done = done?;
        self.document(&done, true)?;
        self.here.out.say(answer_text(&done))?;
        Ok(Exit::DONE)
    }

    /// Verified bytes, in order.
    async fn get_to_output(&self, hash: String) -> CommandResult {
        match &self.keeper {
            Keeper::Here(store) => {
                let store = store.clone();
                let written = tokio::task::spawn_blocking(move || {
                    let mut output = StandardOutput { out: BufWriter::with_capacity(PIECE_BYTES, io::stdout()), failed: None };
                    let info = store_work::find(&store, &hash)?;
                    let written = store_work::write(&store, &info.hash, &mut output).map(drop);
                    let flushed = output.flush();
                    match (output.failed, flushed) {
                        (Some(problem), _) => Err(problem),
                        (None, Err(error)) => Err(unwritable(&error)),
                        (None, Ok(())) => written,
                    }
                });
                written.await.map_err(|error| Problem::failed(error.to_string()))??;
            }
            Keeper::Node(client) => {
                if !hash.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                    return Err(Problem::usage(format!("{hash:?} is no hash")));
                }
                let mut pieces = client.get_pieces(&format!("/api/v1/store/blobs/{hash}")).await?;
                let mut out = io::stdout().lock();
                loop {
                    match pieces.next().await {
                        Ok(Some(piece)) => out.write_all(&piece).map_err(|error| unwritable(&error))?,
                        Ok(None) => break,
                        Err(broken) => return Err(self.why_broken(hash).await.unwrap_or(broken)),
                    }
                }
                out.flush().map_err(|error| unwritable(&error))?;
            }
        }
        Ok(Exit::DONE)
    }

    /// Why the node broke off, where it was damage: it says so when it is asked anew.
    async fn why_broken(&self, hash: String) -> Option<Problem> {
        let events = self.keeper.ask(StoreAsk::Ls { beginning: hash }).await.ok()?;
        let mut damaged = None;
        let bar = Progress::none(&self.here.out);
        let listed = self.follow(events, &bar, |event| {
            if let StoreEvent::Blob(blob) = event
                && blob.damaged
            {
                damaged =
                    Some(Problem::unverified(format!("blob {} is damaged on disk; what was written is right, but not all", blob.hash)));
            }
            Ok(())
        });
        listed.await.ok()?;
        damaged
    }

    async fn list(&self, beginning: String) -> CommandResult {
        let (out, now) = (self.here.out, now());
        let bar = Progress::none(&self.here.out);
        let mut any = false;
        let done = self.follow(self.keeper.ask(StoreAsk::Ls { beginning }).await?, &bar, |event| {
            let StoreEvent::Blob(blob) = event else { return Ok(()) };
            if !any {
                any = true;
                out.say(line("hash", "size", "class", "last used", "pins"))?;
            }
            out.stream("blob", &blob)?;
            let class = if blob.damaged { "damaged" } else { &blob.class };
            out.say(line(&blob.hash.to_string(), &bytes(blob.length), class, &ago(now, blob.last_used), &plain(&blob.pins.join(" "))))
        });
        let done = done.await?;
        self.document(&done, true)?;
        out.note(answer_text(&done));
        Ok(Exit::DONE)
    }

    async fn scrub(&self) -> CommandResult {
        let out = self.here.out;
        let bar = Progress::new(&out, "reading and proving");
        let done = self.follow(self.keeper.ask(StoreAsk::Scrub).await?, &bar, |event| {
            match &event {
                StoreEvent::Damaged(blob) => {
                    out.stream("damaged", blob)?;
                    bar.note(&format!("{} {} ({})", out.paint(Style::Bad, "damaged"), blob.hash, bytes(blob.length)));
                }
                StoreEvent::Mended { hash } => {
                    out.stream("mended", &json!({ "hash": hash }))?;
                    bar.note(&format!("{} {hash}", out.paint(Style::Good, "fetched again")));
                }
                StoreEvent::NotMended { hash, reason } => {
                    out.stream("not-mended", &json!({ "hash": hash, "reason": reason }))?;
                    bar.note(&format!("{} {hash}: {}", out.paint(Style::Bad, "not fetched again"), plain(reason)));
                }
                _ => {}
            }
            Ok(())
        });
        let done = done.await;
        bar.end();
        let done = done?;
        self.document(&done, true)?;
        out.say(answer_text(&done))?;
        let StoreDone::Scrubbed { damaged, .. } = &done else { return Ok(Exit::DONE) };
        if damaged.is_empty() {
            return Ok(Exit::DONE);
        }
        if matches!(self.keeper, Keeper::Here(_)) {
            out.note("no node is running on this home, so nothing was fetched again: start it with `barn run`, then scrub once more");
        }
        Ok(Exit::UNVERIFIED)
    }
}

/// Standard output, which remembers why it failed.
struct StandardOutput {
    out: BufWriter<io::Stdout>,
    failed: Option<Problem>,
}

impl io::Write for StandardOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes).inspect_err(|error| self.failed = Some(unwritable(error)))
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// How far it is.
fn tell(bar: &Progress, done: u64, length: Option<u64>) -> Result<(), Problem> {
    bar.at(done, length, None, |rate| json!({ "done": done, "length": length, "rate": rate }))
}

fn absolute(path: &Path) -> Result<PathBuf, Problem> {
    std::path::absolute(path).map_err(|error| Problem::usage(format!("{}: {error}", path.display())))
}

/// A row of the list. Hashes are all of one length, so the widths are fixed and rows need not wait for each other.
fn line(hash: &str, size: &str, class: &str, used: &str, pins: &str) -> String {
    format!("{hash:64}  {size:>10}  {class:9}  {used:>16}  {pins}").trim_end().to_owned()
}

fn blobs(counted: &BlobCount) -> String {
    format!("{}, {}", number(counted.blobs, "blob", "blobs"), bytes(counted.bytes))
}

fn number(many: u64, one: &str, several: &str) -> String {
    count(usize::try_from(many).unwrap_or(usize::MAX), one, several)
}

/// What came of it, in words.
fn answer_text(done: &StoreDone) -> String {
    match done {
        StoreDone::Added { hash, .. } => hash.to_string(),
        StoreDone::Written { hash, to, length, entries } => {
            let what = entries.map_or_else(String::new, |entries| format!("{}, ", number(entries, "entry", "entries")));
            format!("{}: {what}{} of {}, verified", to.display(), bytes(*length), hash.short())
        }
        StoreDone::Listed { blobs: many, bytes: length } => blobs(&BlobCount { blobs: *many, bytes: *length }),
        StoreDone::Pinned { hash, tree } => {
            format!("{hash} stays{}, until you unpin it", if *tree { ", with all that is in it" } else { "" })
        }
        StoreDone::Unpinned { hash, released, pins } => {
            let more = match (released, pins.as_slice()) {
                (0, []) => String::new(),
                (released, []) => format!("; {} may be evicted now", number(*released, "blob", "blobs")),
                (_, pins) => format!("; other pins keep it: {}", plain(&pins.join(" "))),
            };
            format!("{hash} is not pinned by you any more{more}")
        }
        StoreDone::Collected { blobs: many, bytes: length, orphans, partials, left, free } => {
            let mut text = format!("evicted {}", blobs(&BlobCount { blobs: *many, bytes: *length }));
            for (many, what) in [(orphans, "files removed that nothing referred to"), (partials, "old fetches forgotten")] {
                if *many > 0 {
                    text.push_str(&format!("; {what}: {many}"));
                }
            }
            format!("{text}\nblobs take {} now; {} of the disk are free", bytes(*left), bytes(*free))
        }
        StoreDone::Scrubbed { blobs: many, bytes: length, damaged, mended, recovered } => {
            let mut text = format!("read {}", blobs(&BlobCount { blobs: *many, bytes: *length }));
            let lost = damaged.len() as u64;
            for (many, what) in
                [(*recovered, "taken in again"), (*mended, "damaged and fetched again"), (lost, "damaged and not given out")]
            {
                if many > 0 {
                    text.push_str(&format!("; {}: {many}", what));
                }
            }
            if lost + mended == 0 { format!("{text}; all of it is right") } else { text }
        }
        StoreDone::Stats(stats) => stats_text(stats),
    }
}

fn stats_text(stats: &StoreStats) -> String {
    let mut table = Table::plain();
    table.row(["folder".into(), stats.folder.display().to_string()]);
    for (name, counted, about) in [
        ("announced", &stats.announced, "never evicted"),
        ("cached", &stats.cached, "can be fetched again"),
        ("  pinned", &stats.pinned, "of the cached ones, those that pins keep"),
        ("damaged", &stats.damaged, "in quarantine; `barn store scrub` mends them"),
        ("fetches", &stats.fetches, "begun and not ended"),
    ] {
        table.row([name.into(), blobs(counted), about.into()]);
    }
    table.row(["pins".into(), stats.pins.to_string()]);
    table.row(["database".into(), bytes(stats.database), "small blobs are in it".into()]);
    table.row(["free".into(), bytes(stats.free), "of the disk".into()]);
    if let Some(quota) = stats.quota {
        table.row(["quota".into(), bytes(quota), "then cached ones go, least recently used first".into()]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use barnraiser_protocol::id::BlobHash;

    use super::*;

    #[test]
    fn a_collection_says_what_it_evicted_and_how_much_room_there_is() {
        let done = StoreDone::Collected { blobs: 1, bytes: 2048, orphans: 3, partials: 0, left: 4096, free: 1 << 30 };
        let wanted =
            "evicted 1 blob, 2.0 KiB; files removed that nothing referred to: 3\nblobs take 4.0 KiB now; 1.0 GiB of the disk are free";
        assert_eq!(answer_text(&done), wanted);
    }

    #[test]
    fn a_scrub_that_found_nothing_says_that_all_is_right() {
        let scrubbed = |damaged, mended| StoreDone::Scrubbed { blobs: 2, bytes: 5, damaged, mended, recovered: 0 };
        assert_eq!(answer_text(&scrubbed(vec![], 0)), "read 2 blobs, 5 B; all of it is right");
        let text = answer_text(&scrubbed(vec![BlobHash([1; 32])], 1));
        assert_eq!(text, "read 2 blobs, 5 B; damaged and fetched again: 1; damaged and not given out: 1");
    }

    #[test]
    fn rows_of_the_list_stand_below_their_headings() {
        let heading = line("hash", "size", "class", "last used", "pins");
        let row = line(&"ab".repeat(32), "1.0 MiB", "announced", "3 min 2 s ago", "yours/ab");
        assert_eq!(heading.find("pins"), row.find("yours"));
        assert_eq!(heading.find("class"), row.find("announced"));
    }
}
