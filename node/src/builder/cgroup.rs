//! Control groups: limits on memory, processes and CPU of a whole build, and a way to kill all of it.
//!
//! Version 2 where the node may delegate, version 1 where only that has a memory controller. Where neither is to be had,
//! [`usage_of_tree`] reads what it can from `/proc` and the caller sets `RLIMIT_AS`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// The most processes and threads of one build: `make -j64` with a test suite needs some hundred.
pub const PROCESSES_MAX: u64 = 4096;
/// How long a killed group may take to become empty.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// One period of the CPU quota in microseconds, the kernel's default.
const QUOTA_PERIOD_US: u64 = 100_000;

/// Where this node can make groups.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hierarchy {
    /// One folder for all controllers.
    V2(PathBuf),
    /// A folder for each controller.
    V1 { memory: PathBuf, pids: Option<PathBuf>, cpu: Option<PathBuf>, cpuacct: Option<PathBuf> },
}

/// `cgroup v2`, `cgroup v1`, or `None` where builds are limited by `RLIMIT_AS` only.
pub fn version() -> Option<&'static str> {
    hierarchy().map(|hierarchy| match hierarchy {
        Hierarchy::V2(_) => "cgroup v2",
        Hierarchy::V1 { .. } => "cgroup v1",
    })
}

fn hierarchy() -> Option<&'static Hierarchy> {
    static FOUND: OnceLock<Option<Hierarchy>> = OnceLock::new();
    FOUND.get_or_init(detect).as_ref()
}

fn detect() -> Option<Hierarchy> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let found = detect_v2(&mounts, &own).or_else(|| detect_v1(&mounts, &own))?;
    sweep(&found);
    Some(found)
}

/// The folder of this process in the hierarchy whose mount has `wanted` among its type and options.
fn own_folder(mounts: &str, own: &str, kind: &str, controller: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        let path = fields.next()?;
        let here = if controller.is_empty() { controllers.is_empty() } else { controllers.split(',').any(|c| c == controller) };
        here.then_some(path)
    })?;
    mounts.lines().find_map(|line| {
        let (place, source) = line.split_once(" - ")?;
        let mut source = source.split(' ');
        let options = source.nth(2).map(str::to_owned).unwrap_or_default();
        let has_kind = line.split_once(" - ")?.1.split(' ').next() == Some(kind);
        if !has_kind || !(controller.is_empty() || options.split(',').any(|option| option == controller)) {
            return None;
        }
        let mut place = place.split(' ').skip(3);
        let root = place.next()?;
        let point = place.next()?;
        // Inside a container the mount shows a part of the hierarchy, and the path may be told from its top.
        let below = Path::new(path).strip_prefix(root).or_else(|_| Path::new(path).strip_prefix("/")).ok()?;
        let folder = Path::new(point).join(below);
        Some(if folder.is_dir() { folder } else { PathBuf::from(point) })
    })
}

fn detect_v1(mounts: &str, own: &str) -> Option<Hierarchy> {
    let usable = |controller: &str| own_folder(mounts, own, "cgroup", controller).filter(|folder| can_make_group(folder));
    Some(Hierarchy::V1 { memory: usable("memory")?, pids: usable("pids"), cpu: usable("cpu"), cpuacct: usable("cpuacct") })
}

fn detect_v2(mounts: &str, own: &str) -> Option<Hierarchy> {
    let folder = own_folder(mounts, own, "cgroup2", "")?;
    let has = |file: &str| {
        let controllers = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
        ["memory", "pids"].iter().all(|wanted| controllers.split_whitespace().any(|c| c == *wanted))
    };
    if !has("cgroup.controllers") || !can_make_group(&folder) {
        return None;
    }
    if !has("cgroup.subtree_control") {
        let enable = || std::fs::write(folder.join("cgroup.subtree_control"), "+memory +pids");
        if enable().is_err() {
            // A group that holds processes cannot hand controllers on, so this one moves into a group of its own.
            let leaf = folder.join("barn-node");
            std::fs::create_dir_all(&leaf).ok()?;
            std::fs::write(leaf.join("cgroup.procs"), std::process::id().to_string()).ok()?;
            enable().ok()?;
        }
    }
    // The CPU controller is welcome and not needed: affinity keeps builds to their cores too.
    let _ = std::fs::write(folder.join("cgroup.subtree_control"), "+cpu");
    Some(Hierarchy::V2(folder))
}

fn can_make_group(folder: &Path) -> bool {
    let trial = folder.join(format!("barn-trial-{}", std::process::id()));
    std::fs::create_dir(&trial).is_ok() && std::fs::remove_dir(&trial).is_ok()
}

/// Removes groups that a node left which was killed.
fn sweep(hierarchy: &Hierarchy) {
    for folder in hierarchy.folders() {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix("barn-")?.split_once('-')?.0.parse::<u32>().ok());
            // This process has none yet: one of its number is an earlier one's, as in a container, where all are process 1.
            let dead = |pid: u32| pid == std::process::id() || !Path::new("/proc").join(pid.to_string()).exists();
            if owner.is_some_and(dead) {
                // A group with processes in it stays, and so does one that another user made.
                let _ = std::fs::remove_dir(entry.path());
            }
        }
    }
}

impl Hierarchy {
    fn folders(&self) -> Vec<&PathBuf> {
        match self {
            Self::V2(folder) => vec![folder],
            Self::V1 { memory, pids, cpu, cpuacct } => {
                let mut folders = vec![memory];
                for folder in [pids, cpu, cpuacct].into_iter().flatten() {
                    // cpu and cpuacct are often one hierarchy.
                    if !folders.contains(&folder) {
                        folders.push(folder);
                    }
                }
                folders
            }
        }
    }
}

/// What a build has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupUsage {
    /// CPU time in milliseconds.
    pub cpu_ms: u64,
    /// Memory now, in bytes.
    pub memory: u64,
    /// The most memory so far, in bytes.
    pub memory_peak: u64,
}

/// The group of one build. Removed, with all that is in it killed, when dropped.
#[derive(Debug)]
pub struct Group {
    name: String,
    hierarchy: &'static Hierarchy,
}

impl Group {
    /// A new group with these limits, or `None` where this machine has no usable control groups.
    ///
    /// # Errors
    /// What making the group or setting its memory limit says.
    pub fn new(memory: u64, cores: u16) -> io::Result<Option<Self>> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let Some(hierarchy) = hierarchy() else { return Ok(None) };
        let name = loop {
            let name = format!("barn-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
            // A name may be taken by what an earlier process of this number left and the sweep could not remove.
            if !hierarchy.folders().iter().any(|folder| folder.join(&name).exists()) {
                break name;
            }
        };
        let group = Self { name, hierarchy };
        for folder in hierarchy.folders() {
            std::fs::create_dir(folder.join(&group.name))?;
        }
        let quota = u64::from(cores.max(1)) * QUOTA_PERIOD_US;
        // Limits beyond memory are the second line (the first: affinity, the process namespace), so a kernel that lacks
        // one of their files still builds.
        match hierarchy {
            Hierarchy::V2(_) => {
                group.write("memory.max", memory)?;
                let _ = group.write("memory.swap.max", 0);
                let _ = group.write("memory.oom.group", 1);
                let _ = group.write("pids.max", PROCESSES_MAX);
                let _ = group.write("cpu.max", format!("{quota} {QUOTA_PERIOD_US}"));
            }
            Hierarchy::V1 { .. } => {
                group.write("memory.limit_in_bytes", memory)?;
                let _ = group.write("memory.memsw.limit_in_bytes", memory);
                let _ = group.write("pids.max", PROCESSES_MAX);
                let _ = group.write("cpu.cfs_quota_us", quota);
            }
        }
        Ok(Some(group))
    }

    /// The file of that name, in whichever hierarchy its controller lives.
    fn file(&self, file: &str) -> Option<PathBuf> {
        let folder = match self.hierarchy {
            Hierarchy::V2(folder) => Some(folder),
            Hierarchy::V1 { memory, pids, cpu, cpuacct } => match file.split_once('.').map_or(file, |(controller, _)| controller) {
                "memory" => Some(memory),
                "pids" => pids.as_ref(),
                "cpu" => cpu.as_ref(),
                "cpuacct" => cpuacct.as_ref(),
                _ => None,
            },
        };
        Some(folder?.join(&self.name).join(file))
    }

    fn write(&self, file: &str, value: impl std::fmt::Display) -> io::Result<()> {
        let path = self.file(file).ok_or(io::ErrorKind::NotFound)?;
        std::fs::write(&path, value.to_string()).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }

    fn number(&self, file: &str) -> Option<u64> {
        std::fs::read_to_string(self.file(file)?).ok()?.trim().parse().ok()
    }

    fn field(&self, file: &str, key: &str) -> Option<u64> {
        let text = std::fs::read_to_string(self.file(file)?).ok()?;
        text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
    }

    /// The files that a process joins the group by.
    pub fn joins(&self) -> Vec<PathBuf> {
        self.hierarchy.folders().into_iter().map(|folder| folder.join(&self.name).join("cgroup.procs")).collect()
    }

    /// Puts a process in; what it starts from now on is in too.
    ///
    /// # Errors
    /// What the system says.
    pub fn add(&self, pid: u32) -> io::Result<()> {
        self.joins().iter().try_for_each(|file| std::fs::write(file, pid.to_string()))
    }

    /// What the build has used.
    pub fn usage(&self) -> GroupUsage {
        match self.hierarchy {
            Hierarchy::V2(_) => GroupUsage {
                cpu_ms: self.field("cpu.stat", "usage_usec").unwrap_or(0) / 1000,
                memory: self.number("memory.current").unwrap_or(0),
                // Kernels before 5.19 have no peak.
                memory_peak: self.number("memory.peak").unwrap_or(0),
            },
            Hierarchy::V1 { .. } => GroupUsage {
                cpu_ms: self.number("cpuacct.usage").unwrap_or(0) / 1_000_000,
                memory: self.number("memory.usage_in_bytes").unwrap_or(0),
                memory_peak: self.number("memory.max_usage_in_bytes").unwrap_or(0),
            },
        }
    }

    /// Whether the kernel has killed a process of the group for want of memory.
    pub fn out_of_memory(&self) -> bool {
        let kills = match self.hierarchy {
            Hierarchy::V2(_) => self.field("memory.events", "oom_kill "),
            Hierarchy::V1 { .. } => self.field("memory.oom_control", "oom_kill "),
        };
        kills.is_some_and(|kills| kills > 0)
    }

    /// Kills all processes of the group and waits until it is empty; whether it became so.
    pub fn kill(&self) -> bool {
        let deadline = Instant::now() + KILL_WAIT;
        if let Hierarchy::V2(_) = self.hierarchy {
            // Linux 5.14; the loop below does without.
            let _ = self.write("cgroup.kill", 1);
        }
        loop {
            let mut alive = false;
            for file in self.joins() {
                let text = std::fs::read_to_string(file).unwrap_or_default();
                for pid in text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
                    alive = true;
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
            }
            if !alive || Instant::now() > deadline {
                return !alive;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        let deadline = Instant::now() + Duration::from_secs(1);
        for folder in self.hierarchy.folders() {
            // The last process may still be on its way out of the group.
            while let Err(error) = std::fs::remove_dir(folder.join(&self.name)) {
                if error.kind() == io::ErrorKind::NotFound {
                    break;
                }
                if Instant::now() > deadline {
                    tracing::warn!(group = self.name, %error, "a control group could not be removed; the next start tries again");
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// CPU time and memory of `pid` and all below it, from `/proc`: for machines without control groups. Children that were
/// waited for count through their parents.
pub fn usage_of_tree(pid: u32) -> GroupUsage {
    /// `USER_HZ`, which is 100 on every architecture that Rust's standard library knows.
    const TICK_MS: u64 = 10;
    let mut usage = GroupUsage::default();
    let mut waiting = vec![pid];
    let mut seen = 0;
    while let Some(pid) = waiting.pop() {
        seen += 1;
        if seen > PROCESSES_MAX {
            break;
        }
        let folder = Path::new("/proc").join(pid.to_string());
        let stat = std::fs::read_to_string(folder.join("stat")).unwrap_or_default();
        // The program's name stands in parentheses and may hold spaces and parentheses itself.
        let fields: Vec<&str> = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
        let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        // utime, stime, cutime and cstime: fields 14 to 17 of proc_pid_stat(5).
        usage.cpu_ms += (11..=14).map(number).sum::<u64>() * TICK_MS;
        let status = std::fs::read_to_string(folder.join("status")).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        usage.memory += resident.unwrap_or(0) * 1024;
        let Ok(threads) = std::fs::read_dir(folder.join("task")) else { continue };
        for thread in threads.flatten() {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            waiting.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    usage.memory_peak = usage.memory;
    usage
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn own_process_has_used_memory() {
        let usage = usage_of_tree(std::process::id());
        assert!(usage.memory > 100_000, "{usage:?}");
    }

    #[test]
    fn folders_are_found_from_the_mount_table() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      35 31 0:32 / /tmp rw,relatime - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /usr rw,relatime - cgroup2 cgroup2 rw";
        let own = "4:memory:/no/such/folder\n0::/bin\n";
        assert_eq!(own_folder(mounts, own, "cgroup", "memory").unwrap(), Path::new("/tmp"));
        assert_eq!(own_folder(mounts, own, "cgroup2", "").unwrap(), Path::new("/usr/bin"));
        assert_eq!(own_folder(mounts, own, "cgroup", "pids"), None);
    }
}
