//! Networks: founded alone and by several, joined, changed, left.

use super::{Bench, text};

fn operators(value: &serde_json::Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|operator| operator.as_str().unwrap()).collect()
}

#[test]
fn one_maintainer_alone_opens_a_network_at_once() {
    let bench = Bench::new();
    let operator = bench.home("h");
    assert!(bench.fails(3, "h", &["network", "show"]).contains("no network"));
    let made =
        bench.json("h", &["network", "create", "oak", "--lease-ttl", "5", "--channel", "beta", "--bootstrap", "/ip4/127.0.0.1/tcp/1"]);
    let shown = bench.json("h", &["network", "show"]);
    assert_eq!((&shown["id"], &shown["policy"]["name"], &shown["lease-ttl-s"]), (&made["id"], &"solo".into(), &5.into()));
    assert_eq!((operators(&shown["grants"]["founders"]), operators(&shown["channels"])), (vec![&*operator], vec!["beta"]));
    // Its own certificates wait for the node.
    let standing = bench.path("h/networks").join(made["id"].as_str().unwrap()).join("standing");
    assert_eq!(std::fs::read_dir(standing).unwrap().count(), 2);

    assert!(bench.fails(1, "h", &["network", "create", "oak"]).contains("another name"));
    bench.fails(2, "h", &["network", "create", "no blanks"]);
    bench.fails(2, "h", &["network", "create", "ash", "--policy", "nonsense"]);
    bench.fails(2, "h", &["network", "create", "ash", "--bootstrap", "example.org:4001"]);
    bench.fails(2, "h", &["network", "create", "ash", "--lease-ttl", "0"]);
    let bad = bench.write(
        "policy.json",
        r#"{"name":"x","quorum":0,"slots":1,"voters":"invited",
            "inputs":"candidate","release":"cross-verified","release-needs-trusted":false}"#,
    );
    assert!(bench.fails(2, "h", &["network", "create", "ash", "--policy", text(&bad)]).contains("quorum"));
    bench.fails(3, "nowhere", &["network", "create", "ash"]);
    assert_eq!(bench.json("h", &["networks"])["networks"].as_array().unwrap().len(), 1);
}

#[test]
fn rules_change_at_once_where_one_signature_is_enough() {
    let bench = Bench::new();
    bench.home("h");
    bench.ok("h", &["network", "create", "oak"]);
    let other = bench.home("other");
    bench.ok("h", &["network", "trust", &other]);
    bench.ok("h", &["network", "grant", &other, "submit", "--channel", "nightly"]);
    bench.ok("h", &["channel", "policy", "nightly", "small"]);
    bench.ok("h", &["channel", "create", "beta"]);
    let shown = bench.json("h", &["network", "show"]);
    assert_eq!((&shown["charter"], &shown["policy"]["quorum"]), (&5.into(), &2.into()));
    assert!(operators(&shown["grants"]["trusted"]).contains(&&*other));
    assert_eq!(operators(&shown["grants"]["submitters"]["nightly"]), [&*other]);
    assert!(bench.ok("h", &["channel", "ls"]).contains("beta"));
    // An id that was mistyped must not pass unseen.
    for command in [&["network", "trust"][..], &["network", "invite"]] {
        let nobody = "0".repeat(64);
        let arguments: Vec<&str> = command.iter().copied().chain([nobody.as_str()]).collect();
        assert!(bench.fails(2, "h", &arguments).contains("nobody can have this key"));
    }
    let unseen = bench.run("h", &["network", "grant", &other, "submit", "--channel", "stable"]);
    assert!(unseen.code == 0 && unseen.err.contains("was not looked up"), "{}", unseen.err);
    bench.ok("h", &["network", "trust", "--revoke", &other]);
    assert!(bench.fails(2, "h", &["network", "trust", "--revoke", &other]).contains("nothing would change"));
    assert!(bench.fails(2, "h", &["network", "grant", &other, "submit", "--channel", "gamma"]).contains("gamma"));
    bench.fails(3, "h", &["channel", "policy", "gamma", "small"]);
    // A stranger's key.
    let key = bench.path("stranger.key");
    bench.ok("h", &["key", "new", text(&key)]);
    bench.fails(5, "h", &["network", "trust", &other, "--key", text(&key)]);
}

/// Three maintainers on machines of their own; files are all that passes between them.
#[test]
fn two_of_three_open_a_network_and_change_it_with_carried_signatures() {
    let bench = Bench::new();
    let mut cards = Vec::new();
    for name in ["a", "b", "c"] {
        bench.home(name);
        let key = bench.path(&format!("{name}.key"));
        cards.push(bench.json(name, &["key", "new", text(&key)])["card"].as_str().unwrap().to_owned());
    }
    let create = |threshold: &str, more: &[&str]| {
        let mut arguments = vec!["network", "create", "oak", "--policy", "small", "--threshold", threshold];
        arguments.extend(cards.iter().flat_map(|card| ["--maintainer", card]));
        arguments.extend(more);
        bench.run("a", &arguments)
    };
    assert_eq!(create("4", &["-o", "p.json"]).code, 2);
    assert_eq!(create("0", &["-o", "p.json"]).code, 2);
    assert_eq!(create("2", &[]).code, 2, "a proposal needs a file to go to");
    let ran = create("2", &["-o", "p.json"]);
    assert!(ran.code == 0 && ran.out.contains("2 of 3"), "{}", ran.err);
    assert_eq!(bench.json("a", &["networks"])["networks"].as_array().unwrap().len(), 0, "nothing counts before it is signed");

    for name in ["a", "b"] {
        let said = bench.ok(name, &["sign", "p.json", "--key", &format!("{name}.key"), "-o", &format!("{name}.sig")]);
        assert!(said.contains("A new network, \"oak\"") && said.contains("2 of 3"), "{said}");
    }
    bench.ok("c", &["key", "new", "stranger.key"]);
    bench.fails(5, "c", &["sign", "p.json", "--key", "stranger.key", "-o", "s.sig"]);
    assert!(!bench.path("s.sig").exists());
    assert!(bench.fails(4, "a", &["network", "open", "p.json", "a.sig"]).contains("1 of 2 signatures, 1 missing"));
    bench.fails(4, "a", &["network", "open", "p.json", "a.sig", "a.sig"]);
    bench.fails(2, "a", &["network", "open", "p.json", "p.json"]);
    bench.fails(2, "a", &["network", "open", "a.sig", "b.sig"]);
    bench.fails(3, "a", &["network", "open", "missing.json", "b.sig"]);
    // Every maintainer opens the same network, from the same files.
    let ids: Vec<_> = ["a", "b", "c"].map(|name| bench.json(name, &["network", "open", "p.json", "b.sig", "a.sig"])["id"].clone()).into();
    assert!(ids.iter().all(|id| *id == ids[0]));
    bench.ok("a", &["network", "open", "p.json", "b.sig", "a.sig"]);

    // A change takes the same way; one key is not enough.
    let other = "cd".repeat(32);
    let error = bench.fails(5, "a", &["network", "trust", &other, "--key", "a.key"]);
    assert!(error.contains("2 of 3") && error.contains("-o PROPOSAL"), "{error}");
    assert!(bench.fails(2, "a", &["network", "trust", &other]).contains("--key FILE"));
    assert!(bench.ok("a", &["network", "trust", &other, "-o", "t.json"]).contains(&other));
    for name in ["b", "c"] {
        let said = bench.ok(name, &["sign", "t.json", "--key", &format!("{name}.key"), "-o", &format!("{name}2.sig")]);
        assert!(said.contains(&format!("+ trusted operator {other}")), "{said}");
    }
    let error = bench.fails(4, "a", &["network", "open", "t.json", "a.sig", "b2.sig"]);
    assert!(error.contains("another document") && error.contains("a.sig"), "{error}");
    bench.ok("a", &["network", "open", "t.json", "b2.sig", "c2.sig"]);
    assert_eq!(bench.json("a", &["network", "show"])["charter"], 2);
    assert!(bench.fails(4, "a", &["network", "open", "t.json", "b2.sig", "c2.sig"]).contains("does not replace"));
    // Somebody who is not a member.
    bench.home("d");
    bench.fails(3, "d", &["network", "open", "t.json", "b2.sig", "c2.sig"]);
}

#[test]
fn tickets_make_a_home_and_a_member() {
    let bench = Bench::new();
    bench.home("h");
    bench.ok("h", &["network", "create", "oak"]);
    let plain = bench.json("h", &["network", "ticket", "--bootstrap", "/ip4/127.0.0.1/tcp/9"]);
    let vouching = bench.json("h", &["network", "invite", "--uses", "2", "--bootstrap", "/ip4/127.0.0.1/tcp/9"]);
    assert_eq!((&plain["vouches"], &vouching["vouches"]), (&false.into(), &true.into()));
    let (plain, vouching) = (plain["ticket"].as_str().unwrap(), vouching["ticket"].as_str().unwrap());

    let joined = bench.json("guest", &["join", vouching]);
    assert_eq!((&joined["vouched"], &joined["name"]), (&true.into(), &"oak".into()));
    let standing = |home: &str| {
        let network = joined["network"].as_str().unwrap();
        std::fs::read_dir(bench.path(home).join("networks").join(network).join("standing")).unwrap().count()
    };
    // Invitation, operator's and node's certificate.
    assert_eq!(standing("guest"), 3);
    assert_eq!(bench.json("guest", &["join", plain])["already"], true);
    assert_eq!(standing("guest"), 3, "a second ticket repeats nothing");
    bench.ok("asker", &["join", plain, "--message", "I have a fast machine"]);
    assert_eq!(standing("asker"), 3);
    bench.fails(2, "other", &["join", plain, "--message", &"x".repeat(600)]);
    assert!(!bench.path("other").exists(), "a refused join leaves no home");
    assert_eq!(bench.json("asker", &["networks"])["networks"][0]["state"], "joining");
    assert!(bench.fails(1, "asker", &["channel", "ls"]).contains("still being joined"));

    // An invitation by name, and one that is over.
    let asker = bench.json("asker", &["id"])["operator"].as_str().unwrap().to_owned();
    bench.ok("h", &["network", "invite", &asker]);
    bench.fails(2, "h", &["network", "invite", "--uses", "0"]);
    let over = bench.json("h", &["network", "invite", "--expires", "1 ms"])["ticket"].as_str().unwrap().to_owned();
    assert!(bench.fails(2, "late", &["join", &over]).contains("ended"));

    bench.ok("guest", &["leave", "oak"]);
    assert_eq!(bench.json("guest", &["networks"])["networks"].as_array().unwrap().len(), 0);
    assert!(bench.fails(3, "guest", &["leave", "oak"]).contains("not a member"));
}

#[test]
fn what_is_no_ticket_is_refused_with_what_it_is() {
    let bench = Bench::new();
    bench.home("h");
    bench.ok("h", &["network", "create", "oak"]);
    let ticket = bench.json("h", &["network", "invite"])["ticket"].as_str().unwrap().to_owned();
    let card = bench.json("h", &["key", "show"])["signing"][0]["card"].as_str().unwrap().to_owned();
    let mut damaged = ticket.clone();
    damaged.replace_range(60..61, if &ticket[60..61] == "a" { "b" } else { "a" });
    for (word, wanted) in [
        ("hello", "not a ticket"),
        (&*card, "card"),
        (&ticket[..ticket.len() - 9], "can't be read"),
        (&*damaged, "can't be read"),
        (&*ticket.replacen("barn1", "barn7", 1), "newer"),
        (&*"x".repeat(9000), "more than a ticket"),
    ] {
        let error = bench.fails(2, "guest", &["join", word]);
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
    assert!(!bench.path("guest").exists());
}

#[test]
fn a_home_in_several_networks_asks_which_one_is_meant() {
    let bench = Bench::new();
    bench.home("h");
    bench.ok("h", &["network", "create", "oak"]);
    let ash = bench.json("h", &["network", "create", "ash", "--policy", "small"])["id"].as_str().unwrap().to_owned();
    let error = bench.fails(2, "h", &["network", "show"]);
    assert!(error.contains("ash") && error.contains("oak") && error.contains("--network"), "{error}");
    assert_eq!(bench.json("h", &["--network", "oak", "network", "show"])["name"], "oak");
    assert_eq!(bench.json("h", &["--network", &ash[..10], "network", "show"])["name"], "ash");
    assert!(bench.fails(3, "h", &["--network", "elm", "network", "show"]).contains("elm"));
}
