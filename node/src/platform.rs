//! Facts about this machine: what it can build, and the fingerprint that stands in attestations.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use barnraiser_protocol::action::{Environment, Rootfs};
use barnraiser_protocol::bounded::BoundedString;
use barnraiser_protocol::platform::Facts;

use crate::builder::sandbox::{SANDBOX_PATH, find_program};

/// This machine, as far as builds can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// Operating system, as Rust spells it.
    pub os: String,
    /// Architecture, as Rust spells it.
    pub arch: String,
    /// ISA level, for example `x86-64-v3`; empty where none is known for the architecture.
    pub isa: String,
    /// What recipes may ask for, for example `device:rpi4`. The owner's own come on top.
    pub features: BTreeSet<String>,
    /// CPUs that this process may use.
    pub cores: u16,
    /// Main memory in bytes; 0 where the machine can't tell.
    pub memory: u64,
    fingerprint: String,
}

/// The levels of an architecture, least first; each includes those before it.
const X86_LEVELS: &[&str] = &["x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4"];
const ARM_LEVELS: &[&str] = &["armv8-a", "armv8.1-a", "armv8.2-a"];
const RISCV_LEVELS: &[&str] = &["rv64gc", "rv64gcv"];

impl Platform {
    /// The facts, found out at the first call (some 30 ms: the compiler is asked for its version) and remembered.
    pub fn this() -> &'static Self {
        static THIS: OnceLock<Platform> = OnceLock::new();
        THIS.get_or_init(Self::detect)
    }

    fn detect() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            isa: isa_level().to_owned(),
            features: features(),
            cores: u16::try_from(cores).unwrap_or(u16::MAX),
            memory: memory(),
            fingerprint: fingerprint(),
        }
    }

    /// Operating system, kernel, CPU and toolchain, cut to what an attestation holds.
    pub fn fingerprint(&self) -> BoundedString<256> {
        BoundedString::cut(&self.fingerprint)
    }

    /// What the network is told of this machine.
    pub fn facts(&self) -> Facts {
        Facts { os: self.os.clone(), arch: self.arch.clone(), isa: self.isa.clone(), features: self.features.clone() }
    }

    /// The names of all programs that a `host` build finds on its `PATH`, looked up now.
    pub fn programs(&self) -> BTreeSet<String> {
        let folders = SANDBOX_PATH.split(':').filter_map(|folder| fs::read_dir(folder).ok());
        let names = folders.flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| find_program(name, SANDBOX_PATH.as_ref()).is_some()).collect()
    }

    /// Whether an action with this environment can be built here.
    ///
    /// # Errors
    /// What is lacking, in words for the owner.
    pub fn matches(&self, environment: &Environment) -> Result<(), String> {
        if environment.os != self.os {
            return Err(format!("wants the operating system {}, this is {}", environment.os, self.os));
        }
        if !environment.arch.is_empty() && !environment.arch.contains(&self.arch) {
            let wanted: Vec<&str> = environment.arch.iter().map(String::as_str).collect();
            return Err(format!("wants the architecture {}, this is {}", wanted.join(" or "), self.arch));
        }
        if !self.has_isa(&environment.isa) {
            let here = if self.isa.is_empty() { "unknown" } else { &self.isa };
            return Err(format!("wants at least the ISA level {}, this CPU's is {here}", environment.isa));
        }
        if let Some(feature) = environment.features.iter().find(|feature| !self.features.contains(*feature)) {
            return Err(format!("wants {feature}, which this machine does not have"));
        }
        if environment.rootfs == Rootfs::Host
            && let Some(program) = environment.programs.iter().find(|program| find_program(program, SANDBOX_PATH.as_ref()).is_none())
        {
            return Err(format!("wants the program {program}, which is not installed (looked for in {SANDBOX_PATH})"));
        }
        Ok(())
    }

    fn has_isa(&self, wanted: &str) -> bool {
        if wanted.is_empty() || wanted == self.isa {
            return true;
        }
        [X86_LEVELS, ARM_LEVELS, RISCV_LEVELS].iter().any(|levels| {
            let place = |level: &str| levels.iter().position(|known| *known == level);
            matches!((place(wanted), place(&self.isa)), (Some(wanted), Some(here)) if wanted <= here)
        })
    }
}

#[cfg(target_arch = "x86_64")]
fn isa_level() -> &'static str {
    // The levels of the x86-64 psABI.
    macro_rules! all {
        ($($feature:tt)+) => { $(std::is_x86_feature_detected!($feature))&&+ };
    }
    if !all!("cmpxchg16b" "popcnt" "sse3" "ssse3" "sse4.1" "sse4.2") {
        X86_LEVELS[0]
    } else if !all!("avx" "avx2" "bmi1" "bmi2" "f16c" "fma" "lzcnt" "movbe" "xsave") {
        X86_LEVELS[1]
    } else if !all!("avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl") {
        X86_LEVELS[2]
    } else {
        X86_LEVELS[3]
    }
}

#[cfg(target_arch = "aarch64")]
fn isa_level() -> &'static str {
    let first = std::arch::is_aarch64_feature_detected!("lse") && std::arch::is_aarch64_feature_detected!("rdm");
    let second = first && std::arch::is_aarch64_feature_detected!("dpb");
    ARM_LEVELS[usize::from(first) + usize::from(second)]
}

#[cfg(target_arch = "riscv64")]
fn isa_level() -> &'static str {
    let isa = cpu_field("isa").unwrap_or_default();
    // `rv64imafdcv_zicsr…`: the letters before the first underscore.
    let letters = isa.split('_').next().unwrap_or("").trim_start_matches("rv64");
    RISCV_LEVELS[usize::from(letters.contains('v'))]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
fn isa_level() -> &'static str {
    ""
}

fn memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// Boards that recipes ask for by name, from the device tree's model.
fn features() -> BTreeSet<String> {
    const BOARDS: &[(&str, &str)] =
        &[("Raspberry Pi 3", "device:rpi3"), ("Raspberry Pi 4", "device:rpi4"), ("Raspberry Pi 5", "device:rpi5")];
    let model = fs::read_to_string("/proc/device-tree/model").unwrap_or_default();
    BOARDS.iter().filter(|(name, _)| model.starts_with(name)).map(|&(_, feature)| feature.to_owned()).collect()
}

fn cpu_field(field: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == field).then(|| value.trim().to_owned())
    })
}

fn fingerprint() -> String {
    let kernel = rustix::system::uname();
    let cpu = ["model name", "Model", "uarch", "cpu"].iter().find_map(|field| cpu_field(field));
    let parts = [
        Some(format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
        Some(kernel.release().to_string_lossy().into_owned()),
        cpu,
        first_line("cc"),
        first_line("ld"),
        first_line("ldd"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    parts.join("; ")
}

/// The first line of what `program --version` prints, with the PATH that builds have.
fn first_line(program: &str) -> Option<String> {
    let file = find_program(program, SANDBOX_PATH.as_ref())?;
    let mut command = Command::new(file);
    command.arg("--version").env("LC_ALL", "C").env("PATH", SANDBOX_PATH).stdin(Stdio::null());
    let output = command.output().ok()?;
    // musl's ldd speaks on standard error and calls that a failure.
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    let text = String::from_utf8_lossy(&text);
    text.lines().find(|line| !line.trim().is_empty()).map(|line| line.trim().chars().take(60).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn environment() -> Environment {
        Environment::host(std::env::consts::OS, [])
    }

    #[test]
    fn what_a_machine_lacks_is_named() {
        let here = Platform::this();
        here.matches(&environment()).unwrap();
        let lacking = |change: &dyn Fn(&mut Environment)| {
            let mut wanted = environment();
            change(&mut wanted);
            here.matches(&wanted).unwrap_err()
        };
        assert!(lacking(&|e| e.os = "netbsd".into()).contains("netbsd"));
        assert!(lacking(&|e| e.arch = ["m68k".into()].into()).contains("m68k"));
        assert!(lacking(&|e| e.isa = "x86-64-v9".into()).contains("v9"));
        assert!(lacking(&|e| e.features = ["device:toaster".into()].into()).contains("toaster"));
        assert!(lacking(&|e| e.programs = ["no-such-program".into()].into()).contains("no-such-program"));
    }

    #[test]
    fn a_level_includes_those_below_it() {
        let mut here = Platform::this().clone();
        here.isa = "x86-64-v3".into();
        assert!(here.has_isa("x86-64-v2") && here.has_isa("x86-64-v3") && here.has_isa(""));
        assert!(!here.has_isa("x86-64-v4") && !here.has_isa("armv8-a"));
    }

    #[test]
    fn fingerprint_names_kernel_and_fits() {
        let text = Platform::this().fingerprint();
        assert!(text.starts_with(std::env::consts::OS) && text.len() <= 256, "{text}");
    }
}
