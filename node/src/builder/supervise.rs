//! Watches over one build, on a thread of its own: starts the sandbox, keeps the limits, ends it, and says what came of it.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use barnraiser_protocol::action::Rootfs;
use barnraiser_protocol::bounded::BoundedString;
use barnraiser_protocol::outcome::{FailureClass, Particulars};
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::sync::watch;

use super::beneath::{Beneath, Usage, remove_scratch};
use super::cgroup::{self, Group, GroupUsage};
use super::collect::{OutputSink, collect};
use super::cores::Cores;
use super::driver::{self, Status};
use super::inputs::{self, Archive};
use super::launch;
use super::log::{self, Log};
use super::sandbox::{self, Layout, SandboxInfo};
use super::{BuildOutcome, BuildRequest, Progress, Report, Shell, Variation};

/// How often limits are looked at and progress is told.
const TICK: Duration = Duration::from_millis(100);
/// How often the build folder is measured at most; large ones are measured less often.
const DISK_INTERVAL: Duration = Duration::from_secs(1);
/// Of the time, at most one part in so many goes into measuring.
const DISK_SHARE: u32 = 20;
/// CPU time that counts as a sign of life; less is a process that only waits.
const ALIVE_CPU_MS: u64 = 10;
/// How long a killed sandbox may take to be gone.
const DEATH_WAIT: Duration = Duration::from_secs(10);
/// The most bytes of status lines that are read: a thousand steps need less.
const STATUS_BYTES_MAX: u64 = 1 << 20;
/// Least size of `/tmp`.
const TMP_BYTES_MIN: u64 = 16 << 20;

/// What the supervisor waits for.
pub(super) enum Event {
    /// A line of the sandbox.
    Status(Status),
    /// The sandbox is gone.
    Gone,
    /// The caller wants no result any more.
    Cancel,
}

/// Where events come in, and a way to send more.
pub(super) struct Mailbox {
    pub events: Sender<Event>,
    pub inbox: Receiver<Event>,
}

/// Why a build has no artefact.
#[derive(Debug)]
struct Fault {
    class: FailureClass,
    stage: String,
    message: String,
}

impl Fault {
    fn new(class: FailureClass, stage: impl Into<String>, message: impl Into<String>) -> Self {
        Self { class, stage: stage.into(), message: message.into() }
    }

    fn sandbox(message: impl std::fmt::Display) -> Self {
        Self::new(FailureClass::Sandbox, "sandbox", message.to_string())
    }
}

/// How the watching ended.
enum End {
    /// The sandbox ended by itself.
    Exited,
    /// A limit was passed.
    Limit(Fault),
    /// Cancelled.
    Cancelled,
}

/// A report of a build that never ran.
pub(super) fn refused(class: FailureClass, stage: &str, message: String) -> Report {
    Report {
        outcome: BuildOutcome::Failure { class, stage: stage.to_owned() },
        particulars: Particulars {
            log: None,
            log_length: 0,
            wall_ms: 0,
            cpu_ms: 0,
            memory_peak: 0,
            fingerprint: crate::platform::Platform::this().fingerprint(),
            sandbox: BoundedString::cut("none ran"),
        },
        first_exec: None,
        message: Some(message),
    }
}

/// Does the build, from the first folder to the last removal.
pub(super) fn supervise(
    request: BuildRequest,
    mut sink: Box<dyn OutputSink>,
    progress: watch::Sender<Progress>,
    mailbox: Mailbox,
    started: Instant,
) -> Report {
    let info = match sandbox::sandbox_check() {
        Ok(info) => info,
        Err(problem) => return refused(FailureClass::Sandbox, "sandbox", problem.to_string()),
    };
    let log = match Log::create(&request.log) {
        Ok(log) => log,
        Err(error) => return refused(FailureClass::Sandbox, "log", format!("{}: {error}", request.log.display())),
    };
    let mut build = Build {
        printed: log.printed(),
        log: Some(log),
        request: &request,
        info,
        progress,
        started,
        first_exec: None,
        first_step: None,
        last_step: None,
        step: None,
        unpacking: None,
        unpacked: false,
        code: None,
        done: false,
        usage: GroupUsage::default(),
        init: None,
        input: None,
    };
    let outcome = build.all(mailbox, sink.as_mut());
    build.report(outcome)
}

/// What is known of a build.
struct Build<'a> {
    request: &'a BuildRequest,
    info: &'a SandboxInfo,
    progress: watch::Sender<Progress>,
    /// The log, while no thread pumps into it.
    log: Option<Log>,
    printed: Arc<AtomicU64>,
    started: Instant,
    first_exec: Option<Duration>,
    first_step: Option<Instant>,
    last_step: Option<Instant>,
    /// The step that runs or ran last.
    step: Option<usize>,
    /// The archive that is or was unpacked last.
    unpacking: Option<usize>,
    unpacked: bool,
    /// Exit code of what ended last.
    code: Option<i32>,
    done: bool,
    usage: GroupUsage,
    /// Process 1 of the sandbox, by a descriptor that cannot come to mean another process.
    init: Option<OwnedFd>,
    /// The launcher's and then the driver's standard input, until both were told to go on.
    input: Option<ChildStdin>,
}

impl Build<'_> {
    fn all(&mut self, mailbox: Mailbox, sink: &mut dyn OutputSink) -> Result<BuildOutcome, Fault> {
        let request = self.request;
        let (action, limits) = (&*request.action, &request.limits);
        if action.shell.is_empty() {
            return Err(Fault::new(FailureClass::Build, "shell", "the recipe's shell is empty"));
        }
        sandbox::check_variables(action)
            .map_err(|(name, reason)| Fault::new(FailureClass::Build, "vars", format!("variable {name:?} {reason}")))?;

        let folder = Layout::build(&request.scratch);
        let chaos = request.variation == Variation::Chaos;
        fs::create_dir_all(&folder).map_err(|error| Fault::sandbox(format!("{}: {error}", folder.display())))?;
        let lay = |error: inputs::InputError| {
            let (class, stage) = error.failure();
            Fault::new(class, stage, error.to_string())
        };
        let archives = inputs::lay_sources(&request.inputs.sources, &folder, chaos).map_err(lay)?;
        let host = action.environment.rootfs == Rootfs::Host;
        let places = inputs::lay_needs(&request.inputs.needs, &request.scratch, host).map_err(lay)?;
        let layout = Layout {
            action,
            scratch: &request.scratch,
            archives: &archives,
            places: &places,
            rootfs: request.inputs.rootfs.as_deref(),
            tmp_bytes: (limits.memory / 2).min(limits.disk).max(TMP_BYTES_MIN),
            extra_vars: if chaos { &[("BARN_CHAOS", "1")] } else { &[] },
        };
        layout.write(&driver::script(action, &archives, if chaos { CHAOS_PRELUDE } else { "" })).map_err(Fault::sandbox)?;

        let group = Group::new(limits.memory, action.cores).map_err(|error| Fault::sandbox(format!("control group: {error}")))?;
        let end = self.run(&layout, group.as_ref(), mailbox)?;
        if let Some(group) = &group {
            // Nothing of it should be left; if something is, it must not see its outputs being taken.
            if !group.kill() {
                return Err(Fault::sandbox("processes of the build could not be killed"));
            }
            self.usage = group.usage();
        }
        let result = match end {
            End::Cancelled => return Ok(BuildOutcome::Cancelled),
            End::Limit(fault) => Err(fault),
            End::Exited => self.judge(&archives, &folder, group.as_ref()),
        };
        if result.is_err() && request.shell == Shell::OnFailure {
            self.open_shell(&layout, group.as_ref(), result.as_ref().err());
        }
        result?;
        let root = Beneath::open(&folder).map_err(|error| Fault::new(FailureClass::Upload, "outputs", error.to_string()))?;
        let tree =
            collect(&root, &action.outputs, limits.disk, sink).map_err(|error| Fault::new(error.class(), "outputs", error.to_string()))?;
        Ok(BuildOutcome::Success { tree })
    }

    /// Starts the sandbox and watches it until it is gone.
    fn run(&mut self, layout: &Layout<'_>, group: Option<&Group>, mailbox: Mailbox) -> Result<End, Fault> {
        let (action, limits) = (&*self.request.action, &self.request.limits);
        let chaos = self.request.variation == Variation::Chaos;
        let fixed_addresses = chaos && sandbox::find_program("setarch", sandbox::SANDBOX_PATH.as_ref()).is_some();
        let mut command = layout.command(self.info, fixed_addresses).map_err(Fault::sandbox)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let cores = usize::from(action.cores.max(1));
        let cores = Cores::take(if !chaos {
            cores
        } else if cores == 1 {
            2
        } else {
            1
        });
        let mut child = command.spawn().map_err(|error| Fault::sandbox(format!("{}: {error}", self.info.bwrap.display())))?;
        drop(command);
        let prepared = launch::prepare(&child, group, &cores, limits, chaos);
        let threads = self.listen(&mut child, &mailbox.events);
        self.input = child.stdin.take().filter(|_| prepared.is_ok());
        self.go();
        drop(mailbox.events);
        let end = match &prepared {
            Ok(()) => self.watch(&mailbox.inbox, &child, group, layout),
            Err(_) => End::Exited,
        };
        // Whatever still waits to be told to go on must not.
        self.input = None;
        if !matches!(end, End::Exited) {
            self.kill(&mut child, group);
        }
        let status = child.wait();
        if let Some((pump, status_reader)) = threads {
            self.log = pump.join().ok();
            let _ = status_reader.join();
        }
        prepared.map_err(Fault::sandbox)?;
        // What came in while the loop was already leaving.
        while let Ok(event) = mailbox.inbox.try_recv() {
            if let Event::Status(status) = event {
                self.learn(status);
            }
        }
        if self.first_exec.is_none() && matches!(end, End::Exited) {
            let code = status.map(|status| status.to_string()).unwrap_or_else(|error| error.to_string());
            return Err(Fault::sandbox(format!("the sandbox could not be set up ({code}); bubblewrap's complaint is in the log")));
        }
        Ok(end)
    }

    /// Starts the threads that read what the sandbox writes.
    fn listen(&mut self, child: &mut Child, events: &Sender<Event>) -> Option<(JoinHandle<Log>, JoinHandle<()>)> {
        let (output, status) = (child.stdout.take()?, child.stderr.take()?);
        let mut log = self.log.take()?;
        let events = events.clone();
        let pump = std::thread::spawn(move || {
            log.pump(output);
            log
        });
        let reader = std::thread::spawn(move || read_status(status, &events));
        Some((pump, reader))
    }

    fn watch(&mut self, inbox: &Receiver<Event>, child: &Child, group: Option<&Group>, layout: &Layout<'_>) -> End {
        let limits = &self.request.limits;
        let root = Beneath::open(&Layout::build(layout.scratch));
        let mut next_disk = Instant::now() + DISK_INTERVAL;
        let mut signs = (0, 0, Instant::now());
        loop {
            match inbox.recv_timeout(TICK) {
                Ok(Event::Status(status)) => {
                    self.learn(status);
                    continue;
                }
                Ok(Event::Gone) | Err(RecvTimeoutError::Disconnected) => return End::Exited,
                Ok(Event::Cancel) => return End::Cancelled,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            self.measure(child, group);
            let printed = self.printed.load(Ordering::Relaxed);
            if printed != signs.0 || self.usage.cpu_ms >= signs.1 + ALIVE_CPU_MS {
                signs = (printed, self.usage.cpu_ms, now);
            }
            // The clock runs from the first program on; what comes before is this machine's time.
            let since = self.first_exec.map_or(self.started, |first| self.started + first);
            if now - since > limits.wall {
                return End::Limit(self.over(FailureClass::Timeout, format!("the wall time limit of {:?} was reached", limits.wall)));
            }
            if now - signs.2 > limits.silent {
                let message = format!("nothing was printed and no CPU time used for {:?}", limits.silent);
                return End::Limit(self.over(FailureClass::NoProgress, message));
            }
            if now >= next_disk {
                if root.as_ref().is_ok_and(|root| root.usage(limits.disk) == Usage::TooMuch) {
                    let message = format!("/build holds more than the disk limit of {} bytes", limits.disk);
                    return End::Limit(self.over(FailureClass::OutOfDisk, message));
                }
                next_disk = Instant::now() + DISK_INTERVAL.max(now.elapsed() * DISK_SHARE);
            }
        }
    }

    /// Tells the launcher or the driver, whichever waits, to go on.
    fn go(&mut self) {
        if let Some(input) = &mut self.input {
            // Where it is gone already, its end says so.
            let _ = input.write_all(b"go\n");
        }
    }

    /// Learns which process holds the sandbox, from bubblewrap.
    fn find_init(&mut self) {
        let said = fs::read_to_string(Layout::status(&self.request.scratch)).unwrap_or_default();
        let pid = driver::init_of(&said).and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        self.init = pid.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
    }

    fn learn(&mut self, status: Status) {
        match status {
            Status::Started if self.first_exec.is_none() => {
                self.first_exec = Some(self.started.elapsed());
                self.find_init();
                self.go();
                self.input = None;
            }
            Status::Started => {}
            Status::Unpacking(number) => self.unpacking = Some(number),
            Status::Unpacked => self.unpacked = true,
            Status::Step(number) => {
                self.step = Some(number);
                self.first_step.get_or_insert_with(Instant::now);
                let name = self.stage();
                self.progress.send_modify(|progress| progress.step = Some(name));
            }
            Status::Ended(code) => {
                self.code = Some(code);
                if self.step.is_some() {
                    self.last_step = Some(Instant::now());
                }
            }
            Status::Done => self.done = true,
        }
    }

    fn measure(&mut self, child: &Child, group: Option<&Group>) {
        let usage = group.map_or_else(|| cgroup::usage_of_tree(child.id()), Group::usage);
        // From /proc, time is lost with a process that nobody waited for.
        self.usage.cpu_ms = self.usage.cpu_ms.max(usage.cpu_ms);
        self.usage.memory = usage.memory;
        self.usage.memory_peak = self.usage.memory_peak.max(usage.memory_peak);
        let (log_bytes, cpu_ms, memory) = (self.printed.load(Ordering::Relaxed), self.usage.cpu_ms, usage.memory);
        self.progress.send_if_modified(|progress| {
            let before = (progress.log_bytes, progress.cpu_ms, progress.memory);
            (progress.log_bytes, progress.cpu_ms, progress.memory) = (log_bytes, cpu_ms, memory);
            before != (log_bytes, cpu_ms, memory)
        });
    }

    /// The name of what runs or ran last.
    fn stage(&self) -> String {
        let step = self.step.and_then(|number| self.request.action.steps.get(number));
        step.map_or_else(|| "sources".to_owned(), |step| step.name.clone())
    }

    fn over(&self, class: FailureClass, message: String) -> Fault {
        let stage = self.stage();
        let message = format!("step {stage}: {message}");
        Fault::new(class, stage, message)
    }

    /// Kills everything in the sandbox; the caller then waits for `child`.
    fn kill(&mut self, child: &mut Child, group: Option<&Group>) {
        if self.init.is_none() {
            self.find_init();
        }
        let by_descriptor = self.init.as_ref().is_some_and(|init| rustix::process::pidfd_send_signal(init, Signal::KILL).is_ok());
        if let Some(group) = group {
            group.kill();
        }
        if by_descriptor {
            // Bubblewrap ends once its child's whole namespace is dead, which is what is waited for here.
            let deadline = Instant::now() + DEATH_WAIT;
            while Instant::now() < deadline {
                if !matches!(child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        // It may have ended by itself; and --die-with-parent takes its child along.
        let _ = child.kill();
    }

    /// What the end of the sandbox means, where no limit was passed while it ran.
    fn judge(&self, archives: &[Archive], folder: &Path, group: Option<&Group>) -> Result<(), Fault> {
        if self.done && self.code.is_none_or(|code| code == 0) {
            return Ok(());
        }
        let limits = &self.request.limits;
        if group.is_some_and(Group::out_of_memory) {
            return Err(self.over(FailureClass::OutOfMemory, format!("the memory limit of {} bytes was reached", limits.memory)));
        }
        let full = Beneath::open(folder).is_ok_and(|root| root.usage(limits.disk) == Usage::TooMuch);
        if full {
            return Err(self.over(FailureClass::OutOfDisk, format!("/build holds more than the disk limit of {} bytes", limits.disk)));
        }
        if rustix::fs::statvfs(folder).is_ok_and(|disk| disk.f_bavail == 0 || (disk.f_files > 0 && disk.f_favail == 0)) {
            return Err(self.over(FailureClass::OutOfDisk, "this machine's disk is full".into()));
        }
        let Some(code) = self.code.filter(|&code| code != 0) else {
            return Err(self.over(FailureClass::Sandbox, "the sandbox ended without saying why; something outside killed it".into()));
        };
        if !self.unpacked {
            let at = self.unpacking.and_then(|number| archives.get(number)).map_or("sources", |archive| &archive.at);
            return Err(Fault::new(FailureClass::Unpack, at, format!("source {at} could not be unpacked (exit code {code}); see the log")));
        }
        let class = if self.stage() == "check" { FailureClass::Check } else { FailureClass::Build };
        Err(self.over(class, format!("exit code {code}")))
    }

    fn open_shell(&mut self, layout: &Layout<'_>, group: Option<&Group>, fault: Option<&Fault>) {
        let joins = group.map(Group::joins).unwrap_or_default();
        if let Some(fault) = fault {
            eprintln!(
                "{}\nThis is the sandbox as it was left, in /build; the log is {}. `exit` leaves it.",
                fault.message,
                self.request.log.display()
            );
        }
        let ended = layout.shell(self.info, &joins).and_then(|mut command| command.status());
        if let Err(error) = ended {
            eprintln!("no shell: {error}");
        }
    }

    /// The report; writes the last words into the log and removes the scratch folder.
    fn report(mut self, result: Result<BuildOutcome, Fault>) -> Report {
        let (outcome, message) = match result {
            Ok(outcome) => (outcome, None),
            Err(Fault { class, stage, message }) => (BuildOutcome::Failure { class, stage }, Some(message)),
        };
        if let Some(log) = &mut self.log {
            match (&outcome, &message) {
                (BuildOutcome::Failure { class, .. }, Some(message)) => log.note(&format!("failed ({class}): {message}")),
                (BuildOutcome::Cancelled, _) => log.note("cancelled"),
                _ => {}
            }
        }
        let digest = log::digest(&self.request.log).ok();
        if let Err(error) = remove_scratch(&self.request.scratch) {
            tracing::warn!(scratch = %self.request.scratch.display(), %error, "a build's folder could not be removed");
        }
        let wall =
            self.first_step.map(|first| self.last_step.filter(|&last| last >= first).map_or_else(|| first.elapsed(), |last| last - first));
        Report {
            outcome,
            particulars: Particulars {
                log: digest.map(|(hash, _)| hash),
                log_length: digest.map_or(0, |(_, length)| length),
                wall_ms: wall.map_or(0, |wall| u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)),
                cpu_ms: self.usage.cpu_ms,
                memory_peak: self.usage.memory_peak,
                fingerprint: crate::platform::Platform::this().fingerprint(),
                sandbox: BoundedString::cut(&self.info.describe()),
            },
            first_exec: self.first_exec,
            message,
        }
    }
}

/// Makes process numbers and the contents of `/tmp` differ from those of an ordinary build.
const CHAOS_PRELUDE: &str = "for i in 1 2 3 4 5 6 7 8 9; do (exit 0); done\necho chaos >/tmp/chaos\n";

/// Reads status lines until the sandbox is gone. What follows [`STATUS_BYTES_MAX`] is read and forgotten.
fn read_status(from: impl Read, events: &Sender<Event>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    let mut limited = (&mut from).take(STATUS_BYTES_MAX);
    while matches!(limited.read_until(b'\n', &mut line), Ok(length) if length > 0) {
        if let Some(status) = std::str::from_utf8(&line).ok().and_then(|line| Status::parse(line.trim_end())) {
            let _ = events.send(Event::Status(status));
        }
        line.clear();
    }
    let _ = io::copy(&mut from, &mut io::sink());
    let _ = events.send(Event::Gone);
}
