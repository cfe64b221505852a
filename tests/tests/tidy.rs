//! The rules of the house, as tests: which room may use which, what the rooms may touch, and that nothing is left half-done.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest file of code, in lines. The aim is half of it; what is longer has more than one purpose.
const LINES_MAX: usize = 700;
/// Largest file in the repository. Sources and archives are fetched by hash, never kept here.
const FILE_BYTES_MAX: u64 = 512 << 10;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All files that git knows or would add, with their text; those that are no text are left out.
fn files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for name in tracked() {
        let Ok(bytes) = std::fs::read(root().join(&name)) else { continue };
        if let Ok(text) = String::from_utf8(bytes) {
            files.push((name, text));
        }
    }
    assert!(files.len() > 20, "git lists hardly any files");
    files
}

fn tracked() -> Vec<String> {
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").args(list).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "git ls-files failed: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(|name| String::from_utf8(name.to_vec()).unwrap()).collect()
}

/// Files of code whose path begins with `prefix`.
fn code(prefix: &str) -> Vec<(String, String)> {
    let mut files = files();
    files.retain(|(name, _)| name.starts_with(prefix) && name.ends_with(".rs"));
    files
}

/// `text` without comments and without what comes behind `#[cfg(test)]`, line by line with numbers. A reader for people's
/// code, not for every trick of the language: a `//` in a string cuts its line, which only makes the rules milder.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .take_while(|line| !line.trim_start().starts_with("#[cfg(test)]"))
        .enumerate()
        .map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
}

fn report(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}\n  {}", found.join("\n  "));
}

/// This file names what it forbids.
fn is_this(name: &str) -> bool {
    name == "tests/tests/tidy.rs"
}

fn metadata() -> serde_json::Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = |program: &std::ffi::OsStr, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(root()).output().unwrap();
        assert!(output.status.success(), "{program:?} failed: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // Only what this machine builds: the sources of the rest need not be here.
    let version = run("rustc".as_ref(), &["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    serde_json::from_str(&run(&cargo, &["metadata", "--format-version", "1", "--locked", "--filter-platform", host])).unwrap()
}

/// Package name → names of its dependencies, those for tests left out.
fn dependencies(metadata: &serde_json::Value) -> BTreeMap<String, BTreeSet<String>> {
    let names: BTreeMap<&str, &str> =
        metadata["packages"].as_array().unwrap().iter().map(|p| (p["id"].as_str().unwrap(), p["name"].as_str().unwrap())).collect();
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().unwrap() {
        let below = node["deps"].as_array().unwrap().iter().filter(|dependency| {
            let kinds = dependency["dep_kinds"].as_array().unwrap();
            kinds.iter().any(|kind| kind["kind"].as_str() != Some("dev"))
        });
        let below = below.map(|dependency| names[dependency["pkg"].as_str().unwrap()].to_owned());
        all.entry(names[node["id"].as_str().unwrap()].to_owned()).or_default().extend(below);
    }
    all
}

fn closure(of: &str, dependencies: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![of.to_owned()]);
    while let Some(package) = next.pop() {
        for below in dependencies.get(&package).into_iter().flatten() {
            if seen.insert(below.clone()) {
                next.push(below.clone());
            }
        }
    }
    seen
}

#[test]
fn dependencies_between_rooms_point_one_way() {
    let dependencies = dependencies(&metadata());
    let allowed: [(&str, &[&str]); 6] = [
        ("protocol", &[]),
        ("store", &["protocol"]),
        ("bootstrap", &["protocol", "store"]),
        ("node", &["protocol", "store", "bootstrap"]),
        ("simulations", &["protocol"]),
        // Part of the tests, and built in a minute for that.
        ("fuzz", &["protocol"]),
    ];
    let mut found = Vec::new();
    for (room, may) in allowed {
        for below in &dependencies[&format!("barnraiser-{room}")] {
            if let Some(other) = below.strip_prefix("barnraiser-").filter(|other| !may.contains(other)) {
                found.push(format!("{room} depends on {other}"));
            }
        }
    }
    report(&found, "node → bootstrap → store → protocol, and simulations → protocol");
}

#[test]
fn what_a_room_must_never_touch_is_not_even_linked() {
    let dependencies = dependencies(&metadata());
    let never: [(&str, &[&str]); 4] = [
        ("protocol", &["tokio", "mio", "socket2", "libp2p", "rocksdb", "async-std", "futures", "tracing", "getrandom"]),
        ("simulations", &["tokio", "mio", "socket2", "libp2p", "rocksdb"]),
        ("fuzz", &["tokio", "libp2p", "rocksdb"]),
        // Not tokio: bao-tree brings it, and no code of the room may name it (below).
        ("store", &["libp2p", "quinn", "hyper"]),
    ];
    let mut found = Vec::new();
    for (room, banned) in never {
        let closure = closure(&format!("barnraiser-{room}"), &dependencies);
        found.extend(banned.iter().filter(|name| closure.contains(**name)).map(|name| format!("{room} links {name}")));
    }
    report(&found, "DESIGN, section 4: what each room may touch");
}

/// The engine must give the same outputs for the same inputs everywhere: no clock, no disk, no randomness of its own, and
/// no order that depends on a hash.
#[test]
fn protocol_touches_nothing_but_its_arguments() {
    let banned = [
        "std::fs",
        "std::net",
        "std::env",
        "std::thread",
        "std::process",
        "SystemTime",
        "Instant",
        "tokio",
        "async fn",
        "HashMap",
        "HashSet",
        "RandomState",
        "rand::rng",
        "thread_rng",
        "OsRng",
        "println!",
        "eprintln!",
    ];
    let mut found = Vec::new();
    for (name, text) in code("protocol/src/") {
        if is_test_file(&name) {
            continue;
        }
        for (number, line) in code_lines(&text) {
            found.extend(banned.iter().filter(|word| has_word(line, word)).map(|word| format!("{name}:{number}: {word}")));
        }
    }
    report(&found, "the protocol has no I/O, no clock, no threads and no hash order");
}

/// Whether `line` holds `word`, not as a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let part_of_a_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !part_of_a_name(line[..at].chars().next_back()) && !part_of_a_name(line[at + word.len()..].chars().next())
    })
}

fn is_test_file(name: &str) -> bool {
    name.ends_with("tests.rs") || name.contains("/tests/")
}

#[test]
fn store_and_simulations_know_no_peers() {
    let mut found = Vec::new();
    for (room, banned) in [("store/src/", ["std::net", "libp2p", "tokio"]), ("simulations/src/", ["std::net", "Instant::now", "tokio"])] {
        for (name, text) in code(room) {
            for (number, line) in code_lines(&text) {
                found.extend(banned.iter().filter(|word| has_word(line, word)).map(|word| format!("{name}:{number}: {word}")));
            }
        }
    }
    report(&found, "DESIGN, section 4: what each room may touch");
}

#[test]
fn top_level_holds_only_what_belongs_there() {
    let allowed = [
        ".ci",
        ".config",
        ".gitignore",
        ".gitattributes",
        "CONTRIBUTING.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "Makefile",
        "README.md",
        "bootstrap",
        "clippy.toml",
        "docs",
        "node",
        "protocol",
        "rustfmt.toml",
        "simulations",
        "store",
        "tests",
    ];
    let top: BTreeSet<String> = tracked().iter().filter_map(|name| name.split('/').next().map(str::to_owned)).collect();
    let found: Vec<String> = top.into_iter().filter(|name| !allowed.contains(&name.as_str())).collect();
    report(&found, "not one of the rooms: it belongs into one of them");
}

#[test]
fn files_stay_readable() {
    let mut found = Vec::new();
    for (name, text) in code("") {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            found.push(format!("{name}: {lines} lines"));
        }
    }
    report(&found, "a file is a room with one purpose: split what has more than 700 lines");
}

#[test]
fn files_stay_small() {
    let large = |name: &String| std::fs::metadata(root().join(name)).is_ok_and(|metadata| metadata.len() > FILE_BYTES_MAX);
    report(&tracked().into_iter().filter(large).collect::<Vec<_>>(), "files over 512 KiB are fetched by hash, not kept here");
}

#[test]
fn nothing_is_left_for_later() {
    // Written in two parts, so that a search for them does not end here.
    let markers = [
        concat!("to", "do!"),
        concat!("unimpl", "emented!"),
        concat!("#[ig", "nore"),
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
        concat!("XX", "X:"),
    ];
    let mut found = Vec::new();
    for (name, text) in files() {
        // Names in it are those of others.
        if name == "Cargo.lock" {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            // What another test starts as a process of its own, and kills, can't be a program: it is a test that is not run.
            if line.contains("= \"part of another test\"]") {
                continue;
            }
            found.extend(markers.iter().filter(|marker| line.contains(**marker)).map(|marker| format!("{name}:{}: {marker}", number + 1)));
        }
    }
    report(&found, "finish it, or open an issue and leave the marker out");
}

/// Module → why it may. `rustix` does the rest.
const UNSAFE_ALLOWED: [&str; 0] = [];

#[test]
fn unsafe_code_is_only_where_it_was_allowed() {
    let mut found = Vec::new();
    for (name, text) in code("") {
        if is_this(&name) || UNSAFE_ALLOWED.contains(&name.as_str()) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            if has_word(line, "unsafe") || line.contains("allow(unsafe_code)") {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    report(&found, "unsafe code needs a line in UNSAFE_ALLOWED of this test, and a reason");
    for room in ["protocol", "store"] {
        let top = std::fs::read_to_string(root().join(room).join("src/lib.rs")).unwrap();
        assert!(top.contains("#![forbid(unsafe_code)]"), "{room} can do without unsafe code, so it forbids it");
    }
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    let home = std::env::var("HOME").unwrap_or_default();
    let mut markers = vec![concat!("/wo", "rk/").to_owned(), concat!("/ro", "ot/").to_owned()];
    if home.starts_with("/home/") {
        markers.push(format!("{home}/"));
    }
    let mut found = Vec::new();
    for (name, text) in files() {
        for (number, line) in text.lines().enumerate() {
            found.extend(
                markers.iter().filter(|marker| begins_a_word(line, marker)).map(|marker| format!("{name}:{}: {marker}", number + 1)),
            );
        }
    }
    report(&found, "a path of one machine means nothing on another");
}

/// Whether `marker` is in `line` and not in the middle of a longer path.
fn begins_a_word(line: &str, marker: &str) -> bool {
    line.match_indices(marker).any(|(at, _)| !line[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || "_-.".contains(c)))
}

/// "An own decision for each": the table of dependencies has a line for every one, and none that is gone.
#[test]
fn every_dependency_says_why_it_is_here() {
    let page = std::fs::read_to_string(root().join("docs/decisions/dependencies.md")).unwrap();
    let listed: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|rest| rest.split_once("` | "))
        .filter(|(_, why)| why.len() > 20)
        .map(|(name, _)| name.to_owned())
        .collect();
    let metadata = metadata();
    let members = metadata["workspace_members"].as_array().unwrap();
    let mut direct = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap().iter().filter(|package| members.contains(&package["id"])) {
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = dependency["name"].as_str().unwrap();
            if !name.starts_with("barnraiser-") {
                direct.insert(name.to_owned());
            }
        }
    }
    report(&direct.difference(&listed).cloned().collect::<Vec<_>>(), "without a line in docs/decisions/dependencies.md");
    report(
        &listed.difference(&direct).cloned().collect::<Vec<_>>(),
        "in docs/decisions/dependencies.md, but no direct dependency any more",
    );
}

/// Every link of a Markdown page of this repository that is a path, and the file that it leads to.
fn links(name: &str, text: &str) -> Vec<(String, PathBuf)> {
    let folder = root().join(name).parent().unwrap().to_owned();
    let mut links = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        if fenced {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let target = line[at + 2..].split(')').next().unwrap_or_default();
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains(':') {
                links.push((target.to_owned(), folder.join(path)));
            }
        }
    }
    links
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut found = Vec::new();
    for (name, text) in files().into_iter().filter(|(name, _)| name.ends_with(".md")) {
        found.extend(links(&name, &text).into_iter().filter(|(_, path)| !path.exists()).map(|(target, _)| format!("{name}: {target}")));
    }
    report(&found, "links to pages that are not there");
}

#[test]
fn every_page_of_the_book_is_in_its_summary() {
    let summary = "docs/src/SUMMARY.md";
    let text = std::fs::read_to_string(root().join(summary)).unwrap();
    let listed: BTreeSet<PathBuf> = links(summary, &text).into_iter().map(|(_, path)| path.canonicalize().unwrap()).collect();
    let pages = tracked().into_iter().filter(|name| name.starts_with("docs/src/") && name.ends_with(".md") && name != summary);
    let found: Vec<String> = pages.filter(|name| !listed.contains(&root().join(name).canonicalize().unwrap())).collect();
    report(&found, "pages that nobody finds: name them in docs/src/SUMMARY.md");
}

#[test]
fn decisions_are_numbered_without_gaps() {
    let mut numbers: Vec<u32> = tracked()
        .iter()
        .filter_map(|name| name.strip_prefix("docs/decisions/"))
        .filter_map(|name| name.split_once('-'))
        .filter_map(|(number, _)| number.parse().ok())
        .collect();
    numbers.sort_unstable();
    let expected: Vec<u32> = (1..=u32::try_from(numbers.len()).unwrap()).collect();
    assert_eq!(numbers, expected, "decisions are docs/decisions/NNNN-title.md, each number once");
}

#[test]
fn every_decision_is_shown_in_the_book() {
    let page = std::fs::read_to_string(root().join("docs/src/decisions.md")).unwrap();
    let decisions = tracked().into_iter().filter(|name| name.starts_with("docs/decisions/"));
    let found: Vec<String> = decisions.filter(|name| !page.contains(name.trim_start_matches("docs/"))).collect();
    report(&found, "decisions that docs/src/decisions.md does not include");
}
