//! A process that imports, fetches and collects is killed at random moments. What it said it had is there.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use barnraiser_protocol::id::BlobHash;
use barnraiser_store::geometry::{unit_count, unit_range};
use barnraiser_store::{Durability, Store};

use crate::support::{Random, bytes, check_sound, encoding, files_below};

const CHILD: &str = "BARN_STORE_KILL_CHILD";

/// Not a test of its own: what the other one starts and kills. It says each promise on a line before it goes on:
/// `announced HASH`, `unit HASH LENGTH NUMBER`, `completed HASH`.
#[test]
fn child_works_until_it_is_killed() {
    let Some(arguments) = std::env::var_os(CHILD) else { return };
    let arguments = arguments.into_string().unwrap();
    let (number, root) = arguments.split_once(' ').unwrap();
    let mut random = Random(number.parse().unwrap());
    let root = Path::new(root);
    let seed = Store::open(&root.join("seed")).unwrap();
    let store = Store::open(&root.join("store")).unwrap();
    // Straight to the descriptor: the test harness would hold back what is printed.
    let say = |line: String| {
        let mut out = std::io::stdout();
        out.write_all(line.as_bytes()).and_then(|()| out.flush()).unwrap();
    };
    loop {
        let length = [random.below(300), random.below(30_000), random.below(3_000_000), 4_200_000 + random.below(3_000_000)]
            [random.below(4) as usize];
        let blob = random.bytes(length as usize);
        match random.below(8) {
            0..=3 => say(format!("announced {}\n", store.import_bytes(&blob, Durability::Announced).unwrap())),
            4 => {
                store.import_bytes(&blob, Durability::Cached).unwrap();
            }
            5 | 6 => {
                let hash = seed.import_bytes(&blob, Durability::Cached).unwrap();
                let partial = store.partial(&hash, length).unwrap();
                for unit in 0..unit_count(length) {
                    let range = unit_range(unit, length);
                    partial.write_unit(range.clone(), &encoding(&seed, &hash, range).unwrap()).unwrap();
                    if length > 20_000 {
                        say(format!("unit {hash} {length} {unit}\n"));
                    }
                }
                if random.chance(4) {
                    continue;
                }
                partial.complete(Durability::Announced).unwrap();
                say(format!("completed {hash}\n"));
            }
            _ => {
                store.gc(random.below(3_000_000)).unwrap();
            }
        }
    }
}

/// One life: started, killed after a while, and everything it said is checked.
fn live_and_die(root: &Path, number: u64, random: &mut Random) -> usize {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child_works_until_it_is_killed", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{number} {}", root.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let reader = BufReader::new(child.stdout.take().unwrap());
    let reading = std::thread::spawn(move || reader.lines().map_while(Result::ok).collect::<Vec<_>>());
    std::thread::sleep(Duration::from_millis(40 + random.below(400)));
    child.kill().unwrap();
    child.wait().unwrap();
    let lines = reading.join().unwrap();

    let store = Store::open(&root.join("store")).unwrap();
    let mut promises = 0;
    for line in &lines {
        let mut words = line.split(' ');
        let kind = words.next().unwrap();
        // A line that was cut off by the kill promises nothing; and the harness has lines of its own.
        let Some(Ok(hash)) = words.next().map(str::parse::<BlobHash>) else { continue };
        match kind {
            "announced" | "completed" => {
                let read = store.read_all(&hash, u64::MAX).unwrap_or_else(|error| panic!("life {number}: {line}: {error}"));
                assert_eq!(BlobHash::of(&read), hash);
                promises += 1;
            }
            "unit" if !store.contains(&hash).unwrap() => {
                let (Some(Ok(length)), Some(Ok(unit))) = (words.next().map(str::parse), words.next().map(str::parse)) else { continue };
                assert!(store.partial(&hash, length).unwrap().has(unit), "life {number}: {line}: it would be fetched again");
                promises += 1;
            }
            _ => {}
        }
    }
    assert!(check_sound(&store).is_empty(), "life {number}: the end of a process damages nothing");
    // Fetches that were left are ended, and then no file is left without a blob.
    for (hash, length) in store.partials_begun().unwrap() {
        store.partial(&hash, length).unwrap().discard().unwrap();
    }
    let collected = store.gc(0).unwrap();
    assert_eq!(collected.orphans, 0, "life {number}");
    assert_eq!(files_below(&root.join("store").join("partials")), 0);
    // Announced blobs would pile up over the lives.
    let blobs: Vec<_> = store.blobs().map(|blob| blob.unwrap().0).collect();
    if random.chance(4) {
        for hash in blobs {
            store.release(&hash).unwrap();
        }
        store.gc(0).unwrap();
        assert_eq!(files_below(&root.join("store").join("blobs")), 0);
    }
    promises
}

/// 20 kills; 300 with `BARN_LONG=1`. `BARN_SEED` chooses another course.
#[test]
fn killed_at_any_moment_it_loses_nothing_it_announced() {
    let folder = tempfile::tempdir().unwrap();
    let seed = std::env::var("BARN_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let lives = if std::env::var_os("BARN_LONG").is_some() { 300 } else { 20 };
    let mut random = Random(seed);
    let mut promises = 0;
    for life in 0..lives {
        promises += live_and_die(folder.path(), seed * 1000 + life, &mut random);
    }
    println!("seed {seed}: {lives} kills, {promises} promises kept");
    assert!(promises > lives as usize, "the killed processes got too little done to mean anything: {promises} promises");
}

/// The bytes of a seed are the same in every process, or the child's words would mean nothing.
#[test]
fn bytes_of_a_seed_are_always_the_same() {
    assert_eq!(BlobHash::of(&bytes(1, 1000)), BlobHash::of(&bytes(1, 2000)[..1000]));
}
