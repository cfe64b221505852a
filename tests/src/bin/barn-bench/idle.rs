//! What an idle node costs: two networks, five peers, after 100 jobs, over five minutes.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use barnraiser_tests::{Lend, Process, Village, batch, path_text, recipe, text};

use super::figure::Figure;

/// How long it is watched.
const WATCH: Duration = Duration::from_secs(300);
/// How many jobs it has seen before.
const JOBS: usize = 100;
/// How soon nodes must know each other.
const SOON: Duration = Duration::from_secs(90);
/// The networks.
const NETWORKS: [&str; 2] = ["one", "two"];
/// The nodes: the first founds the networks, and submits.
const NODES: [&str; 6] = ["ada", "bea", "cyd", "dot", "eve", "fay"];

/// CPU time of a process, in seconds.
pub fn cpu_s(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let behind_name = stat.rsplit_once(')').context("no process")?.1;
    let fields: Vec<&str> = behind_name.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    // USER_HZ, which Linux fixes for user space on all architectures that we run on.
    Ok(ticks / 100.0)
}

/// Resident memory of a process, in MiB.
fn resident_mib(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no resident memory")?;
    Ok(line.split_whitespace().nth(1).context("no figure")?.parse::<f64>()? / 1024.0)
}

/// Measures.
pub fn measure() -> anyhow::Result<Vec<Figure>> {
    eprintln!("idle: {JOBS} jobs, then {} s of watching; takes about seven minutes", WATCH.as_secs());
    let village = Village::new()?;
    let (_entry, address) = village.bootstrap()?;
    let homes = NODES.map(|name| village.home(name));
    let founder = &homes[0];
    founder.init(Lend::ONE_CORE)?;
    let mut tickets = Vec::new();
    for network in NETWORKS {
        founder.ok(&["network", "create", network, "--policy", "small", "--bootstrap", &address])?;
        tickets.push(text(&founder.json(&["--network", network, "network", "invite", "--uses", "5"])?["ticket"])?);
    }
    let mut nodes: Vec<Process> = vec![founder.start()?];
    for home in &homes[1..] {
        home.init(Lend::ONE_CORE)?;
        for ticket in &tickets {
            home.ok(&["join", ticket])?;
        }
        nodes.push(home.start()?);
    }
    for home in &homes {
        for network in NETWORKS {
            home.wait_present(network, NODES.len(), SOON)?;
        }
    }
    for network in NETWORKS {
        let names: Vec<String> = (0..JOBS / NETWORKS.len()).map(|job| format!("{network}-{job}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for name in &names {
            village.write(&format!("{network}/{name}.toml"), &recipe(name, "", &format!("echo {name} > out")))?;
        }
        let file = village.write(&format!("{network}/batch.toml"), &batch(network, &names))?;
        founder.ok(&["--network", network, "submit", path_text(&file)?, "--wait", "--timeout", "300s"])?;
    }
    let before = nodes.iter().map(|node| cpu_s(node.pid())).collect::<Result<Vec<_>, _>>()?;
    let start = Instant::now();
    std::thread::sleep(WATCH);
    let mut percents = Vec::new();
    let mut residents = Vec::new();
    for (node, before) in nodes.iter().zip(before) {
        percents.push((cpu_s(node.pid())? - before) / start.elapsed().as_secs_f64() * 100.0);
        residents.push(resident_mib(node.pid())?);
    }
    let note = format!(
        "the worst of {} nodes in two networks, each with five peers, after {JOBS} jobs, over {} s; the spread is that over the nodes",
        NODES.len(),
        WATCH.as_secs()
    );
    Ok(vec![Figure::worst("idle.cpu", "% core", 1.0, percents, note.clone()), Figure::worst("idle.resident", "MiB", 80.0, residents, note)])
}
