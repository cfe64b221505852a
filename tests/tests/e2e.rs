//! End to end: real processes of `barn` and `barn-bootstrap`, real sandboxes, and the command line as people use it.
#![allow(clippy::unwrap_used)]

#[path = "e2e/crash.rs"]
mod crash;
#[path = "e2e/demo.rs"]
mod demo;
#[path = "e2e/differences.rs"]
mod differences;
#[path = "e2e/faults.rs"]
mod faults;
#[path = "e2e/fetching.rs"]
mod fetching;
#[path = "e2e/hostile.rs"]
mod hostile;
#[path = "e2e/input.rs"]
mod input;
#[path = "e2e/jobs.rs"]
mod jobs;
#[path = "e2e/operators.rs"]
mod operators;
#[path = "e2e/peers.rs"]
mod peers;
#[path = "e2e/store.rs"]
mod store;
#[path = "e2e/traffic.rs"]
mod traffic;

use std::time::Duration;

use barnraiser_tests::{Home, Village, text};

/// Longest time for what needs several nodes to hear of each other, on a machine that does other things too.
const SOON: Duration = Duration::from_secs(60);

/// A home that founded the network `oak` with that policy; its node is not started.
fn founder(village: &Village, name: &str, lend: barnraiser_tests::Lend, more: &[&str]) -> Home {
    let home = village.home(name);
    home.init(lend).unwrap();
    let mut arguments = vec!["network", "create", "oak"];
    arguments.extend(more);
    home.ok(&arguments).unwrap();
    home
}

/// A ticket of `home` that vouches, with that entry server only.
fn ticket(home: &Home, bootstrap: &str) -> String {
    text(&home.json(&["network", "invite", "--uses", "8", "--bootstrap", bootstrap]).unwrap()["ticket"]).unwrap()
}

/// A home that joined with a ticket; its node is not started.
fn guest(village: &Village, name: &str, lend: barnraiser_tests::Lend, ticket: &str) -> Home {
    let home = village.home(name);
    home.init(lend).unwrap();
    home.ok(&["join", ticket]).unwrap();
    home
}

/// Waits until the node knows the network's rules in that version and at least so many operators, this one included.
fn wait_member(home: &Home, charter: u64, operators: usize) {
    let wanted = |status: &serde_json::Value| {
        let network = &status["networks"][0];
        let invited = barnraiser_tests::list(&network["operators"]).iter().filter(|operator| !operator["branch"].is_null()).count();
        network["state"] == "live" && network["charter"] == charter && invited >= operators
    };
    home.wait_status(&format!("version {charter} of the rules and {operators} operators are known"), SOON, wanted).unwrap();
}
