//! Holders: what nobody could fetch from its builder is fetched from them, and what was released stays on enough of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use barnraiser_tests::{Home, Lend, Process, Village, batch, list, recipe, text, wait};
use serde_json::Value;

use super::{SOON, founder, guest, wait_member};

/// Longest time in which a holder that left must have been noticed and its copies made again.
const REPAIRED: Duration = Duration::from_secs(180);

/// One result is enough, so that who built it is the only one who has it.
fn policy(village: &Village, holders: u16) -> PathBuf {
    let policy = serde_json::json!({
        "name": "one", "quorum": 1, "slots": 1, "voters": "invited", "inputs": "candidate", "release": "cross-verified",
        "release-needs-trusted": false, "holders": holders,
    });
    village.write("policy.json", &policy.to_string()).unwrap()
}

/// A ticket of `home` that vouches, with all these entry servers.
fn ticket_with(home: &Home, addresses: &[String]) -> String {
    let mut arguments = vec!["network", "invite", "--uses", "8"];
    addresses.iter().for_each(|address| arguments.extend(["--bootstrap", address]));
    text(&home.json(&arguments).unwrap()["ticket"]).unwrap()
}

/// The output of the recipe in these tests: more than travels with an answer.
fn output() -> String {
    (1..=300_000).map(|number| format!("{number}\n")).collect()
}

const SCRIPT: &str = "seq 1 300000 > out";

/// A folder of a holder's store has that blob.
fn has_file(folder: &Path, hash: &str) -> bool {
    folder.join("blobs").join(&hash[..2]).join(hash).is_file()
}

/// A network namespace whose only way out is a link to this machine, on which nobody but it opens connections: what listens
/// inside does so on its own loopback. It goes with this value.
struct Shut {
    name: String,
    outside: String,
}

impl Shut {
    /// None where this machine does not allow it; says why.
    fn new() -> Option<Self> {
        let id = std::process::id();
        let (name, near, far) = (format!("barn-{id}"), format!("barn{id}a"), format!("barn{id}b"));
        let (high, low) = (id / 250 % 250, id % 250);
        let (outside, inside) = (format!("10.{high}.{low}.1"), format!("10.{high}.{low}.2"));
        let shut = Self { name: name.clone(), outside: outside.clone() };
        let steps: [&[&str]; 7] = [
            &["netns", "add", &name],
            &["link", "add", &near, "type", "veth", "peer", "name", &far, "netns", &name],
            &["addr", "add", &format!("{outside}/24"), "dev", &near],
            &["link", "set", &near, "up"],
            &["-n", &name, "addr", "add", &format!("{inside}/24"), "dev", &far],
            &["-n", &name, "link", "set", &far, "up"],
            &["-n", &name, "link", "set", "lo", "up"],
        ];
        for step in steps {
            match Command::new("ip").args(step).output() {
                Ok(output) if output.status.success() => {}
                Ok(output) => {
                    eprintln!("not tried, since it can't be set up here: {}", String::from_utf8_lossy(&output.stderr).trim());
                    return None;
                }
                Err(error) => {
                    eprintln!("not tried: ip: {error}");
                    return None;
                }
            }
        }
        Some(shut)
    }

    /// Starts a home's node inside.
    fn start(&self, home: &Home) -> Process {
        home.start_with(|command| {
            let log = std::fs::File::options().append(true).open(home.log()).unwrap();
            // `ip` becomes the program, with the same process id.
            let mut inside = Command::new("ip");
            inside.args(["netns", "exec", &self.name]).arg(command.get_program()).args(command.get_args());
            inside.stdin(std::process::Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
            inside.current_dir(command.get_current_dir().unwrap());
            for (name, value) in command.get_envs() {
                match value {
                    Some(value) => inside.env(name, value),
                    None => inside.env_remove(name),
                };
            }
            *command = inside;
        })
        .unwrap()
    }
}

impl Drop for Shut {
    fn drop(&mut self) {
        // What does not go now goes with the machine.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

fn listen_on(home: &Home, address: &str, lend: Lend) {
    let Lend { builds, cores } = lend;
    let settings =
        format!("[lend]\nbuilds = {builds}\ncores = {cores}\nmemory = \"1 GiB\"\n\n[listen]\naddresses = [\"/ip4/{address}/tcp/0\"]\n");
    std::fs::write(home.root().join("barn.toml"), settings).unwrap();
}

#[test]
fn output_of_a_builder_that_can_not_be_dialled_outlives_it_at_two_holders() {
    let village = Village::new().unwrap();
    let Some(shut) = Shut::new() else { return };
    let listen = format!("/ip4/{}/tcp/0", shut.outside);
    let (_one, first) = village.holder("one", &listen, "1 GiB").unwrap();
    let (_two, second) = village.holder("two", &listen, "1 GiB").unwrap();
    let entries = [first.clone(), second.clone()];
    let policy = policy(&village, 3);
    let bootstrap = ["--policy", policy.to_str().unwrap(), "--bootstrap", &first, "--bootstrap", &second];
    let ada = founder(&village, "ada", Lend::NOTHING, &bootstrap);
    listen_on(&ada, &shut.outside, Lend::NOTHING);
    let _ada = ada.start().unwrap();
    let ticket = ticket_with(&ada, &entries);
    // It listens on the loopback of a namespace: it can dial out, and nobody can dial it.
    let bob = guest(&village, "bob", Lend::ONE_CORE, &ticket);
    let node = shut.start(&bob);
    wait_member(&bob, 1, 2);
    bob.wait_status("it knows that nobody can dial it", SOON, |status| status["reachable"] == false).unwrap();
    ada.wait_status("the maintainer can be dialled", SOON, |status| status["reachable"] == true).unwrap();

    village.write("seq.toml", &recipe("seq", "", SCRIPT)).unwrap();
    ada.submit_and_wait(&village.write("batch.toml", &batch("b", &["seq"])).unwrap(), "60 s").unwrap();
    // Its tree and its log, at both.
    let pushed = |status: &Value| {
        let pushed = &status["pushed"];
        pushed["waiting"] == 0 && pushed["done"] == 2 && pushed["by_holder"].as_object().is_some_and(|holders| holders.len() == 2)
    };
    bob.wait_status("what it built is at two holders", SOON, pushed).unwrap();
    let said = bob.ok(&["status"]).unwrap();
    assert!(said.contains("can't reach it") && said.contains("2 outputs to 2 holders"), "{said}");
    let said = bob.ok(&["store", "stats"]).unwrap();
    assert!(said.contains("pushed") && said.contains("held there"), "{said}");
    node.kill();

    let output = output();
    let hash = blake3::hash(output.as_bytes()).to_string();
    for name in ["one", "two"] {
        assert!(has_file(&village.path(name), &hash), "{name} has the output");
    }
    let cyd = guest(&village, "cyd", Lend::NOTHING, &ticket);
    listen_on(&cyd, &shut.outside, Lend::NOTHING);
    let _cyd = cyd.start().unwrap();
    wait_member(&cyd, 1, 3);
    let to = village.path("fetched");
    let arguments = ["--json", "fetch", &hash, "-o", to.to_str().unwrap(), "--timeout", "30 s"];
    let document = wait("it is fetched", SOON, || {
        let ran = cyd.run(&arguments)?;
        Ok((ran.code == 0).then(|| serde_json::from_str::<Value>(ran.out.lines().last().unwrap_or_default()).unwrap()))
    })
    .unwrap();
    assert!(std::fs::read_to_string(&to).unwrap() == output);
    let from: BTreeSet<String> = document["bytes_by_peer"].as_object().unwrap().keys().cloned().collect();
    let known: BTreeSet<String> =
        list(&cyd.status().unwrap()["networks"][0]["holders"]).iter().map(|holder| text(holder).unwrap()).collect();
    assert!(!from.is_empty() && from.is_subset(&known), "it came from the holders: {document:#}");
}

/// Two copies are wanted and three holders are there. One is killed; the two that are left must both have everything.
#[test]
fn copies_of_a_release_are_made_again_when_a_holder_leaves() {
    let village = Village::new().unwrap();
    let names = ["one", "two", "three"];
    let mut holders = Vec::new();
    let mut entries = Vec::new();
    for name in names {
        let (process, address) = village.holder(name, "/ip4/127.0.0.1/tcp/0", "1 GiB").unwrap();
        holders.push(Some(process));
        entries.push(address);
    }
    let policy = policy(&village, 2);
    let mut create = vec!["--policy", policy.to_str().unwrap()];
    entries.iter().for_each(|address| create.extend(["--bootstrap", address]));
    let ada = founder(&village, "ada", Lend::ONE_CORE, &create);
    let _ada = ada.start().unwrap();
    village.write("seq.toml", &recipe("seq", "", SCRIPT)).unwrap();
    let id = ada.submit_and_wait(&village.write("batch.toml", &batch("b", &["seq"])).unwrap(), "60 s").unwrap();
    let key = ada.root().join("keys/oak.key");
    let release = ada.json(&["release", "publish", "nightly", "--batch", &id, "--key", key.to_str().unwrap()]).unwrap();
    let image = text(&release["targets"]["seq.bin"]["blake3"]).unwrap();
    assert_eq!(image, blake3::hash(output().as_bytes()).to_string());
    // Index, image, evidence.
    let kept = |status: &Value| {
        let kept = &status["networks"][0]["kept"];
        kept["looked_after"].as_u64() >= Some(3) && kept["lacking"] == 0 && kept["copies"] == 2
    };
    ada.wait_status("all of the release is on two holders", SOON, kept).unwrap();
    let having = || -> Vec<usize> { (0..3).filter(|index| has_file(&village.path(names[*index]), &image)).collect() };
    let before = having();
    assert_eq!(before.len(), 2, "on two, and not on all");
    let gone = before[0];
    holders[gone].take().unwrap().kill();
    let left: Vec<usize> = (0..3).filter(|index| *index != gone).collect();
    wait("the copies are made again", REPAIRED, || {
        let now = having();
        Ok(left.iter().all(|index| now.contains(index)).then_some(()))
    })
    .unwrap();
    ada.wait_status("nothing lacks", SOON, kept).unwrap();
    assert!(ada.ok(&["status"]).unwrap().contains("kept on 2 each"));
}

/// What the program says to wrong usage, and to what the machine lacks.
#[test]
fn holder_refuses_what_it_can_not_hold_in() {
    let village = Village::new().unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(barnraiser_tests::program("barn-bootstrap").unwrap())
            .args(["--listen", "/ip4/127.0.0.1/tcp/0"])
            .args(arguments)
            .env("XDG_DATA_HOME", village.path("data"))
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let store = village.path("store");
    let store = store.to_str().unwrap();
    for (arguments, code, wanted) in [
        (&["--hold", "much", "--store", store][..], 2, "not a size"),
        (&["--hold", "1 KiB", "--store", store], 2, "at least 16 MiB"),
        (&["--store", store], 2, "--hold"),
        (&["--hold", "1 GiB", "--store", "/proc/nowhere"], 1, "/proc/nowhere"),
    ] {
        let (found, said) = run(arguments);
        assert!(found == Some(code) && said.contains(wanted), "{arguments:?}: {found:?}: {said}");
    }
    let (_first, _) = village.holder("store", "/ip4/127.0.0.1/tcp/0", "1 GiB").unwrap();
    let (found, said) = run(&["--hold", "1 GiB", "--store", store]);
    assert!(found == Some(1) && said.contains("in use by another process"), "{found:?}: {said}");
}
