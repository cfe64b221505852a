//! A village for end-to-end tests: an entry server and nodes, each a process of its own in a home of its own, driven by
//! the command line as people drive it. Nothing here knows how the programs work inside.
//!
//! A [`Village`] is one test's folder; [`Village::home`] gives it homes. Processes end with the value that started them.
//! Waiting is always for a condition, with a deadline ([`wait`]).
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long a node may take to start, or to stop when asked to.
const START_TIME: Duration = Duration::from_secs(30);
const STOP_TIME: Duration = Duration::from_secs(5);
/// Nothing of these reaches the programs: they would find the developer's home or a proxy.
const FOREIGN: &[&str] = &[
    "BARN_HOME",
    "BARN_LOG",
    "XDG_DATA_HOME",
    "RUST_LOG",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
];

/// Looks until `look` gives something, for `time` at most.
///
/// # Errors
/// What `look` failed with, or that `what` did not come to be in time.
pub fn wait<T>(what: &str, time: Duration, mut look: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let until = Instant::now() + time;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(Instant::now() < until, "waited {time:?} for this, in vain: {what}");
        std::thread::sleep(LOOK);
    }
}

/// The folder of programs that the build made.
///
/// # Errors
/// A program is not there.
fn programs() -> anyhow::Result<PathBuf> {
    // Tests lie in `deps`, beside which the programs are.
    let this = std::env::current_exe().context("where is this program?")?;
    let folder = this.ancestors().skip(1).find(|folder| folder.join("barn").is_file());
    let folder = folder.with_context(|| format!("there is no program `barn` above {}; `make build` makes it", this.display()))?;
    ensure!(folder.join("barn-bootstrap").is_file(), "there is no {}/barn-bootstrap; `make build` makes it", folder.display());
    Ok(folder.to_owned())
}

/// The path of a program that the build made.
///
/// # Errors
/// It is not there.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let path = programs()?.join(name);
    ensure!(path.is_file(), "there is no {}; `make build` makes it", path.display());
    Ok(path)
}

/// A process that ends with this value.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a crash would: SIGKILL, without a chance to say goodbye.
    pub fn kill(mut self) {
        self.end_at_once();
    }

    /// Makes it stand still, connections and all, until [`Process::thaw`].
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// Sends it a signal by name. It may have ended by itself.
    pub fn signal(&self, name: &str) {
        let _ = Command::new("/bin/sh").arg("-c").arg(format!("kill -{name} {}", self.child.id())).stderr(Stdio::null()).status();
    }

    /// Waits until it ends by itself; gives its exit code.
    ///
    /// # Errors
    /// It did not end in time, or by a signal.
    pub fn ended(&mut self, time: Duration) -> anyhow::Result<i32> {
        let child = &mut self.child;
        let status = wait("the process ends by itself", time, || Ok(child.try_wait()?))?;
        status.code().with_context(|| format!("ended by a signal: {status}"))
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// It did not end in time, or not well.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.ask_to_end();
        let child = &mut self.child;
        let status = wait("the process ends when it is asked to", STOP_TIME, || Ok(child.try_wait()?))?;
        ensure!(status.success(), "asked to end, the process ended with {status}");
        Ok(())
    }

    fn end_at_once(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn ask_to_end(&self) {
        self.signal("TERM");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.ask_to_end();
            let child = &mut self.child;
            let _ = wait("the process ends", STOP_TIME, || Ok(child.try_wait()?.map(|_| ())));
        }
        self.end_at_once();
    }
}

/// What a node lends, as its `barn.toml` says it.
#[derive(Debug, Clone, Copy)]
pub struct Lend {
    /// Whether it takes builds.
    pub builds: bool,
    /// Cores for all its builds together.
    pub cores: u16,
}

impl Lend {
    /// No builds.
    pub const NOTHING: Self = Self { builds: false, cores: 1 };
    /// One build at a time, of the recipes in these tests.
    pub const ONE_CORE: Self = Self { builds: true, cores: 1 };
}

/// A test's folder, with homes in it.
#[derive(Debug)]
pub struct Village {
    folder: tempfile::TempDir,
    programs: PathBuf,
}

impl Village {
    /// An empty one.
    ///
    /// # Errors
    /// The programs are not built, or there is no room for a folder.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self { folder: tempfile::Builder::new().prefix("barn-e2e-").tempdir()?, programs: programs()? })
    }

    /// The path of that name in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, with the folders above it.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir_all(path.parent().context("a path below the folder")?)?;
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Starts an entry server; gives its address, too.
    ///
    /// # Errors
    /// It does not start.
    pub fn bootstrap(&self) -> anyhow::Result<(Process, String)> {
        self.bootstrap_as(Command::new)
    }

    /// As [`Village::bootstrap`], on an address that others than this machine's programs reach.
    ///
    /// # Errors
    /// It does not start.
    pub fn bootstrap_at(&self, listen: &str) -> anyhow::Result<(Process, String)> {
        self.start_entry(Command::new(self.programs.join("barn-bootstrap")), listen)
    }

    /// As [`Village::bootstrap`], with the command that `of` makes of the program's path.
    ///
    /// # Errors
    /// It does not start.
    pub fn bootstrap_as(&self, of: impl FnOnce(PathBuf) -> Command) -> anyhow::Result<(Process, String)> {
        self.start_entry(of(self.programs.join("barn-bootstrap")), "/ip4/127.0.0.1/tcp/0")
    }

    fn start_entry(&self, mut command: Command, listen: &str) -> anyhow::Result<(Process, String)> {
        command.args(["--listen", listen]);
        for name in FOREIGN {
            command.env_remove(name);
        }
        let log = File::create(self.path("bootstrap.log"))?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let out = child.stdout.take();
        let process = Process { child };
        let mut address = String::new();
        BufReader::new(out.context("its output is a pipe")?).read_line(&mut address)?;
        let address = address.trim().to_owned();
        ensure!(address.contains("/p2p/"), "the entry server printed {address:?} instead of its address");
        Ok((process, address))
    }

    /// A home by that name. Nothing is made yet.
    pub fn home(&self, name: &str) -> Home {
        Home { root: self.path(name), folder: self.folder.path().to_owned(), barn: self.programs.join("barn"), name: name.into() }
    }
}

/// A home, with or without a node that runs on it.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
    folder: PathBuf,
    barn: PathBuf,
    name: String,
}

/// What came of a command.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    fn of(output: Output) -> anyhow::Result<Self> {
        let code = output.status.code().with_context(|| format!("ended by a signal: {}", output.status))?;
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!err.contains("panicked"), "it panicked: {err}");
        Ok(Self { code, out: String::from_utf8(output.stdout)?, err })
    }
}

impl Home {
    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `barn` on this home, in the test's folder, with nothing of the environment that could reach in.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.barn);
        for name in FOREIGN {
            command.env_remove(name);
        }
        command.env("HOME", &self.folder).current_dir(&self.folder).stdin(Stdio::null()).arg("--home").arg(&self.root);
        command
    }

    /// Runs a command to its end, whatever that is.
    ///
    /// # Errors
    /// It can't be run, ended by a signal, or panicked.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<Ran> {
        Ran::of(self.command().args(arguments).output()?)
    }

    /// Runs what must succeed, and gives its output.
    ///
    /// # Errors
    /// It did not succeed.
    pub fn ok(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let Ran { code, out, err } = self.run(arguments)?;
        ensure!(code == 0, "{}: barn {}: exit code {code}\n{out}\n{err}", self.name, arguments.join(" "));
        Ok(out)
    }

    /// Runs what must succeed with `--json`, and gives its last document.
    ///
    /// # Errors
    /// It did not succeed, or printed no JSON.
    pub fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let arguments: Vec<&str> = ["--json"].into_iter().chain(arguments.iter().copied()).collect();
        let out = self.ok(&arguments)?;
        let documents: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(&out).into_iter().collect();
        let last = documents?.pop().with_context(|| format!("barn {} printed nothing", arguments.join(" ")))?;
        ensure!(last["version"] == 1 && last["kind"].is_string(), "not a document of ours: {last}");
        Ok(last)
    }

    /// Runs what must fail with this exit code, and gives what it says on standard error.
    ///
    /// # Errors
    /// It ended otherwise, or said nothing.
    pub fn fails(&self, code: i32, arguments: &[&str]) -> anyhow::Result<String> {
        let ran = self.run(arguments)?;
        let said = !ran.err.trim().is_empty();
        if ran.code != code || !said {
            bail!("{}: barn {}: exit code {}, not {code}\n{}\n{}", self.name, arguments.join(" "), ran.code, ran.out, ran.err);
        }
        Ok(ran.err)
    }

    /// Makes its keys, and settings that lend `lend` and listen on loopback only.
    ///
    /// # Errors
    /// `barn init` failed.
    pub fn init(&self, lend: Lend) -> anyhow::Result<()> {
        self.ok(&["init"])?;
        let Lend { builds, cores } = lend;
        let settings =
            format!("[lend]\nbuilds = {builds}\ncores = {cores}\nmemory = \"1 GiB\"\n\n[listen]\naddresses = [\"/ip4/127.0.0.1/tcp/0\"]\n");
        Ok(fs::write(self.root.join("barn.toml"), settings)?)
    }

    /// Its operator's id.
    ///
    /// # Errors
    /// It has no keys.
    pub fn operator(&self) -> anyhow::Result<String> {
        text(&self.json(&["id"])?["operator"])
    }

    /// Starts its node and waits until that answers.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(&self) -> anyhow::Result<Process> {
        self.start_with(|_| {})
    }

    /// As [`Home::start`], with changes of the command.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_with(&self, change: impl FnOnce(&mut Command)) -> anyhow::Result<Process> {
        let mut process = self.launch(change)?;
        wait(&format!("the node of {} answers", self.name), START_TIME, || {
            if let Some(status) = process.child.try_wait()? {
                bail!("the node of {} ended: {status}\n{}", self.name, fs::read_to_string(self.log())?);
            }
            // The socket may be one of a node before this one: the answer must be of this process.
            let ran = self.run(&["--json", "status"])?;
            Ok((ran.code == 0 && serde_json::from_str::<Value>(&ran.out)?["pid"] == process.child.id()).then_some(()))
        })?;
        Ok(process)
    }

    /// Starts its node and does not wait for it.
    ///
    /// # Errors
    /// There is no such program.
    pub fn launch(&self, change: impl FnOnce(&mut Command)) -> anyhow::Result<Process> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = self.command();
        command.arg("run").stdout(log.try_clone()?).stderr(log);
        change(&mut command);
        Ok(Process { child: command.spawn()? })
    }

    /// Starts a command that ends with the value; its standard output and error are pipes.
    ///
    /// # Errors
    /// It can't be run.
    pub fn begin(&self, arguments: &[&str]) -> anyhow::Result<(Process, ChildStdout, ChildStderr)> {
        let mut child = self.command().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        Ok((Process { child }, out.context("its output is a pipe")?, err.context("its errors are a pipe")?))
    }

    /// Where its node's log goes.
    pub fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    /// `barn status`.
    ///
    /// # Errors
    /// The node does not answer.
    pub fn status(&self) -> anyhow::Result<Value> {
        self.json(&["status"])
    }

    /// Waits until `barn status` is as wanted.
    ///
    /// # Errors
    /// It was not, for so long.
    pub fn wait_status(&self, what: &str, time: Duration, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        let found = wait(&format!("{}: {what}", self.name), time, || {
            last = self.status()?;
            Ok(wanted(&last).then(|| last.clone()))
        });
        found.with_context(|| format!("at last: {last:#}"))
    }

    /// Waits until so many nodes of the network have said lately that they are there, this one included.
    ///
    /// # Errors
    /// It was not so in time.
    pub fn wait_present(&self, network: &str, nodes: usize, time: Duration) -> anyhow::Result<()> {
        let present = |status: &Value| {
            let known = list(&status["networks"]).iter().filter(|known| known["name"] == network);
            let operators = known.flat_map(|known| list(&known["operators"]));
            operators.flat_map(|operator| list(&operator["nodes"])).filter(|node| node[1] == true).count() >= nodes
        };
        self.wait_status(&format!("{nodes} nodes of {network} are there"), time, present).map(drop)
    }

    /// Waits until a job is as wanted; `id` as for `barn job`. A job that is not known yet is waited for.
    ///
    /// # Errors
    /// It was not, for so long.
    pub fn wait_job(&self, what: &str, id: &str, time: Duration, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        let found = wait(&format!("{}: {what}", self.name), time, || {
            let ran = self.run(&["--json", "job", id])?;
            match ran.code {
                0 => last = serde_json::from_str(&ran.out)?,
                // Not known yet, or the node has not learnt the network's charter yet.
                3 | 6 => return Ok(None),
                code => bail!("barn job {id}: exit code {code}: {}{}", ran.out, ran.err),
            }
            Ok(wanted(&last).then(|| last.clone()))
        });
        found.with_context(|| format!("at last: {last:#}"))
    }

    /// Submits a file without waiting; gives the batch's id.
    ///
    /// # Errors
    /// It was refused.
    pub fn submit(&self, file: &Path) -> anyhow::Result<String> {
        text(&self.json(&["submit", path_text(file)?])?["batch"])
    }

    /// Submits a file and waits until all of it is cross-verified; gives the batch's id.
    ///
    /// # Errors
    /// It did not get there in time.
    pub fn submit_and_wait(&self, file: &Path, time: &str) -> anyhow::Result<String> {
        let result = self.json(&["submit", path_text(file)?, "--wait", "--timeout", time])?;
        ensure!(result["reached"] == true, "{result}");
        text(&result["batch"])
    }
}

/// A JSON string.
///
/// # Errors
/// It is something else.
pub fn text(value: &Value) -> anyhow::Result<String> {
    Ok(value.as_str().with_context(|| format!("{value} is no string"))?.to_owned())
}

/// A path as an argument.
///
/// # Errors
/// It is not UTF-8.
pub fn path_text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// A list of JSON.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A recipe of one step on the machine's own toolchain, with one output `out`. `more` is TOML between its head and its steps.
pub fn recipe(name: &str, more: &str, script: &str) -> String {
    format!(
        "[recipe]\nname = \"{name}\"\nversion = \"1\"\nepoch = 1700000000\n\n[environment]\nrootfs = \"host\"\n\n{more}\n[steps]\n\
         build = '''\n{script}\n'''\n\n[outputs]\n\"out\" = \"out\"\n\n\
         [limits]\ncores = 1\nmemory = \"256 MiB\"\nwall = \"2 min\"\nsilent = \"2 min\"\n"
    )
}

/// A batch for `nightly` of recipes beside it, whose targets are `NAME.bin` for the output of each.
pub fn batch(name: &str, recipes: &[&str]) -> String {
    let files: Vec<String> = recipes.iter().map(|recipe| format!("\"{recipe}.toml\"")).collect();
    let targets: Vec<String> = recipes.iter().map(|recipe| format!("\"{recipe}.bin\" = \"{recipe}/out\"\n")).collect();
    format!("[batch]\nname = \"{name}\"\nchannel = \"nightly\"\nrecipes = [{}]\n\n[batch.targets]\n{}", files.join(", "), targets.concat())
}
