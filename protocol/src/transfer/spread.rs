//! How a blob spreads that a whole network wants at the same moment: the graph of a batch.
//!
//! Everybody hears of a batch within seconds, and at first only its author has the graph. If all asked the author, one line
//! would carry a copy for each of thousands. So whoever wants it asks those to whom it is connected, a few at a time and in
//! an order of its own, and the author only where it is connected to it, or late ([`Seeker`]). Whoever has some of it
//! serves few at once and sends the others away ([`Ration`]), who then find it at those who got it meanwhile: the number
//! of holders doubles again and again, and the author sends no more copies in a large network than in a middling one.
//!
//! Not decided here: which units come from whom ([`super::Schedule`]), and who is connected to whom. Times are ages of any
//! one clock that does not run backwards.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::{BlobHash, NodeId};

/// How many are asked in one round: enough that a round is seldom in vain once a quarter of the network has the blob, few
/// enough that nobody is asked by all at once.
const ASKED_A_ROUND: usize = 4;
/// The author is asked by those who are not connected to it once they have asked others in vain for this long, ...
const AUTHOR_AFTER: Duration = Duration::from_secs(30);
/// ... and up to so much longer, drawn by each, and then as often.
const AUTHOR_SPREAD: Duration = Duration::from_secs(30);
/// Nobody had it for so long: others are looked for, in all ways that there are.
const SEARCH_AFTER: Duration = Duration::from_secs(45);
/// After a round in vain this part of the time so far is waited, so that nobody learns of a holder later than by a part of
/// the time that the spreading took, and few ask often; ...
const PAUSE_SHARE: u32 = 4;
/// ... at least this, ...
const PAUSE_MIN: Duration = Duration::from_millis(300);
/// ... and at most this.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How many peers may take one blob at the same time. A home's line is full with one; with four, four soon pass it on.
pub const COPIES_AT_ONCE: usize = 4;
/// How many peers may begin to take it within a [`PERIOD`].
pub const COPIES_A_PERIOD: usize = 16;
/// How long somebody counts who has begun to take a blob.
pub const PERIOD: Duration = Duration::from_secs(60);
/// Who has been sent all that it asked for, and has asked for nothing more for so long, takes it no more.
const TAKING: Duration = Duration::from_secs(1);

/// Whom to ask now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Round {
    /// In this order.
    pub providers: Vec<NodeId>,
    /// Whether others are looked for, if none of these has it.
    pub search: bool,
}

/// One node's search for a blob that everybody wants.
#[derive(Debug, Clone)]
pub struct Seeker {
    author: NodeId,
    seed: u64,
    rounds: u32,
    asked: BTreeMap<NodeId, u32>,
    /// When the author is asked next by a node that is not connected to it.
    author_at: Duration,
}

impl Seeker {
    /// A search for what `author` made. `seed` draws the order; it differs from node to node, or all ask the same ones.
    pub fn new(author: NodeId, seed: u64) -> Self {
        let share = f64::from((seed >> 32) as u32) / f64::from(u32::MAX);
        Self { author, seed, rounds: 0, asked: BTreeMap::new(), author_at: AUTHOR_AFTER + AUTHOR_SPREAD.mul_f64(share) }
    }

    /// Whom to ask when the search is `age` old. Nobody is asked again before all who are `connected` have been asked as
    /// often; the author comes first where it is one of them, and alone where nobody is.
    pub fn next(&mut self, connected: &[NodeId], age: Duration) -> Round {
        self.rounds += 1;
        let mut order: Vec<(u32, bool, [u8; 8], NodeId)> = connected.iter().map(|node| self.rank(*node)).collect();
        order.sort_unstable();
        order.truncate(ASKED_A_ROUND);
        let mut providers: Vec<NodeId> = order.into_iter().map(|(.., node)| node).collect();
        let is_late = age >= self.author_at;
        if !connected.contains(&self.author) && (is_late || connected.is_empty()) {
            providers.push(self.author);
        }
        if is_late {
            self.author_at = age + AUTHOR_SPREAD;
        }
        // Whoever is connected no more is forgotten.
        self.asked.retain(|node, _| connected.contains(node));
        for node in &providers {
            *self.asked.entry(*node).or_default() += 1;
        }
        Round { providers, search: age >= SEARCH_AFTER }
    }

    /// How long to wait before the next round after one in vain that ended at `age`.
    pub fn pause(&self, age: Duration) -> Duration {
        let share = f64::from(u32::from_le_bytes(first(&self.draw(&self.author)))) / f64::from(u32::MAX);
        // Between 3/4 and 5/4, so that those who began together don't stay together.
        (age / PAUSE_SHARE).clamp(PAUSE_MIN, PAUSE_MAX).mul_f64(0.75 + share / 2.0)
    }

    fn rank(&self, node: NodeId) -> (u32, bool, [u8; 8], NodeId) {
        let asked = self.asked.get(&node).copied().unwrap_or(0);
        (asked, asked > 0 || node != self.author, first(&self.draw(&node)), node)
    }

    /// Another draw in each round.
    fn draw(&self, node: &NodeId) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("barnraiser 2026 order of asking v1");
        hasher.update(&self.seed.to_le_bytes()).update(&self.rounds.to_le_bytes()).update(&node.0);
        *hasher.finalize().as_bytes()
    }
}

/// The first bytes of a hash.
fn first<const N: usize>(hash: &[u8; 32]) -> [u8; N] {
    const { assert!(N <= 32) };
    let mut bytes = [0; N];
    bytes.copy_from_slice(&hash[..N]);
    bytes
}

#[derive(Debug, Clone, Copy)]
struct Taker {
    since: Duration,
    last: Duration,
    /// Requests that are being answered.
    in_hand: u32,
}

impl Taker {
    fn counts(&self, now: Duration) -> bool {
        now.saturating_sub(self.since) < PERIOD || self.in_hand > 0
    }

    fn takes(&self, now: Duration) -> bool {
        self.in_hand > 0 || now.saturating_sub(self.last) < TAKING
    }
}

/// Who takes which of the blobs that everybody wants from this node.
#[derive(Debug, Clone, Default)]
pub struct Ration {
    takers: BTreeMap<BlobHash, BTreeMap<NodeId, Taker>>,
}

impl Ration {
    /// Whether `to` may take of the blob now: it has begun already, or there is room for one more.
    pub fn has_room(&self, blob: &BlobHash, to: &NodeId, now: Duration) -> bool {
        let Some(takers) = self.takers.get(blob) else { return true };
        let live = || takers.iter().filter(|(_, taker)| taker.counts(now));
        let room = || live().count() < COPIES_A_PERIOD && live().filter(|(_, taker)| taker.takes(now)).count() < COPIES_AT_ONCE;
        live().any(|(node, _)| node == to) || room()
    }

    /// Lets `to` take of the blob now, or sends it away. Each time that it is let, [`Ration::served`] must follow.
    pub fn admit(&mut self, blob: &BlobHash, to: &NodeId, now: Duration) -> bool {
        if !self.has_room(blob, to, now) {
            return false;
        }
        // What has had its time is forgotten: there are never more takers than each blob may have in a period.
        self.takers.retain(|_, takers| {
            takers.retain(|_, taker| taker.counts(now));
            !takers.is_empty()
        });
        let taker = self.takers.entry(*blob).or_default().entry(*to).or_insert(Taker { since: now, last: now, in_hand: 0 });
        taker.last = now;
        taker.in_hand += 1;
        true
    }

    /// What `to` was let take is sent, or can't be.
    pub fn served(&mut self, blob: &BlobHash, to: &NodeId, now: Duration) {
        if let Some(taker) = self.takers.get_mut(blob).and_then(|takers| takers.get_mut(to)) {
            taker.last = now;
            taker.in_hand = taker.in_hand.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const BLOB: BlobHash = BlobHash([7; 32]);

    fn node(number: usize) -> NodeId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_le_bytes());
        NodeId(id)
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn all_who_are_connected_are_asked_before_anybody_is_asked_again() {
        let connected: Vec<NodeId> = (0..32).map(node).collect();
        let mut seeker = Seeker::new(node(99), 1);
        let asked: Vec<NodeId> = (0..8).flat_map(|_| seeker.next(&connected, Duration::ZERO).providers).collect();
        assert_eq!(asked.len(), 32);
        assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), 32);
        assert_ne!(asked, (0..8).flat_map(|_| Seeker::new(node(99), 2).next(&connected, Duration::ZERO).providers).collect::<Vec<_>>());
    }

    /// In a small network nothing takes longer than if everybody asked the author.
    #[test]
    fn author_is_asked_first_by_those_who_are_connected_to_it() {
        let connected: Vec<NodeId> = (0..32).map(node).collect();
        for seed in 0..20 {
            assert_eq!(Seeker::new(node(5), seed).next(&connected, Duration::ZERO).providers[0], node(5));
        }
        assert_eq!(Seeker::new(node(99), 1).next(&[], Duration::ZERO).providers, [node(99)], "there is nobody else");
    }

    #[test]
    fn others_ask_the_author_late_and_seldom() {
        let connected: Vec<NodeId> = (0..32).map(node).collect();
        let mut seeker = Seeker::new(node(99), 1 << 63);
        let mut asked = Vec::new();
        for second in 0..180 {
            let round = seeker.next(&connected, seconds(second));
            assert_eq!(round.search, second >= 45);
            asked.extend(round.providers.contains(&node(99)).then_some(second));
        }
        assert!((30..=60).contains(&asked[0]) && asked.len() <= 5, "{asked:?}");
    }

    #[test]
    fn pauses_grow_with_what_the_search_has_taken_and_end() {
        let seeker = Seeker::new(node(1), 3);
        for (age, least, most) in [(0, 0.2, 0.4), (8, 1.5, 2.5), (3600, 45.0, 75.0)] {
            let pause = seeker.pause(seconds(age)).as_secs_f64();
            assert!((least..=most).contains(&pause), "{pause} after {age}");
        }
    }

    #[test]
    fn few_take_a_blob_at_once_and_the_others_are_sent_away() {
        let mut ration = Ration::default();
        for number in 0..COPIES_AT_ONCE {
            assert!(ration.admit(&BLOB, &node(number), seconds(1)));
        }
        assert!(!ration.admit(&BLOB, &node(50), seconds(1)));
        assert!(ration.admit(&BlobHash([8; 32]), &node(50), seconds(1)), "another blob has takers of its own");
        assert!(ration.admit(&BLOB, &node(0), seconds(1)), "who has begun may go on");
        // A slow line takes long, and is not given more to carry meanwhile.
        assert!(!ration.has_room(&BLOB, &node(50), seconds(50)));
        for number in 0..COPIES_AT_ONCE {
            ration.served(&BLOB, &node(number), seconds(50));
        }
        assert!(!ration.has_room(&BLOB, &node(50), seconds(50)), "they are about to ask for more");
        // All but the first, which is owed one answer more.
        let admitted = (50..60).filter(|number| ration.admit(&BLOB, &node(*number), seconds(52))).count();
        assert_eq!(admitted, COPIES_AT_ONCE - 1);
    }

    #[test]
    fn only_so_many_begin_to_take_a_blob_within_a_minute() {
        let mut ration = Ration::default();
        let mut admitted = Vec::new();
        for second in 0..180 {
            for peer in (0..9).map(|peer| node(second * 9 + peer)) {
                if ration.admit(&BLOB, &peer, seconds(second as u64)) {
                    ration.served(&BLOB, &peer, seconds(second as u64));
                    admitted.push(second);
                }
            }
        }
        for window in admitted.windows(COPIES_A_PERIOD + 1) {
            assert!(window[COPIES_A_PERIOD] - window[0] >= 60);
        }
        assert!(admitted.len() > 2 * COPIES_A_PERIOD, "and the next ones later: {}", admitted.len());
        assert!(ration.takers[&BLOB].len() <= COPIES_A_PERIOD);
    }

    /// Everybody connected to 20 others, a copy a second: all have it soon, and the author served few.
    #[test]
    fn thousands_get_the_blob_soon_though_its_author_serves_few() {
        const NODES: usize = 3000;
        let connected: Vec<Vec<NodeId>> =
            (0..NODES).map(|of| (1..=20).map(|step| node((of + step * step * step * 7) % NODES)).collect()).collect();
        let number = |id: &NodeId| usize::from_le_bytes(first(&id.0));
        let mut seekers: Vec<Seeker> =
            (0..NODES).map(|seed| Seeker::new(node(0), (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
        let mut rations = vec![Ration::default(); NODES];
        let mut held_from: Vec<Option<u64>> = vec![None; NODES];
        let mut next = vec![0; NODES];
        let mut under_way: Vec<(u64, usize, usize)> = Vec::new();
        held_from[0] = Some(0);
        let (mut from_author, mut end) = (0, 0);
        for tenth in 0..600 {
            let age = Duration::from_millis(tenth * 100);
            under_way.retain(|(at, by, to)| {
                if *at <= tenth {
                    rations[*by].served(&BLOB, &node(*to), age);
                }
                *at > tenth
            });
            for of in 1..NODES {
                if held_from[of].is_some() || next[of] > tenth {
                    continue;
                }
                let round = seekers[of].next(&connected[of], age);
                let found = round
                    .providers
                    .iter()
                    .map(number)
                    .find(|at| held_from[*at].is_some_and(|from| from <= tenth) && rations[*at].admit(&BLOB, &node(of), age));
                from_author += usize::from(found == Some(0));
                under_way.extend(found.map(|by| (tenth + 10, by, of)));
                held_from[of] = found.map(|_| tenth + 10);
                next[of] = tenth + (seekers[of].pause(age).as_millis() / 100) as u64;
            }
            if held_from.iter().all(Option::is_some) {
                end = tenth;
                break;
            }
        }
        assert!((1..400).contains(&end), "{end} tenths of a second");
        assert!(from_author <= COPIES_A_PERIOD, "{from_author} copies");
    }
}
