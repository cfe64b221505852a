//! Where the demo plays: a temporary folder, the programs beside this one, and processes that end with it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::api::{Problem, Status};
use crate::cli::output::{Output, Style};
use crate::client::Client;
use crate::home::Home;

/// How often it is looked whether something has come to be.
const LOOK: Duration = Duration::from_millis(100);
/// How long a process may take until it answers.
const START_TIME: Duration = Duration::from_secs(30);
/// How long a process may take to end when it is asked to.
const STOP_TIME: Duration = Duration::from_secs(8);
/// Lines of a log that are shown of a process that ended by itself.
const TAIL_LINES: usize = 12;
/// Nothing of these reaches the programs: a home of the person who watches, or their proxy between nodes on one machine.
const FOREIGN: &[&str] = &["BARN_HOME", "BARN_LOG"];

/// Somebody in the demo, with a home.
#[derive(Debug, Clone)]
pub struct Actor {
    /// How the demo calls them.
    pub name: &'static str,
    /// Their home.
    pub home: PathBuf,
    /// Their operator's id, in hexadecimal digits.
    pub operator: String,
    /// Their node's id, in hexadecimal digits.
    pub node: String,
}

/// What a node lends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lends {
    /// One core.
    Core,
    /// One core, to settle disputes only.
    Arbiter,
    /// Nothing.
    Nothing,
}

/// The stage.
pub struct Stage {
    /// How to print.
    pub out: Output,
    folder: PathBuf,
    /// Removes the folder at the end, unless it is to be kept.
    _temporary: Option<tempfile::TempDir>,
    programs: PathBuf,
    processes: Vec<(String, Child)>,
    /// Those that did not end when they were asked to.
    killed: Vec<String>,
}

/// Turns the reason why a file or process could not be had into a problem.
pub fn trouble(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Problem {
    move |error| Problem::failed(format!("{what}: {error}"))
}

impl Stage {
    /// An empty stage, in `keep` (which must not be there yet) or in a folder that is removed at the end.
    ///
    /// # Errors
    /// No folder can be made, or `keep` is there already.
    pub fn new(out: Output, keep: Option<&Path>) -> Result<Self, Problem> {
        let this = std::env::current_exe().map_err(trouble("where is this program?"))?;
        let programs = this.parent().map(Path::to_owned).unwrap_or_default();
        let (folder, temporary) = match keep {
            Some(folder) => {
                let folder = std::path::absolute(folder).map_err(trouble(folder.display()))?;
                fs::create_dir(&folder).map_err(trouble(format!("{}: a new folder is wanted", folder.display())))?;
                (folder, None)
            }
            None => {
                let folder = tempfile::Builder::new().prefix("barn-demo-").tempdir().map_err(trouble("no temporary folder"))?;
                (folder.path().to_owned(), Some(folder))
            }
        };
        Ok(Self { out, folder, _temporary: temporary, programs, processes: Vec::new(), killed: Vec::new() })
    }

    /// The path of that name in the stage's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file into the folder, with the folders above it.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, Problem> {
        let path = self.path(name);
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text));
        written.map_err(trouble(format!("writing {}", path.display())))?;
        Ok(path)
    }

    /// The program of that name beside this one, if it is there.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        Some(self.programs.join(name)).filter(|path| path.is_file())
    }

    /// Says what happens now.
    pub fn heading(&self, text: &str) {
        self.out.note(format!("\n{}", self.out.paint(Style::Strong, text)));
    }

    /// Makes a home: keys, and settings for a node on this machine alone.
    ///
    /// # Errors
    /// `barn init` failed.
    pub async fn actor(&self, name: &'static str, lends: Lends) -> Result<Actor, Problem> {
        let mut actor = Actor { name, home: self.path(name), operator: String::new(), node: String::new() };
        self.json(&actor, &["init"]).await?;
        let (builds, arbiter) = (lends != Lends::Nothing, lends == Lends::Arbiter);
        let settings = format!(
            "[lend]\nbuilds = {builds}\ncores = 1\nmemory = \"1 GiB\"\narbiter_only = {arbiter}\n\n\
             [listen]\naddresses = [\"/ip4/127.0.0.1/tcp/0\", \"/ip4/127.0.0.1/udp/0/quic-v1\"]\n"
        );
        self.write(&format!("{name}/barn.toml"), &settings)?;
        let id = self.json(&actor, &["id"]).await?;
        actor.operator = text(&id, "operator")?;
        actor.node = text(&id, "node")?;
        Ok(actor)
    }

    fn command(&self, actor: &Actor, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("barn"));
        for name in FOREIGN {
            command.env_remove(name);
        }
        command.current_dir(&self.folder).arg("--home").arg(&actor.home).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Shows the command that is about to be run, as its actor would type it.
    pub fn show(&self, actor: &Actor, arguments: &[&str]) {
        let shown: Vec<String> =
            arguments.iter().map(|argument| shorten(&argument.replace(&format!("{}/", self.folder.display()), ""))).collect();
        self.out.note(self.out.paint(Style::Dim, &format!("{:>8} $ barn {}", actor.name, shown.join(" "))));
    }

    /// Runs a command of `barn` with `--json`, and gives its document.
    ///
    /// # Errors
    /// It failed.
    pub async fn json(&self, actor: &Actor, arguments: &[&str]) -> Result<Value, Problem> {
        let arguments: Vec<&str> = ["--json"].into_iter().chain(arguments.iter().copied()).collect();
        let output = self.command(actor, &arguments).output().await.map_err(trouble("barn can't be run"))?;
        // Of commands that stream it is the last one.
        let document = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>().map_while(Result::ok).last();
        match document {
            Some(document) if output.status.success() => Ok(document),
            document => {
                let said = document.and_then(|document| Some(document.get("message")?.as_str()?.to_owned()));
                let said = said.unwrap_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned());
                Err(Problem::failed(format!("{}: barn {}: {}", actor.name, arguments.join(" "), said.trim())))
            }
        }
    }

    /// As [`Stage::json`], and shows the command.
    ///
    /// # Errors
    /// It failed.
    pub async fn shown(&self, actor: &Actor, arguments: &[&str]) -> Result<Value, Problem> {
        self.show(actor, arguments);
        self.json(actor, arguments).await
    }

    /// Shows and runs a command whose progress goes to this program's standard error.
    ///
    /// # Errors
    /// It can't be run.
    pub async fn live(&self, actor: &Actor, arguments: &[&str]) -> Result<ExitStatus, Problem> {
        self.show(actor, arguments);
        let mut command = self.command(actor, arguments);
        command.stdout(Stdio::null()).stderr(if self.out.json || self.out.quiet { Stdio::null() } else { Stdio::inherit() });
        command.status().await.map_err(trouble("barn can't be run"))
    }

    /// Starts the entry server; gives its address.
    ///
    /// # Errors
    /// The program is not there, or does not start.
    pub async fn entry_server(&mut self) -> Result<String, Problem> {
        let program = self.program("barn-bootstrap");
        let missing = || Problem::failed(format!("barn-bootstrap is not in {}; `make build` makes it", self.programs.display()));
        let mut command = lasting(&program.ok_or_else(missing)?);
        command.args(["--listen", "/ip4/127.0.0.1/tcp/0"]).stdout(Stdio::piped());
        let mut child = self.spawn(command, "entry server")?;
        let Some(output) = child.stdout.take() else { return Err(Problem::failed("the entry server has no output")) };
        self.processes.push(("entry server".into(), child));
        let mut line = String::new();
        let mut output = BufReader::new(output);
        let read = timeout(START_TIME, output.read_line(&mut line)).await;
        let read = read.map_err(|_| Problem::failed(format!("the entry server said nothing in {START_TIME:?}")))?;
        read.map_err(trouble("the entry server"))?;
        // What it says later goes nowhere, but must go.
        tokio::spawn(async move { tokio::io::copy(&mut output, &mut tokio::io::sink()).await });
        let address = line.trim().to_owned();
        if !address.contains("/p2p/") {
            return Err(self.ended("entry server").unwrap_or_else(|| Problem::failed(format!("the entry server said {address:?}"))));
        }
        Ok(address)
    }

    /// Starts the node of `actor`: `barn run`, or another program that runs a node.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start(&mut self, actor: &Actor, program: Option<&Path>) -> Result<(), Problem> {
        let barn = self.programs.join("barn");
        let mut command = lasting(program.unwrap_or(&barn));
        command.arg("--home").arg(&actor.home);
        if program.is_none() {
            command.arg("run");
        }
        command.stdout(Stdio::null());
        let child = self.spawn(command, actor.name)?;
        let pid = child.id();
        self.processes.push((actor.name.to_owned(), child));
        let until = Instant::now() + START_TIME;
        let client = Client::connect(&Home::at(&actor.home)?);
        while !matches!(client.get::<Status>("/api/v1/status").await, Ok(status) if Some(status.pid) == pid) {
            if let Some(problem) = self.ended(actor.name) {
                return Err(problem);
            }
            if Instant::now() > until {
                return Err(Problem::unreachable(format!("{}'s node does not answer after {START_TIME:?}", actor.name)));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn spawn(&self, mut command: Command, name: &str) -> Result<Child, Problem> {
        let path = self.log(name);
        let log = File::create(&path).map_err(trouble(path.display()))?;
        for variable in FOREIGN {
            command.env_remove(variable);
        }
        command.current_dir(&self.folder).stdin(Stdio::null()).stderr(log).kill_on_drop(true);
        command.spawn().map_err(trouble(format!("{name} can't be started")))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.path(&format!("{}.log", name.replace(' ', "-")))
    }

    /// What became of a process that has ended, with the end of its log.
    fn ended(&mut self, name: &str) -> Option<Problem> {
        let (_, child) = self.processes.iter_mut().find(|(process, _)| process == name)?;
        let status = child.try_wait().ok().flatten()?;
        let log = fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        Some(Problem::failed(format!("the process of {name} ended by itself ({status})\n{tail}")))
    }

    /// Asks the node of `actor`.
    ///
    /// # Errors
    /// [`Problem`]
    pub async fn ask<T: DeserializeOwned>(&self, actor: &Actor, path: &str) -> Result<T, Problem> {
        Client::connect(&Home::at(&actor.home)?).get(path).await
    }

    /// Looks until `look` gives something.
    ///
    /// # Errors
    /// Not in `time`; what a process that ended meanwhile said last; what `look` failed with.
    pub async fn wait<T>(
        &mut self,
        what: &str,
        time: Duration,
        mut look: impl AsyncFnMut(&Self) -> Result<Option<T>, Problem>,
    ) -> Result<T, Problem> {
        let until = Instant::now() + time;
        loop {
            if let Some(found) = look(self).await? {
                return Ok(found);
            }
            let names: Vec<String> = self.processes.iter().map(|(name, _)| name.clone()).collect();
            if let Some(problem) = names.iter().find_map(|name| self.ended(name)) {
                return Err(problem);
            }
            if Instant::now() > until {
                return Err(Problem::unreachable(format!("waited {} s, in vain, until {what}", time.as_secs())));
            }
            sleep(LOOK).await;
        }
    }

    /// Ends the nodes of `actors`.
    pub async fn stop(&mut self, actors: &[Actor]) {
        let (ending, going_on) = self.processes.drain(..).partition(|(name, _)| actors.iter().any(|actor| actor.name == name));
        self.processes = going_on;
        let killed = end(ending).await;
        self.killed.extend(killed);
    }

    /// Ends all processes. Gives the names of those that had to be killed, now or before.
    pub async fn clear(&mut self) -> Vec<String> {
        let processes = std::mem::take(&mut self.processes);
        let killed = end(processes).await;
        self.killed.extend(killed);
        std::mem::take(&mut self.killed)
    }
}

/// Ends processes: asked first, killed where they don't. Gives the names of those that had to be killed.
async fn end(processes: Vec<(String, Child)>) -> Vec<String> {
    for (_, child) in &processes {
        // One that has ended has no id any more.
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
    let until = Instant::now() + STOP_TIME;
    let mut killed = Vec::new();
    for (name, mut child) in processes {
        if tokio::time::timeout_at(until, child.wait()).await.is_err() {
            let _ = child.kill().await;
            killed.push(name);
        }
    }
    killed
}

/// A program that ends when this one does, however that ends.
fn lasting(program: &Path) -> Command {
    let setpriv = ["/usr/bin/setpriv", "/bin/setpriv"].into_iter().find(|path| Path::new(path).is_file());
    match setpriv {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "TERM", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// Words that nobody would read to the end (tickets, cards, hashes, parts of addresses) by their beginning.
fn shorten(argument: &str) -> String {
    const LONG: usize = 40;
    let short = |part: &str| {
        let is_word = part.chars().all(|c| c.is_ascii_alphanumeric());
        if part.len() > LONG && is_word { format!("{}…", &part[..16]) } else { part.to_owned() }
    };
    argument.split('/').map(short).collect::<Vec<_>>().join("/")
}

/// A field of a document that is text.
///
/// # Errors
/// There is none.
pub fn text(document: &Value, field: &str) -> Result<String, Problem> {
    let value = document.get(field).and_then(Value::as_str);
    value.map(str::to_owned).ok_or_else(|| Problem::failed(format!("{field:?} is missing in {document}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_are_shortened_and_names_are_not() {
        assert_eq!(shorten(&"a".repeat(60)), format!("{}…", "a".repeat(16)));
        assert_eq!(shorten("sources/policy.json"), "sources/policy.json");
        assert_eq!(shorten(&format!("/ip4/127.0.0.1/p2p/{}", "b".repeat(52))), format!("/ip4/127.0.0.1/p2p/{}…", "b".repeat(16)));
    }
}
