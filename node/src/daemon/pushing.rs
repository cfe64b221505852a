//! Gives outputs to holders once they are revealed, so that others can fetch them though this node can't be reached or has
//! left: every output, from every builder, to [`COPIES`] holders. What two builders give alike goes to the same
//! holders, so that the second one only asks.
//!
//! What is to be pushed is a row in the store ([`crate::pushes`]); one task goes through the rows, one push at a time, since
//! an uplink has one line only. A holder that can't be reached, or wastes that time, is left alone for a while. Upload limits are those of all traffic. What is not revealed is never pushed: a row is
//! written when it is, and every unit is asked about once more before it is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use barnraiser_bootstrap::{PushError, PushRequest};
use barnraiser_protocol::engine::OwnResult;
use barnraiser_protocol::id::{BlobHash, NetworkId, NodeId};
use barnraiser_protocol::outcome::Outcome;
use barnraiser_protocol::record::Kind;
use barnraiser_protocol::time::Timestamp;
use barnraiser_protocol::transfer::keeping::ranked;
use barnraiser_store::{Fault, Store};

use super::Daemon;
use super::engines::now;
use crate::pushes::{self, DONE_KEPT, GIVE_UP, Push};

/// On so many holders every revealed output is to be (DESIGN section 8.1).
const COPIES: usize = 2;
/// How often the rows are looked through when nothing new comes.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The first wait after a push in vain, twice as long each time, ...
const RETRY_MIN: Duration = Duration::from_secs(5);
/// ... up to this.
const RETRY_MAX: Duration = Duration::from_secs(600);
/// How often it is looked whether large blobs may travel again.
const REST_LOOK: Duration = Duration::from_secs(60);
/// As many holders are tried for one thing in one go.
const TRIED_MAX: usize = 8;
/// A holder that failed is left alone for so many times as long as the push in vain took, at least: one that wastes time gets no
/// more than a quarter of it ...
const LEFT_ALONE_TIMES: u32 = 3;
/// ... in the long run: after the first failure for twice this at the most, twice as long each time, up to 2^7 times. It may be
/// this node's line that is slow, which has brought a part then and goes on soon.
const LEFT_ALONE_MAX: Duration = Duration::from_secs(600);
/// When it has not failed again for so long, it is forgotten that it did.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Why something was not pushed.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotPushed {
    /// This node's owner has said when and how much may travel.
    #[error("{0}")]
    Resting(String),
    /// The holder can't be reached, is too slow, or breaks the protocol.
    #[error("{0}")]
    Holder(String),
    /// Something else went wrong.
    #[error("{0}")]
    Failed(String),
}

impl From<String> for NotPushed {
    fn from(problem: String) -> Self {
        Self::Failed(problem)
    }
}

/// Holders that pushes failed at lately.
#[derive(Debug, Default)]
struct Failing(BTreeMap<NodeId, LeftAlone>);

#[derive(Debug)]
struct LeftAlone {
    /// Pushes in vain, one after the other.
    failures: u32,
    until: Timestamp,
}

impl Failing {
    fn is_left_alone(&self, holder: &NodeId, now: Timestamp) -> bool {
        self.0.get(holder).is_some_and(|left| now < left.until)
    }

    /// A push was in vain, which took so long.
    fn failed(&mut self, holder: NodeId, now: Timestamp, took: Duration) {
        let left = self.0.entry(holder).or_insert(LeftAlone { failures: 0, until: now });
        left.failures = left.failures.saturating_add(1);
        let wasted = took.saturating_mul(LEFT_ALONE_TIMES).min(LEFT_ALONE_MAX.saturating_mul(1 << left.failures.min(7)));
        left.until = now + wait_after(left.failures).max(wasted);
    }

    fn took(&mut self, holder: &NodeId) {
        self.0.remove(holder);
    }

    /// Forgets those that begin anew.
    fn tidy(&mut self, now: Timestamp) {
        self.0.retain(|_, left| now < left.until + FORGOTTEN_AFTER);
    }
}

/// The wait after so many failures.
fn wait_after(failures: u32) -> Duration {
    RETRY_MIN.saturating_mul(1 << failures.min(8)).min(RETRY_MAX)
}

impl Daemon {
    /// A result is revealed: holders are to have what it gave.
    pub(super) async fn push_result(&self, network: NetworkId, result: &OwnResult) {
        let trees = result.outcomes().filter_map(Outcome::tree).map(|tree| (tree, true));
        let wanted: Vec<(BlobHash, bool)> = trees.chain(result.particulars.log.map(|log| (log, false))).collect();
        let (store, moment) = (self.store.clone(), now());
        let written = tokio::task::spawn_blocking(move || -> Result<(), Fault> {
            let known = pushes::all(&store, &network)?;
            for (what, tree) in wanted {
                if !known.contains_key(&what) {
                    pushes::put(&store, &network, &what, &Push::new(tree, COPIES, moment))?;
                }
            }
            Ok(())
        });
        match written.await {
            Ok(Ok(())) => self.to_push.notify_one(),
            Ok(Err(error)) => tracing::error!(%error, "what holders are to have can't be noted"),
            Err(error) => tracing::error!(%error, "what holders are to have can't be noted"),
        }
    }

    /// Pushes what is to be pushed, for ever.
    pub(super) async fn push_all(self: Arc<Self>) {
        let mut failing = Failing::default();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.to_push.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            failing.tidy(now());
            let networks: Vec<NetworkId> = self.networks().keys().copied().collect();
            for network in networks {
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = self.push_due(network, &mut failing) => {}
                }
            }
        }
    }

    async fn push_due(&self, network: NetworkId, failing: &mut Failing) {
        let Some(rows) = self.on_store(move |store| tidied(store, &network)).await else { return };
        let due: Vec<(BlobHash, Push)> = rows.into_iter().filter(|(_, push)| !push.is_done() && push.next <= now()).collect();
        if due.is_empty() {
            return;
        }
        let holders = self.known_holders(network).await;
        for (what, push) in due {
            // Those that failed a moment ago, with another thing, too.
            let usable = |holder: &&NodeId| !push.kept_by.contains_key(*holder) && !failing.is_left_alone(holder, now());
            let usable: Vec<NodeId> = holders.iter().filter(usable).copied().collect();
            // Without anybody to push to nothing failed, and nothing need be written.
            if usable.is_empty() {
                continue;
            }
            let push = self.push_one(what, push, usable, failing).await;
            self.on_store(move |store| pushes::put(store, &network, &what, &push)).await;
        }
    }

    /// Pushes one thing to as many of the `holders`, which don't have it, as are still to have it.
    async fn push_one(&self, what: BlobHash, mut push: Push, holders: Vec<NodeId>, failing: &mut Failing) -> Push {
        let before = push.kept_by.len();
        push.problem = None;
        for holder in ranked(&what, holders).into_iter().take(TRIED_MAX) {
            if push.is_done() {
                break;
            }
            let started = Instant::now();
            match self.push_to(holder, what, push.tree).await {
                Ok(sent) => {
                    failing.took(&holder);
                    tracing::info!(what = %what.short(), holder = %holder.short(), sent, "a holder has what was pushed");
                    push.kept_by.insert(holder, sent);
                }
                Err(NotPushed::Resting(why)) => {
                    // No failure: the owner wants it so, and the row waits as long as that takes.
                    push.problem = Some(why);
                    push.since = now();
                    push.next = now() + REST_LOOK;
                    return push;
                }
                Err(NotPushed::Holder(problem)) => {
                    failing.failed(holder, now(), started.elapsed());
                    tracing::debug!(what = %what.short(), holder = %holder.short(), problem, "a holder fails");
                    push.problem = Some(problem);
                }
                Err(NotPushed::Failed(problem)) => {
                    tracing::debug!(what = %what.short(), holder = %holder.short(), problem, "not pushed");
                    push.problem = Some(problem);
                }
            }
        }
        // As many as there are is as many as can be; another one may come.
        push.failures = if push.is_done() || push.kept_by.len() > before { 0 } else { push.failures.saturating_add(1) };
        push.next = now() + wait_after(push.failures);
        push
    }

    /// Gives a tree or a blob to a holder; how many bytes were sent, or why not.
    pub(super) async fn push_to(&self, holder: NodeId, what: BlobHash, tree: bool) -> Result<u64, NotPushed> {
        let lengths = self.on_store(move |store| lengths(store, what, tree)).await;
        let lengths = lengths.ok_or_else(|| "the store can't be read".to_owned())??;
        let (files, root): (Vec<_>, Vec<_>) = lengths.into_iter().partition(|(hash, _)| *hash != what);
        let mut sent = 0;
        // The manifest last: a holder that is known to have a tree has all of it.
        for (blobs, part_of) in [(files, Some(what)), (root, None)] {
            let request = PushRequest { holder, addresses: Vec::new(), blobs, part_of };
            let report = self.net.push(&request).await.map_err(|error| match error {
                PushError::Resting(_) => NotPushed::Resting(error.to_string()),
                PushError::Net(_) | PushError::Open(_) | PushError::Refused { .. } | PushError::Ended { .. } => {
                    NotPushed::Holder(error.to_string())
                }
                error => NotPushed::Failed(error.to_string()),
            })?;
            sent += report.sent;
            if let Some((hash, why)) = report.refused.first_key_value() {
                return Err(format!("holder {} does not take {}: {why}", holder.short(), hash.short()).into());
            }
            if report.kept.len() < request.blobs.len() {
                return Err(NotPushed::Holder(format!("holder {} has taken a part only", holder.short())));
            }
        }
        Ok(sent)
    }

    /// All holders of a network that are known now, without this node: its entry servers that hold, and members that say so by
    /// a record, which they do only where they can be reached. Of one operator's machines only one, since they may all go at
    /// once; none where this node is one of them.
    pub(super) async fn known_holders(&self, network: NetworkId) -> BTreeSet<NodeId> {
        let met = self.net.holders(network).await.unwrap_or_default();
        let mut holders: BTreeSet<NodeId> = met.into_iter().filter(|holder| holder.entry).map(|holder| holder.node).collect();
        let own = self.node();
        let said = self.engines.ask(&network, |engine| {
            let members = engine.members();
            let present: BTreeSet<NodeId> = engine.board().presences().map(|(node, ..)| node).collect();
            let have = engine.board().of_kind(Kind::Have).map(|record| NodeId(record.author_key()));
            let mut by_operator = BTreeMap::new();
            for node in have.filter(|node| present.contains(node) && engine.is_member(node)) {
                let of_operator = by_operator.entry(members.operator_of(&node)).or_insert(node);
                // This node before others, then always the same one.
                *of_operator = if node == own || *of_operator == own { own } else { node.min(*of_operator) };
            }
            by_operator.into_values().collect::<BTreeSet<_>>()
        });
        holders.extend(said.unwrap_or_default());
        holders.remove(&own);
        holders
    }

    /// Reads or writes the store where blocking is allowed; a failure is logged.
    pub(super) async fn on_store<T: Send + 'static>(&self, work: impl FnOnce(&Store) -> Result<T, Fault> + Send + 'static) -> Option<T> {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(Ok(done)) => Some(done),
            Ok(Err(error)) => {
                tracing::error!(%error, "the store can't be used");
                None
            }
            Err(error) => {
                tracing::error!(%error, "a thread that uses the store failed");
                None
            }
        }
    }
}

/// The rows of a network, without those that are given up and without old ones that are done.
fn tidied(store: &Store, network: &NetworkId) -> Result<BTreeMap<BlobHash, Push>, Fault> {
    let mut rows = pushes::all(store, network)?;
    let mut done: Vec<(Timestamp, BlobHash)> =
        rows.iter().filter(|(_, push)| push.is_done()).map(|(what, push)| (push.since, *what)).collect();
    done.sort_unstable();
    let old = done.len().saturating_sub(DONE_KEPT);
    let given_up = rows.iter().filter(|(_, push)| !push.is_done() && push.since + GIVE_UP < now()).map(|(what, _)| *what);
    let gone: Vec<BlobHash> = done.into_iter().take(old).map(|(_, what)| what).chain(given_up).collect();
    for what in gone {
        pushes::forget(store, network, &what)?;
        rows.remove(&what);
    }
    Ok(rows)
}

/// The blobs of a tree, or the one blob, with their lengths; or why they can't be had here.
fn lengths(store: &Store, what: BlobHash, tree: bool) -> Result<Result<Vec<(BlobHash, u64)>, String>, Fault> {
    let mut all = BTreeMap::new();
    if tree {
        match store.tree(&what) {
            Ok(manifest) => all.extend(manifest.blobs()),
            Err(error) => return Ok(Err(error.to_string())),
        }
    }
    let Some(length) = store.length(&what)? else { return Ok(Err(format!("{} is not here any more", what.short()))) };
    all.insert(what, length);
    Ok(Ok(all.into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holder_that_fails_is_left_alone_longer_each_time_and_as_long_as_it_wasted() {
        let (mut failing, holder, start) = (Failing::default(), NodeId([1; 32]), Timestamp(1_000_000));
        let second = Duration::from_secs(1);
        assert!(!failing.is_left_alone(&holder, start));
        failing.failed(holder, start, second);
        assert!(failing.is_left_alone(&holder, start) && !failing.is_left_alone(&NodeId([2; 32]), start));
        let mut now = start + wait_after(1);
        assert!(!failing.is_left_alone(&holder, now));
        failing.failed(holder, now, second);
        assert!(failing.is_left_alone(&holder, now + wait_after(1)));
        now = now + wait_after(2);
        assert!(!failing.is_left_alone(&holder, now));
        failing.failed(holder, now, RETRY_MAX);
        assert!(failing.is_left_alone(&holder, now + RETRY_MAX * 2));
        failing.took(&holder);
        assert!(!failing.is_left_alone(&holder, now));
        failing.failed(holder, now, second * 24 * 3600);
        assert!(!failing.is_left_alone(&holder, now + LEFT_ALONE_MAX * 2), "the first time for twenty minutes at most");
        failing.failed(holder, now, second * 24 * 3600);
        assert!(failing.is_left_alone(&holder, now + LEFT_ALONE_MAX * 2));
        failing.tidy(now + FORGOTTEN_AFTER);
        assert!(!failing.0.is_empty());
        failing.tidy(now + FORGOTTEN_AFTER + LEFT_ALONE_MAX * 4);
        assert!(failing.0.is_empty());
    }
}
