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

    /// The facts that a Presence tells.
    pub fn of_presence(presence: &Presence) -> Self {
        Self {
            os: presence.os.to_string(),
            arch: presence.arch.to_string(),
            isa: presence.isa.to_string(),
            features: presence.features.iter().map(ToString::to_string).collect(),
        }
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
