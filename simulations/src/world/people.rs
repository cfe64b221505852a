//! Who takes part: founders, operators that were invited, and nodes with one operator each.

use std::time::Duration;

use barnraiser_protocol::id::{NetworkId, OperatorId};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::record::payload::{Invitation, Invitee, NodeCertificate, OperatorCertificate};
use barnraiser_protocol::record::{Payload, Record, SharedRecord};
use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::trust::charter::Grants;

use crate::dice::Dice;

/// The simulated network.
pub const NETWORK: NetworkId = NetworkId([1; 32]);
/// Longer than any run.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How the operators belong together.
#[derive(Debug, Clone, Copy)]
pub struct Society {
    /// Operators that founded the network; trusted, and members without an invitation.
    pub founders: usize,
    /// Share of the nodes that are a further machine of an operator that has one already.
    pub second_machines: f64,
    /// Share of the operators that another guest and not a founder invited: they are in that guest's branch.
    pub friends: f64,
    /// Share of the operators that nobody invited: they have no vote.
    pub strangers: f64,
}

/// Keys, and the records that say who is who.
pub struct People {
    /// Node → its key.
    pub nodes: Vec<SecretKey>,
    /// Node → its operator.
    pub operators: Vec<OperatorId>,
    /// Who founded.
    pub grants: Grants,
    /// What everybody knows from the start.
    pub standing: Vec<SharedRecord>,
}

impl People {
    /// Draws the owners of `nodes` machines. The first machines belong to the founders, one each.
    pub fn draw(nodes: usize, society: Society, start: Timestamp, dice: &mut Dice) -> anyhow::Result<Self> {
        let founders = society.founders.clamp(2, nodes.max(2));
        let mut keys: Vec<SecretKey> = Vec::new();
        let mut owner = Vec::new();
        for node in 0..nodes {
            if node >= founders && dice.chance(society.second_machines) {
                // Not of the last founder: where it settles disputes it must not vote beside that.
                let other = dice.below(keys.len() - 1);
                owner.push(if other + 1 < founders { other } else { other + 1 });
            } else {
                owner.push(keys.len());
                keys.push(SecretKey::from_seed(&dice.bytes()));
            }
        }
        let (mut invitations, mut certificates) = (Vec::new(), Vec::new());
        let mut guests: Vec<usize> = Vec::new();
        let say = |key: &SecretKey, payload| Record::author(key, NETWORK, 1, start, start + LIFETIME, payload);
        for (number, key) in keys.iter().enumerate() {
            certificates.push(say(key, Payload::OperatorCertificate(OperatorCertificate { bearer: None }.into()))?);
            if number < founders || dice.chance(society.strangers) {
                continue;
            }
            let by_friend = !guests.is_empty() && dice.chance(society.friends);
            let host = if by_friend { *dice.pick(&guests) } else { dice.below(founders) };
            let invitation = Invitation { invitee: Invitee::Operator(key.operator()), until: Timestamp::MAX };
            invitations.push(say(&keys[host], Payload::Invitation(invitation))?);
            guests.push(number);
        }
        let machines: Vec<SecretKey> = (0..nodes).map(|_| SecretKey::from_seed(&dice.bytes())).collect();
        let operators: Vec<OperatorId> = owner.iter().map(|owner| keys[*owner].operator()).collect();
        // Invitations first: each certificate then finds its own, and members are computed once for each guest.
        let mut standing = invitations;
        standing.extend(certificates);
        for (machine, owner) in machines.iter().zip(&owner) {
            let certificate = NodeCertificate::new(machine, &NETWORK, &keys[*owner].operator());
            standing.push(say(&keys[*owner], Payload::NodeCertificate(certificate.into()))?);
        }
        let grants = Grants::of_founders(keys.iter().take(founders).map(SecretKey::operator));
        Ok(Self { nodes: machines, operators, grants, standing })
    }
}
