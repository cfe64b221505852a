//! Which CPUs a build may run on: as many as its recipe says, those that the fewest other builds of this node have.
//!
//! Programs that ask how many CPUs there are get the recipe's number, on every machine that has as many.

use std::sync::Mutex;

use rustix::process::Pid;
use rustix::thread::CpuSet;

/// Number of builds on each CPU.
static BUILDS: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// CPUs that a build has, given back when dropped.
#[derive(Debug)]
pub struct Cores {
    cpus: Vec<usize>,
}

impl Cores {
    /// `count` CPUs, or as many as this process may use.
    pub fn take(count: usize) -> Self {
        let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return Self { cpus: Vec::new() } };
        let mut builds = lock();
        builds.resize(CpuSet::MAX_CPU, 0);
        let mut cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
        cpus.sort_by_key(|&cpu| builds[cpu]);
        cpus.truncate(count.max(1));
        for &cpu in &cpus {
            builds[cpu] += 1;
        }
        Self { cpus }
    }

    /// Keeps `pid`, and what it starts from now on, to these CPUs.
    pub fn bind(&self, pid: Pid) {
        let mut set = CpuSet::new();
        for &cpu in &self.cpus {
            set.set(cpu);
        }
        // A container may forbid it; the CPU quota of the control group holds then.
        if let Err(error) = rustix::thread::sched_setaffinity(Some(pid), &set) {
            tracing::debug!(%error, "a build could not be kept to its CPUs");
        }
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        let mut builds = lock();
        for &cpu in &self.cpus {
            if let Some(count) = builds.get_mut(cpu) {
                *count = count.saturating_sub(1);
            }
        }
    }
}

fn lock() -> std::sync::MutexGuard<'static, Vec<u32>> {
    // Nothing between taking and releasing the lock can leave the counts half changed.
    BUILDS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
