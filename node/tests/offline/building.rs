//! `barn build`: in a real sandbox, without a node.

use std::fs;

use super::{Bench, text};

fn recipe(name: &str, rest: &str, script: &str) -> String {
    format!(
        "[recipe]\nname = \"{name}\"\nepoch = 1700000000\n{rest}\n[steps]\nbuild = '''{script}'''\n[outputs]\n\"out\" = \"out\"\n\
         [limits]\nmemory = \"256 MiB\"\nwall = \"60 s\"\nsilent = \"60 s\"\n"
    )
}

#[test]
fn a_recipe_is_built_with_what_lies_beside_it_and_twice_alike() {
    let bench = Bench::new();
    bench.write("base.toml", &recipe("base", "[[source]]\nname = \"src\"\npath = \"src\"\n", "cp src/in out"));
    bench.write("src/in", "hello\n");
    let top = bench.write("top.toml", &recipe("top", "[[need]]\nrecipe = \"base\"\n", "cat /needs/base/out > out; echo world >> out"));
    let ran = bench.run("h", &["--json", "build", text(&top), "--twice", "--chaos", "-o", "result"]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let document: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&document["jobs"][0]["label"], &document["jobs"][0]["equal"]), (&"top".into(), &true.into()));
    assert_eq!(document["jobs"].as_array().unwrap().len(), 1, "what it needs is built, but not what was asked for");
    assert_eq!(fs::read_to_string(bench.path("result/out")).unwrap(), "hello\nworld\n");
    assert!(bench.fails(2, "h", &["build", text(&top), "-o", "result"]).contains("not empty"));
    // What was built before is not built again for its dependants.
    let again = bench.run("h", &["build", text(&top)]);
    assert!(again.code == 0 && again.out.contains(document["jobs"][0]["tree"].as_str().unwrap()), "{}{}", again.out, again.err);
    assert!(again.err.contains("building top") && !again.err.contains("building base"), "{}", again.err);
    // A change of what lies beside it is seen.
    bench.write("src/in", "goodbye\n");
    assert!(bench.run("h", &["build", text(&top), "-o", "second"]).err.contains("building base"));
    assert_eq!(fs::read_to_string(bench.path("second/out")).unwrap(), "goodbye\nworld\n");
    let left: Vec<_> = fs::read_dir(bench.path("h/local")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_str().unwrap().starts_with("build-")), "{left:?}");
}

#[test]
fn builds_that_differ_are_named_file_by_file() {
    let bench = Bench::new();
    let file = bench.write(
        "random.toml",
        &recipe("random", "", "mkdir out; echo same > out/same; echo \"x $(cat /proc/sys/kernel/random/uuid)\" > out/uuid"),
    );
    let ran = bench.run("h", &["build", text(&file), "--twice"]);
    assert_eq!(ran.code, 4, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("out/uuid") && !ran.out.contains("out/same"), "{}", ran.out);
    // The first two bytes are alike in every build; further ones may be so by chance.
    let first = ran.out.split("from byte ").nth(1).and_then(|rest| rest.split(' ').next()).and_then(|byte| byte.parse::<u64>().ok());
    assert!(first.is_some_and(|byte| (2..38).contains(&byte)), "{}", ran.out);
}

#[test]
fn a_step_that_fails_ends_with_7_and_the_end_of_its_log() {
    let bench = Bench::new();
    let file = bench.write("bad.toml", &recipe("bad", "", "echo before; echo 'the reason' >&2; exit 3"));
    let error = bench.fails(7, "h", &["build", text(&file)]);
    assert!(error.contains("bad failed in \"build\"") && error.contains("the reason"), "{error}");
    let file = bench.write("none.toml", &recipe("none", "", "true"));
    assert!(bench.fails(7, "h", &["build", text(&file)]).contains("out"), "an output that is not there");
}

#[test]
fn one_job_of_a_batch_is_built_by_its_name() {
    let bench = Bench::new();
    bench.write("r/one.toml", &recipe("one", "[vars]\nD = \"{device}\"", "echo $D > out"));
    bench.write("r/two.toml", &recipe("two", "", "exit 1"));
    let batch = bench.write("batch.toml", "[batch]\nname = \"b\"\nrecipes = [\"r/*.toml\"]\n[matrix]\ndevice = [\"x\", \"y\"]\n");
    let what = format!("{}:one[device=y]", text(&batch));
    bench.ok("h", &["build", &what, "-o", "y"]);
    assert_eq!(fs::read_to_string(bench.path("y/out")).unwrap(), "y\n");
    let both = bench.json("h", &["build", &format!("{}:one", text(&batch)), "-o", "both"]);
    assert_eq!(both["jobs"].as_array().unwrap().len(), 2);
    assert_eq!(fs::read_to_string(bench.path("both/one[device=x]/out")).unwrap(), "x\n");
    assert!(bench.fails(3, "h", &["build", &format!("{}:three", text(&batch))]).contains("one[device=x]"));
    bench.fails(3, "h", &["build", "missing.toml"]);
    bench.fails(7, "h", &["build", text(&batch)]);
}

#[test]
fn what_this_machine_lacks_is_said_before_anything_is_built() {
    let bench = Bench::new();
    let file = bench.write("odd.toml", &format!("{}[platform]\nos = \"netbsd\"\n", recipe("odd", "", "true")));
    assert!(bench.fails(1, "h", &["build", text(&file)]).contains("netbsd"));
    let file = bench.write("t.toml", &recipe("t", "", "echo > out"));
    let ran = super::Ran::of(bench.command("h").env("PATH", bench.path("empty")).args(["build", text(&file)]).output().unwrap());
    assert!(ran.code == 1 && ran.err.contains("bubblewrap"), "{}", ran.err);
}
