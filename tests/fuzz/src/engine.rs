//! The engine among liars: members and strangers who sign whatever bytes decode, at whatever moment.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use barnraiser_protocol::engine::{Engine, Input, Output, Reception};
use barnraiser_protocol::record::{Kind, Payload, Record};
use barnraiser_protocol::time::Timestamp;

use crate::world::{START, World, node_key, operator_key};

/// The most that one record may make an engine do at once.
const OUTPUTS_MAX: usize = 10_000;

thread_local! {
    /// Made once, since its signatures take longer than an input.
    static WORLD: OnceCell<World> = const { OnceCell::new() };
}

/// One thing that is said: who, how much later, when it claims to be said, and what.
pub struct Said<'a> {
    /// The author: a node, or the operator with that number.
    pub author: u8,
    /// Seconds that pass before it is heard.
    pub wait_s: u8,
    /// By how many half minutes its author's clock is ahead; negative is behind.
    pub ahead: i8,
    /// Its kind's code.
    pub code: u16,
    /// Its payload.
    pub payload: &'a [u8],
}

impl Said<'_> {
    /// Adds it to an input.
    pub fn write(&self, to: &mut Vec<u8>) {
        to.extend([self.author, self.wait_s]);
        to.extend(self.ahead.to_le_bytes());
        to.extend(self.code.to_le_bytes());
        to.extend(u16::try_from(self.payload.len()).unwrap_or(u16::MAX).to_le_bytes());
        to.extend(self.payload);
    }
}

/// What an input says first, and the rest of it.
fn read(bytes: &[u8]) -> Option<(Said<'_>, &[u8])> {
    let ([author, wait_s, ahead, code_low, code_high, low, high], rest) = bytes.split_first_chunk::<7>()?;
    let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
    let (payload, rest) = rest.split_at(length);
    let code = u16::from_le_bytes([*code_low, *code_high]);
    Some((Said { author: *author, wait_s: *wait_s, ahead: ahead.cast_signed(), code, payload }, rest))
}

/// Takes what the engine wants done; hands in the graphs that it asks for.
fn drive(engine: &mut Engine, now: Timestamp, graph: &Arc<[u8]>) -> usize {
    let mut outputs = 0;
    while let Some(output) = engine.poll_output() {
        outputs += 1;
        assert!(outputs <= OUTPUTS_MAX, "one record makes the engine talk without end");
        if let Output::Fetch { want, .. } = output {
            engine.handle(now, Input::Fetched { want, bytes: graph.clone() });
        }
    }
    outputs
}

/// Lets an engine hear what the input says.
pub fn run(bytes: &[u8]) -> String {
    WORLD.with(|world| {
        let world = world.get_or_init(World::new);
        let graph: Arc<[u8]> = world.graph.to_bytes().into();
        let mut engine = world.engine(0, false);
        let (mut now, mut heard, mut rest) = (START, Vec::new(), bytes);
        let mut endings = String::new();
        let known = engine.board().len();
        while let Some((said, behind)) = read(rest).filter(|_| heard.len() < 64) {
            rest = behind;
            now = now + Duration::from_secs(said.wait_s.into());
            engine.handle_timeout(now);
            let Some(kind) = Kind::from_code(said.code) else { continue };
            let Ok(payload) = Payload::from_bytes(kind, said.payload) else { continue };
            let key = if kind.by_operator() { operator_key(said.author % 6) } else { node_key(said.author % 6) };
            let ahead = Duration::from_secs(30 * u64::from(said.ahead.unsigned_abs()));
            let issued = if said.ahead < 0 { now.saturating_sub(ahead) } else { now + ahead };
            let sequence = u64::from(said.wait_s);
            let Ok(record) = Record::author(&key, world.network(), sequence, issued, Timestamp::MAX, payload) else { continue };
            let reception = engine.receive(now, &record);
            endings.push_str(&format!("{kind:?} {reception:?} "));
            heard.push((record, reception));
            drive(&mut engine, now, &graph);
            assert_eq!(engine.board().len(), engine.items().len(), "the sets disagree");
        }
        // Own words (proofs of fraud, its presence) come on top of what was heard.
        assert!(engine.board().len() <= known + 2 * heard.len() + 8, "more is kept than was said");
        for (record, first) in &heard {
            let again = engine.receive(now, record);
            assert!(*first != Reception::New || again != Reception::New, "taken a second time: {record:?}");
        }
        // Questions of people must have answers, whatever was said.
        for batch in engine.batches() {
            engine.jobs(&batch.id);
        }
        let _ = (engine.environments(), engine.last_seal(), engine.successor_of(&crate::world::operator(0)));
        // Time alone must not make it spin.
        for _ in 0..64 {
            let Some(at) = engine.poll_timeout() else { break };
            now = now.max(at);
            engine.handle_timeout(now);
            drive(&mut engine, now, &graph);
        }
        endings.chars().take(300).collect()
    })
}
