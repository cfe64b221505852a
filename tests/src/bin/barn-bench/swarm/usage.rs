//! What processes use of the machine.

use std::process::{Child, ExitStatus};

use anyhow::Context as _;

/// Ticks of the kernel's clock in `/proc`, in a second: 100 on every Linux that has been built for years (`USER_HZ`).
const TICKS: f64 = 100.0;

/// Seconds of processor time and the peak of resident memory in MiB, of this process.
pub fn own() -> anyhow::Result<(f64, f64)> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no peak of resident memory")?;
    let kib: f64 = peak.trim().trim_end_matches("kB").trim().parse()?;
    Ok((cpu_s(&std::fs::read_to_string("/proc/self/stat")?, 13)?, kib / 1024.0))
}

/// Seconds of processor time that a process has used so far.
pub fn of(pid: u32) -> anyhow::Result<f64> {
    cpu_s(&std::fs::read_to_string(format!("/proc/{pid}/stat"))?, 13)
}

/// The processor time in `stat`, beginning with that field, counted from 0.
fn cpu_s(stat: &str, first: usize) -> anyhow::Result<f64> {
    // The name in the second field may hold anything, spaces too.
    let (_, rest) = stat.rsplit_once(')').context("not a line of /proc")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |field: usize| -> anyhow::Result<f64> { Ok(fields.get(field - 2).context("too few fields")?.parse()?) };
    Ok((ticks(first)? + ticks(first + 1)?) / TICKS)
}

/// Waits for a child, and tells the processor time that it and its children used, in seconds.
pub fn wait(child: &mut Child) -> anyhow::Result<(ExitStatus, f64)> {
    let waited_for = || cpu_s(&std::fs::read_to_string("/proc/self/stat")?, 15);
    let before = waited_for()?;
    let status = child.wait()?;
    Ok((status, waited_for()? - before))
}
