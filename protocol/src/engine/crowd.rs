//! Who could build, and what room everyone has: what machines say of themselves, less the leases that they hold here.
//!
//! A claim makes its machine busy for all who hear it and a commitment frees it again, so no machine has to say so
//! itself, and nobody takes a machine for idle whose claim it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::action::Environment;
use crate::graph::JobFacts;
use crate::id::NodeId;
use crate::platform::Facts;
use crate::record::payload::{LeaseRef, Presence};
use crate::time::Timestamp;

use super::io::Capacity;

/// How long it is remembered when a machine became busy: longer than anybody waits for its turn on that account.
const LATELY: Duration = Duration::from_secs(30);

/// A machine that is present, or holds leases.
#[derive(Debug, Default)]
struct Machine {
    peer: Option<Peer>,
    /// What its leases here use.
    used: Capacity,
}

/// A machine that is present.
#[derive(Debug)]
struct Peer {
    /// What it has to spare beside the leases that it holds here.
    room: Capacity,
    /// Cores lent.
    cores: u16,
    class: usize,
    arbiter_only: bool,
    /// Whether it stands among the idle of its class.
    idle: bool,
}

impl Machine {
    /// What it has to spare; nothing where it is not present.
    fn room(&self) -> Capacity {
        self.peer.as_ref().map_or_else(Capacity::default, |peer| less(peer.room, self.used))
    }

    /// Puts it among the idle of its class, or takes it out, where that changed.
    fn sort_in(&mut self, node: NodeId, classes: &mut [Class]) {
        let idle = self.room().cores > 0;
        let Some(peer) = self.peer.as_mut().filter(|peer| peer.idle != idle) else { return };
        peer.idle = idle;
        let of_class = &mut classes[peer.class].idle;
        if idle {
            of_class.insert(node);
        } else {
            of_class.remove(&node);
        }
    }
}

/// Machines of one kind.
#[derive(Debug)]
struct Class {
    /// What one of them says of itself.
    like: Box<Presence>,
    /// All of them, ...
    members: BTreeSet<NodeId>,
    /// ... and those with a core to spare.
    idle: BTreeSet<NodeId>,
}

/// What a build needs of a machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fit<'a> {
    pub environment: &'a Environment,
    pub need: Capacity,
    /// Whether machines may take it that do nothing but settle disputes.
    pub arbiter: bool,
}

impl<'a> Fit<'a> {
    /// What a job needs that is no arbiter's, with so many bytes of memory.
    pub fn of(facts: &'a JobFacts, memory: u64) -> Self {
        Self { environment: &facts.environment, need: Capacity { cores: facts.cores, memory }, arbiter: false }
    }
}

/// Everybody who takes work.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    machines: BTreeMap<NodeId, Machine>,
    /// How many of them are present.
    present: usize,
    classes: Vec<Class>,
    held: BTreeMap<LeaseRef, (NodeId, Capacity)>,
    /// Who became busier lately, and when this node heard of it.
    busier: BTreeSet<(Timestamp, NodeId)>,
}

const fn less(room: Capacity, used: Capacity) -> Capacity {
    Capacity { cores: room.cores.saturating_sub(used.cores), memory: room.memory.saturating_sub(used.memory) }
}

impl Crowd {
    /// A machine says what it has.
    pub fn appear(&mut self, node: NodeId, presence: &Presence) {
        if !presence.accepting || presence.is_farewell() {
            return self.vanish(&node);
        }
        let alike = |other: &Presence| {
            (&other.os, &other.arch, &other.isa, &other.features) == (&presence.os, &presence.arch, &presence.isa, &presence.features)
        };
        let room = Capacity { cores: presence.free_cores, memory: u64::from(presence.free_memory_mib) << 20 };
        // Mostly it says again what it said before.
        if let Some(machine) = self.machines.get_mut(&node)
            && let Some(peer) = machine.peer.as_mut().filter(|peer| alike(&self.classes[peer.class].like))
        {
            (peer.room, peer.cores, peer.arbiter_only) = (room, presence.cores, presence.arbiter_only);
            return machine.sort_in(node, &mut self.classes);
        }
        self.vanish(&node);
        let class = self.classes.iter().position(|class| alike(&class.like) || class.members.is_empty()).unwrap_or_else(|| {
            self.classes.push(Class { like: presence.clone().into(), members: BTreeSet::new(), idle: BTreeSet::new() });
            self.classes.len() - 1
        });
        if self.classes[class].members.is_empty() {
            *self.classes[class].like = presence.clone();
        }
        self.classes[class].members.insert(node);
        let machine = self.machines.entry(node).or_default();
        machine.peer = Some(Peer { room, cores: presence.cores, class, arbiter_only: presence.arbiter_only, idle: false });
        machine.sort_in(node, &mut self.classes);
        self.present += 1;
    }

    /// A machine takes no work any more, or nothing is known of it.
    pub fn vanish(&mut self, node: &NodeId) {
        let Some(machine) = self.machines.get_mut(node) else { return };
        if let Some(peer) = machine.peer.take() {
            self.present -= 1;
            self.classes[peer.class].members.remove(node);
            self.classes[peer.class].idle.remove(node);
        }
        if machine.used == Capacity::default() {
            self.machines.remove(node);
        }
    }

    /// A machine holds a lease.
    pub fn hold(&mut self, now: Timestamp, lease: LeaseRef, node: NodeId, need: Capacity) {
        self.release(&lease);
        self.held.insert(lease, (node, need));
        let machine = self.machines.entry(node).or_default();
        let used = machine.used;
        machine.used = Capacity { cores: used.cores.saturating_add(need.cores), memory: used.memory.saturating_add(need.memory) };
        machine.sort_in(node, &mut self.classes);
        self.busier.insert((now, node));
        while let Some((at, _)) = self.busier.first()
            && now.since(*at) > LATELY
        {
            self.busier.pop_first();
        }
    }

    /// Nobody holds the lease any more.
    pub fn release(&mut self, lease: &LeaseRef) {
        let Some((node, need)) = self.held.remove(lease) else { return };
        let Some(machine) = self.machines.get_mut(&node) else { return };
        machine.used = less(machine.used, need);
        machine.sort_in(node, &mut self.classes);
        if machine.peer.is_none() && machine.used == Capacity::default() {
            self.machines.remove(&node);
        }
    }

    fn fitting<'a>(&'a self, fit: Fit<'a>) -> impl Iterator<Item = &'a Class> + 'a {
        self.classes.iter().filter(move |class| !class.members.is_empty() && Facts::met_by(&class.like, fit.environment))
    }

    /// Whether a machine could take the build when it has nothing else to do.
    fn could(&self, machine: &Machine, fit: Fit<'_>) -> bool {
        let peer = machine.peer.as_ref().filter(|peer| peer.cores >= fit.need.cores && (fit.arbiter || !peer.arbiter_only));
        peer.is_some_and(|peer| Facts::met_by(&self.classes[peer.class].like, fit.environment))
    }

    /// Whether it can take it now, if it could.
    fn has_room(machine: &Machine, fit: Fit<'_>) -> bool {
        let room = machine.room();
        room.cores >= fit.need.cores && room.memory >= fit.need.memory
    }

    fn can(&self, node: &NodeId, fit: Fit<'_>) -> bool {
        self.machines.get(node).is_some_and(|machine| Self::has_room(machine, fit) && self.could(machine, fit))
    }

    /// Whether it could, but has something else to do.
    fn is_busy(&self, node: &NodeId, fit: Fit<'_>) -> bool {
        self.machines.get(node).is_some_and(|machine| !Self::has_room(machine, fit) && self.could(machine, fit))
    }

    /// How many leases were claimed a second lately.
    pub fn claims_a_second(&self, now: Timestamp) -> f64 {
        let lately = self.busier.iter().rev().take_while(|(at, _)| now.since(*at) <= LATELY);
        lately.count() as f64 / LATELY.as_secs_f64()
    }

    /// Whether no other machine takes work.
    pub fn is_empty_but_for(&self, node: &NodeId) -> bool {
        self.present == usize::from(self.machines.get(node).is_some_and(|machine| machine.peer.is_some()))
    }

    /// Number of machines that take work.
    pub const fn present(&self) -> usize {
        self.present
    }

    /// Number of machines with a core to spare that are of the kind that a build wants: at least those that could begin it
    /// now.
    pub fn idle_len(&self, fit: Fit<'_>) -> usize {
        self.fitting(fit).map(|class| class.idle.len()).sum()
    }

    /// Number of machines of the kind that a build wants.
    pub fn len(&self, fit: Fit<'_>) -> usize {
        self.fitting(fit).map(|class| class.members.len()).sum()
    }

    /// Machines that could begin a build now, in the order of their keys within their kinds.
    pub fn idle<'a>(&'a self, fit: Fit<'a>) -> impl Iterator<Item = NodeId> + 'a {
        self.fitting(fit).flat_map(|class| &class.idle).copied().filter(move |node| self.can(node, fit))
    }

    /// Machines that could begin a build if they had not something else to do.
    pub fn busy<'a>(&'a self, fit: Fit<'a>) -> impl Iterator<Item = NodeId> + 'a {
        self.fitting(fit).flat_map(|class| &class.members).copied().filter(move |node| self.is_busy(node, fit))
    }

    /// Machines that can't begin the build since something else was claimed after `since`, newest first.
    pub fn busy_since<'a>(&'a self, since: Timestamp, fit: Fit<'a>) -> impl Iterator<Item = (Timestamp, NodeId)> + 'a {
        let later = self.busier.range((since + Duration::from_millis(1), NodeId([0; 32]))..).rev();
        later.copied().filter(move |(_, node)| self.is_busy(node, fit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounded::{BoundedString, BoundedVec};
    use crate::id::ActionId;
    use crate::record::payload::SlotNo;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    fn lease(n: u8) -> LeaseRef {
        LeaseRef { action: ActionId([n; 32]), slot: SlotNo(0), epoch: 1 }
    }

    fn presence(cores: u16, arch: &str) -> Presence {
        Presence {
            accepting: true,
            arbiter_only: false,
            free_cores: cores,
            cores,
            free_memory_mib: 1024,
            os: BoundedString::cut("linux"),
            arch: BoundedString::cut(arch),
            isa: BoundedString::default(),
            features: BoundedVec::new(),
        }
    }

    fn environment(arch: &str) -> Environment {
        Environment::host("linux", [arch])
    }

    fn need(cores: u16) -> Capacity {
        Capacity { cores, memory: 0 }
    }

    /// Whoever claims is busy for all who hear of it, and free again when the lease ends, without a word of its own.
    #[test]
    fn lease_makes_its_machine_busy_while_it_is_held() {
        let (mut crowd, here) = (Crowd::default(), environment("x86_64"));
        let fit = Fit { environment: &here, need: need(4), arbiter: false };
        crowd.appear(node(1), &presence(4, "x86_64"));
        crowd.appear(node(2), &presence(8, "x86_64"));
        crowd.hold(NOW, lease(1), node(1), need(4));
        crowd.hold(NOW, lease(2), node(2), need(4));
        assert_eq!(crowd.idle(fit).collect::<Vec<_>>(), [node(2)]);
        assert_eq!(crowd.busy(fit).collect::<Vec<_>>(), [node(1)]);
        assert_eq!((crowd.idle_len(fit), crowd.len(fit)), (1, 2));
        crowd.release(&lease(1));
        assert_eq!(crowd.idle(fit).count(), 2);
        crowd.release(&lease(1));
        assert_eq!(crowd.idle(fit).count(), 2, "a lease ends once");
    }

    /// A claim may arrive before the Presence of who made it.
    #[test]
    fn lease_counts_for_a_machine_that_is_heard_of_later() {
        let (mut crowd, here) = (Crowd::default(), environment("x86_64"));
        let fit = Fit { environment: &here, need: need(1), arbiter: false };
        crowd.hold(NOW, lease(1), node(1), need(4));
        crowd.appear(node(1), &presence(4, "x86_64"));
        assert_eq!(crowd.idle(fit).count(), 0);
        crowd.release(&lease(1));
        assert_eq!(crowd.idle(fit).count(), 1);
    }

    #[test]
    fn machine_of_another_kind_or_too_small_is_nobodys_rival() {
        let (mut crowd, here) = (Crowd::default(), environment("x86_64"));
        crowd.appear(node(1), &presence(4, "aarch64"));
        crowd.appear(node(2), &presence(2, "x86_64"));
        crowd.appear(node(3), &Presence { arbiter_only: true, ..presence(4, "x86_64") });
        crowd.appear(node(4), &Presence { accepting: false, ..presence(4, "x86_64") });
        let fit = Fit { environment: &here, need: need(4), arbiter: false };
        assert_eq!(crowd.idle(fit).chain(crowd.busy(fit)).count(), 0);
        assert_eq!(crowd.idle(Fit { arbiter: true, ..fit }).collect::<Vec<_>>(), [node(3)]);
        crowd.vanish(&node(3));
        assert_eq!(crowd.idle(Fit { arbiter: true, ..fit }).count(), 0);
    }

    #[test]
    fn who_took_other_work_lately_is_told_newest_first() {
        let (mut crowd, here) = (Crowd::default(), environment("x86_64"));
        let fit = Fit { environment: &here, need: need(4), arbiter: false };
        for n in 1..=3 {
            crowd.appear(node(n), &presence(4, "x86_64"));
            crowd.hold(NOW + Duration::from_secs(n.into()), lease(n), node(n), need(4));
        }
        let lately: Vec<NodeId> = crowd.busy_since(NOW + Duration::from_secs(1), fit).map(|(_, node)| node).collect();
        assert_eq!(lately, [node(3), node(2)]);
    }
}
