//! Who holds a slot: a pure function of the claims and of the signs of life on it (DESIGN section 6).
//!
//! Epochs form a chain from 1, or from the lowest whose claims have not expired. A claim for the next epoch counts only if it cites the lease before it, and that had ended
//! when the claim was issued: given back, without a sign of life for one TTL, or held for as long as a build may take. Of
//! the claims of an epoch that were issued within a window after the first the lowest batch, then the lowest draw wins, so
//! everyone who knows the same records names the same holder. Who let a lease lapse sits out that slot for two TTLs, and
//! who gave it back goes on with what was left of its time.

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
    /// For how long it may be held.
    pub limit: Duration,
    /// When the node last renewed this very lease in time, as far as its Renewal or its Commitment tell.
    pub renewed: Option<Timestamp>,
    /// When the node gave this very lease back.
    pub handed_back: Option<Timestamp>,
    /// When the node committed to a result under this very lease.
    pub committed: Option<Timestamp>,
}

/// What holds of all leases of a network.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// How long a lease lasts without a sign of life.
    pub ttl: Duration,
    /// Claims of one epoch that are issued so much later than the first of it lose, whatever their draw.
    pub window: Duration,
}

impl Rules {
    /// For how long who let a lease lapse leaves the slot to others.
    pub fn sits_out(&self) -> Duration {
        self.ttl * 2
    }
}

/// A claim that won its epoch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link<'a> {
    /// The claim.
    pub claim: &'a ClaimView,
    /// For how long its operator had held the slot just before, in leases that it gave back.
    spent: Duration,
}

impl Link<'_> {
    /// When it ends without another sign of life.
    fn until(&self, rules: Rules) -> Timestamp {
        let claim = self.claim;
        let last_sign = claim.renewed.map_or(claim.issued, |renewed| renewed.max(claim.issued));
        (last_sign + rules.ttl).min(self.ends())
    }

    /// When it ends whatever signs of life there are.
    fn ends(&self) -> Timestamp {
        self.claim.issued + self.claim.limit.saturating_sub(self.spent)
    }

    /// When the lease ended without a result, if it had at `moment`; and whether it lapsed.
    fn ended(&self, moment: Timestamp, rules: Rules) -> Option<(Timestamp, bool)> {
        if self.claim.committed.is_some_and(|committed| committed < moment) {
            return None;
        }
        let until = self.until(rules);
        let given_back = self.claim.handed_back.filter(|at| *at <= until);
        let (at, lapsed) = given_back.map_or((until, true), |at| (at, false));
        (at <= moment).then_some((at, lapsed))
    }

    /// For how long its operator has held the slot when it gives it back at `moment`.
    fn held(&self, moment: Timestamp) -> Duration {
        self.spent + moment.since(self.claim.issued)
    }

    /// Whether the lease had ended, without a result, at `moment`.
    pub fn had_ended(&self, moment: Timestamp, rules: Rules) -> bool {
        self.ended(moment, rules).is_some()
    }

    /// The link that `claim` makes behind this one, if it may.
    fn followed_by<'a>(&self, claim: &'a ClaimView, rules: Rules) -> Option<Link<'a>> {
        if claim.follows != ClaimTag::of(&self.claim.record) {
            return None;
        }
        let (at, lapsed) = self.ended(claim.issued, rules)?;
        if claim.operator != self.claim.operator {
            return Some(Link { claim, spent: Duration::ZERO });
        }
        let held = self.held(at);
        if !lapsed && held < claim.limit {
            return Some(Link { claim, spent: held });
        }
        (at + rules.sits_out() <= claim.issued).then_some(Link { claim, spent: Duration::ZERO })
    }
}

/// Epochs are counted up to this: who begins with a greater one would leave no next.
const EPOCH_MAX: u32 = 1 << 30;

/// Whether a claim can be the first of its slot, or of those that have not expired: then it cites what is not known any
/// more.
fn may_be_first(claim: &ClaimView) -> bool {
    (claim.epoch == 1) == (claim.follows == ClaimTag::default()) && claim.epoch <= EPOCH_MAX
}

/// The epoch with which the chain begins: the lowest that is live, all claims having the same lifetime. A claim of a
/// lower epoch that comes later than the window after the first of all claims takes nothing from who follows that.
fn root_epoch(claims: &[ClaimView], rules: Rules) -> Option<u32> {
    let roots = || claims.iter().filter(|claim| may_be_first(claim));
    let first = roots().map(|claim| claim.issued).min()?;
    roots().filter(|claim| claim.issued <= first + rules.window).map(|claim| claim.epoch).min()
}

/// The last claim that won; `each` is told of all, epoch by epoch.
pub(super) fn walk<'a>(claims: &'a mut [ClaimView], rules: Rules, mut each: impl FnMut(Link<'a>)) -> Option<Link<'a>> {
    claims.sort_by_key(|claim| (claim.epoch, claim.batch, claim.draw, claim.record));
    let claims = &*claims;
    let mut last: Option<Link<'a>> = None;
    let root = root_epoch(claims, rules)?;
    for of_epoch in claims.chunk_by(|one, other| one.epoch == other.epoch).skip_while(|of_epoch| of_epoch[0].epoch < root) {
        let next = last.map_or(root, |last| last.claim.epoch.saturating_add(1));
        if of_epoch[0].epoch != next {
            break;
        }
        let link = |claim| match last {
            Some(last) => last.followed_by(claim, rules),
            None => may_be_first(claim).then_some(Link { claim, spent: Duration::ZERO }),
        };
        let mut valid = of_epoch.iter().filter_map(link);
        let Some(first) = valid.clone().map(|link| link.claim.issued).min() else { break };
        // Sorted, so that the first of those in time is the winner.
        let Some(winner) = valid.find(|link| link.claim.issued <= first + rules.window) else { break };
        each(winner);
        last = Some(winner);
    }
    last
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
    /// When it ends whatever signs of life there are.
    pub ends: Timestamp,
    /// When its holder committed to a result.
    pub committed: Option<Timestamp>,
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
        /// Who let it lapse, or has had its time, and must leave it to others for [`Rules::sits_out`].
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
pub fn resolve(mut claims: Vec<ClaimView>, now: Timestamp, rules: Rules) -> SlotState {
    let Some(link) = walk(&mut claims, rules, |_| ()) else {
        return SlotState::Open { epoch: 1, follows: ClaimTag::default(), since: None, lapsed: None };
    };
    let claim = link.claim;
    let tenure = Tenure {
        epoch: claim.epoch,
        batch: claim.batch,
        node: claim.node,
        operator: claim.operator,
        claim: claim.record,
        since: claim.issued,
        until: link.until(rules),
        ends: link.ends(),
        committed: claim.committed,
    };
    if claim.committed.is_some() {
        return SlotState::Closed(tenure);
    }
    // What is given back is so for whoever knows of it, also by a clock that is behind.
    let Some((at, lapsed)) = link.ended(claim.handed_back.map_or(now, |at| at.max(now)), rules) else {
        return SlotState::Held(tenure);
    };
    let (epoch, follows) = (claim.epoch.saturating_add(1), ClaimTag::of(&claim.record));
    let lapsed = (lapsed || link.held(at) >= claim.limit).then_some(claim.operator);
    SlotState::Open { epoch, follows, since: Some(at), lapsed }
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
    const RULES: Rules = Rules { ttl: TTL, window: Duration::from_secs(120) };
    const LIMIT: Duration = Duration::from_secs(3600);

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
            limit: LIMIT,
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
        let state = resolve(vec![claim(1, 7, 0), claim(1, 3, 1)], at(2), RULES);
        assert_eq!(holder(&state), (3, 1));
    }

    #[test]
    fn lowest_batch_wins_before_the_draw() {
        let mut other = claim(1, 7, 0);
        other.batch = BatchId([0; 32]);
        let mut lower_draw = claim(1, 3, 0);
        lower_draw.batch = BatchId([9; 32]);
        assert_eq!(holder(&resolve(vec![lower_draw, other], at(2), RULES)), (7, 1));
    }

    #[test]
    fn lease_without_a_sign_of_life_is_open_for_the_next_epoch() {
        let state = resolve(vec![claim(1, 3, 0)], at(180), RULES);
        assert_eq!(
            state,
            SlotState::Open { epoch: 2, follows: ClaimTag([3 ^ 0x55; 4]), since: Some(at(180)), lapsed: Some(OperatorId([3; 32])) }
        );
        assert!(matches!(resolve(vec![claim(1, 3, 0)], at(179), RULES), SlotState::Held(_)));
    }

    /// A claim for e+1 is void if a renewal of e was issued later than it minus one TTL.
    #[test]
    fn early_claim_cannot_take_a_renewed_lease() {
        let mut renewed = claim(1, 3, 0);
        renewed.renewed = Some(at(100));
        let state = resolve(vec![renewed.clone(), claim(2, 7, 200)], at(210), RULES);
        assert_eq!(holder(&state), (3, 1));
        assert_eq!(holder(&resolve(vec![renewed, claim(2, 7, 280)], at(290), RULES)), (7, 2));
    }

    #[test]
    fn lapsed_lease_is_whose_claim_follows() {
        let taken = resolve(vec![claim(1, 3, 0), claim(2, 7, 190)], at(200), RULES);
        assert_eq!(holder(&taken), (7, 2));
    }

    /// By renewals alone a lease was held for ever.
    #[test]
    fn lease_lapses_after_the_time_that_a_build_may_take_however_often_it_is_renewed() {
        let mut renewed = claim(1, 3, 0);
        renewed.renewed = Some(at(3590));
        assert!(matches!(resolve(vec![renewed.clone()], at(3599), RULES), SlotState::Held(_)));
        let open = resolve(vec![renewed.clone()], at(3600), RULES);
        assert!(matches!(open, SlotState::Open { epoch: 2, lapsed: Some(_), .. }), "{open:?}");
        assert_eq!(holder(&resolve(vec![renewed, claim(2, 7, 3600)], at(3601), RULES)), (7, 2));
    }

    /// Whoever drew lowest once took the slot again at each end of its lease.
    #[test]
    fn who_let_a_lease_lapse_sits_out_two_ttls() {
        let held = claim(1, 3, 0);
        let (own, other) = (|at| claim(2, 3, at), claim(2, 7, 300));
        assert_eq!(holder(&resolve(vec![held.clone(), own(539)], at(541), RULES)), (0, 0));
        assert_eq!(holder(&resolve(vec![held.clone(), own(539), other], at(301), RULES)), (7, 2));
        assert_eq!(holder(&resolve(vec![held, own(540)], at(541), RULES)), (3, 2));
    }

    /// Giving it back and taking it again begins no new time.
    #[test]
    fn time_of_leases_given_back_counts_towards_the_limit_of_the_next() {
        let mut back = claim(1, 3, 0);
        (back.renewed, back.handed_back) = (Some(at(3000)), Some(at(3000)));
        let mut again = claim(2, 3, 5000);
        again.renewed = Some(at(5590));
        let chain = vec![back.clone(), again.clone()];
        assert_eq!(holder(&resolve(chain.clone(), at(5599), RULES)), (3, 2));
        assert!(matches!(resolve(chain, at(5600), RULES), SlotState::Open { epoch: 3, lapsed: Some(_), .. }));
        // Another one has all of the time.
        (again.operator, again.node) = (OperatorId([7; 32]), NodeId([7; 32]));
        assert!(matches!(resolve(vec![back.clone(), again], at(5601), RULES), SlotState::Held(_)));
        // And who has had its time sits out.
        (back.renewed, back.handed_back, back.limit) = (Some(at(3600)), Some(at(3600)), Duration::from_secs(3600));
        let early = resolve(vec![back.clone(), claim(2, 3, 3900)], at(3901), RULES);
        assert!(matches!(early, SlotState::Open { epoch: 2, lapsed: Some(_), .. }), "{early:?}");
        assert_eq!(holder(&resolve(vec![back, claim(2, 3, 3960)], at(3961), RULES)), (3, 2));
    }

    /// A late claim with a lower draw took the slot from who had built in it for hours.
    #[test]
    fn claim_later_than_the_window_after_the_first_of_its_epoch_loses_whatever_it_drew() {
        let mut first = claim(1, 7, 10);
        first.renewed = Some(at(400));
        assert_eq!(holder(&resolve(vec![first.clone(), claim(1, 3, 130)], at(131), RULES)), (3, 1));
        assert_eq!(holder(&resolve(vec![first.clone(), claim(1, 3, 131)], at(132), RULES)), (7, 1));
        // The window begins with the first that is valid.
        let mut void = claim(2, 9, 10);
        void.follows = ClaimTag([1; 4]);
        let after = |who, at| ClaimView { follows: ClaimTag::of(&first.record), ..claim(2, who, at) };
        assert_eq!(holder(&resolve(vec![first.clone(), void, after(7, 900), after(3, 1000)], at(1001), RULES)), (3, 2));
    }

    #[test]
    fn lease_that_was_handed_back_can_be_taken_at_once() {
        let mut back = claim(1, 3, 0);
        back.handed_back = Some(at(5));
        assert!(matches!(resolve(vec![back.clone()], at(6), RULES), SlotState::Open { epoch: 2, .. }));
        assert_eq!(holder(&resolve(vec![back, claim(2, 7, 6)], at(7), RULES)), (7, 2));
    }

    #[test]
    fn commitment_closes_the_slot_unless_it_was_taken_before() {
        let mut done = claim(1, 3, 0);
        done.committed = Some(at(50));
        assert!(matches!(resolve(vec![done.clone(), claim(2, 7, 900)], at(901), RULES), SlotState::Closed(_)));
        done.committed = Some(at(500));
        assert_eq!(holder(&resolve(vec![done, claim(2, 7, 400)], at(501), RULES)), (7, 2));
    }

    /// Two parts of a network had a holder each; the one whose claim wins when they join may still build, whatever was
    /// claimed after the other's lapsed.
    #[test]
    fn claim_that_follows_another_claim_than_the_winner_is_void() {
        let mut after = claim(2, 7, 190);
        after.follows = ClaimTag::of(&claim(1, 5, 0).record);
        let claims = vec![claim(1, 3, 0), claim(1, 5, 0), after.clone()];
        assert!(matches!(resolve(claims.clone(), at(191), RULES), SlotState::Open { epoch: 2, .. }));
        after.follows = ClaimTag::of(&claim(1, 3, 0).record);
        assert_eq!(holder(&resolve(vec![claim(1, 3, 0), claim(1, 5, 0), after], at(191), RULES)), (7, 2));
    }

    #[test]
    fn epoch_that_does_not_follow_is_void() {
        let state = resolve(vec![claim(4_000_000_000, 7, 0)], at(1), RULES);
        assert_eq!(state, SlotState::Open { epoch: 1, follows: ClaimTag::default(), since: None, lapsed: None });
    }

    /// What holds of claims that have expired is not known any more, and whoever followed them stays where it is: it was
    /// stopped, and the slot claimed from the first epoch on.
    #[test]
    fn chain_begins_at_the_lowest_live_epoch() {
        let (first, second) = (claim(1, 3, 0), claim(2, 7, 190));
        let third = ClaimView { follows: ClaimTag::of(&second.record), ..claim(3, 5, 400) };
        for live in [vec![first, second.clone(), third.clone()], vec![second, third.clone()], vec![third]] {
            assert_eq!(holder(&resolve(live, at(401), RULES)), (5, 3));
        }
    }

    /// Nobody begins a chain anew below who holds the slot, and nobody so high that none can follow.
    #[test]
    fn claim_of_a_lower_epoch_that_comes_late_is_void() {
        assert_eq!(holder(&resolve(vec![claim(2, 7, 190), claim(1, 3, 310)], at(311), RULES)), (3, 1));
        assert_eq!(holder(&resolve(vec![claim(2, 7, 190), claim(1, 3, 311)], at(312), RULES)), (7, 2));
        assert_eq!(holder(&resolve(vec![claim(1, 3, 0), claim(900, 7, 1)], at(2), RULES)), (3, 1));
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
            prop_assert_eq!(resolve(views, at(now), RULES), resolve(turned, at(now), RULES));
        }
    }
}
