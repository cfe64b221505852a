//! When blobs may travel: by the hours of the day, and by what has moved in this month.
//!
//! The network counts and holds to rates by itself; here is what needs a calendar, and a memory that survives restarts. While
//! bulk rests the node takes no builds either, since it could fetch no inputs and show no outputs; builds that run go on,
//! and so do records, without which their leases would be lost.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use barnraiser_bootstrap::Usage;
use barnraiser_protocol::engine::Lend;
use barnraiser_store::Store;
use serde::{Deserialize, Serialize};

use super::Daemon;
use crate::api;
use crate::config::TrafficConfig;

/// How often the clock is looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How many looks it is until what has moved is written down: so much of it is forgotten by a process that is killed.
const LOOKS_PER_WRITE: u32 = 10;
/// Where the store keeps it.
const MONTH_KEY: &[u8] = b"traffic/month";
/// A clock that says an earlier year is not set, and begins no month.
const YEAR_MIN: i16 = 2024;

/// What has moved in a month.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Month {
    /// Which, as `2026-11`, by this machine's clock.
    pub month: String,
    /// Bytes sent.
    pub up: u64,
    /// Bytes received.
    pub down: u64,
}

/// A moment by this machine's clock.
struct Moment {
    year: i16,
    month: String,
    /// Of the day.
    minute: u16,
}

impl Moment {
    fn now() -> Self {
        let now = jiff::ZonedDateTime::now();
        // Hours and minutes of a day are not negative.
        let minute = u16::try_from(now.hour()).unwrap_or(0) * 60 + u16::try_from(now.minute()).unwrap_or(0);
        Self { year: now.year(), month: format!("{:04}-{:02}", now.year(), now.month()), minute }
    }
}

/// Counts what moves, month by month.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub month: Month,
    /// What the network had counted when it was last asked.
    counted: (u64, u64),
    written: Month,
}

impl Ledger {
    /// Goes on where the last process stopped.
    pub fn open(store: &Store) -> anyhow::Result<Self> {
        let Some(bytes) = store.meta_get(MONTH_KEY)? else { return Ok(Self::default()) };
        // To begin anew would be to forget a cap.
        let month: Month = serde_json::from_slice(&bytes)
            .map_err(|error| anyhow::anyhow!("what moved in this month can't be read from the store ({error})"))?;
        Ok(Self { written: month.clone(), month, counted: (0, 0) })
    }

    fn count(&mut self, now: &Moment, usage: &Usage) {
        if now.month != self.month.month && (now.year >= YEAR_MIN || self.month.month.is_empty()) {
            self.month = Month { month: now.month.clone(), ..Month::default() };
        }
        let (up, down) = self.counted;
        self.month.up = self.month.up.saturating_add(usage.up.saturating_sub(up));
        self.month.down = self.month.down.saturating_add(usage.down.saturating_sub(down));
        self.counted = (usage.up, usage.down);
    }

    const fn left_of(&self, cap: u64) -> u64 {
        cap.saturating_sub(self.month.up.saturating_add(self.month.down))
    }

    /// What is to be written down, where it has changed.
    fn unwritten(&mut self) -> Option<Vec<u8>> {
        if self.written == self.month {
            return None;
        }
        self.written = self.month.clone();
        serde_json::to_vec(&self.month).ok()
    }
}

/// Why bulk rests at this moment.
fn why_resting(config: &TrafficConfig, now: &Moment, ledger: &Ledger) -> Option<String> {
    if config.monthly_cap.0.is_some_and(|cap| ledger.left_of(cap) == 0) {
        let cap = config.monthly_cap;
        return Some(format!("the monthly cap of {cap} is used up; it goes on with the next month ([traffic] monthly_cap)"));
    }
    let closed_for = config.hours.closed_for(now.minute)?;
    let (hours, minutes) = (closed_for / 60, closed_for % 60);
    let left = if hours > 0 { format!("{hours} h {minutes} min") } else { format!("{minutes} min") };
    Some(format!("blobs travel {} only, which is in {left} ([traffic] hours)", config.hours))
}

impl Daemon {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Sums, whole after each call.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at clock and counters, for ever.
    pub(super) async fn watch_traffic(self: Arc<Self>) {
        let mut looks = 0;
        loop {
            self.look_at_traffic();
            looks += 1;
            if looks % LOOKS_PER_WRITE == 0 {
                self.keep_traffic().await;
            }
            tokio::select! {
                () = tokio::time::sleep(WATCH_EVERY) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Tells the network whether bulk may move now, and the engines whether to take builds.
    pub(super) fn look_at_traffic(&self) {
        let now = Moment::now();
        let (config, traffic) = (&self.config.traffic, self.net.traffic());
        let (why, left) = {
            let mut ledger = self.ledger();
            ledger.count(&now, &traffic.usage());
            (why_resting(config, &now, &ledger), config.monthly_cap.0.map(|cap| ledger.left_of(cap)))
        };
        // Between two looks the network itself stops where the cap is reached.
        traffic.allow(left);
        let rested = traffic.resting();
        match (&rested, &why) {
            (None, Some(why)) => tracing::info!(%why, "bulk rests"),
            (Some(_), None) => tracing::info!("bulk may travel again"),
            _ => {}
        }
        traffic.rest(why);
        self.settle_lend();
    }

    /// Takes builds, or takes none, as things are.
    pub(super) fn settle_lend(&self) {
        let paused = self.rest.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let builds = self.wants_builds && !paused && !self.net.traffic().rests();
        let lend = self.engines.lend();
        if lend.builds != builds {
            self.engines.set_lend(Lend { builds, ..lend });
        }
    }

    /// Writes down what has moved in this month.
    pub(super) async fn keep_traffic(&self) {
        let Some(bytes) = self.ledger().unwritten() else { return };
        let store = self.store.clone();
        let kept = tokio::task::spawn_blocking(move || store.meta_put(MONTH_KEY, &bytes, false)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "what moved in this month can't be kept");
        }
    }

    /// For `barn status`.
    pub(super) fn traffic_status(&self) -> api::TrafficStatus {
        let (config, traffic) = (&self.config.traffic, self.net.traffic());
        let usage = traffic.usage();
        let month = self.ledger().month.clone();
        api::TrafficStatus {
            up: usage.up,
            down: usage.down,
            up_rate: usage.up_rate,
            down_rate: usage.down_rate,
            up_limit: config.up.0,
            down_limit: config.down.0,
            up_per_peer_limit: config.up_per_peer.0,
            month: month.month,
            month_up: month.up,
            month_down: month.down,
            monthly_cap: config.monthly_cap.0,
            hours: config.hours.to_string(),
            resting: traffic.resting(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{Cap, Config};

    fn moment(year: i16, month: &str, minute: u16) -> Moment {
        Moment { year, month: month.into(), minute }
    }

    fn usage(up: u64, down: u64) -> Usage {
        Usage { up, down, ..Usage::default() }
    }

    #[test]
    fn a_month_is_counted_over_restarts_and_ends_with_the_calendar() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut ledger = Ledger::open(&store).unwrap();
        ledger.count(&moment(2026, "2026-11", 0), &usage(100, 20));
        ledger.count(&moment(2026, "2026-11", 0), &usage(150, 20));
        assert_eq!((ledger.month.up, ledger.month.down, ledger.left_of(200)), (150, 20, 30));
        store.meta_put(MONTH_KEY, &ledger.unwritten().unwrap(), false).unwrap();
        assert_eq!(ledger.unwritten(), None);
        // Another process, whose network counts from zero.
        let mut ledger = Ledger::open(&store).unwrap();
        ledger.count(&moment(2026, "2026-11", 0), &usage(7, 1));
        assert_eq!((ledger.month.up, ledger.month.down), (157, 21));
        // A clock that is not set yet begins nothing.
        ledger.count(&moment(1970, "1970-01", 0), &usage(8, 1));
        assert_eq!((ledger.month.month.as_str(), ledger.month.up), ("2026-11", 158));
        ledger.count(&moment(2026, "2026-12", 0), &usage(10, 1));
        assert_eq!(ledger.month, Month { month: "2026-12".into(), up: 2, down: 0 });
        store.meta_put(MONTH_KEY, b"nonsense", false).unwrap();
        assert!(Ledger::open(&store).unwrap_err().to_string().contains("can't be read"));
    }

    #[test]
    fn what_rests_says_why_and_for_how_long() {
        let config = |text: &str| Config::parse(std::path::Path::new("barn.toml"), text).unwrap().traffic;
        let mut ledger = Ledger::default();
        ledger.count(&moment(2026, "2026-11", 0), &usage(90 << 20, 20 << 20));
        let noon = moment(2026, "2026-11", 12 * 60 + 5);
        assert_eq!(why_resting(&TrafficConfig::default(), &noon, &ledger), None);
        let night = config("[traffic]\nhours = \"22:00-07:00\"");
        let why = why_resting(&night, &noon, &ledger).unwrap();
        assert!(why.contains("22:00-07:00") && why.contains("9 h 55 min"), "{why}");
        assert_eq!(why_resting(&night, &moment(2026, "2026-11", 23 * 60), &ledger), None);
        let capped = config("[traffic]\nmonthly_cap = \"100 MiB\"");
        let why = why_resting(&capped, &noon, &ledger).unwrap();
        assert!(why.contains("100 MiB") && why.contains("used up"), "{why}");
        let more = TrafficConfig { monthly_cap: Cap(Some(111 << 20)), ..capped };
        assert_eq!(why_resting(&more, &noon, &ledger), None);
    }
}
