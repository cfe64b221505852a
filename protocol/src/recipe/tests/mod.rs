//! What the recipe language promises: every mistake has its place, a plan is what its files say, and no input panics.
#![allow(clippy::unwrap_used)]

mod expansion;
mod files;
mod hostile;
mod locking;
mod page;
mod positions;
mod speed;

use std::collections::BTreeMap;

use super::*;

/// A recipe that lacks nothing.
const LUA: &str = r#"[recipe]
name = "lua"
version = "5.4.6"
epoch = 1700000000

[[source]]
name = "lua"
urls = ["https://example.org/lua-5.4.6.tar.gz"]
sha256 = "7d5ea1b9cb6aa0b59ca3dde1c6adcb57ef83a1ba8e5432c0ecd06bf439b3ad88"

[steps]
build = "make -C lua"

[outputs]
"bin/lua" = "lua/src/lua"
"#;

/// A recipe of one step, named `name`, with `more` behind it.
fn small(name: &str, more: &str) -> Recipe {
    let text = format!("[recipe]\nname = \"{name}\"\n[steps]\nbuild = \"true\"\n[outputs]\nout = \"out\"\n{more}");
    parse_recipe(&format!("{name}.toml"), &text).unwrap()
}

fn batch(more: &str) -> BatchFile {
    parse_batch("batch.toml", &format!("[batch]\nname = \"b\"\nrecipes = [\"*.toml\"]\n{more}")).unwrap()
}

fn options() -> ExpandOptions {
    ExpandOptions { default_arch: "x86_64".into(), ..ExpandOptions::default() }
}

fn plan(batch: &BatchFile, recipes: &[Recipe]) -> Plan {
    expand(batch, recipes, &options()).unwrap_or_else(|found| panic!("{}", lines(&found).join("\n")))
}

fn labels(plan: &Plan) -> Vec<String> {
    plan.graph.jobs.iter().map(crate::graph::Job::label).collect()
}

fn lines(found: &[Diagnostic]) -> Vec<String> {
    found.iter().map(ToString::to_string).collect()
}

/// What is wrong with a recipe, a line each.
fn recipe_errors(text: &str) -> Vec<String> {
    lines(&parse_recipe("r.toml", text).unwrap_err())
}

fn batch_errors(text: &str) -> Vec<String> {
    lines(&parse_batch("b.toml", text).unwrap_err())
}

fn expand_errors(batch: &BatchFile, recipes: &[Recipe]) -> Vec<String> {
    lines(&expand(batch, recipes, &options()).unwrap_err())
}

/// Every request answered with a file of its own.
fn found(plan: &Plan, date: Option<u64>) -> BTreeMap<RequestId, ResolvedSource> {
    let resolved = |number: usize| ResolvedSource {
        blob: crate::id::BlobHash::of(&number.to_le_bytes()),
        file_name: String::from("lua-5.4.6.tar.gz"),
        form: crate::action::SourceForm::Archive,
        newest_date: date,
    };
    (0..plan.requests.len()).map(|number| (RequestId(u32::try_from(number).unwrap()), resolved(number))).collect()
}
