//! Builds in real sandboxes: what they can do, what they can't see, and how each limit ends them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use barnraiser_node::builder::{self, BuildOutcome, BuildRequest, Inputs, OutputSink, Progress, Report, Shell, Variation};
use barnraiser_protocol::action::{Action, Environment, Need, Rootfs, Source, SourceForm, Step};
use barnraiser_protocol::graph::Limits;
use barnraiser_protocol::id::BlobHash;
use barnraiser_protocol::outcome::FailureClass;
use barnraiser_protocol::tree::Entry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Keeps what it is given, for tests to look at.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl OutputSink for Kept {
    fn file(&mut self, name: &str, mut file: File, _: bool) -> io::Result<(BlobHash, u64)> {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes)?;
        let answer = (BlobHash::of(&bytes), bytes.len() as u64);
        self.0.lock().unwrap().insert(name.to_owned(), bytes);
        Ok(answer)
    }
}

/// One build's surroundings.
struct Bench {
    home: tempfile::TempDir,
    request: BuildRequest,
    kept: Kept,
}

impl Bench {
    fn new(script: &str) -> Self {
        Self::steps(&[("build", script)])
    }

    fn steps(steps: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let action = Action {
            sources: Vec::new(),
            needs: Vec::new(),
            vars: BTreeMap::new(),
            environment: Environment::host("linux", []),
            shell: vec!["sh".into(), "-e".into()],
            steps: steps.iter().map(|&(name, script)| Step { name: name.into(), script: script.into() }).collect(),
            outputs: BTreeMap::new(),
            epoch: 1_700_000_000,
            cores: 1,
        };
        let limits = Limits { memory: 512 << 20, disk: 256 << 20, wall: Duration::from_secs(60), silent: Duration::from_secs(30) };
        let request = BuildRequest {
            action: Arc::new(action),
            limits,
            scratch: home.path().join("scratch"),
            inputs: Inputs::default(),
            log: home.path().join("log"),
            shell: Shell::Never,
            variation: Variation::None,
        };
        Self { home, request, kept: Kept::default() }
    }

    fn change(mut self, change: impl FnOnce(&mut Action)) -> Self {
        change(Arc::make_mut(&mut self.request.action));
        self
    }

    fn limit(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.request.limits);
        self
    }

    fn outputs(self, outputs: &[(&str, &str)]) -> Self {
        self.change(|action| action.outputs = outputs.iter().map(|&(name, from)| (name.into(), from.into())).collect())
    }

    fn source(mut self, at: &str, form: SourceForm, from: PathBuf) -> Self {
        let file_name = from.file_name().unwrap().to_str().unwrap().to_owned();
        let source = Source { at: at.into(), blob: BlobHash::of(b""), file_name, form };
        Arc::make_mut(&mut self.request.action).sources.push(source.clone());
        self.request.inputs.sources.push((source, from));
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    async fn run(&self) -> Report {
        self.run_with(CancellationToken::new(), watch::Sender::default()).await
    }

    async fn run_with(&self, cancel: CancellationToken, progress: watch::Sender<Progress>) -> Report {
        let report = builder::run(self.request.clone(), Box::new(self.kept.clone()), progress, cancel).await;
        assert!(!self.request.scratch.exists(), "the scratch folder is left behind");
        report
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.request.log).unwrap_or_default()).into_owned()
    }

    /// Runs it and gives the log of a success.
    async fn passes(&self) -> String {
        let report = self.run().await;
        assert!(matches!(report.outcome, BuildOutcome::Success { .. }), "{report:?}\n{}", self.log());
        self.log()
    }

    async fn fails(&self, class: FailureClass, stage: &str) -> Report {
        let report = self.run().await;
        assert_eq!(report.outcome, BuildOutcome::Failure { class, stage: stage.into() }, "{report:?}\n{}", self.log());
        report
    }
}

fn run_tool(program: &str, arguments: &[&str], folder: &Path) {
    let status = std::process::Command::new(program).args(arguments).current_dir(folder).status().unwrap();
    assert!(status.success());
}

/// Processes on this machine whose command line has `mark` in it.
fn processes_with(mark: &str) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(mark))).count()
}

#[tokio::test]
async fn build_has_no_network_but_its_own_loopback() {
    let script = r#"
        python3 - <<'END'
import socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
print("loopback works")
for address in [("1.1.1.1", 53), ("192.168.0.1", 80), ("8.8.8.8", 443)]:
    try:
        socket.create_connection(address, timeout=2)
    except OSError as error:
        print("refused:", error)
    else:
        raise SystemExit("reached the network")
END
        grep -c : /proc/net/dev
        test "$(grep -c : /proc/net/dev)" = 1"#;
    let log = Bench::new(script).passes().await;
    assert!(log.contains("loopback works") && log.matches("refused:").count() == 3, "{log}");
}

#[tokio::test]
async fn build_sees_nothing_of_the_machine_and_can_change_nothing() {
    let script = r#"
        for place in /root /home /var/lib /etc/shadow /etc/ssh /sys /boot /mnt /srv; do
            if ls -d "$place" 2>/dev/null; then echo "sees $place"; exit 1; fi
        done
        for place in /usr/x /etc/x /x /dev/x /run/barn/x /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname; do
            if (echo x >"$place") 2>/dev/null; then echo "wrote $place"; exit 1; fi
        done
        echo fine >/tmp/x; echo fine >/dev/shm/x; echo fine >/build/x; echo fine >/dev/null
        test "$(id -u):$(id -g):$(hostname):$(umask):$(pwd)" = 1000:1000:barn:0022:/build
        grep -q '^CapBnd:.*0000000000000000$' /proc/self/status
        grep -q '^CapEff:.*0000000000000000$' /proc/self/status
        grep -q '^NoNewPrivs:.*1$' /proc/self/status
        test "$(ls /proc | grep -c '^[0-9]')" -lt 8
        env | sort"#;
    let bench = Bench::new(script).change(|action| {
        action.vars.insert("DEVICE".into(), "RPi5".into());
    });
    let log = bench.passes().await;
    let env: Vec<&str> = log.lines().skip_while(|line| !line.starts_with("BARN_CORES")).filter(|line| !line.starts_with("==>")).collect();
    let wanted = [
        "BARN_CORES=1",
        "DEVICE=RPi5",
        "HOME=/build",
        "LANG=C.UTF-8",
        "LC_ALL=C.UTF-8",
        "LOGNAME=builder",
        "PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
        "PWD=/build",
        "SHELL=/bin/sh",
        "SOURCE_DATE_EPOCH=1700000000",
        "TERM=dumb",
        "TMPDIR=/tmp",
        "TZ=UTC",
        "USER=builder",
    ];
    assert_eq!(env.into_iter().filter(|line| !line.starts_with("_=") && !line.starts_with("OLDPWD")).collect::<Vec<_>>(), wanted);
}

#[tokio::test]
async fn build_can_not_use_what_reaches_into_the_kernel() {
    let script = r#"
        cat >t.c <<'END'
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
static int bad;
static void want(const char *what, long got, int error) {
    int e = errno;
    if (got != -1 || e != error) { printf("%s: %ld, errno %d\n", what, got, e); bad = 1; }
}
int main(void) {
    want("keyctl", syscall(SYS_keyctl, 0, 0, 0), EPERM);
    want("bpf", syscall(SYS_bpf, 0, 0, 0), EPERM);
    want("unshare", unshare(CLONE_NEWUSER), EPERM);
    want("clone", syscall(SYS_clone, CLONE_NEWUSER | 17, 0, 0, 0, 0), EPERM);
    want("clone3", syscall(SYS_clone3, 0, 0), ENOSYS);
    want("io_uring", syscall(SYS_io_uring_setup, 1, 0), ENOSYS);
    want("mount", syscall(SYS_mount, 0, 0, 0, 0, 0), EPERM);
    want("tiocsti", ioctl(0, TIOCSTI, "x"), EPERM);
    want("vsock", socket(40, SOCK_STREAM, 0), EPERM);
#ifdef __x86_64__
    want("x32", syscall(0x40000000 | 39), ENOSYS);
#endif
    return bad;
}
END
        cc -o t t.c && ./t
        ls -l /proc/self/fd
        for open in /proc/self/fd/*; do
            case ${open##*/} in 0|1|2) ;; *) readlink "$open" | grep -v '^/proc/' | grep . && exit 1 ;; esac
        done
        true"#;
    Bench::new(script).passes().await;
}

#[tokio::test]
async fn memory_limit_ends_a_greedy_build() {
    let script = "python3 -c 'b = bytearray(400 << 20); print(len(b))'";
    let bench = Bench::new(script).limit(|limits| limits.memory = 64 << 20);
    if builder::cgroup::version().is_some() {
        let report = bench.fails(FailureClass::OutOfMemory, "build").await;
        assert!(report.particulars.memory_peak > 32 << 20);
    } else {
        // RLIMIT_AS makes the program fail in its own way.
        bench.fails(FailureClass::Build, "build").await;
    }
}

#[tokio::test]
async fn wall_limit_ends_a_long_build() {
    let script = "while true; do echo busy; sleep 0.05; done";
    let begun = Instant::now();
    Bench::new(script).limit(|limits| limits.wall = Duration::from_millis(700)).fails(FailureClass::Timeout, "build").await;
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn silence_limit_ends_a_hung_build() {
    let script = "echo hello; sleep 1000";
    let bench = Bench::steps(&[("configure", "echo ok"), ("build", script)]).limit(|limits| limits.silent = Duration::from_millis(700));
    bench.fails(FailureClass::NoProgress, "build").await;
    assert!(bench.log().contains("==> step configure\nok\n==> step build\nhello\n"), "{}", bench.log());
}

#[tokio::test]
async fn disk_limit_ends_a_build_that_fills_the_disk() {
    let limit = |limits: &mut Limits| limits.disk = 8 << 20;
    let many = "i=0; while true; do i=$((i+1)); head -c 1000000 /dev/zero >f$i; sleep 0.01; done";
    Bench::new(many).limit(limit).fails(FailureClass::OutOfDisk, "build").await;
    let one = "head -c 100000000 /dev/zero >big";
    Bench::new(one).limit(limit).fails(FailureClass::OutOfDisk, "build").await;
    let deep = "set +e; python3 -c 'import os\nfor _ in range(400):\n  os.mkdir(\"dddddddddd\"); os.chdir(\"dddddddddd\")'; sleep 60";
    Bench::new(deep).limit(limit).fails(FailureClass::OutOfDisk, "build").await;
}

#[tokio::test]
async fn missing_output_is_told_by_its_name() {
    let report = Bench::new("true").outputs(&[("bin/lua", "lua/src/lua")]).fails(FailureClass::Check, "outputs").await;
    assert!(report.message.unwrap().contains("lua/src/lua"));
    Bench::new("mkdir out").outputs(&[("x", "out/*.so")]).fails(FailureClass::Check, "outputs").await;
}

#[tokio::test]
async fn failing_steps_have_their_class_and_stage() {
    Bench::steps(&[("build", "exit 3"), ("check", "true")]).fails(FailureClass::Build, "build").await;
    let bench = Bench::steps(&[("build", "true"), ("check", "echo no; exit 1")]);
    bench.fails(FailureClass::Check, "check").await;
    assert!(bench.log().ends_with("==> step check\nno\n==> failed (check): step check: exit code 1\n"), "{}", bench.log());
    Bench::new("true").change(|action| action.shell = vec!["no-such-shell".into()]).fails(FailureClass::Build, "build").await;
    Bench::new("true").change(|action| drop(action.vars.insert("A=B".into(), String::new()))).fails(FailureClass::Build, "vars").await;
    // Killing process 1 of the sandbox is not possible from within.
    Bench::new("kill -9 1; exit 7").fails(FailureClass::Build, "build").await;
}

#[tokio::test]
async fn outputs_keep_their_shape_and_lose_what_is_dangerous() {
    let script = r#"
        mkdir -p out/lib out/empty out/many/deep
        echo a >out/lib/liba.so.1; ln -s liba.so.1 out/lib/liba.so
        echo prog >prog; chmod 4755 prog
        echo 1 >out/many/one.txt; echo 2 >out/many/deep/two.txt; echo 3 >out/many/three.dat; chmod 000 out/many/deep/two.txt; chmod 000 out/many/deep
        rm -f broken"#;
    let outputs = [("sys", "out/lib"), ("none", "out/empty"), ("bin/prog", "prog"), ("texts", "out/many/**/*.txt")];
    let bench = Bench::new(script).outputs(&outputs);
    let report = bench.run().await;
    let BuildOutcome::Success { tree } = &report.outcome else { panic!("{report:?}\n{}", bench.log()) };
    let names: Vec<&str> = tree.entries().map(|(name, _)| name).collect();
    assert_eq!(names, ["bin/prog", "none", "sys/liba.so", "sys/liba.so.1", "texts/deep/two.txt", "texts/one.txt"]);
    assert_eq!(tree.entry("bin/prog"), Some(&Entry::File { hash: BlobHash::of(b"prog\n"), length: 5, executable: true }));
    assert_eq!(tree.entry("sys/liba.so"), Some(&Entry::Symlink { target: "liba.so.1".into() }));
    assert_eq!(tree.entry("none"), Some(&Entry::EmptyFolder));
    assert_eq!(bench.kept.0.lock().unwrap()["texts/deep/two.txt"], b"2\n");
    assert_eq!(report.particulars.log, Some(BlobHash::of(bench.log().as_bytes())));
}

#[tokio::test]
async fn outputs_that_leave_or_are_no_files_are_refused() {
    for script in [
        "mkdir out; ln -s /etc/passwd out/x",
        "mkdir out; ln -s ../../../etc/passwd out/x",
        "ln -s /etc out",
        "mkdir out; mkfifo out/x",
        "mkdir out; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"out/x\")'",
        "mkdir out; touch \"out/$(printf '\\377')\"",
    ] {
        let report = Bench::new(script).outputs(&[("files", "out")]).fails(FailureClass::Check, "outputs").await;
        assert!(report.message.is_some());
    }
    // Through a link in the middle, nothing is found.
    Bench::new("ln -s /etc out").outputs(&[("files", "out/passwd")]).fails(FailureClass::Check, "outputs").await;
    let large =
        Bench::new("for i in 1 2 3; do truncate -s 5M f$i; done").outputs(&[("files", "f*")]).limit(|limits| limits.disk = 12 << 20);
    large.fails(FailureClass::OutOfDisk, "outputs").await;
}

#[tokio::test]
async fn background_processes_are_dead_before_outputs_are_taken() {
    let mark = "86431.25";
    let script =
        format!("echo 1 >x; (while true; do sleep 0.01; echo more >>x; done) & setsid sleep {mark} >/dev/null 2>&1 & echo started");
    let bench = Bench::new(&script).outputs(&[("x", "x")]);
    bench.passes().await;
    assert_eq!(processes_with(mark), 0);
}

#[tokio::test]
async fn cancelled_build_leaves_nothing() {
    let mark = "86432.5";
    let script = format!("mkdir -p locked/in; chmod 000 locked; setsid sleep {mark} & echo running; sleep {mark}");
    let bench = Bench::new(&script);
    let cancel = CancellationToken::new();
    let progress: watch::Sender<Progress> = watch::Sender::default();
    let mut seen = progress.subscribe();
    let stop = cancel.clone();
    let canceller = tokio::spawn(async move {
        // Two processes sleep once something was printed; the log is readable meanwhile.
        seen.wait_for(|progress| progress.log_bytes > 20 && progress.step.as_deref() == Some("build")).await.unwrap();
        stop.cancel();
    });
    let report = bench.run_with(cancel, progress).await;
    canceller.await.unwrap();
    assert_eq!(report.outcome, BuildOutcome::Cancelled);
    assert!(report.outcome().is_none());
    assert!(bench.log().contains("running") && bench.log().ends_with("==> cancelled\n"));
    assert_eq!(processes_with(mark), 0);
    no_groups_left().await;
}

/// A caller that goes away is a cancellation too.
#[tokio::test]
async fn dropped_build_is_cleaned_up() {
    let mark = "86433.5";
    let bench = Bench::new(&format!("sleep {mark}"));
    let run = builder::run(bench.request.clone(), Box::new(bench.kept.clone()), watch::Sender::default(), CancellationToken::new());
    assert!(tokio::time::timeout(Duration::from_millis(500), run).await.is_err());
    let begun = Instant::now();
    while bench.request.scratch.exists() || processes_with(mark) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "not cleaned up");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Not a test: what `a_killed_node_takes_its_builds_along` starts as a process of its own, and kills.
#[tokio::test]
#[ignore = "part of another test"]
async fn endless_build_of_another_process() {
    let mark = std::env::var("BARN_TEST_MARK").unwrap();
    Bench::new(&format!("setsid sleep {mark} & sleep {mark}")).run().await;
}

#[tokio::test]
async fn a_killed_node_takes_its_builds_along() {
    let mark = "86434.5";
    let home = tempfile::tempdir().unwrap();
    let mut node = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "endless_build_of_another_process", "--ignored"])
        .env("BARN_TEST_MARK", mark)
        .env("TMPDIR", home.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    // Both sleeps, beside the shell that has them in no argument.
    while processes_with(mark) < 2 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the build did not start");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    node.kill().unwrap();
    node.wait().unwrap();
    while processes_with(mark) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the build outlives its node");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until no control group of this process is there any more.
async fn no_groups_left() {
    let mine = format!("barn-{}-", std::process::id());
    let begun = Instant::now();
    let left = || {
        let mut waiting = vec![PathBuf::from("/sys/fs/cgroup")];
        while let Some(folder) = waiting.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(&mine) {
                    return true;
                }
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    waiting.push(entry.path());
                }
            }
        }
        false
    };
    while left() {
        assert!(begun.elapsed() < Duration::from_secs(30), "a control group is left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const HELLO: &str = "#include <stdio.h>\nint main(void) { printf(\"hello from \" __FILE__ \" \" __DATE__ \"\\n\"); return 0; }\n";

#[tokio::test]
async fn hello_world_reproduces_even_in_chaos() {
    let mut trees = Vec::new();
    for variation in [Variation::None, Variation::None, Variation::Chaos] {
        let bench = Bench::steps(&[("build", "cc -O2 -g -o hello src/hello.c"), ("check", "./hello")]).outputs(&[("bin/hello", "hello")]);
        let source = bench.path("tree");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("hello.c"), HELLO).unwrap();
        let mut bench = bench.source("src", SourceForm::Tree, source);
        bench.request.variation = variation;
        let report = bench.run().await;
        let BuildOutcome::Success { tree } = report.outcome else { panic!("{report:?}\n{}", bench.log()) };
        assert!(bench.log().contains("hello from src/hello.c Nov 14 2023"), "{}", bench.log());
        assert!(report.particulars.sandbox.starts_with("bwrap "), "{:?}", report.particulars);
        trees.push(tree.hash());
    }
    assert_eq!(trees, vec![trees[0]; 3]);
}

#[tokio::test]
async fn sources_and_needs_lie_where_the_action_says() {
    let bench = Bench::new(
        r#"
        find . | sort
        cat one/a.txt two/top1 two/top2 one/patches/p.diff notes.txt /needs/lib/include/h.h
        test -x one/run.sh
        test "$(stat -c %Y one/a.txt)" = 1700000000
        test "$(stat -c %Y notes.txt)" = 1700000000
        echo more >>one/a.txt; echo more >>notes.txt; echo more >>one/patches/p.diff
        if (echo x >/needs/lib/include/h.h) 2>/dev/null; then exit 1; fi"#,
    );
    let stage = bench.path("stage");
    for (file, text) in [
        ("top/a.txt", "a\n"),
        ("top/run.sh", "#!/bin/sh\n"),
        ("two/top1", "t1\n"),
        ("two/top2", "t2\n"),
        ("tree/p.diff", "p\n"),
        ("need/include/h.h", "h\n"),
    ] {
        let path = stage.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fs::set_permissions(stage.join("top/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(stage.join("top"), fs::Permissions::from_mode(0o555)).unwrap();
    run_tool("tar", &["-czf", "one.tar.gz", "top"], &stage);
    run_tool("python3", &["-m", "zipfile", "-c", "two.zip", "two/top1", "two/top2"], &stage);
    fs::write(stage.join("notes"), "n\n").unwrap();
    let mut bench = bench
        .source("one/patches", SourceForm::Tree, stage.join("tree"))
        .source("one", SourceForm::Archive, stage.join("one.tar.gz"))
        .source("two", SourceForm::Archive, stage.join("two.zip"))
        .source("notes.txt", SourceForm::File, stage.join("notes"));
    let need = Need { at: "/needs/lib".into(), tree: BlobHash::of(b""), only: Vec::new() };
    bench.request.inputs.needs.push((need, stage.join("need")));
    let log = bench.passes().await;
    assert!(log.contains("a\nt1\nt2\np\nn\nh\n"), "{log}");
    // Sources are copies.
    assert_eq!(fs::read_to_string(stage.join("notes")).unwrap(), "n\n");
}

#[tokio::test]
async fn broken_archive_fails_as_unpack() {
    let bench = Bench::new("true");
    let archive = bench.path("x.tar.gz");
    fs::write(&archive, "not an archive").unwrap();
    let bench = bench.source("lua", SourceForm::Archive, archive);
    bench.fails(FailureClass::Unpack, "lua").await;
}

/// Copies a program of this machine into `root`, with the libraries that it is linked to.
fn install(program: &str, root: &Path) {
    let libraries = std::process::Command::new("ldd").arg(program).output().unwrap();
    let libraries = String::from_utf8(libraries.stdout).unwrap();
    let paths = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    for path in paths.chain([program]) {
        let to = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(path, to).unwrap();
    }
}

#[tokio::test]
async fn laid_out_tree_can_be_the_root() {
    let mut bench = Bench::new("test -e /marker; test ! -e /usr/share; cat /etc/marker /etc/passwd; echo hi >/tmp/x; echo hi >x");
    let root = bench.path("root");
    install("/bin/sh", &root);
    install("/bin/cat", &root);
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("marker"), "").unwrap();
    fs::write(root.join("etc/marker"), "in etc\n").unwrap();
    fs::write(root.join("etc/passwd"), "of the tree\n").unwrap();
    Arc::make_mut(&mut bench.request.action).environment.rootfs = Rootfs::Tree(BlobHash::of(b""));
    bench.request.inputs.rootfs = Some(root.clone());
    let log = bench.passes().await;
    assert!(log.contains("in etc\n") && log.contains("builder:x:1000"), "{log}");
    // Without a shell, or not laid out at all, it is this machine's fault and says so.
    fs::remove_file(root.join("bin/sh")).unwrap();
    bench.fails(FailureClass::Sandbox, "sandbox").await;
    bench.request.inputs.rootfs = None;
    bench.fails(FailureClass::Sandbox, "sandbox").await;
}

#[tokio::test]
async fn long_output_is_counted_and_progress_is_told() {
    let bench = Bench::new("head -c 3000000 /dev/zero | tr '\\0' 'x'; i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done");
    let progress: watch::Sender<Progress> = watch::Sender::default();
    let told = progress.subscribe();
    let report = bench.run_with(CancellationToken::new(), progress).await;
    assert!(matches!(report.outcome, BuildOutcome::Success { .. }));
    assert!(report.particulars.log_length > 3_000_000);
    assert!(report.particulars.cpu_ms > 0 && report.particulars.wall_ms > 0, "{:?}", report.particulars);
    assert_eq!(told.borrow().step.as_deref(), Some("build"));
}

/// The machine's share of "submit to first exec": 30 ms at most, here with room for a busy machine.
#[tokio::test]
async fn first_exec_comes_at_once() {
    Bench::new("true").passes().await;
    let mut times = Vec::new();
    for _ in 0..20 {
        let report = Bench::new("true").run().await;
        times.push(report.first_exec.unwrap());
    }
    times.sort();
    println!("first exec: median {:?}, least {:?}, most {:?}", times[10], times[0], times[19]);
    assert!(times[0] < Duration::from_millis(100));
}

/// A step can find the pipe on which the driver tells how it goes, but must not name a process to be killed in the place of
/// its own: when the build is stopped, that one would be.
#[tokio::test]
async fn build_can_not_have_another_process_killed() {
    let mut victim = std::process::Command::new("sleep").arg("86434").spawn().unwrap();
    let line = format!("{{ \"child-pid\": {} }}", victim.id());
    let script = format!("for open in /proc/1/fd/*; do echo '{line}' >$open || true; done 2>/dev/null; echo told; sleep 86435");
    let bench = Bench::new(&script).limit(|limits| limits.silent = Duration::from_secs(2));
    bench.fails(FailureClass::NoProgress, "build").await;
    let alive = victim.try_wait().unwrap().is_none();
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(bench.log().contains("told") && alive, "the build had another process killed\n{}", bench.log());
}

/// A link in one tree must not lead what another source brings out of the build's folder: it is written by the node.
#[tokio::test]
async fn sources_are_not_laid_through_links() {
    let bench = Bench::new("true");
    let outside = bench.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(bench.path("tree")).unwrap();
    std::os::unix::fs::symlink(&outside, bench.path("tree/link")).unwrap();
    fs::create_dir_all(bench.path("second/link/below")).unwrap();
    fs::write(bench.path("second/link/below/file"), "x").unwrap();
    fs::write(bench.path("file"), "x").unwrap();
    let with = |at: &str, form, from: &str| {
        let inputs = |name| bench.path(name);
        Bench::new("true").source("a", SourceForm::Tree, inputs("tree")).source(at, form, inputs(from))
    };
    with("a/link/file", SourceForm::File, "file").fails(FailureClass::Unpack, "sources").await;
    with("a", SourceForm::Tree, "second").fails(FailureClass::Unpack, "sources").await;
    with("a/link", SourceForm::Tree, "second").fails(FailureClass::Unpack, "sources").await;
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}
