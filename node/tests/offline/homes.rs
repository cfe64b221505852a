//! Homes, keys and backups.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::{Bench, text};

#[test]
fn init_never_overwrites() {
    let bench = Bench::new();
    let first = bench.json("h", &["init"]);
    assert_eq!(first["made"].as_array().unwrap().len(), 3);
    let config = bench.path("h/barn.toml");
    fs::write(&config, "[lend]\ncores = 1\n").unwrap();
    let second = bench.json("h", &["init"]);
    assert_eq!((second["made"].as_array().unwrap().len(), &second["operator"]), (0, &first["operator"]));
    assert_eq!(fs::read_to_string(&config).unwrap(), "[lend]\ncores = 1\n");
}

#[test]
fn a_home_that_is_not_right_is_refused_in_words() {
    let bench = Bench::new();
    assert!(bench.fails(3, "h", &["id"]).contains("barn init"));
    bench.write("file", "no home");
    for home in ["file", "file/below"] {
        for command in ["init", "id", "status", "networks"] {
            let error = bench.fails(2, home, &[command]);
            assert!(error.contains("a home is a folder") && !error.contains("os error"), "{command}: {error}");
        }
    }
    bench.home("h");
    let config = bench.path("h/barn.toml");
    let error = {
        fs::write(&config, "[lend]\n# a comment\ncore = 2\n").unwrap();
        bench.fails(2, "h", &["id"])
    };
    assert!(error.contains("barn.toml:3:1") && error.contains("did you mean `cores`?"), "{error}");
    fs::write(&config, b"\xff").unwrap();
    bench.fails(2, "h", &["id"]);
    fs::remove_file(&config).unwrap();

    let key = bench.path("h/operator.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(bench.fails(2, "h", &["id"]).contains("chmod 600"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::copy(bench.path("h/node.key"), &key).unwrap();
    let error = bench.fails(2, "h", &["id"]);
    assert!(error.contains("node key") && error.contains("operator key"), "{error}");
    fs::write(&key, "garbage\n").unwrap();
    bench.fails(2, "h", &["id"]);
    // `init` mends nothing over a damaged key either: it may be all that is left of it.
    bench.fails(2, "h", &["init"]);
}

#[test]
fn homes_are_found_by_option_variable_and_data_folder() {
    let bench = Bench::new();
    let run = |variables: &[(&str, &str)]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_barn"));
        command.env_remove("BARN_HOME").env_remove("XDG_DATA_HOME").env_remove("HOME").args(["--json", "init"]);
        for (name, folder) in variables {
            command.env(name, bench.path(folder));
        }
        let ran = super::Ran::of(command.output().unwrap());
        (ran.code, ran.out)
    };
    let made = |(code, out): (i32, String), folder: &str| code == 0 && out.contains(text(&bench.path(folder)));
    assert!(made(run(&[("BARN_HOME", "a"), ("XDG_DATA_HOME", "b")]), "a"));
    assert!(made(run(&[("XDG_DATA_HOME", "b"), ("HOME", "c")]), "b/barnraiser"));
    assert!(made(run(&[("HOME", "c")]), "c/.local/share/barnraiser"));
    assert_eq!(run(&[]).0, 1);
}

#[test]
fn signing_keys_are_new_files_and_only_their_cards_are_shown() {
    let bench = Bench::new();
    let operator = bench.home("h");
    let key = bench.path("m.key");
    let made = bench.json("h", &["key", "new", text(&key)]);
    assert_eq!((made["operator"].as_str(), fs::metadata(&key).unwrap().permissions().mode() & 0o777), (Some(&*operator), 0o600));
    let before = fs::read(&key).unwrap();
    assert!(bench.fails(1, "h", &["key", "new", text(&key)]).contains("there already"));
    assert_eq!(fs::read(&key).unwrap(), before);
    assert_eq!(bench.json("h", &["key", "show", text(&key)])["card"], made["card"]);
    // Without a home, or on wish, the card names nobody.
    let anonymous = bench.json("elsewhere", &["key", "show", text(&key)]);
    assert!(anonymous["operator"].is_null() && anonymous["card"] != made["card"]);

    bench.fails(3, "h", &["key", "show", "missing.key"]);
    assert!(bench.fails(2, "h", &["key", "show", text(&bench.path("h/operator.key"))]).contains("operator key"));
    let card = bench.write("card", made["card"].as_str().unwrap());
    fs::set_permissions(&card, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(bench.fails(2, "h", &["key", "show", text(&card)]).contains("public card"));
    let secret = String::from_utf8(before).unwrap();
    let line = secret.lines().last().unwrap();
    let cut = bench.write("cut", &line[..line.len() - 4]);
    fs::set_permissions(&cut, fs::Permissions::from_mode(0o600)).unwrap();
    let error = bench.fails(2, "h", &["key", "show", text(&cut)]);
    assert!(!error.contains(&line[30..50]), "the error repeats the secret: {error}");
}

#[test]
fn a_backup_makes_the_same_home_again() {
    let bench = Bench::new();
    bench.home("h");
    bench.ok("h", &["network", "create", "oak"]);
    let file = bench.path("backup");
    bench.ok("h", &["key", "backup", text(&file)]);
    bench.fails(1, "h", &["key", "backup", text(&file)]);
    let before = bench.json("h", &["key", "show"]);
    bench.ok("again", &["key", "restore", text(&file)]);
    let after = bench.json("again", &["key", "show"]);
    assert_eq!((&before["operator"], &before["node"]), (&after["operator"], &after["node"]));
    assert_eq!(before["signing"][0]["card"], after["signing"][0]["card"]);
    assert!(bench.fails(1, "h", &["key", "restore", text(&file)]).contains("never overwritten"));
    let damaged = bench.write("damaged", "== operator.key\nnothing\n");
    bench.fails(2, "third", &["key", "restore", text(&damaged)]);
    bench.fails(3, "third", &["key", "restore", "missing"]);
    assert!(!bench.path("third/operator.key").exists());
}

#[test]
fn doctor_looks_at_everything_and_fails_where_something_is_missing() {
    let bench = Bench::new();
    bench.home("h");
    let document = bench.json("h", &["doctor"]);
    let names: Vec<&str> = document["checks"].as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap()).collect();
    for name in ["platform", "home", "memory", "ports", "sandbox", "limits", "disk"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    // A machine without bubblewrap: nothing on the path.
    let ran = super::Ran::of(bench.command("h").env("PATH", bench.path("empty")).args(["doctor"]).output().unwrap());
    assert!(ran.code == 1 && ran.out.contains("bubblewrap") && ran.out.contains("apt-get install"), "{}", ran.out);
    fs::write(bench.path("h/barn.toml"), "[lend]\nmemory = \"900 TiB\"\n").unwrap();
    assert_eq!(bench.run("h", &["doctor"]).code, 1);
    fs::write(bench.path("h/barn.toml"), "[lend\n").unwrap();
    assert_eq!(bench.run("h", &["doctor"]).code, 1);
}
