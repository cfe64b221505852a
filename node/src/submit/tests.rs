#![allow(clippy::unwrap_used)]
use std::fs;
use std::path::Path;

use barnraiser_store::Store;

use super::*;
use crate::sources::Mirror;

const BASE: &str =
    "[recipe]\nname = \"base\"\n[[source]]\nname = \"src\"\npath = \"src\"\n[steps]\nbuild = \"true\"\n[outputs]\n\"a\" = \"src/a\"\n";
const TOP: &str = "[recipe]\nname = \"top\"\n[vars]\nD = \"{device}\"\n[[need]]\nrecipe = \"base\"\n[steps]\nbuild = \"true\"\n[outputs]\n\"b\" = \"b\"\n";
const BATCH: &str = "[batch]\nname = \"nightly\"\nchannel = \"stable\"\nrecipes = [\"recipes/*.toml\"]\nlabels = { pr = \"1\" }\n[matrix]\ndevice = [\"x\", \"y\"]\n";

fn write(home: &Path, name: &str, text: &str) {
    let path = home.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn batch(home: &Path) -> Submit {
    write(home, "recipes/base.toml", BASE);
    write(home, "recipes/top.toml", TOP);
    write(home, "recipes/src/a", "a");
    write(home, "batch.toml", BATCH);
    request(home.join("batch.toml"))
}

fn request(path: std::path::PathBuf) -> Submit {
    Submit { path, text: None, channel: None, priority: None, set: BTreeMap::new(), labels: BTreeMap::new() }
}

fn here() -> Surroundings {
    Surroundings::here(BTreeMap::new())
}

fn wrong(request: &Submit) -> Problem {
    plan_only(request, &here()).unwrap_err()
}

async fn prepared(home: &Path, request: &Submit) -> Result<Prepared, Problem> {
    let store = Store::open(&home.join("store")).unwrap();
    let sources = Sources::new(store, home.join("scratch"), Vec::<Mirror>::new());
    prepare(request, Arc::new(sources), here(), Arc::new(|_| {})).await
}

#[tokio::test]
async fn a_batch_becomes_a_graph_with_its_sources_in_the_store() {
    let home = tempfile::tempdir().unwrap();
    let mut request = batch(home.path());
    request.priority = Some(Priority::Security);
    request.labels = BTreeMap::from([("pr".into(), "2".into()), ("by".into(), "me".into())]);
    let Prepared { graph, heading } = prepared(home.path(), &request).await.unwrap();
    let labels: Vec<String> = graph.jobs.iter().map(barnraiser_protocol::graph::Job::label).collect();
    assert_eq!(labels, ["base", "top[device=x]", "top[device=y]"]);
    assert_eq!(graph.jobs[0].sources.len(), 1);
    assert_eq!(heading.channel.as_deref(), Some("stable"));
    assert_eq!(heading.priority, Priority::Security);
    let labels: Vec<(&str, &str)> = heading.labels.iter().map(|(key, value)| (&**key, &**value)).collect();
    assert_eq!(labels, [("by", "me"), ("pr", "2")]);
}

#[tokio::test]
async fn a_recipe_alone_is_a_batch_of_one() {
    let home = tempfile::tempdir().unwrap();
    batch(home.path());
    let request = request(home.path().join("recipes/base.toml"));
    let Prepared { graph, heading } = prepared(home.path(), &request).await.unwrap();
    assert_eq!((graph.jobs.len(), &*heading.name, heading.channel), (1, "base", None));
}

/// `barn build` knew the recipes beside a recipe, and `barn plan` and `barn submit` did not.
#[test]
fn a_recipe_alone_brings_what_lies_beside_it_and_is_needed() {
    let home = tempfile::tempdir().unwrap();
    batch(home.path());
    let top = |needs: &str| TOP.replace("{device}", "x").replace("[[need]]\nrecipe = \"base\"", needs);
    write(home.path(), "recipes/unrelated.toml", "[recipe]\nname = 5\n");
    write(home.path(), "recipes/above.toml", &top("[[need]]\nrecipe = \"middle\"").replace("\"top\"", "\"above\""));
    write(home.path(), "recipes/middle.toml", &top("[[need]]\nrecipe = \"base\"").replace("\"top\"", "\"middle\""));
    let planned = plan_only(&request(home.path().join("recipes/above.toml")), &here()).unwrap();
    let labels: Vec<String> = planned.plan.graph.jobs.iter().map(barnraiser_protocol::graph::Job::label).collect();
    assert_eq!((labels, &*planned.heading.name), (vec!["base".to_owned(), "middle".to_owned(), "above".to_owned()], "above"));
    // What is wrong with one of them is said with its own place.
    write(home.path(), "recipes/base.toml", "[recipe]\nname = 5\n");
    let problem = wrong(&request(home.path().join("recipes/above.toml")));
    assert!(problem.exit_code() == 2 && problem.message.contains("base.toml:2:"), "{problem}");
    std::fs::remove_file(home.path().join("recipes/base.toml")).unwrap();
    let problem = wrong(&request(home.path().join("recipes/above.toml")));
    assert!(problem.message.contains("middle.toml:") && problem.message.contains("base"), "{problem}");
}

#[test]
fn axes_can_be_set_and_text_can_come_on_standard_input() {
    let home = tempfile::tempdir().unwrap();
    let mut request = batch(home.path());
    request.path = home.path().to_owned();
    request.text = Some(BATCH.to_owned());
    request.set = BTreeMap::from([("device".into(), "y".into())]);
    let planned = plan_only(&request, &here()).unwrap();
    assert!(planned.plan.find("top[device=y]").is_some() && planned.plan.find("top[device=x]").is_none());
    request.text = Some("[batch]\nname = 1\n".into());
    let problem = wrong(&request);
    assert!(problem.message.contains("(standard input):2:"), "{problem}");
}

#[test]
fn all_mistakes_of_all_files_are_named_at_once() {
    let home = tempfile::tempdir().unwrap();
    let mut request = batch(home.path());
    write(home.path(), "recipes/base.toml", "[recipe]\nnmae = \"base\"\n");
    write(home.path(), "recipes/top.toml", "[recipe]\nname = 7\n");
    write(home.path(), "batch.toml", &BATCH.replace("\"recipes/*.toml\"", "\"recipes/*.toml\", \"none/*.toml\", \"gone.toml\""));
    let problem = wrong(&request);
    assert_eq!(problem.exit_code(), 2);
    for part in ["base.toml:2:", "did you mean `name`", "top.toml:2:", "batch.toml:4:", "none/*.toml", "gone.toml"] {
        assert!(problem.message.contains(part), "{part} is not in {problem}");
    }
    request.path = home.path().join("nothing.toml");
    assert!(wrong(&request).message.contains("nothing.toml"));
    request.path = home.path().to_owned();
    assert!(wrong(&request).message.contains("not a file"));
}

#[test]
fn a_batch_among_its_recipes_does_not_read_itself() {
    let home = tempfile::tempdir().unwrap();
    let mut request = batch(home.path());
    write(home.path(), "recipes/all.toml", &BATCH.replace("recipes/*.toml", "*.toml"));
    request.path = home.path().join("recipes/all.toml");
    assert_eq!(plan_only(&request, &here()).unwrap().plan.graph.jobs.len(), 3);
}

#[test]
fn one_file_under_two_names_is_one_recipe() {
    let home = tempfile::tempdir().unwrap();
    let request = batch(home.path());
    std::os::unix::fs::symlink(".", home.path().join("recipes/loop")).unwrap();
    write(
        home.path(),
        "batch.toml",
        &BATCH.replace("\"recipes/*.toml\"", "\"**/*.toml\", \"recipes/../recipes/base.toml\", \"recipes/loop/*.toml\""),
    );
    // `**` finds the batch itself, which is passed over, and does not run round in the link.
    assert_eq!(plan_only(&request, &here()).unwrap().plan.graph.jobs.len(), 3);
}

#[test]
fn wrong_overrides_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let request = batch(home.path());
    let with = |change: &dyn Fn(&mut Submit)| {
        let mut request = request.clone();
        change(&mut request);
        wrong(&request)
    };
    assert!(with(&|r| r.channel = Some("No Such".into())).message.contains("No Such"));
    assert!(with(&|r| r.labels = BTreeMap::from([("k".repeat(40), "v".into())])).message.contains("32"));
    assert!(with(&|r| r.labels = (0..20).map(|n| (n.to_string(), String::new())).collect()).message.contains("16"));
    assert!(with(&|r| r.set = BTreeMap::from([("device".into(), "z".into())])).message.contains("device"));
}

/// Exit codes 4 (wrong bytes), 2 (can't be right) and 6 (out of reach), each with the place in the recipe.
#[tokio::test]
async fn sources_that_cannot_be_had_say_which_and_why() {
    let home = tempfile::tempdir().unwrap();
    write(home.path(), "file", "bytes");
    let fetched = |url: &str| {
        let source = format!("urls = [\"{url}\"]\nsha256 = \"{}\"", "0".repeat(64));
        write(home.path(), "recipe.toml", &BASE.replace("path = \"src\"", &source));
    };
    let request = request(home.path().join("recipe.toml"));
    fetched("https://127.0.0.1:1/file.tar.gz");
    let unreachable = prepared(home.path(), &request).await.unwrap_err();
    assert_eq!(unreachable.exit_code(), 6, "{unreachable}");
    assert!(unreachable.message.contains("recipe.toml:3:1: source \"src\""), "{unreachable}");
    write(home.path(), "recipe.toml", BASE);
    let absent = prepared(home.path(), &request).await.unwrap_err();
    assert_eq!(absent.exit_code(), 2, "{absent}");
}

#[tokio::test]
async fn a_relative_path_means_nothing_to_a_node() {
    let home = tempfile::tempdir().unwrap();
    let problem = prepared(home.path(), &request("recipe.toml".into())).await.unwrap_err();
    assert!(problem.exit_code() == 2 && problem.message.contains("absolute"));
}
