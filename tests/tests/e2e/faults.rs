//! What dies, and what is damaged.

use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use barnraiser_tests::{Lend, Village, batch, list, recipe, text, wait};

use super::{SOON, founder, guest, ticket, wait_member};

/// How long a lease lasts in these tests without a sign of life.
const LEASE_TTL: Duration = Duration::from_secs(4);
/// A slot is taken over within its lease's expiry and this.
const TAKE_OVER: Duration = Duration::from_secs(5);

/// `kill -9` in mid-build: whoever is idle takes the slot, and the batch completes.
#[test]
fn slot_of_a_builder_that_was_killed_is_taken_over() {
    let village = Village::new().unwrap();
    let (_bootstrap, address) = village.bootstrap().unwrap();
    let ttl = LEASE_TTL.as_secs().to_string();
    let ada = founder(&village, "ada", Lend::NOTHING, &["--policy", "small", "--lease-ttl", &ttl, "--bootstrap", &address]);
    let _ada = ada.start().unwrap();
    let ticket = ticket(&ada, &address);
    let mut builders = Vec::new();
    for name in ["bob", "cyd", "dan"] {
        let home = guest(&village, name, Lend::ONE_CORE, &ticket);
        let node = home.start().unwrap();
        builders.push((home.operator().unwrap(), home, Some(node)));
    }
    for (_, home, _) in &builders {
        wait_member(home, 1, 4);
    }
    wait_member(&ada, 1, 4);

    village.write("slow.toml", &recipe("slow", "", "sleep 8; echo slow > out")).unwrap();
    let id = ada.submit(&village.write("batch.toml", &batch("b", &["slow"])).unwrap()).unwrap();
    let job = format!("{id}/slow");
    let held = |job: &serde_json::Value| list(&job["slots"]).iter().filter(|slot| slot["state"] == "held").count();
    let before = ada.wait_job("both slots are held", &job, SOON, |job| held(job) == 2).unwrap();
    // Mid-build, not only on the way to it.
    let victim_slot = &list(&before["slots"])[0];
    let victim = text(&victim_slot["operator"]).unwrap();
    let (_, home, node) = builders.iter_mut().find(|(operator, ..)| *operator == victim).unwrap();
    home.wait_status("it builds", SOON, |status| !list(&status["builds"]).is_empty()).unwrap();
    node.take().unwrap().kill();
    let killed = Instant::now();

    let slot = victim_slot["slot"].clone();
    let taken = |job: &serde_json::Value| {
        list(&job["slots"]).iter().any(|now| now["slot"] == slot && now["state"] == "held" && now["operator"] != *victim)
    };
    ada.wait_job("the slot is taken over", &job, LEASE_TTL + TAKE_OVER, taken).unwrap();
    // The wait's last look may have begun in time and ended late.
    assert!(killed.elapsed() <= LEASE_TTL + TAKE_OVER + Duration::from_secs(1), "{:?}", killed.elapsed());
    let done = ada.wait_job("the batch completes", &job, SOON, |job| job["state"] == "cross-verified").unwrap();
    let agreeing = list(&done["verdict"]["agreeing"]);
    assert!(agreeing.len() == 2 && !agreeing.contains(&victim.clone().into()), "{done:#}");

    // The home of a node that was killed starts again, and hears what happened.
    let (_, home, node) = builders.iter_mut().find(|(operator, ..)| *operator == victim).unwrap();
    *node = Some(home.start().unwrap());
    home.wait_job("it knows the verdict", &job, SOON, |job| job["state"] == "cross-verified").unwrap();
}

/// Processes whose command line names something below `folder`, with their command lines.
fn processes_of(folder: &Path) -> Vec<String> {
    let name = folder.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(name)).collect()
}

/// Bubblewrap asks the kernel to end it with its parent. A node that was killed before it had asked left it behind, with
/// the whole build in it.
#[test]
fn sandbox_does_not_outlive_a_node_that_is_killed_while_it_is_set_up() {
    let village = Village::new().unwrap();
    let home = founder(&village, "ada", Lend::ONE_CORE, &[]);
    // As bubblewrap on a machine that is busy: it gets no time until the node is dead.
    let (begun, go_on) = (village.path("begun"), village.path("go-on"));
    let slow = village
        .write(
            "bin/bwrap",
            &format!(
                "#!/bin/sh\nPATH=/usr/local/bin:/usr/bin:/bin\ncase \"$*\" in *--json-status-fd*)\n  : >{}\n  n=0\n  \
                 while [ ! -e {} ] && [ $n -lt 600 ]; do sleep 0.1; n=$((n + 1)); done ;;\nesac\nexec bwrap \"$@\"\n",
                begun.display(),
                go_on.display()
            ),
        )
        .unwrap();
    std::fs::set_permissions(&slow, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", slow.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let node = home.start_with(|command| _ = command.env("PATH", path)).unwrap();
    village.write("slow.toml", &recipe("slow", "", "sleep 300")).unwrap();
    home.submit(&village.write("batch.toml", &batch("b", &["slow"])).unwrap()).unwrap();
    wait("the sandbox is being set up", SOON, || Ok(begun.exists().then_some(()))).unwrap();
    node.kill();
    assert!(!processes_of(village.path("").as_path()).is_empty(), "the launcher is there still");
    std::fs::write(&go_on, "").unwrap();
    wait("nothing of the build is left", Duration::from_secs(30), || Ok(processes_of(village.path("").as_path()).is_empty().then_some(())))
        .unwrap();

    // And of one that runs, nothing either.
    let node = home.start().unwrap();
    home.wait_status("it builds", SOON, |status| list(&status["builds"]).iter().any(|build| build["step"] == "build")).unwrap();
    node.kill();
    wait("nothing of the build is left", Duration::from_secs(30), || Ok(processes_of(village.path("").as_path()).is_empty().then_some(())))
        .unwrap();
}

/// Damage on disk is found when the bytes are read: nobody gets them, not the owner either.
#[test]
fn blob_that_was_damaged_on_disk_is_not_served() {
    let village = Village::new().unwrap();
    let (_bootstrap, address) = village.bootstrap().unwrap();
    let ada = founder(&village, "ada", Lend::ONE_CORE, &["--bootstrap", &address]);
    let _ada = ada.start().unwrap();
    // Large enough to be a file of its own, of several ranges.
    village.write("big.toml", &recipe("big", "", "seq 1 100000 > out")).unwrap();
    let id = ada.submit_and_wait(&village.write("batch.toml", &batch("b", &["big"])).unwrap(), "60 s").unwrap();
    let key = ada.root().join("keys/oak.key");
    let release = ada.json(&["release", "publish", "nightly", "--batch", &id, "--key", key.to_str().unwrap()]).unwrap();
    let hash = text(&release["targets"]["big.bin"]["blake3"]).unwrap();
    let ticket = ticket(&ada, &address);
    let bob = guest(&village, "bob", Lend::NOTHING, &ticket);
    let _bob = bob.start().unwrap();
    wait_member(&bob, 1, 2);

    let blob = ada.root().join("store/blobs").join(&hash[..2]).join(&hash);
    std::fs::set_permissions(&blob, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&blob).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 300_000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 300_000).unwrap();
    file.sync_all().unwrap();

    let to = village.path("out");
    bob.fails(6, &["fetch", &hash, "-o", to.to_str().unwrap(), "--timeout", "8 s"]).unwrap();
    assert!(!to.exists(), "nothing that is not verified whole is put there");
    let own = ada.run(&["fetch", &hash, "-o", to.to_str().unwrap(), "--timeout", "8 s"]).unwrap();
    assert!(own.code != 0 && !to.exists(), "{} {}", own.code, own.out);

    // As soon as somebody has good bytes, they come from there.
    let good: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    assert_eq!(blake3::hash(good.as_bytes()).to_hex().to_string(), hash);
    let cyd = guest(&village, "cyd", Lend::ONE_CORE, &ticket);
    let _cyd = cyd.start().unwrap();
    wait_member(&cyd, 1, 3);
    cyd.ok(&["id"]).unwrap();
    // An action that nobody has built yet has the same output.
    village.write("again.toml", &recipe("again", "", "seq 100000 > out")).unwrap();
    ada.ok(&["network", "trust", &cyd.operator().unwrap()]).unwrap();
    for home in [&ada, &bob, &cyd] {
        wait_member(home, 2, 3);
    }
    ada.ok(&["pause"]).unwrap();
    ada.submit_and_wait(&village.write("again-batch.toml", &batch("again", &["again"])).unwrap(), "60 s").unwrap();
    bob.ok(&["fetch", &hash, "-o", to.to_str().unwrap(), "--timeout", "30 s"]).unwrap();
    assert_eq!(std::fs::read_to_string(&to).unwrap(), good);
}
