//! `barn fetch` and `barn store add` as people and scripts see them: events, pipes, interruptions, a full disk.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use barnraiser_store::{Durability, Store};
use barnraiser_tests::{Home, Lend, Process, Village, list, path_text, text, wait};
use serde_json::Value;

use super::SOON;

const MIB: u64 = 1 << 20;
/// Long enough that a provider can be stopped in the middle of it.
const LONG: u64 = 256 * MIB;
/// What has come when it is.
const SOME: u64 = 8 * MIB;

/// Noise that no two seeds share.
pub(super) fn noise(seed: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A network with one that has a blob, and one that wants it.
struct Scene {
    village: Village,
    _entry: Process,
    provider: Process,
    fetcher: Home,
    ticket: String,
    hash: String,
    length: u64,
}

impl Scene {
    /// The fetcher's node is not started yet, and its home is `home` where that is given.
    fn new(length: u64, home: impl FnOnce(&Village) -> Home) -> Self {
        let village = Village::new().unwrap();
        let (entry, address) = village.bootstrap().unwrap();
        let publisher = village.home("publisher");
        publisher.init(Lend::NOTHING).unwrap();
        let store = Store::open(&publisher.root().join("store")).unwrap();
        let hash = store.import_bytes(&noise(1, length), Durability::Announced).unwrap().to_string();
        drop(store);
        publisher.ok(&["network", "create", "images", "--policy", "small", "--bootstrap", &address]).unwrap();
        let ticket = text(&publisher.json(&["network", "invite", "--uses", "9", "--bootstrap", &address]).unwrap()["ticket"]).unwrap();
        let provider = publisher.start().unwrap();
        let fetcher = home(&village);
        fetcher.init(Lend::NOTHING).unwrap();
        fetcher.ok(&["join", &ticket]).unwrap();
        Self { village, _entry: entry, provider, fetcher, ticket, hash, length }
    }

    fn start(&self) -> Process {
        let node = self.fetcher.start().unwrap();
        self.fetcher.wait_present("images", 2, SOON).unwrap();
        node
    }

    /// How much of the blob is on the disk of the store in that home.
    fn here(&self, root: &Path) -> u64 {
        fs::metadata(root.join("store/partials").join(&self.hash)).map_or(0, |file| file.blocks() * 512)
    }

    /// Waits until some has come and makes the provider stand still: in the middle, as is checked.
    fn stop_in_the_middle(&self, root: &Path) {
        wait("some of it has come", SOON, || Ok((self.here(root) >= SOME).then_some(()))).unwrap();
        self.provider.freeze();
        let here = self.here(root);
        assert!((SOME..self.length).contains(&here), "{here} of {} bytes had come when the provider stood still", self.length);
    }
}

fn plain(village: &Village) -> Home {
    village.home("fetcher")
}

/// All lines that a stream of events has, each an object.
fn events(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?} of {text}"))).collect()
}

/// The names of all fields.
fn fields(event: &Value) -> BTreeSet<&str> {
    event.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Events come in this order and have these fields, and those that scripts count with have these types.
fn check_fetch_events(events: &[Value], hash: &str, length: u64) {
    let kinds: Vec<&str> = events.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!((kinds.first(), kinds.last()), (Some(&"started"), Some(&"fetched")), "{kinds:?}");
    assert!(kinds[1..kinds.len() - 1].iter().all(|kind| *kind == "progress"), "{kinds:?}");
    let mut verified = 0;
    for event in events {
        assert_eq!(event["version"], 1);
        match event["kind"].as_str().unwrap() {
            "started" => {
                assert_eq!(fields(event), BTreeSet::from(["kind", "version", "hash", "length", "already_had", "providers"]));
                assert_eq!((&event["hash"], event["length"].as_u64()), (&hash.into(), Some(length)));
                assert!(event["already_had"].is_u64() && event["providers"].is_array());
                assert!(list(&event["providers"]).iter().all(|node| node.as_str().is_some_and(|node| node.len() == 64)), "{event}");
            }
            "progress" => {
                assert_eq!(fields(event), BTreeSet::from(["kind", "version", "verified", "length", "peers", "bytes_by_peer", "rate"]));
                assert!(event["rate"].is_u64() && event["peers"].is_u64() && event["length"] == length);
                let by_peer = event["bytes_by_peer"].as_object().unwrap();
                assert!(by_peer.iter().all(|(node, bytes)| node.len() == 64 && bytes.is_u64()), "{event}");
                let now = event["verified"].as_u64().unwrap();
                assert!((verified..=length).contains(&now), "{now} after {verified}");
                verified = now;
            }
            _ => {
                let wanted = [
                    "kind",
                    "version",
                    "file",
                    "hash",
                    "length",
                    "already_had",
                    "copied",
                    "fetched",
                    "bytes_by_peer",
                    "release",
                    "built_by",
                ];
                assert_eq!(fields(event), BTreeSet::from(wanted));
                assert_eq!((&event["hash"], event["length"].as_u64()), (&hash.into(), Some(length)));
                let by_peer: u64 = event["bytes_by_peer"].as_object().unwrap().values().map(|bytes| bytes.as_u64().unwrap()).sum();
                assert_eq!(event["fetched"], by_peer);
                assert_eq!(by_peer + event["already_had"].as_u64().unwrap() + event["copied"].as_u64().unwrap(), length);
                assert!(event["release"].is_null() && event["built_by"].as_array().unwrap().is_empty());
            }
        }
    }
}

#[test]
fn fetch_tells_events_of_a_fixed_shape() {
    let scene = Scene::new(20 * MIB + 12_345, plain);
    let _node = scene.start();
    let to = scene.village.path("out");
    for here in [false, true] {
        let told = scene.fetcher.ok(&["--json", "fetch", &scene.hash, "-o", path_text(&to).unwrap()]).unwrap();
        let told = events(&told);
        check_fetch_events(&told, &scene.hash, scene.length);
        assert_eq!(told[0]["already_had"], if here { scene.length } else { 0 });
        assert_eq!(told.last().unwrap()["file"], path_text(&to).unwrap());
    }
    assert!(fs::read(&to).unwrap() == noise(1, scene.length));
    // What is wrong is the last line, and says with which code it ended.
    let absent = "ab".repeat(32);
    let ran = scene.fetcher.run(&["--json", "fetch", &absent, "-o", "-"]).unwrap();
    let error = &events(&ran.err)[0];
    assert_eq!((ran.code, &error["kind"], &error["exit"], &*ran.out), (6, &"error".into(), &6.into(), ""));
}

/// Reads all of a stream in a thread of its own; counts as it goes.
struct Reading {
    thread: std::thread::JoinHandle<(String, u64)>,
    count: std::sync::Arc<AtomicU64>,
}

impl Reading {
    fn of(mut stream: impl Read + Send + 'static) -> Self {
        let count = std::sync::Arc::new(AtomicU64::new(0));
        let counting = count.clone();
        let thread = std::thread::spawn(move || {
            let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; 64 << 10]);
            loop {
                match stream.read(&mut buffer).unwrap() {
                    0 => return (hasher.finalize().to_string(), counting.load(Ordering::Relaxed)),
                    read => {
                        hasher.update(&buffer[..read]);
                        counting.fetch_add(read as u64, Ordering::Relaxed);
                    }
                }
            }
        });
        Self { thread, count }
    }

    fn so_far(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// A fetch into a pipe whose provider stands still in the middle: what had come before is out, and then the rest follows.
fn comes_in_order(scene: &Scene, root: &Path, fetcher: &Home, what: &str) {
    let (mut fetch, out, err) = fetcher.begin(&["--json", "fetch", what, "-o", "-"]).unwrap();
    let (out, err) = (Reading::of(out), std::thread::spawn(move || std::io::read_to_string(err).unwrap()));
    scene.stop_in_the_middle(root);
    wait("the first bytes are out while others are still to come", SOON, || Ok((out.so_far() >= MIB).then_some(()))).unwrap();
    assert!(scene.here(root) < scene.length);
    scene.provider.thaw();
    assert_eq!(fetch.ended(SOON).unwrap(), 0);
    assert_eq!(out.thread.join().unwrap(), (scene.hash.clone(), scene.length));
    let told = events(&err.join().unwrap());
    check_fetch_events(&told, &scene.hash, scene.length);
    assert_eq!(told.last().unwrap()["file"], Value::Null);
}

#[test]
fn bytes_go_out_in_order_while_they_come() {
    let scene = Scene::new(LONG, plain);
    let _node = scene.start();
    comes_in_order(&scene, scene.fetcher.root(), &scene.fetcher, &scene.hash);
    // And of what is here, at once.
    let output = scene.fetcher.command().args(["fetch", &scene.hash, "-o", "-"]).output().unwrap();
    assert!(output.status.success() && blake3::hash(&output.stdout).to_string() == scene.hash);
    assert!(String::from_utf8_lossy(&output.stderr).contains(&scene.hash), "who it is from is said beside the bytes");
}

/// The folder of what a ticket's fetch has so far.
fn passing_home(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    entries.into_iter().find(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(".barn-fetch-")))
}

#[test]
fn ticket_is_enough_for_bytes_in_order_and_for_a_fetch_that_goes_on() {
    let scene = Scene::new(LONG, plain);
    let nobody = scene.village.home("nobody");
    let what = format!("barn:{}/{}", scene.ticket, scene.hash);
    // To a pipe; `HOME` of these commands is the village.
    let caches = scene.village.path(".cache/barnraiser");
    let begun = || wait("it has begun", SOON, || Ok(passing_home(&caches))).unwrap();
    std::thread::scope(|scope| {
        let work = scope.spawn(|| scene.stop_in_the_middle(&begun()));
        let (mut fetch, out, err) = nobody.begin(&["--json", "fetch", &what, "-o", "-"]).unwrap();
        let (out, err) = (Reading::of(out), std::thread::spawn(move || std::io::read_to_string(err).unwrap()));
        work.join().unwrap();
        wait("the first bytes are out while others are still to come", SOON, || Ok((out.so_far() >= MIB).then_some(()))).unwrap();
        scene.provider.thaw();
        assert_eq!(fetch.ended(SOON).unwrap(), 0);
        assert_eq!(out.thread.join().unwrap(), (scene.hash.clone(), scene.length));
        check_fetch_events(&events(&err.join().unwrap()), &scene.hash, scene.length);
    });
    assert!(passing_home(&caches).is_none() && !nobody.root().exists(), "nothing stays of it");

    // To a file, killed in the middle; the next one goes on.
    let folder = scene.village.path("images");
    fs::create_dir(&folder).unwrap();
    let to = folder.join("image");
    let arguments = ["--json", "fetch", &what, "-o", path_text(&to).unwrap()];
    let (fetch, _out, _err) = nobody.begin(&arguments).unwrap();
    let root = wait("it has begun", SOON, || Ok(passing_home(&folder))).unwrap();
    scene.stop_in_the_middle(&root);
    fetch.kill();
    scene.provider.thaw();
    let told = events(&nobody.ok(&arguments).unwrap());
    check_fetch_events(&told, &scene.hash, scene.length);
    assert!(told[0]["already_had"].as_u64().unwrap() >= SOME / 2, "{}", told[0]);
    assert_eq!(blake3::hash(&fs::read(&to).unwrap()).to_string(), scene.hash);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "only what was wanted stays");
}

/// As `cat` and others that SIGPIPE ends: 141, and not a word.
#[test]
fn closed_pipe_ends_a_fetch_without_a_word() {
    let scene = Scene::new(40 * MIB, plain);
    let _node = scene.start();
    // Once from others, and then from the store.
    for _ in 0..2 {
        let (mut fetch, mut out, err) = scene.fetcher.begin(&["-q", "fetch", &scene.hash, "-o", "-"]).unwrap();
        let mut first = vec![0; MIB as usize];
        out.read_exact(&mut first).unwrap();
        drop(out);
        assert_eq!(fetch.ended(SOON).unwrap(), 141);
        assert_eq!(std::io::read_to_string(err).unwrap(), "");
        assert!(first == noise(1, MIB), "noise of one seed begins alike");
        scene.fetcher.ok(&["fetch", &scene.hash, "-o", "whole"]).unwrap();
    }
    let (mut get, mut out, err) = scene.fetcher.begin(&["store", "get", &scene.hash, "-o", "-"]).unwrap();
    out.read_exact(&mut [0; 10]).unwrap();
    drop(out);
    assert_eq!((get.ended(SOON).unwrap(), std::io::read_to_string(err).unwrap()), (141, String::new()));
}

/// However it is interrupted, the next call has what was verified, and says how much that was.
#[test]
fn interrupted_fetch_goes_on_and_says_from_where() {
    let scene = Scene::new(LONG, plain);
    let mut node = Some(scene.start());
    let to = scene.village.path("out");
    let arguments = ["--json", "fetch", &scene.hash, "-o", path_text(&to).unwrap()];
    let mut had = 0;
    for (number, (signal, code)) in [("INT", Some(130)), ("TERM", Some(143)), ("KILL", None), ("node", Some(6))].into_iter().enumerate() {
        let (mut fetch, out, _err) = scene.fetcher.begin(&arguments).unwrap();
        let mut lines = BufReader::new(out).lines();
        let started: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert!(started["already_had"].as_u64().unwrap() >= had, "{started} after {had} bytes");
        let wanted = SOME * (number as u64 + 1);
        wait("more of it has come", SOON, || Ok((scene.here(scene.fetcher.root()) >= wanted).then_some(()))).unwrap();
        scene.provider.freeze();
        let here = scene.here(scene.fetcher.root());
        assert!(here < scene.length, "it was too fast to be interrupted: {here} bytes");
        match signal {
            "node" => node.take().unwrap().kill(),
            "KILL" => fetch.signal("KILL"),
            polite => fetch.signal(polite),
        }
        if let Some(code) = code {
            assert_eq!(fetch.ended(SOON).unwrap(), code);
            let last: Value = serde_json::from_str(&lines.last().unwrap().unwrap()).unwrap();
            assert_eq!((&last["kind"], &last["exit"]), (&"error".into(), &code.into()), "{last}");
            assert!(text(&last["message"]).unwrap().contains("kept"), "{last}");
        } else {
            drop(fetch);
        }
        if node.is_none() {
            node = Some(scene.fetcher.start().unwrap());
        }
        // Some of what is on the disk was not proven yet when it was ended.
        had = here.saturating_sub(8 * MIB);
        scene.provider.thaw();
        scene.fetcher.wait_present("images", 2, SOON).unwrap();
    }
    let told = events(&scene.fetcher.ok(&arguments).unwrap());
    check_fetch_events(&told, &scene.hash, scene.length);
    assert!(told[0]["already_had"].as_u64().unwrap() >= had.max(3 * SOME), "{} after {had} bytes", told[0]);
    assert!(fs::read(&to).unwrap() == noise(1, scene.length));
}

/// A tmpfs, unmounted at the end.
struct Mount(PathBuf);

impl Mount {
    fn new(at: PathBuf, size: u64) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "tmpfs"]).arg(&at).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(at))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The disk fills up in the middle of a fetch: the error says so, and what came is of use once there is room again.
#[test]
fn fetch_whose_disk_fills_up_goes_on_once_there_is_room() {
    let mut mount = None;
    let scene = Scene::new(LONG, |village| {
        mount = Mount::new(village.path("small"), LONG + 160 * MIB);
        village.home("small")
    });
    let Some(mount) = mount else {
        eprintln!("not tried: a tmpfs can't be mounted here");
        return;
    };
    let _node = scene.start();
    let to = scene.village.path("out");
    let arguments = ["fetch", &scene.hash, "-o", path_text(&to).unwrap()];
    let (mut fetch, _out, err) = scene.fetcher.begin(&arguments).unwrap();
    scene.stop_in_the_middle(scene.fetcher.root());
    let ballast = mount.0.join("ballast");
    // As much as there is: the write ends with an error.
    let _ = fs::write(&ballast, vec![1; (LONG + 160 * MIB) as usize]);
    scene.provider.thaw();
    assert_eq!(fetch.ended(SOON).unwrap(), 1);
    let error = std::io::read_to_string(err).unwrap();
    assert!(error.contains("no space left") && error.contains(&scene.hash), "{error}");
    assert!(!to.exists());
    // At once again while it is full: refused as clearly, and nothing is lost.
    assert!(scene.fetcher.fails(1, &arguments).unwrap().contains("no space left"));
    fs::remove_file(&ballast).unwrap();
    let told = wait("it goes on", SOON, || {
        let ran = scene.fetcher.run(&[&["--json"], &arguments[..]].concat())?;
        Ok((ran.code == 0).then_some(ran.out))
    });
    let told = events(&told.unwrap());
    check_fetch_events(&told, &scene.hash, scene.length);
    assert!(told[0]["already_had"].as_u64().unwrap() >= SOME / 2, "{}", told[0]);
    assert!(fs::read(&to).unwrap() == noise(1, scene.length));
}

/// Everything that a store has on its disk beside its database.
fn files_of(home: &Home) -> Vec<PathBuf> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                below(&entry.path(), found);
            } else {
                found.push(entry.path());
            }
        }
    }
    let mut found = Vec::new();
    for folder in ["blobs", "partials", "tmp"] {
        below(&home.root().join("store").join(folder), &mut found);
    }
    found
}

/// With a node and without one: events of a fixed shape; and interrupted in the middle, from a file or a pipe, nothing stays.
#[test]
fn adding_to_the_store_tells_events_and_leaves_nothing_when_interrupted() {
    let village = Village::new().unwrap();
    let home = village.home("home");
    home.init(Lend::NOTHING).unwrap();
    let file = village.path("file");
    fs::write(&file, noise(3, 300 * MIB)).unwrap();
    let hash = blake3::hash(&fs::read(&file).unwrap()).to_string();
    let mut node = Some(home.start().unwrap());
    for with_node in [true, false] {
        if !with_node {
            node.take().unwrap().stop().unwrap();
        }
        for (signal, code) in [("INT", 130), ("TERM", 143)] {
            let (mut add, _out, _err) = home.begin(&["store", "add", path_text(&file).unwrap()]).unwrap();
            wait("it is being taken in", SOON, || Ok((!files_of(&home).is_empty()).then_some(()))).unwrap();
            add.signal(signal);
            assert_eq!(add.ended(SOON).unwrap(), code);
            wait("nothing of it stays", SOON, || Ok(files_of(&home).is_empty().then_some(()))).unwrap();
        }
        // A pipe that has not come to its end.
        let mut add = home.command().args(["store", "add", "-"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut input = add.stdin.take().unwrap();
        input.write_all(&noise(4, 20 * MIB)).unwrap();
        wait("it is being taken in", SOON, || Ok((!files_of(&home).is_empty()).then_some(()))).unwrap();
        add.kill().unwrap();
        add.wait().unwrap();
        drop(input);
        if !with_node {
            // Nobody was left to clear up: whoever has the store next does.
            home.ok(&["store", "stats"]).unwrap();
        }
        wait("nothing of it stays", SOON, || Ok(files_of(&home).is_empty().then_some(()))).unwrap();

        let told = events(&home.ok(&["--json", "store", "add", path_text(&file).unwrap()]).unwrap());
        let (first, last) = (&told[0], told.last().unwrap());
        assert_eq!(fields(first), BTreeSet::from(["kind", "version", "length"]));
        assert_eq!((&first["kind"], first["length"].as_u64()), (&"started".into(), Some(300 * MIB)));
        assert_eq!(
            (fields(last), &last["hash"]),
            (BTreeSet::from(["kind", "version", "hash", "length", "entries"]), &hash.as_str().into())
        );
        for event in &told[1..told.len() - 1] {
            assert_eq!(
                (&event["kind"], fields(event)),
                (&"progress".into(), BTreeSet::from(["kind", "version", "done", "length", "rate"]))
            );
        }
        home.ok(&["store", "unpin", &hash, "--release"]).unwrap();
        let told = events(&home.ok(&["--json", "store", "gc", "--quota", "0 B"]).unwrap());
        assert_eq!((&told.last().unwrap()["kind"], &told.last().unwrap()["blobs"]), (&"collected".into(), &1.into()));
        assert!(files_of(&home).is_empty());
    }
}

/// How long a slow reader is slow.
const SLOW: Duration = Duration::from_secs(6);

/// A reader that takes nothing for long holds the bytes back, and not in memory; it is not taken for a network without progress.
#[test]
fn slow_reader_costs_no_memory_and_is_no_reason_to_give_up() {
    let scene = Scene::new(LONG, plain);
    let node = scene.start();
    let (mut fetch, out, err) = scene.fetcher.begin(&["-q", "fetch", &scene.hash, "-o", "-", "--timeout", "5 s"]).unwrap();
    let resident = |pid: u32| -> u64 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    };
    // Both have all that they will have when the fetch is over and the reader still has not read.
    let blob = scene.fetcher.root().join("store/blobs").join(&scene.hash[..2]).join(&scene.hash);
    wait("all of it has come", SOON, || Ok(blob.exists().then_some(()))).unwrap();
    let begun = std::time::Instant::now();
    wait("the reader is slow", SLOW * 2, || Ok((begun.elapsed() >= SLOW).then_some(()))).unwrap();
    let (client, daemon) = (resident(fetch.pid()), resident(node.pid()));
    assert!(client < 100 * MIB, "the command has {client} bytes in memory");
    assert!(daemon < 200 * MIB, "the node has {daemon} bytes in memory");
    let (read, count) = Reading::of(out).thread.join().unwrap();
    assert_eq!((read, count, fetch.ended(SOON).unwrap()), (scene.hash.clone(), scene.length, 0));
    assert_eq!(std::io::read_to_string(err).unwrap(), "");
}
