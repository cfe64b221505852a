//! `barn networks`, `barn network show`, `barn channel ls`.

use std::collections::BTreeSet;

use barnraiser_protocol::id::OperatorId;
use barnraiser_protocol::policy::{Policy, Voters};

use barnraiser_protocol::trust::charter::Charter;
use barnraiser_protocol::trust::tuf::Role;
use serde_json::{Value, json};

use super::here::{Here, now};
use super::online::words::{ago, count, plain};
use super::output::{Style, Table};
use super::{CommandResult, Exit};
use crate::api::{JoinRequestStatus, NetworkStatus, OperatorStatus};
use crate::home::NetworkEntry;

/// `barn networks`
pub(super) fn networks(here: &Here) -> CommandResult {
    let networks = here.home()?.networks()?;
    let mut table = Table::new(&["network", "id", "state", "rules", "policy"]);
    let mut items = Vec::new();
    for entry in &networks {
        let (state, version, policy) = match &entry.charter {
            Some(charter) => ("live", charter.version().to_string(), charter.policy().name.clone()),
            None => ("joining", "-".into(), "-".into()),
        };
        table.row([entry.name.clone(), entry.id.short(), state.into(), version, policy]);
        items.push(json!({
            "id": entry.id, "name": entry.name, "state": state, "charter": entry.charter.as_ref().map(Charter::version),
            "policy": entry.charter.as_ref().map(Charter::policy), "bootstrap": entry.bootstrap,
        }));
    }
    if networks.is_empty() {
        here.out.note("a member of no network; `barn join TICKET` joins one, `barn network create NAME` makes one");
    } else {
        here.out.say(table.render())?;
    }
    here.out.document("networks", &json!({ "networks": items }))?;
    Ok(Exit::DONE)
}

/// `barn channel ls`
pub(super) fn channels(here: &Here) -> CommandResult {
    let home = here.home()?;
    let (entry, charter) = here.live_network(&home)?;
    let releases = home.releases(&crate::home::NetworkEntry { charter: Some(charter.clone()), ..entry.clone() })?;
    let mut table = Table::new(&["channel", "signatures", "policy", "newest release"]);
    let mut items = Vec::new();
    for channel in charter.channels() {
        let Some(keys) = charter.channel_keys(channel) else { continue };
        let newest = releases.iter().find(|known| known.channel == *channel).map(|known| known.release.version());
        let signatures = format!("{} of {}", keys.threshold, keys.keys.len());
        table.row([
            channel.to_string(),
            signatures,
            charter.policy().name.clone(),
            newest.map_or_else(|| "none".into(), |v| v.to_string()),
        ]);
        items.push(json!({ "channel": channel, "threshold": keys.threshold, "keys": keys.keys.len(), "release": newest }));
    }
    here.out.say(table.render())?;
    here.out.document("channels", &json!({ "network": entry.id, "policy": charter.policy(), "channels": items }))?;
    Ok(Exit::DONE)
}

/// `barn network show`
pub(super) async fn network(here: &Here) -> CommandResult {
    let home = here.home()?;
    let entry = here.network(&home)?;
    let status = here.status(&home).await?;
    let live = status.and_then(|status| status.networks.into_iter().find(|network| network.id == entry.id));
    let mut table = Table::plain();
    let mut line = |name: &str, text: String| table.row([here.out.paint(Style::Strong, name), text]);
    line("network", entry.name.clone());
    line("id", entry.id.to_string());
    for address in &entry.bootstrap {
        line("asks first", address.clone());
    }
    match &entry.charter {
        Some(charter) => rules(charter, &mut line),
        None => line("state", "joining: the rules are not known yet; the node asks for them".into()),
    }
    here.out.say(table.render())?;
    if let Some(live) = &live {
        here.out.say(members(here, live))?;
        if !live.requests.is_empty() {
            here.out.say(requests(&live.requests))?;
        }
    } else {
        here.out.note("the members are known to the running node only; `barn run` starts it");
    }
    let policy = entry.charter.as_ref().map(Charter::policy);
    let reachable = policy.zip(live.as_ref()).map(|(policy, live)| reach(policy, &live.operators));
    for problem in reachable.iter().flatten() {
        here.out.say(here.out.paint(Style::Warn, problem))?;
    }
    here.out.document("network", &document(&entry, live.as_ref(), reachable))?;
    Ok(Exit::DONE)
}

fn rules(charter: &Charter, line: &mut impl FnMut(&str, String)) {
    let grants = charter.grants();
    let short = |operators: &BTreeSet<OperatorId>| match operators.is_empty() {
        true => "nobody".to_owned(),
        false => operators.iter().map(OperatorId::short).collect::<Vec<_>>().join(", "),
    };
    line("rules", format!("version {}, good until {}", charter.version(), charter.rules().expires.timestamp()));
    if let Err(error) = charter.check_expiry(now()) {
        line("", format!("EXPIRED: {error}"));
    }
    line("policy", charter.policy().to_string());
    for (what, role) in [("root", Role::Root), ("rules", Role::Targets)] {
        if let Ok(keys) = charter.root().role(role) {
            line("signatures", format!("{} of {} maintainers sign the {what}", keys.threshold, keys.keys.len()));
        }
    }
    for channel in charter.channels() {
        let Some(keys) = charter.channel_keys(channel) else { continue };
        let submitters = grants.submitters.get(channel).map(|operators| format!(", submitters {}", short(operators))).unwrap_or_default();
        line("channel", format!("{channel}: {} of {} sign releases{submitters}", keys.threshold, keys.keys.len()));
    }
    line("founders", short(&grants.founders));
    line("trusted", short(&grants.trusted));
    line("leases", format!("last {} s, clocks may differ by {} s", charter.params().lease_ttl_s, charter.params().clock_difference_s));
}

fn members(here: &Here, live: &NetworkStatus) -> String {
    let mut table = Table::new(&["operator", "branch", "standing", "nodes"]);
    for operator in &live.operators {
        let standing = match (operator.founder, operator.trusted, operator.branch) {
            (true, true, _) => "founder, trusted",
            (true, false, _) => "founder",
            (false, true, _) => "trusted",
            (false, false, Some(_)) => "invited",
            (false, false, None) => "not invited",
        };
        let there = operator.nodes.iter().filter(|(_, there)| *there).count();
        let style = if there > 0 { Style::Good } else { Style::Dim };
        table.row([
            operator.operator.short(),
            operator.branch.map_or_else(|| "-".into(), |branch| branch.short()),
            standing.into(),
            here.out.paint(style, &format!("{there} of {} there", operator.nodes.len())),
        ]);
    }
    format!(
        "\n{}\n{} connected, {}, {}",
        table.render(),
        count(live.peers, "node", "nodes"),
        count(live.records, "record", "records"),
        count(live.batches, "batch", "batches")
    )
}

/// Who joined without an invitation, and what they say for themselves. The whole id, which `network invite` wants.
fn requests(requests: &[JoinRequestStatus]) -> String {
    let mut table = Table::new(&["joined", "", "says", "operator"]);
    for request in requests {
        let says = if request.message.is_empty() { "-".to_owned() } else { plain(&request.message) };
        let standing = if request.invited { "invited" } else { "not invited" };
        table.row([ago(now(), request.at), standing.into(), says, request.operator.to_string()]);
    }
    let mut text = format!("\n{}", table.render());
    if requests.iter().any(|request| !request.invited) {
        text.push_str("\n`barn network invite OPERATOR` lets one in");
    }
    text
}

/// What can't be reached with the members that there are, and who is missing. Empty where all can.
fn reach(policy: &Policy, operators: &[OperatorStatus]) -> Vec<String> {
    let votes = |operator: &&OperatorStatus| match policy.voters {
        Voters::Trusted => operator.trusted,
        Voters::Invited => operator.founder || operator.branch.is_some(),
    };
    // Who has no branch is in the one pool of the uninvited.
    let branches = |there_only: bool| -> usize {
        let voters = operators.iter().filter(votes).filter(|operator| !there_only || operator.nodes.iter().any(|(_, there)| *there));
        voters.map(|operator| if operator.founder { Some(operator.operator) } else { operator.branch }).collect::<BTreeSet<_>>().len()
    };
    let quorum = usize::from(policy.quorum);
    let (all, there) = (branches(false), branches(true));
    let mut lacking = Vec::new();
    if all < quorum {
        let who = match policy.voters {
            Voters::Trusted => "trust one with `barn network trust OPERATOR`",
            Voters::Invited => "invite one with `barn network invite`",
        };
        lacking.push(format!("cross-verified can't be reached: it takes {quorum} independent operators, {all} may vote; {who}"));
    } else if there < quorum {
        lacking.push(format!("cross-verified can't be reached now: it takes {quorum} independent operators, nodes of {there} are there"));
    }
    // An arbiter is trusted and in no branch that attested.
    if quorum > 1 && !operators.iter().any(|operator| operator.trusted) {
        lacking.push("disputes can't be settled: no trusted operator is known".to_owned());
    }
    lacking
}

fn document(entry: &NetworkEntry, live: Option<&NetworkStatus>, reachable: Option<Vec<String>>) -> Value {
    let charter = entry.charter.as_ref();
    json!({
        "id": entry.id,
        "name": entry.name,
        "bootstrap": entry.bootstrap,
        "charter": charter.map(Charter::version),
        "policy": charter.map(Charter::policy),
        "grants": charter.map(Charter::grants),
        "channels": charter.map(|charter| charter.channels().map(ToString::to_string).collect::<Vec<_>>()),
        "lease-ttl-s": charter.map(|charter| charter.params().lease_ttl_s),
        "live": live,
        "lacking": reachable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use barnraiser_protocol::id::NodeId;

    fn operator(seed: u8, branch: Option<u8>, trusted: bool, there: bool) -> OperatorStatus {
        OperatorStatus {
            operator: OperatorId([seed; 32]),
            branch: branch.map(|seed| OperatorId([seed; 32])),
            founder: branch == Some(seed),
            trusted,
            nodes: vec![(NodeId([seed; 32]), there)],
        }
    }

    #[test]
    fn what_the_present_members_cannot_reach_is_named() {
        let founder = operator(1, Some(1), true, true);
        assert_eq!(reach(&Policy::solo(), std::slice::from_ref(&founder)), Vec::<String>::new());
        let alone = reach(&Policy::small(), std::slice::from_ref(&founder));
        assert!(alone[0].contains("invite one"), "{alone:?}");
        // Two operators of one branch are one voice.
        let same = [operator(2, Some(2), false, true), OperatorStatus { founder: false, ..operator(3, Some(2), true, true) }];
        assert_eq!(reach(&Policy::small(), &same).len(), 1);
        let absent = [founder.clone(), OperatorStatus { founder: false, ..operator(4, Some(4), false, false) }];
        assert!(reach(&Policy::small(), &absent)[0].contains("now"));
        let there = [founder, OperatorStatus { founder: false, ..operator(4, Some(4), false, true) }];
        assert_eq!(reach(&Policy::small(), &there), Vec::<String>::new());
    }
}
