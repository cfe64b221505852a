//! The same figures out of the simulator.

use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use barnraiser_tests::{list, program};
use serde_json::Value;

/// A figure over all seeds.
#[derive(Debug)]
pub struct Simulated {
    /// The median of the seeds.
    pub value: f64,
    /// Least and greatest of the seeds.
    pub spread: [f64; 2],
}

/// What the simulator says, in milliseconds.
#[derive(Debug)]
pub struct Spreads {
    pub heard_median: Simulated,
    pub heard_p99: Simulated,
    pub nearly_all_median: Simulated,
    pub nearly_all_p99: Simulated,
}

/// Runs the scenario `calm`.
///
/// # Errors
/// The simulator can't be run, or a checker of it found something.
pub fn measure(nodes: usize, latency_ms: f64, seeds: usize) -> anyhow::Result<Spreads> {
    let mut command = Command::new(program("barnraiser-simulations")?);
    command.args(["calm", "--json", "--nodes", &nodes.to_string(), "--seeds", &seeds.to_string()]);
    command.args(["--latency-ms", &latency_ms.to_string()]).stderr(Stdio::inherit());
    let output = command.output().context("the simulator can't be run")?;
    ensure!(output.status.success(), "the simulator ended with {}", output.status);
    let last = output.stdout.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).context("the simulator printed nothing")?;
    let summary: Value = serde_json::from_slice(last)?;
    let figure = |name: &str| {
        let found = list(&summary["figures"]).iter().find(|figure| figure["name"] == name);
        let number = |value: &Value| value.as_f64().with_context(|| format!("the simulator does not tell {name}"));
        let found = found.unwrap_or(&Value::Null);
        anyhow::Ok(Simulated { value: number(&found["value"])?, spread: [number(&found["spread"][0])?, number(&found["spread"][1])?] })
    };
    Ok(Spreads {
        heard_median: figure("calm.heard")?,
        heard_p99: figure("calm.heard_by_99_percent")?,
        nearly_all_median: figure("calm.known_to_99_percent_median")?,
        nearly_all_p99: figure("calm.known_to_99_percent")?,
    })
}
