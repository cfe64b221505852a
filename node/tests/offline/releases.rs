//! Releases: signed offline, assembled, and files checked against them.

use barnraiser_node::home::Home;
use barnraiser_protocol::id::{ActionId, BlobHash, NetworkId, Sha256};
use barnraiser_protocol::release::{Origin, ReleaseTarget, ReleaseTargets, propose};
use barnraiser_protocol::time::Timestamp;

use super::{Bench, text};

const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(since.as_millis().try_into().unwrap())
}

/// What `release propose` writes, for one file.
fn draft(network: NetworkId, channel: &str, version: u64, bytes: &[u8], now: Timestamp) -> Vec<u8> {
    let origin =
        Origin { action: ActionId([1; 32]), evidence: BlobHash::of(b"e"), tree: BlobHash::of(b"t"), path: "image".into(), batch: None };
    let target = ReleaseTarget { blob: BlobHash::of(bytes), sha256: Sha256::of(bytes), length: bytes.len() as u64, origin: Some(origin) };
    let targets = ReleaseTargets::from([("LE.img".parse().unwrap(), target)]);
    propose(network, channel, version, &targets, now, Timestamp(now.0 + YEAR_MS)).unwrap().to_bytes()
}

/// A network of two maintainers, both of whom must sign; its id.
fn network(bench: &Bench) -> NetworkId {
    let mut arguments = vec!["network".to_owned(), "create".into(), "oak".into(), "-o".into(), "p.json".into()];
    for name in ["a", "b"] {
        bench.home(name);
        let made = bench.json(name, &["key", "new", &format!("{name}.key")]);
        arguments.extend(["--maintainer".into(), made["card"].as_str().unwrap().to_owned()]);
    }
    bench.ok("a", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    for name in ["a", "b"] {
        bench.ok(name, &["sign", "p.json", "--key", &format!("{name}.key"), "-o", &format!("{name}.psig")]);
    }
    bench.json("a", &["network", "open", "p.json", "a.psig", "b.psig"])["id"].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_release_is_signed_by_several_assembled_and_files_are_checked_against_it() {
    let bench = Bench::new();
    let id = network(&bench);
    std::fs::write(bench.path("r.json"), draft(id, "nightly", 3, b"image", now())).unwrap();
    for name in ["a", "b"] {
        // The signer's machine knows nothing of the network.
        let said = bench.ok("offline", &["sign", "r.json", "--key", &format!("{name}.key"), "-o", &format!("{name}.sig")]);
        assert!(said.contains("Release 3 of channel nightly") && said.contains(&BlobHash::of(b"image").to_string()), "{said}");
    }
    assert!(bench.fails(4, "a", &["release", "assemble", "r.json", "a.sig", "-o", "r.out"]).contains("1 of 2 signatures"));
    bench.fails(4, "a", &["release", "assemble", "r.json", "a.sig", "b.psig", "-o", "r.out"]);
    bench.fails(2, "a", &["release", "assemble", "p.json", "a.sig", "-o", "r.out"]);
    bench.fails(3, "offline", &["release", "assemble", "r.json", "a.sig", "b.sig", "-o", "r.out"]);
    assert!(!bench.path("r.out").exists());
    let assembled = bench.json("a", &["release", "assemble", "r.json", "a.sig", "b.sig", "-o", "r.out"]);
    assert_eq!((&assembled["number"], assembled["signers"].as_array().unwrap().len()), (&3.into(), 2));

    let image = bench.write("LE.img", "image");
    assert!(bench.fails(4, "a", &["verify", text(&image)]).contains("none of the 0 releases"));
    let with_document = bench.json("a", &["verify", text(&image), "--release", "r.out"]);
    assert_eq!(with_document["releases"][0]["signed-by"].as_array().unwrap().len(), 2);
    Home::at(&bench.path("a")).unwrap().save_release(&id, "nightly", &std::fs::read(bench.path("r.out")).unwrap()).unwrap();
    let verified = bench.json("a", &["verify", text(&image)]);
    assert_eq!((&verified["releases"][0]["name"], &verified["blake3"]), (&"LE.img".into(), &BlobHash::of(b"image").to_string().into()));
    assert!(bench.ok("a", &["verify", text(&image), "--channel", "nightly"]).contains("evidence"));
    bench.fails(4, "a", &["verify", text(&image), "--channel", "stable"]);
    let other = bench.write("other.img", "imagf");
    assert!(bench.fails(4, "a", &["verify", text(&other)]).contains(&BlobHash::of(b"imagf").to_string()));
    bench.fails(3, "a", &["verify", "missing.img"]);
    bench.fails(3, "offline", &["verify", text(&image)]);
    // A release whose bytes were changed on disk is an error, not a missing one.
    let kept = bench.path(&format!("a/networks/{id}/releases/nightly.json"));
    let forged = std::fs::read_to_string(&kept).unwrap().replace("\"length\":5", "\"length\":6");
    std::fs::write(&kept, forged.replace("\"length\": 5", "\"length\": 6")).unwrap();
    bench.fails(2, "a", &["verify", text(&image)]);
}

#[test]
fn an_expired_release_covers_nothing_unless_asked_for() {
    let bench = Bench::new();
    bench.home("h");
    let id: NetworkId = bench.json("h", &["network", "create", "oak"])["id"].as_str().unwrap().parse().unwrap();
    let long_ago = Timestamp(now().0 - 2 * YEAR_MS);
    std::fs::write(bench.path("r.json"), draft(id, "stable", 1, b"image", long_ago)).unwrap();
    bench.ok("h", &["sign", "r.json", "--key", "h/keys/oak.key", "-o", "r.sig"]);
    bench.ok("h", &["release", "assemble", "r.json", "r.sig", "-o", "r.out"]);
    let image = bench.write("LE.img", "image");
    assert!(bench.fails(4, "h", &["verify", text(&image), "--release", "r.out"]).contains("expired"));
    bench.ok("h", &["verify", text(&image), "--release", "r.out", "--allow-expired"]);
}

#[test]
fn what_cannot_be_signed_or_checked_is_refused() {
    let bench = Bench::new();
    bench.home("h");
    bench.ok("h", &["key", "new", "k.key"]);
    let garbage = bench.write("garbage", "not json");
    let other = bench.write("other.json", "{\"hello\": 1}");
    for file in [&garbage, &other] {
        bench.fails(2, "h", &["sign", text(file), "--key", "k.key", "-o", "x.sig"]);
        bench.fails(2, "h", &["release", "assemble", text(file), "x.sig", "-o", "y"]);
        bench.fails(2, "h", &["verdict", text(file)]);
    }
    bench.fails(3, "h", &["verdict", "missing"]);
    let id = NetworkId([7; 32]);
    std::fs::write(bench.path("r.json"), draft(id, "stable", 1, b"image", now())).unwrap();
    bench.fails(3, "h", &["sign", "r.json", "--key", "missing.key", "-o", "x.sig"]);
    bench.fails(2, "h", &["sign", "r.json", "--key", "h/node.key", "-o", "x.sig"]);
    assert!(!bench.path("x.sig").exists());
    // Nobody here knows that network, so nobody can say who may sign.
    bench.ok("h", &["sign", "r.json", "--key", "k.key", "-o", "x.sig"]);
    bench.fails(3, "h", &["release", "assemble", "r.json", "x.sig", "-o", "y"]);
    bench.fails(1, "h", &["sign", "r.json", "--key", "k.key", "-o", "no/such/folder.sig"]);
}
