use proptest::prelude::*;

use super::*;

fn node(number: u8) -> NodeId {
    NodeId([number; 32])
}

fn blob(number: u8) -> BlobHash {
    BlobHash::of(&[number])
}

const STEP: Duration = Duration::from_secs(5);

/// Holders and watchers of a network; what is asked is answered at once, copies take a step.
struct World {
    now: Duration,
    keepers: Vec<(NodeId, Keeper)>,
    /// Holder → what it has; gone ones are not in it.
    holders: BTreeMap<NodeId, BTreeSet<BlobHash>>,
    told: BTreeSet<NodeId>,
    blobs: Vec<BlobHash>,
    copies_made: usize,
    asked: usize,
}

impl World {
    fn new(watchers: u8, holders: u8, blobs: u8, copies: u16) -> Self {
        let blobs: Vec<BlobHash> = (0..blobs).map(blob).collect();
        let holders: BTreeMap<NodeId, BTreeSet<BlobHash>> = (0..holders).map(|number| (node(100 + number), BTreeSet::new())).collect();
        let keepers = (0..watchers).map(|number| (node(number), Keeper::new(node(number), copies))).collect();
        let told = holders.keys().copied().collect();
        Self { now: Duration::ZERO, keepers, holders, told, blobs, copies_made: 0, asked: 0 }
    }

    fn step(&mut self) {
        self.now += STEP;
        let watchers: Vec<NodeId> = self.keepers.iter().map(|(watcher, _)| *watcher).collect();
        let mut copied = Vec::new();
        for (index, (_, keeper)) in self.keepers.iter_mut().enumerate() {
            keeper.set_watchers(watchers.iter().copied());
            keeper.set_holders(self.told.iter().copied(), self.now);
            keeper.set_kept(self.blobs.iter().map(|blob| ToKeep { blob: *blob, of: *blob }));
            for task in keeper.poll(self.now) {
                match task {
                    Task::Ask { holder, blob } => {
                        self.asked += 1;
                        let has = self.holders.get(&holder).map(|held| held.contains(&blob));
                        keeper.answered(holder, blob, has, self.now);
                    }
                    Task::Copy { blob, to } => copied.push((index, blob, to)),
                }
            }
        }
        for (index, blob, to) in copied {
            let done = match self.holders.get_mut(&to) {
                Some(held) => {
                    self.copies_made += usize::from(held.insert(blob));
                    true
                }
                None => false,
            };
            self.keepers[index].1.copied(blob, to, done, self.now);
        }
    }

    fn run(&mut self, time: Duration) {
        for _ in 0..time.as_secs() / STEP.as_secs() {
            self.step();
        }
    }

    fn copies(&self, blob: &BlobHash) -> usize {
        self.holders.values().filter(|held| held.contains(blob)).count()
    }

    fn fewest(&self) -> usize {
        self.blobs.iter().map(|blob| self.copies(blob)).min().unwrap_or(usize::MAX)
    }
}

#[test]
fn holder_that_leaves_is_noticed_and_its_copies_are_made_again() {
    let mut world = World::new(2, 4, 5, 2);
    world.run(Duration::from_secs(120));
    assert_eq!((world.fewest(), world.copies_made), (2, 10));
    let left = world.holders.iter().max_by_key(|(_, held)| held.len()).map(|(holder, _)| *holder).unwrap();
    let lost = world.holders.remove(&left).unwrap().len();
    assert!(lost > 0);
    world.run(Duration::from_secs(180));
    assert_eq!((world.fewest(), world.copies_made), (2, 10 + lost), "no copy too many");
    // A restart is no leaving.
    let away = *world.holders.keys().next().unwrap();
    let held = world.holders.remove(&away).unwrap();
    world.run(Duration::from_secs(30));
    world.holders.insert(away, held);
    world.run(Duration::from_secs(300));
    assert_eq!(world.copies_made, 10 + lost);
}

#[test]
fn second_watcher_takes_over_where_the_first_does_nothing() {
    let mut world = World::new(2, 3, 8, 2);
    // The first of each blob never acts: it is known to live, and is stuck.
    let (stuck, _) = world.keepers.remove(0);
    for _ in 0..80 {
        world.now += STEP;
        let (_, keeper) = &mut world.keepers[0];
        keeper.set_watchers([stuck]);
        keeper.set_holders(world.told.iter().copied(), world.now);
        keeper.set_kept(world.blobs.iter().map(|blob| ToKeep { blob: *blob, of: *blob }));
        for task in keeper.poll(world.now) {
            match task {
                Task::Ask { holder, blob } => {
                    keeper.answered(holder, blob, world.holders.get(&holder).map(|held| held.contains(&blob)), world.now)
                }
                Task::Copy { blob, to } => {
                    assert!(keeper.place(&blob) == 0 || world.now >= SECOND_WAITS);
                    world.holders.get_mut(&to).unwrap().insert(blob);
                    keeper.copied(blob, to, true, world.now);
                }
            }
        }
    }
    assert_eq!(world.fewest(), 2);
}

#[test]
fn holder_that_refuses_is_passed_over_and_tried_again() {
    let mut keeper = Keeper::new(node(1), 2);
    let holders = [node(100), node(101), node(102)];
    let mut now = Duration::ZERO;
    let mut tried = BTreeMap::<NodeId, u32>::new();
    for _ in 0..100 {
        now += STEP;
        keeper.set_holders(holders, now);
        keeper.set_kept([ToKeep { blob: blob(1), of: blob(1) }]);
        for task in keeper.poll(now) {
            match task {
                Task::Ask { holder, blob } => keeper.answered(holder, blob, Some(false), now),
                Task::Copy { blob, to } => {
                    *tried.entry(to).or_default() += 1;
                    keeper.copied(blob, to, false, now);
                }
            }
        }
    }
    assert_eq!(tried.len(), 3, "all are tried: {tried:?}");
    let tries: u32 = tried.values().sum();
    assert!((4..12).contains(&tries), "less and less often: {tries}");
}

#[test]
fn order_of_holders_is_the_same_for_all_and_changes_little_when_one_leaves() {
    let holders: Vec<NodeId> = (0..20).map(node).collect();
    let mut moved = 0;
    for number in 0..100 {
        let all = ranked(&blob(number), holders.iter().copied());
        assert_eq!(all, ranked(&blob(number), holders.iter().rev().copied()));
        let without = ranked(&blob(number), holders.iter().skip(1).copied());
        assert_eq!(without, all.iter().filter(|holder| **holder != holders[0]).copied().collect::<Vec<_>>());
        moved += usize::from(all[..2].contains(&holders[0]));
    }
    assert!((2..25).contains(&moved), "{moved} of 100 had a copy at one of 20 holders");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever holders have at first, and whoever leaves: there come to be as many copies as are wanted, or as there are
    /// holders; no more copies are made than lacked; and nobody is asked without end.
    #[test]
    fn copies_reach_what_is_wanted_and_no_more(
        watchers in 1u8..5, holders in 1u8..8, blobs in 1u8..12, copies in 1u16..5,
        have in proptest::collection::vec((0u8..8, 0u8..12), 0..40), leave in 0u8..8,
    ) {
        let mut world = World::new(watchers, holders, blobs, copies);
        for (holder, number) in have {
            if number < blobs && let Some(held) = world.holders.get_mut(&node(100 + holder)) {
                held.insert(blob(number));
            }
        }
        let lack = |world: &World| -> usize {
            let wanted = usize::from(copies).min(world.holders.len());
            world.blobs.iter().map(|blob| wanted.saturating_sub(world.copies(blob))).sum()
        };
        let mut lacked = lack(&world);
        world.run(Duration::from_secs(400));
        prop_assert!(world.fewest() >= usize::from(copies).min(world.holders.len()), "{} of {}", world.fewest(), copies);
        prop_assert_eq!(world.copies_made, lacked);
        if world.holders.len() > 1 && world.holders.remove(&node(100 + leave % holders)).is_some() {
            lacked += lack(&world);
            world.run(Duration::from_secs(400));
            prop_assert!(world.fewest() >= usize::from(copies).min(world.holders.len()));
            prop_assert_eq!(world.copies_made, lacked);
        }
        // In steady state each holder is asked about every ten seconds by each watcher, and each blob's copies seldom.
        let before = world.asked;
        world.run(Duration::from_secs(100));
        let steady = usize::from(watchers) * usize::from(holders) * 12 + usize::from(blobs) * 2 * usize::from(holders);
        prop_assert!(world.asked - before <= steady, "{} questions", world.asked - before);
    }
}
