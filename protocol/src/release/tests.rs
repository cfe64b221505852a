#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::keys::SecretKey;
use crate::policy::Policy;
use crate::trust::Signable;
use crate::trust::charter::{NetworkPlan, propose_network};
use crate::trust::keys::NotaryKeys;
use crate::trust::signing::Refusal;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

fn maintainer(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

fn charter(name: &str, maintainers: &[u8], threshold: u32) -> Charter {
    let operator = SecretKey::from_seed(&[101; 32]);
    let cards = maintainers.iter().map(|seed| maintainer(*seed).card(Some(operator.operator()))).collect();
    let mut plan = NetworkPlan::new(name, Policy::solo(), cards, threshold).unwrap();
    let notary = NotaryKeys::of(&operator);
    plan.snapshot.push(PublicKey::of(&notary.snapshot));
    plan.timestamp.push(PublicKey::of(&notary.timestamp));
    let proposal = propose_network(&plan, NOW).unwrap();
    let files: Vec<_> = maintainers.iter().map(|seed| proposal.sign(&maintainer(*seed)).unwrap()).collect();
    proposal.open(&files).unwrap()
}

fn targets() -> ReleaseTargets {
    let origin = Origin {
        action: ActionId([1; 32]),
        evidence: BlobHash([2; 32]),
        tree: BlobHash([3; 32]),
        path: "image/LE.img".into(),
        batch: Some(BatchId([4; 32])),
    };
    let built = ReleaseTarget { blob: BlobHash::of(b"i"), sha256: Sha256::of(b"i"), length: 1, origin: Some(origin) };
    let given = ReleaseTarget { origin: None, ..built.clone() };
    [("LE-RPi5.img.gz".parse().unwrap(), built), ("NOTES.txt".parse().unwrap(), given)].into()
}

fn draft(charter: &Charter, channel: &str, version: u64) -> ReleaseDraft {
    propose(charter.network(), channel, version, &targets(), NOW, NOW + WEEK).unwrap()
}

#[test]
fn a_release_goes_from_proposal_by_carried_signatures_to_every_user() {
    let charter = charter("oak", &[1, 2, 3], 2);
    let bytes = draft(&charter, "nightly", 1).to_bytes();
    let files: Vec<SignatureFile> = [3, 1]
        .map(|seed| Signable::parse(&bytes).unwrap().sign(&maintainer(seed)).unwrap().to_bytes())
        .iter()
        .map(|file| SignatureFile::parse(file).unwrap())
        .collect();
    let release = ReleaseDraft::parse(&bytes).unwrap().assemble(&files, &charter).unwrap();
    let received = Release::verify(&release.to_bytes(), &charter, NOW).unwrap();
    assert_eq!(received, release);
    assert_eq!(received.targets(), &targets());
    assert_eq!(received.target("NOTES.txt"), targets().get(&"NOTES.txt".parse::<TargetName>().unwrap()));
    assert_eq!(received.target("nothing"), None);
    let signers: BTreeSet<_> = received.signed_by(&charter).map(|(_, card)| card.unwrap().release).collect();
    assert_eq!(signers, BTreeSet::from([1, 3].map(|seed| maintainer(seed).card(None).release)));
}

#[test]
fn equal_signers_give_equal_bytes() {
    let charter = charter("oak", &[1, 2], 2);
    let draft = draft(&charter, "nightly", 1);
    let (a, b) = (draft.sign(&maintainer(1)), draft.sign(&maintainer(2)));
    let one = draft.assemble(&[a.clone(), b.clone()], &charter).unwrap();
    assert_eq!(one.to_bytes(), draft.assemble(&[b, a.clone(), a], &charter).unwrap().to_bytes());
}

#[test]
fn missing_foreign_and_repeated_signatures_are_named() {
    let charter = charter("oak", &[1, 2, 3], 2);
    let draft = draft(&charter, "nightly", 1);
    let refused = |files: &[SignatureFile]| match draft.assemble(files, &charter).unwrap_err() {
        ReleaseError::Signatures(GatherError::Missing(missing)) => missing.into_iter().next().unwrap(),
        error => panic!("{error}"),
    };
    assert_eq!((refused(&[]).have, refused(&[]).need), (0, 2));
    let own = draft.sign(&maintainer(1));
    assert_eq!(refused(&[own.clone(), own.clone()]).have, 1);
    let foreign = refused(&[own.clone(), draft.sign(&maintainer(9))]);
    assert_eq!((foreign.have, foreign.refused[0].why), (1, Refusal::UnknownKey));
    let other = propose(charter.network(), "nightly", 2, &targets(), NOW, NOW + WEEK).unwrap().sign(&maintainer(2));
    let error = draft.assemble(&[own, other], &charter).unwrap_err();
    assert!(error.to_string().contains("signature file 2 is for another document"), "{error}");
}

/// Length, both hashes, action, evidence, name, version, channel and network: nothing can be changed.
#[test]
fn tampering_with_any_field_is_noticed() {
    let charter = charter("oak", &[1], 1);
    let draft = draft(&charter, "nightly", 1);
    let release = draft.assemble(&[draft.sign(&maintainer(1))], &charter).unwrap();
    let text = String::from_utf8(release.to_bytes()).unwrap();
    let swaps = [
        ("\"length\": 1", "\"length\": 2"),
        (&*Sha256::of(b"i").to_string(), &*Sha256::of(b"j").to_string()),
        (&*BlobHash::of(b"i").to_string(), &*BlobHash::of(b"j").to_string()),
        (&*ActionId([1; 32]).to_string(), &*ActionId([9; 32]).to_string()),
        (&*BlobHash([2; 32]).to_string(), &*BlobHash([9; 32]).to_string()),
        (&*BlobHash([3; 32]).to_string(), &*BlobHash([9; 32]).to_string()),
        (&*BatchId([4; 32]).to_string(), &*BatchId([9; 32]).to_string()),
        ("image/LE.img", "image/LF.img"),
        ("nightly.LE-RPi5", "nightly.LE-RPi4"),
        ("\"version\": 1", "\"version\": 2"),
        ("\"channel\": \"nightly\"", "\"channel\": \"stable\""),
        ("2027", "2037"),
    ];
    for (from, to) in swaps {
        let tampered = text.replace(from, to);
        assert_ne!(tampered, text, "{from}");
        assert!(Release::verify(tampered.as_bytes(), &charter, NOW).is_err(), "{from}");
    }
}

/// Maintainers use one key in two networks and for all channels: each signature is good for one place.
#[test]
fn a_release_of_another_network_or_channel_is_refused_though_the_same_key_signed_it() {
    let (oak, elm) = (charter("oak", &[1], 1), charter("elm", &[1], 1));
    let draft = draft(&oak, "nightly", 1);
    let release = draft.assemble(&[draft.sign(&maintainer(1))], &oak).unwrap();
    let error = Release::verify(&release.to_bytes(), &elm, NOW).unwrap_err();
    assert_eq!(error, ReleaseError::OtherNetwork { found: oak.network(), wanted: elm.network() });
    let renamed = String::from_utf8(release.to_bytes()).unwrap().replace("nightly", "stable");
    assert!(matches!(Release::verify(renamed.as_bytes(), &oak, NOW), Err(ReleaseError::Metadata(TufError::Threshold(_)))));
}

#[test]
fn a_release_of_an_unknown_channel_is_refused() {
    let charter = charter("oak", &[1], 1);
    let draft = draft(&charter, "beta", 1);
    let error = draft.assemble(&[draft.sign(&maintainer(1))], &charter).unwrap_err();
    assert_eq!(error, ReleaseError::UnknownChannel("beta".into()));
}

/// The rules of a network are targets metadata as well, signed by the same people.
#[test]
fn the_rules_of_a_network_are_no_release() {
    let charter = charter("oak", &[1], 1);
    let error = Release::verify(charter.parts().targets.as_bytes(), &charter, NOW).unwrap_err();
    assert_eq!(error, ReleaseError::NoChannel);
}

#[test]
fn an_expired_release_is_told_from_a_bad_one() {
    let charter = charter("oak", &[1], 1);
    let draft = draft(&charter, "nightly", 3);
    let release = draft.assemble(&[draft.sign(&maintainer(1))], &charter).unwrap();
    let late = NOW + WEEK;
    let error = Release::verify(&release.to_bytes(), &charter, late).unwrap_err();
    assert!(matches!(error, ReleaseError::Expired { version: 3, now, .. } if now == late), "{error}");
    assert!(Release::reload(&release.to_bytes(), &charter).is_ok());
}

#[test]
fn the_newest_version_of_a_channel_wins() {
    let charter = charter("oak", &[1], 1);
    let release = |channel: &str, version| {
        let draft = draft(&charter, channel, version);
        draft.assemble(&[draft.sign(&maintainer(1))], &charter).unwrap()
    };
    let (first, second) = (release("nightly", 1), release("nightly", 2));
    assert!(second.supersedes(&first) && !first.supersedes(&second) && !first.supersedes(&first));
    assert!(!release("stable", 9).supersedes(&first));
}

#[test]
fn releases_that_nobody_should_sign_cannot_be_proposed() {
    let network = NetworkId([1; 32]);
    let propose = |channel, version, targets: &ReleaseTargets| propose(network, channel, version, targets, NOW, NOW + WEEK);
    assert_eq!(propose("nightly", 1, &ReleaseTargets::new()), Err(ReleaseError::Empty));
    assert!(matches!(propose("root", 1, &targets()), Err(ReleaseError::Name(_))));
    assert!(matches!(propose("nightly", 0, &targets()), Err(ReleaseError::Metadata(_))));
    assert!(propose("nightly", 1, &targets()).is_ok());
    let late = super::propose(network, "nightly", 1, &targets(), NOW, NOW);
    assert!(matches!(late, Err(ReleaseError::Expired { .. })));
}

/// Half of an origin would be a file without evidence that looks as if it had some.
#[test]
fn drafts_with_incomplete_or_foreign_files_are_refused() {
    let bytes = propose(NetworkId([1; 32]), "nightly", 1, &targets(), NOW, NOW + WEEK).unwrap().to_bytes();
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut file: Value = serde_json::from_slice(&bytes).unwrap();
        change(&mut file);
        ReleaseDraft::parse(file.to_string().as_bytes()).unwrap_err()
    };
    let image = "nightly.LE-RPi5.img.gz";
    for field in ["evidence", "action", "tree", "path", "blake3"] {
        let error = refused(&|f| drop(f["signed"]["targets"][image]["custom"].as_object_mut().unwrap().remove(field)));
        assert!(matches!(error, ReleaseError::Target { .. }), "{error}");
    }
    for name in ["stable.x", "nightly", "nightly.", "nightly.../x"] {
        refused(&|f| f["signed"]["targets"][name] = f["signed"]["targets"][image].clone());
    }
    assert!(matches!(refused(&|f| f["barnraiser-release"] = json!(2)), ReleaseError::Newer(2)));
    let delegating = refused(&|f| f["signed"]["delegations"] = json!({ "keys": {}, "roles": [] }));
    assert!(matches!(delegating, ReleaseError::Metadata(_)));
}

#[test]
fn a_draft_says_in_words_what_will_be_signed() {
    let text = draft(&charter("oak", &[1], 1), "nightly", 7).describe();
    for words in [
        "Release 7 of channel nightly",
        "LE-RPi5.img.gz  1 bytes",
        &BlobHash::of(b"i").to_string(),
        &Sha256::of(b"i").to_string(),
        &format!("action {}, as \"image/LE.img\"", ActionId([1; 32])),
        "nobody here: there is no evidence for it",
    ] {
        assert!(text.contains(words), "{words:?} in:\n{text}");
    }
}

proptest! {
    #[test]
    fn damaged_releases_are_refused_or_unchanged(at in any::<prop::sample::Index>(), byte: u8) {
        let charter = charter("oak", &[1], 1);
        let draft = draft(&charter, "nightly", 1);
        let release = draft.assemble(&[draft.sign(&maintainer(1))], &charter).unwrap();
        let mut bytes = release.to_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(found) = Release::verify(&bytes, &charter, NOW) {
            prop_assert_eq!(found.id(), release.id());
        }
        let mut bytes = draft.to_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = Signable::parse(&bytes).map(|signable| signable.describe());
    }
}
