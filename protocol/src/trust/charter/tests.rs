#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::propose::{ROOT_LIFE, RULES_LIFE};
use super::*;
use crate::keys::SecretKey;
use crate::trust::keys::{NotaryKeys, SigningKey};
use crate::trust::signing::{GatherError, Refusal};
use crate::trust::tuf::PublicKey;
use crate::trust::{Signable, SignableError, SignatureFile};

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn maintainer(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

fn operator(seed: u8) -> OperatorId {
    SecretKey::from_seed(&[seed; 32]).operator()
}

fn plan(maintainers: &[u8], threshold: u32) -> NetworkPlan {
    let cards = maintainers.iter().map(|seed| maintainer(*seed).card(Some(operator(100 + seed)))).collect();
    let notary = NotaryKeys::of(&SecretKey::from_seed(&[101; 32]));
    let mut plan = NetworkPlan::new("oak", Policy::small(), cards, threshold).unwrap();
    plan.snapshot.push(PublicKey::of(&notary.snapshot));
    plan.timestamp.push(PublicKey::of(&notary.timestamp));
    plan
}

fn proposal(maintainers: &[u8], threshold: u32) -> Proposal {
    propose_network(&plan(maintainers, threshold), NOW).unwrap()
}

fn signatures(proposal: &Proposal, signers: &[u8]) -> Vec<SignatureFile> {
    signers.iter().map(|seed| proposal.sign(&maintainer(*seed)).unwrap()).collect()
}

fn charter(maintainers: &[u8], threshold: u32) -> Charter {
    let proposal = proposal(maintainers, threshold);
    proposal.open(&signatures(&proposal, &maintainers[..threshold as usize])).unwrap()
}

fn changed(charter: &Charter, change: Change, signers: &[u8]) -> Charter {
    let proposal = propose_change(charter, &[change], NOW).unwrap();
    proposal.open(&signatures(&proposal, signers)).unwrap()
}

#[test]
fn one_maintainer_alone_opens_a_network_at_once() {
    let proposal = proposal(&[1], 1);
    let charter = proposal.open(&signatures(&proposal, &[1])).unwrap();
    assert_eq!(charter.network(), proposal.network());
    assert_eq!(charter.network().0, *blake3::hash(charter.root().document().canonical()).as_bytes());
    assert_eq!(charter.channels().map(ToString::to_string).collect::<Vec<_>>(), ["nightly", "stable"]);
    assert_eq!((charter.params().lease_ttl_s, charter.params().clock_difference_s), (180, 60));
    assert!(charter.is_founder(&operator(101)) && charter.is_trusted(&operator(101)));
    assert!(charter.may_submit(&operator(101), "nightly") && !charter.may_submit(&operator(101), "beta"));
    assert!(!charter.may_submit(&operator(50), "nightly"));
    assert_eq!(charter.channel_keys("stable").unwrap().threshold, 1);
    assert_eq!(charter.policy(), &Policy::small());
}

#[test]
fn two_of_three_open_a_network_with_carried_signatures() {
    let bytes = proposal(&[1, 2, 3], 2).to_bytes();
    // Each signs on a machine of its own.
    let carried: Vec<Vec<u8>> = [1, 3].map(|seed| Signable::parse(&bytes).unwrap().sign(&maintainer(seed)).unwrap().to_bytes()).into();
    let files: Vec<SignatureFile> = carried.iter().map(|file| SignatureFile::parse(file).unwrap()).collect();
    let proposal = Proposal::parse(&bytes).unwrap();
    let charter = proposal.open(&files).unwrap();
    assert_eq!(Charter::verify(proposal.network(), charter.parts().clone(), NOW).unwrap(), charter);
    let mut merged = files[0].clone();
    merged.merge(&files[1]).unwrap();
    assert_eq!(proposal.open(&[merged]).unwrap().parts(), charter.parts());
}

#[test]
fn missing_signatures_are_counted_for_each_role() {
    let proposal = proposal(&[1, 2, 3], 2);
    let ProposalError::Signatures(GatherError::Missing(missing)) = proposal.open(&signatures(&proposal, &[2])).unwrap_err() else {
        panic!("signatures are missing")
    };
    let counts: Vec<_> = missing.iter().map(|m| (m.role.as_str(), m.have, m.need)).collect();
    assert_eq!(counts, [("root", 1, 2), ("targets", 1, 2)]);
    let twice = proposal.open(&signatures(&proposal, &[2, 2])).unwrap_err();
    assert!(twice.to_string().contains("1 of 2 signatures, 1 missing"), "{twice}");
}

#[test]
fn a_stranger_cannot_sign_and_its_signature_does_not_count() {
    let proposal = proposal(&[1, 2], 2);
    assert!(matches!(proposal.sign(&maintainer(9)), Err(SignError::NotAmongKeys(_))));
    // A stranger who writes the file by hand.
    let mut text = String::from_utf8(proposal.sign(&maintainer(2)).unwrap().to_bytes()).unwrap();
    for role in crate::trust::keys::SigningRole::ALL {
        let id = |seed| PublicKey::of(maintainer(seed).role(role)).id().to_string();
        text = text.replace(&id(2), &id(9));
    }
    let forged = SignatureFile::parse(text.as_bytes()).unwrap();
    let error = proposal.open(&[proposal.sign(&maintainer(1)).unwrap(), forged]).unwrap_err();
    let ProposalError::Signatures(GatherError::Missing(missing)) = error else { panic!("one is missing") };
    assert!(missing.iter().all(|m| m.have == 1 && m.refused.len() == 1 && m.refused[0].why == Refusal::UnknownKey));
}

#[test]
fn a_signature_for_another_document_is_named_as_such() {
    let (ours, other) = (proposal(&[1, 2], 1), proposal(&[1, 3], 1));
    let files = [ours.sign(&maintainer(2)).unwrap(), other.sign(&maintainer(1)).unwrap()];
    let error = ours.open(&files).unwrap_err();
    assert!(matches!(error, ProposalError::Signatures(GatherError::OtherDocument { index: 1, .. })), "{error}");
    assert!(files[0].clone().merge(&files[1]).is_err());
    // The same signatures relabelled: bad ones.
    let text = String::from_utf8(files[1].to_bytes()).unwrap().replace(&other.id().to_string(), &ours.id().to_string());
    let error = ours.open(&[SignatureFile::parse(text.as_bytes()).unwrap()]).unwrap_err();
    assert!(error.to_string().contains("does not fit the document"), "{error}");
}

/// A key that signs as root may not stand in for the same maintainer's rules key.
#[test]
fn roles_do_not_stand_in_for_each_other() {
    let proposal = proposal(&[1], 1);
    let file = proposal.sign(&maintainer(1)).unwrap();
    let text = String::from_utf8(file.to_bytes()).unwrap();
    let swapped = text.replace("\"root\"", "\"x\"").replace("\"targets\"", "\"root\"").replace("\"x\"", "\"targets\"");
    assert!(proposal.open(&[SignatureFile::parse(swapped.as_bytes()).unwrap()]).is_err());
}

#[test]
fn plans_that_cannot_work_are_refused() {
    let refused = |change: fn(&mut NetworkPlan)| {
        let mut plan = plan(&[1, 2], 1);
        change(&mut plan);
        propose_network(&plan, NOW).unwrap_err()
    };
    assert_eq!(refused(|p| p.maintainers.clear()), PlanError::NoMaintainers);
    assert_eq!(refused(|p| p.maintainers.push(p.maintainers[0])), PlanError::SameMaintainer);
    assert_eq!(refused(|p| p.threshold = 0), PlanError::Threshold { threshold: 0, maintainers: 2 });
    assert_eq!(refused(|p| p.threshold = 3), PlanError::Threshold { threshold: 3, maintainers: 2 });
    assert_eq!(refused(|p| p.maintainers.iter_mut().for_each(|c| c.founder = None)), PlanError::NoFounders);
    assert_eq!(refused(|p| p.snapshot.clear()), PlanError::NoNotary("snapshot"));
    assert!(matches!(refused(|p| p.channels.push(p.channels[0].clone())), PlanError::Metadata(_)));
    assert!(matches!(refused(|p| p.policy.quorum = 0), PlanError::Charter(_)));
    assert!(NetworkPlan::new("a/b", Policy::solo(), Vec::new(), 1).is_err());
}

#[test]
fn a_charter_of_another_network_is_refused() {
    let (ours, other) = (charter(&[1], 1), charter(&[2], 1));
    let error = Charter::verify(ours.network(), other.parts().clone(), NOW).unwrap_err();
    assert_eq!(error, CharterError::OtherNetwork { found: other.network(), wanted: ours.network() });
}

/// The same maintainer in two networks: what was signed for one is worthless in the other.
#[test]
fn rules_of_another_network_are_refused_though_the_same_key_signed_them() {
    let ours = charter(&[1], 1);
    let mut plan = plan(&[1], 1);
    plan.params.name = "elm".parse().unwrap();
    let proposal = propose_network(&plan, NOW).unwrap();
    let elm = proposal.open(&signatures(&proposal, &[1])).unwrap();
    let mixed = CharterParts { roots: ours.parts().roots.clone(), ..elm.parts().clone() };
    let error = Charter::verify(ours.network(), mixed, NOW).unwrap_err();
    assert_eq!(error, CharterError::ForeignRules { found: elm.network(), wanted: ours.network() });
}

#[test]
fn tampered_policy_and_grants_are_refused() {
    let ours = charter(&[1], 1);
    let mut parts = ours.parts().clone();
    parts.policy = parts.policy.replace("\"quorum\": 2", "\"quorum\": 1");
    assert_ne!(&parts, ours.parts());
    assert_eq!(Charter::verify(ours.network(), parts, NOW), Err(CharterError::Mismatch(POLICY_TARGET)));
    let mut parts = ours.parts().clone();
    parts.grants = parts.grants.replace(&operator(101).to_string(), &operator(50).to_string());
    assert_ne!(&parts, ours.parts());
    assert_eq!(Charter::verify(ours.network(), parts, NOW), Err(CharterError::Mismatch(GRANTS_TARGET)));
    let mut parts = ours.parts().clone();
    parts.targets = parts.targets.replace("\"threshold\": 1", "\"threshold\": 2");
    assert!(Charter::verify(ours.network(), parts, NOW).is_err());
}

#[test]
fn an_expired_charter_is_refused_but_can_be_reloaded_and_renewed() {
    let ours = charter(&[1], 1);
    let late = NOW + RULES_LIFE;
    let error = Charter::verify(ours.network(), ours.parts().clone(), late).unwrap_err();
    assert!(matches!(error, CharterError::Rules(TufError::Expired { .. })), "{error}");
    assert_eq!(Charter::reload(ours.network(), ours.parts().clone()).unwrap(), ours);
    let renewal = propose_change(&ours, &[Change::Renew], late).unwrap();
    let renewed = renewal.open(&signatures(&renewal, &[1])).unwrap();
    assert_eq!(ours.update(renewed.parts().clone(), late).unwrap(), renewed);
    let error = Charter::verify(ours.network(), renewed.parts().clone(), NOW + ROOT_LIFE).unwrap_err();
    assert!(matches!(error, CharterError::Root { number: 1, error: TufError::Expired { .. } }), "{error}");
}

#[test]
fn changes_count_up_and_never_roll_back() {
    let first = charter(&[1, 2, 3], 2);
    let second = changed(&first, Change::Trust(operator(50)), &[1, 2]);
    assert_eq!(second.version(), 2);
    assert!(second.is_trusted(&operator(50)) && !first.is_trusted(&operator(50)));
    assert_eq!(first.update(second.parts().clone(), NOW).unwrap(), second);
    let back = second.update(first.parts().clone(), NOW).unwrap_err();
    assert_eq!(back, CharterError::NotNewer { ours: 2, found: 1 });
    assert!(matches!(second.update(second.parts().clone(), NOW), Err(CharterError::NotNewer { .. })));
}

/// Two maintainers change something at once: whatever a node hears first, all end with the same charter.
#[test]
fn two_charters_of_one_version_end_in_the_same_for_all() {
    let first = charter(&[1], 1);
    let a = changed(&first, Change::Trust(operator(50)), &[1]);
    let b = changed(&first, Change::Trust(operator(51)), &[1]);
    let end = |one: &Charter, other: &Charter| one.update(other.parts().clone(), NOW).unwrap_or_else(|_| one.clone());
    assert_eq!(end(&a, &b), end(&b, &a));
}

#[test]
fn each_change_does_what_it_says_and_is_shown() {
    let mut charter = charter(&[1], 1);
    let nightly = ChannelName::try_from("nightly").unwrap();
    let beta = ChannelName::try_from("beta").unwrap();
    let op = operator(50);
    let steps = [
        (Change::Trust(op), "+ trusted operator"),
        (Change::Untrust(op), "- trusted operator"),
        (Change::Grant { operator: op, channel: nightly.clone() }, "+ submitter to nightly"),
        (Change::Revoke { operator: op, channel: nightly.clone() }, "- submitter to nightly"),
        (Change::AddChannel(beta.clone()), "+ channel beta, releases signed by 1 of 1: maintainer 1"),
        (Change::Grant { operator: op, channel: beta }, "+ submitter to beta"),
        (Change::Policy(Policy::solo()), "policy from now"),
        (Change::Founder(op), "+ founder"),
        (Change::Renew, "good until"),
    ];
    for (number, (change, words)) in steps.into_iter().enumerate() {
        let proposal = propose_change(&charter, &[change], NOW).unwrap();
        let parsed = Proposal::parse(&proposal.to_bytes()).unwrap();
        assert_eq!(parsed, proposal);
        let text = parsed.describe();
        assert!(text.contains(words), "{words:?} in:\n{text}");
        assert!(text.contains(&format!("{} after {}", number + 2, number + 1)) && text.contains(&charter.network().to_string()));
        let next = proposal.open(&signatures(&proposal, &[1])).unwrap();
        charter = charter.update(next.parts().clone(), NOW).unwrap();
    }
    assert!(charter.is_founder(&op) && charter.is_trusted(&op) && charter.may_submit(&op, "nightly"));
    assert_eq!(charter.policy(), &Policy::solo());
    assert!(charter.channel_keys("beta").is_some());
}

#[test]
fn a_change_that_changes_nothing_or_an_unknown_channel_is_refused() {
    let ours = charter(&[1], 1);
    let refused = |change| propose_change(&ours, &[change], NOW).unwrap_err();
    assert_eq!(refused(Change::Trust(operator(101))), PlanError::NothingChanges);
    assert_eq!(refused(Change::Policy(Policy::small())), PlanError::NothingChanges);
    let beta = ChannelName::try_from("beta").unwrap();
    assert_eq!(refused(Change::Grant { operator: operator(50), channel: beta }), PlanError::NoChannel("beta".into()));
    let stable = ChannelName::try_from("stable").unwrap();
    assert!(matches!(refused(Change::AddChannel(stable)), PlanError::Metadata(_)));
}

#[test]
fn one_of_two_needed_maintainers_cannot_change_the_rules() {
    let ours = charter(&[1, 2, 3], 2);
    let proposal = propose_change(&ours, &[Change::Trust(operator(50))], NOW).unwrap();
    assert_eq!(proposal.threshold(), (2, 3));
    assert!(proposal.open(&signatures(&proposal, &[1])).is_err());
    // Nor by carrying the old signatures over.
    let unsigned = CharterParts { targets: ours.parts().targets.replace("\"version\": 1", "\"version\": 2"), ..ours.parts().clone() };
    assert!(ours.update(unsigned, NOW).is_err());
}

#[test]
fn proposals_say_in_words_what_will_be_signed() {
    let text = proposal(&[1, 2, 3], 2).describe();
    for words in [
        "A new network, \"oak\"",
        "rules             signed by 2 of 3: maintainer 1, maintainer 2, maintainer 3",
        "releases of stable: signed by 2 of 3",
        "snapshots         signed by 1 of 1: key ",
        "\"small\": 2 equal results",
        "leases last       180 s",
        &operator(102).to_string(),
        &proposal(&[1, 2, 3], 2).network().to_string(),
    ] {
        assert!(text.contains(words), "{words:?} in:\n{text}");
    }
}

/// A proposer who slips a key of its own into the root is seen: that key belongs to no maintainer.
#[test]
fn a_key_of_nobody_is_shown_as_such() {
    let proposal = proposal(&[1, 2], 1);
    let mut file: serde_json::Value = serde_json::from_slice(&proposal.to_bytes()).unwrap();
    let stranger = PublicKey::of(maintainer(9).role(crate::trust::keys::SigningRole::Release));
    let keys = &mut file["targets"]["delegations"];
    keys["keys"][stranger.id().to_string()] =
        json!({ "keytype": "ed25519", "scheme": "ed25519", "keyval": { "public": stranger.to_string() } });
    keys["roles"][1]["keyids"].as_array_mut().unwrap().push(json!(stranger.id()));
    file["targets"]["later"] = json!(1);
    let text = Proposal::parse(file.to_string().as_bytes()).unwrap().describe();
    assert!(text.contains(&format!("releases of stable: signed by 1 of 3: key {stranger}")), "{text}");
    assert!(text.contains("! also sets \"later\""), "{text}");
}

/// A proposal whose words and files don't fit what is signed must fail before somebody signs it.
#[test]
fn inconsistent_proposals_are_refused() {
    let proposal = proposal(&[1], 1);
    let refused = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut file: serde_json::Value = serde_json::from_slice(&proposal.to_bytes()).unwrap();
        change(&mut file);
        Proposal::parse(file.to_string().as_bytes()).unwrap_err()
    };
    let policy = refused(&|f| f["policy"] = json!(f["policy"].as_str().unwrap().replace("small", "large")));
    assert!(matches!(policy, ProposalError::Charter(CharterError::Mismatch(POLICY_TARGET))), "{policy}");
    let root = refused(&|f| f["root"]["x-barnraiser"]["name"] = json!("elm"));
    assert!(matches!(root, ProposalError::Charter(CharterError::ForeignRules { .. })), "{root}");
    assert!(matches!(refused(&|f| drop(f.as_object_mut().unwrap().remove("root"))), ProposalError::Kind));
    assert!(matches!(refused(&|f| f["barnraiser-proposal"] = json!(2)), ProposalError::Newer(2)));
    assert!(matches!(refused(&|f| f["what"] = json!("x")), ProposalError::NotOne(_)));
}

/// A change that claims to follow a charter must follow one that is signed.
#[test]
fn a_change_of_a_forged_charter_is_refused() {
    let ours = charter(&[1], 1);
    let bytes = propose_change(&ours, &[Change::Trust(operator(50))], NOW).unwrap().to_bytes();
    let mut file: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let targets = file["previous"]["targets"].as_str().unwrap().replace("\"version\": 1", "\"version\": 0");
    file["previous"]["targets"] = json!(targets);
    assert!(matches!(Proposal::parse(file.to_string().as_bytes()), Err(ProposalError::Charter(_))));
    let mut file: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    file["targets"]["version"] = json!(1);
    assert!(matches!(Proposal::parse(file.to_string().as_bytes()), Err(ProposalError::Version { before: 1, found: 1 })));
}

#[test]
fn what_a_later_version_grants_survives_a_change_by_this_one() {
    let mut plan = plan(&[1], 1);
    plan.founders.insert(operator(1));
    let proposal = propose_network(&plan, NOW).unwrap();
    let first = proposal.open(&signatures(&proposal, &[1])).unwrap();
    // As a later version would write it.
    let mut grants: serde_json::Value = serde_json::from_str(&first.parts().grants).unwrap();
    grants["environments"] = json!({ "debian-c": ["x"] });
    let grants = serde_json::to_string(&grants).unwrap();
    let mut rules = Targets::clone(first.rules());
    rules.version = 2;
    rules.other.insert("later".into(), json!(7));
    rules.targets.insert(GRANTS_TARGET.into(), crate::trust::tuf::Target::of(grants.as_bytes()));
    let rules = Signed::unsigned(&rules).unwrap();
    let proposal = Proposal::new(None, Some(first.clone()), rules, first.parts().policy.clone(), grants).unwrap();
    assert!(proposal.describe().contains("environments") && proposal.describe().contains("later"));
    let second = proposal.open(&signatures(&proposal, &[1])).unwrap();
    let third = changed(&second, Change::Trust(operator(50)), &[1]);
    assert_eq!(third.grants().other["environments"], json!({ "debian-c": ["x"] }));
    assert_eq!(third.rules().other["later"], json!(7));
}

#[test]
fn a_rotated_root_is_followed_and_a_second_one_of_the_same_version_is_refused() {
    use crate::trust::tuf::{Expiry, KeySignature, Root};
    let first = charter(&[1, 2], 1);
    let rotate = |expires: u64, signers: &[u8]| {
        let mut root = Root::clone(first.root());
        root.version = 2;
        root.expires = Expiry::at(Timestamp(expires));
        root.set_role(Role::Root, [maintainer(3).card(None).root], 1);
        let root = Signed::unsigned(&root).unwrap();
        let key = |seed| maintainer(seed).role(crate::trust::keys::SigningRole::Root).clone();
        let signatures = signers.iter().map(|seed| KeySignature::make(&key(*seed), root.canonical())).collect();
        let mut parts = first.parts().clone();
        parts.roots.push(String::from_utf8(root.with_signatures(signatures).to_bytes()).unwrap());
        parts
    };
    let far = NOW.0 * 2;
    let second = first.update(rotate(far, &[1, 3]), NOW).unwrap();
    assert_eq!((second.root().version, second.network()), (2, first.network()));
    assert!(first.update(rotate(far, &[1]), NOW).is_err());
    assert!(first.update(rotate(far, &[3]), NOW).is_err());
    assert!(matches!(second.update(first.parts().clone(), NOW), Err(CharterError::NotNewer { .. })));
    let fork = second.update(rotate(far + 5_000, &[1, 3]), NOW).unwrap_err();
    assert_eq!(fork, CharterError::ForkedRoot { number: 2 });
}

#[test]
fn bundles_survive_the_wire_and_are_bounded() {
    let ours = charter(&[1, 2, 3], 2);
    let bytes = ours.parts().to_bundle().unwrap();
    assert_eq!(&CharterParts::from_bundle(&bytes).unwrap(), ours.parts());
    assert!(bytes.len() < 16 << 10, "{}", bytes.len());
    for end in 0..bytes.len() {
        assert!(CharterParts::from_bundle(&bytes[..end]).is_err());
    }
    assert!(CharterParts::from_bundle(&vec![0; BUNDLE_BYTES_MAX + 1]).is_err());
    let mut parts = ours.parts().clone();
    parts.roots = vec![parts.roots[0].clone(); ROOTS_MAX + 1];
    assert_eq!(Charter::verify(ours.network(), parts, NOW), Err(CharterError::RootCount(ROOTS_MAX + 1)));
    let mut parts = ours.parts().clone();
    parts.grants = " ".repeat(BUNDLE_BYTES_MAX);
    assert!(matches!(Charter::verify(ours.network(), parts, NOW), Err(CharterError::Bundle(_))));
}

/// Some hundreds of maintainers, founders and submitters fit; far more are refused when they are proposed.
#[test]
fn a_change_that_would_make_the_charter_too_large_is_refused() {
    let ours = charter(&[1], 1);
    let trust = |count: u32| {
        let ids = (0..count).map(|n| OperatorId(*blake3::hash(&n.to_le_bytes()).as_bytes()));
        propose_change(&ours, &ids.map(Change::Trust).collect::<Vec<_>>(), NOW)
    };
    assert!(trust(1_000).is_ok());
    assert!(matches!(trust(5_000), Err(PlanError::Proposal(_))));
}

#[test]
fn other_files_are_told_from_what_can_be_signed() {
    let ours = proposal(&[1], 1);
    let signature = ours.sign(&maintainer(1)).unwrap();
    assert_eq!(Signable::parse(&signature.to_bytes()), Err(SignableError::Signature));
    assert_eq!(Signable::parse(b"{}"), Err(SignableError::Unknown));
    assert!(matches!(Signable::parse(maintainer(1).to_file().as_bytes()), Err(SignableError::Json(_))));
    assert!(SignatureFile::parse(&ours.to_bytes()).is_err());
    let newer = String::from_utf8(signature.to_bytes()).unwrap().replace("-signature\": 1", "-signature\": 9");
    assert!(SignatureFile::parse(newer.as_bytes()).unwrap_err().to_string().contains("format 9"));
    assert!(matches!(Signable::parse(&ours.to_bytes()), Ok(Signable::Proposal(_))));
}

#[test]
fn the_signers_of_a_release_are_known_by_their_cards() {
    let ours = charter(&[1, 2], 1);
    let card = maintainer(2).card(Some(operator(102)));
    assert_eq!(ours.grants().maintainer_of(&card.release), Some(&card));
    assert_eq!(ours.grants().maintainers.iter().map(|card| card.founder).collect::<BTreeSet<_>>().len(), 2);
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = CharterParts::from_bundle(&bytes);
        let _ = Signable::parse(&bytes);
        let _ = SignatureFile::parse(&bytes);
    }

    /// Any damage to a proposal is refused or leaves the same to be signed.
    #[test]
    fn damaged_proposals_never_panic(at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = proposal(&[1], 1).to_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(signable) = Signable::parse(&bytes) {
            let _ = (signable.describe(), signable.sign(&maintainer(1)));
        }
    }

    #[test]
    fn damaged_bundles_never_verify_as_another_charter(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let ours = charter(&[1], 1);
        let mut bytes = ours.parts().to_bundle().unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(found) = CharterParts::from_bundle(&bytes).map_err(CharterError::from).and_then(|p| Charter::verify(ours.network(), p, NOW)) {
            prop_assert_eq!(found.rules().document().hash(), ours.rules().document().hash());
        }
    }
}
