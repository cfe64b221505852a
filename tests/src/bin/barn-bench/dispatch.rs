//! From the start of `barn submit` to the first exec inside the sandbox: four idle builders on loopback, the submitter not
//! one of them, default network parameters, a new action each time. And how many trivial jobs they do in a second.

use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use barnraiser_tests::{Home, Lend, Process, Village, batch, path_text, recipe, text};

use super::figure::Figure;

/// How often it is measured.
const SAMPLES: usize = 50;
/// How many jobs are submitted at once, ...
const JOBS: u32 = 200;
/// ... and how often.
const ROUNDS: usize = 5;
/// How many times as fast as Buildbot was promised.
const TIMES: f64 = 10.0;
/// The median that was promised, in milliseconds.
const GOAL_MS: f64 = 300.0;
/// How soon builders must know each other.
const SOON: Duration = Duration::from_secs(60);
/// Builders say that they are free again at most every 300 ms; they are idle only when the others have heard it.
const REST: Duration = Duration::from_millis(700);

/// A policy by which each job is built once.
pub const QUORUM_ONE: &str = r#"{"name": "one", "quorum": 1, "slots": 1, "voters": "invited", "inputs": "cross-verified",
    "release": "cross-verified", "release-needs-trusted": false}"#;

/// Measures.
pub fn measure() -> anyhow::Result<Vec<Figure>> {
    eprintln!("dispatch: {SAMPLES} submits to four builders, then {JOBS} jobs at once, here and with Buildbot; takes about six minutes");
    Ok(vec![latency()?, throughput()?])
}

/// A submitter and four idle builders under that policy; the processes end with the value.
fn builders(village: &Village, policy: &str) -> anyhow::Result<(Home, Vec<Process>)> {
    let (entry, address) = village.bootstrap()?;
    let submitter = village.home("submitter");
    submitter.init(Lend::NOTHING)?;
    submitter.ok(&["network", "create", "bench", "--policy", policy, "--bootstrap", &address])?;
    let ticket = text(&submitter.json(&["network", "invite", "--uses", "4"])?["ticket"])?;
    let mut nodes = vec![entry, submitter.start()?];
    for name in ["ada", "bea", "cyd", "dot"] {
        let home = village.home(name);
        home.init(Lend::ONE_CORE)?;
        home.ok(&["join", &ticket])?;
        nodes.push(home.start()?);
    }
    submitter.wait_present("bench", 5, SOON)?;
    Ok((submitter, nodes))
}

/// From `barn submit` to the first exec.
fn latency() -> anyhow::Result<Figure> {
    let village = Village::new()?;
    let (submitter, _nodes) = builders(&village, "small")?;
    let mut samples = Vec::new();
    for sample in 0..SAMPLES {
        // The first word of the step tells the time: `date` is the first program that the recipe runs.
        let recipe = format!(
            "[recipe]\nname = \"probe\"\nversion = \"{sample}\"\nepoch = 1700000000\n[environment]\nrootfs = \"host\"\n\
             [steps]\nprobe = \"date +first-exec=%s%N >&2; echo {sample} > out\"\n[outputs]\n\"out\" = \"out\"\n\
             [limits]\ncores = 1\nmemory = \"64 MiB\"\n"
        );
        let file = village.write(&format!("probe-{sample}.toml"), &recipe)?;
        let before = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let printed = submitter.ok(&["submit", path_text(&file)?, "--channel", "nightly", "--wait", "--timeout", "60s"])?;
        let batch = printed.split_whitespace().next().context("submit prints the batch's id")?;
        let mut first = None;
        // All that was revealed: the earliest of them is the one that counts.
        for attestation in barnraiser_tests::list(&submitter.json(&["job", &format!("{batch}/probe")])?["attestations"]) {
            let log = submitter.ok(&["log", &format!("{batch}/probe"), "--by", &text(&attestation["operator"])?])?;
            let time = log.lines().find_map(|line| line.split("first-exec=").nth(1)?.trim().parse::<u128>().ok());
            first = [first, time].into_iter().flatten().min();
        }
        let first = first.with_context(|| format!("no log of sample {sample} tells the time"))?;
        // Milliseconds of a sample fit a float.
        samples.push(first.saturating_sub(before) as f64 / 1e6);
        std::thread::sleep(REST);
    }
    let note = "from the start of `barn submit` to the first program of the recipe in the sandbox of whoever was first; \
                five nodes and the submitter share this machine's cores"
        .to_owned();
    Ok(Figure::lower("dispatch.submit_to_first_exec", "ms", GOAL_MS, samples, note))
}

/// Trivial jobs a second, quorum 1, sandbox on: from `barn submit` until all are verified. Beside it Buildbot with as many
/// workers, which `tests/peers/buildbot.py` sets up.
fn throughput() -> anyhow::Result<Figure> {
    let village = Village::new()?;
    let policy = village.write("policy.json", QUORUM_ONE)?;
    let (submitter, nodes) = builders(&village, path_text(&policy)?)?;
    let names: Vec<String> = (0..JOBS).map(|job| format!("job-{job}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut samples = Vec::new();
    for round in 0..ROUNDS {
        for name in &names {
            village.write(&format!("{name}.toml"), &recipe(name, "", &format!("echo {name} in {round} > out")))?;
        }
        let file = village.write("batch.toml", &batch("jobs", &names))?;
        let start = Instant::now();
        submitter.ok(&["submit", path_text(&file)?, "--wait", "--timeout", "300s"])?;
        samples.push(f64::from(JOBS) / start.elapsed().as_secs_f64());
        std::thread::sleep(REST);
    }
    drop(nodes);
    let peer = buildbot();
    // Without the peer there is nothing to be ten times as fast as.
    let goal = peer.as_ref().map_or(f64::INFINITY, |(rate, _)| rate * TIMES);
    let beside = match &peer {
        Ok((rate, version)) => format!("Buildbot {version} with four workers: {rate:.1} jobs/s, once"),
        Err(error) => format!("Buildbot could not be measured: {error:#}"),
    };
    let note = format!("{JOBS} trivial jobs at once, four builders, quorum 1, sandbox on; {beside}; the goal is {TIMES} times that");
    let mut figure = Figure::higher("dispatch.jobs_per_second", "jobs/s", goal, samples, note);
    figure.against.insert("buildbot", peer.ok().map(|(rate, _)| rate));
    Ok(figure)
}

/// Jobs a second, and the version.
fn buildbot() -> anyhow::Result<(f64, String)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/buildbot.py");
    let folder = super::figure::folder()?.join("peers/buildbot");
    let output = Command::new("python3").arg(script).arg(folder).arg(JOBS.to_string()).output().context("python3 can't be run")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    let found: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let seconds = found["seconds"].as_f64().filter(|seconds| *seconds > 0.0).context("it gives no time")?;
    Ok((f64::from(JOBS) / seconds, text(&found["version"])?))
}
