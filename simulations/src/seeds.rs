//! Many seeds, several at once: each run is a function of its seed, so threads change nothing but the time that it takes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

/// Runs every seed on one of `threads` threads (at least one) and hands over what came of it, in the order of the seeds.
/// An error of `take` is returned, and no further seed is begun.
pub fn run<T: Send>(
    seeds: Range<u64>,
    threads: usize,
    run: impl Fn(u64) -> T + Sync,
    mut take: impl FnMut(T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (next, stopped) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            let (sender, next, stopped, run) = (sender.clone(), &next, &stopped, &run);
            scope.spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    // Nobody listens any more where taking has failed.
                    if seed >= seeds.end || sender.send((seed, run(seed))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let (mut early, mut wanted) = (BTreeMap::new(), seeds.start);
        for (seed, result) in receiver {
            early.insert(seed, result);
            while let Some(result) = early.remove(&wanted) {
                wanted += 1;
                take(result).inspect_err(|_| stopped.store(true, Ordering::Relaxed))?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_seeds() {
        let slow_first = |seed: u64| {
            std::thread::sleep(Duration::from_millis(if seed.is_multiple_of(3) { 20 } else { 0 }));
            seed * 10
        };
        for threads in [0, 1, 4] {
            let mut taken = Vec::new();
            let all = run(5..15, threads, slow_first, |result| {
                taken.push(result);
                Ok(())
            });
            assert!(all.is_ok());
            assert_eq!(taken, (5..15).map(|seed| seed * 10).collect::<Vec<u64>>());
        }
    }

    #[test]
    fn nothing_is_begun_after_an_error() {
        let begun = AtomicU64::new(0);
        let count = |_| begun.fetch_add(1, Ordering::Relaxed);
        let failed = run(0..1_000_000, 2, count, |_| anyhow::bail!("the disk is full"));
        assert_eq!(failed.map_err(|error| error.to_string()), Err("the disk is full".to_owned()));
        assert!(begun.into_inner() < 1_000_000);
    }
}
