//! The targets: each takes any bytes, and panics only where a property does not hold. What it returns says in few words
//! what became of them; an input with a new ending is worth changing further.

use std::sync::Arc;

use barnraiser_protocol::codec;
use barnraiser_protocol::evidence::Evidence;
use barnraiser_protocol::graph::{Graph, GraphError, Packed};
use barnraiser_protocol::id::{NetworkId, RecordId};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::recipe::{DIAGNOSTICS_MAX, Diagnostic, parse_batch, parse_recipe};
use barnraiser_protocol::record::{Kind, Payload, Record};
use barnraiser_protocol::sync::{Frame, ItemSet, SYNC_FRAME_BYTES_MAX, Session, Turn};
use barnraiser_protocol::ticket::Ticket;
use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::transfer::chunks::ChunkList;
use barnraiser_protocol::transfer::push::{OFFERED_MAX, PUSH_FRAME_BYTES_MAX, Pushed, Taken};
use barnraiser_protocol::transfer::{Answer, FRAME_BYTES_MAX, PIECES_MAX, Request, UNIT_SET_BYTES_MAX};
use barnraiser_protocol::tree::Tree;
use barnraiser_protocol::trust::charter::CharterParts;
use barnraiser_protocol::trust::tuf::{Metadata, Root, Signed, Targets};
use barnraiser_protocol::trust::{Signable, SignatureFile};

/// Something that reads bytes from strangers.
pub struct Target {
    /// Its name, and that of its folder in the corpus.
    pub name: &'static str,
    /// Takes an input.
    pub run: fn(&[u8]) -> String,
    /// The longest input that is tried: beyond what the target reads, where that is little.
    pub bytes_max: usize,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "record", run: record, bytes_max: 5000 },
    Target { name: "payload", run: payload, bytes_max: 4200 },
    Target { name: "graph", run: graph, bytes_max: 20_000 },
    Target { name: "tree", run: tree, bytes_max: 20_000 },
    Target { name: "ticket", run: ticket, bytes_max: 9000 },
    Target { name: "sync", run: sync, bytes_max: 70_000 },
    Target { name: "transfer", run: transfer, bytes_max: 5000 },
    Target { name: "push", run: push, bytes_max: 40_000 },
    Target { name: "chunks", run: chunks, bytes_max: 10_000 },
    Target { name: "recipe", run: recipe, bytes_max: 8000 },
    Target { name: "tuf", run: tuf, bytes_max: 20_000 },
    Target { name: "evidence", run: evidence, bytes_max: 30_000 },
    Target { name: "engine", run: crate::engine::run, bytes_max: 20_000 },
];

const NETWORK: NetworkId = NetworkId([1; 32]);

/// The target of that name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// An envelope from the wire. What decodes is spelled as it came; and nobody's signature fits what was changed.
fn record(bytes: &[u8]) -> String {
    match Record::decode(bytes) {
        Ok(record) => {
            assert_eq!(record.bytes(), bytes, "a record has a second spelling");
            assert!(bytes.len() <= record.kind().bytes_max() && record.issued() <= record.expires());
            let (kind, network) = (record.kind(), record.network());
            match record.verify(network) {
                Ok(record) => {
                    assert_eq!(Record::open(bytes, network).as_ref(), Ok(&record));
                    format!("{kind:?}")
                }
                Err(error) => format!("{kind:?}: {error}"),
            }
        }
        Err(error) => error.to_string(),
    }
}

/// A kind and its payload, signed by a liar: the decoders, and all that a record proves by itself.
fn payload(bytes: &[u8]) -> String {
    let Some((code, bytes)) = bytes.split_first_chunk::<2>() else { return "short".into() };
    let Some(kind) = Kind::from_code(u16::from_le_bytes(*code)) else { return "no kind".into() };
    let payload = match Payload::from_bytes(kind, bytes) {
        Ok(payload) => payload,
        Err(error) => return format!("{kind:?}: {error}"),
    };
    assert_eq!((payload.kind(), payload.to_bytes().as_slice()), (kind, bytes), "a payload has a second spelling");
    match Record::author(&SecretKey::from_seed(&[9; 32]), NETWORK, 1, Timestamp(1000), Timestamp::MAX, payload) {
        Ok(record) => {
            assert_eq!(Record::open(&record.bytes(), NETWORK).as_ref(), Ok(&record), "what was authored can't be opened");
            format!("{kind:?}")
        }
        Err(error) => format!("{kind:?}: {error}"),
    }
}

/// Both readers of graphs say the same.
fn graph(bytes: &[u8]) -> String {
    let packed = Packed::from_bytes(Arc::from(bytes));
    match (Graph::from_bytes(bytes), packed) {
        (Ok(graph), Ok(packed)) => {
            assert_eq!(graph.to_bytes(), bytes, "a graph has a second spelling");
            assert_eq!(graph.jobs.len(), packed.len());
            for index in packed.indexes() {
                assert_eq!(packed.job(index).as_ref(), graph.job(index));
                assert!(packed.needs(index).all(|need| need < index), "a need stands later");
            }
            format!("{} jobs", graph.jobs.len().ilog2())
        }
        (Err(error), Err(_)) => error.to_string(),
        (whole, packed) => panic!("two readers differ: {:?} and {:?}", whole.map(|_| ()), packed.map(|_| ()).map_err(|e: GraphError| e)),
    }
}

fn tree(bytes: &[u8]) -> String {
    match Tree::from_bytes(bytes) {
        Ok(tree) => {
            assert_eq!(tree.to_bytes(), bytes, "a tree has a second spelling");
            let mut again = Tree::new();
            for (path, entry) in tree.entries() {
                assert!(!path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | "..")), "{path:?}");
                assert_eq!(again.insert(path, entry.clone()), Ok(()), "a tree that nobody could have made");
            }
            format!("{} entries", tree.len().min(4))
        }
        Err(error) => error.to_string(),
    }
}

fn ticket(bytes: &[u8]) -> String {
    let word = String::from_utf8_lossy(bytes);
    match Ticket::parse(&word) {
        Ok(ticket) => {
            let again = Ticket::parse(&ticket.to_string());
            assert_eq!(again.as_ref(), Ok(&ticket), "a ticket that can't be handed on");
            "ticket".into()
        }
        Err(error) => error.to_string(),
    }
}

/// Frames one after the other, to both sides of a session; answers fit their frames, whatever was asked.
fn sync(bytes: &[u8]) -> String {
    let set: ItemSet = (0..40_u8).map(|n| (Timestamp(1000 + u64::from(n)), RecordId([n; 32]))).collect();
    let window = set.window(Timestamp(1000), []);
    let Ok(mut opener) = Session::open(&window) else { return "no session".into() };
    let mut answerer = Session::answer();
    let known = |ids: &[RecordId]| ids.iter().map(|id| vec![id.0[0]; 4000]).collect::<Vec<_>>();
    let fits = |turn: Turn| assert!(codec::encode(&Frame::Turn(turn)).len() <= SYNC_FRAME_BYTES_MAX, "an answer that nobody may read");
    fits(opener.turn(known));
    let mut ending = String::new();
    let mut rest = bytes;
    for _ in 0..16 {
        let Some((length, behind)) = rest.split_first_chunk::<4>() else { break };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX).min(behind.len());
        let (frame, behind) = behind.split_at(length);
        rest = behind;
        let turn = match codec::decode::<Frame>(frame, SYNC_FRAME_BYTES_MAX) {
            Ok(frame_read) => {
                assert_eq!(codec::encode(&frame_read), frame, "a frame has a second spelling");
                match frame_read {
                    Frame::Open { turn, .. } | Frame::Turn(turn) => turn,
                    Frame::Refused(refusal) => return format!("{ending}{refusal}"),
                }
            }
            Err(error) => return format!("{ending}{error}"),
        };
        for session in [&mut answerer, &mut opener] {
            match session.handle(turn.clone(), &window) {
                Ok(records) => {
                    assert!(records.iter().map(Vec::len).sum::<usize>() <= frame.len(), "more came out than went in");
                    fits(session.turn(known));
                    ending.push_str("turn ");
                }
                Err(fault) => ending.push_str(&fault.to_string()),
            }
        }
    }
    ending
}

fn transfer(bytes: &[u8]) -> String {
    let request = codec::decode::<Request>(bytes, FRAME_BYTES_MAX).map(|request| {
        assert_eq!(codec::encode(&request), bytes, "a request has a second spelling");
        match request {
            Request::Have { .. } => "have",
            Request::Wait { .. } => "wait",
            Request::Any { wanted, .. } => {
                assert!(wanted.count() <= UNIT_SET_BYTES_MAX as u64 * 8 && wanted.iter().all(|unit| wanted.has(unit)));
                "any"
            }
            Request::Get { range, .. } => {
                assert!(range.length() <= range.end);
                "get"
            }
            Request::Chunks { .. } => "chunks",
            Request::Pieces { ranges, .. } => {
                assert!(ranges.len() <= PIECES_MAX);
                "pieces"
            }
        }
    });
    let answer = codec::decode::<Answer>(bytes, FRAME_BYTES_MAX).map(|answer| {
        assert_eq!(codec::encode(&answer), bytes, "an answer has a second spelling");
        "answer"
    });
    let words = |read: Result<&str, codec::DecodeError>| read.map_or_else(|error| error.to_string(), str::to_owned);
    format!("{} / {}", words(request), words(answer))
}

/// What is said while blobs are pushed, by either side.
fn push(bytes: &[u8]) -> String {
    let pushed = codec::decode::<Pushed>(bytes, PUSH_FRAME_BYTES_MAX).map(|frame| {
        assert_eq!(codec::encode(&frame), bytes, "a frame has a second spelling");
        match frame {
            Pushed::Offer { blobs, .. } => {
                assert!(blobs.len() <= OFFERED_MAX);
                "offer"
            }
            Pushed::Unit { .. } => "unit",
            Pushed::Done => "done",
        }
    });
    let taken = codec::decode::<Taken>(bytes, PUSH_FRAME_BYTES_MAX).map(|frame| {
        assert_eq!(codec::encode(&frame), bytes, "a frame has a second spelling");
        match frame {
            Taken::Wants(_) => "wants",
            Taken::Ended(_) => "ended",
        }
    });
    let words = |read: Result<&str, codec::DecodeError>| read.map_or_else(|error| error.to_string(), str::to_owned);
    format!("{} / {}", words(pushed), words(taken))
}

/// A chunk list: refused, or spelled as it came.
fn chunks(bytes: &[u8]) -> String {
    match ChunkList::from_bytes(bytes) {
        Ok(list) => {
            assert_eq!(list.to_bytes(), bytes, "a chunk list has a second spelling");
            let last = list.chunks().last().map(barnraiser_protocol::transfer::chunks::Chunk::end);
            assert_eq!(last, Some(list.length()), "a chunk list does not cover its blob");
            "list".into()
        }
        Err(error) => error.to_string(),
    }
}

/// What people write: never a panic, and complaints that are bounded and point into the text.
fn recipe(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let name = if text.trim_start().starts_with('{') { "f.json" } else { "f.toml" };
    let complaints = |found: Vec<Diagnostic>| {
        assert!(!found.is_empty() && found.len() <= DIAGNOSTICS_MAX + 1, "{} complaints", found.len());
        // Its kind of complaint, without what was quoted.
        found.first().map(ToString::to_string).unwrap_or_default().chars().filter(|c| c.is_alphabetic() || *c == ' ').take(60).collect()
    };
    let recipe = parse_recipe(name, &text).map_or_else(complaints, |_| "a recipe".to_owned());
    let batch = parse_batch(name, &text).map_or_else(complaints, |_| "a batch".to_owned());
    format!("{recipe} / {batch}")
}

/// A document that was read says the same when it is written and read again.
fn document<T: Metadata + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> String {
    match Signed::<T>::parse(bytes) {
        Ok(read) => {
            let again = Signed::<T>::parse(&read.to_bytes());
            let again = again.map(|again| (again.canonical().to_vec(), again.signatures().to_vec()));
            // Pretty printing may take a document over its limit, and nothing else may be wrong with it.
            if let Ok(again) = again {
                assert_eq!(again, (read.canonical().to_vec(), read.signatures().to_vec()));
            } else {
                assert!(read.to_bytes().len() > T::BYTES_MAX, "a document that can't be handed on: {again:?}");
            }
            T::TYPE.to_owned()
        }
        Err(error) => error.to_string(),
    }
}

fn tuf(bytes: &[u8]) -> String {
    let signable = match Signable::parse(bytes) {
        Ok(signable) => {
            assert!(!signable.describe().is_empty(), "something to sign that has no words");
            "signable".to_owned()
        }
        Err(error) => error.to_string(),
    };
    if let Ok(file) = SignatureFile::parse(bytes) {
        assert_eq!(SignatureFile::parse(&file.to_bytes()), Ok(file));
    }
    if let Ok(parts) = CharterParts::from_bundle(bytes) {
        let bundle = parts.to_bundle();
        assert_eq!(bundle.as_deref(), Ok(bytes), "a charter has a second spelling");
    }
    format!("{} / {} / {signable}", document::<Root>(bytes), document::<Targets>(bytes))
}

/// Evidence of another's hand: read and, where it is small, checked to the end.
fn evidence(bytes: &[u8]) -> String {
    match Evidence::from_bytes(bytes) {
        Ok(evidence) => {
            assert_eq!(evidence.to_bytes(), bytes, "evidence has a second spelling");
            match evidence.check() {
                Ok(findings) => format!("{:?}", findings.verdict.state),
                Err(error) => error.to_string(),
            }
        }
        Err(error) => error.to_string(),
    }
}
