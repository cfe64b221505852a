//! Peers that mean harm, and machines that lack what a node needs.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use barnraiser_bootstrap::identity::{keypair, node_id, peer_of};
use barnraiser_bootstrap::substream::{Behaviour, Lane, Opener, frame};
use barnraiser_bootstrap::{BlobAccess, Limits, Multiaddr, Net, NetConfig, PeerId, RecordSource, Strangers, Topic, swarm};
use barnraiser_protocol::id::{ActionId, BatchId, BlobHash, NetworkId, NodeId, RecordId};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::record::payload::{Batch, Metadata, Priority, Retry};
use barnraiser_protocol::record::{Payload, RECORD_BYTES_MAX, Record, SharedRecord};
use barnraiser_protocol::sync::{ItemSet, SYNC_PROTOCOL, Window};
use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::transfer::{Answer, BLOB_PROTOCOL, ByteRange, FRAME_BYTES_MAX, Request};
use barnraiser_store::{Durability, Store};
use barnraiser_tests::{Home, Lend, Process, Village, batch, list, recipe, text, wait};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::swarm::StreamProtocol;
use serde_json::Value;

use super::{SOON, founder, guest, ticket, wait_member};

/// What makes a node say which records it refuses.
const TALKATIVE: &str = "info,barnraiser_node=debug,barnraiser_bootstrap=debug";

fn now() -> Timestamp {
    barnraiser_node::daemon::engines::now()
}

fn log(home: &Home) -> String {
    std::fs::read_to_string(home.log()).unwrap()
}

fn network_of(status: &Value) -> (NetworkId, u64) {
    let network = &status["networks"][0];
    (text(&network["id"]).unwrap().parse().unwrap(), network["records"].as_u64().unwrap())
}

fn address_of(home: &Home) -> Multiaddr {
    text(&list(&home.status().unwrap()["addresses"])[0]).unwrap().parse().unwrap()
}

/// A node that has said what it has to say: afterwards its number of records changes by what others say only.
fn settled(home: &Home) -> Value {
    let present = |status: &Value| list(&status["networks"][0]["operators"]).iter().any(|operator| operator["nodes"][0][1] == true);
    home.wait_status("it said that it is there", SOON, present).unwrap()
}

/// Waits until `condition` holds; what [`wait`] is for what only the network's tasks can say.
async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let end = Instant::now() + SOON;
    while !condition().await {
        assert!(Instant::now() < end, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Opens streams to a node, and writes on them what it likes.
struct Raw {
    id: NodeId,
    peer: PeerId,
    opener: Opener,
}

impl Raw {
    fn dial(address: Multiaddr) -> Self {
        let key = SecretKey::from_seed(&[66; 32]);
        let (behaviour, opener, _) = Behaviour::new(&[]);
        let mut swarm = swarm::swarm(keypair(&key).unwrap(), behaviour).unwrap();
        let peer = peer_of(&address).unwrap();
        swarm.dial(address).unwrap();
        tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        Self { id: key.node(), peer, opener }
    }

    async fn open(&self, protocol: &'static str) -> libp2p::swarm::Stream {
        // Once more where it was not connected yet.
        until("it is connected", async || self.opener.open(self.peer, StreamProtocol::new(protocol), Lane::Control).await.is_ok()).await;
        self.opener.open(self.peer, StreamProtocol::new(protocol), Lane::Control).await.unwrap()
    }

    /// Writes `bytes` on a new stream, closes it, and gives what is answered.
    async fn say(&self, protocol: &'static str, bytes: &[u8]) -> Vec<u8> {
        answer(self.open(protocol).await, bytes).await
    }

    async fn try_say(&self, protocol: &'static str, bytes: &[u8]) {
        if let Ok(stream) = self.opener.open(self.peer, StreamProtocol::new(protocol), Lane::Control).await {
            answer(stream, bytes).await;
        }
    }
}

async fn answer(mut stream: libp2p::swarm::Stream, bytes: &[u8]) -> Vec<u8> {
    // The node may have closed it in the middle, and may reset it instead of answering.
    let _ = stream.write_all(bytes).await;
    let _ = stream.close().await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.read_to_end(&mut answer)).await;
    answer
}

/// A peer that speaks every protocol as it should, and says on them what it likes.
struct Stranger {
    net: Net,
    key: SecretKey,
    network: NetworkId,
    offered: Arc<Offered>,
}

/// The records that it offers in exchanges: whatever bytes, under whatever ids.
#[derive(Default)]
struct Offered(Mutex<Vec<(RecordId, Vec<u8>)>>);

impl RecordSource for Offered {
    fn look(&self, _: &NetworkId, cut: Timestamp, look: &mut dyn FnMut(&Window<'_>)) {
        let items: ItemSet = self.0.lock().unwrap().iter().map(|(id, _)| (Timestamp::MAX, *id)).collect();
        look(&items.window(cut, []));
    }
    fn get(&self, _: &NetworkId, ids: &[RecordId]) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().iter().filter(|(id, _)| ids.contains(id)).map(|(_, bytes)| bytes.clone()).collect()
    }
}

struct Everybody;

impl BlobAccess for Everybody {
    fn may_serve(&self, _: &BlobHash, _: &NodeId) -> bool {
        true
    }
}

impl Stranger {
    async fn meet(village: &Village, network: NetworkId, address: Multiaddr, offered: Vec<(RecordId, Vec<u8>)>) -> Self {
        let key = SecretKey::from_seed(&[77; 32]);
        let offered = Arc::new(Offered(Mutex::new(offered)));
        let config = NetConfig {
            key: key.clone(),
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
            external: Vec::new(),
            agent: "stranger".into(),
            limits: Limits::default(),
            store: Store::open(&village.path("stranger")).unwrap(),
            access: Arc::new(Everybody),
            records: offered.clone(),
            branches: Arc::new(Strangers),
        };
        let (net, mut events) = barnraiser_bootstrap::start(config).await.unwrap();
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        net.join(network, Vec::new(), vec![address]).await.unwrap();
        until("it meets the node", async || net.peers().await.iter().any(|peer| peer.networks.contains(&network))).await;
        Self { net, key, network, offered }
    }

    async fn gossip(&self, bytes: Vec<u8>) {
        self.net.publish(self.network, Topic::Control, bytes).await.unwrap();
    }

    /// A record that is signed as it should be, for `network`.
    fn record(&self, network: NetworkId, payload: Payload) -> SharedRecord {
        Record::author(&self.key, network, 1, now(), now() + Duration::from_secs(3600), payload).unwrap()
    }

    fn batch(&self) -> Payload {
        Payload::Batch(
            Batch {
                name: "mine".try_into().unwrap(),
                channel: "nightly".try_into().unwrap(),
                priority: Priority::Security,
                graph: BlobHash([1; 32]),
                graph_length: 1000,
                jobs: 1,
                policy: BlobHash([2; 32]),
                nonce: [3; 32],
                revision: "".try_into().unwrap(),
                url: "".try_into().unwrap(),
                labels: Default::default(),
            }
            .into(),
        )
    }
}

fn wait_refusals(home: &Home, count: usize) {
    wait("bad records are refused", SOON, || Ok((log(home).matches("refused a record").count() >= count).then_some(()))).unwrap();
}

/// Garbage on every protocol of ours and below ours: the node goes on, believes nothing of it, and knows who it was.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_and_oversized_messages_are_refused_and_counted() {
    let village = Village::new().unwrap();
    let ada = founder(&village, "ada", Lend::NOTHING, &[]);
    let node = ada.start_with(|command| _ = command.env("BARN_LOG", TALKATIVE)).unwrap();
    let (network, before) = network_of(&settled(&ada));

    let raw = Raw::dial(address_of(&ada));
    let frame = |length: u32, bytes: &[u8]| [&length.to_le_bytes(), bytes].concat();
    let oversized = frame(1 << 30, &[0; 64]);
    let malformed = frame(8, &[255; 8]);
    // Says that more comes, and hangs up.
    let cut_off = frame(100, &[1, 2, 3]);
    for protocol in [BLOB_PROTOCOL, SYNC_PROTOCOL] {
        for bytes in [&oversized, &malformed, &cut_off] {
            assert!(raw.say(protocol, bytes).await.is_empty(), "{protocol}");
        }
    }
    // A well-formed request for nonsense is answered, and the stream goes on.
    let mut stream = raw.open(BLOB_PROTOCOL).await;
    for range in [ByteRange { start: 9, end: 3 }, ByteRange { start: 0, end: u64::MAX }, ByteRange { start: 5, end: 5 }] {
        frame::write(&mut stream, &Request::Get { hash: BlobHash([9; 32]), range, zstd: false }).await.unwrap();
        let answer: Option<Answer> = frame::read(&mut stream, FRAME_BYTES_MAX).await.unwrap();
        assert_eq!(answer, Some(Answer::NotFound));
    }
    wait("it is counted who sent it", SOON, || {
        let peers = ada.json(&["peers"])?;
        let found = list(&peers["peers"]).iter().find(|peer| peer["node"] == raw.id.to_string());
        // An end in the middle of a frame may be an accident of the line.
        Ok(found.filter(|peer| peer["faults"].as_u64() >= Some(4)).map(|_| ()))
    })
    .unwrap();
    assert!(log(&ada).contains("a peer misbehaved"));
    // libp2p's own protocols; it may refuse the second stream of one on which the first was broken.
    for protocol in ["/meshsub/1.1.0", "/barn/kad/1", "/ipfs/id/push/1.0.0"] {
        for bytes in [&[255; 4096][..], b"\x05hello"] {
            raw.try_say(protocol, bytes).await;
        }
    }

    // As a peer of the network: garbage that gossip carries, and that an exchange of records brings.
    let offered = vec![(RecordId([5; 32]), b"no record".to_vec()), (RecordId([6; 32]), vec![0; RECORD_BYTES_MAX])];
    let stranger = Stranger::meet(&village, network, address_of(&ada), offered).await;
    wait_refusals(&ada, 2);
    let good = stranger.record(network, stranger.batch());
    let mut forged = good.bytes().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    // Of a type that only a later version would know, which is no reason to pass on what nobody signed.
    let mut later = good.bytes().to_vec();
    later[..2].copy_from_slice(&60_000u16.to_le_bytes());
    for bytes in [vec![7; RECORD_BYTES_MAX], good.bytes()[..good.bytes().len() / 2].to_vec(), forged, later] {
        stranger.gossip(bytes).await;
    }
    wait_refusals(&ada, 6);

    let (_, after) = network_of(&ada.status().unwrap());
    assert_eq!(after, before, "it took a record");
    assert!(!log(&ada).contains("panicked"), "{}", log(&ada));
    node.stop().unwrap();
}

/// A record of another network is not kept, however well it is signed. One of somebody who is no member has no effect.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_strangers_and_of_other_networks_have_no_effect() {
    let village = Village::new().unwrap();
    let ada = founder(&village, "ada", Lend::ONE_CORE, &[]);
    let _node = ada.start_with(|command| _ = command.env("BARN_LOG", TALKATIVE)).unwrap();
    let status = settled(&ada);
    let (network, before) = network_of(&status);
    let foreign = NetworkId([9; 32]);

    let stranger = Stranger::meet(&village, network, address_of(&ada), Vec::new()).await;
    let gossiped = stranger.record(foreign, stranger.batch());
    stranger.gossip(gossiped.bytes().to_vec()).await;
    wait_refusals(&ada, 1);
    // The same by an exchange, which its own node would never begin.
    let other = stranger.record(foreign, Payload::Retry(Retry { batch: BatchId([1; 32]), actions: Default::default() }));
    stranger.offered.0.lock().unwrap().push((other.id(), other.bytes().to_vec()));
    let node = node_id(&peer_of(&address_of(&ada)).unwrap()).unwrap();
    until("an exchange", async || stranger.net.sync_with(network, node).await.is_ok()).await;
    wait_refusals(&ada, 2);
    assert!(log(&ada).contains("record of network 0909090909"), "{}", log(&ada));
    assert_eq!(network_of(&ada.status().unwrap()).1, before, "a record of another network is kept");

    // What is there under another version's number is looked at once and not again and again.
    let entry = barnraiser_node::home::Home::at(ada.root()).unwrap().networks().unwrap().remove(0);
    let bundle = entry.charter.unwrap().parts().to_bundle().unwrap();
    let role = "charter".try_into().unwrap();
    let (blob, length) = (BlobHash::of(&bundle), bundle.len() as u64);
    let lie = stranger.record(network, Payload::Metadata(Metadata { role, version: u64::MAX, blob, length }));
    stranger.gossip(lie.bytes().to_vec()).await;
    let said = || log(&ada).matches("metadata can't be taken").count();
    wait("the lie is noticed", SOON, || Ok((said() > 0).then_some(()))).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(said(), 1);
    let before = before + 1;

    // Its own network's, by somebody who may not submit. Certificates may come later, so it is not thrown away at once.
    stranger.gossip(stranger.record(network, stranger.batch()).bytes().to_vec()).await;
    ada.wait_status("it came", SOON, |status| network_of(status).1 > before).unwrap();
    let batches = ada.json(&["batch"]).unwrap();
    let live = list(&batches["batches"]).iter().filter(|batch| batch["halted"].is_null()).count();
    assert_eq!(live, 0, "{batches:#}");
    let after = ada.status().unwrap();
    assert_eq!(after["networks"][0]["operators"], status["networks"][0]["operators"]);
    assert_eq!((list(&after["builds"]).len(), &after["resting"]), (0, &Value::Null));
    assert!(!log(&ada).contains("panicked"), "{}", log(&ada));
}

/// The words before a shell script that make it run in namespaces of its own; root needs no user namespace for mounts.
fn namespaces(kinds: &[&'static str]) -> Vec<&'static str> {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    let own_user = (!root && !kinds.contains(&"--user")).then_some("--map-root-user");
    [&["unshare"], kinds].concat().into_iter().chain(own_user).collect()
}

/// Makes `command` one that runs `script` in namespaces of its own first. It stays the same process.
fn beneath(command: &mut Command, kinds: &[&'static str], script: &str, arguments: &[&Path]) {
    let words = namespaces(kinds);
    let mut outer = Command::new(words[0]);
    outer.args(&words[1..]).args(["sh", "-c", &format!("{script}\nshift {}\nexec \"$@\"", arguments.len()), "sh"]).args(arguments);
    outer.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer.current_dir(command.get_current_dir().unwrap()).stdin(Stdio::null());
    *command = outer;
}

/// Whether that script can be run here at all; says why not.
fn can(kinds: &[&'static str], script: &str, arguments: &[&Path]) -> bool {
    let mut command = Command::new("true");
    command.current_dir("/");
    beneath(&mut command, kinds, script, arguments);
    match command.output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            eprintln!("not tried, since it can't be set up here: {}", String::from_utf8_lossy(&output.stderr).trim());
            false
        }
        Err(error) => {
            eprintln!("not tried: unshare: {error}");
            false
        }
    }
}

/// Starts a node like [`Home::start`], with `script` run before it in namespaces of its own.
fn start_beneath(home: &Home, kinds: &[&'static str], script: &str, arguments: &[&Path]) -> Process {
    let change = |command: &mut Command| {
        beneath(command, kinds, script, arguments);
        let log = File::options().append(true).open(home.log()).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
    };
    home.start_with(change).unwrap()
}

const SMALL_DISK: &str = "mkdir -p \"$1\" && mount -t tmpfs -o size=64m tmpfs \"$1\" || exit 1";

/// Takes room away, up to `bytes` or to the last byte.
fn fill(path: &Path, bytes: usize) {
    let _ = std::fs::write(path, vec![1; bytes]);
}

/// A disk without room stops what needs room, with words that name it and with its exit code. Everything else goes on,
/// and all of it once there is room again.
#[tokio::test(flavor = "multi_thread")]
async fn full_disk_stops_only_what_needs_room() {
    let village = Village::new().unwrap();
    if !can(&["--mount"], SMALL_DISK, &[&village.path("trial")]) {
        return;
    }
    let (_bootstrap, address) = village.bootstrap().unwrap();
    let ada = founder(&village, "ada", Lend::NOTHING, &["--bootstrap", &address]);
    let bob = guest(&village, "bob", Lend::NOTHING, &ticket(&ada, &address));
    let theirs: Vec<u8> = (0..3_000_000u32).map(|number| number as u8 ^ (number >> 9) as u8).collect();
    let hash = Store::open(&bob.root().join("store")).unwrap().import_bytes(&theirs, Durability::Announced).unwrap().to_string();
    let store = ada.root().join("store");
    let node = start_beneath(&ada, &["--mount"], SMALL_DISK, &[&store]);
    let _bob = bob.start().unwrap();
    wait_member(&ada, 1, 2);
    // The disk as the node sees it.
    let inside = |name: &str| -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", node.pid()));
        root.join(store.strip_prefix("/").unwrap()).join(name)
    };

    let file = |name: &str| {
        let source = format!("[[source]]\nname = \"src\"\npath = \"{name}.bin\"\nunpack = false\n");
        village.write(&format!("{name}.toml"), &recipe(name, &source, "true")).unwrap();
        let bytes = name.repeat(200_000);
        village.write(&format!("{name}.bin"), &bytes).unwrap();
        (village.write(&format!("{name}-batch.toml"), &batch(name, &[name])).unwrap(), bytes)
    };
    let (first, announced) = file("first");
    let first = ada.submit(&first).unwrap();
    let announced_hash = blake3::hash(announced.as_bytes()).to_hex().to_string();
    let (second, _) = file("second");
    let second = second.to_str().unwrap();

    fill(&inside("ballast"), 44 << 20);
    let to = village.path("out");
    let to = to.to_str().unwrap();
    for refused in [&["submit", second][..], &["fetch", &hash, "-o", to, "--timeout", "30 s"]] {
        let error = ada.fails(1, refused).unwrap();
        assert!(error.contains("no space left") && error.contains(store.to_str().unwrap()), "{error}");
    }
    assert!(!Path::new(to).exists());
    assert_eq!(std::fs::read_dir(inside("tmp")).unwrap().count(), 0, "something half-written is left");
    for home in [&ada, &bob] {
        home.ok(&["fetch", &announced_hash, "-o", to, "--timeout", "30 s"]).unwrap();
        assert!(std::fs::read(to).unwrap() == announced.as_bytes());
    }
    assert_eq!(list(&ada.json(&["batch"]).unwrap()["batches"]).len(), 1, "what was refused is not there");

    // Now the database has no room for a record either: nothing is said that would be forgotten.
    let (network, _) = network_of(&ada.status().unwrap());
    fill(&inside("more"), 64 << 20);
    // Many strangers: one may say little.
    let flood = || {
        let actions: Vec<ActionId> = (0..64).map(|number| ActionId([number; 32])).collect();
        let retry = |number: u64| {
            let mut batch = [0; 32];
            batch[..8].copy_from_slice(&number.to_le_bytes());
            let payload = Payload::Retry(Retry { batch: BatchId(batch), actions: actions.clone().try_into().unwrap() });
            let stranger = SecretKey::from_seed(&[78 + u8::try_from(number / 200).unwrap(); 32]);
            Record::author(&stranger, network, number, now(), now() + Duration::from_secs(3600), payload).unwrap()
        };
        (0..3000).map(retry).map(|record| (record.id(), record.bytes().to_vec())).collect::<Vec<_>>()
    };
    let stranger = Stranger::meet(&village, network, address_of(&ada), flood()).await;
    wait("the database is full", SOON, || Ok(log(&ada).contains("records can't be written").then_some(()))).unwrap();
    let error = ada.fails(1, &["cancel", &first]).unwrap();
    assert!(error.contains("no space left") && error.contains("nobody was told"), "{error}");
    let resting = |status: &Value| status["resting"].as_str().is_some_and(|why| why.contains("nothing can be written"));
    let status = ada.wait_status("it says why it stands still", SOON, resting).unwrap();
    assert!(status["resting"].as_str().unwrap().contains("no space left"), "{status:#}");
    let cancelled = |home: &Home| Ok::<_, anyhow::Error>(!home.json(&["batch", &first])?["batch"]["halted"].is_null());
    assert!(!cancelled(&bob).unwrap(), "it was told what may be forgotten");
    drop(stranger);

    std::fs::remove_file(inside("ballast")).unwrap();
    std::fs::remove_file(inside("more")).unwrap();
    ada.wait_status("it goes on", SOON, |status| !resting(status)).unwrap();
    wait("the other node hears of it", SOON, || Ok(cancelled(&bob)?.then_some(()))).unwrap();
    ada.ok(&["submit", second]).unwrap();
    ada.ok(&["fetch", &hash, "-o", to, "--timeout", "30 s"]).unwrap();
    assert!(std::fs::read(to).unwrap() == theirs);
    assert!(!log(&ada).contains("panicked"), "{}", log(&ada));
    node.stop().unwrap();
}

/// Only the namespace's own limit is changed.
const NO_NAMESPACES: &str = "echo 0 > /proc/sys/user/max_user_namespaces || exit 1";

#[test]
fn machine_that_forbids_user_namespaces_says_so_and_takes_no_work() {
    let village = Village::new().unwrap();
    let kinds = ["--user", "--map-root-user"];
    if !can(&kinds, NO_NAMESPACES, &[]) {
        return;
    }
    let home = founder(&village, "ada", Lend::ONE_CORE, &[]);
    let one = village.write("one.toml", &recipe("one", "", "echo 1 > out")).unwrap();
    for arguments in [&["doctor"][..], &["build", one.to_str().unwrap()]] {
        let mut command = home.command();
        command.args(arguments);
        beneath(&mut command, &kinds, NO_NAMESPACES, &[]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("user namespaces") && said.contains("sysctl -w user.max_user_namespaces"), "{said}");
    }

    let _node = start_beneath(&home, &kinds, NO_NAMESPACES, &[]);
    let status = home.wait_status("it rests", SOON, |status| status["resting"].is_string()).unwrap();
    assert!(status["resting"].as_str().unwrap().contains("user namespaces"), "{status:#}");
    let error = home.fails(1, &["resume"]).unwrap();
    assert!(error.contains("user namespaces"), "{error}");
    let file = village.write("batch.toml", &batch("b", &["one"])).unwrap();
    let error = home.fails(6, &["submit", file.to_str().unwrap(), "--wait", "--timeout", "2 s"]).unwrap();
    assert!(error.contains("0 of 1"), "{error}");
    assert!(list(&home.status().unwrap()["builds"]).is_empty());
}

/// What a node says of it is in `input.rs`.
#[test]
fn build_without_bwrap_says_what_to_install() {
    let village = Village::new().unwrap();
    let home = village.home("ada");
    let one = village.write("one.toml", &recipe("one", "", "echo 1 > out")).unwrap();
    let empty = village.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let output = home.command().args(["build", one.to_str().unwrap()]).env("PATH", &empty).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("apt-get install bubblewrap"), "{said}");
}
