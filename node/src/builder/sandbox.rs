//! The sandbox: how bubblewrap is called, and whether this machine can do it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use barnraiser_protocol::action::{Action, Rootfs};
use rustix::process::{Pid, Signal, kill_process};

use super::driver;
use super::inputs::{Archive, Place};
use super::seccomp;

/// `PATH` in the sandbox; programs that a `host` environment asks for are looked for here.
pub const SANDBOX_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";
/// User and group in the sandbox.
const SANDBOX_ID: &str = "1000";
/// The oldest bubblewrap that can forbid nested user namespaces.
const BWRAP_LEAST: (u32, u32) = (0, 8);
/// The most bytes one environment variable may have: Linux takes no longer string.
const VARIABLE_BYTES_MAX: usize = 128 << 10;
/// What of the machine's `/etc` a `host` toolchain needs: the loader's configuration and where `cc` and its kind point.
const HOST_ETC: &[&str] =
    &["alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld-musl-aarch64.path", "ld-musl-x86_64.path", "os-release", "perl"];
/// Where a `host` toolchain lies.
const HOST_TOPS: &[&str] = &["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix", "gnu"];
/// What of a root file system's tree the sandbox has itself.
const OWN_TOPS: &[&str] = &["build", "dev", "etc", "proc", "run", "sys", "tmp"];
/// Files of `/etc` that are the same in every sandbox.
const OWN_ETC: &[(&str, &str)] = &[
    (
        "passwd",
        "root:x:0:0:root:/root:/bin/sh\nbuilder:x:1000:1000:builder:/build:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    ),
    ("group", "root:x:0:\nbuilder:x:1000:\nnogroup:x:65534:\n"),
    ("hosts", "127.0.0.1 localhost barn\n::1 localhost barn\n"),
    ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
];

/// What this machine's sandbox consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxInfo {
    /// The program.
    pub bwrap: PathBuf,
    /// Its version, as it says.
    pub version: String,
    /// The shell that starts it.
    launcher_shell: PathBuf,
}

impl SandboxInfo {
    /// For [`barnraiser_protocol::outcome::Particulars::sandbox`], for example `bwrap 0.8.0, seccomp, cgroup v1`.
    pub fn describe(&self) -> String {
        let seccomp = if seccomp::filters().is_empty() { "no seccomp" } else { "seccomp" };
        format!("bwrap {}, {seccomp}, {}", self.version, super::cgroup::version().unwrap_or("rlimit"))
    }

    /// What works but could be better, each with what to do.
    pub fn advice(&self) -> Vec<&'static str> {
        let mut advice = Vec::new();
        if rustix::process::geteuid().is_root() {
            advice.push("this node runs as root, and so do its builds where the kernel is concerned; run it as an ordinary user");
        }
        if super::cgroup::version().is_none() {
            advice.push(
                "no control group can be made here: memory is limited for each process (RLIMIT_AS) and not for a build as a whole; \
                 run the node as a systemd service with Delegate=yes, or in a delegated group",
            );
        }
        if seccomp::filters().is_empty() {
            advice.push("system calls are not filtered on this architecture; the namespaces hold all the same");
        }
        advice
    }
}

/// Why this machine can't build in a sandbox, and what its owner can do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SandboxProblem {
    /// No `bwrap` on the path.
    #[error("bubblewrap (the program bwrap) is not installed; install it, for example: apt-get install bubblewrap")]
    NoBwrap,
    /// A `bwrap` that can't forbid nested user namespaces.
    #[error(
        "bubblewrap is {0}; 0.8.0 or newer is needed, which can forbid nested user namespaces (Debian 12, Fedora 38 and later have it)"
    )]
    OldBwrap(String),
    /// The kernel or its configuration forbids user namespaces.
    #[error("this machine does not let ordinary programs make user namespaces ({said}); {mend}")]
    UserNamespaces {
        /// What bubblewrap said.
        said: String,
        /// What to do.
        mend: String,
    },
    /// Anything else that bubblewrap says.
    #[error("bubblewrap does not work here: {0}")]
    Other(String),
}

/// Whether builds can be fenced in on this machine. A success is remembered; a problem is looked for anew each time, so
/// that a node need not be restarted once it is mended. Takes some 20 ms the first time.
///
/// # Errors
/// [`SandboxProblem`], whose text says what to do.
pub fn sandbox_check() -> Result<&'static SandboxInfo, SandboxProblem> {
    static GOOD: OnceLock<SandboxInfo> = OnceLock::new();
    if let Some(info) = GOOD.get() {
        return Ok(info);
    }
    let info = examine(std::env::var_os("PATH").as_deref())?;
    Ok(GOOD.get_or_init(|| info))
}

fn examine(path: Option<&OsStr>) -> Result<SandboxInfo, SandboxProblem> {
    let bwrap = find_program("bwrap", path.unwrap_or(OsStr::new(SANDBOX_PATH))).ok_or(SandboxProblem::NoBwrap)?;
    let other = |error: io::Error| SandboxProblem::Other(error.to_string());
    let said = Command::new(&bwrap).arg("--version").output().map_err(other)?;
    let said = String::from_utf8_lossy(&said.stdout);
    let version = said.split_whitespace().last().unwrap_or("unknown").to_owned();
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < BWRAP_LEAST {
        return Err(SandboxProblem::OldBwrap(version));
    }
    let trial = Command::new(&bwrap)
        .args([
            "--unshare-all",
            "--unshare-user",
            "--disable-userns",
            "--die-with-parent",
            "--cap-drop",
            "ALL",
            "--ro-bind",
            "/",
            "/",
            "--proc",
            "/proc",
            "--",
            "true",
        ])
        .output()
        .map_err(other)?;
    if !trial.status.success() {
        return Err(explain(String::from_utf8_lossy(&trial.stderr).trim()));
    }
    // bash can close descriptors beyond 9, which plain shells cannot.
    let shell = find_program("bash", OsStr::new(SANDBOX_PATH)).unwrap_or_else(|| PathBuf::from("/bin/sh"));
    Ok(SandboxInfo { bwrap, version, launcher_shell: shell })
}

/// What bubblewrap's complaint means.
fn explain(said: &str) -> SandboxProblem {
    let setting = |name: &str| fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap_or_default().trim().to_owned();
    let mend = if setting("kernel/unprivileged_userns_clone") == "0" {
        "allow it: sysctl -w kernel.unprivileged_userns_clone=1"
    } else if setting("kernel/apparmor_restrict_unprivileged_userns") == "1" {
        "AppArmor forbids it: give bwrap a profile that allows userns, or: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    } else if setting("user/max_user_namespaces") == "0" {
        "allow some: sysctl -w user.max_user_namespaces=10000"
    } else if ["namespace", "uid map", "Operation not permitted", "Permission denied"].iter().any(|sign| said.contains(sign)) {
        "where this is a container, start it with --security-opt seccomp=unconfined --security-opt apparmor=unconfined (Docker, Podman) \
         or allow nested containers"
    } else {
        return SandboxProblem::Other(said.to_owned());
    };
    SandboxProblem::UserNamespaces { said: said.to_owned(), mend: mend.to_owned() }
}

/// The file that running `name` with this `PATH` would start.
pub fn find_program(name: &str, path: &OsStr) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    std::env::split_paths(path).map(|folder| folder.join(name)).find(|file| {
        // A name with a slash in it would look elsewhere than on the path.
        !name.contains('/') && fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

/// Ends what is left of sandboxes whose scratch folders lie below `folder`, of a node that was killed. Where it was killed in
/// the moment between bubblewrap's request to die with its parent and its word to its child to go on, that child waits for
/// the word for ever.
pub fn end_sandboxes_of(folder: &Path) {
    let Ok(processes) = fs::read_dir("/proc") else { return };
    for process in processes.flatten() {
        let pid = process.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let mut arguments = line.split(|byte| *byte == 0).map(|argument| Path::new(OsStr::from_bytes(argument)));
        let is_bwrap = arguments.next().is_some_and(|program| program.file_name() == Some(OsStr::new("bwrap")));
        if let Some(pid) = pid
            && is_bwrap
            && arguments.any(|argument| argument.starts_with(folder))
        {
            tracing::warn!(pid = pid.as_raw_nonzero(), "ending a sandbox that an earlier node left");
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Everything that one sandbox is made of.
pub struct Layout<'a> {
    /// What runs in it.
    pub action: &'a Action,
    /// The build's own folder, whose parts follow.
    pub scratch: &'a Path,
    /// Archives to unpack.
    pub archives: &'a [Archive],
    /// Needs.
    pub places: &'a [Place],
    /// For [`Rootfs::Tree`].
    pub rootfs: Option<&'a Path>,
    /// Size limit of `/tmp` and of `/dev/shm`, in bytes.
    pub tmp_bytes: u64,
    /// More environment variables, before those of the action.
    pub extra_vars: &'a [(&'a str, &'a str)],
}

impl Layout<'_> {
    /// The file with bubblewrap's own status ([`driver::init_of`]).
    pub fn status(scratch: &Path) -> PathBuf {
        scratch.join("status")
    }

    /// The folder that is `/build`.
    pub fn build(scratch: &Path) -> PathBuf {
        scratch.join("build")
    }

    /// Makes the folders and writes the files that the sandbox binds.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, driver: &str) -> io::Result<()> {
        let run = self.scratch.join("run");
        let etc = self.scratch.join("etc");
        fs::create_dir_all(&run)?;
        fs::create_dir_all(&etc)?;
        for (name, text) in OWN_ETC {
            fs::write(etc.join(name), text)?;
        }
        fs::write(run.join("driver"), driver)?;
        for (number, step) in self.action.steps.iter().enumerate() {
            fs::write(run.join(format!("step-{number}")), &step.script)?;
        }
        for number in 0..self.archives.len() {
            // What the blob is bound upon.
            fs::write(run.join(format!("archive-{number}")), "")?;
        }
        for (number, filter) in seccomp::filters().iter().enumerate() {
            fs::write(self.scratch.join(format!("seccomp-{number}")), filter)?;
        }
        Ok(())
    }

    /// Bubblewrap's arguments, up to the command.
    ///
    /// # Errors
    /// What reading the root file system's top folder says.
    fn arguments(&self) -> io::Result<Vec<OsString>> {
        let mut args = Arguments(Vec::new());
        for flag in
            ["--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup", "--disable-userns"]
        {
            args.push([flag]);
        }
        args.push(["--uid", SANDBOX_ID]);
        args.push(["--gid", SANDBOX_ID]);
        args.push(["--hostname", "barn"]);
        args.push(["--cap-drop", "ALL"]);
        args.push(["--die-with-parent"]);
        args.push(["--clearenv"]);
        for (name, value) in self.variables() {
            args.push(["--setenv", &name, &value]);
        }
        self.root(&mut args)?;
        // Read-only as a whole: where the node runs as root, the build is root to the kernel, which lets it write settings
        // such as the core pattern without any capability; bubblewrap covers only some of them.
        args.push(["--proc", "/proc"]);
        args.push(["--remount-ro", "/proc"]);
        args.push(["--dev", "/dev"]);
        let size = self.tmp_bytes.to_string();
        args.push(["--size", &size, "--perms", "1777", "--tmpfs", "/dev/shm"]);
        args.push(["--remount-ro", "/dev"]);
        args.push(["--size", &size, "--perms", "1777", "--tmpfs", "/tmp"]);
        args.bind("--ro-bind", self.scratch.join("run"), driver::PLACE);
        for (number, archive) in self.archives.iter().enumerate() {
            args.bind("--ro-bind", &archive.blob, format!("{}/archive-{number}", driver::PLACE));
        }
        for place in self.places {
            args.bind("--ro-bind", &place.folder, &place.at);
        }
        args.bind("--bind", Self::build(self.scratch), "/build");
        args.push(["--chdir", "/build"]);
        // The root itself is a tmpfs without a limit: nothing may be written there.
        args.push(["--remount-ro", "/"]);
        Ok(args.0)
    }

    fn variables(&self) -> Vec<(String, String)> {
        let fixed = [
            ("PATH", SANDBOX_PATH),
            ("HOME", "/build"),
            ("USER", "builder"),
            ("LOGNAME", "builder"),
            ("SHELL", "/bin/sh"),
            ("TMPDIR", "/tmp"),
            ("TERM", "dumb"),
            ("LANG", "C.UTF-8"),
            ("LC_ALL", "C.UTF-8"),
            ("TZ", "UTC"),
        ];
        let mut variables: Vec<(String, String)> =
            fixed.iter().chain(self.extra_vars).map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        variables.push(("SOURCE_DATE_EPOCH".into(), self.action.epoch.to_string()));
        variables.push(("BARN_CORES".into(), self.action.cores.to_string()));
        variables.extend(self.action.vars.iter().map(|(name, value)| (name.clone(), value.clone())));
        variables
    }

    fn root(&self, args: &mut Arguments) -> io::Result<()> {
        let (top, tree): (&Path, bool) = match (&self.action.environment.rootfs, self.rootfs) {
            (Rootfs::Host, _) => (Path::new("/"), false),
            (Rootfs::Tree(_), Some(folder)) => (folder, true),
            (Rootfs::Tree(_), None) => return Err(io::Error::new(io::ErrorKind::NotFound, "the root file system was not laid out")),
        };
        let mut names: Vec<OsString> = if tree {
            let entries: io::Result<Vec<_>> = fs::read_dir(top)?.map(|entry| Ok(entry?.file_name())).collect();
            entries?.into_iter().filter(|name| !OWN_TOPS.iter().any(|own| name == own)).collect()
        } else {
            HOST_TOPS.iter().map(OsString::from).collect()
        };
        names.sort();
        for name in names {
            args.as_there(&top.join(&name), &Path::new("/").join(&name));
        }
        args.push(["--dir", "/etc"]);
        for (name, _) in OWN_ETC {
            args.bind("--ro-bind", self.scratch.join("etc").join(name), format!("/etc/{name}"));
        }
        let etc = top.join("etc");
        let mut names: Vec<OsString> = if tree {
            let entries: Vec<_> =
                fs::read_dir(&etc).map(|entries| entries.flatten().map(|entry| entry.file_name()).collect()).unwrap_or_default();
            entries.into_iter().filter(|name| !OWN_ETC.iter().any(|(own, _)| name == own)).collect()
        } else {
            HOST_ETC.iter().map(OsString::from).collect()
        };
        names.sort();
        for name in names {
            args.as_there(&etc.join(&name), &Path::new("/etc").join(&name));
        }
        if !tree {
            args.push(["--symlink", "/tmp", "/var/tmp"]);
        }
        Ok(())
    }

    /// The command that starts the sandbox with its driver: the log comes on standard output, [`driver::Status`] lines
    /// on standard error, and it waits for a line on standard input, and for another one after [`driver::Status::Started`].
    ///
    /// # Errors
    /// What [`Self::write`] may not have laid.
    pub fn command(&self, info: &SandboxInfo, fixed_addresses: bool) -> io::Result<Command> {
        let mut args = self.arguments()?;
        args.extend(["--new-session", "--as-pid-1", "--json-status-fd", "4", "--", "/bin/sh"].map(OsString::from));
        args.push(format!("{}/driver", driver::PLACE).into());
        Ok(self.launch(info, LAUNCH_BUILD, &[], fixed_addresses, args))
    }

    /// The command that opens a shell for a person in the same sandbox, on this terminal; `joins` are the files of a
    /// control group to join.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub fn shell(&self, info: &SandboxInfo, joins: &[PathBuf]) -> io::Result<Command> {
        let mut args = self.arguments()?;
        args.extend(["--setenv", "TERM", "xterm", "--", "/bin/sh", "-c"].map(OsString::from));
        args.push("if command -v bash >/dev/null; then exec bash --norc -i; else exec sh -i; fi".into());
        Ok(self.launch(info, LAUNCH_SHELL, joins, false, args))
    }

    fn launch(&self, info: &SandboxInfo, script: &str, joins: &[PathBuf], fixed_addresses: bool, args: Vec<OsString>) -> Command {
        let mut text = String::from(script);
        text.push_str(CLOSE_INHERITED);
        let mut command = Command::new(&info.launcher_shell);
        let mut filters = Vec::new();
        for number in 0..seccomp::filters().len() {
            let descriptor = FIRST_FILTER + number;
            text.push_str(&format!("exec {descriptor}<\"$scratch/seccomp-{number}\"\n"));
            filters.extend([OsString::from("--add-seccomp-fd"), OsString::from(descriptor.to_string())]);
        }
        text.push_str("exec \"$@\"\n");
        command.arg("-c").arg(text).arg("barn-launcher").arg(self.scratch).arg(joins.len().to_string()).args(joins);
        if fixed_addresses {
            command.args(["setarch", "-R"]);
        }
        command.arg(&info.bwrap).args(filters).args(args);
        // The launcher's own environment: bubblewrap clears it for the build.
        command.env_clear().env("PATH", SANDBOX_PATH).env("LC_ALL", "C").current_dir("/");
        command
    }
}

/// Descriptors 5 and up are the seccomp filters'.
const FIRST_FILTER: usize = 5;

// The launcher is a shell because a shell can open, move and close descriptors between fork and exec, which safe Rust
// cannot. `go` comes once limits are set on this process, so that not one instruction of the build runs without them.
// Standard input stays: the driver reads a second `go` from it, and no later program does.
// Bubblewrap's own status goes into a file: into a pipe that nobody reads any more it would die before it has let its
// child go on, which then waits for that for ever.
const LAUNCH_BUILD: &str = "read -r go || exit 125\nscratch=$1\nshift 2\nexec 3>&2 2>&1 4>\"$scratch/status\"\n";
const LAUNCH_SHELL: &str = "exec 3>&- 4>&-\nscratch=$1\njoins=$2\nshift 2\nwhile [ \"$joins\" -gt 0 ]; do echo $$ >\"$1\" || exit 125; shift; joins=$((joins - 1)); done\n";
/// Closes whatever this node itself inherited from who started it.
const CLOSE_INHERITED: &str = r#"for open in /proc/self/fd/*; do
    number=${open##*/}
    case $number in
        [0-4]) ;;
        [5-9]) eval "exec $number>&-" ;;
        *) if [ -n "$BASH_VERSION" ]; then eval "exec $number>&-"; elif [ -e "$open" ]; then echo "barn: descriptor $number is inherited and cannot be closed without bash" >&2; exit 125; fi ;;
    esac
done
"#;

/// Whether the variables can be handed to a program at all.
///
/// # Errors
/// The name of one that can't, and why.
pub fn check_variables(action: &Action) -> Result<(), (String, &'static str)> {
    for (name, value) in &action.vars {
        let refuse = |reason| Err((name.chars().take(80).collect(), reason));
        if name.is_empty() || name.contains(['=', '\0']) {
            return refuse("is no name of an environment variable");
        }
        if value.contains('\0') {
            return refuse("has a zero byte");
        }
        if name.len() + value.len() + 2 > VARIABLE_BYTES_MAX {
            return refuse("is longer than 128 KiB");
        }
    }
    Ok(())
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn push<const N: usize>(&mut self, args: [&str; N]) {
        self.0.extend(args.map(OsString::from));
    }

    fn bind(&mut self, how: &str, from: impl AsRef<Path>, to: impl AsRef<Path>) {
        self.0.extend([OsString::from(how), from.as_ref().as_os_str().to_owned(), to.as_ref().as_os_str().to_owned()]);
    }

    /// `to` in the sandbox as `from` is here: a link as a link, a file or folder bound read-only, nothing as nothing.
    fn as_there(&mut self, from: &Path, to: &Path) {
        match fs::symlink_metadata(from) {
            Ok(meta) if meta.is_symlink() => {
                if let Ok(target) = fs::read_link(from) {
                    self.0.extend([OsString::from("--symlink"), target.into_os_string(), to.as_os_str().to_owned()]);
                }
            }
            Ok(_) => self.bind("--ro-bind", from, to),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sandbox_that_a_killed_node_left_is_ended_and_no_other_process() {
        let folder = tempfile::tempdir().unwrap();
        let bash = find_program("bash", OsStr::new(SANDBOX_PATH)).unwrap();
        let start = |name: &str, below: &str| {
            // Only bash can give a program another name than its file's.
            let script = format!("exec -a {name} sh -c 'read never' sh \"$0\"");
            let mut command = Command::new(&bash);
            command.arg("-c").arg(script).arg(folder.path().join(below)).stdin(std::process::Stdio::piped());
            command.spawn().unwrap()
        };
        let mut left = start("bwrap", "gone/scratch/etc");
        let mut others = [start("bwrap", "here/scratch/etc"), start("vi", "gone/scratch/etc")];
        let named = |child: &std::process::Child, name: &str| {
            let line = fs::read(format!("/proc/{}/cmdline", child.id())).unwrap_or_default();
            line.starts_with(format!("{name}\0").as_bytes())
        };
        while !(named(&left, "bwrap") && named(&others[0], "bwrap") && named(&others[1], "vi")) {
            std::thread::yield_now();
        }
        end_sandboxes_of(&folder.path().join("gone"));
        assert_eq!(left.wait().unwrap().code(), None, "by a signal");
        for other in &mut others {
            assert_eq!(other.try_wait().unwrap(), None);
            drop(other.stdin.take());
            other.wait().unwrap();
        }
    }

    #[test]
    fn missing_bwrap_says_what_to_install() {
        let nowhere = tempfile::tempdir().unwrap();
        let problem = examine(Some(nowhere.path().as_os_str())).unwrap_err();
        assert_eq!(problem, SandboxProblem::NoBwrap);
        assert!(problem.to_string().contains("apt-get install bubblewrap"));
    }

    #[test]
    fn old_or_forbidden_bwrap_is_explained() {
        use std::os::unix::fs::PermissionsExt as _;
        let fake = tempfile::tempdir().unwrap();
        let bwrap = fake.path().join("bwrap");
        let say = |text: &str| {
            fs::write(&bwrap, text).unwrap();
            fs::set_permissions(&bwrap, fs::Permissions::from_mode(0o755)).unwrap();
            examine(Some(fake.path().as_os_str())).unwrap_err()
        };
        assert_eq!(say("#!/bin/sh\necho bubblewrap 0.4.1\n"), SandboxProblem::OldBwrap("0.4.1".into()));
        let forbidden = say(
            "#!/bin/sh\n[ \"$1\" = --version ] && echo bubblewrap 0.9.0 && exit\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n",
        );
        assert!(matches!(forbidden, SandboxProblem::UserNamespaces { .. }), "{forbidden}");
    }
}
