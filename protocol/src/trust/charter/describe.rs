//! Proposals in words, for the people who sign them. Everything is computed from what is signed, nothing from what the
//! proposer says; what has no words here is listed as such.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{Charter, GRANTS_TARGET, Grants, POLICY_TARGET, Rules};
use crate::id::{NetworkId, OperatorId};
use crate::record::payload::ChannelName;
use crate::trust::keys::MaintainerCard;
use crate::trust::tuf::{PublicKey, Role, RoleKeys, Root, Signed, Targets};

/// Text under construction. Writing to a `String` can't fail, so results of `writeln!` are dropped.
struct Text(String);

impl Text {
    fn line(&mut self, line: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{line}");
    }
}

/// A new network.
pub(super) fn network(id: NetworkId, root: &Root, rules: &Targets, read: &Option<Rules>) -> String {
    let mut text = Text(String::new());
    text.line(format_args!("A new network, {:?}", &*root.params.name));
    text.line(format_args!("  id                {id}"));
    let Some(Rules { policy, grants, channels }) = read else { return text.0 };
    let maintainers: Vec<&MaintainerCard> = grants.maintainers.iter().collect();
    for (index, card) in maintainers.iter().enumerate() {
        text.line(format_args!("  maintainer {}      {}", index + 1, card_words(card)));
    }
    for role in Role::ALL {
        if let Ok(keys) = root.role(role) {
            let of = |card: &MaintainerCard| match role {
                Role::Root => Some(card.root),
                Role::Targets => Some(card.targets),
                Role::Snapshot | Role::Timestamp => None,
            };
            let what = match role {
                Role::Root => "root",
                Role::Targets => "rules",
                Role::Snapshot => "snapshots",
                Role::Timestamp => "timestamps",
            };
            text.line(format_args!("  {what:<17} signed by {}", keys_words(&keys, &maintainers, of)));
        }
    }
    for (channel, keys) in channels {
        let words = keys_words(keys, &maintainers, |card| Some(card.release));
        text.line(format_args!("  releases of {channel}: signed by {words}"));
    }
    text.line(format_args!("  policy            {policy}"));
    text.line(format_args!("  founders          {}", operators(&grants.founders)));
    text.line(format_args!("  trusted           {}", operators(&grants.trusted)));
    for (channel, submitters) in &grants.submitters {
        text.line(format_args!("  submit to {channel}: {}", operators(submitters)));
    }
    text.line(format_args!("  leases last       {} s", root.params.lease_ttl_s));
    text.line(format_args!("  clocks may differ by {} s", root.params.clock_difference_s));
    let (root_until, rules_until) = (root.expires.timestamp(), rules.expires.timestamp());
    text.line(format_args!("  good until        {root_until} (root), {rules_until} (rules)"));
    unknown(&mut text, rules, grants, None);
    text.0
}

/// A change of the rules: every difference.
pub(super) fn change(previous: &Charter, rules: &Signed<Targets>, read: &Option<Rules>) -> String {
    let mut text = Text(String::new());
    let (old, new) = (previous.rules(), rules.unverified());
    text.line(format_args!("A change of the rules of network {:?}", &*previous.params().name));
    text.line(format_args!("  id                {}", previous.network()));
    text.line(format_args!("  version           {} after {}", new.version, old.version));
    let Some(Rules { policy, grants, channels }) = read else { return text.0 };
    if policy != previous.policy() {
        text.line(format_args!("  policy so far     {}", previous.policy()));
        text.line(format_args!("  policy from now   {policy}"));
    }
    let before = previous.grants();
    differences(&mut text, "founder", &before.founders, &grants.founders, OperatorId::to_string);
    differences(&mut text, "trusted operator", &before.trusted, &grants.trusted, OperatorId::to_string);
    differences(&mut text, "maintainer", &before.maintainers, &grants.maintainers, card_words);
    let none = BTreeSet::new();
    for channel in before.submitters.keys().chain(grants.submitters.keys()).collect::<BTreeSet<_>>() {
        let of = |grants: &Grants| grants.submitters.get(channel).unwrap_or(&none).clone();
        differences(&mut text, &format!("submitter to {channel}"), &of(before), &of(grants), OperatorId::to_string);
    }
    channel_differences(&mut text, previous, new, channels, grants);
    text.line(format_args!("  good until        {} (was {})", new.expires.timestamp(), old.expires.timestamp()));
    unknown(&mut text, new, grants, Some(previous));
    text.0
}

fn channel_differences(text: &mut Text, previous: &Charter, new: &Targets, channels: &BTreeMap<ChannelName, RoleKeys>, grants: &Grants) {
    let maintainers: Vec<&MaintainerCard> = grants.maintainers.iter().collect();
    let words = |keys: &RoleKeys| keys_words(keys, &maintainers, |card| Some(card.release));
    for (channel, keys) in channels {
        match previous.channel_keys(channel) {
            None => text.line(format_args!("  + channel {channel}, releases signed by {}", words(keys))),
            Some(before) if before != keys => {
                text.line(format_args!("  channel {channel}: releases so far signed by {}", words(before)));
                text.line(format_args!("  channel {channel}: releases from now signed by {}", words(keys)));
            }
            Some(_) => {}
        }
    }
    for channel in previous.channels().filter(|channel| !channels.contains_key(*channel)) {
        text.line(format_args!("  - channel {channel}"));
    }
    // Order, patterns and the like mean something to TUF clients only; that they change must still be said.
    let routes = |targets: &Targets| {
        let roles = targets.delegations.iter().flat_map(|delegations| &delegations.roles);
        roles.map(|role| (role.name.clone(), (role.paths.clone(), role.terminating))).collect::<BTreeMap<_, _>>()
    };
    let (before, after) = (routes(previous.rules()), routes(new));
    for (channel, route) in &after {
        if before.get(channel).is_some_and(|before| before != route) {
            text.line(format_args!("  channel {channel}: may sign files named {:?}", route.0));
        }
    }
}

/// What is signed beside all that has words above.
fn unknown(text: &mut Text, rules: &Targets, grants: &Grants, previous: Option<&Charter>) {
    let changed =
        |name: &str, same: bool| (previous.is_none() || !same).then(|| format!("  ! also sets {name:?}, which this version does not know"));
    let mut lines = Vec::new();
    for (name, target) in &rules.targets {
        if name != POLICY_TARGET && name != GRANTS_TARGET {
            let same = previous.is_some_and(|previous| previous.rules().targets.get(name) == Some(target));
            lines.extend(changed(name, same));
        }
    }
    for (name, value) in &rules.other {
        lines.extend(changed(name, previous.is_some_and(|previous| previous.rules().other.get(name) == Some(value))));
    }
    for (name, value) in &grants.other {
        lines.extend(changed(name, previous.is_some_and(|previous| previous.grants().other.get(name) == Some(value))));
    }
    lines.into_iter().for_each(|line| text.line(line));
}

fn differences<T: Ord>(text: &mut Text, what: &str, before: &BTreeSet<T>, after: &BTreeSet<T>, words: fn(&T) -> String) {
    for item in after.difference(before) {
        text.line(format_args!("  + {what} {}", words(item)));
    }
    for item in before.difference(after) {
        text.line(format_args!("  - {what} {}", words(item)));
    }
}

fn card_words(card: &MaintainerCard) -> String {
    let founder = match &card.founder {
        Some(operator) => format!(", operator {operator}"),
        None => String::new(),
    };
    format!("release key {}{founder}", card.release)
}

fn keys_words(keys: &RoleKeys, maintainers: &[&MaintainerCard], of: impl Fn(&MaintainerCard) -> Option<PublicKey>) -> String {
    let names: Vec<String> = (keys.keys.values())
        .map(|key| match maintainers.iter().position(|card| of(card) == Some(*key)) {
            Some(index) => format!("maintainer {}", index + 1),
            None => format!("key {key}"),
        })
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    format!("{} of {}: {}", keys.threshold, keys.keys.len(), names.join(", "))
}

fn operators(operators: &BTreeSet<OperatorId>) -> String {
    if operators.is_empty() {
        return "nobody".to_owned();
    }
    operators.iter().map(OperatorId::to_string).collect::<Vec<_>>().join(", ")
}
