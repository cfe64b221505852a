//! One job: its evidence, its log, its end.

use std::time::Duration;

use barnraiser_tests::{Lend, Village, batch, list, recipe};

use super::{SOON, founder, guest, ticket, wait_member};

#[test]
fn job_tells_who_built_it_and_what_came_out() {
    let village = Village::new().unwrap();
    let home = founder(&village, "ada", Lend::ONE_CORE, &[]);
    let _node = home.start().unwrap();
    village.write("one.toml", &recipe("one", "", "echo a word in the log; echo 1 > out")).unwrap();
    let id = home.submit_and_wait(&village.write("batch.toml", &batch("b", &["one"])).unwrap(), "60 s").unwrap();
    let job = home.json(&["job", &format!("{}/one", &id[..10])]).unwrap();
    let operator = home.operator().unwrap();
    assert_eq!((&job["kind"], &job["label"], &job["batch"]), (&"job".into(), &"one".into(), &id.into()));
    let attestation = &job["attestations"][0];
    assert_eq!((list(&job["attestations"]).len(), &attestation["operator"]), (1, &operator.clone().into()));
    assert_eq!(attestation["outcome"], job["verdict"]["outcome"]);
    assert!(attestation["outcome_hash"].is_string() && attestation["particulars"]["sandbox"].is_string(), "{attestation:#}");
    assert_eq!(job["verdict"]["agreeing"], serde_json::json!([operator]));
    // The same by its action, and its log.
    let action = job["action"].as_str().unwrap();
    assert_eq!(home.json(&["job", &action[..12]]).unwrap()["verdict"], job["verdict"]);
    assert!(home.ok(&["log", action]).unwrap().contains("a word in the log"));
    // Whose logs there are is said to who asks for another; and a batch is no job.
    let error = home.fails(3, &["log", action, "--by", "no-one"]).unwrap();
    assert!(error.contains(&operator), "{error}");
    let batch = job["batch"].as_str().unwrap();
    let error = home.fails(3, &["why", batch]).unwrap();
    assert!(error.contains("barn batch") && error.contains(&format!("{}/one", &batch[..10])), "{error}");
    let error = home.fails(3, &["release", "show", "nihgtly"]).unwrap();
    assert!(error.contains("nightly") && error.contains("stable"), "{error}");
}

#[test]
fn cancel_stops_what_is_being_built() {
    let village = Village::new().unwrap();
    let home = founder(&village, "ada", Lend::ONE_CORE, &[]);
    let _node = home.start().unwrap();
    village.write("slow.toml", &recipe("slow", "", "echo begun; sleep 100; echo 1 > out")).unwrap();
    let id = home.submit(&village.write("batch.toml", &batch("b", &["slow"])).unwrap()).unwrap();
    // Its log can be read while it runs.
    home.wait_status("it builds", SOON, |status| status["builds"][0]["log_bytes"].as_u64() > Some(0)).unwrap();
    assert!(home.ok(&["log", &format!("{id}/slow")]).unwrap().contains("begun"));
    home.ok(&["cancel", &id[..12]]).unwrap();
    home.wait_status("nothing is built", Duration::from_secs(20), |status| list(&status["builds"]).is_empty()).unwrap();
    home.wait_job("it is withdrawn", &format!("{id}/slow"), SOON, |job| job["state"] == "withdrawn").unwrap();
    let error = home.fails(1, &["retry", &id]).unwrap();
    assert!(error.contains("it was cancelled") && error.contains("barn submit"), "{error}");
    home.wait_status("the core is free", SOON, |status| status["cores"][1] == 0).unwrap();
}

/// Two results differ, and so do the two builds of whom the maintainers trust to settle it: the job is to blame, nobody
/// else, and whoever waits for it is told so.
#[test]
fn job_that_is_not_deterministic_fails_and_nobody_is_wrong() {
    let village = Village::new().unwrap();
    let (_bootstrap, address) = village.bootstrap().unwrap();
    let ada = founder(&village, "ada", Lend::ONE_CORE, &["--policy", "small", "--bootstrap", &address]);
    let _ada = ada.start().unwrap();
    let ticket = ticket(&ada, &address);
    let (bob, cyd) = (guest(&village, "bob", Lend::ONE_CORE, &ticket), guest(&village, "cyd", Lend::ONE_CORE, &ticket));
    for guest in [&bob, &cyd] {
        ada.ok(&["network", "trust", &guest.operator().unwrap()]).unwrap();
    }
    let _bob = bob.start().unwrap();
    let _cyd = cyd.start().unwrap();
    for home in [&ada, &bob, &cyd] {
        wait_member(home, 3, 3);
    }
    village.write("dice.toml", &recipe("dice", "", "echo thrown; head -c 16 /dev/urandom > out")).unwrap();
    village.write("top.toml", &recipe("top", "[[need]]\nrecipe = \"dice\"\n", "cp /needs/dice/out out")).unwrap();
    let file = village.write("batch.toml", &batch("b", &["dice", "top"])).unwrap();
    let error = ada.fails(7, &["submit", file.to_str().unwrap(), "--wait", "--timeout", "60 s"]).unwrap();
    assert!(error.contains("dice") && error.contains("not deterministic"), "{error}");
    let batches = ada.json(&["batch"]).unwrap();
    let job = format!("{}/dice", batches["batches"][0]["id"].as_str().unwrap());
    for home in [&ada, &bob, &cyd] {
        let job = home.wait_job("it failed", &job, SOON, |job| job["state"] == "failed").unwrap();
        let verdict = &job["verdict"];
        assert_eq!((&verdict["state"], list(&verdict["wrong"]).len()), (&"not-deterministic".into(), 0), "{job:#}");
        let (arbiters, voters): (Vec<_>, Vec<_>) = list(&job["attestations"]).iter().partition(|one| one["operator"] == verdict["arbiter"]);
        assert!(voters.len() == 2 && voters.iter().all(|voter| voter["again"].is_null()), "{job:#}");
        assert!(arbiters.len() == 1 && arbiters[0]["again"]["success"]["tree"].is_string(), "{job:#}");
        assert_ne!(arbiters[0]["again"], arbiters[0]["outcome"]);
    }
    // Both of its outputs can be looked at, and its log holds both builds.
    let verdict = ada.json(&["job", &job]).unwrap();
    let arbiter = list(&verdict["attestations"]).iter().find(|one| one["operator"] == verdict["verdict"]["arbiter"]).unwrap();
    let log = ada.ok(&["log", &job, "--by", arbiter["operator"].as_str().unwrap()]).unwrap();
    assert_eq!(log.matches("thrown").count(), 2, "{log}");
}

#[test]
fn retry_builds_a_failed_job_again() {
    let village = Village::new().unwrap();
    let home = founder(&village, "ada", Lend::ONE_CORE, &[]);
    let _node = home.start().unwrap();
    village.write("bad.toml", &recipe("bad", "", "echo the reason; exit 3")).unwrap();
    let file = village.write("batch.toml", &batch("b", &["bad"])).unwrap();
    let error = home.fails(7, &["submit", file.to_str().unwrap(), "--wait", "--timeout", "60 s"]).unwrap();
    assert!(error.contains("bad") && error.contains("the reason"), "{error}");
    let batches = home.json(&["batch"]).unwrap();
    let id = batches["batches"][0]["id"].as_str().unwrap().to_owned();
    let job = format!("{id}/bad");
    assert_eq!(list(&home.json(&["job", &job]).unwrap()["attestations"]).len(), 1);
    home.ok(&["retry", &id]).unwrap();
    let again = home.wait_job("it was built again", &job, SOON, |job| list(&job["attestations"]).len() == 2).unwrap();
    assert_ne!(again["attestations"][0]["lease"], again["attestations"][1]["lease"]);
    home.wait_job("it failed again", &job, SOON, |job| job["state"] == "failed").unwrap();
    home.ok(&["retry", &job]).unwrap();
    home.wait_job("one job alone is built again", &job, SOON, |job| list(&job["attestations"]).len() == 3).unwrap();
}

/// What a build copies from its sources into its outputs was hidden with them until they were revealed, and for that
/// another builder was needed, who needed the sources.
#[test]
fn sources_are_served_though_an_output_that_is_not_revealed_has_them_too() {
    let village = Village::new().unwrap();
    let (_bootstrap, address) = village.bootstrap().unwrap();
    let ada = founder(&village, "ada", Lend::ONE_CORE, &["--policy", "small", "--bootstrap", &address]);
    let node = ada.start().unwrap();
    let ticket = ticket(&ada, &address);
    village.write("src/in", "copied as it is\n").unwrap();
    let source = "[[source]]\nname = \"src\"\npath = \"src\"\n";
    village.write("copy.toml", &recipe("copy", source, "cp src/in out")).unwrap();
    let id = ada.submit(&village.write("batch.toml", &batch("b", &["copy"])).unwrap()).unwrap();
    let job = format!("{id}/copy");
    ada.wait_job("the first result is committed", &job, SOON, |job| list(&job["attestations"]).len() == 1).unwrap();
    // What must stay private is known after a restart, too.
    node.stop().unwrap();
    let _ada = ada.start().unwrap();
    let bob = guest(&village, "bob", Lend::ONE_CORE, &ticket);
    let _bob = bob.start().unwrap();
    ada.wait_job("the second builder agrees", &job, SOON, |job| job["state"] == "cross-verified").unwrap();
}
