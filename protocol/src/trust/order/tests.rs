#![allow(clippy::unwrap_used)]

use super::*;
use crate::trust::Signable;

const NETWORK: NetworkId = NetworkId([1; 32]);

fn maintainer(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

/// So many of maintainers 1, 2 and 3 must sign.
fn rules(threshold: u32) -> RoleKeys {
    let keys = (1..=3).map(|n| PublicKey::of(maintainer(n).role(SigningRole::Targets)));
    RoleKeys { threshold, keys: keys.map(|key| (key.id(), key)).collect() }
}

fn ban() -> OrderDraft {
    OrderDraft::new(&Order::ban(NETWORK, OperatorId([7; 32]), Timestamp(5), "lies")).unwrap()
}

/// Signed by these maintainers, with nobody asking whether that is enough.
fn signed(draft: &OrderDraft, by: &[u8]) -> SignedOrder {
    let files: Vec<SignatureFile> = by.iter().map(|n| draft.sign(&maintainer(*n))).collect();
    let keys = by.iter().map(|n| PublicKey::of(maintainer(*n).role(SigningRole::Targets)));
    let all = RoleKeys { threshold: 1, keys: keys.map(|key| (key.id(), key)).collect() };
    draft.gather(&files, &all).unwrap()
}

#[test]
fn order_counts_with_as_many_maintainers_as_a_change_of_the_rules() {
    let ban = ban();
    assert!(!signed(&ban, &[1]).is_signed(&rules(2)));
    assert!(signed(&ban, &[1, 3]).is_signed(&rules(2)));
    assert!(!signed(&ban, &[1, 9]).is_signed(&rules(2)), "9 is no maintainer");
    assert!(!signed(&ban, &[1]).is_signed(&RoleKeys { threshold: 0, ..RoleKeys::nobody() }), "nobody's signature is none");
    let error = ban.gather(&[ban.sign(&maintainer(1))], &rules(2)).unwrap_err();
    assert!(error.to_string().contains("1 of 2 signatures, 1 missing"), "{error}");
}

#[test]
fn largest_order_holds_fourteen_signatures() {
    let because = |reason: &str| Order::pardon(NETWORK, OperatorId([7; 32]), BlobHash([8; 32]), Timestamp::MAX, &reason.repeat(256));
    for (reason, most) in [("r", 14), ("\"", 12)] {
        let by: Vec<u8> = (1..=most).collect();
        let order = signed(&OrderDraft::new(&because(reason)).unwrap(), &by);
        assert_eq!(order.check(NETWORK, Verb::Pardon), Ok(()));
    }
    assert!(matches!(OrderDraft::new(&because("\n")), Err(OrderError::Form(_))), "canonical JSON can't be read back");
}

/// One order has one spelling, or one ban would have several ids and a pardon would miss some.
#[test]
fn second_spelling_is_refused() {
    let good = signed(&ban(), &[1, 2]);
    let text = String::from_utf8(good.0.to_vec()).unwrap();
    let spelled = |text: String| SignedOrder(BoundedBytes::try_from(text.into_bytes()).unwrap()).check(NETWORK, Verb::Ban);
    assert_eq!(spelled(text.clone()), Ok(()));
    assert_eq!(spelled(text.replace("\":", "\": ")), Err(OrderError::Spelling));
    assert_eq!(spelled(text.replace("\"verb\":", "\"ban\":null,\"verb\":")), Err(OrderError::Spelling));
    assert!(matches!(spelled(text.replace("\"verb\":", "\"more\":1,\"verb\":")), Err(OrderError::Form(_))));
    assert!(matches!(spelled(text.replace("\"ban\"", "\"pardon\"")), Err(OrderError::Form(_))), "a pardon names a ban");
    assert_eq!(good.check(NETWORK, Verb::Pardon), Err(OrderError::OtherVerb));
    assert_eq!(good.check(NetworkId([2; 32]), Verb::Ban), Err(OrderError::OtherNetwork(NETWORK)));
}

/// `barn sign` shows in words what it signs, and its signature is the one that counts.
#[test]
fn order_is_signed_like_every_other_document() {
    let draft = ban();
    let document = Signable::parse(&draft.to_bytes()).unwrap();
    assert_eq!((document.id(), &document), (draft.id(), &Signable::Order(Box::new(draft.clone()))));
    let words = document.describe();
    assert!(words.starts_with("A ban") && words.contains(&OperatorId([7; 32]).to_string()) && words.contains("\"lies\""), "{words}");
    let file = document.sign(&maintainer(2)).unwrap();
    assert!(draft.gather(&[file], &rules(1)).unwrap().is_signed(&rules(1)));
}
