//! Laying out takes time in proportion to the jobs. The bounds are loose, for slow and busy machines; what is quadratic
//! misses them by far.

use std::time::{Duration, Instant};

use super::*;

/// 9,000 recipes with three needs each, as many as 29 operating system images have.
#[test]
fn nine_thousand_jobs_are_laid_out_quickly() {
    let recipe = |number: usize| {
        let needs: String =
            [1, 7, 31].iter().filter(|back| **back <= number).map(|back| format!("[[need]]\nrecipe = \"p{}\"\n", number - back)).collect();
        small(&format!("p{number}"), &format!("{needs}[vars]\nPACKAGE = \"p{number}-{{device}}\"\n"))
    };
    let recipes: Vec<Recipe> = (0..9000).map(recipe).collect();
    let batch = batch("[matrix]\ndevice = [\"RPi4\"]\n");
    let start = Instant::now();
    let plan = plan(&batch, &recipes);
    let elapsed = start.elapsed();
    println!("9,000 jobs laid out in {elapsed:?}");
    assert_eq!(plan.graph.jobs.len(), 9000);
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
}

/// 300 recipes in 29 cells: as many jobs from one matrix; a chain as long as there are recipes.
#[test]
fn a_matrix_is_laid_out_quickly() {
    let devices: Vec<String> = (0..29).map(|number| format!("\"d{number}\"")).collect();
    let batch = batch(&format!("[matrix]\ndevice = [{}]\n", devices.join(",")));
    let needs = |number: usize| if number == 0 { String::new() } else { format!("[[need]]\nrecipe = \"p{}\"\n", number - 1) };
    let recipes: Vec<Recipe> =
        (0..300).map(|number| small(&format!("p{number}"), &format!("{}[vars]\nD = \"{{device}}\"\n", needs(number)))).collect();
    let start = Instant::now();
    let plan = plan(&batch, &recipes);
    let elapsed = start.elapsed();
    println!("300 recipes in 29 cells laid out in {elapsed:?}");
    assert_eq!(plan.graph.jobs.len(), 8700);
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
}

/// A chain of 20,000 needs must not exhaust the stack.
#[test]
fn a_long_chain_and_a_long_cycle_are_no_trouble() {
    let chain = |last: &str| -> Vec<Recipe> {
        let need = |number: usize| if number == 0 { last.to_owned() } else { format!("[[need]]\nrecipe = \"p{}\"\n", number - 1) };
        (0..20_000).map(|number| small(&format!("p{number}"), &need(number))).collect()
    };
    assert_eq!(plan(&batch(""), &chain("")).graph.jobs.len(), 20_000);
    let found = expand_errors(&batch(""), &chain("[[need]]\nrecipe = \"p19999\"\n"));
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("p0.toml:7:1: needs go in a cycle: p0 → p19999 → p19998 → "), "{}", found[0]);
    assert!(found[0].contains("… 19961 more …") && found[0].len() < 1000, "{}", found[0]);
}
