//! `barn status`, `peers`, `pause`, `resume`: the node itself.

use std::time::Duration;

use super::super::output::{Style, Table, bytes};
use super::super::{CommandResult, Exit};
use super::context::Context;
use super::words::{ago, count, length, now, plain};
use crate::api::{Done, NetworkStatus, Pause, Peer, Status};

/// `barn status`
pub(super) async fn status(context: &Context) -> CommandResult {
    let status: Status = context.client.get("/api/v1/status").await?;
    context.out.document("status", &status)?;
    context.out.say(status_text(context, &status))?;
    Ok(Exit::DONE)
}

fn status_text(context: &Context, status: &Status) -> String {
    let out = &context.out;
    let now = now();
    let mut facts = Table::plain();
    let mut fact = |name: &str, value: String| facts.row([out.paint(Style::Strong, name), value]);
    fact("node", format!("{}  (barn {}, process {}, up {})", status.node, status.barn, status.pid, length(now.since(status.since))));
    fact("operator", status.operator.to_string());
    match &status.resting {
        None => fact("state", out.paint(Style::Good, "takes work")),
        Some(why) => fact("state", format!("{}: {}", out.paint(Style::Warn, "rests"), plain(why))),
    }
    let ((cores, cores_used), (memory, memory_used)) = (status.cores, status.memory);
    let lent = format!(
        "{} ({cores_used} in use), {} of memory ({} in use)",
        count(usize::from(cores), "core", "cores"),
        bytes(memory),
        bytes(memory_used)
    );
    fact("lends", if cores == 0 { "nothing: it stores, serves and fetches only".into() } else { lent });
    fact("traffic", traffic_text(status));
    if let Some(why) = &status.traffic.resting {
        fact("", format!("{}: {}", out.paint(Style::Warn, "blobs rest"), plain(why)));
    }
    let room = &status.store;
    let quota = room.quota.map_or_else(|| "no quota".into(), |quota| format!("of a quota of {}", bytes(quota)));
    fact("store", format!("{}, {} {quota}", count(usize::try_from(room.blobs).unwrap_or(usize::MAX), "blob", "blobs"), bytes(room.bytes)));
    for (number, address) in status.addresses.iter().enumerate() {
        fact(if number == 0 { "listens" } else { "" }, plain(address));
    }
    let mut text = facts.render();
    for network in &status.networks {
        text.push_str("\n\n");
        text.push_str(&network_text(context, network));
    }
    if status.networks.is_empty() {
        text.push_str("\n\nno network yet: `barn join TICKET`, or `barn network create NAME`");
    }
    if !status.builds.is_empty() {
        let mut table = Table::new(&["building", "action", "step", "since", "log"]);
        for build in &status.builds {
            let step = build.step.as_deref().map_or_else(|| "-".into(), plain);
            table.row([plain(&build.label), build.action.short(), step, ago(now, build.since), bytes(build.log_bytes)]);
        }
        text.push_str("\n\n");
        text.push_str(&table.render());
    }
    text
}

/// Rates, and what has moved in this month.
fn traffic_text(status: &Status) -> String {
    let traffic = &status.traffic;
    let rate = |rate: u64, limit: Option<u64>| {
        let limit = limit.map(|limit| format!(" of {}/s", bytes(limit))).unwrap_or_default();
        format!("{}/s{limit}", bytes(rate))
    };
    let cap = traffic.monthly_cap.map(|cap| format!(" of {}", bytes(cap))).unwrap_or_default();
    format!(
        "up {}, down {}; {} up and {} down{cap} in {}",
        rate(traffic.up_rate, traffic.up_limit),
        rate(traffic.down_rate, traffic.down_limit),
        bytes(traffic.month_up),
        bytes(traffic.month_down),
        if traffic.month.is_empty() { "this month" } else { &traffic.month },
    )
}

fn network_text(context: &Context, network: &NetworkStatus) -> String {
    let out = &context.out;
    let policy = match &network.policy {
        Some(policy) => format!("policy {} (quorum {})", plain(&policy.name), policy.quorum),
        None => "policy not known yet".into(),
    };
    let head = format!(
        "{} {}  {}, charter {}, {policy}\n  {}, {}, {}, {} held here",
        out.paint(Style::Strong, &plain(&network.name)),
        network.id.short(),
        plain(&network.state),
        network.charter,
        count(network.peers, "peer", "peers"),
        count(network.records, "record", "records"),
        count(network.batches, "batch", "batches"),
        count(network.leases, "lease", "leases"),
    );
    if network.operators.is_empty() {
        return head;
    }
    let mut table = Table::new(&["  operator", "branch", "standing", "nodes"]);
    for operator in &network.operators {
        let standing = [("founder", operator.founder), ("trusted", operator.trusted)];
        let standing: Vec<&str> = standing.iter().filter(|(_, is)| *is).map(|(word, _)| *word).collect();
        let here = operator.nodes.iter().filter(|(_, present)| *present).count();
        table.row([
            format!("  {}", operator.operator.short()),
            operator.branch.map_or_else(|| "none".into(), |branch| branch.short()),
            if standing.is_empty() { "-".into() } else { standing.join(", ") },
            format!("{here} of {} present", operator.nodes.len()),
        ]);
    }
    format!("{head}\n{}", table.render())
}

/// `barn peers`
pub(super) async fn peers(context: &Context) -> CommandResult {
    let peers: Vec<Peer> = context.client.get("/api/v1/peers").await?;
    context.out.document("peers", &serde_json::json!({ "peers": peers }))?;
    if peers.is_empty() {
        context.out.note("no peer is connected");
        return Ok(Exit::DONE);
    }
    let out = &context.out;
    let mut table = Table::new(&["node", "operator", "round trip", "faults", "networks", "addresses"]);
    for peer in &peers {
        let networks: Vec<String> = peer.networks.iter().map(|network| network.short()).collect();
        let addresses: Vec<String> = peer.addresses.iter().map(|address| plain(address)).collect();
        table.row([
            peer.node.short(),
            peer.operator.map_or_else(|| "-".into(), |operator| operator.short()),
            peer.rtt_ms.map_or_else(|| "-".into(), |rtt| format!("{rtt} ms")),
            if peer.faults == 0 { "-".into() } else { out.paint(Style::Bad, &peer.faults.to_string()) },
            if networks.is_empty() { "-".into() } else { networks.join(" ") },
            addresses.join(" "),
        ]);
    }
    context.out.say(table.render())?;
    Ok(Exit::DONE)
}

/// `barn pause`
pub(super) async fn pause(context: &Context, time: Option<Duration>) -> CommandResult {
    let done = context.client.post("/api/v1/pause", &Pause { for_s: time.map(|time| time.as_secs()) }).await?;
    say_done(context, &done)
}

/// `barn resume`
pub(super) async fn resume(context: &Context) -> CommandResult {
    let done = context.client.post("/api/v1/resume", &()).await?;
    say_done(context, &done)
}

/// What the node did, in its own words.
pub(super) fn say_done(context: &Context, done: &Done) -> CommandResult {
    context.out.document("done", done)?;
    context.out.say(plain(&done.message))?;
    Ok(Exit::DONE)
}
