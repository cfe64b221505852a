//! Sources from a server on loopback, from cargo's cache, from a git repository and from the disk.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;

use barnraiser_protocol::recipe::{ExpandOptions, expand, parse_batch, parse_recipe};
use barnraiser_protocol::tree::{Entry, Tree};

use super::*;

/// A home with a store, and sources into it.
struct Home {
    folder: tempfile::TempDir,
    store: Store,
    sources: Sources,
}

fn home() -> Home {
    home_with(Vec::new())
}

fn home_with(mirrors: Vec<Mirror>) -> Home {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let sources = Sources::new(store.clone(), folder.path().join("tmp"), mirrors).with_cargo_home(folder.path().join("cargo"));
    Home { folder, store, sources }
}

impl Home {
    /// The answers to the requests of a recipe in this home's folder `recipes`.
    fn resolve(&self, recipe: &str) -> Result<Vec<ResolvedSource>, SourceError> {
        let file = self.folder.path().join("recipes/x.toml");
        let recipe = parse_recipe(file.to_str().unwrap(), recipe).unwrap();
        let batch = parse_batch("batch.toml", "[batch]\nname = \"b\"\nchannel = \"c\"\nrecipes = [\"recipes/x.toml\"]\n").unwrap();
        let plan = expand(&batch, &[recipe], &ExpandOptions::default()).unwrap();
        let answers = self.sources.resolve_all(&plan.requests, &|_| {}).map_err(|mut errors| errors.remove(0))?;
        Ok(answers.into_values().collect())
    }

    fn one(&self, source: &str) -> Result<ResolvedSource, SourceError> {
        let recipe =
            format!("[recipe]\nname = \"x\"\n[steps]\nbuild = \"true\"\n[outputs]\n\"x\" = \"x\"\n[[source]]\nname = \"s\"\n{source}\n");
        self.resolve(&recipe).map(|mut answers| answers.remove(0))
    }

    fn tree(&self, hash: &BlobHash) -> Tree {
        Tree::from_bytes(&self.store.read_all(hash, 1 << 20).unwrap()).unwrap()
    }

    fn text(&self, tree: &Tree, path: &str) -> Vec<u8> {
        let Some(Entry::File { hash, .. }) = tree.entry(path) else { panic!("{path} is no file of {tree:?}") };
        self.store.read_all(hash, 1 << 20).unwrap()
    }
}

/// A server that answers each path by `answer`: the head without its end, and the body. Returns its address and a count
/// of requests; it lives as long as the test process.
fn serve(answer: impl Fn(&str) -> (String, Vec<u8>) + Send + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream: TcpStream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let Some(Ok(first)) = lines.next() else { continue };
            for line in lines.by_ref() {
                if line.unwrap_or_default().is_empty() {
                    break;
                }
            }
            counted.fetch_add(1, Ordering::SeqCst);
            let path = first.split(' ').nth(1).unwrap_or("/");
            let (head, body) = answer(path);
            let mut stream = stream;
            // The client may have hung up already, which is what some tests want.
            let _ = stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    (address, count)
}

fn ok(body: &[u8]) -> (String, Vec<u8>) {
    (format!("HTTP/1.1 200 OK\r\nContent-Length: {}", body.len()), body.to_vec())
}

/// An address where nobody listens.
fn dead_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn file_is_fetched_once_and_then_known_by_either_hash() {
    let home = home();
    let (address, count) = serve(|_| ok(b"barn"));
    let (sha256, blake3) = (Sha256::of(b"barn"), BlobHash::of(b"barn"));
    let by_sha256 = format!("urls = [\"{address}/a/barn.txt?v=1\"]\nsha256 = \"{sha256}\"\nunpack = false");
    let found = home.one(&by_sha256).unwrap();
    assert_eq!(found, ResolvedSource { blob: blake3, file_name: "barn.txt".into(), form: SourceForm::File, newest_date: None });
    assert_eq!(home.store.read_all(&blake3, 10).unwrap(), b"barn");
    assert_eq!(home.one(&by_sha256).unwrap(), found);
    home.one(&format!("urls = [\"{address}/other\"]\nblake3 = \"{blake3}\"\nunpack = false")).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1, "the second and third time need no server");
}

#[test]
fn wrong_bytes_are_refused_and_both_hashes_are_named() {
    let home = home();
    let (address, _) = serve(|_| ok(b"tampered"));
    let wanted = Sha256::of(b"barn");
    let error = home.one(&format!("urls = [\"{address}/barn\"]\nsha256 = \"{wanted}\"")).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.exit_code(), 4, "{text}");
    assert!(text.contains(&wanted.to_string()) && text.contains(&Sha256::of(b"tampered").to_string()), "{text}");
    assert!(!home.store.contains(&BlobHash::of(b"tampered")).unwrap(), "what was refused is not kept");
}

/// Mirrors come first, addresses in order, and one that fails does not matter as long as another one works.
#[test]
fn addresses_are_tried_in_order_after_the_mirrors() {
    let (good, count) = serve(|path| if path == "/mirror/barn" { ok(b"wrong") } else { ok(b"barn") });
    let home = home_with(vec![Mirror { prefix: "https://example.invalid/".into(), replace: format!("{good}/mirror/") }]);
    let dead = dead_address();
    let wanted = Sha256::of(b"barn");
    home.one(&format!("urls = [\"https://example.invalid/barn\", \"{dead}/x\", \"{good}/barn\"]\nsha256 = \"{wanted}\"")).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 2, "the mirror and the last address");
}

#[test]
fn unreachable_source_names_every_address_and_why() {
    let home = home();
    let dead = dead_address();
    let (missing, _) = serve(|_| ("HTTP/1.1 404 Not Found\r\nContent-Length: 0".into(), Vec::new()));
    let wanted = Sha256::of(b"barn");
    let error = home.one(&format!("urls = [\"{dead}/a\", \"{missing}/b\"]\nsha256 = \"{wanted}\"")).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.exit_code(), 6);
    assert!(text.contains(&format!("{dead}/a: ")) && text.contains(&format!("{missing}/b: the server answered 404")), "{text}");
    assert!(text.contains("[mirrors]"), "{text}");
}

/// TLS needs a cryptography provider; without one the client would panic at the first https address.
#[test]
fn server_that_does_not_speak_tls_is_an_error() {
    let home = home();
    let (address, _) = serve(|_| ok(b"barn"));
    let address = address.replace("http://", "https://");
    let error = home.one(&format!("urls = [\"{address}/a\"]\nsha256 = \"{}\"", Sha256::of(b"barn"))).unwrap_err();
    assert_eq!(error.exit_code(), 6, "{error}");
}

#[test]
fn redirect_loop_ends() {
    let home = home();
    let (address, count) = serve(|_| ("HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0".into(), Vec::new()));
    let error = home.one(&format!("urls = [\"{address}/a\"]\nsha256 = \"{}\"", Sha256::of(b"barn"))).unwrap_err();
    assert!(error.to_string().contains("redirects"), "{error}");
    assert!(count.load(Ordering::SeqCst) < 20);
}

#[test]
fn redirect_to_the_file_is_followed() {
    let home = home();
    let (address, _) = serve(|path| match path {
        "/a" => ("HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0".into(), Vec::new()),
        _ => ok(b"barn"),
    });
    home.one(&format!("urls = [\"{address}/a\"]\nsha256 = \"{}\"", Sha256::of(b"barn"))).unwrap();
}

#[test]
fn file_larger_than_the_limit_is_refused_whether_it_says_so_or_not() {
    let mut home = home();
    home.sources = home.sources.with_limits(Limits { bytes_max: 1000, entries_max: 10 });
    let (address, _) = serve(|path| match path {
        "/honest" => ok(&[0; 2000]),
        // No length: the body goes on until the connection ends.
        _ => ("HTTP/1.1 200 OK".into(), vec![0; 2000]),
    });
    for path in ["honest", "endless"] {
        let error = home.one(&format!("urls = [\"{address}/{path}\"]\nsha256 = \"{}\"", Sha256::of(&[0; 2000]))).unwrap_err();
        assert!(error.to_string().contains("larger than 1000 bytes"), "{path}: {error}");
    }
}

#[test]
fn connection_that_breaks_is_an_error() {
    let home = home();
    let (address, _) = serve(|_| ("HTTP/1.1 200 OK\r\nContent-Length: 100".into(), b"barn".to_vec()));
    let error = home.one(&format!("urls = [\"{address}/a\"]\nsha256 = \"{}\"", Sha256::of(b"barn"))).unwrap_err();
    assert_eq!(error.exit_code(), 6, "{error}");
}

/// Several registries may have a crate of that name and version; the hash tells which one is meant.
#[test]
fn crate_comes_from_the_cache_of_cargo() {
    let home = home();
    for (registry, bytes) in [("one", "other"), ("two", "barn")] {
        let folder = home.folder.path().join("cargo/registry/cache").join(registry);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("lua-src-547.0.0.crate"), bytes).unwrap();
    }
    let found = home.one(&format!("urls = [\"crate:lua-src@547.0.0\"]\nsha256 = \"{}\"", Sha256::of(b"barn"))).unwrap();
    assert_eq!((found.blob, found.file_name.as_str()), (BlobHash::of(b"barn"), "lua-src-547.0.0.crate"));
    assert_eq!(found.form, SourceForm::Archive);
    let error = home.one(&format!("urls = [\"crate:lua-src@547.0.0\"]\nsha256 = \"{}\"", Sha256::of(b"x"))).unwrap_err();
    assert_eq!(error.exit_code(), 4, "{error}");
}

#[test]
fn newest_date_in_an_archive_is_the_date_of_the_source() {
    let home = home();
    let content = home.folder.path().join("recipes/content");
    std::fs::create_dir_all(&content).unwrap();
    std::fs::write(content.join("a"), "a").unwrap();
    let archive = home.folder.path().join("recipes/a.tar.xz");
    let mut made = Command::new("tar");
    made.args(["--create", "--xz", "--mtime=@1600000000", "--file"]).arg(&archive).arg("-C").arg(&content).arg("a");
    assert!(made.status().unwrap().success());
    let found = home.one("path = \"a.tar.xz\"\nunpack = true").unwrap();
    assert_eq!((found.form, found.newest_date, found.file_name.as_str()), (SourceForm::Archive, Some(1_600_000_000), "a.tar.xz"));
    let folder = home.one("path = \"content\"").unwrap();
    assert_eq!((folder.form, folder.newest_date), (SourceForm::Tree, None));
    assert_eq!(home.text(&home.tree(&folder.blob), "a"), b"a");
}

/// Runs git in `folder` with an identity and a date, so that commits are always the same.
fn git(folder: &Path, arguments: &[&str]) -> String {
    std::fs::create_dir_all(folder).unwrap();
    let output = Command::new("git")
        .current_dir(folder)
        .args(["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always", "-c", "commit.gpgsign=false"])
        .args(arguments)
        .envs([("GIT_AUTHOR_DATE", "@1500000000 +0000"), ("GIT_COMMITTER_DATE", "@1500000000 +0000")])
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A repository with a file, a program, a link and attributes that would change the bytes of a checkout.
fn repository(folder: &Path) -> String {
    git(folder, &["init", "--quiet", "--initial-branch=master"]);
    std::fs::write(folder.join("text"), "one\ntwo\n").unwrap();
    std::fs::write(folder.join(".gitattributes"), "text eol=crlf\nhidden export-ignore\n").unwrap();
    std::fs::write(folder.join("hidden"), "x").unwrap();
    std::fs::write(folder.join("run"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(folder.join("run"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("text", folder.join("link")).unwrap();
    git(folder, &["add", "--all"]);
    git(folder, &["commit", "--quiet", "--message=one"]);
    git(folder, &["rev-parse", "HEAD"])
}

#[test]
fn commit_gives_exactly_the_bytes_of_the_repository() {
    let home = home();
    let folder = home.folder.path().join("repository");
    let id = repository(&folder);
    let url = format!("file://{}", folder.display());
    let found = home.one(&format!("git = \"{url}\"\nrev = \"{id}\"")).unwrap();
    assert_eq!((found.form, found.newest_date), (SourceForm::Tree, Some(1_500_000_000)));
    let tree = home.tree(&found.blob);
    assert_eq!(home.text(&tree, "text"), b"one\ntwo\n");
    assert_eq!(home.text(&tree, "hidden"), b"x");
    assert!(matches!(tree.entry("run"), Some(Entry::File { executable: true, .. })));
    assert_eq!(tree.entry("link"), Some(&Entry::Symlink { target: "text".into() }));
    // A branch is the same commit, and the second time needs no repository at all.
    assert_eq!(home.one(&format!("git = \"{url}\"\nbranch = \"master\"")).unwrap(), found);
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(home.one(&format!("git = \"{url}\"\nrev = \"{id}\"")).unwrap(), found);
}

#[test]
fn submodule_is_laid_at_its_place_when_it_is_wanted() {
    let home = home();
    let (inner, outer) = (home.folder.path().join("inner"), home.folder.path().join("outer"));
    repository(&inner);
    repository(&outer);
    git(&outer, &["submodule", "--quiet", "add", "--name", "in.ner", "../inner", "lib/inner"]);
    let settings = std::fs::read_to_string(outer.join(".gitmodules")).unwrap();
    assert!(settings.contains("../inner"), "{settings}");
    git(&outer, &["commit", "--quiet", "--message=two"]);
    let id = git(&outer, &["rev-parse", "HEAD"]);
    let source = format!("git = \"file://{}\"\nrev = \"{id}\"", outer.display());
    let alone = home.tree(&home.one(&source).unwrap().blob);
    assert_eq!(alone.entry("lib/inner"), Some(&Entry::EmptyFolder));
    let whole = home.tree(&home.one(&format!("{source}\nsubmodules = true")).unwrap().blob);
    assert_eq!(home.text(&whole, "lib/inner/text"), b"one\ntwo\n");
}

#[test]
fn commit_or_branch_that_does_not_exist_is_named() {
    let home = home();
    let folder = home.folder.path().join("repository");
    repository(&folder);
    let url = format!("file://{}", folder.display());
    let error = home.one(&format!("git = \"{url}\"\nbranch = \"nosuch\"")).unwrap_err();
    assert!(matches!(error, SourceError::NoBranch { .. }) && error.exit_code() == 6, "{error}");
    let error = home.one(&format!("git = \"{url}\"\nrev = \"{}\"", "a".repeat(40))).unwrap_err();
    assert!(error.to_string().contains("no such commit") && error.exit_code() == 6, "{error}");
    let error = home.one(&format!("git = \"file://{}/nosuch\"\nrev = \"{}\"", home.folder.path().display(), "a".repeat(40))).unwrap_err();
    assert_eq!(error.exit_code(), 6, "{error}");
}

#[test]
fn locking_writes_the_hash_and_leaves_the_rest_alone() {
    let home = home();
    let (address, requests) = serve(|_| ok(b"barn"));
    let text = format!(
        "# mine\n[recipe]\nname = \"x\"\n\n[[source]]\nname = \"s\"   # the source\nurls = [\"{address}/barn\"]\n\n[steps]\nbuild = \"true\"\n\n[outputs]\n\"x\" = \"x\"\n"
    );
    let locked = home.sources.lock("x.toml", &text, &|_| {}).unwrap();
    let sha256 = Sha256::of(b"barn");
    assert_eq!(locked.added, [("s".to_owned(), sha256.to_string())]);
    let line = format!("urls = [\"{address}/barn\"]\n");
    assert_eq!(locked.text, text.replace(&line, &format!("{line}sha256 = \"{sha256}\"\n")));
    // What is locked stays as it is, and is not fetched again.
    let again = home.sources.lock("x.toml", &locked.text, &|_| {}).unwrap();
    assert!(again.added.is_empty() && again.text == locked.text);
    assert_eq!((again.checked, requests.load(Ordering::Relaxed)), (vec!["s".to_owned()], 1));
}

/// A wrong hash passed `barn lock` unseen, though the right bytes were at hand.
#[test]
fn locking_finds_a_written_hash_that_is_wrong() {
    let home = home();
    let (address, requests) = serve(|_| ok(b"barn"));
    let recipe = |hash: &str| {
        format!(
            "[recipe]\nname = \"x\"\n[[source]]\nname = \"s\"\nurls = [\"{address}/barn\"]\n{hash}\n[steps]\nbuild = \"true\"\n[outputs]\n\"x\" = \"x\"\n"
        )
    };
    let wrong = recipe(&format!("sha256 = \"{}\"", "ab".repeat(32)));
    // Nothing was ever fetched from there: nothing is fetched now, and that is said.
    let locked = home.sources.lock("x.toml", &wrong, &|_| {}).unwrap();
    assert_eq!((locked.unchecked, requests.load(Ordering::Relaxed)), (vec!["s".to_owned()], 0));
    home.sources.lock("x.toml", &recipe(""), &|_| {}).unwrap();
    let error = home.sources.lock("x.toml", &wrong, &|_| {}).unwrap_err();
    assert!(error.exit_code() == 4 && error.to_string().contains("abababab"), "{error}");
    let blake3 = recipe(&format!("blake3 = \"{}\"", BlobHash::of(b"barn")));
    assert_eq!(home.sources.lock("x.toml", &blake3, &|_| {}).unwrap().checked, ["s"]);
}
