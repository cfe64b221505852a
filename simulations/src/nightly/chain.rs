//! What the night was made of: the chain of builds that ended last, and where its time went.

use std::collections::BTreeMap;
use std::time::Duration;

use barnraiser_protocol::id::ActionId;
use barnraiser_protocol::time::Timestamp;

use super::night::Chore;
use crate::ledger::{End, Span};

/// Where the time of a chain of builds went, of which each waited for the one before.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// Building.
    pub building: Duration,
    /// Builds whose machine left, until the one that came to an end was begun.
    pub rebuilding: Duration,
    /// Between what a build needs and its beginning: for results to be told, for room, for somebody to claim.
    pub waiting: Duration,
}

/// How the build came to be that completed a chore's quorum.
struct Made<'a> {
    span: &'a Span,
    /// When the first machine began it that left later.
    lost_since: Option<Timestamp>,
}

impl Chain {
    /// Follows the chain back from the chore that was built last. `actions` tells the action of each chore, `left` whether
    /// a build ended because its machine left.
    pub fn of(
        chores: &[Chore],
        actions: &[Option<ActionId>],
        spans: &[Span],
        (quorum, begin): (u16, Timestamp),
        left: impl Fn(&Span) -> bool,
    ) -> Self {
        let mut by_action: BTreeMap<ActionId, Vec<&Span>> = BTreeMap::new();
        for span in spans {
            by_action.entry(span.action).or_default().push(span);
        }
        let made: Vec<Option<Made<'_>>> = actions
            .iter()
            .map(|action| {
                let spans = by_action.get(action.as_ref()?)?;
                // They are in the order of their ends.
                let span = spans.iter().filter(|span| span.end == End::Built).nth(usize::from(quorum.max(1)) - 1)?;
                let lost = spans.iter().filter(|lost| lost.end != End::Built && lost.since < span.since && left(lost));
                Some(Made { span, lost_since: lost.map(|lost| lost.since).min() })
            })
            .collect();
        let end = |chore: &usize| made[*chore].as_ref().map(|made| made.span.until);
        let mut chain = Self::default();
        let mut next = (0..chores.len()).max_by_key(end);
        while let Some((chore, Made { span, lost_since })) = next.and_then(|chore| Some((chore, made[chore].as_ref()?))) {
            next = chores[chore].needs.iter().copied().max_by_key(end);
            let ready = next.as_ref().and_then(end).unwrap_or(begin);
            let first = lost_since.unwrap_or(span.since);
            chain.waiting += first.since(ready);
            chain.rebuilding += span.since.since(first);
            chain.building += span.until.since(span.since);
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second chore is ready at 10 s, waits for 2, is built for 5 by one who leaves, is begun again after 3 and takes 20.
    #[test]
    fn time_of_the_chain_is_told_apart() {
        let at = |seconds: u64| Timestamp(1_000_000 + seconds * 1000);
        let id = |chore: u8| ActionId([chore; 32]);
        let span = |chore, since, until, end| Span { node: 1, action: id(chore), cores: 1, since: at(since), until: at(until), end };
        let chore = |needs: &[usize]| Chore { cores: 1, core_seconds: 1.0, needs: needs.to_vec() };
        let spans = [
            span(0, 0, 8, End::Built),
            span(0, 1, 10, End::Built),
            span(2, 11, 14, End::Built),
            span(1, 12, 17, End::Lost),
            span(1, 12, 32, End::Built),
            span(1, 20, 40, End::Built),
        ];
        let chain =
            Chain::of(&[chore(&[]), chore(&[0]), chore(&[0])], &[Some(id(0)), Some(id(1)), Some(id(2))], &spans, (2, at(0)), |span| {
                span.end == End::Lost
            });
        let seconds = Duration::from_secs;
        assert_eq!(chain, Chain { building: seconds(9 + 20), rebuilding: seconds(8), waiting: seconds(1 + 2) });
    }
}
