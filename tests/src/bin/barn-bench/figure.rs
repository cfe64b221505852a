//! Figures, as a table and as JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::Serialize;

/// One figure; the fields are those of INTERFACES.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// Stable: `AREA.what`.
    pub name: &'static str,
    /// The median of the runs, unless the note says otherwise.
    pub value: Option<f64>,
    /// What it is measured in.
    pub unit: &'static str,
    /// `higher` or `lower`.
    pub better: &'static str,
    /// What was promised.
    pub goal: f64,
    /// Whether it is reached.
    pub met: bool,
    /// The same of others.
    pub against: BTreeMap<&'static str, Option<f64>>,
    /// How many times it was measured.
    pub runs: usize,
    /// Least and greatest.
    pub spread: [f64; 2],
    /// What a reader must know.
    pub note: String,
}

impl Figure {
    /// A figure of which less is better, from its samples.
    pub fn lower(name: &'static str, unit: &'static str, goal: f64, mut samples: Vec<f64>, note: String) -> Self {
        samples.sort_by(f64::total_cmp);
        let value = samples.get(samples.len() / 2).copied();
        Self {
            name,
            value,
            unit,
            better: "lower",
            goal,
            met: value.is_some_and(|value| value < goal),
            against: BTreeMap::new(),
            runs: samples.len(),
            spread: [samples.first().copied().unwrap_or(0.0), samples.last().copied().unwrap_or(0.0)],
            note,
        }
    }

    /// A figure of which more is better, from its samples.
    pub fn higher(name: &'static str, unit: &'static str, goal: f64, samples: Vec<f64>, note: String) -> Self {
        let figure = Self::lower(name, unit, goal, samples, note);
        Self { better: "higher", met: figure.value.is_some_and(|value| value >= goal), ..figure }
    }

    /// A figure that was measured for comparison: nothing is promised of it, so its goal is infinite, in JSON `null`.
    pub fn shown(name: &'static str, unit: &'static str, value: f64, runs: usize, spread: [f64; 2], note: String) -> Self {
        let goal = f64::INFINITY;
        Self { name, value: Some(value), unit, better: "lower", goal, met: true, against: BTreeMap::new(), runs, spread, note }
    }

    /// A figure that could not be measured, with the reason.
    pub const fn missing(name: &'static str, unit: &'static str, goal: f64, note: String) -> Self {
        Self { name, value: None, unit, better: "lower", goal, met: false, against: BTreeMap::new(), runs: 0, spread: [0.0, 0.0], note }
    }

    /// As [`Figure::lower`], with the greatest sample as the value.
    pub fn worst(name: &'static str, unit: &'static str, goal: f64, samples: Vec<f64>, note: String) -> Self {
        let figure = Self::lower(name, unit, goal, samples, note);
        let value = figure.value.map(|_| figure.spread[1]);
        Self { value, met: value.is_some_and(|value| value < goal), ..figure }
    }
}

/// Where figures go, and what peers need to be measured.
///
/// # Errors
/// It can't be made.
pub fn folder() -> anyhow::Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let folder = target.join("bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("{} can't be made", folder.display()))?;
    Ok(folder)
}

/// Prints the table and writes `target/bench/AREA.json`.
pub fn report(area: &str, figures: &[Figure]) -> anyhow::Result<()> {
    println!("{:<42} {:>10} {:<8} {:>8}  {:<4} {:>5}  spread", "figure", "value", "unit", "goal", "met", "runs");
    for figure in figures {
        let value = figure.value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        let met = if figure.met { "yes" } else { "NO" };
        // Nothing was promised.
        let goal = if figure.goal.is_finite() { format!("{:.1}", figure.goal) } else { "-".to_owned() };
        let [least, most] = figure.spread;
        println!("{:<42} {value:>10} {:<8} {goal:>8}  {met:<4} {:>5}  {least:.2} to {most:.2}", figure.name, figure.unit, figure.runs);
        println!("    {}", figure.note);
    }
    let file = folder()?.join(format!("{area}.json"));
    std::fs::write(&file, serde_json::to_vec_pretty(figures)?).with_context(|| format!("{} can't be written", file.display()))?;
    println!("written to {}", file.display());
    Ok(())
}
