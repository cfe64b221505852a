//! The engines of all networks of this node, and the one machine that they share.
//!
//! Every call goes through [`Engines::with`], under one lock: an engine that takes a core has told the others before
//! any of them can decide again, so the machine is never promised twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use barnraiser_protocol::engine::{Capacity, Engine, Input, Lend, Output};
use barnraiser_protocol::id::{NetworkId, RecordId};
use barnraiser_protocol::record::SharedRecord;
use barnraiser_protocol::time::Timestamp;
use tokio::sync::Notify;

/// This moment, by the system's clock.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[derive(Default)]
struct Inner {
    engines: BTreeMap<NetworkId, Engine>,
    outputs: BTreeMap<NetworkId, VecDeque<Output>>,
    told: BTreeMap<NetworkId, Capacity>,
    /// Records of this node that are not on the disk yet.
    unwritten: BTreeSet<RecordId>,
    lend: Option<Lend>,
}

/// The engines, and what is lent of the machine.
pub struct Engines {
    inner: Mutex<Inner>,
    wake: Notify,
    written: Notify,
}

impl Engines {
    /// No engines yet.
    pub fn new(lend: Lend) -> Self {
        Self { inner: Mutex::new(Inner { lend: Some(lend), ..Inner::default() }), wake: Notify::new(), written: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves an engine as it was between two calls; going on beats stopping all networks.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a network's engine, and hands it what is free.
    pub fn add(&self, network: NetworkId, engine: Engine) {
        let mut inner = self.lock();
        inner.engines.insert(network, engine);
        inner.told.remove(&network);
        inner.settle();
        drop(inner);
        self.wake.notify_one();
    }

    /// Takes a network's engine away.
    pub fn remove(&self, network: &NetworkId) {
        let mut inner = self.lock();
        inner.engines.remove(network);
        for output in inner.outputs.remove(network).unwrap_or_default() {
            if let Output::Persist(record) = output {
                inner.unwritten.remove(&record.id());
            }
        }
        inner.told.remove(network);
        inner.settle();
        drop(inner);
        self.wake.notify_one();
    }

    /// Calls `f` with the network's engine; `None` where there is none (yet).
    pub fn with<T>(&self, network: &NetworkId, f: impl FnOnce(&mut Engine, Timestamp) -> T) -> Option<T> {
        let mut inner = self.lock();
        let result = f(inner.engines.get_mut(network)?, now());
        inner.settle();
        drop(inner);
        self.wake.notify_one();
        Some(result)
    }

    /// Asks the network's engine something that changes nothing.
    pub fn ask<T>(&self, network: &NetworkId, f: impl FnOnce(&Engine) -> T) -> Option<T> {
        self.lock().engines.get(network).map(f)
    }

    /// Whether something holds for any network's engine.
    pub fn any(&self, holds: impl Fn(&Engine) -> bool) -> bool {
        self.lock().engines.values().any(holds)
    }

    /// As [`Engines::ask`], for what is shown to others: with the records that they must not see, since this node would
    /// not know of them any more after a power loss.
    pub fn show<T>(&self, network: &NetworkId, f: impl FnOnce(&Engine, &BTreeSet<RecordId>) -> T) -> Option<T> {
        let inner = self.lock();
        Some(f(inner.engines.get(network)?, &inner.unwritten))
    }

    /// These records survive power loss from now on.
    pub fn written(&self, records: &[SharedRecord]) {
        let mut inner = self.lock();
        for record in records {
            inner.unwritten.remove(&record.id());
        }
        drop(inner);
        self.written.notify_waiters();
    }

    /// Waits until these records of this node survive power loss.
    pub async fn until_written(&self, records: &[RecordId]) {
        loop {
            let told = self.written.notified();
            if !records.iter().any(|id| self.lock().unwritten.contains(id)) {
                return;
            }
            told.await;
        }
    }

    /// Changes what is lent, in all networks.
    pub fn set_lend(&self, lend: Lend) {
        let mut inner = self.lock();
        inner.lend = Some(lend);
        for engine in inner.engines.values_mut() {
            engine.handle(now(), Input::Lend(lend));
        }
        inner.settle();
        drop(inner);
        self.wake.notify_one();
    }

    /// What is lent.
    pub fn lend(&self) -> Lend {
        self.lock().lend.unwrap_or(Lend { builds: false, arbiter_only: false, cores: 0, memory: 0 })
    }

    /// What all networks use together.
    pub fn in_use(&self) -> Capacity {
        self.lock().in_use()
    }

    /// Waits until an engine wants something done or its time comes; then what it wants, in order, of every network.
    pub async fn next(&self) -> Vec<(NetworkId, Output)> {
        loop {
            let (outputs, timeout) = self.drain();
            if !outputs.is_empty() {
                return outputs;
            }
            match timeout {
                Some(at) => {
                    let wait = at.since(now());
                    // A timer that is due is handled in the next `drain`.
                    let _ = tokio::time::timeout(wait, self.wake.notified()).await;
                }
                None => self.wake.notified().await,
            }
        }
    }

    fn drain(&self) -> (Vec<(NetworkId, Output)>, Option<Timestamp>) {
        let mut inner = self.lock();
        let moment = now();
        for engine in inner.engines.values_mut() {
            if engine.poll_timeout().is_some_and(|at| at <= moment) {
                engine.handle_timeout(moment);
            }
        }
        inner.settle();
        let mut outputs = Vec::new();
        for (network, queue) in &mut inner.outputs {
            outputs.extend(queue.drain(..).map(|output| (*network, output)));
        }
        (outputs, inner.engines.values().filter_map(Engine::poll_timeout).min())
    }
}

impl Inner {
    fn in_use(&self) -> Capacity {
        self.engines.values().fold(Capacity::default(), |sum, engine| {
            let used = engine.in_use();
            Capacity { cores: sum.cores.saturating_add(used.cores), memory: sum.memory.saturating_add(used.memory) }
        })
    }

    /// Takes over what engines want, and tells each what is free, until nothing changes any more.
    fn settle(&mut self) {
        loop {
            for (network, engine) in &mut self.engines {
                let queue = self.outputs.entry(*network).or_default();
                while let Some(output) = engine.poll_output() {
                    if let Output::Persist(record) = &output {
                        self.unwritten.insert(record.id());
                    }
                    queue.push_back(output);
                }
            }
            let (used, lend) = (self.in_use(), self.lend);
            let free = Capacity {
                cores: lend.map_or(0, |lend| lend.cores).saturating_sub(used.cores),
                memory: lend.map_or(0, |lend| lend.memory).saturating_sub(used.memory),
            };
            // One engine at a time: it may take all of it, and the next must hear of that first.
            let Some(network) = self.engines.keys().find(|network| self.told.get(*network) != Some(&free)).copied() else {
                return;
            };
            self.told.insert(network, free);
            if let Some(engine) = self.engines.get_mut(&network) {
                engine.handle(now(), Input::Capacity(free));
            }
        }
    }
}
