//! Keys in files and on paper: the maintainers' signing keys (apart from operator keys), and the file form of all three.
//!
//! A signing key file holds one 32-byte seed. The keys of the TUF roles are derived from it, so that each role has a
//! key of its own and there is one thing to keep safe. The public half is a [`MaintainerCard`], one word.

use std::fmt;
use std::str::FromStr;

use super::armour::{self, ArmourError};
use super::tuf::PublicKey;
use crate::id::OperatorId;
use crate::keys::SecretKey;

/// The most bytes of a key file that are read.
pub const KEY_FILE_BYTES_MAX: usize = 4096;

/// What a secret key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyKind {
    /// Signs roots, rules and releases; a maintainer's.
    Signing,
    /// Stands behind nodes; votes count by it.
    Operator,
    /// A node's own.
    Node,
}

impl KeyKind {
    const ALL: [Self; 3] = [Self::Signing, Self::Operator, Self::Node];

    /// In front of the version in a key file.
    const fn stem(self) -> &'static str {
        match self {
            Self::Signing => "barnraiser-signing-key-",
            Self::Operator => "barnraiser-operator-key-",
            Self::Node => "barnraiser-node-key-",
        }
    }

    /// In front of the key in a key file.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Signing => "barnraiser-signing-key-1:",
            Self::Operator => "barnraiser-operator-key-1:",
            Self::Node => "barnraiser-node-key-1:",
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signing => "signing key",
            Self::Operator => "operator key",
            Self::Node => "node key",
        })
    }
}

/// Why a file is not the key that was wanted. None of the messages repeats what stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// No line of it is a key.
    #[error("there is no Barnraiser key in it; a line that begins with {:?} is wanted", .wanted.prefix())]
    NoKey {
        /// The wanted kind.
        wanted: KeyKind,
    },
    /// A key for something else.
    #[error("it holds the {found}, the {wanted} is wanted")]
    WrongKind {
        /// The wanted kind.
        wanted: KeyKind,
        /// The kind in the file.
        found: KeyKind,
    },
    /// A card: the public half.
    #[error("it holds a maintainer's public card, the secret {wanted} is wanted")]
    PublicCard {
        /// The wanted kind.
        wanted: KeyKind,
    },
    /// Of a later format.
    #[error("its {kind} is of a newer format than this version of Barnraiser reads")]
    Newer {
        /// The kind in the file.
        kind: KeyKind,
    },
    /// More than one line that is not a comment.
    #[error("it holds more than one key; one is wanted")]
    Several,
    /// More than [`KEY_FILE_BYTES_MAX`] bytes.
    #[error("it has {0} bytes, more than a key file can have")]
    TooLarge(usize),
    /// Cut off or mistyped.
    #[error("the {kind} in it can't be read: {error}")]
    Unreadable {
        /// The kind in the file.
        kind: KeyKind,
        /// What is wrong.
        error: ArmourError,
    },
}

/// The text of a key file.
pub fn print_key_file(kind: KeyKind, key: &SecretKey) -> String {
    let (public, note) = match kind {
        KeyKind::Signing => (
            format!("public card: {}", SigningKey::from_secret(key.clone()).card(None)),
            "Whoever has this file can sign for its maintainer. Keep it off the machines that build.",
        ),
        KeyKind::Operator => {
            (format!("operator id: {}", key.operator()), "Whoever has this file can speak for this operator: add nodes, invite, withdraw.")
        }
        KeyKind::Node => (format!("node id: {}", key.node()), "It stays on this machine; a new node makes its own."),
    };
    format!("# Barnraiser {kind}. SECRET.\n# {note}\n# {public}\n{}\n", armour::print(kind.prefix(), &key.seed()))
}

/// The key of the wanted kind in the text of a key file. Lines that are empty or begin with `#` are passed over.
///
/// # Errors
/// [`KeyFileError`].
pub fn parse_key_file(wanted: KeyKind, text: &str) -> Result<SecretKey, KeyFileError> {
    if text.len() > KEY_FILE_BYTES_MAX {
        return Err(KeyFileError::TooLarge(text.len()));
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let line = lines.next().ok_or(KeyFileError::NoKey { wanted })?;
    if lines.next().is_some() {
        return Err(KeyFileError::Several);
    }
    if line.starts_with(MaintainerCard::PREFIX) {
        return Err(KeyFileError::PublicCard { wanted });
    }
    let found = KeyKind::ALL.into_iter().find(|kind| line.starts_with(kind.stem()));
    let found = found.ok_or(KeyFileError::NoKey { wanted })?;
    if found != wanted {
        return Err(KeyFileError::WrongKind { wanted, found });
    }
    let rest = line.strip_prefix(found.prefix()).ok_or(KeyFileError::Newer { kind: found })?;
    let unreadable = |error| KeyFileError::Unreadable { kind: found, error };
    let seed = armour::parse(found.prefix(), rest).map_err(unreadable)?;
    let seed: [u8; 32] = seed.try_into().map_err(|_| unreadable(ArmourError::Damaged))?;
    Ok(SecretKey::from_seed(&seed))
}

/// What a maintainer's key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SigningRole {
    /// The root: which keys count at all.
    Root,
    /// The rules: policy, grants and channels.
    Targets,
    /// Releases of channels.
    Release,
}

impl SigningRole {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Root, Self::Targets, Self::Release];
}

/// A maintainer's secret: one seed, and the keys of the roles that are derived from it.
#[derive(Debug, Clone)]
pub struct SigningKey {
    seed: SecretKey,
    root: SecretKey,
    targets: SecretKey,
    release: SecretKey,
}

impl SigningKey {
    /// The key that 32 secret bytes stand for.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self::from_secret(SecretKey::from_seed(seed))
    }

    fn from_secret(seed: SecretKey) -> Self {
        Self {
            root: seed.derive("barnraiser 2026 root role"),
            targets: seed.derive("barnraiser 2026 targets role"),
            release: seed.derive("barnraiser 2026 release role"),
            seed,
        }
    }

    /// The key in the text of a key file.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        parse_key_file(KeyKind::Signing, text).map(Self::from_secret)
    }

    /// The text of its key file.
    pub fn to_file(&self) -> String {
        print_key_file(KeyKind::Signing, &self.seed)
    }

    /// The key of a role.
    pub const fn role(&self, role: SigningRole) -> &SecretKey {
        match role {
            SigningRole::Root => &self.root,
            SigningRole::Targets => &self.targets,
            SigningRole::Release => &self.release,
        }
    }

    /// The public half, with the maintainer's operator where it is to be a founder.
    pub fn card(&self, founder: Option<OperatorId>) -> MaintainerCard {
        MaintainerCard {
            root: PublicKey::of(&self.root),
            targets: PublicKey::of(&self.targets),
            release: PublicKey::of(&self.release),
            founder,
        }
    }
}

/// The keys that a running node of the maintainers signs with every day: which versions are newest, and that it is
/// alive. Derived from an operator's key, since the machine that runs has that one.
#[derive(Debug, Clone)]
pub struct NotaryKeys {
    /// Signs snapshots.
    pub snapshot: SecretKey,
    /// Signs timestamps.
    pub timestamp: SecretKey,
}

impl NotaryKeys {
    /// Those of the holder of `operator`.
    pub fn of(operator: &SecretKey) -> Self {
        Self { snapshot: operator.derive("barnraiser 2026 snapshot role"), timestamp: operator.derive("barnraiser 2026 timestamp role") }
    }
}

/// What a maintainer gives to the others: the public keys of the roles. One word, `barnkey1…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MaintainerCard {
    /// Signs roots.
    pub root: PublicKey,
    /// Signs the rules.
    pub targets: PublicKey,
    /// Signs releases.
    pub release: PublicKey,
    /// The maintainer's operator, where it is to be a founder of the network.
    pub founder: Option<OperatorId>,
}

/// Why a word is not a maintainer's card.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    /// Something else.
    #[error("this is not a maintainer's public card: a word that begins with \"barnkey1\" is wanted")]
    NotACard,
    /// A secret was given where the public half is wanted.
    #[error("this is a SECRET {0}; give the others its public card instead (the line \"public card\" of the file)")]
    Secret(KeyKind),
    /// Of a later format.
    #[error("this card is of a newer format than this version of Barnraiser reads")]
    Newer,
    /// Cut off or mistyped.
    #[error("this card can't be read: {0}")]
    Unreadable(#[from] ArmourError),
    /// A key in it is none.
    #[error("the {0} key in this card is not an ed25519 public key")]
    BadKey(&'static str),
}

impl MaintainerCard {
    const STEM: &'static str = "barnkey";
    const PREFIX: &'static str = "barnkey1";

    fn keys_from(bytes: &[u8; 96], founder: Option<OperatorId>) -> Result<Self, CardError> {
        let key = |at: usize, what| {
            let mut key = [0; 32];
            key.copy_from_slice(&bytes[at..at + 32]);
            PublicKey::from_bytes(key).map_err(|_| CardError::BadKey(what))
        };
        Ok(Self { root: key(0, "root")?, targets: key(32, "targets")?, release: key(64, "release")?, founder })
    }
}

impl fmt::Display for MaintainerCard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [self.root.0, self.targets.0, self.release.0].concat();
        bytes.extend(self.founder.iter().flat_map(|founder| founder.0));
        f.write_str(&armour::print(Self::PREFIX, &bytes))
    }
}

impl FromStr for MaintainerCard {
    type Err = CardError;
    fn from_str(word: &str) -> Result<Self, CardError> {
        let word = word.trim();
        if let Some(kind) = KeyKind::ALL.into_iter().find(|kind| word.starts_with(kind.stem())) {
            return Err(CardError::Secret(kind));
        }
        let lower = word.to_ascii_lowercase();
        let Some(rest) = lower.strip_prefix(Self::PREFIX) else {
            let newer = lower.strip_prefix(Self::STEM).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            return Err(if newer { CardError::Newer } else { CardError::NotACard });
        };
        let bytes = armour::parse(Self::PREFIX, rest)?;
        let (keys, founder) = bytes.split_first_chunk::<96>().ok_or(ArmourError::Damaged)?;
        let founder = match founder {
            [] => None,
            id => Some(OperatorId(id.try_into().map_err(|_| ArmourError::Damaged)?)),
        };
        Self::keys_from(keys, founder)
    }
}

impl serde::Serialize for MaintainerCard {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for MaintainerCard {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = crate::bounded::BoundedString::<512>::deserialize(deserializer)?;
        word.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn key_files_survive_and_name_the_kind_that_they_are() {
        let key = SecretKey::from_seed(&[5; 32]);
        for wanted in KeyKind::ALL {
            for kind in KeyKind::ALL {
                let parsed = parse_key_file(wanted, &print_key_file(kind, &key));
                if kind == wanted {
                    assert_eq!(parsed.unwrap().seed(), key.seed());
                } else {
                    let error = parsed.unwrap_err();
                    assert_eq!(error, KeyFileError::WrongKind { wanted, found: kind });
                    assert!(error.to_string().contains(&kind.to_string()));
                }
            }
        }
    }

    #[test]
    fn broken_key_files_say_what_is_wrong_and_repeat_no_secret() {
        let text = print_key_file(KeyKind::Node, &SecretKey::from_seed(&[5; 32]));
        let line = text.lines().last().unwrap();
        let parse = |text: &str| parse_key_file(KeyKind::Node, text).unwrap_err();
        assert!(matches!(parse(""), KeyFileError::NoKey { .. }));
        assert!(matches!(parse("-----BEGIN PRIVATE KEY-----"), KeyFileError::NoKey { .. }));
        assert_eq!(parse(&format!("{line}\n{line}")), KeyFileError::Several);
        assert_eq!(parse(&" ".repeat(5000)), KeyFileError::TooLarge(5000));
        assert_eq!(parse(&line.replace("key-1:", "key-2:")), KeyFileError::Newer { kind: KeyKind::Node });
        let cut = parse(&line[..line.len() - 3]);
        assert!(matches!(cut, KeyFileError::Unreadable { error: ArmourError::Truncated { .. }, .. }), "{cut}");
        let secret = line.strip_prefix(KeyKind::Node.prefix()).unwrap();
        assert!(!cut.to_string().contains(&secret[..20]));
    }

    #[test]
    fn each_role_has_a_key_of_its_own() {
        let key = SigningKey::from_seed(&[1; 32]);
        let card = key.card(None);
        assert_ne!(card.root, card.targets);
        assert_ne!(card.targets, card.release);
        assert_ne!(card.release, card.root);
        assert_ne!(card.root.0, key.seed.public());
        assert_eq!(SigningKey::parse(&key.to_file()).unwrap().card(None), card);
    }

    #[test]
    fn cards_survive_and_broken_ones_say_what_is_wrong() {
        for founder in [None, Some(OperatorId([9; 32]))] {
            let card = SigningKey::from_seed(&[1; 32]).card(founder);
            let word = card.to_string();
            assert_eq!(word.parse(), Ok(card));
            assert_eq!(word.to_ascii_uppercase().parse(), Ok(card));
            let cut = word[..word.len() - 1].parse::<MaintainerCard>();
            assert!(matches!(cut, Err(CardError::Unreadable(ArmourError::Truncated { .. }))));
        }
        let secret = SigningKey::from_seed(&[1; 32]).to_file();
        let line = secret.lines().last().unwrap();
        assert_eq!(line.parse::<MaintainerCard>(), Err(CardError::Secret(KeyKind::Signing)));
        assert_eq!("barn1abc".parse::<MaintainerCard>(), Err(CardError::NotACard));
        assert_eq!("barnkey2abc".parse::<MaintainerCard>(), Err(CardError::Newer));
        let weak = armour::print(MaintainerCard::PREFIX, &[0; 96]);
        assert_eq!(weak.parse::<MaintainerCard>(), Err(CardError::BadKey("root")));
    }
}
