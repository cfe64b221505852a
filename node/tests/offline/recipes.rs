//! Recipes and batches: what is planned, and everything that can be wrong with them.

use super::{Bench, text};

const GOOD: &str = r#"[recipe]
name = "tool"
version = "1"

[[source]]
name = "src"
path = "src"

[steps]
build = "cat src/in > out"

[outputs]
"out" = "out"
"#;

#[test]
fn a_plan_lists_jobs_with_what_they_need() {
    let bench = Bench::new();
    bench.write("recipes/base.toml", &GOOD.replace("\"tool\"", "\"base\""));
    bench.write(
        "recipes/top.toml",
        "[recipe]\nname = \"top\"\n[vars]\nD = \"{device}\"\n[[need]]\nrecipe = \"base\"\n[steps]\nbuild = \"true\"\n[outputs]\n\"o\" = \"o\"\n",
    );
    let batch = bench.write(
        "batch.toml",
        "[batch]\nname = \"nightly\"\nrecipes = [\"recipes/*.toml\"]\n[batch.targets]\n\"o-{device}\" = \"top/o\"\n[matrix]\ndevice = [\"x\", \"y\"]\n",
    );
    let plan = bench.json("h", &["plan", text(&batch)]);
    let labels: Vec<&str> = plan["jobs"].as_array().unwrap().iter().map(|job| job["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["base", "top[device=x]", "top[device=y]"]);
    assert_eq!((&plan["jobs"][1]["needs"][0], &plan["jobs"][2]["targets"]["o-y"]), (&0.into(), &"o".into()));
    let held = bench.json("h", &["plan", text(&batch), "--set", "device=y"]);
    assert_eq!(held["jobs"].as_array().unwrap().len(), 2);
    assert!(bench.ok("h", &["plan", text(&batch)]).contains("3 jobs for 2 cells"));
    assert!(!bench.path("h").exists(), "a plan needs no home and makes none");
}

/// Each is refused with its place before anything is fetched or built.
#[test]
fn what_is_wrong_with_a_recipe_is_said_with_its_place() {
    let bench = Bench::new();
    let urls = "urls = [\"https://example.org/a.tar.gz\"]";
    for (name, recipe, wanted) in [
        ("unknown key", GOOD.replace("version", "vresion"), "t.toml:3:1: "),
        ("nearest name", GOOD.replace("version", "vresion"), "`version`"),
        ("wrong type", GOOD.replace("version = \"1\"", "version = 1"), "t.toml:3:"),
        ("no toml", GOOD.replace("[steps]", "[steps"), "t.toml:9:"),
        ("missing hash", GOOD.replace("path = \"src\"", urls), "barn lock"),
        ("missing need", format!("{GOOD}\n[[need]]\nrecipe = \"zlib\"\n"), "zlib"),
        ("needs itself", format!("{GOOD}\n[[need]]\nrecipe = \"tool\"\n"), "tool"),
        ("unknown axis", GOOD.replace("\"1\"", "\"{device}\""), "device"),
        ("path that leaves", GOOD.replace("\"out\" = ", "\"../out\" = "), "../out"),
    ] {
        let file = bench.write("t.toml", &recipe);
        for command in ["plan", "build"] {
            let error = bench.fails(2, "h", &[command, text(&file)]);
            assert!(error.contains(wanted), "{name}: {error}");
        }
    }
    bench.fails(3, "h", &["plan", "missing.toml"]);
    let folder = bench.path("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("image.toml"), GOOD).unwrap();
    for command in ["plan", "build", "lock"] {
        let error = bench.fails(2, "h", &[command, text(&folder)]);
        assert!(error.contains("is a folder") && error.contains("image.toml"), "{command}: {error}");
    }
    let binary = bench.path("binary.toml");
    std::fs::write(&binary, [0xff, 0xfe, 0x00]).unwrap();
    bench.fails(2, "h", &["plan", text(&binary)]);
}

#[test]
fn what_is_wrong_with_a_batch_is_said_with_its_place() {
    let bench = Bench::new();
    let need = |name: &str, other: &str| {
        format!("[recipe]\nname = \"{name}\"\n[[need]]\nrecipe = \"{other}\"\n[steps]\nbuild = \"true\"\n[outputs]\n\"o\" = \"o\"\n")
    };
    bench.write("r/a.toml", &need("a", "b"));
    bench.write("r/b.toml", &need("b", "a"));
    let batch = bench.write("batch.toml", "[batch]\nname = \"x\"\nrecipes = [\"r/*.toml\"]\n");
    assert!(bench.fails(2, "h", &["plan", text(&batch)]).contains("a.toml:"), "a cycle has a place");
    for (batch, wanted) in [
        ("[batch]\nname = \"x\"\nrecipes = [\"none/*.toml\"]\n", "batch.toml:3:"),
        ("[batch]\nname = \"x\"\nrecipe = [\"r/*.toml\"]\n", "`recipes`"),
        ("[batch]\nname = \"x\"\nrecipes = [\"r/*.toml\"]\npriority = \"soon\"\n", "batch.toml:4:"),
    ] {
        let file = bench.write("batch.toml", batch);
        let error = bench.fails(2, "h", &["plan", text(&file)]);
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
}

#[test]
fn sources_that_cannot_be_had_have_exit_codes_of_their_own() {
    let bench = Bench::new();
    let archive = bench.write("a.txt", "hello");
    let source = |url: &str, hash: &str| GOOD.replace("path = \"src\"", &format!("urls = [{url:?}]\nsha256 = \"{hash}\"\nunpack = false"));
    let zeros = "0".repeat(64);
    let wrong = bench.write("wrong.toml", &source(&format!("file://{}", text(&archive)), &zeros));
    let error = bench.fails(4, "h", &["build", text(&wrong)]);
    assert!(error.contains("but the recipe wants") && error.contains(&zeros), "{error}");
    // Nobody listens on port 1 of this machine.
    let unreachable = bench.write("unreachable.toml", &source("http://127.0.0.1:1/a.txt", &zeros));
    let error = bench.fails(6, "h", &["build", text(&unreachable)]);
    assert!(error.contains("127.0.0.1:1") && error.contains("mirror"), "{error}");
    let missing = bench.write("missing.toml", &GOOD.replace("path = \"src\"", "path = \"nothing-here\""));
    bench.fails(2, "h", &["build", text(&missing)]);
}

#[test]
fn lock_writes_missing_hashes_and_nothing_else() {
    let bench = Bench::new();
    let archive = bench.write("a.txt", "hello");
    let before = GOOD.replace("path = \"src\"", &format!("urls = [\"file://{}\"]  # mine\nunpack = false", text(&archive)));
    let file = bench.write("t.toml", &before);
    let locked = bench.json("h", &["lock", text(&file)]);
    let sha256 = locked["added"][0]["sha256"].as_str().unwrap();
    assert_eq!(sha256, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
    let after = std::fs::read_to_string(&file).unwrap();
    assert_eq!(after, before.replace("# mine\n", &format!("# mine\nsha256 = \"{sha256}\"\n")));
    assert_eq!(bench.json("h", &["lock", text(&file)])["added"].as_array().unwrap().len(), 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), after);
    // A hash that is there is checked where the bytes are.
    assert_eq!(bench.json("h", &["lock", text(&file)])["checked"], serde_json::json!(["src"]));
    std::fs::write(&file, after.replace(sha256, &"ab".repeat(32))).unwrap();
    let error = bench.fails(4, "h", &["lock", text(&file)]);
    assert!(error.contains(sha256) && error.contains("abababab"), "{error}");
    bench.fails(3, "h", &["lock", "missing.toml"]);
    let bad = bench.write("bad.toml", "[recipe]\nname = 5\n");
    bench.fails(2, "h", &["lock", text(&bad)]);
}
