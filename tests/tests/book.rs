//! What the book shows must work: its commands are commands, its recipes are recipes, its settings are settings.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use barnraiser_node::cli::args::Cli;
use barnraiser_node::config::Config;
use barnraiser_protocol::recipe::{ExpandOptions, ParseOptions, expand, parse_batch, parse_recipe_with};
use barnraiser_protocol::trust::keys::SigningKey;
use clap::Parser as _;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The number of a fenced block's first line, and its text.
type Block = (usize, String);

/// The fenced blocks of a language in a page.
fn blocks(page: &Path, language: &str) -> Vec<Block> {
    let text = std::fs::read_to_string(page).unwrap();
    let (mut blocks, mut open) = (Vec::new(), None::<Block>);
    for (number, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) if info.split(',').next() == Some(language) => open = Some((number + 2, String::new())),
            (None, Some(_)) => open = Some((0, String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take().filter(|(line, _)| *line > 0)),
            (Some((_, block)), None) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    for entry in std::fs::read_dir(root().join("docs/src")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "md") {
            pages.push(path);
        }
    }
    pages.sort();
    pages
}

/// A word of a command, with something valid where the book has a stand-in.
fn filled(word: &str) -> String {
    if word.starts_with("CARD") {
        SigningKey::from_seed(&[7; 32]).card(None).to_string()
    } else if word == "OPERATOR" {
        "07".repeat(32)
    } else {
        word.trim_matches(['"', '\'']).to_owned()
    }
}

#[test]
fn every_barn_command_in_the_book_is_one() {
    let mut seen = 0;
    for page in pages() {
        for (line, block) in blocks(&page, "sh") {
            for (offset, command) in block.lines().enumerate() {
                let command = command.split(" #").next().unwrap_or_default().trim().trim_start_matches("$ ");
                let Some(rest) = command.strip_prefix("barn ") else { continue };
                // Behind a pipe stands another program.
                let rest = rest.split(['|', '>', '&']).next().unwrap_or_default();
                let words = std::iter::once("barn".to_owned()).chain(rest.split_whitespace().map(filled));
                if let Err(error) = Cli::try_parse_from(words) {
                    panic!("{}:{}: {command}\n{error}", page.display(), line + offset);
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "only {seen} commands were found in the book");
}

/// A batch is expanded together with the recipes that stand before it on its page.
#[test]
fn every_recipe_batch_and_setting_of_the_quick_starts_is_read() {
    let mut seen = 0;
    for page in pages().into_iter().filter(|page| page.file_name().unwrap().to_str().unwrap().starts_with("quick-start")) {
        let mut recipes = Vec::new();
        for (line, text) in blocks(&page, "toml") {
            let name = format!("{}:{line}", page.display());
            let options = ParseOptions { allow_missing_hashes: true };
            if text.starts_with("[recipe]") {
                recipes.push(parse_recipe_with(&name, &text, options).unwrap_or_else(|errors| panic!("{}", errors[0])));
            } else if text.starts_with("[batch]") {
                let batch = parse_batch(&name, &text).unwrap_or_else(|errors| panic!("{}", errors[0]));
                let plan = expand(&batch, &recipes, &ExpandOptions::default()).unwrap_or_else(|errors| panic!("{}", errors[0]));
                assert!(!plan.graph.jobs.is_empty(), "{name}");
            } else {
                Config::parse(Path::new(&name), &text).unwrap_or_else(|error| panic!("{name}: {error}"));
            }
            seen += 1;
        }
    }
    assert!(seen >= 3, "only {seen} examples were found");
}
