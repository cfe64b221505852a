//! Ready work in the order in which this node looks at it. It changes with each action that becomes ready or stops being
//! so; nothing is scanned.
//!
//! Classes of priority come first, then fairness between who submitted, then the longest way to the end of the batch. One
//! look in [`RESERVED_EVERY`] begins at the least urgent class, so that nothing starves behind an endless stream of what
//! is more urgent.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::graph::JobIndex;
use crate::id::OperatorId;
use crate::record::payload::Priority;
use crate::table::Place;
use crate::time::Timestamp;

/// Every so-manieth build of a node is taken from the least urgent class that has any: a tenth is reserved for it.
const RESERVED_EVERY: u64 = 10;
/// After so many builds those before count half: fairness looks at the recent past.
const SERVED_MEMORY: u32 = 64;

/// Where an action stands within its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    /// Time from its start to the end of the last that waits for it in tenths of a second; then how many wait for it.
    pub rank: Reverse<(u32, u32)>,
    /// When its batch was submitted.
    pub issued: Timestamp,
    /// Its place in the batch.
    pub job: JobIndex,
}

type Line = (Priority, OperatorId);

/// Ready actions.
#[derive(Debug, Default)]
pub(super) struct Queue {
    lines: BTreeMap<Line, BTreeSet<(Standing, Place)>>,
    places: BTreeMap<Place, (Line, Standing)>,
    /// Submitter → builds that this node lately began for it.
    served: BTreeMap<OperatorId, u32>,
    /// Builds that this node began.
    begun: u64,
}

impl Queue {
    /// Lists an action, or moves it.
    pub fn insert(&mut self, action: Place, line: Line, standing: Standing) {
        if self.places.get(&action) == Some(&(line, standing)) {
            return;
        }
        self.remove(action);
        self.places.insert(action, (line, standing));
        self.lines.entry(line).or_default().insert((standing, action));
    }

    /// Takes an action off the list.
    pub fn remove(&mut self, action: Place) {
        let Some((line, standing)) = self.places.remove(&action) else { return };
        if let Some(queued) = self.lines.get_mut(&line) {
            queued.remove(&(standing, action));
            if queued.is_empty() {
                self.lines.remove(&line);
            }
        }
    }

    /// This node begins a build of the action.
    pub fn serve(&mut self, action: Place) {
        let Some(((_, submitter), _)) = self.places.get(&action) else { return };
        *self.served.entry(*submitter).or_default() += 1;
        self.begun += 1;
        if self.served.values().sum::<u32>() >= SERVED_MEMORY {
            self.served.values_mut().for_each(|count| *count /= 2);
            self.served.retain(|_, count| *count > 0);
        }
    }

    /// Whether the next look begins at the least urgent class.
    const fn is_reserved(&self) -> bool {
        self.begun % RESERVED_EVERY == RESERVED_EVERY - 1
    }

    /// At most `most` actions, in the order in which this node should take them.
    pub fn in_order(&self, most: usize) -> Vec<Place> {
        let mut classes: Vec<Priority> = self.lines.keys().map(|(priority, _)| *priority).collect();
        classes.dedup();
        if self.is_reserved()
            && let Some(least) = classes.pop()
        {
            classes.insert(0, least);
        }
        let mut order = Vec::new();
        for class in classes {
            let lines = self.lines.iter().filter(|((priority, _), _)| *priority == class);
            // Who was served least comes next; what is listed here counts as served.
            let mut waiting: BTreeSet<(u32, OperatorId)> = BTreeSet::new();
            let mut rest = BTreeMap::new();
            for ((_, submitter), queued) in lines {
                waiting.insert((self.served.get(submitter).copied().unwrap_or(0), *submitter));
                rest.insert(*submitter, queued.iter());
            }
            while order.len() < most
                && let Some((served, submitter)) = waiting.pop_first()
            {
                if let Some((_, action)) = rest.get_mut(&submitter).and_then(Iterator::next) {
                    order.push(*action);
                    waiting.insert((served + 1, submitter));
                }
            }
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANNA: OperatorId = OperatorId([1; 32]);
    const BERT: OperatorId = OperatorId([2; 32]);

    fn standing(rank: u32, job: u32) -> Standing {
        Standing { rank: Reverse((rank, 0)), issued: Timestamp(0), job: JobIndex(job) }
    }

    #[test]
    fn urgent_work_goes_first_then_the_longest_way() {
        let mut queue = Queue::default();
        queue.insert(1, (Priority::Nightly, ANNA), standing(10, 0));
        queue.insert(2, (Priority::Nightly, ANNA), standing(30, 1));
        queue.insert(3, (Priority::Security, ANNA), standing(1, 2));
        assert_eq!(queue.in_order(9), [3, 2, 1]);
        queue.insert(1, (Priority::Nightly, ANNA), standing(40, 0));
        assert_eq!(queue.in_order(9), [3, 1, 2]);
        queue.remove(3);
        assert_eq!(queue.in_order(1), [1]);
    }

    /// Who submits a thousand jobs does not keep waiting who submits one.
    #[test]
    fn submitters_of_one_class_take_turns() {
        let mut queue = Queue::default();
        for job in 0..1000 {
            queue.insert(job, (Priority::Nightly, ANNA), standing(1000, job));
        }
        queue.insert(5000, (Priority::Nightly, BERT), standing(1, 0));
        queue.serve(0);
        assert_eq!(queue.in_order(3), [5000, 0, 1]);
        queue.serve(5000);
        queue.serve(5000);
        assert_eq!(queue.in_order(3), [0, 1, 5000]);
    }

    /// Nothing starves: of an endless stream of urgent work a tenth of the builds go to the rest.
    #[test]
    fn a_tenth_is_reserved_for_the_least_urgent() {
        let mut queue = Queue::default();
        let mut taken = 0;
        for build in 0..1000 {
            queue.insert(build * 2, (Priority::Security, ANNA), standing(1, build));
            queue.insert(1, (Priority::Background, BERT), standing(1, 0));
            let next = queue.in_order(1)[0];
            queue.serve(next);
            queue.remove(next);
            taken += u32::from(next == 1);
        }
        assert_eq!(taken, 100);
    }
}
