//! `[traffic]` and `[store]` of `barn.toml`, with real nodes.

use std::fs;
use std::time::Instant;

use barnraiser_tests::{Home, Lend, Village, path_text};
use serde_json::Value;

use super::{SOON, founder, guest, ticket};

const MIB: usize = 1 << 20;

fn more_settings(home: &Home, text: &str) {
    let path = home.root().join("barn.toml");
    let settings = fs::read_to_string(&path).unwrap();
    fs::write(path, format!("{settings}\n{text}\n")).unwrap();
}

fn noise(length: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// A minute of the day, by the machine's clock, that is half a day away: `HH:MM-HH:MM`.
fn half_a_day_away() -> String {
    let out = std::process::Command::new("date").arg("+%H").output().unwrap();
    let hour: u32 = String::from_utf8(out.stdout).unwrap().trim().parse().unwrap();
    let far = (hour + 12) % 24;
    format!("{far:02}:00-{far:02}:01")
}

/// A provider with a rate and a fetcher with hours: it takes as long as it should, the month is remembered over a restart, and
/// whoever may not fetch says why.
#[test]
fn limits_of_the_settings_hold_and_are_shown() {
    let village = Village::new().unwrap();
    let (_bootstrap, address) = village.bootstrap().unwrap();
    let ada = founder(&village, "ada", Lend::NOTHING, &["--bootstrap", &address]);
    let ticket = ticket(&ada, &address);
    more_settings(&ada, "[traffic]\nup = \"2 MiB/s\"\nmonthly_cap = \"1 GiB\"\n\n[store]\nquota = \"300 MiB\"");
    let node = ada.start().unwrap();
    let file = village.path("image");
    fs::write(&file, noise(6 * MIB, 1)).unwrap();
    let hash = ada.ok(&["store", "add", path_text(&file).unwrap()]).unwrap().trim().to_owned();
    let bob = guest(&village, "bob", Lend::NOTHING, &ticket);
    let bobs_node = bob.start().unwrap();
    bob.wait_present("oak", 2, SOON).unwrap();

    let start = Instant::now();
    bob.ok(&["fetch", &hash, "-o", "fetched"]).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    assert!(fs::read(village.path("fetched")).unwrap() == fs::read(&file).unwrap());
    assert!((2.7..6.0).contains(&seconds), "{seconds} s for 6 MiB at 2 MiB/s");

    let moved = |status: &Value| status["traffic"]["month_up"].as_u64() >= Some(6 * MIB as u64);
    let status = ada.wait_status("what moved is counted", SOON, moved).unwrap();
    let traffic = &status["traffic"];
    assert_eq!((&traffic["up_limit"], &traffic["monthly_cap"]), (&(2 * MIB).into(), &(1u64 << 30).into()), "{traffic}");
    assert_eq!(status["store"]["quota"], 300 * MIB as u64, "{status}");
    assert!(ada.ok(&["store", "stats"]).unwrap().contains("quota"));
    let shown = ada.ok(&["status"]).unwrap();
    assert!(shown.contains("of 2.0 MiB/s") && shown.contains("of 1.0 GiB in 20"), "{shown}");
    node.stop().unwrap();
    let _node = ada.start().unwrap();
    assert!(moved(&ada.status().unwrap()), "a restart forgets nothing");

    // Bob's hours are over.
    bobs_node.stop().unwrap();
    more_settings(&bob, &format!("[traffic]\nhours = \"{}\"", half_a_day_away()));
    let _bobs_node = bob.start().unwrap();
    fs::write(&file, noise(MIB, 2)).unwrap();
    let hash = ada.ok(&["store", "add", path_text(&file).unwrap()]).unwrap().trim().to_owned();
    bob.wait_present("oak", 2, SOON).unwrap();
    let why = bob.fails(1, &["fetch", &hash, "-o", "fetched"]).unwrap();
    assert!(why.contains("[traffic] hours"), "{why}");
    let status = bob.status().unwrap();
    assert!(status["traffic"]["resting"].as_str().is_some_and(|why| why.contains("travel")), "{status}");
    assert!(bob.ok(&["status"]).unwrap().contains("blobs rest"));
    // What is small is fetched all the same.
    fs::write(&file, noise(100_000, 3)).unwrap();
    let hash = ada.ok(&["store", "add", path_text(&file).unwrap()]).unwrap().trim().to_owned();
    bob.ok(&["fetch", &hash, "-o", "small"]).unwrap();
}

#[test]
fn a_wrong_limit_is_refused_with_its_place() {
    let village = Village::new().unwrap();
    let home = village.home("home");
    home.init(Lend::NOTHING).unwrap();
    more_settings(&home, "[traffic]\nup = \"fast\"");
    let error = home.fails(1, &["run"]).unwrap();
    assert!(error.contains("barn.toml:10:6") && error.contains("is not a rate"), "{error}");
}
