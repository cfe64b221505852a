//! What each target begins with: a few good inputs, made by the code that makes them in earnest.

use barnraiser_protocol::bounded::BoundedVec;
use barnraiser_protocol::codec;
use barnraiser_protocol::id::{BlobHash, RecordId};
use barnraiser_protocol::record::Kind;
use barnraiser_protocol::sync::{Frame, ItemSet, Refusal, Session};
use barnraiser_protocol::ticket::{Ticket, Vouch};
use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::transfer::chunks::{CHUNKED_BYTES_MIN, ChunkKey, ChunkList, Cutting, KEY_BYTES};
use barnraiser_protocol::transfer::push::{Offered, PushRefusal, Pushed, Taken, Want};
use barnraiser_protocol::transfer::{Answer, ByteRange, Data, Held, Request, UnitSet};
use barnraiser_protocol::tree::{Entry, Tree};
use barnraiser_protocol::trust::charter::{Change, propose_change};
use barnraiser_protocol::trust::order::{Order, OrderDraft};

use crate::engine::Said;
use crate::samples;
use crate::targets::Target;
use crate::world::{START, World, maintainer, operator, operator_key};

/// (name, bytes) of each seed of a target; the same in every run.
pub fn of(target: &Target, world: &World) -> Vec<(String, Vec<u8>)> {
    match target.name {
        "record" => each_kind(|kind| samples::record(world, kind).map(|record| record.bytes())),
        "payload" => each_kind(|kind| {
            let payload = samples::payload(world, kind, 1)?;
            Some([kind.code().to_le_bytes().as_slice(), &payload.to_bytes()].concat())
        }),
        "graph" => vec![("two-jobs".into(), world.graph.to_bytes())],
        "tree" => vec![("some".into(), tree())],
        "ticket" => tickets(world),
        "sync" => sync(),
        "transfer" => transfer(),
        "push" => push(),
        "chunks" => vec![("two-units".into(), chunks())],
        "recipe" => recipes(),
        "tuf" => documents(world),
        "evidence" => world.evidence().into_iter().map(|bytes| ("one-builder".to_owned(), bytes)).collect(),
        "engine" => engine(world),
        other => unreachable!("the target {other} has no seeds"),
    }
}

fn each_kind(sample: impl Fn(Kind) -> Option<Vec<u8>>) -> Vec<(String, Vec<u8>)> {
    Kind::ALL.iter().filter_map(|kind| Some((format!("{kind:?}").to_lowercase(), sample(*kind)?))).collect()
}

fn tree() -> Vec<u8> {
    let mut tree = Tree::new();
    let entries = [
        ("bin/lua", Entry::File { hash: BlobHash([1; 32]), length: 5, executable: true }),
        ("lib/liblua.so", Entry::Symlink { target: "liblua.so.5".into() }),
        ("lib/liblua.so.5", Entry::File { hash: BlobHash([2; 32]), length: 7, executable: false }),
        ("share/empty", Entry::EmptyFolder),
    ];
    for (path, entry) in entries {
        // None of them collides.
        let _ = tree.insert(path, entry);
    }
    tree.to_bytes()
}

fn tickets(world: &World) -> Vec<(String, Vec<u8>)> {
    let vouch = Vouch::author(&operator_key(0), world.network(), 1, START, Timestamp::MAX, 3, &[7; 32]).ok();
    let addresses = || ["/ip4/192.0.2.1/tcp/7001".to_owned(), "/dns4/example.org/udp/7001/quic-v1".to_owned()];
    let ticket = |vouch| Some(Ticket::new(world.network(), "oak".parse().ok()?, addresses(), vouch).ok()?.to_string().into_bytes());
    [("plain", None), ("vouching", vouch)].into_iter().filter_map(|(name, vouch)| Some((name.to_owned(), ticket(vouch)?))).collect()
}

fn framed(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        let frame = codec::encode(frame);
        bytes.extend(u32::try_from(frame.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(frame);
    }
    bytes
}

/// Two sides whose sets differ a little.
fn sync() -> Vec<(String, Vec<u8>)> {
    let set = |from: u8, to: u8| -> ItemSet { (from..to).map(|n| (Timestamp(1000 + u64::from(n)), RecordId([n; 32]))).collect() };
    let (ours, theirs) = (set(0, 40), set(5, 50));
    let (ours, theirs) = (ours.window(Timestamp(1000), []), theirs.window(Timestamp(1000), []));
    let Ok(mut opener) = Session::open(&theirs) else { return Vec::new() };
    let mut answerer = Session::answer();
    let known = |ids: &[RecordId]| ids.iter().map(|id| vec![id.0[0]; 100]).collect::<Vec<_>>();
    let network = barnraiser_protocol::id::NetworkId([1; 32]);
    let first = opener.turn(known);
    let mut frames = vec![Frame::Open { network, cut: Timestamp(1000), turn: first.clone() }];
    let mut turn = first;
    for _ in 0..4 {
        let Ok(_) = answerer.handle(turn, &ours) else { break };
        let answer = answerer.turn(known);
        frames.push(Frame::Turn(answer.clone()));
        let Ok(_) = opener.handle(answer, &theirs) else { break };
        turn = opener.turn(known);
        frames.push(Frame::Turn(turn.clone()));
    }
    vec![("session".into(), framed(&frames)), ("refused".into(), framed(&[Frame::Refused(Refusal::Busy)]))]
}

fn transfer() -> Vec<(String, Vec<u8>)> {
    let (hash, range) = (BlobHash([1; 32]), ByteRange { start: 16, end: 4096 });
    let both = [range, ByteRange { start: 8192, end: 9000 }];
    let units = UnitSet::new([0, 3, 17]);
    let pieces = BoundedVec::try_from(both.to_vec()).unwrap_or_default();
    vec![
        ("have".into(), codec::encode(&Request::Have { hash, inline_max: 1000, end: true })),
        ("wait".into(), codec::encode(&Request::Wait { hash, units: 3 })),
        ("any".into(), codec::encode(&Request::Any { hash, wanted: units.clone(), zstd: true })),
        ("get".into(), codec::encode(&Request::Get { hash, range, zstd: true })),
        ("chunks".into(), codec::encode(&Request::Chunks { hash })),
        ("pieces".into(), codec::encode(&Request::Pieces { hash, ranges: pieces, zstd: true })),
        ("list".into(), codec::encode(&Answer::Chunks { list: hash, length: 9000 })),
        ("found".into(), codec::encode(&Answer::Found { length: 9000, held: Held::Units(units), data: Data::Encoded(range) })),
        ("busy".into(), codec::encode(&Answer::Busy)),
    ]
}

fn push() -> Vec<(String, Vec<u8>)> {
    let (hash, range) = (BlobHash([1; 32]), ByteRange { start: 1 << 20, end: 2 << 20 });
    let offered = vec![Offered { hash, length: 3 << 20 }, Offered { hash: BlobHash([2; 32]), length: 0 }];
    let offer = Pushed::Offer { blobs: BoundedVec::try_from(offered).unwrap_or_default(), part_of: Some(BlobHash([3; 32])) };
    let part = Want::Part(BoundedVec::try_from(vec![range]).unwrap_or_default());
    let wants = Taken::Wants(BoundedVec::try_from(vec![part, Want::Kept, Want::No(PushRefusal::Full)]).unwrap_or_default());
    vec![
        ("offer".into(), codec::encode(&offer)),
        ("unit".into(), codec::encode(&Pushed::Unit { blob: 1, range })),
        ("done".into(), codec::encode(&Pushed::Done)),
        ("wants".into(), codec::encode(&wants)),
        ("ended".into(), codec::encode(&Taken::Ended(PushRefusal::Busy))),
    ]
}

/// The shortest blob that has a list, cut as coarsely as can be.
fn chunks() -> Vec<u8> {
    let length = CHUNKED_BYTES_MIN + 1;
    let Cutting { block, max: cut, .. } = Cutting::of(length);
    let blocks = vec![ChunkKey([5; KEY_BYTES]); length.div_ceil(u64::from(block)) as usize];
    let lengths = std::iter::repeat_n(cut, (length / u64::from(cut)) as usize).chain([1]);
    let list = ChunkList::new(length, vec![[3; 32]; 2], blocks, lengths.map(|length| (length, ChunkKey([4; KEY_BYTES]))));
    // It is one by the rules above.
    list.map(|list| list.to_bytes()).unwrap_or_default()
}

const RECIPE: &str = r#"[recipe]
name = "lua"
version = "5.4.6"
epoch = 1700000000

[vars]
DEVICE = "{device}"

[[source]]
name = "lua"
urls = ["https://example.org/lua-5.4.6.tar.gz"]
sha256 = "7d5ea1b9cb6aa0b59ca3dde1c6adcb57ef83a1ba8e5432c0ecd06bf439b3ad88"

[environment]
rootfs = "host"
programs = ["cc"]

[[need]]
recipe = "zlib"
with = { device = "RPi5" }
only = ["lib/**"]

[steps]
build = "make -C lua"

[outputs]
"bin/lua" = "lua/src/lua"

[limits]
cores = 2
memory = "2 GiB"
wall = "30 min"

[platform]
os = "linux"
arch = ["x86_64", "aarch64"]
never = { "netbsd/m68k" = "panics" }
"#;

const BATCH: &str = r#"[batch]
name = "nightly"
channel = "nightly"
priority = "nightly"
recipes = ["recipes/*.toml"]
labels = { pr = "11704" }

[batch.targets]
"LE-{device}.img" = "lua/bin/lua"

[matrix]
device = ["RPi4", "RPi5"]
exclude = [{ device = "RPi4" }]
"#;

const JSON: &str = r#"{"recipe": {"name": "lua"}, "steps": {"build": "make"}, "outputs": {"out": "out"}, "limits": {"cores": 2}}"#;

fn recipes() -> Vec<(String, Vec<u8>)> {
    [("recipe", RECIPE), ("batch", BATCH), ("json", JSON)]
        .into_iter()
        .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
        .collect()
}

fn documents(world: &World) -> Vec<(String, Vec<u8>)> {
    let parts = world.charter.parts();
    let mut documents = vec![("rules".to_owned(), parts.targets.as_bytes().to_vec())];
    documents.extend(parts.roots.first().map(|root| ("root".to_owned(), root.as_bytes().to_vec())));
    documents.extend(parts.to_bundle().ok().map(|bundle| ("charter".to_owned(), bundle)));
    let change = propose_change(&world.charter, &[Change::Trust(operator(9))], START).ok();
    documents.extend(change.map(|change| ("proposal".to_owned(), change.to_bytes())));
    if let Ok(draft) = OrderDraft::new(&Order::ban(world.network(), operator(9), START, "a wrong known answer")) {
        documents.push(("ban".to_owned(), draft.to_bytes()));
        documents.push(("signature".to_owned(), draft.sign(&maintainer(0)).to_bytes()));
    }
    documents
}

/// All samples one after the other, by several authors and with several contents; and a few that answer each other.
fn engine(world: &World) -> Vec<(String, Vec<u8>)> {
    let (mut all, mut twice) = (Vec::new(), Vec::new());
    for kind in Kind::ALL {
        for variant in 0..3 {
            let Some(payload) = samples::payload(world, *kind, variant) else { continue };
            let payload = payload.to_bytes();
            let said = |author, ahead| Said { author, wait_s: 7, ahead, code: kind.code(), payload: &payload };
            if variant == 0 {
                said(0, 0).write(&mut all);
            }
            if matches!(kind, Kind::Commitment | Kind::Reveal | Kind::Seal | Kind::Claim | Kind::Renewal) {
                said(1, 0).write(&mut twice);
                said(4, if variant == 1 { 3 } else { -3 }).write(&mut twice);
            }
        }
    }
    vec![("every-kind".into(), all), ("contradictions".into(), twice)]
}
