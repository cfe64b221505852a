//! `barn` without a node: what it makes, what it refuses, and with which exit code. Every test has homes of its own.
#![allow(clippy::unwrap_used)]

mod building;
mod homes;
mod networks;
mod recipes;
mod releases;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A folder of one test, with homes in it.
struct Bench {
    folder: tempfile::TempDir,
}

/// What came of a command.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file of this test and gives its path.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// `barn` on the home of that name, in the test's folder, with nothing of the environment that could reach in.
    fn command(&self, home: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_barn"));
        command.env_remove("BARN_HOME").env_remove("BARN_LOG").env_remove("XDG_DATA_HOME").env("HOME", self.folder.path());
        command.current_dir(self.folder.path()).stdin(Stdio::null()).arg("--home").arg(self.path(home));
        command
    }

    fn run(&self, home: &str, arguments: &[&str]) -> Ran {
        Ran::of(self.command(home).args(arguments).output().unwrap())
    }

    /// Runs what must succeed.
    fn ok(&self, home: &str, arguments: &[&str]) -> String {
        let ran = self.run(home, arguments);
        assert_eq!(ran.code, 0, "{arguments:?}\n{}\n{}", ran.out, ran.err);
        ran.out
    }

    /// Runs what must succeed, and gives its one JSON document.
    fn json(&self, home: &str, arguments: &[&str]) -> Value {
        let arguments: Vec<&str> = ["--json"].into_iter().chain(arguments.iter().copied()).collect();
        let out = self.ok(home, &arguments);
        let document: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(document["version"], 1, "{out}");
        assert!(document["kind"].is_string(), "{out}");
        document
    }

    /// Runs what must fail with this exit code, in words that say so and without a panic.
    fn fails(&self, code: i32, home: &str, arguments: &[&str]) -> String {
        let ran = self.run(home, arguments);
        assert_eq!(ran.code, code, "{arguments:?}\n{}\n{}", ran.out, ran.err);
        assert!(!ran.err.trim().is_empty() && !ran.err.contains("panicked"), "{arguments:?}: {}", ran.err);
        ran.err
    }

    /// A home with keys.
    fn home(&self, name: &str) -> String {
        self.ok(name, &["init"]);
        self.json(name, &["id"])["operator"].as_str().unwrap().to_owned()
    }
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A path as an argument.
fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn wrong_usage_ends_with_2_and_help_with_0() {
    let bench = Bench::new();
    assert!(bench.fails(2, "h", &["frobnicate"]).contains("frobnicate"));
    assert!(bench.fails(2, "h", &[]).contains("Usage"));
    bench.fails(2, "h", &["network", "create", "x", "--maintainer", "barnkey1nonsense", "-o", "p"]);
    bench.fails(2, "h", &["network", "invite", "not-an-operator"]);
    bench.fails(2, "h", &["plan", "x.toml", "--set", "novalue"]);
    assert!(bench.fails(2, "h", &["log", "abc", "--grep", "(a"]).contains("unclosed group"));
    assert!(bench.ok("h", &["--help"]).contains("Exit codes"));
    assert!(bench.ok("h", &["--version"]).starts_with("barn "));
}

/// `barn … | head -1` is what people type.
#[test]
fn a_reader_that_goes_away_is_no_error() {
    let bench = Bench::new();
    bench.home("h");
    for arguments in [&["id"][..], &["--json", "doctor"], &["--help"]] {
        let mut child = bench.command("h").args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ran = Ran::of(child.wait_with_output().unwrap());
        assert!(ran.code == 0 && !ran.err.contains("panicked"), "{arguments:?}: {} {}", ran.code, ran.err);
    }
}

#[test]
fn errors_are_one_document_with_json() {
    let bench = Bench::new();
    let ran = bench.run("nowhere", &["--json", "id"]);
    let document: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &document["kind"], &document["exit"]), (3, &"error".into(), &3.into()));
    assert!(document["message"].as_str().unwrap().contains("barn init"));
}
