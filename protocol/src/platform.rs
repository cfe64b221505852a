//! What a machine is, and whether it is what an environment asks for.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::action::Environment;
use crate::bounded::{BoundedString, BoundedVec};
use crate::record::payload::Presence;

/// Facts about a machine that decide which actions it can build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Operating system, as Rust's `std::env::consts::OS` spells it.
    pub os: String,
    /// Architecture, as Rust's `std::env::consts::ARCH` spells it.
    pub arch: String,
    /// ISA level, for example `x86-64-v3`; empty where the architecture has none.
    pub isa: String,
    /// What the machine has beside, for example `device:rpi4`.
    pub features: BTreeSet<String>,
}

impl Facts {
    /// What `environment` asks for and this machine is not, in words; `None` where it fits.
    pub fn unmet(&self, environment: &Environment) -> Option<String> {
        if !environment.os.is_empty() && environment.os != self.os {
            return Some(format!("wants the system {}, this is {}", environment.os, self.os));
        }
        if !environment.arch.is_empty() && !environment.arch.contains(&self.arch) {
            let wanted: Vec<&str> = environment.arch.iter().map(String::as_str).collect();
            return Some(format!("wants the architecture {}, this is {}", wanted.join(" or "), self.arch));
        }
        if !isa_covers(&self.isa, &environment.isa) {
            return Some(format!("wants the ISA level {}, this is {}", environment.isa, self.isa));
        }
        let missing = environment.features.iter().find(|feature| !self.features.contains(*feature))?;
        Some(format!("wants {missing}, which this machine does not have"))
    }

    /// Whether the machine that a Presence tells of is what `environment` asks for: [`Facts::unmet`] without the words,
    /// for those who ask it of ten thousand machines.
    pub fn met_by(presence: &Presence, environment: &Environment) -> bool {
        (environment.os.is_empty() || environment.os == *presence.os)
            && (environment.arch.is_empty() || environment.arch.contains(&*presence.arch))
            && isa_covers(&presence.isa, &environment.isa)
            && environment.features.iter().all(|wanted| presence.features.iter().any(|has| **has == **wanted))
    }

    /// The features as a Presence carries them; what does not fit is left out.
    pub fn features_bounded(&self) -> BoundedVec<BoundedString<32>, 16> {
        let features: Vec<_> = self.features.iter().filter_map(|f| f.as_str().try_into().ok()).take(16).collect();
        features.try_into().unwrap_or_default()
    }
}

/// Whether a machine of level `have` runs code for level `want`. Levels are `FAMILY` or `FAMILY-vN` (the x86-64 psABI's
/// and, likewise, others'); a family without a version is level 1.
pub fn isa_covers(have: &str, want: &str) -> bool {
    fn split(level: &str) -> (&str, u32) {
        match level.rsplit_once("-v") {
            Some((family, version)) => (family, version.parse().unwrap_or(u32::MAX)),
            None => (level, 1),
        }
    }
    if want.is_empty() {
        return true;
    }
    let ((have_family, have), (want_family, want)) = (split(have), split(want));
    have_family == want_family && have >= want && want != u32::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways to ask give one answer.
    #[test]
    fn machine_is_judged_alike_by_its_facts_and_by_its_presence() {
        let texts = |texts: &[&str]| -> BTreeSet<String> { texts.iter().map(ToString::to_string).collect() };
        let facts = Facts { os: "linux".into(), arch: "x86_64".into(), isa: "x86-64-v2".into(), features: texts(&["device:rpi4"]) };
        let presence = Presence {
            accepting: true,
            arbiter_only: false,
            free_cores: 1,
            cores: 1,
            free_memory_mib: 1,
            os: BoundedString::cut(&facts.os),
            arch: BoundedString::cut(&facts.arch),
            isa: BoundedString::cut(&facts.isa),
            features: facts.features_bounded(),
        };
        for os in ["", "linux", "netbsd"] {
            for arch in [texts(&[]), texts(&["aarch64", "x86_64"]), texts(&["m68k"])] {
                for isa in ["", "x86-64-v2", "x86-64-v3"] {
                    for features in [texts(&[]), texts(&["device:rpi4"]), texts(&["device:rpi4", "gpu"])] {
                        let environment = Environment {
                            rootfs: crate::action::Rootfs::Host,
                            os: os.into(),
                            arch: arch.clone(),
                            isa: isa.into(),
                            features,
                            programs: BTreeSet::new(),
                        };
                        assert_eq!(Facts::met_by(&presence, &environment), facts.unmet(&environment).is_none(), "{environment:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn higher_isa_level_covers_a_lower_one_of_its_family() {
        assert!(isa_covers("x86-64-v3", "x86-64-v2"));
        assert!(isa_covers("x86-64", "x86-64"));
        assert!(isa_covers("", ""));
        assert!(!isa_covers("x86-64-v2", "x86-64-v3"));
        assert!(!isa_covers("armv8-v9", "x86-64-v2"));
        assert!(!isa_covers("x86-64-v3", "x86-64-vX"));
    }
}
