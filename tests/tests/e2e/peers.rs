//! Finding each other, and catching up.

use barnraiser_tests::{Home, Lend, Village, batch, list, recipe, text, wait};

use super::{SOON, founder, guest, ticket, wait_member};

fn node_id(home: &Home) -> String {
    text(&home.json(&["id"]).unwrap()["node"]).unwrap()
}

fn wait_peer(home: &Home, node: &str) {
    wait("the other node is a peer", SOON, || {
        let peers = home.json(&["peers"])?;
        Ok(list(&peers["peers"]).iter().any(|peer| peer["node"] == node).then_some(()))
    })
    .unwrap();
}

#[test]
fn node_that_restarts_finds_its_peers_without_the_entry_server() {
    let village = Village::new().unwrap();
    let (bootstrap, address) = village.bootstrap().unwrap();
    let ada = founder(&village, "ada", Lend::NOTHING, &["--bootstrap", &address]);
    // Before it runs, so that the ticket knows the entry server and not the node.
    let ticket = ticket(&ada, &address);
    let _ada = ada.start().unwrap();
    let bob = guest(&village, "bob", Lend::NOTHING, &ticket);
    let node = bob.start().unwrap();
    wait_member(&bob, 1, 2);
    wait_peer(&bob, &node_id(&ada));
    wait_peer(&ada, &node_id(&bob));

    bootstrap.kill();
    node.stop().unwrap();
    let node = bob.start().unwrap();
    wait_peer(&bob, &node_id(&ada));
    // The same after a crash.
    node.kill();
    let _node = bob.start().unwrap();
    wait_peer(&bob, &node_id(&ada));
    bob.wait_status("a peer of the network", SOON, |status| status["networks"][0]["peers"].as_u64() >= Some(1)).unwrap();
}

#[test]
fn node_that_joins_late_learns_all_records() {
    let village = Village::new().unwrap();
    let (_bootstrap, address) = village.bootstrap().unwrap();
    let ada = founder(&village, "ada", Lend::ONE_CORE, &["--bootstrap", &address]);
    let _ada = ada.start().unwrap();
    village.write("one.toml", &recipe("one", "", "echo 1 > out")).unwrap();
    let id = ada.submit_and_wait(&village.write("batch.toml", &batch("b", &["one"])).unwrap(), "60 s").unwrap();
    let cyd = guest(&village, "cyd", Lend::NOTHING, &ticket(&ada, &address));
    let _cyd = cyd.start().unwrap();
    let job = format!("{id}/one");
    let seen = cyd.wait_job("it knows the verdict", &job, SOON, |job| job["state"] == "cross-verified").unwrap();
    let known = ada.json(&["job", &job]).unwrap();
    assert_eq!((&seen["verdict"], &seen["attestations"]), (&known["verdict"], &known["attestations"]));
    // Records come and go while nodes say that they are there: at one moment both have as many.
    wait("both know the same number of records", SOON, || {
        let records = |home: &Home| Ok::<_, anyhow::Error>(home.status()?["networks"][0]["records"].clone());
        Ok((records(&cyd)? == records(&ada)?).then_some(()))
    })
    .unwrap();
}

/// Who was stopped in good order was taken for present for many minutes.
#[test]
fn node_that_is_stopped_is_not_present_any_more() {
    let village = Village::new().unwrap();
    let (_bootstrap, address) = village.bootstrap().unwrap();
    let ada = founder(&village, "ada", Lend::NOTHING, &["--bootstrap", &address]);
    let _ada = ada.start().unwrap();
    let bob = guest(&village, "bob", Lend::ONE_CORE, &ticket(&ada, &address));
    let node = bob.start().unwrap();
    let operator = bob.operator().unwrap();
    let present = |status: &serde_json::Value| {
        let operators = list(&status["networks"][0]["operators"]);
        operators.iter().any(|one| one["operator"] == operator && list(&one["nodes"]).iter().any(|node| node[1] == true))
    };
    ada.wait_status("the guest is there", SOON, present).unwrap();
    node.stop().unwrap();
    ada.wait_status("the guest has left", SOON, |status| !present(status)).unwrap();
    let _node = bob.start().unwrap();
    ada.wait_status("the guest is there again", SOON, present).unwrap();
}

/// Nobody saw what a newcomer wrote to the maintainers.
#[test]
fn message_of_a_newcomer_is_shown_to_the_maintainers() {
    let village = Village::new().unwrap();
    let (_bootstrap, address) = village.bootstrap().unwrap();
    let ada = founder(&village, "ada", Lend::NOTHING, &["--bootstrap", &address]);
    let _ada = ada.start().unwrap();
    let open = text(&ada.json(&["network", "ticket", "--bootstrap", &address]).unwrap()["ticket"]).unwrap();
    let bob = village.home("bob");
    bob.init(Lend::NOTHING).unwrap();
    bob.ok(&["join", &open, "--message", "an old board, always on"]).unwrap();
    let _bob = bob.start().unwrap();
    let operator = bob.operator().unwrap();
    let shown = wait("the message arrives", SOON, || {
        let shown = ada.ok(&["network", "show"])?;
        Ok(shown.contains("an old board, always on").then_some(shown))
    })
    .unwrap();
    assert!(shown.contains(&operator) && shown.contains("not invited"), "{shown}");
    ada.ok(&["network", "invite", &operator]).unwrap();
    wait("it is invited", SOON, || Ok((!ada.ok(&["network", "show"])?.contains("not invited")).then_some(()))).unwrap();
}

/// It "lends nothing" and "lends 1 core", and `barn resume` made it build; its addresses were printed three times.
#[test]
fn node_that_takes_no_builds_says_so_and_prints_its_address_once() {
    let village = Village::new().unwrap();
    let ada = founder(&village, "ada", Lend::ONE_CORE, &[]);
    let _ada = ada.start_with(|command| _ = command.arg("--no-build")).unwrap();
    let status = ada.ok(&["status"]).unwrap();
    assert!(status.contains("takes no builds") && status.contains("nothing: it stores") && !status.contains("1 core"), "{status}");
    let error = ada.fails(1, &["resume"]).unwrap();
    assert!(error.contains("--no-build"), "{error}");
    let addresses = ada.status().unwrap()["addresses"].clone();
    let log = std::fs::read_to_string(ada.log()).unwrap();
    for address in list(&addresses) {
        assert_eq!(log.matches(address.as_str().unwrap()).count(), 1, "{log}");
    }
    assert!(!list(&addresses).is_empty());
}
