//! The book's page on recipes says what is true.

use super::*;

const PAGE: &str = include_str!("../../../../docs/src/recipes.md");

/// The blocks of the page in the notation `language`.
fn blocks(language: &str) -> Vec<&'static str> {
    let start = format!("```{language}\n");
    PAGE.split(&start).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// Every block that begins a recipe or batch is read, and the batch is laid out with the recipes.
#[test]
fn examples_are_read_and_laid_out() {
    let toml = blocks("toml");
    let (batches, recipes): (Vec<_>, Vec<_>) = toml.iter().copied().partition(|text| is_batch("page.toml", text));
    let recipes: Vec<Recipe> = recipes
        .iter()
        .map(|text| parse_recipe("page.toml", text).unwrap_or_else(|found| panic!("{}\n{text}", lines(&found).join("\n"))))
        .collect();
    assert!(recipes.len() >= 2 && batches.len() == 1, "{} recipes, {} batches", recipes.len(), batches.len());
    let batch = parse_batch("page.toml", batches[0]).unwrap();
    let options = ExpandOptions { environments: [("debian-c@3".to_owned(), crate::id::BlobHash([7; 32]))].into(), ..options() };
    let plan = expand(&batch, &recipes, &options).unwrap_or_else(|found| panic!("{}", lines(&found).join("\n")));
    plan.resolve(&found(&plan, Some(1_700_000_000))).unwrap();
    // The page lists the jobs of its example.
    let listed: Vec<&str> = blocks("text")[0].lines().collect();
    assert_eq!(labels(&plan), listed);
    for json in blocks("json") {
        parse_recipe("page.json", json).unwrap();
    }
}

/// What the page says of a mistake is what is said.
#[test]
fn the_mistake_on_the_page_is_the_real_one() {
    let found = recipe_errors(blocks("toml,wrong")[0]);
    assert_eq!(found.join("\n"), blocks("text")[1].trim_end());
}
