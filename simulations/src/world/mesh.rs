//! Who passes records on to whom: a mesh as gossipsub keeps it, with the figures of `bootstrap`'s swarm.
//!
//! A record goes from its author to all who are connected to it, who check it and pass it on to their neighbours the first
//! time that they get it.
//! Whom no neighbour reached learns of it from the ids that every node tells some others once a second (gossipsub's IHAVE),
//! and asks for it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use super::weather::Weather;
use crate::dice::Dice;

/// Neighbours that a node looks for when it starts, ...
const DEGREE: usize = 8;
/// ... below which it looks for more, ...
const DEGREE_LOW: usize = 4;
/// ... and above which it takes no more.
const DEGREE_HIGH: usize = 16;
/// Members to which a node keeps connections (`Limits::peers_per_network` of `bootstrap`). Its own records it sends to all of
/// them at once, not to its neighbours only (gossipsub's flood publishing): a network of so few hears everything from its
/// author.
const CONNECTIONS: usize = 32;
/// How often a node tells others what it has heard of.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often somebody whom no neighbour reached asks in vain before only a comparison of sets helps.
const ASKS: usize = 3;
/// Mean time that a node takes to check a record and pass it on.
const RELAY: Duration = Duration::from_millis(1);

/// A record reaches a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// After what time.
    pub after: Duration,
    /// Whom it reaches.
    pub to: usize,
    /// Who passed it on.
    pub from: usize,
}

/// How a record spreads.
#[derive(Debug, Default)]
pub struct Spread {
    /// Whom it reaches, in the order in which it does.
    pub arrivals: Vec<Arrival>,
    /// How often it was sent, to those who had it already too.
    pub copies: u64,
}

/// A way that several records of one author go.
#[derive(Debug)]
struct Way {
    spread: Arc<Spread>,
    /// How many more.
    left: u32,
    /// How many nodes had ever come up when it was drawn: a newcomer must not be left out.
    joined: u64,
}

/// Who is whose neighbour.
#[derive(Debug)]
pub struct Mesh {
    neighbours: Vec<Vec<usize>>,
    up: Vec<usize>,
    joined: u64,
    ways: BTreeMap<usize, Way>,
    dice: Dice,
}

impl Mesh {
    /// So many nodes, all of them down.
    pub fn new(nodes: usize, seed: u64) -> Self {
        let dice = Dice::new(seed, "mesh");
        Self { neighbours: vec![Vec::new(); nodes], up: Vec::new(), joined: 0, ways: BTreeMap::new(), dice }
    }

    /// Number of nodes, up or down.
    pub fn len(&self) -> usize {
        self.neighbours.len()
    }

    /// So many nodes more, which are up and stay so.
    pub fn grow(&mut self, nodes: usize) {
        let before = self.neighbours.len();
        self.neighbours.resize(before + nodes, Vec::new());
        (before..before + nodes).for_each(|node| self.join(node));
    }

    /// A node comes up and looks for neighbours.
    pub fn join(&mut self, node: usize) {
        if let Err(at) = self.up.binary_search(&node) {
            self.joined += 1;
            self.up.insert(at, node);
            self.look_for(node, DEGREE);
        }
    }

    /// A node is gone; neighbours that have too few without it look for others.
    pub fn leave(&mut self, node: usize) {
        let Ok(at) = self.up.binary_search(&node) else { return };
        self.up.remove(at);
        for left in std::mem::take(&mut self.neighbours[node]) {
            self.neighbours[left].retain(|other| *other != node);
            if self.neighbours[left].len() < DEGREE_LOW {
                self.look_for(left, DEGREE);
            }
        }
    }

    fn look_for(&mut self, node: usize, degree: usize) {
        // Some are met twice and some have enough: a few tries more than are wanted, or all where there are few.
        for _ in 0..degree * 4 {
            if self.neighbours[node].len() >= degree.min(self.up.len().saturating_sub(1)) {
                return;
            }
            let other = *self.dice.pick(&self.up);
            if other != node && self.neighbours[other].len() < DEGREE_HIGH && !self.neighbours[node].contains(&other) {
                self.neighbours[node].push(other);
                self.neighbours[other].push(node);
            }
        }
    }

    /// Whom a node is connected to: its neighbours, and in a network of more than there are connections some others, drawn
    /// anew each time.
    pub(super) fn connected(&mut self, node: usize) -> Vec<usize> {
        if self.up.len() <= CONNECTIONS + 1 {
            return self.up.iter().copied().filter(|other| *other != node).collect();
        }
        let mut connected = self.neighbours[node].clone();
        for _ in 0..CONNECTIONS * 4 {
            if connected.len() >= CONNECTIONS {
                break;
            }
            let other = *self.dice.pick(&self.up);
            if other != node && !connected.contains(&other) {
                connected.push(other);
            }
        }
        connected
    }

    /// Who is connected to whom, for as long as a blob needs to spread: neighbours, and others up to as many as each keeps.
    pub(super) fn connections(&mut self) -> Vec<Vec<usize>> {
        let wanted = CONNECTIONS.min(self.up.len().saturating_sub(1));
        let mut connected = self.neighbours.clone();
        for node in self.up.clone() {
            for _ in 0..CONNECTIONS * 4 {
                if connected[node].len() >= wanted {
                    break;
                }
                let other = *self.dice.pick(&self.up);
                // Who has enough is asked in vain, unless it is only a little more.
                if other != node && connected[other].len() < wanted + DEGREE && !connected[node].contains(&other) {
                    connected[node].push(other);
                    connected[other].push(node);
                }
            }
        }
        connected
    }

    /// How a record that `author` says now reaches the others, through those who are up and not cut off.
    pub fn spread(&mut self, author: usize, weather: &Weather) -> Spread {
        let mut spread = Spread::default();
        let connected = self.connected(author);
        // Nanoseconds and small numbers: this is what a run of ten thousand nodes does most of its time.
        let mut best = vec![u64::MAX; self.neighbours.len()];
        let mut reached = vec![false; self.neighbours.len()];
        let small = |node: usize| node as u32; // the command line allows far fewer
        let mut agenda = BinaryHeap::from([Reverse((0, small(author), small(author)))]);
        while let Some(Reverse((nanos, node, from))) = agenda.pop() {
            let (after, node, from) = (Duration::from_nanos(nanos), node as usize, from as usize);
            if std::mem::replace(&mut reached[node], true) {
                continue;
            }
            if node != author {
                spread.arrivals.push(Arrival { after, to: node, from });
            }
            let checked = if node == author { after } else { after + self.dice.exponential(RELAY) };
            let whom = if node == author { &connected } else { &self.neighbours[node] };
            for to in whom.iter().copied().filter(|to| *to != from) {
                spread.copies += 1;
                let Some(delay) = weather.carry(node, to, &mut self.dice) else { continue };
                let at = (checked + delay).as_nanos() as u64;
                if !reached[to] && at < best[to] {
                    best[to] = at;
                    agenda.push(Reverse((at, small(to), small(node))));
                }
            }
        }
        self.tell(author, weather, &reached, &mut spread);
        spread.arrivals.sort_by_key(|arrival| (arrival.after, arrival.to));
        spread
    }

    /// The same, of which so many records of one author go the same way after each other: to find one takes milliseconds in
    /// a mesh of thousands, and each record of an hour would take as long as all that engines do with it.
    pub fn way(&mut self, author: usize, weather: &Weather, records: u32) -> Arc<Spread> {
        if let Some(way) = self.ways.get_mut(&author)
            && way.left > 0
            && way.joined == self.joined
        {
            way.left -= 1;
            return way.spread.clone();
        }
        let spread = Arc::new(self.spread(author, weather));
        if records > 1 {
            self.ways.insert(author, Way { spread: spread.clone(), left: records - 1, joined: self.joined });
        }
        spread
    }

    /// Those whom no neighbour reached hear that there is a record, and ask for it.
    fn tell(&mut self, author: usize, weather: &Weather, reached: &[bool], spread: &mut Spread) {
        let missed: Vec<usize> = self.up.iter().copied().filter(|node| !reached[*node]).collect();
        for to in missed {
            let mut after = Duration::ZERO;
            for _ in 0..ASKS {
                let told = spread.arrivals.get(self.dice.below(spread.arrivals.len() + 1)).copied();
                let (from, had) = told.map_or((author, Duration::ZERO), |arrival| (arrival.to, arrival.after));
                after = after.max(had) + HEARTBEAT.mul_f64(self.dice.unit());
                let told = weather.carry(from, to, &mut self.dice);
                let asked = weather.carry(to, from, &mut self.dice);
                let sent = weather.carry(from, to, &mut self.dice);
                if let (Some(told), Some(asked), Some(sent)) = (told, asked, sent) {
                    spread.copies += 1;
                    spread.arrivals.push(Arrival { after: after + told + asked + sent, to, from });
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh(nodes: usize) -> (Mesh, Weather) {
        let mut mesh = Mesh::new(nodes, 1);
        (0..nodes).for_each(|node| mesh.join(node));
        (mesh, Weather::calm(nodes, Duration::from_millis(100), &mut Dice::new(1, "weather")))
    }

    fn whom(spread: &Spread) -> Vec<usize> {
        let mut whom: Vec<usize> = spread.arrivals.iter().map(|arrival| arrival.to).collect();
        whom.sort_unstable();
        whom
    }

    #[test]
    fn record_reaches_everybody_once() {
        for nodes in [3, 20, 500] {
            let (mut mesh, weather) = mesh(nodes);
            assert_eq!(whom(&mesh.spread(1, &weather)), (0..nodes).filter(|node| *node != 1).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_lost_on_the_way_is_asked_for() {
        let (mut mesh, mut weather) = mesh(500);
        weather.loss = 0.6;
        assert!(whom(&mesh.spread(1, &weather)).len() > 470);
    }

    #[test]
    fn nodes_that_are_gone_are_replaced_as_neighbours() {
        let (mut mesh, weather) = mesh(200);
        (0..150).for_each(|node| mesh.leave(node));
        assert_eq!(whom(&mesh.spread(199, &weather)), (150..199).collect::<Vec<_>>());
        assert!(mesh.neighbours[150..].iter().all(|of| of.len() >= DEGREE_LOW && of.iter().all(|other| *other >= 150)));
    }

    #[test]
    fn nodes_that_only_pass_on_are_reached_too() {
        let (mut mesh, _) = mesh(20);
        mesh.grow(480);
        let weather = Weather::calm(500, Duration::from_millis(100), &mut Dice::new(1, "weather"));
        assert_eq!((mesh.len(), mesh.spread(1, &weather).arrivals.len()), (500, 499));
    }

    /// Every node passes a record on to all neighbours but the one that it came from; those who have it from an author who
    /// is no neighbour have nobody to leave out.
    #[test]
    fn copies_are_as_many_as_links_have_ends_and_what_the_author_sends_beside() {
        let (mut mesh, weather) = mesh(300);
        let ends: usize = mesh.neighbours.iter().map(Vec::len).sum();
        let beside = CONNECTIONS - mesh.neighbours[0].len();
        let spread = mesh.spread(0, &weather);
        let strangers = spread.arrivals.iter().filter(|at| at.from == 0 && !mesh.neighbours[0].contains(&at.to)).count();
        assert_eq!(spread.copies, (ends + beside - 299 + strangers) as u64);
    }

    #[test]
    fn connections_have_two_ends_and_are_about_as_many_as_each_node_keeps() {
        let (mut mesh, _) = mesh(400);
        let connected = mesh.connections();
        for (node, of) in connected.iter().enumerate() {
            assert!((CONNECTIONS - 2..=CONNECTIONS + DEGREE).contains(&of.len()), "{}", of.len());
            assert!(of.iter().all(|other| *other != node && connected[*other].contains(&node)));
            assert!(mesh.neighbours[node].iter().all(|neighbour| of.contains(neighbour)));
        }
    }

    #[test]
    fn records_go_one_way_until_it_is_used_up_or_somebody_joins() {
        let (mut mesh, weather) = mesh(200);
        mesh.leave(7);
        let ways: Vec<_> = (0..5).map(|_| mesh.way(1, &weather, 3)).collect();
        assert!(Arc::ptr_eq(&ways[0], &ways[2]) && !Arc::ptr_eq(&ways[2], &ways[3]) && Arc::ptr_eq(&ways[3], &ways[4]));
        assert!(!whom(&ways[4]).contains(&7));
        mesh.join(7);
        assert!(whom(&mesh.way(1, &weather, 3)).contains(&7));
        assert!(!Arc::ptr_eq(&mesh.way(2, &weather, 1), &mesh.way(2, &weather, 1)));
    }

    #[test]
    fn few_nodes_are_all_connected_to_each_other_and_many_to_some() {
        assert_eq!(mesh(CONNECTIONS + 1).0.connected(0), (1..=CONNECTIONS).collect::<Vec<_>>());
        let mut connected = mesh(300).0.connected(0);
        connected.sort_unstable();
        connected.dedup();
        assert_eq!(connected.len(), CONNECTIONS);
    }
}
