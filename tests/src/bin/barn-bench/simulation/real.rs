//! Real nodes on loopback that all tell this process what they hear.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use barnraiser_node::client::Client;
use barnraiser_node::home::Home as NodeHome;
use barnraiser_tests::{Home, Lend, Process, Village, batch, list, path_text, recipe, text};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::super::dispatch::QUORUM_ONE;
use super::super::idle::cpu_s;
use super::{ends, share_of};
use crate::relay::{Delay, Order, Relay};

/// How soon all nodes must know each other.
const SOON: Duration = Duration::from_secs(180);
/// How long the last records may take after the batch is done.
const LATE: Duration = Duration::from_secs(5);
/// The port of the first node where each has a network namespace of its own: below those that systems give out.
const PORT: usize = 20_001;
/// Events that are records as they come to be known.
const RECORDS: [&str; 3] = ["claimed", "committed", "revealed"];

/// A village that is measured.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its nodes, the submitter's among them.
    pub nodes: usize,
    /// How many of them build, beside the submitter.
    pub builders: usize,
    /// Jobs of the one batch.
    pub jobs: usize,
    /// How long each job sleeps, which spreads the records over time.
    pub seconds: &'static str,
    /// Mean time of a message between two nodes in milliseconds; without one it is what this machine's loopback takes.
    pub latency_ms: Option<f64>,
}

/// What was heard.
#[derive(Debug)]
pub struct Heard {
    /// For each record and each node but the first that told of it: milliseconds between the two. Sorted.
    pub each_ms: Vec<f64>,
    /// For each record: milliseconds until 99 % of the other nodes told of it. Sorted.
    pub nearly_all_ms: Vec<f64>,
    /// Records that came to be while all listened and knew the batch.
    records: usize,
    /// How many of these their author told of before all others.
    author_first: usize,
    /// How many of these some node never told of.
    incomplete: usize,
    /// Connections to nodes of the network: least, median and greatest.
    peers: [f64; 3],
    /// Processor time of all nodes and the entry server while the batch was built, for each of these records, in milliseconds.
    pub processor_ms: f64,
    setting: Setting,
}

impl Heard {
    /// What a reader must know of it.
    pub fn told(&self) -> String {
        let Self { records, author_first, incomplete, peers: [least, median, most], processor_ms, setting, .. } = self;
        let Setting { nodes, builders, latency_ms, .. } = setting;
        let apart = latency_ms.map_or(String::new(), |ms| format!(", whose messages take {ms:.0} ms in the mean"));
        format!(
            "from the first node's event of a Claim, Commitment or Reveal to another's, as HTTP brings them; {nodes} nodes and their entry \
             server on this machine's cores{apart}, {builders} of them build, {least:.0} to {most:.0} connections a node ({median:.0} in the \
             median); {records} records, {author_first} of them told first by their author, {incomplete} not told by all; the processes \
             took {processor_ms:.0} ms of processor time a record together"
        )
    }
}

/// A line of a node's events.
struct Told {
    node: usize,
    at: Instant,
    event: Value,
}

/// Builds the batch in such a village.
pub fn measure(setting: Setting) -> anyhow::Result<Heard> {
    let village = Village::new()?;
    let running = start(&village, setting)?;
    let homes = &running.homes;
    let peers = peers(homes)?;
    let operators = homes.iter().map(Home::operator).collect::<Result<Vec<_>, _>>()?;
    // More threads would only compete with the nodes.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let events = listen(&runtime, homes)?;
    let names: Vec<String> = (0..setting.jobs).map(|job| format!("job-{job}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &names {
        village.write(&format!("{name}.toml"), &recipe(name, "", &format!("sleep {}; echo {name} > out", setting.seconds)))?;
    }
    let file = village.write("batch.toml", &batch("jobs", &names))?;
    let before = processor_s(&running.processes)?;
    homes[0].ok(&["submit", path_text(&file)?, "--wait", "--timeout", "300s"])?;
    let processor_s = processor_s(&running.processes)? - before;
    std::thread::sleep(LATE);
    runtime.shutdown_background();
    let mut heard = evaluate(setting, peers, &operators, &events.try_iter().collect::<Vec<_>>())?;
    heard.processor_ms = processor_s * 1000.0 / heard.records.max(1) as f64;
    Ok(heard)
}

/// A village that runs. It ends with the value, what carries the messages last.
struct Running {
    homes: Vec<Home>,
    processes: Vec<Process>,
    _relays: Vec<Relay>,
}

/// The submitter and the others, all of whom see each other.
fn start(village: &Village, setting: Setting) -> anyhow::Result<Running> {
    // The first is the entry server's.
    let mut relays = match setting.latency_ms {
        Some(_) => (0..=setting.nodes).map(|_| Relay::start()).collect::<Result<Vec<_>, _>>()?,
        None => Vec::new(),
    };
    let (entry, address) = village.bootstrap_as(|program| match relays.first() {
        Some(relay) => relay.command(program),
        None => Command::new(program),
    })?;
    if let Some(latency_ms) = setting.latency_ms {
        connect(village, &mut relays, &address, latency_ms)?;
    }
    let policy = village.write("policy.json", QUORUM_ONE)?;
    let mut ticket = String::new();
    let mut processes = vec![entry];
    let mut homes: Vec<Home> = Vec::new();
    for number in 0..setting.nodes {
        let home = village.home(&format!("node-{number}"));
        home.init(if (1..=setting.builders).contains(&number) { Lend::ONE_CORE } else { Lend::NOTHING })?;
        if number == 0 {
            home.ok(&["network", "create", "bench", "--policy", path_text(&policy)?, "--bootstrap", &address])?;
            let uses = (setting.nodes - 1).to_string();
            ticket = text(&home.json(&["network", "invite", "--uses", &uses])?["ticket"])?;
        } else {
            home.ok(&["join", &ticket])?;
        }
        processes.push(match relays.get(number + 1) {
            Some(relay) => {
                let settings = home.root().join("barn.toml");
                let fixed = fs::read_to_string(&settings)?.replace("/tcp/0", &format!("/tcp/{}", PORT + number));
                fs::write(&settings, fixed)?;
                let log = File::create(home.log())?;
                let outputs = (log.try_clone()?, log);
                home.start_with(|command| {
                    *command = relay.inside(command);
                    command.stdin(Stdio::null()).stdout(outputs.0).stderr(outputs.1);
                })?
            }
            None => home.start()?,
        });
        homes.push(home);
    }
    for home in &homes {
        home.wait_present("bench", setting.nodes, SOON)?;
    }
    Ok(Running { homes, processes, _relays: relays })
}

/// Tells all relays of all the others. Distances are spread as the simulator draws them (its `weather.rs`): each node has
/// its own, from 0.1 to 0.6 of the mean latency, and three tenths of the mean are drawn for each message.
fn connect(village: &Village, relays: &mut [Relay], entry: &str, latency_ms: f64) -> anyhow::Result<()> {
    let entry = entry.split('/').nth(4).and_then(|port| port.parse().ok()).context("the entry server's address has no port")?;
    let socket = |number: usize| village.path(&format!("relay-{number}.sock"));
    let port = |number: usize| anyhow::Ok(if number == 0 { entry } else { u16::try_from(PORT + number - 1)? });
    // Multiples of the golden ratio are spread evenly, however many there are.
    let distance = |number: usize| 0.1 + 0.5 * (number as f64 * 0.618_033_988_75).fract();
    let count = relays.len();
    for (number, relay) in relays.iter_mut().enumerate() {
        relay.tell(&Order::Own { port: port(number)?, socket: socket(number) })?;
        for other in (0..count).filter(|other| *other != number) {
            let delay = Delay { fixed_ms: latency_ms * (distance(number) + distance(other)), jitter_ms: latency_ms * 0.3 };
            relay.tell(&Order::Other { port: port(other)?, socket: socket(other), delay })?;
        }
    }
    Ok(())
}

/// Connections of the nodes to others of the network: least, median and greatest.
fn peers(homes: &[Home]) -> anyhow::Result<[f64; 3]> {
    let of = |home: &Home| list(&home.status()?["networks"]).iter().find_map(|network| network["peers"].as_f64()).context("no network");
    let mut peers = homes.iter().map(of).collect::<anyhow::Result<Vec<_>>>()?;
    peers.sort_by(f64::total_cmp);
    let [least, most] = ends(&peers);
    Ok([least, share_of(&peers, 0.5), most])
}

/// Processor time of processes so far, in seconds; that of builds is not theirs.
fn processor_s(processes: &[Process]) -> anyhow::Result<f64> {
    processes.iter().map(|process| cpu_s(process.pid())).sum()
}

/// Listens to the events of all nodes until the runtime ends.
fn listen(runtime: &Runtime, homes: &[Home]) -> anyhow::Result<Receiver<Told>> {
    let (tell, told) = channel();
    let mut ready = Vec::new();
    for (node, home) in homes.iter().enumerate() {
        let socket = NodeHome::at(home.root())?.socket_path();
        ready.push(runtime.spawn(subscribe(node, socket, tell.clone())));
    }
    // Each ends when the node has answered: then it listens.
    for ready in ready {
        runtime.block_on(ready)??;
    }
    Ok(told)
}

/// Subscribes to a node's events and passes them on with the times at which they come, in a task of its own.
async fn subscribe(node: usize, socket: PathBuf, tell: Sender<Told>) -> anyhow::Result<()> {
    let mut lines = Client::at(socket).get_lines::<Value>("/api/v1/events").await?;
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next().await {
            let told = Told { node, at: Instant::now(), event: line["event"].clone() };
            if tell.send(told).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// A record, as events name it: what it is, of which lease, by whom.
type Key = (String, String, String);

fn evaluate(setting: Setting, peers: [f64; 3], operators: &[String], told: &[Told]) -> anyhow::Result<Heard> {
    let known = |told: &&Told| told.event["event"] == "batch-known";
    ensure!(told.iter().filter(known).count() == setting.nodes, "not all nodes told of the batch");
    // What is said before is kept until the graph is there: that is not how fast it spreads.
    let ready = told.iter().filter(known).map(|told| told.at).max().context("nobody told of the batch")?;
    let mut records: BTreeMap<Key, BTreeMap<usize, Instant>> = BTreeMap::new();
    for Told { node, at, event } in told {
        let kind = event["event"].as_str().unwrap_or_default();
        if RECORDS.contains(&kind) {
            let key = (kind.to_owned(), event["lease"].to_string(), text(&event["operator"])?);
            records.entry(key).or_default().entry(*node).or_insert(*at);
        }
    }
    let mut heard = Heard {
        each_ms: Vec::new(),
        nearly_all_ms: Vec::new(),
        records: 0,
        author_first: 0,
        incomplete: 0,
        peers,
        processor_ms: 0.0,
        setting,
    };
    for ((_, _, operator), arrivals) in records {
        let Some((first, said)) = arrivals.iter().min_by_key(|(_, at)| **at) else { continue };
        if *said <= ready {
            continue;
        }
        heard.records += 1;
        heard.author_first += usize::from(operators[*first] == operator);
        let mut others: Vec<f64> = arrivals.values().map(|at| at.duration_since(*said).as_secs_f64() * 1000.0).collect();
        others.sort_by(f64::total_cmp);
        others.remove(0);
        let nearly_all = (setting.nodes - 1) * 99 / 100;
        heard.nearly_all_ms.extend(others.get(nearly_all));
        heard.incomplete += usize::from(others.len() < setting.nodes - 1);
        heard.each_ms.extend(others);
    }
    heard.each_ms.sort_by(f64::total_cmp);
    heard.nearly_all_ms.sort_by(f64::total_cmp);
    Ok(heard)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    const SETTING: Setting = Setting { nodes: 3, builders: 1, jobs: 2, seconds: "0", latency_ms: None };

    /// Three nodes that tell of the batch within 10 ms, and then what is given: node, milliseconds, lease.
    fn heard(claims: &[(usize, u64, u32)]) -> Heard {
        let start = Instant::now();
        let told = |node, ms, event| Told { node, at: start + Duration::from_millis(ms), event };
        let batch = (0..3).map(|node| told(node, 5 * node as u64, json!({ "event": "batch-known" })));
        let claims =
            claims.iter().map(|(node, ms, lease)| told(*node, *ms, json!({ "event": "claimed", "lease": lease, "operator": "op-1" })));
        let operators = ["op-0", "op-1", "op-2"].map(str::to_owned);
        evaluate(SETTING, [2.0; 3], &operators, &batch.chain(claims).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn first_to_tell_of_a_record_is_what_others_are_measured_against() {
        let heard = heard(&[(0, 27, 1), (1, 20, 1), (2, 21, 1), (2, 90, 1)]);
        assert_eq!((heard.each_ms, heard.nearly_all_ms), (vec![1.0, 7.0], vec![7.0]));
        assert_eq!((heard.records, heard.author_first, heard.incomplete), (1, 1, 0));
    }

    #[test]
    fn records_from_before_the_batch_was_known_to_all_are_left_out() {
        assert_eq!(heard(&[(1, 9, 1), (0, 12, 1), (2, 13, 1)]).records, 0);
    }

    #[test]
    fn record_that_a_node_never_told_of_is_known_to_nearly_nobody() {
        let heard = heard(&[(2, 20, 1), (1, 22, 1)]);
        assert_eq!((heard.each_ms, heard.nearly_all_ms), (vec![2.0], vec![]));
        assert_eq!((heard.author_first, heard.incomplete), (0, 1));
    }
}
