//! The tree of a git commit, with exactly the bytes that are in the repository.
//!
//! There is no checkout: a checkout runs filters and hooks and changes line ends as the owner's configuration and the
//! commit's attributes say. The objects are read one by one and written down as they are.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use barnraiser_protocol::id::BlobHash;
use barnraiser_protocol::tree::{Entry, Tree};

use super::command::{Conversation, Program};
use super::error::{CommandError, SourceError};
use super::{Limits, OnProgress, Progress};

/// Longest time for one run of git: the history of a large project.
const GIT_MAX: Duration = Duration::from_secs(1800);
/// The most bytes of a listing of one commit's tree: some 400,000 entries.
const LISTING_BYTES_MAX: usize = 64 << 20;
/// How deep submodules may hold submodules.
const SUBMODULE_DEPTH_MAX: u32 = 8;
const MISSING: &str = "git sources come through it: install git";
/// Transports that git may use. Not `ext`, which runs any program.
const TRANSPORTS: &str = "https:http:ssh:git:file";
/// The same for submodules, whose addresses come with the commit: they may not read this machine's files.
const SUBMODULE_TRANSPORTS: &str = "https:http:ssh:git";

/// A commit whose id is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Commit {
    /// The repository.
    pub(super) url: String,
    /// 40 or 64 lower-case hexadecimal digits.
    pub(super) id: String,
    /// With the trees of its submodules.
    pub(super) submodules: bool,
}

/// Why an address can't be used; `Ok` if it can.
fn check_url(name: &str, what: &'static str, url: &str) -> Result<(), SourceError> {
    let schemes = ["https://", "http://", "ssh://", "git://", "file://"];
    let reason = if !schemes.iter().any(|scheme| url.starts_with(scheme)) {
        "it must begin with https://, http://, ssh://, git:// or file://"
    } else if url.chars().any(|c| c.is_control() || c == ' ') {
        "it has a space or a control character"
    } else {
        return Ok(());
    };
    Err(SourceError::BadGit { name: name.to_owned(), what, text: url.to_owned(), reason })
}

/// Checks a commit's id: all 40 (or 64) digits, so that it is a hash and not a name that may move.
pub(super) fn check_id(name: &str, id: &str) -> Result<(), SourceError> {
    if matches!(id.len(), 40 | 64) && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(());
    }
    let reason = "a commit is named by all 40 lower-case hexadecimal digits of its id; for a branch write branch = \"NAME\"";
    Err(SourceError::BadGit { name: name.to_owned(), what: "commit", text: id.to_owned(), reason })
}

/// The id of the newest commit of a branch.
///
/// # Errors
/// [`SourceError`] where the repository can't be reached or has no such branch.
pub(super) fn head_of_branch(name: &str, url: &str, branch: &str) -> Result<String, SourceError> {
    check_url(name, "git address", url)?;
    let bad = branch.is_empty() || branch.len() > 255 || branch.starts_with('-') || branch.contains("..");
    if bad || branch.chars().any(|c| c.is_control() || " ~^:?*[\\".contains(c)) {
        let reason = "it is not a branch's name";
        return Err(SourceError::BadGit { name: name.to_owned(), what: "branch", text: branch.to_owned(), reason });
    }
    let reference = format!("refs/heads/{branch}");
    let listed = git(TRANSPORTS, None)
        .with(|command| {
            command.args(["ls-remote", "--quiet", "--", url, &reference]);
        })
        .output()
        .map_err(|error| SourceError::Git {
            name: name.to_owned(),
            url: url.to_owned(),
            point: branch.to_owned(),
            error: Box::new(error),
        })?;
    let listed = String::from_utf8_lossy(&listed);
    let head = listed.lines().filter_map(|line| line.split_once('\t')).find(|(_, at)| *at == reference);
    match head {
        Some((id, _)) => check_id(name, id).map(|()| id.to_owned()),
        None => Err(SourceError::NoBranch { name: name.to_owned(), url: url.to_owned(), branch: branch.to_owned() }),
    }
}

/// Writes the files of `commit` into `into`, by way of repositories in `scratch`; both are empty folders. Gives the time
/// of the commit in seconds since 1970.
///
/// # Errors
/// [`SourceError`].
pub(super) fn fetch(
    name: &str,
    commit: &Commit,
    scratch: &Path,
    into: &Path,
    limits: &Limits,
    on_progress: OnProgress<'_>,
) -> Result<u64, SourceError> {
    let mut export = Export { name, limits, on_progress, scratch, into, shape: Tree::new(), bytes: 0, repositories: 0 };
    export.repository(commit, "", TRANSPORTS, 0)
}

/// A commit on its way to the disk, its submodules below it.
struct Export<'a> {
    name: &'a str,
    limits: &'a Limits,
    on_progress: OnProgress<'a>,
    scratch: &'a Path,
    into: &'a Path,
    /// What was written so far, with hashes left open. It refuses paths that leave or collide, so that no file can be
    /// written through a link.
    shape: Tree,
    bytes: u64,
    repositories: u32,
}

impl Export<'_> {
    /// Puts the files of `commit` below `prefix` (empty, or ending in `/`); gives the commit's date.
    fn repository(&mut self, commit: &Commit, prefix: &str, transports: &'static str, depth: u32) -> Result<u64, SourceError> {
        check_url(self.name, if depth == 0 { "git address" } else { "submodule" }, &commit.url)?;
        check_id(self.name, &commit.id)?;
        let folder = self.scratch.join(self.repositories.to_string());
        self.repositories += 1;
        (self.on_progress)(Progress { what: &commit.url, bytes: self.bytes, total: None });
        let failed = |error| SourceError::Git {
            name: self.name.to_owned(),
            url: commit.url.clone(),
            point: commit.id.clone(),
            error: Box::new(error),
        };
        fetch_objects(commit, &folder, transports).map_err(failed)?;
        let listing = git(transports, Some(&folder))
            .output_bytes_max(LISTING_BYTES_MAX)
            .with(|command| {
                command.args(["ls-tree", "-r", "-z", "--full-tree", &commit.id]);
            })
            .output()
            .map_err(failed)?;
        let date = git(transports, Some(&folder))
            .with(|command| {
                command.args(["show", "--no-patch", "--no-show-signature", "--format=%ct", &commit.id]);
            })
            .output()
            .map_err(failed)?;
        let date = String::from_utf8_lossy(&date).trim().parse().map_err(|_| self.answer(commit, "the commit has no date"))?;

        let mut objects = git(transports, Some(&folder))
            .with(|command| {
                command.args(["cat-file", "--batch"]);
            })
            .converse()
            .map_err(failed)?;
        let mut submodules = Vec::new();
        for line in listing.split(|&byte| byte == 0).filter(|line| !line.is_empty()) {
            let Some((mode, object, path)) = listed(line) else {
                return Err(self.answer(commit, "a line of ls-tree, or a path that is not UTF-8"));
            };
            let at = format!("{prefix}{path}");
            match mode {
                "160000" if commit.submodules => submodules.push((path.to_owned(), object.to_owned())),
                "160000" => {
                    let place = self.place(&at, Entry::EmptyFolder)?;
                    fs::create_dir(&place).map_err(written(&place))?;
                }
                "120000" => {
                    let target = self.link(commit, &mut objects, object)?;
                    let place = self.place(&at, Entry::Symlink { target: target.clone() })?;
                    symlink(target, &place).map_err(written(&place))?;
                }
                _ => self.file(commit, &mut objects, object, &at, mode == "100755")?,
            }
        }
        if !submodules.is_empty() {
            self.submodules(commit, &folder, prefix, submodules, depth)?;
        }
        Ok(date)
    }

    fn submodules(
        &mut self,
        commit: &Commit,
        folder: &Path,
        prefix: &str,
        submodules: Vec<(String, String)>,
        depth: u32,
    ) -> Result<(), SourceError> {
        if depth >= SUBMODULE_DEPTH_MAX {
            return Err(SourceError::TooLarge {
                name: self.name.to_owned(),
                limit: SUBMODULE_DEPTH_MAX.into(),
                unit: "levels of submodules",
            });
        }
        let listing = git(TRANSPORTS, Some(folder))
            .with(|command| {
                command.args([
                    "config",
                    "--null",
                    "--blob",
                    &format!("{}:.gitmodules", commit.id),
                    "--get-regexp",
                    r"^submodule\..*\.(path|url)$",
                ]);
            })
            .output()
            .map_err(|_| self.answer(commit, "it has submodules, but no .gitmodules that names them"))?;
        let urls = submodule_urls(&String::from_utf8_lossy(&listing));
        // Only where the parent itself is a file of this machine may its submodules be.
        let transports = if commit.url.starts_with("file://") { TRANSPORTS } else { SUBMODULE_TRANSPORTS };
        for (path, id) in submodules {
            let Some(url) = urls.get(&path) else {
                return Err(self.answer(commit, &format!("submodule {path:?} has no address in .gitmodules")));
            };
            let below = Commit { url: resolve_url(&commit.url, url), id, submodules: true };
            self.repository(&below, &format!("{prefix}{path}/"), transports, depth + 1)?;
        }
        Ok(())
    }

    /// Where `entry` goes on the disk, its folders made, once nothing speaks against it.
    fn place(&mut self, path: &str, entry: Entry) -> Result<PathBuf, SourceError> {
        if self.shape.len() as u64 >= self.limits.entries_max {
            return Err(SourceError::TooLarge { name: self.name.to_owned(), limit: self.limits.entries_max, unit: "files" });
        }
        self.shape.insert(path, entry).map_err(|error| SourceError::Tree { name: self.name.to_owned(), error })?;
        let place = self.into.join(path);
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder).map_err(written(folder))?;
        }
        Ok(place)
    }

    fn file(&mut self, commit: &Commit, objects: &mut Conversation, object: &str, path: &str, executable: bool) -> Result<(), SourceError> {
        let length = self.ask(commit, objects, object)?;
        let place = self.place(path, Entry::File { hash: BlobHash([0; 32]), length, executable })?;
        let mode = if executable { 0o755 } else { 0o644 };
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&place).map_err(written(&place))?;
        let copied = io::copy(&mut (&mut objects.answers).take(length), &mut file).map_err(written(&place))?;
        if copied != length {
            return Err(self.answer(commit, "a truncated object"));
        }
        self.end(commit, objects)?;
        (self.on_progress)(Progress { what: &commit.url, bytes: self.bytes, total: None });
        Ok(())
    }

    fn link(&mut self, commit: &Commit, objects: &mut Conversation, object: &str) -> Result<String, SourceError> {
        let length = self.ask(commit, objects, object)?;
        let mut target = Vec::new();
        if length > barnraiser_protocol::tree::PATH_BYTES_MAX as u64 {
            return Err(self.answer(commit, "the target of a link is too long"));
        }
        (&mut objects.answers).take(length).read_to_end(&mut target).map_err(|_| self.answer(commit, "a truncated object"))?;
        self.end(commit, objects)?;
        String::from_utf8(target).map_err(|_| self.answer(commit, "the target of a link is not UTF-8"))
    }

    /// Asks for an object; its bytes follow, as many as this gives.
    fn ask(&mut self, commit: &Commit, objects: &mut Conversation, object: &str) -> Result<u64, SourceError> {
        let mut head = String::new();
        let asked: io::Result<usize> = writeln!(objects.ask, "{object}")
            .and_then(|()| objects.ask.flush())
            .and_then(|()| (&mut objects.answers).take(256).read_line(&mut head));
        // `OBJECT blob LENGTH`, or `OBJECT missing`.
        let length = asked.ok().and_then(|_| head.trim_end().split_once(" blob ")).and_then(|(_, length)| length.parse::<u64>().ok());
        let length = length.ok_or_else(|| self.answer(commit, &format!("object {object} is missing")))?;
        self.bytes = self.bytes.saturating_add(length);
        if self.bytes > self.limits.bytes_max {
            return Err(SourceError::TooLarge { name: self.name.to_owned(), limit: self.limits.bytes_max, unit: "bytes" });
        }
        Ok(length)
    }

    /// Reads the line end behind an object.
    fn end(&self, commit: &Commit, objects: &mut Conversation) -> Result<(), SourceError> {
        let mut end = [0];
        match objects.answers.read_exact(&mut end) {
            Ok(()) if end == *b"\n" => Ok(()),
            _ => Err(self.answer(commit, "a truncated object")),
        }
    }

    fn answer(&self, commit: &Commit, reason: &str) -> SourceError {
        SourceError::GitAnswer { name: self.name.to_owned(), url: commit.url.clone(), reason: reason.to_owned() }
    }
}

/// [`SourceError::Scratch`] as a closure for `map_err`.
fn written(path: &Path) -> impl FnOnce(io::Error) -> SourceError + use<> {
    let path = path.to_owned();
    move |error| SourceError::Scratch { path, error }
}

/// Git with the owner's proxies and credentials, but without hooks, questions and dangerous transports.
fn git(transports: &'static str, folder: Option<&Path>) -> Program {
    Program::new("git", GIT_MAX, MISSING).with(|command| {
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_ALLOW_PROTOCOL", transports).env("GIT_NO_LAZY_FETCH", "1");
        for inherited in
            ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE"]
        {
            command.env_remove(inherited);
        }
        command.args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "gc.auto=0", "-c", "maintenance.auto=false"]);
        if let Some(folder) = folder {
            command.arg("--git-dir").arg(folder);
        }
    })
}

/// Makes a repository in `folder` with the objects of `commit`: only those where the server gives out single commits,
/// else those of all branches and tags.
fn fetch_objects(commit: &Commit, folder: &PathBuf, transports: &'static str) -> Result<(), CommandError> {
    let format = if commit.id.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
    Program::new("git", GIT_MAX, MISSING)
        .with(|command| {
            command.args(["init", "--quiet", "--bare", "--template=", format]).arg(folder);
        })
        .output()?;
    let run = |arguments: &[&str]| {
        git(transports, Some(folder))
            .with(|command| {
                command.args(arguments);
            })
            .output()
    };
    let single = run(&["fetch", "--quiet", "--no-tags", "--depth=1", "--no-write-fetch-head", "--", &commit.url, &commit.id]);
    if single.is_err() {
        // The second error is the one that says whether the repository can be reached at all.
        run(&["fetch", "--quiet", "--no-tags", "--", &commit.url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"])?;
    }
    run(&["cat-file", "-e", &format!("{}^{{commit}}", commit.id)]).map(|_| ()).map_err(|error| match error {
        CommandError::Failed { program, status, .. } => CommandError::Failed {
            program,
            status,
            said: String::from("the repository has no such commit on any branch or tag"),
            advice: String::new(),
        },
        other => other,
    })
}

/// Mode, object and path of a line `MODE TYPE OBJECT\tPATH`.
fn listed(line: &[u8]) -> Option<(&str, &str, &str)> {
    let (head, path) = std::str::from_utf8(line).ok()?.split_once('\t')?;
    let mut words = head.split(' ');
    let (mode, _kind, object) = (words.next()?, words.next()?, words.next()?);
    Some((mode, object, path))
}

/// Path → address, from what `git config --null --get-regexp` lists: `submodule.NAME.KEY\nVALUE\0…`.
fn submodule_urls(listing: &str) -> BTreeMap<String, String> {
    let mut by_name: BTreeMap<&str, (Option<&str>, Option<&str>)> = BTreeMap::new();
    for (key, value) in listing.split('\0').filter_map(|entry| entry.split_once('\n')) {
        let Some((name, key)) = key.strip_prefix("submodule.").and_then(|rest| rest.rsplit_once('.')) else { continue };
        let entry = by_name.entry(name).or_default();
        if key == "path" {
            entry.0 = Some(value);
        } else {
            entry.1 = Some(value);
        }
    }
    by_name.into_values().filter_map(|(path, url)| Some((path?.trim_end_matches('/').to_owned(), url?.to_owned()))).collect()
}

/// The address of a submodule, which may be relative to its parent's: `../other.git`.
fn resolve_url(parent: &str, url: &str) -> String {
    if !url.starts_with("./") && !url.starts_with("../") {
        return url.to_owned();
    }
    let mut base = parent.trim_end_matches('/');
    let mut rest = url;
    loop {
        if let Some(after) = rest.strip_prefix("./") {
            rest = after;
        } else if let Some(after) = rest.strip_prefix("../") {
            base = base.rsplit_once('/').map_or(base, |(before, _)| before);
            rest = after;
        } else {
            return format!("{base}/{rest}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ids_that_could_run_something_are_refused() {
        for url in ["ext::sh -c id", "-u", "--upload-pack=x", "/tmp/x", "https://a b", "https://a\n"] {
            assert!(check_url("x", "git address", url).is_err(), "{url:?}");
        }
        for id in ["", "master", "HEAD", "deadbeef", &"A".repeat(40), &format!("-{}", "a".repeat(39))] {
            assert!(check_id("x", id).is_err(), "{id:?}");
        }
        assert!(check_url("x", "git address", "https://example.org/x.git").is_ok());
        assert!(check_id("x", &"a".repeat(40)).is_ok());
    }

    #[test]
    fn relative_addresses_of_submodules_are_resolved() {
        assert_eq!(resolve_url("https://h/a/b.git", "../c.git"), "https://h/a/c.git");
        assert_eq!(resolve_url("https://h/a/b.git", "./c"), "https://h/a/b.git/c");
        assert_eq!(resolve_url("https://h/a/b.git/", "../../c"), "https://h/c");
        assert_eq!(resolve_url("https://h/a", "https://o/c"), "https://o/c");
        // `a.b` as a submodule's name has a dot in it.
        let urls = submodule_urls("submodule.a.b.path\nlib/x/\0submodule.a.b.url\n../x.git\0submodule.c.path\nlonely\0");
        assert_eq!(urls, BTreeMap::from([("lib/x".to_owned(), "../x.git".to_owned())]));
    }
}
