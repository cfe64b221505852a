#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::record::payload::OperatorCertificate;
use crate::trust::keys::SigningKey;

const NETWORK: NetworkId = NetworkId([1; 32]);

fn vouch() -> Vouch {
    let inviter = SecretKey::from_seed(&[2; 32]);
    Vouch::author(&inviter, NETWORK, 1, Timestamp(1_000), Timestamp(9_000), 3, &[4; 32]).unwrap()
}

fn ticket(vouch: Option<Vouch>) -> Ticket {
    let bootstrap = ["/ip4/192.0.2.1/udp/4001/quic-v1".to_owned(), "/dns4/barn.example/tcp/4001".to_owned()];
    Ticket::new(NETWORK, "oak".parse().unwrap(), bootstrap, vouch).unwrap()
}

#[test]
fn tickets_survive_being_carried() {
    for ticket in [ticket(None), ticket(Some(vouch()))] {
        let word = ticket.to_string();
        assert!(word.starts_with("barn1") && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()));
        for text in [word.clone(), word.to_ascii_uppercase(), format!("  {word}\n")] {
            assert_eq!(Ticket::parse(&text).unwrap(), ticket);
        }
    }
    assert!(ticket(Some(vouch())).to_string().len() < 1_000);
}

#[test]
fn a_ticket_that_vouches_carries_all_that_redeems_it() {
    let ticket: Ticket = ticket(Some(vouch())).to_string().parse().unwrap();
    let carried = ticket.vouch().unwrap();
    assert_eq!((carried.inviter(), carried.until()), (SecretKey::from_seed(&[2; 32]).operator(), Timestamp(9_000)));
    let guest = OperatorId([8; 32]);
    let proof = OperatorCertificate { bearer: Some(carried.proof(&guest)) }.bearer.unwrap();
    let Payload::Invitation(Invitation { invitee: Invitee::Bearer { key, uses: 3 }, .. }) = carried.invitation().payload() else {
        panic!("not the invitation")
    };
    let message = bearer_message(&carried.invitation().id(), &guest);
    assert_eq!(crate::keys::verify(key, &message, &proof.signature), Ok(()));
}

#[test]
fn what_is_not_a_ticket_says_what_it_is() {
    let word = ticket(None).to_string();
    let parse = |word: &str| Ticket::parse(word).unwrap_err();
    assert_eq!(parse(""), TicketError::NotATicket);
    assert_eq!(parse("hello"), TicketError::NotATicket);
    assert_eq!(parse("barnacle"), TicketError::NotATicket);
    assert_eq!(parse(&SigningKey::from_seed(&[1; 32]).card(None).to_string()), TicketError::Card);
    assert_eq!(parse(&word.replacen("barn1", "barn2", 1)), TicketError::Newer);
    assert_eq!(parse(&"a".repeat(10_000)), TicketError::TooLong(10_000));
    for end in 5..word.len() {
        let error = parse(&word[..end]);
        assert!(matches!(error, TicketError::Unreadable(ArmourError::Truncated { .. })), "{end}: {error}");
    }
    let mut damaged = word.clone();
    damaged.replace_range(40..41, if &word[40..41] == "a" { "b" } else { "a" });
    assert_eq!(parse(&damaged), TicketError::Unreadable(ArmourError::Damaged));
    assert_eq!(parse(&format!("{word}!")), TicketError::Unreadable(ArmourError::Character('!')));
}

fn word_of(body: &Body) -> String {
    armour::print(PREFIX, &codec::encode(body))
}

#[test]
fn tickets_with_a_bad_invitation_are_refused() {
    let vouch = vouch();
    let body = |network: NetworkId, secret: [u8; 32], record: Vec<u8>| Body {
        network,
        name: BoundedString::cut("oak"),
        bootstrap: BoundedVec::new(),
        vouch: Some(VouchBody { secret, record: record.try_into().unwrap() }),
    };
    let record = vouch.invitation().bytes().to_vec();
    assert!(Ticket::parse(&word_of(&body(NETWORK, [4; 32], record.clone()))).is_ok());
    assert_eq!(Ticket::parse(&word_of(&body(NETWORK, [5; 32], record.clone()))), Err(TicketError::OtherInvitation));
    let foreign = Ticket::parse(&word_of(&body(NetworkId([9; 32]), [4; 32], record.clone())));
    assert!(matches!(foreign, Err(TicketError::Invitation(RecordError::ForeignNetwork { .. }))));
    let mut forged = record;
    *forged.last_mut().unwrap() ^= 1;
    assert!(matches!(Ticket::parse(&word_of(&body(NETWORK, [4; 32], forged))), Err(TicketError::Invitation(_))));
    let mut bad_name = body(NETWORK, [4; 32], vouch.invitation().bytes().to_vec());
    bad_name.name = BoundedString::cut("../oak");
    assert!(matches!(Ticket::parse(&word_of(&bad_name)), Err(TicketError::Name(_))));
}

#[test]
fn too_many_or_too_long_addresses_are_refused() {
    let make = |addresses: Vec<String>| Ticket::new(NETWORK, "oak".parse().unwrap(), addresses, None);
    assert!(make(vec!["a".into(); BOOTSTRAP_MAX]).is_ok());
    assert!(make(vec!["a".into(); BOOTSTRAP_MAX + 1]).is_err());
    assert!(make(vec!["a".repeat(257)]).is_err());
}

#[test]
fn the_secret_is_not_in_the_debug_form() {
    let hex = data_encoding::HEXLOWER.encode(&[4; 32]);
    let text = format!("{:?}", ticket(Some(vouch())));
    assert!(!text.contains(&hex) && !text.contains("[4, 4"), "{text}");
}

#[test]
fn all_forms_of_what_can_be_fetched_are_read() {
    let hash = BlobHash::of(b"x");
    let parse = |text: &str| text.parse::<FetchTarget>();
    let image = Wanted::Release { channel: channel_name("nightly").unwrap(), name: "LE-RPi5.img.gz".parse().unwrap() };
    let plain = FetchTarget { ticket: None, network: None, wanted: image.clone() };
    assert_eq!(parse(&hash.to_string()).unwrap().wanted, Wanted::Blob(hash));
    assert_eq!(parse("nightly/LE-RPi5.img.gz").unwrap(), plain);
    assert_eq!(parse("oak/nightly/LE-RPi5.img.gz").unwrap(), FetchTarget { network: Some("oak".into()), ..plain.clone() });
    let by_id = format!("{NETWORK}/nightly/LE-RPi5.img.gz");
    assert_eq!(parse(&by_id).unwrap().network, Some(NETWORK.to_string()));
    let ticket = ticket(None);
    let link = parse(&format!("barn:{ticket}/nightly/LE-RPi5.img.gz")).unwrap();
    assert_eq!(link, FetchTarget { ticket: Some(ticket.clone()), ..plain });
    assert_eq!(parse(&format!("barn:{ticket}/{hash}")).unwrap().wanted, Wanted::Blob(hash));
}

#[test]
fn what_cannot_be_fetched_says_why() {
    let parse = |text: &str| text.parse::<FetchTarget>().unwrap_err();
    for text in ["", "abc", &"a".repeat(63), "a/b/c/d", "barn:x"] {
        assert!(matches!(parse(text), FetchTargetError::Form(_)), "{text:?}");
    }
    assert!(matches!(parse("Nightly/x"), FetchTargetError::Name(_)));
    assert!(matches!(parse("nightly/../x"), FetchTargetError::Name(_)));
    assert!(matches!(parse("nightly/"), FetchTargetError::Name(_)));
    assert!(matches!(parse("barn:barn1xyz/nightly/x"), FetchTargetError::Ticket(_)));
    assert!(matches!(parse(&format!("barn:{}/oak/nightly/x", ticket(None))), FetchTargetError::Form(_)));
    assert!(matches!(parse(&format!("{}/nightly/x", ticket(None))), FetchTargetError::Form(_)), "the `barn:` of a link was left out");
}

proptest! {
    #[test]
    fn garbage_never_panics(text in "\\PC{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Ticket::parse(&text);
        let _ = Ticket::parse(&format!("barn1{text}"));
        let _ = text.parse::<FetchTarget>();
        let _ = format!("barn:{text}").parse::<FetchTarget>();
        // With a good checksum.
        let _ = Ticket::parse(&armour::print(PREFIX, &bytes));
    }
}
