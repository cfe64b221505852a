//! Who holds a slot: a pure function of the claims and of the signs of life on it (DESIGN section 6).
//!
//! Epochs form a chain from 1. A claim for the next epoch counts only if it cites the lease before it, and that had ended
//! when the claim was issued: given back, or without a sign of life for one TTL. Within an epoch the lowest batch, then the lowest
//! draw wins, so everyone who knows the same records names the same holder.

use std::time::Duration;

use crate::id::{ActionId, BatchId, NodeId, OperatorId, RecordId};
use crate::record::payload::{ClaimTag, SlotNo};
use crate::time::Timestamp;

/// A claim, with what the engine knows about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimView {
    /// The epoch that it claims.
    pub epoch: u32,
    /// The batch that it names.
    pub batch: BatchId,
    /// [`draw`] of its operator; never weighted.
    pub draw: [u8; 32],
    /// The Claim.
    pub record: RecordId,
    /// The claim that it cites.
    pub follows: ClaimTag,
    /// Who holds the lease if it wins.
    pub node: NodeId,
    /// Who answers for the node.
    pub operator: OperatorId,
    /// When it was issued.
    pub issued: Timestamp,
    /// When the node last renewed this very lease, as far as its Renewal or its Commitment tell.
    pub renewed: Option<Timestamp>,
    /// When the node gave this very lease back.
    pub handed_back: Option<Timestamp>,
    /// When the node committed to a result under this very lease.
    pub committed: Option<Timestamp>,
}

impl ClaimView {
    fn last_sign(&self) -> Timestamp {
        self.renewed.map_or(self.issued, |renewed| renewed.max(self.issued))
    }

    /// Whether the lease had ended, without a result, at `moment`.
    pub(super) fn had_ended(&self, moment: Timestamp, ttl: Duration) -> bool {
        if self.committed.is_some_and(|committed| committed < moment) {
            return false;
        }
        self.handed_back.is_some_and(|at| at <= moment) || self.last_sign() + ttl <= moment
    }
}

/// A lease, as all who know the same records see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenure {
    /// Its epoch.
    pub epoch: u32,
    /// Its batch.
    pub batch: BatchId,
    /// The holder.
    pub node: NodeId,
    /// Who answers for the holder.
    pub operator: OperatorId,
    /// The claim.
    pub claim: RecordId,
    /// When it was claimed.
    pub since: Timestamp,
    /// When it lapses without another sign of life.
    pub until: Timestamp,
}

/// What is to be said of a slot at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotState {
    /// Nobody holds it.
    Open {
        /// The epoch that a claim must name.
        epoch: u32,
        /// The claim that it must cite.
        follows: ClaimTag,
        /// Since when, if it was held before.
        since: Option<Timestamp>,
        /// Who let it lapse, if anybody did.
        lapsed: Option<OperatorId>,
    },
    /// Somebody builds it.
    Held(Tenure),
    /// Its holder committed to a result.
    Closed(Tenure),
}

impl SlotState {
    /// The holder, past or present.
    pub const fn tenure(&self) -> Option<&Tenure> {
        match self {
            Self::Held(tenure) | Self::Closed(tenure) => Some(tenure),
            Self::Open { .. } => None,
        }
    }
}

/// The state of a slot at `now`.
pub fn resolve(mut claims: Vec<ClaimView>, now: Timestamp, ttl: Duration) -> SlotState {
    claims.sort_by_key(|a| (a.epoch, a.batch, a.draw, a.record));
    let mut holder: Option<&ClaimView> = None;
    for claim in &claims {
        let next = holder.map_or(1, |holder| holder.epoch.saturating_add(1));
        let cited = holder.map_or_else(ClaimTag::default, |holder| ClaimTag::of(&holder.record));
        // Sorted, so the first valid claim of an epoch is its winner; later ones of that epoch no longer match `next`.
        if claim.epoch == next && claim.follows == cited && holder.is_none_or(|holder| holder.had_ended(claim.issued, ttl)) {
            holder = Some(claim);
        }
    }
    let Some(claim) = holder else {
        return SlotState::Open { epoch: 1, follows: ClaimTag::default(), since: None, lapsed: None };
    };
    let until = claim.last_sign() + ttl;
    let tenure = Tenure {
        epoch: claim.epoch,
        batch: claim.batch,
        node: claim.node,
        operator: claim.operator,
        claim: claim.record,
        since: claim.issued,
        until,
    };
    if claim.committed.is_some() {
        return SlotState::Closed(tenure);
    }
    let (epoch, follows) = (claim.epoch.saturating_add(1), ClaimTag::of(&claim.record));
    if let Some(at) = claim.handed_back {
        return SlotState::Open { epoch, follows, since: Some(at), lapsed: None };
    }
    if until <= now {
        return SlotState::Open { epoch, follows, since: Some(until), lapsed: Some(claim.operator) };
    }
    SlotState::Held(tenure)
}

/// The draw of `operator` for a slot: BLAKE3(nonce ‖ action ‖ slot ‖ operator), where nonce = BLAKE3(batch nonce ‖
/// action). (Networks with sealers add the seal's preimage.) The lowest comes first.
pub fn draw(batch_nonce: &[u8; 32], action: &ActionId, slot: SlotNo, operator: &OperatorId) -> [u8; 32] {
    Draws::new(batch_nonce, action, slot).of(operator)
}

/// The draws of many operators for one slot.
pub(super) struct Draws {
    /// What is hashed, less the operator at the end.
    drawn: [u8; 98],
}

impl Draws {
    /// The draws for a slot.
    pub fn new(batch_nonce: &[u8; 32], action: &ActionId, slot: SlotNo) -> Self {
        let mut drawn = [0; 98];
        drawn[..32].copy_from_slice(batch_nonce);
        drawn[32..64].copy_from_slice(action.as_bytes());
        let nonce = blake3::hash(&drawn[..64]);
        drawn[..32].copy_from_slice(nonce.as_bytes());
        drawn[64..66].copy_from_slice(&slot.0.to_le_bytes());
        Self { drawn }
    }

    /// As [`draw`].
    pub fn of(&self, operator: &OperatorId) -> [u8; 32] {
        let mut drawn = self.drawn;
        drawn[66..].copy_from_slice(operator.as_bytes());
        *blake3::hash(&drawn).as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TTL: Duration = Duration::from_secs(180);

    fn claim(epoch: u32, who: u8, issued_s: u64) -> ClaimView {
        ClaimView {
            epoch,
            batch: BatchId([0; 32]),
            draw: [who; 32],
            record: RecordId([who ^ 0x55; 32]),
            // Where a test says nothing else, operator 3 had the first lease.
            follows: if epoch == 1 { ClaimTag::default() } else { ClaimTag([3 ^ 0x55; 4]) },
            node: NodeId([who; 32]),
            operator: OperatorId([who; 32]),
            issued: Timestamp(issued_s * 1000),
            renewed: None,
            handed_back: None,
            committed: None,
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1000)
    }

    fn holder(state: &SlotState) -> (u8, u32) {
        state.tenure().map_or((0, 0), |tenure| (tenure.operator.0[0], tenure.epoch))
    }

    /// The draw is what the design says, byte for byte: all nodes must name the same winner.
    #[test]
    fn draw_is_the_hash_that_the_design_names() {
        let (nonce, action, operator) = ([1; 32], ActionId([2; 32]), OperatorId([3; 32]));
        let inner = blake3::hash(&[nonce, action.0].concat());
        let whole = [inner.as_bytes().as_slice(), &action.0, &[7, 1], &operator.0].concat();
        assert_eq!(draw(&nonce, &action, SlotNo(0x0107), &operator), *blake3::hash(&whole).as_bytes());
    }

    #[test]
    fn lowest_draw_wins_within_an_epoch() {
        let state = resolve(vec![claim(1, 7, 0), claim(1, 3, 1)], at(2), TTL);
        assert_eq!(holder(&state), (3, 1));
    }

    #[test]
    fn lowest_batch_wins_before_the_draw() {
        let mut other = claim(1, 7, 0);
        other.batch = BatchId([0; 32]);
        let mut lower_draw = claim(1, 3, 0);
        lower_draw.batch = BatchId([9; 32]);
        assert_eq!(holder(&resolve(vec![lower_draw, other], at(2), TTL)), (7, 1));
    }

    #[test]
    fn lease_without_a_sign_of_life_is_open_for_the_next_epoch() {
        let state = resolve(vec![claim(1, 3, 0)], at(180), TTL);
        assert_eq!(
            state,
            SlotState::Open { epoch: 2, follows: ClaimTag([3 ^ 0x55; 4]), since: Some(at(180)), lapsed: Some(OperatorId([3; 32])) }
        );
        assert!(matches!(resolve(vec![claim(1, 3, 0)], at(179), TTL), SlotState::Held(_)));
    }

    /// A claim for e+1 is void if a renewal of e was issued later than it minus one TTL.
    #[test]
    fn early_claim_cannot_take_a_renewed_lease() {
        let mut renewed = claim(1, 3, 0);
        renewed.renewed = Some(at(100));
        let state = resolve(vec![renewed.clone(), claim(2, 7, 200)], at(210), TTL);
        assert_eq!(holder(&state), (3, 1));
        assert_eq!(holder(&resolve(vec![renewed, claim(2, 7, 280)], at(290), TTL)), (7, 2));
    }

    #[test]
    fn lapsed_lease_is_whose_claim_follows() {
        let taken = resolve(vec![claim(1, 3, 0), claim(2, 7, 190)], at(200), TTL);
        assert_eq!(holder(&taken), (7, 2));
    }

    /// Only the latest renewal is known, so one that came after the lease had lapsed looks like one of a lease that never
    /// did: it voids the claim in between (DESIGN section 6: a renewal issued later than the claim minus one TTL).
    #[test]
    fn late_renewal_takes_a_lapsed_lease_back() {
        let mut late = claim(1, 3, 0);
        late.renewed = Some(at(195));
        assert_eq!(holder(&resolve(vec![late, claim(2, 7, 190)], at(200), TTL)), (3, 1));
    }

    #[test]
    fn lease_that_was_handed_back_can_be_taken_at_once() {
        let mut back = claim(1, 3, 0);
        back.handed_back = Some(at(5));
        assert!(matches!(resolve(vec![back.clone()], at(6), TTL), SlotState::Open { epoch: 2, .. }));
        assert_eq!(holder(&resolve(vec![back, claim(2, 7, 6)], at(7), TTL)), (7, 2));
    }

    #[test]
    fn commitment_closes_the_slot_unless_it_was_taken_before() {
        let mut done = claim(1, 3, 0);
        done.committed = Some(at(50));
        assert!(matches!(resolve(vec![done.clone(), claim(2, 7, 900)], at(901), TTL), SlotState::Closed(_)));
        done.committed = Some(at(500));
        assert_eq!(holder(&resolve(vec![done, claim(2, 7, 400)], at(501), TTL)), (7, 2));
    }

    /// Two parts of a network had a holder each; the one whose claim wins when they join may still build, whatever was
    /// claimed after the other's lapsed.
    #[test]
    fn claim_that_follows_another_claim_than_the_winner_is_void() {
        let mut after = claim(2, 7, 190);
        after.follows = ClaimTag::of(&claim(1, 5, 0).record);
        let claims = vec![claim(1, 3, 0), claim(1, 5, 0), after.clone()];
        assert!(matches!(resolve(claims.clone(), at(191), TTL), SlotState::Open { epoch: 2, .. }));
        after.follows = ClaimTag::of(&claim(1, 3, 0).record);
        assert_eq!(holder(&resolve(vec![claim(1, 3, 0), claim(1, 5, 0), after], at(191), TTL)), (7, 2));
    }

    #[test]
    fn epoch_that_does_not_follow_is_void() {
        let state = resolve(vec![claim(4_000_000_000, 7, 0)], at(1), TTL);
        assert_eq!(state, SlotState::Open { epoch: 1, follows: ClaimTag::default(), since: None, lapsed: None });
    }

    proptest! {
        /// The holder is a function of the set of claims.
        #[test]
        fn order_of_arrival_does_not_matter(
            claims in proptest::collection::vec((1u32..4, 1u8..6, 0u64..1000, proptest::option::of(0u64..1000), 0u8..12), 0..12),
            now in 0u64..2000, rotate in 0usize..12,
        ) {
            let views: Vec<ClaimView> = claims.iter().enumerate().map(|(index, (epoch, who, issued, renewed, follows))| {
                let mut view = claim(*epoch, *who, *issued);
                view.record = RecordId([u8::try_from(index).unwrap_or(0); 32]);
                view.renewed = renewed.map(at);
                if *epoch > 1 {
                    view.follows = ClaimTag([*follows; 4]);
                }
                view
            }).collect();
            let mut turned = views.clone();
            turned.rotate_left(rotate.min(views.len()));
            turned.reverse();
            prop_assert_eq!(resolve(views, at(now), TTL), resolve(turned, at(now), TTL));
        }
    }
}
