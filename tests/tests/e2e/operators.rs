//! From one maintainer alone to three operators.

use barnraiser_tests::{Home, Lend, Village, batch, list, recipe, text, wait};

use super::{SOON, founder, guest, ticket, wait_member};

/// Fetches `what` as soon as the release is known here, and gives the document and the bytes.
fn fetch(home: &Home, what: &str, to: &std::path::Path) -> (serde_json::Value, Vec<u8>) {
    let arguments = ["--json", "fetch", what, "-o", to.to_str().unwrap(), "--timeout", "30 s"];
    let ran = wait("the release is known and fetched", SOON, || Ok(Some(home.run(&arguments)?).filter(|ran| ran.code != 3))).unwrap();
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    // Events come first, and the document last.
    let document = serde_json::from_str(ran.out.trim_end().lines().last().unwrap()).unwrap();
    (document, std::fs::read(to).unwrap())
}

/// Three operators are enough, and the first is useful alone, from day one.
#[test]
fn one_maintainer_alone_publishes_and_three_operators_verify_each_other() {
    let village = Village::new().unwrap();
    let (_bootstrap, address) = village.bootstrap().unwrap();
    let ada = founder(&village, "ada", Lend::ONE_CORE, &["--policy", "solo", "--bootstrap", &address]);
    let _ada = ada.start().unwrap();
    let key = ada.root().join("keys/oak.key");
    let key = key.to_str().unwrap();

    // Day one: builds, signs, publishes, with nobody else there.
    let script = "printf '#include <stdio.h>\\nint main(void) { return puts(\"one\") < 0; }\\n' > h.c\ncc -o out h.c";
    village.write("hello.toml", &recipe("hello", "", script)).unwrap();
    let first = ada.submit_and_wait(&village.write("first.toml", &batch("first", &["hello"])).unwrap(), "60 s").unwrap();
    let job = ada.json(&["job", &format!("{first}/hello")]).unwrap();
    assert_eq!((&job["state"], list(&job["verdict"]["agreeing"]).len()), (&"cross-verified".into(), 1));
    let release = ada.json(&["release", "publish", "nightly", "--batch", &first, "--key", key]).unwrap();
    assert_eq!((&release["channel"], &release["threshold"]), (&"nightly".into(), &1.into()));

    // A second and a third operator come with a ticket, and hear of what was there before them.
    let ticket = ticket(&ada, &address);
    let bob = guest(&village, "bob", Lend::ONE_CORE, &ticket);
    let cyd = guest(&village, "cyd", Lend::ONE_CORE, &ticket);
    let _bob = bob.start().unwrap();
    let _cyd = cyd.start().unwrap();
    for home in [&ada, &bob, &cyd] {
        wait_member(home, 1, 3);
    }
    let (document, bytes) = fetch(&cyd, "nightly/hello.bin", &village.path("one"));
    assert_eq!(document["hash"], blake3::hash(&bytes).to_hex().to_string());
    assert_eq!(document["hash"], release["targets"]["hello.bin"]["blake3"]);

    // From now on two of them must agree.
    ada.ok(&["channel", "policy", "nightly", "small"]).unwrap();
    for home in [&ada, &bob, &cyd] {
        wait_member(home, 2, 3);
    }
    village.write("hello.toml", &recipe("hello", "", &script.replace("one", "two"))).unwrap();
    village.write("top.toml", &recipe("top", "[[need]]\nrecipe = \"hello\"\n", "/needs/hello/out > out; echo and more >> out")).unwrap();
    let second = village.write("second.toml", &batch("second", &["hello", "top"])).unwrap();
    let second = ada.submit_and_wait(&second, "120 s").unwrap();
    for label in ["hello", "top"] {
        let job = cyd
            .wait_job("it is cross-verified here too", &format!("{second}/{label}"), SOON, |job| job["state"] == "cross-verified")
            .unwrap();
        let agreeing: Vec<_> = list(&job["verdict"]["agreeing"]).iter().map(|id| text(id).unwrap()).collect();
        assert!(agreeing.len() >= 2 && agreeing[0] != agreeing[1], "two distinct operators agree: {job:#}");
    }
    let release = ada.json(&["release", "publish", "nightly", "--batch", &second, "--key", key]).unwrap();
    let top = text(&release["targets"]["top.bin"]["blake3"]).unwrap();

    // By name, by hash, checked offline; and by a stranger who has nothing but a link.
    let to = village.path("two");
    let (document, bytes) = fetch(&cyd, "nightly/top.bin", &to);
    assert_eq!((blake3::hash(&bytes).to_hex().to_string(), String::from_utf8(bytes).unwrap()), (top.clone(), "two\nand more\n".into()));
    assert_eq!(list(&document["release"]["signed_by"]).len(), 1, "{document:#}");
    let (_, by_hash) = fetch(&bob, &top, &village.path("three"));
    assert_eq!(by_hash, std::fs::read(&to).unwrap());
    let said = cyd.ok(&["verify", to.to_str().unwrap()]).unwrap();
    assert!(said.contains("nightly"), "{said}");
    let stranger = village.home("stranger");
    let (document, bytes) = fetch(&stranger, &format!("barn:{ticket}/nightly/top.bin"), &village.path("four"));
    assert_eq!(blake3::hash(&bytes).to_hex().to_string(), top);
    let known = ada.json(&["job", &format!("{second}/top")]).unwrap();
    assert_eq!(document["built_by"][0][2], known["verdict"]["agreeing"], "the evidence says who built it: {document:#}");
    let error = stranger.fails(3, &["fetch", &format!("barn:{ticket}/nihgtly/top.bin")]).unwrap();
    assert!(error.contains("nightly"), "{error}");
    assert!(!stranger.root().exists(), "a link needs no home and makes none");

    // What was changed is seen.
    std::fs::write(&to, "two\nand less\n").unwrap();
    let ran = cyd.run(&["verify", to.to_str().unwrap()]).unwrap();
    assert_ne!(ran.code, 0, "{}", ran.out);
}

/// One home, two networks, one core: both batches come to their end, never two builds at a time.
#[test]
fn two_networks_share_the_one_core_that_is_lent() {
    let village = Village::new().unwrap();
    let home = founder(&village, "ada", Lend::ONE_CORE, &[]);
    home.ok(&["network", "create", "ash"]).unwrap();
    let _node = home.start().unwrap();
    let mut batches = Vec::new();
    for network in ["oak", "ash"] {
        for name in ["a", "b"] {
            // Of another network, another action: equal ones would be the same build.
            village.write(&format!("{network}/{name}.toml"), &recipe(name, "", &format!("sleep 1; echo {network} > out"))).unwrap();
        }
        let file = village.write(&format!("{network}/batch.toml"), &batch(network, &["a", "b"])).unwrap();
        let submitted = home.json(&["--network", network, "submit", file.to_str().unwrap()]).unwrap();
        batches.push((network, text(&submitted["batch"]).unwrap()));
    }
    let mut seen = std::collections::BTreeSet::new();
    wait("both batches are built", SOON, || {
        let status = home.status()?;
        let builds = list(&status["builds"]);
        assert!(builds.len() <= 1 && status["cores"][1].as_u64() <= Some(1), "one core is lent: {status:#}");
        seen.extend(builds.iter().map(|build| build["network"].to_string()));
        let mut done = true;
        for (network, id) in &batches {
            done &= home.json(&["--network", network, "batch", id])?["batch"]["result"] == true;
        }
        Ok(done.then_some(()))
    })
    .unwrap();
    assert_eq!(seen.len(), 2, "both networks were seen building");
}
