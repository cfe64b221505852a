//! Who takes part: founders, honest guests, and those who want a lie to be believed.

use std::collections::BTreeSet;
use std::time::Duration;

use barnraiser_protocol::engine::{Config, Lend};
use barnraiser_protocol::id::OperatorId;
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::platform::Facts;
use barnraiser_protocol::record::payload::{Invitation, Invitee, NodeCertificate, OperatorCertificate};
use barnraiser_protocol::record::{Payload, Record, SharedRecord};
use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::trust::charter::Grants;

use crate::dice::Dice;
use crate::world::START;
use crate::world::disk::Write;
use crate::world::node::{Character, Node};
use crate::world::people::NETWORK;

/// Founders: two that build, and one that only settles disputes.
pub const FOUNDERS: usize = 3;
/// Of all nodes, so many lie, each in its own way, ...
const LIARS: f64 = 0.08;
/// ... say that every build failed, ...
const FAILERS: f64 = 0.03;
/// ... and lie alike: the gang.
const GANG: f64 = 0.1;
/// Honest guests who come later.
const LATECOMERS: f64 = 0.15;
/// Of the honest ones so many have machines that spoil builds.
const CLUMSY: f64 = 0.1;
/// For each gang member so many sybils come, one after the other, ...
const SYBILS_EACH: usize = 3;
/// ... so far apart.
const SYBIL_EVERY: Duration = Duration::from_secs(60);
/// Within this time everybody comes who comes later.
const COMING: Duration = Duration::from_secs(1800);
/// Longer than any run.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// What somebody is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Founded the network.
    Founder,
    /// Builds.
    Honest,
    /// Lies alone.
    Liar,
    /// Says that all builds fail.
    Failer,
    /// Lies as its fellows do.
    Gang,
    /// The same, invited by a fellow when the network was there already.
    Sybil,
}

impl Role {
    /// Whether what it says is true.
    pub const fn is_honest(self) -> bool {
        matches!(self, Self::Founder | Self::Honest)
    }
}

/// One of them, with one machine.
pub struct Person {
    /// What for.
    pub role: Role,
    /// The operator's key, ...
    pub key: SecretKey,
    /// ... and the machine's.
    machine: SecretKey,
    /// When it comes.
    pub from: Timestamp,
    /// What says who it is.
    standing: Vec<SharedRecord>,
}

impl Person {
    /// Who answers for it.
    pub fn operator(&self) -> OperatorId {
        self.key.operator()
    }
}

/// All of them, founders first, in the order in which they come.
pub struct Cast {
    /// The people.
    pub people: Vec<Person>,
    /// Who founded.
    pub grants: Grants,
}

impl Cast {
    /// Draws `nodes` people and the sybils. The gang owns `branches` branches: so many of it were invited by a founder,
    /// the others by these, and all sybils by the first.
    ///
    /// # Errors
    /// A record can't be made.
    pub fn draw(nodes: usize, branches: usize, dice: &mut Dice) -> anyhow::Result<Self> {
        let share = |share: f64| (nodes as f64 * share).round() as usize;
        let gang = share(GANG).max(branches);
        let mut roles = vec![Role::Founder; FOUNDERS];
        for (role, count) in [(Role::Gang, gang), (Role::Liar, share(LIARS)), (Role::Failer, share(FAILERS))] {
            roles.extend(std::iter::repeat_n(role, count));
        }
        roles.resize(nodes.max(roles.len()), Role::Honest);
        roles.extend(std::iter::repeat_n(Role::Sybil, gang * SYBILS_EACH));
        let keys: Vec<SecretKey> = roles.iter().map(|_| SecretKey::from_seed(&dice.bytes())).collect();
        let mut people = Vec::new();
        let (mut late, mut sybils) = (share(LATECOMERS), 0);
        for (number, role) in roles.iter().copied().enumerate() {
            let in_gang = number - FOUNDERS.min(number);
            let host = match role {
                Role::Sybil => FOUNDERS,
                Role::Gang if in_gang >= branches => FOUNDERS + in_gang % branches.max(1),
                _ => dice.below(FOUNDERS),
            };
            let mut from = START;
            if role == Role::Sybil {
                sybils += 1;
                from = START + SYBIL_EVERY * sybils;
            } else if role == Role::Honest && late > 0 {
                late -= 1;
                from = START + COMING.mul_f64(dice.unit());
            }
            let invitation = (role != Role::Founder).then_some(&keys[host]);
            people.push(person(role, keys[number].clone(), invitation, from, dice)?);
        }
        people.sort_by_key(|person| person.from);
        let grants = Grants::of_founders(keys.iter().take(FOUNDERS).map(SecretKey::operator));
        Ok(Self { people, grants })
    }

    /// Somebody's machine, down, which knows who was there before.
    pub fn machine(&self, number: usize, dice: &mut Dice) -> Node {
        let person = &self.people[number];
        let facts = Facts { os: "linux".into(), arch: "x86_64".into(), isa: String::new(), features: BTreeSet::new() };
        let lend = Lend { builds: true, arbiter_only: number + 1 == FOUNDERS, cores: 2 + dice.below(4) as u16, memory: 1 << 40 };
        let config = Config { key: person.machine.clone(), facts, programs: BTreeSet::new(), lend };
        let clumsy = person.role == Role::Honest && dice.chance(CLUMSY);
        let character = Character {
            lies: matches!(person.role, Role::Liar | Role::Gang | Role::Sybil),
            fellows: matches!(person.role, Role::Gang | Role::Sybil),
            fails: person.role == Role::Failer,
            spoils: if clumsy { dice.between(0.0, 0.5) } else { 0.0 },
            hangs: if clumsy { dice.between(0.0, 0.2) } else { 0.0 },
            speed: dice.between(0.5, 2.0),
            ..Character::default()
        };
        let mut node = Node::new(person.operator(), config, character, dice.between(-500.0, 500.0) as i64);
        // Invitations first: each certificate then finds its own.
        let known = self.people.iter().filter(|other| other.from == START).chain([person]);
        for record in known.flat_map(|other| &other.standing) {
            node.disk.write(Write::Record(record.clone()));
        }
        node.disk.sync();
        node
    }
}

fn person(role: Role, key: SecretKey, host: Option<&SecretKey>, from: Timestamp, dice: &mut Dice) -> anyhow::Result<Person> {
    let machine = SecretKey::from_seed(&dice.bytes());
    let say = |by: &SecretKey, payload| Record::author(by, NETWORK, 1, from, from + LIFETIME, payload);
    let mut standing = Vec::new();
    if let Some(host) = host {
        let invitation = Invitation { invitee: Invitee::Operator(key.operator()), until: Timestamp::MAX };
        standing.push(say(host, Payload::Invitation(invitation))?);
    }
    standing.push(say(&key, Payload::OperatorCertificate(OperatorCertificate { bearer: None }.into()))?);
    let certificate = NodeCertificate::new(&machine, &NETWORK, &key.operator());
    standing.push(say(&key, Payload::NodeCertificate(certificate.into()))?);
    Ok(Person { role, key, machine, from, standing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn founders_come_first_and_sybils_one_after_the_other() {
        let cast = Cast::draw(40, 2, &mut Dice::new(1, "cast")).unwrap();
        assert!(cast.people[..FOUNDERS].iter().all(|person| person.role == Role::Founder));
        let count = |role| cast.people.iter().filter(|person| person.role == role).count();
        assert_eq!((count(Role::Gang), count(Role::Sybil), count(Role::Liar), count(Role::Failer)), (4, 12, 3, 1));
        assert!(cast.people.is_sorted_by_key(|person| person.from));
        let sybils: BTreeSet<Timestamp> =
            cast.people.iter().filter(|person| person.role == Role::Sybil).map(|person| person.from).collect();
        assert_eq!(sybils.len(), 12);
        assert!(cast.people.iter().any(|person| person.role == Role::Honest && person.from > START));
    }
}
