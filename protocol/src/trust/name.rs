//! Names that people give: of networks, channels and released files.
//!
//! All are plain ASCII without blanks: they are parts of paths and URLs, and canonical JSON would change other letters.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::record::payload::ChannelName;

/// The most characters of a network's name, fewer than a hash has.
pub const NETWORK_NAME_MAX: usize = 32;
/// The most characters of a released file's name, so that a channel and a hash in front of it still make a file name.
pub const TARGET_NAME_MAX: usize = 150;
/// Names that TUF uses itself.
const RESERVED: [&str; 4] = ["root", "targets", "snapshot", "timestamp"];

/// A name that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} can't be the name of a {what}: {rule}")]
pub struct NameError {
    /// What it would name.
    pub what: &'static str,
    /// The name, cut to 80 characters.
    pub name: String,
    /// What is allowed.
    pub rule: &'static str,
}

fn error(what: &'static str, name: &str, rule: &'static str) -> NameError {
    NameError { what, name: name.chars().take(80).collect(), rule }
}

/// A network's name: letters, digits, `-` and `_`, at most [`NETWORK_NAME_MAX`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct NetworkName(String);

/// The name of a released file within its channel: letters, digits and `._+~-`, at most [`TARGET_NAME_MAX`], beginning
/// with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct TargetName(String);

impl FromStr for NetworkName {
    type Err = NameError;
    fn from_str(name: &str) -> Result<Self, NameError> {
        let fits = name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.len() <= NETWORK_NAME_MAX
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        if !fits {
            return Err(error("network", name, "1 to 32 letters, digits, '-' and '_' are wanted, a letter or digit first"));
        }
        Ok(Self(name.to_owned()))
    }
}

impl FromStr for TargetName {
    type Err = NameError;
    fn from_str(name: &str) -> Result<Self, NameError> {
        let fits = name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.len() <= TARGET_NAME_MAX
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '~' | '-'));
        if !fits {
            return Err(error("released file", name, "1 to 150 letters, digits and '._+~-' are wanted, a letter or digit first"));
        }
        Ok(Self(name.to_owned()))
    }
}

/// The channel's name in `name`: lower-case letters, digits and `-`, at most 32, and none of TUF's own role names.
///
/// # Errors
/// [`NameError`].
pub fn channel_name(name: &str) -> Result<ChannelName, NameError> {
    let rule = "1 to 32 lower-case letters, digits and '-' are wanted, a letter first, and not root, targets, snapshot or timestamp";
    let fits = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !RESERVED.contains(&name);
    match ChannelName::try_from(name) {
        Ok(channel) if fits => Ok(channel),
        _ => Err(error("channel", name, rule)),
    }
}

macro_rules! text {
    ($name:ident) => {
        impl Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                // Bounded before it is copied; every name is shorter.
                let text = crate::bounded::BoundedString::<256>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

text!(NetworkName);
text!(TargetName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_a_path_or_change_in_canonical_json_are_refused() {
        for bad in ["", ".", "..", "../x", "a/b", "a b", "-a", ".a", "é", "a\n", "a!"] {
            assert!(bad.parse::<TargetName>().is_err(), "{bad:?}");
            assert!(bad.parse::<NetworkName>().is_err(), "{bad:?}");
            assert!(channel_name(bad).is_err(), "{bad:?}");
        }
        assert!("LE-RPi5_12.img.gz".parse::<TargetName>().is_ok());
        assert!("a".repeat(64).parse::<NetworkName>().is_err());
        assert!(channel_name("root").is_err() && channel_name("Nightly").is_err() && channel_name("a.b").is_err());
        assert!(channel_name("nightly").is_ok() && channel_name(&"a".repeat(33)).is_err());
    }
}
