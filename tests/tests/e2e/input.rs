//! Bad input: each ends with the exit code that is documented for it, and with words that name what is wrong.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use barnraiser_tests::{Lend, Village, batch, recipe};

use super::{SOON, founder, guest, ticket, wait_member};

/// Answers every request with `body`, until the test's process ends.
fn serve(body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            // A small request comes in one piece; whoever goes away early is asked nothing more.
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        }
    });
    address
}

#[test]
fn broken_recipes_and_batches_are_refused_with_their_exit_code() {
    let village = Village::new().unwrap();
    let home = founder(&village, "ada", Lend::NOTHING, &[]);
    let _node = home.start().unwrap();
    let good = recipe("good", "", "true");
    let with = |more: &str| recipe("good", more, "true");
    let address = serve("other bytes");
    let closed = {
        // Bound and let go: nothing listens there.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/x.txt", listener.local_addr().unwrap())
    };
    let source = |url: &str, more: &str| with(&format!("[[source]]\nname = \"src\"\nunpack = false\nurls = [\"{url}\"]\n{more}\n"));
    let hash = format!("sha256 = \"{}\"", "ab".repeat(32));
    for (what, text, code, wanted) in [
        ("unknown key", good.replace("version", "vresion"), 2, "vresion"),
        ("wrong type", good.replace("version = \"1\"", "version = 1"), 2, "bad.toml:3:"),
        ("no TOML", good.replace("[steps]", "[steps"), 2, "bad.toml:"),
        ("missing need", with("[[need]]\nrecipe = \"nowhere\"\n"), 2, "nowhere"),
        ("needs itself", with("[[need]]\nrecipe = \"good\"\n"), 2, "good"),
        ("missing hash", source(&format!("{address}/x.txt"), ""), 2, "barn lock"),
        ("wrong hash", source(&format!("{address}/x.txt"), &hash), 4, "abababab"),
        ("unreachable source", source(&closed, &hash), 6, "src"),
    ] {
        let file = village.write("bad.toml", &text).unwrap();
        let error = home.fails(code, &["submit", file.to_str().unwrap(), "--channel", "nightly"]).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(error.contains(wanted), "{what}: {error}");
    }

    // Two recipes that wait for each other.
    village.write("a.toml", &recipe("a", "[[need]]\nrecipe = \"b\"\n", "true")).unwrap();
    village.write("b.toml", &recipe("b", "[[need]]\nrecipe = \"a\"\n", "true")).unwrap();
    let file = village.write("cycle.toml", &batch("cycle", &["a", "b"])).unwrap();
    let error = home.fails(2, &["submit", file.to_str().unwrap()]).unwrap();
    assert!(error.contains('a') && error.contains('b'), "{error}");
    home.fails(2, &["submit", "no-such-file.toml"]).or_else(|_| home.fails(3, &["submit", "no-such-file.toml"])).unwrap();

    assert_eq!(home.json(&["batch"]).unwrap()["batches"].as_array().unwrap().len(), 0, "nothing of it was submitted");
    home.fails(3, &["batch", &"f".repeat(64)]).unwrap();
    home.fails(3, &["cancel", &"f".repeat(64)]).unwrap();
    home.fails(3, &["job", &format!("{}/x", "f".repeat(64))]).unwrap();
    home.fails(3, &["fetch", "nightly/nothing", "--timeout", "5 s"]).unwrap();
}

#[test]
fn wrong_ticket_is_refused() {
    let village = Village::new().unwrap();
    let ada = founder(&village, "ada", Lend::NOTHING, &[]);
    let ticket = ticket(&ada, "/ip4/127.0.0.1/tcp/9");
    let guest = village.home("guest");
    for wrong in ["hello", &ticket[..ticket.len() - 9], &ticket.replacen("barn1", "barn7", 1)] {
        guest.fails(2, &["join", wrong]).unwrap();
    }
    guest.fails(2, &["fetch", &format!("barn:{}/nightly/x", &ticket[..ticket.len() - 9])]).unwrap();
    assert!(!guest.root().exists(), "a refused ticket leaves no home");
}

#[test]
fn second_node_on_a_home_is_refused_with_the_first_ones_process() {
    let village = Village::new().unwrap();
    let home = founder(&village, "ada", Lend::NOTHING, &[]);
    home.fails(6, &["status"]).unwrap();
    home.fails(6, &["batch"]).unwrap();
    let node = home.start().unwrap();
    let error = home.fails(1, &["run"]).unwrap();
    assert!(error.contains(&node.pid().to_string()), "{error}");
    home.status().unwrap();
    // A crash leaves the home free.
    node.kill();
    home.fails(6, &["status"]).unwrap();
    let _node = home.start().unwrap();
}

#[test]
fn operator_without_the_right_can_not_submit() {
    let village = Village::new().unwrap();
    let (_bootstrap, address) = village.bootstrap().unwrap();
    let ada = founder(&village, "ada", Lend::NOTHING, &["--bootstrap", &address]);
    let _ada = ada.start().unwrap();
    let bob = guest(&village, "bob", Lend::NOTHING, &ticket(&ada, &address));
    let _bob = bob.start().unwrap();
    wait_member(&bob, 1, 2);
    village.write("one.toml", &recipe("one", "", "echo 1 > out")).unwrap();
    let file = village.write("batch.toml", &batch("b", &["one"])).unwrap();
    let error = bob.fails(5, &["submit", file.to_str().unwrap()]).unwrap();
    assert!(error.contains("nightly"), "{error}");
    // With the right, it can, and not end the batches of others.
    ada.ok(&["network", "grant", &bob.operator().unwrap(), "submit", "--channel", "nightly"]).unwrap();
    wait_member(&bob, 2, 2);
    bob.submit(&file).unwrap();
    let other = ada.submit(&file).unwrap();
    barnraiser_tests::wait("the batch is known to the other", SOON, || Ok((bob.run(&["batch", &other])?.code == 0).then_some(()))).unwrap();
    bob.fails(5, &["cancel", &other]).unwrap();
}

#[test]
fn machine_without_bwrap_says_so_and_takes_no_work() {
    let village = Village::new().unwrap();
    let home = founder(&village, "ada", Lend::ONE_CORE, &[]);
    // A path with what else is needed, and without that one program.
    let empty = village.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let output = home.command().arg("doctor").env("PATH", &empty).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("bubblewrap") && said.contains("->"), "{said}");
    let _node = home.start_with(|command| _ = command.env("PATH", &empty)).unwrap();
    let status = home.wait_status("it rests", SOON, |status| status["resting"].is_string()).unwrap();
    let why = status["resting"].as_str().unwrap();
    assert!(why.contains("bwrap") || why.contains("bubblewrap"), "{why}");
    village.write("one.toml", &recipe("one", "", "echo 1 > out")).unwrap();
    let file = village.write("batch.toml", &batch("b", &["one"])).unwrap();
    let error = home.fails(6, &["submit", file.to_str().unwrap(), "--wait", "--timeout", "3 s"]).unwrap();
    assert!(error.contains("0 of 1"), "{error}");
    assert!(home.status().unwrap()["builds"].as_array().unwrap().is_empty());
}
