//! How the graph of a batch spreads: whoever hears of the batch fetches it, by the rules that real nodes follow
//! ([`Seeker`] and [`Ration`] say who is asked and who is served, [`Schedule`] which units come from whom), over the lines
//! of homes.
//!
//! What `bootstrap` does on sockets is done here on an agenda: a question and its answer take a message's time each, a bulk
//! connection two round trips to open; a unit waits until its sender's line is free, which carries one unit after the
//! other, and then until the receiver's is. Whoever fetches serves what it has. A machine that is gone answers nothing, and
//! whoever waits for it asks others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use barnraiser_protocol::engine::Input;
use barnraiser_protocol::graph::Packed;
use barnraiser_protocol::id::{BatchId, BlobHash, NodeId};
use barnraiser_protocol::record::{Payload, SharedRecord};
use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::transfer::spread::{Ration, Seeker};
use barnraiser_protocol::transfer::{ByteRange, GET_BYTES_MAX, Given, Held, INLINE_BYTES_MAX, Next, Schedule, UnitSet};

use super::links::Links;
use super::mesh::Spread;
use super::weather::Weather;
use super::{Happening, START, World};
use crate::dice::Dice;

/// Units asked of a provider ahead, as `bootstrap` does, ...
const DEPTH: usize = 2;
/// ... how often a provider is tried that is busy, ...
const ATTEMPTS_MAX: u32 = 3;
/// ... the wait before that, times the attempts so far, ...
const RETRY_AFTER: Duration = Duration::from_millis(700);
/// ... when one is asked again that had nothing, while others deliver, ...
const ABSENT_AGAIN: Duration = Duration::from_millis(1500);
/// ... and one that has only a part: a little later than `bootstrap` hears from it by itself.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Bytes of a question with its answer, and of what the connection adds to them.
const QUESTION_BYTES: u64 = 250;
/// Who hears of a batch within so long was there when it was said.
const AT_ONCE: Duration = Duration::from_secs(10);
/// A graph has no more units: 64 MiB.
const UNITS_MAX: u64 = 64;

/// What happens in one node's search.
#[derive(Debug, Clone)]
pub struct Move {
    /// Whose search.
    pub node: usize,
    /// Which life of the machine, and which round of the search: what was meant for another is void.
    at: (u32, u32),
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    /// A round of questions begins.
    Round,
    /// A provider is asked what it has, ...
    Ask { by: usize },
    /// ... hears that, ...
    Asked { by: usize },
    /// ... and has answered: what it has, nothing, or that it is busy.
    Told { by: usize, answer: Answer },
    /// The connection to a provider is there.
    Open { by: usize },
    /// More can perhaps be asked of a provider.
    Look { by: usize },
    /// A provider hears which unit is wanted, ...
    Wanted { by: usize, wanted: Wanted },
    /// ... has sent it, ...
    Served { by: usize },
    /// ... and the unit is here, or the answer that it is busy.
    Sent { by: usize, wanted: Wanted, range: Option<ByteRange> },
}

#[derive(Debug, Clone)]
enum Wanted {
    Unit(ByteRange),
    /// Whichever of these it likes to send.
    Any(UnitSet),
}

#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Found(Held),
    NotFound,
    Busy,
}

/// A provider in a round.
#[derive(Debug)]
struct Provider {
    held: Held,
    in_hand: usize,
    attempts: u32,
    /// Whether units can be asked for.
    open: bool,
    /// Whether it will be looked at, or asked, again anyway.
    waits: bool,
    /// Whether the round is not over before this one is through.
    works: bool,
}

/// A search for the graph.
#[derive(Debug)]
struct Search {
    seeker: Seeker,
    began: Timestamp,
    round: u32,
    providers: BTreeMap<usize, Provider>,
    /// The units, and since when they are fetched.
    schedule: Option<(Schedule, Timestamp)>,
}

#[derive(Debug, Default)]
struct Peer {
    connected: Vec<NodeId>,
    /// A bit for each unit that is here.
    units: u64,
    ration: Ration,
    given: Given,
    /// When its line is free, upwards and downwards.
    free: (Timestamp, Timestamp),
    sent: u64,
    life: u32,
    search: Option<Search>,
}

/// A graph on its way to everybody.
#[derive(Debug)]
pub struct Spreading {
    batch: BatchId,
    /// The graph.
    pub blob: BlobHash,
    /// How many bytes it has.
    pub length: u64,
    packed: Option<Arc<Packed>>,
    author: usize,
    /// When the batch was said.
    pub said: Timestamp,
    links: Links,
    peers: Vec<Peer>,
    dice: Dice,
    /// Who has heard of the batch and who has all of its graph, and when, each in that order.
    pub heard: Vec<(Timestamp, usize)>,
    /// The same of the graph.
    pub got: Vec<(Timestamp, usize)>,
    /// Questions, and how many were answered by "busy".
    pub questions: (u64, u64),
}

fn id(node: usize) -> NodeId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&(node as u64).to_le_bytes());
    NodeId(id)
}

fn number(id: &NodeId) -> usize {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&id.0[..8]);
    u64::from_le_bytes(bytes) as usize
}

impl Spreading {
    /// The graph of a batch, of `length` bytes, which only `author` has. `connected` is who is connected to whom.
    pub fn new(
        (batch, blob): (BatchId, BlobHash),
        length: u64,
        author: usize,
        said: Timestamp,
        links: Links,
        connected: &[Vec<usize>],
        seed: u64,
    ) -> Self {
        let peer = |of: &Vec<usize>| Peer { connected: of.iter().map(|node| id(*node)).collect(), ..Peer::default() };
        let mut peers: Vec<Peer> = connected.iter().map(peer).collect();
        let units = length.div_ceil(GET_BYTES_MAX).clamp(1, UNITS_MAX);
        peers[author].units = u64::MAX >> (64 - units);
        let (heard, got) = (vec![(said, author)], vec![(said, author)]);
        let dice = Dice::new(seed, "graph");
        Self { batch, blob, length, packed: None, author, said, links, peers, dice, heard, got, questions: (0, 0) }
    }

    fn units(&self) -> u64 {
        self.length.div_ceil(GET_BYTES_MAX).clamp(1, UNITS_MAX)
    }

    fn range(&self, unit: u64) -> ByteRange {
        ByteRange { start: unit * GET_BYTES_MAX, end: ((unit + 1) * GET_BYTES_MAX).min(self.length) }
    }

    /// Whether `node` has all of it.
    pub fn has(&self, node: usize) -> bool {
        self.peers[node].units.count_ones() as u64 == self.units()
    }

    /// Bytes that a node has sent of it, in copies.
    pub fn copies(&self, node: usize) -> f64 {
        self.peers[node].sent as f64 / self.length.max(1) as f64
    }

    /// Who submitted it.
    pub const fn author(&self) -> usize {
        self.author
    }

    /// The most copies that any node has sent.
    pub fn copies_max(&self) -> f64 {
        (0..self.peers.len()).map(|node| self.copies(node)).fold(0.0, f64::max)
    }

    /// Bytes of all units and all questions that were sent.
    pub fn bytes(&self) -> u64 {
        self.peers.iter().map(|peer| peer.sent).sum::<u64>() + self.questions.0 * QUESTION_BYTES
    }

    /// Seconds from the submission until each of those that `counts` names had heard of the batch, and had its graph; each
    /// list in order, with infinity for who never got it. The submitter is left out, and who came later: they get it
    /// from many at once.
    pub fn times(&self, counts: impl Fn(usize) -> bool) -> (Vec<f64>, Vec<f64>) {
        let first = |times: &[(Timestamp, usize)]| {
            let mut first = BTreeMap::new();
            for (at, node) in times {
                first.entry(*node).or_insert(at.since(self.said));
            }
            first
        };
        let (heard, got) = (first(&self.heard), first(&self.got));
        let there = heard.iter().filter(|(node, after)| **node != self.author && **after < AT_ONCE && counts(**node));
        let there: Vec<usize> = there.map(|(node, _)| *node).collect();
        let sorted = |times: &BTreeMap<usize, Duration>| {
            let mut all: Vec<f64> = there.iter().map(|node| times.get(node).map_or(f64::INFINITY, Duration::as_secs_f64)).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        (sorted(&heard), sorted(&got))
    }

    /// Another machine, which has nothing yet, is in the place of `node`, connected to these.
    pub fn replace(&mut self, node: usize, connected: &[usize]) {
        let peer = &mut self.peers[node];
        *peer =
            Peer { connected: connected.iter().map(|node| id(*node)).collect(), life: peer.life + 1, sent: peer.sent, ..Peer::default() };
    }

    /// `node` has heard of the batch: what is to be done first.
    pub fn begin(&mut self, node: usize, now: Timestamp) -> Option<Move> {
        if self.has(node) || self.peers[node].search.is_some() {
            return None;
        }
        self.heard.push((now, node));
        let seeker = Seeker::new(id(self.author), u64::from_le_bytes(first(self.dice.bytes())));
        let search = Search { seeker, began: now, round: 0, providers: BTreeMap::new(), schedule: None };
        self.peers[node].search = Some(search);
        Some(Move { node, at: (self.peers[node].life, 0), what: What::Round })
    }

    /// Something happens; what follows, and when. `is_up` tells which machines run.
    pub fn happen(&mut self, now: Timestamp, step: Move, weather: &Weather, is_up: impl Fn(usize) -> bool) -> Vec<(Timestamp, Move)> {
        let Move { node, at, what } = step;
        if let What::Served { by } = what {
            self.peers[by].ration.served(&self.blob, &id(node), now.since(START));
            return Vec::new();
        }
        let peer = &self.peers[node];
        if peer.life != at.0 || peer.search.as_ref().is_none_or(|search| search.round != at.1) || !is_up(node) {
            return Vec::new();
        }
        let mut next = Agenda { node, at, now, moves: Vec::new() };
        match what {
            What::Round => self.round(&mut next),
            What::Ask { by } => self.ask(&mut next, by, weather),
            What::Asked { by } => {
                let answer = if is_up(by) { self.answer(by, node, now) } else { Answer::NotFound };
                next.after(weather.delay(by, node, &mut self.dice), What::Told { by, answer });
            }
            What::Told { by, answer } => self.told(&mut next, by, answer, weather),
            What::Open { by } => {
                self.provider(node, by, |provider| provider.open = true);
                self.look(&mut next, by, weather);
            }
            What::Look { by } => {
                self.provider(node, by, |provider| provider.waits = false);
                self.look(&mut next, by, weather);
            }
            What::Wanted { by, wanted } => self.wanted(&mut next, by, wanted, weather, is_up(by)),
            What::Served { .. } => {}
            What::Sent { by, wanted, range } => self.sent(&mut next, (by, &wanted, range), weather),
        }
        next.moves
    }

    fn provider(&mut self, node: usize, by: usize, change: impl FnOnce(&mut Provider)) {
        if let Some(provider) = self.peers[node].search.as_mut().and_then(|search| search.providers.get_mut(&by)) {
            change(provider);
        }
    }

    fn ask(&mut self, next: &mut Agenda, by: usize, weather: &Weather) {
        let Some(search) = &mut self.peers[next.node].search else { return };
        // Who had nothing is asked again only while others deliver.
        if search.providers.values().any(|provider| provider.works) {
            self.questions.0 += 1;
            next.after(weather.delay(next.node, by, &mut self.dice), What::Asked { by });
        }
    }

    fn round(&mut self, next: &mut Agenda) {
        let Peer { connected, search: Some(search), .. } = &mut self.peers[next.node] else { return };
        search.round += 1;
        next.at.1 = search.round;
        (search.schedule, search.providers) = (None, BTreeMap::new());
        // Others are not looked for: in this model nobody knows more than who is connected.
        for by in search.seeker.next(connected, next.now.since(search.began)).providers.iter().map(number) {
            search.providers.insert(by, Provider { held: Held::All, in_hand: 0, attempts: 0, open: false, waits: false, works: true });
            next.after(Duration::ZERO, What::Ask { by });
        }
        self.end_in_vain(next);
    }

    fn answer(&self, by: usize, to: usize, now: Timestamp) -> Answer {
        let (peer, units) = (&self.peers[by], self.units());
        if !peer.ration.has_room(&self.blob, &id(to), now.since(START)) {
            return Answer::Busy;
        }
        if self.has(by) {
            return Answer::Found(Held::All);
        }
        if peer.search.as_ref().is_none_or(|search| search.schedule.is_none()) {
            return Answer::NotFound;
        }
        Answer::Found(Held::Units(UnitSet::new((0..units).filter(|unit| peer.units >> unit & 1 == 1))))
    }

    fn told(&mut self, next: &mut Agenda, by: usize, answer: Answer, weather: &Weather) {
        let mask = self.peers[next.node].units;
        let missing: Vec<ByteRange> = (0..self.units()).filter(|unit| mask >> unit & 1 == 0).map(|unit| self.range(unit)).collect();
        let is_large = self.length > INLINE_BYTES_MAX;
        let Some(search) = &mut self.peers[next.node].search else { return };
        let Some(provider) = search.providers.get_mut(&by) else { return };
        match answer {
            Answer::Found(held) => {
                (provider.held, provider.works, provider.waits) = (held, true, false);
                let opened = provider.open;
                let seed = u64::from_le_bytes(first(self.dice.bytes()));
                let (schedule, _) = search.schedule.get_or_insert_with(|| (Schedule::new(&missing, seed), next.now));
                schedule.joined(id(by));
                if opened {
                    self.look(next, by, weather);
                } else {
                    let round_trip = weather.delay(next.node, by, &mut self.dice) + weather.delay(by, next.node, &mut self.dice);
                    next.after(if is_large { round_trip * 2 } else { Duration::ZERO }, What::Open { by });
                }
            }
            Answer::NotFound => {
                provider.works = false;
                next.after(ABSENT_AGAIN, What::Ask { by });
                self.end_in_vain(next);
            }
            Answer::Busy => {
                self.questions.1 += 1;
                self.busy(next, by);
            }
        }
    }

    fn busy(&mut self, next: &mut Agenda, by: usize) {
        let Some(search) = &mut self.peers[next.node].search else { return };
        let Some(provider) = search.providers.get_mut(&by) else { return };
        provider.attempts += 1;
        (provider.works, provider.open) = (provider.attempts < ATTEMPTS_MAX, false);
        if provider.works {
            next.after(RETRY_AFTER * provider.attempts, What::Ask { by });
        }
        if let Some((schedule, _)) = &mut search.schedule {
            schedule.left(&id(by));
        }
        self.end_in_vain(next);
    }

    /// Where nobody is left in this round, another one begins after a pause.
    fn end_in_vain(&mut self, next: &mut Agenda) {
        let Some(search) = &self.peers[next.node].search else { return };
        if !search.providers.values().any(|provider| provider.works) {
            let pause = search.seeker.pause(next.now.since(search.began));
            next.after(pause, What::Round);
        }
    }

    /// Asks a provider for as many units as may be on their way.
    fn look(&mut self, next: &mut Agenda, by: usize, weather: &Weather) {
        let Some(search) = &mut self.peers[next.node].search else { return };
        let (Some(provider), Some((schedule, since))) = (search.providers.get_mut(&by), &mut search.schedule) else { return };
        let age = next.now.since(*since);
        while provider.works && provider.open && provider.in_hand < DEPTH {
            let wanted = match schedule.next(id(by), &provider.held, age) {
                Next::Unit(range) => Wanted::Unit(range),
                Next::Any(units) => Wanted::Any(units),
                Next::Wait(until) => {
                    let partial = provider.in_hand == 0 && provider.held != Held::All;
                    if !provider.waits && (partial || until.is_some()) {
                        provider.waits = true;
                        // Not at once again, or time would stand still.
                        let wait = until.map_or(ASK_AGAIN, |until| until.saturating_sub(age).max(Duration::from_millis(1)));
                        if partial { next.after(ASK_AGAIN, What::Ask { by }) } else { next.after(wait, What::Look { by }) }
                    }
                    return;
                }
                Next::Finished => return,
            };
            provider.in_hand += 1;
            next.after(weather.delay(next.node, by, &mut self.dice), What::Wanted { by, wanted });
        }
    }

    fn wanted(&mut self, next: &mut Agenda, by: usize, wanted: Wanted, weather: &Weather, is_up: bool) {
        let back = weather.delay(by, next.node, &mut self.dice);
        let Peer { units, given, ration, .. } = &mut self.peers[by];
        let has = |unit: &u64| is_up && *unit < u64::from(u64::BITS) && *units >> unit & 1 == 1;
        let unit = match &wanted {
            Wanted::Unit(range) => Some(range.start / GET_BYTES_MAX).filter(has).inspect(|unit| given.sent(&self.blob, *unit)),
            Wanted::Any(units) => given.choose(&self.blob, &id(next.node), units.iter().filter(has)),
        };
        let unit = unit.filter(|_| ration.admit(&self.blob, &id(next.node), next.now.since(START)));
        let Some(range) = unit.map(|unit| self.range(unit)) else {
            return next.after(back, What::Sent { by, wanted, range: None });
        };
        let line = &mut self.peers[by];
        line.sent += range.length();
        line.free.0 = line.free.0.max(next.now) + Duration::from_secs_f64(range.length() as f64 / self.links.up);
        next.moves.push((line.free.0, Move { node: next.node, at: next.at, what: What::Served { by } }));
        let there = line.free.0 + back;
        // What fills a receiver's line from several sides takes turns.
        let receiver = &mut self.peers[next.node].free.1;
        *receiver = (*receiver + Duration::from_secs_f64(range.length() as f64 / self.links.down)).max(there);
        next.moves.push((*receiver, Move { node: next.node, at: next.at, what: What::Sent { by, wanted, range: Some(range) } }));
    }

    fn sent(&mut self, next: &mut Agenda, (by, wanted, range): (usize, &Wanted, Option<ByteRange>), weather: &Weather) {
        let (all, peer) = (self.units(), &mut self.peers[next.node]);
        let Some(search) = &mut peer.search else { return };
        let Some((schedule, since)) = &mut search.schedule else { return };
        let mut open = false;
        if let Some(provider) = search.providers.get_mut(&by) {
            provider.in_hand = provider.in_hand.saturating_sub(1);
            open = provider.open;
        }
        let Some(range) = range else {
            match wanted {
                Wanted::Unit(range) => schedule.failed(&id(by), range.start),
                Wanted::Any(_) => schedule.chose_none(&id(by)),
            }
            self.questions.1 += 1;
            // Once, of the two units that were asked of it.
            if open {
                self.busy(next, by);
            }
            return;
        };
        let age = next.now.since(*since);
        if let Wanted::Any(_) = wanted {
            schedule.chosen(&id(by), range.start, age);
        }
        schedule.done(&id(by), range.start, age);
        peer.units |= 1 << (range.start / GET_BYTES_MAX);
        if u64::from(peer.units.count_ones()) == all {
            peer.search = None;
            return self.got.push((next.now, next.node));
        }
        // Others may have been waiting for this one.
        let idle: Vec<usize> = search.providers.iter().filter(|(_, provider)| provider.works).map(|(by, _)| *by).collect();
        for by in idle {
            self.look(next, by, weather);
        }
    }
}

/// What follows from a move.
struct Agenda {
    node: usize,
    at: (u32, u32),
    now: Timestamp,
    moves: Vec<(Timestamp, Move)>,
}

impl Agenda {
    fn after(&mut self, wait: Duration, what: What) {
        self.moves.push((self.now + wait, Move { node: self.node, at: self.at, what }));
    }
}

fn first(bytes: [u8; 32]) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[..8]);
    out
}

impl World {
    /// A batch is said whose graph comes to everybody from each other: nodes without an engine begin as soon as they hear
    /// of it, the others when their engine wants it.
    pub(super) fn spread_graph(&mut self, author: usize, record: &SharedRecord, spread: &Spread) {
        let Payload::Batch(batch) = record.payload() else { return };
        if !self.spread_graphs || self.graph.is_some() {
            return;
        }
        let connected = self.mesh.connections();
        let seed = u64::from_le_bytes(first(self.dice.bytes()));
        let id = BatchId::from(record.id());
        self.graph = Some(Spreading::new((id, batch.graph), batch.graph_length, author, self.now, self.links, &connected, seed));
        let with_engine = self.nodes.len();
        for arrival in spread.arrivals.iter().filter(|arrival| arrival.to >= with_engine) {
            self.after(arrival.after, Happening::Heard { node: arrival.to });
        }
    }

    /// A node wants the graph.
    pub(super) fn seek_graph(&mut self, node: usize) {
        let Some(graph) = &mut self.graph else { return };
        if graph.has(node) {
            return self.hand_over(node);
        }
        if let Some(first) = graph.begin(node, self.now) {
            self.at(self.now, Happening::Graph(first));
        }
    }

    pub(super) fn graph_moves(&mut self, step: Move) {
        let Some(graph) = &mut self.graph else { return };
        let (before, nodes) = (graph.got.len(), &self.nodes);
        let moves = graph.happen(self.now, step, &self.weather, |node| nodes.get(node).is_none_or(|node| node.engine.is_some()));
        let got = graph.got.get(before).map(|(_, node)| *node);
        for (at, step) in moves {
            self.at(at, Happening::Graph(step));
        }
        if let Some(node) = got {
            self.hand_over(node);
        }
    }

    /// A node's engine gets the graph. All read the same copy.
    fn hand_over(&mut self, node: usize) {
        let Some(graph) = &mut self.graph else { return };
        if node >= self.nodes.len() {
            return;
        }
        if graph.packed.is_none() {
            // Made by this program, so it can be read.
            graph.packed = self.work.bytes(&graph.blob).and_then(|bytes| Packed::from_bytes(bytes).ok()).map(Arc::new);
        }
        let (batch, blob, Some(packed)) = (graph.batch, graph.blob, graph.packed.clone()) else { return };
        self.work.hold(blob, node);
        self.with(node, |engine, clock| engine.handle(clock, Input::Graph(batch, packed)));
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::{BTreeSet, BinaryHeap};

    use barnraiser_protocol::transfer::spread::COPIES_A_PERIOD;

    use super::*;
    use crate::world::mesh::Mesh;

    const GRAPH: u64 = (4 << 20) + 77;

    fn spread(nodes: usize, length: u64, down: &BTreeSet<usize>) -> Spreading {
        let mut mesh = Mesh::new(nodes, 1);
        (0..nodes).for_each(|node| mesh.join(node));
        let weather = Weather::calm(nodes, Duration::from_millis(100), &mut Dice::new(1, "weather"));
        let (batch, blob) = (BatchId([1; 32]), BlobHash([2; 32]));
        let mut graph = Spreading::new((batch, blob), length, 0, START, Links::default(), &mesh.connections(), 1);
        let mut moves: Vec<Move> = Vec::new();
        let mut agenda = BinaryHeap::new();
        let plan = |agenda: &mut BinaryHeap<_>, moves: &mut Vec<Move>, at: Timestamp, step: Move| {
            agenda.push(Reverse((at, moves.len())));
            moves.push(step);
        };
        for node in 1..nodes {
            let step = graph.begin(node, START).unwrap();
            plan(&mut agenda, &mut moves, START, step);
        }
        while let Some(Reverse((now, number))) = agenda.pop() {
            if now.since(START) > Duration::from_secs(120) {
                break;
            }
            for (at, step) in graph.happen(now, moves[number].clone(), &weather, |node| !down.contains(&node)) {
                plan(&mut agenda, &mut moves, at, step);
            }
        }
        graph
    }

    fn seconds(graph: &Spreading) -> f64 {
        graph.got.last().unwrap().0.since(START).as_secs_f64()
    }

    #[test]
    fn everybody_gets_the_graph_once_and_its_author_serves_few() {
        for (nodes, length, most) in [(2, GRAPH, 3.0), (3, 1000, 2.0), (40, GRAPH, 12.0), (600, 1000, 10.0), (600, GRAPH, 20.0)] {
            let graph = spread(nodes, length, &BTreeSet::new());
            assert_eq!(graph.got.iter().map(|(_, node)| *node).collect::<BTreeSet<_>>().len(), nodes);
            assert_eq!(graph.got.len(), nodes);
            let (heard, got) = graph.times(|node| node % 2 == 0);
            assert_eq!((heard.len(), got.len()), (nodes.div_ceil(2) - 1, nodes.div_ceil(2) - 1));
            assert!(got.iter().all(|at| *at <= seconds(&graph)) && got.is_sorted());
            assert!(seconds(&graph) < most, "{nodes} nodes, {length} bytes: {} s", seconds(&graph));
            assert!(graph.copies(0) <= COPIES_A_PERIOD as f64, "{}", graph.copies(0));
            // A unit may be stolen from who is slow, and then comes twice.
            let sent: f64 = (0..nodes).map(|node| graph.copies(node)).sum();
            assert!((nodes as f64 - 1.0..nodes as f64 * 1.5).contains(&sent), "{sent} copies for {nodes} nodes");
        }
    }

    #[test]
    fn machines_that_are_gone_keep_nobody_from_the_graph() {
        let down: BTreeSet<usize> = (1..200).step_by(2).collect();
        let graph = spread(200, GRAPH, &down);
        assert_eq!(graph.got.len(), 100);
        assert!(graph.got.iter().all(|(_, node)| !down.contains(node)));
    }

    #[test]
    fn another_machine_in_a_place_has_nothing_and_gets_it_from_those_it_is_connected_to() {
        let mut graph = spread(20, GRAPH, &BTreeSet::new());
        let before = graph.copies(5);
        graph.replace(7, &[5]);
        assert!(!graph.has(7));
        let weather = Weather::calm(20, Duration::from_millis(100), &mut Dice::new(2, "weather"));
        let now = START + Duration::from_secs(600);
        let mut agenda = vec![(now, graph.begin(7, now).unwrap())];
        while !agenda.is_empty() {
            let soonest = (0..agenda.len()).min_by_key(|at| agenda[*at].0).unwrap();
            let (at, step) = agenda.remove(soonest);
            agenda.extend(graph.happen(at, step, &weather, |_| true));
        }
        assert!(graph.has(7) && graph.begin(7, now).is_none());
        assert_eq!(graph.copies(5), before + 1.0);
    }
}
