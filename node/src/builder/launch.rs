//! Limits that are set from outside on the launcher, while it waits; the build inherits them.

use std::io;
use std::process::Child;

use barnraiser_protocol::graph::Limits;
use rustix::process::{Pid, Resource, Rlimit};

use super::cgroup::{self, Group};
use super::cores::Cores;

/// Soft limit on open files, the usual one, so that no build depends on this machine's.
const OPEN_FILES: u64 = 1024;
/// Soft limit on the stack, the usual one.
const STACK_BYTES: u64 = 8 << 20;

/// Puts the launcher into its control group and on its CPUs, and sets its resource limits. A build that looks for what is
/// not deterministic (`chaos`) has another limit on open files.
///
/// # Errors
/// What the system says.
pub(super) fn prepare(child: &Child, group: Option<&Group>, cores: &Cores, limits: &Limits, chaos: bool) -> io::Result<()> {
    if let Some(group) = group {
        group.add(child.id())?;
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    cores.bind(pid.ok_or(io::ErrorKind::InvalidData)?);
    let set = |resource, current: Option<u64>, maximum: Option<u64>| {
        // A limit that is lower already stays.
        let own = rustix::process::getrlimit(resource).maximum;
        let least = |wanted: Option<u64>| match (wanted, own) {
            (Some(wanted), Some(own)) => Some(wanted.min(own)),
            (wanted, own) => wanted.or(own),
        };
        rustix::process::prlimit(pid, resource, Rlimit { current: least(current), maximum: least(maximum) }).map(drop)
    };
    set(Resource::Core, Some(0), Some(0))?;
    set(Resource::Fsize, Some(limits.disk), Some(limits.disk))?;
    set(Resource::Nofile, Some(if chaos { 4 * OPEN_FILES } else { OPEN_FILES }), None)?;
    set(Resource::Stack, Some(STACK_BYTES), None)?;
    if group.is_none() {
        set(Resource::As, Some(limits.memory), Some(limits.memory))?;
        set(Resource::Nproc, Some(cgroup::PROCESSES_MAX), None)?;
    }
    Ok(())
}
