#![allow(clippy::unwrap_used)]
use super::*;

use barnraiser_protocol::policy::Policy;
use barnraiser_protocol::record::payload::OperatorCertificate;
use barnraiser_protocol::record::{Payload, Record};
use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::trust::charter::{Charter, NetworkPlan, propose_network};
use barnraiser_protocol::trust::keys::{NotaryKeys, SigningKey};
use barnraiser_protocol::trust::tuf::PublicKey;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn home() -> (tempfile::TempDir, Home) {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::at(&folder.path().join("home")).unwrap();
    (folder, home)
}

fn charter(name: &str, seed: u8) -> Charter {
    let key = SigningKey::from_seed(&[seed; 32]);
    let operator = SecretKey::from_seed(&[seed; 32]);
    let notary = NotaryKeys::of(&operator);
    let mut plan = NetworkPlan::new(name, Policy::solo(), vec![key.card(Some(operator.operator()))], 1).unwrap();
    plan.snapshot = vec![PublicKey::of(&notary.snapshot)];
    plan.timestamp = vec![PublicKey::of(&notary.timestamp)];
    let proposal = propose_network(&plan, NOW).unwrap();
    proposal.open(&[proposal.sign(&key).unwrap()]).unwrap()
}

#[test]
fn a_home_is_made_once_and_never_overwritten() {
    let (_folder, home) = home();
    let first = home.init().unwrap();
    assert_eq!(first.made, ["operator.key", "node.key", "barn.toml"]);
    fs::write(home.config_path(), "[lend]\ncores = 1\n").unwrap();
    let second = home.init().unwrap();
    assert_eq!((second.made.len(), second.operator, second.node), (0, first.operator, first.node));
    assert_eq!(home.open().unwrap().config.lend.cores, 1);
    for path in [home.operator_key_path(), home.node_key_path()] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(fs::metadata(home.root()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_home_that_is_not_right_is_an_error_and_never_a_default() {
    let (_folder, home) = home();
    assert!(matches!(home.open(), Err(HomeError::NoHome { .. })));
    home.init().unwrap();

    fs::write(home.config_path(), "[lend]\ncorse = 1\n").unwrap();
    assert!(matches!(home.open(), Err(HomeError::Config(_))));
    fs::write(home.config_path(), b"\xff\xfe").unwrap();
    assert!(matches!(home.open(), Err(HomeError::NotText { .. })));
    fs::write(home.config_path(), vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(matches!(home.open(), Err(HomeError::TooLarge { .. })));
    fs::remove_file(home.config_path()).unwrap();
    fs::create_dir(home.config_path()).unwrap();
    assert!(matches!(home.open(), Err(HomeError::Io { .. })));
    fs::remove_dir(home.config_path()).unwrap();

    let node = home.node_key_path();
    let good = fs::read(&node).unwrap();
    fs::set_permissions(&node, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(home.open(), Err(HomeError::OpenKey { mode: 0o644, .. })));
    fs::set_permissions(&node, fs::Permissions::from_mode(0o600)).unwrap();
    fs::copy(home.operator_key_path(), &node).unwrap();
    assert!(home.open().unwrap_err().to_string().contains("operator key"));
    fs::write(&node, &good[..good.len() - 5]).unwrap();
    assert!(matches!(home.open(), Err(HomeError::Key { .. })));
    fs::remove_file(&node).unwrap();
    assert!(matches!(home.open(), Err(HomeError::NoKey { .. })));
    fs::write(&node, good).unwrap();
}

#[test]
fn a_second_node_on_one_home_is_refused_with_the_first_ones_number() {
    let (_folder, home) = home();
    home.init().unwrap();
    let lock = home.lock().unwrap();
    let error = home.lock().unwrap_err();
    assert!(matches!(error, HomeError::AlreadyRunning { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
    assert_eq!(crate::api::Problem::from(error).exit_code(), 1);
    drop(lock);
    home.lock().unwrap();
}

#[test]
fn networks_survive_the_home_and_are_found_by_name_and_id() {
    let (_folder, home) = home();
    home.init().unwrap();
    assert!(matches!(home.pick_network(None), Err(HomeError::NoNetwork)));
    let (one, two) = (charter("one", 1), charter("two", 2));
    for (charter, name) in [(&one, "one"), (&two, "two")] {
        home.add_network(&charter.network(), name, &["/ip4/127.0.0.1/tcp/1".into()]).unwrap();
        home.save_charter(&charter.network(), charter).unwrap();
    }
    home.add_network(&one.network(), "ignored", &["/ip4/127.0.0.1/tcp/1".into(), "/ip4/127.0.0.1/tcp/2".into()]).unwrap();
    let entry = home.pick_network(Some("one")).unwrap();
    assert_eq!((entry.name.as_str(), entry.bootstrap.len(), entry.charter.as_ref()), ("one", 2, Some(&one)));
    assert_eq!(home.pick_network(Some(&two.network().to_string()[..12])).unwrap().id, two.network());
    assert!(matches!(home.pick_network(None), Err(HomeError::WhichNetwork { .. })));
    assert!(matches!(home.pick_network(Some("three")), Err(HomeError::UnknownNetwork { .. })));
    home.remove_network(&one.network()).unwrap();
    assert_eq!(home.pick_network(None).unwrap().id, two.network());
}

#[test]
fn standing_records_are_kept_once_each() {
    let (_folder, home) = home();
    home.init().unwrap();
    let network = charter("one", 1).network();
    home.add_network(&network, "one", &[]).unwrap();
    let operator = home.operator_key().unwrap();
    let payload = Payload::OperatorCertificate(OperatorCertificate { bearer: None }.into());
    let record = Record::author(&operator, network, 0, NOW, Timestamp::MAX, payload).unwrap();
    home.add_standing(&record).unwrap();
    home.add_standing(&record).unwrap();
    assert_eq!(home.network(&network).unwrap().unwrap().standing, [record.bytes().to_vec()]);
}

#[test]
fn a_damaged_or_foreign_network_file_is_an_error() {
    let (_folder, home) = home();
    home.init().unwrap();
    let (one, two) = (charter("one", 1), charter("two", 2));
    home.add_network(&one.network(), "one", &[]).unwrap();
    assert!(home.save_charter(&one.network(), &two).is_err());
    home.save_charter(&one.network(), &one).unwrap();
    let folder = home.network_dir(&one.network());
    fs::write(folder.join("charter.json"), serde_json::to_vec(two.parts()).unwrap()).unwrap();
    assert!(matches!(home.networks(), Err(HomeError::Charter { .. })));
    fs::write(folder.join("charter.json"), b"{}").unwrap();
    assert!(matches!(home.networks(), Err(HomeError::Network { .. })));
    fs::remove_file(folder.join("charter.json")).unwrap();
    fs::write(folder.join("network.json"), b"{}").unwrap();
    assert!(matches!(home.networks(), Err(HomeError::Network { .. })));
    // A folder that was being made when the machine stopped is no network.
    fs::remove_file(folder.join("network.json")).unwrap();
    assert_eq!(home.networks().unwrap(), []);
}

#[test]
fn sockets_of_homes_with_long_paths_lie_elsewhere() {
    let short = Home::at(Path::new("/h")).unwrap();
    assert_eq!(short.socket_path(), Path::new("/h/barn.sock"));
    let long = Home::at(&Path::new("/").join("x".repeat(150))).unwrap();
    let other = Home::at(&Path::new("/").join("y".repeat(150))).unwrap();
    assert!(long.socket_path().as_os_str().len() <= SOCKET_PATH_MAX);
    assert_ne!(long.socket_path(), other.socket_path());
}
