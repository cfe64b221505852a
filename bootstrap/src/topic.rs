//! The gossip topics of a network: one for control, 16 for batches.

use barnraiser_protocol::id::NetworkId;
use libp2p::gossipsub::{IdentTopic, TopicHash};

/// How many batch topics a network has.
pub const BATCH_TOPICS: u8 = 16;

/// A topic of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// What every member must hear: batches, standing records, metadata. Joining a network subscribes to it.
    Control,
    /// What concerns the batches whose hash falls on this number, below [`BATCH_TOPICS`] (others are taken modulo).
    Batch(u8),
}

impl Topic {
    /// All topics of a network.
    pub fn all() -> impl Iterator<Item = Self> {
        std::iter::once(Self::Control).chain((0..BATCH_TOPICS).map(Self::Batch))
    }

    pub(crate) fn of(self, network: &NetworkId) -> IdentTopic {
        IdentTopic::new(match self {
            Self::Control => format!("barn/{network}/control"),
            Self::Batch(number) => format!("barn/{network}/batch/{}", number % BATCH_TOPICS),
        })
    }

    /// The network and topic that a name on the wire stands for.
    pub(crate) fn parse(name: &TopicHash) -> Option<(NetworkId, Self)> {
        let mut parts = name.as_str().strip_prefix("barn/")?.split('/');
        let network = parts.next()?.parse().ok()?;
        let topic = match (parts.next()?, parts.next()) {
            ("control", None) => Self::Control,
            ("batch", Some(number)) => Self::Batch(number.parse().ok().filter(|n| *n < BATCH_TOPICS)?),
            _ => return None,
        };
        (parts.next().is_none() && topic.of(&network).hash() == *name).then_some((network, topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_names_have_one_spelling() {
        let network = NetworkId([171; 32]);
        for topic in Topic::all() {
            assert_eq!(Topic::parse(&topic.of(&network).hash()), Some((network, topic)));
        }
        let hex = network.to_string();
        for bad in [
            format!("barn/{hex}/batch/16"),
            format!("barn/{hex}/batch/01"),
            format!("barn/{hex}/control/"),
            format!("barn/{}/control", hex.to_uppercase()),
            "barn/12/control".into(),
        ] {
            assert_eq!(Topic::parse(&TopicHash::from_raw(bad.clone())), None, "{bad}");
        }
    }
}
