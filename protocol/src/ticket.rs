//! Tickets: all that a newcomer needs to find a network and be let in, in one word; and what `barn fetch` takes.
//!
//! A ticket holds the network's id and name, addresses of nodes to ask first, and perhaps an invitation with the secret
//! that redeems it. It holds no other trust: whatever those addresses answer is checked against the network's id.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::bounded::{BoundedBytes, BoundedString, BoundedVec, TooLong};
use crate::codec::{self, DecodeError};
use crate::id::{BlobHash, NetworkId, OperatorId, RecordId};
use crate::keys::SecretKey;
use crate::record::payload::{BearerProof, ChannelName, Invitation, Invitee, bearer_message};
use crate::record::{AuthorError, Payload, Record, RecordError, SharedRecord};
use crate::time::Timestamp;
use crate::trust::ArmourError;
use crate::trust::armour;
use crate::trust::name::{NETWORK_NAME_MAX, NameError, NetworkName, TargetName, channel_name};

/// The most addresses in a ticket.
pub const BOOTSTRAP_MAX: usize = 8;
/// The most bytes of an invitation record in a ticket.
const INVITATION_BYTES_MAX: usize = 1024;
/// The most bytes of a ticket, before base32.
const TICKET_BYTES_MAX: usize = 4096;
/// The most characters of a ticket that are read.
const TICKET_CHARACTERS_MAX: usize = 8192;

const STEM: &str = "barn";
const PREFIX: &str = "barn1";
/// In front of links that hold a ticket.
const LINK_PREFIX: &str = "barn:";

/// A node's address as text (a multiaddr): this crate does not know transports.
pub type Address = BoundedString<256>;

/// The contents, as they are encoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Body {
    network: NetworkId,
    name: BoundedString<64>,
    bootstrap: BoundedVec<Address, BOOTSTRAP_MAX>,
    vouch: Option<VouchBody>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct VouchBody {
    secret: [u8; 32],
    record: BoundedBytes<INVITATION_BYTES_MAX>,
}

/// An invitation and the secret that redeems it. Whoever has it can join as a guest of the inviter.
#[derive(Clone)]
pub struct Vouch {
    secret: SecretKey,
    invitation: SharedRecord,
}

impl Vouch {
    /// Writes an invitation for whoever holds the ticket: `uses` operators, whose certificates are issued before `until`.
    ///
    /// # Errors
    /// [`AuthorError`]; never, since an invitation is small.
    pub fn author(
        inviter: &SecretKey,
        network: NetworkId,
        sequence: u64,
        now: Timestamp,
        until: Timestamp,
        uses: u16,
        seed: &[u8; 32],
    ) -> Result<Self, AuthorError> {
        let secret = SecretKey::from_seed(seed);
        let invitee = Invitee::Bearer { key: secret.public(), uses };
        let payload = Payload::Invitation(Invitation { invitee, until });
        // The record outlives its use: members must be able to check for ever that a guest was invited.
        let invitation = Record::author(inviter, network, sequence, now, Timestamp::MAX, payload)?;
        Ok(Self { secret, invitation })
    }

    /// The invitation. It must be published, or handed over by the newcomer, before it counts.
    pub const fn invitation(&self) -> &SharedRecord {
        &self.invitation
    }

    /// Who vouches.
    pub fn inviter(&self) -> OperatorId {
        OperatorId(self.invitation.author_key())
    }

    /// Until when it can be used.
    pub fn until(&self) -> Timestamp {
        match self.invitation.payload() {
            Payload::Invitation(invitation) => invitation.until,
            // Neither `author` nor `read` makes one of another type.
            _ => Timestamp(0),
        }
    }

    /// The proof for the certificate of the operator that joins.
    pub fn proof(&self, operator: &OperatorId) -> BearerProof {
        let invitation: RecordId = self.invitation.id();
        BearerProof { invitation, signature: self.secret.sign(&bearer_message(&invitation, operator)) }
    }

    fn read(body: &VouchBody, network: NetworkId) -> Result<Self, TicketError> {
        let invitation = Record::open(&body.record, network).map_err(TicketError::Invitation)?;
        let secret = SecretKey::from_seed(&body.secret);
        match invitation.payload() {
            Payload::Invitation(Invitation { invitee: Invitee::Bearer { key, .. }, .. }) if *key == secret.public() => {
                Ok(Self { secret, invitation })
            }
            _ => Err(TicketError::OtherInvitation),
        }
    }
}

impl fmt::Debug for Vouch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vouch(invitation {}, secret)", self.invitation.id().short())
    }
}

impl PartialEq for Vouch {
    fn eq(&self, other: &Self) -> bool {
        self.secret.public() == other.secret.public() && self.invitation == other.invitation
    }
}

impl Eq for Vouch {}

/// One word with which to join a network, or to fetch from it. Prints as `barn1…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    network: NetworkId,
    name: NetworkName,
    bootstrap: BoundedVec<Address, BOOTSTRAP_MAX>,
    vouch: Option<Vouch>,
}

/// Why a word is not a ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Something else.
    #[error("this is not a ticket: a word that begins with \"barn1\" is wanted")]
    NotATicket,
    /// A maintainer's card.
    #[error("this is a maintainer's public card, not a ticket; `barn network create --maintainer` takes it")]
    Card,
    /// Of a later format.
    #[error("this ticket is of a newer format; a newer version of Barnraiser reads it")]
    Newer,
    /// Cut off or mistyped.
    #[error("this ticket can't be read: {0}")]
    Unreadable(#[from] ArmourError),
    /// Longer than any ticket.
    #[error("{0} characters are more than a ticket has")]
    TooLong(usize),
    /// Well copied, but not what a ticket is.
    #[error("this ticket was made wrongly: {0}; ask for another one")]
    Malformed(#[from] DecodeError),
    /// Its network's name can't be used.
    #[error("this ticket was made wrongly: {0}; ask for another one")]
    Name(#[from] NameError),
    /// Its invitation is forged, damaged, or of another network.
    #[error("the invitation in this ticket is not valid: {0}; ask for another one")]
    Invitation(RecordError),
    /// Its secret does not belong to its invitation.
    #[error("the secret in this ticket does not belong to its invitation; ask for another one")]
    OtherInvitation,
}

impl Ticket {
    /// A ticket of a network.
    ///
    /// # Errors
    /// [`TooLong`] for more than [`BOOTSTRAP_MAX`] addresses or one of more than 256 bytes.
    pub fn new(
        network: NetworkId,
        name: NetworkName,
        bootstrap: impl IntoIterator<Item = String>,
        vouch: Option<Vouch>,
    ) -> Result<Self, TooLong> {
        let bootstrap = bootstrap.into_iter().map(Address::try_from).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { network, name, bootstrap: BoundedVec::try_from(bootstrap)?, vouch })
    }

    /// The network's id.
    pub const fn network(&self) -> NetworkId {
        self.network
    }
    /// The network's name, as the ticket says it; the charter says it bindingly.
    pub const fn name(&self) -> &NetworkName {
        &self.name
    }
    /// Addresses to ask first, as multiaddr texts, unchecked.
    pub fn bootstrap(&self) -> &[Address] {
        &self.bootstrap
    }
    /// The invitation, where the ticket vouches for its holder.
    pub const fn vouch(&self) -> Option<&Vouch> {
        self.vouch.as_ref()
    }

    /// The ticket in `word`. Blanks around it are passed over.
    ///
    /// # Errors
    /// [`TicketError`].
    pub fn parse(word: &str) -> Result<Self, TicketError> {
        let word = word.trim();
        if word.len() > TICKET_CHARACTERS_MAX {
            return Err(TicketError::TooLong(word.len()));
        }
        let lower = word.to_ascii_lowercase();
        let rest = lower.strip_prefix(STEM).ok_or(TicketError::NotATicket)?;
        if rest.starts_with("key") {
            return Err(TicketError::Card);
        }
        let Some(rest) = rest.strip_prefix('1') else {
            let newer = rest.starts_with(|c: char| c.is_ascii_digit());
            return Err(if newer { TicketError::Newer } else { TicketError::NotATicket });
        };
        let bytes = armour::parse(PREFIX, rest)?;
        let body: Body = codec::decode(&bytes, TICKET_BYTES_MAX)?;
        let vouch = body.vouch.map(|vouch| Vouch::read(&vouch, body.network)).transpose()?;
        Ok(Self { network: body.network, name: body.name.parse()?, bootstrap: body.bootstrap, vouch })
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vouch = match &self.vouch {
            Some(vouch) => Some(VouchBody {
                secret: vouch.secret.seed(),
                // An invitation has some 300 bytes; one that was read was bounded.
                record: BoundedBytes::try_from(vouch.invitation.bytes().to_vec()).map_err(|_| fmt::Error)?,
            }),
            None => None,
        };
        let name = BoundedString::cut(&self.name);
        let body = Body { network: self.network, name, bootstrap: self.bootstrap.clone(), vouch };
        f.write_str(&armour::print(PREFIX, &codec::encode(&body)))
    }
}

impl FromStr for Ticket {
    type Err = TicketError;
    fn from_str(word: &str) -> Result<Self, TicketError> {
        Self::parse(word)
    }
}

/// What is wanted of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A blob by its hash.
    Blob(BlobHash),
    /// The newest release's file of that name.
    Release {
        /// The channel.
        channel: ChannelName,
        /// The file.
        name: TargetName,
    },
}

/// What `barn fetch` takes: `HASH`, `[NETWORK/]CHANNEL/NAME`, or `barn:TICKET/CHANNEL/NAME` (also `barn:TICKET/HASH`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchTarget {
    /// Where to ask, where the link says so.
    pub ticket: Option<Ticket>,
    /// The name or id of a network that this home is a member of, where it is given.
    pub network: Option<String>,
    /// What to fetch.
    pub wanted: Wanted,
}

/// Why a text says nothing that can be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchTargetError {
    /// Not of any of the forms.
    #[error("{0:?} can't be fetched: a hash (64 hexadecimal digits), [NETWORK/]CHANNEL/NAME or barn:TICKET/CHANNEL/NAME is wanted")]
    Form(String),
    /// A channel's, file's or network's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The ticket of a link.
    #[error("the ticket of the link: {0}")]
    Ticket(#[from] TicketError),
}

impl FromStr for FetchTarget {
    type Err = FetchTargetError;
    fn from_str(text: &str) -> Result<Self, FetchTargetError> {
        let form = || FetchTargetError::Form(text.chars().take(80).collect());
        let release = |channel: &str, name: &str| -> Result<Wanted, NameError> {
            Ok(Wanted::Release { channel: channel_name(channel)?, name: name.parse()? })
        };
        let text = text.trim();
        let (ticket, rest) = match text.strip_prefix(LINK_PREFIX) {
            Some(rest) => {
                let (ticket, rest) = rest.split_once('/').ok_or_else(form)?;
                (Some(Ticket::parse(ticket)?), rest)
            }
            // A ticket whose `barn:` was left out is longer than any name, and the form is what is wrong with it.
            None if text.starts_with("barn1") && text.find('/').is_some_and(|end| end > NETWORK_NAME_MAX) => return Err(form()),
            None => (None, text),
        };
        let parts: Vec<&str> = rest.splitn(4, '/').collect();
        let (network, wanted) = match parts[..] {
            [hash] => (None, Wanted::Blob(hash.parse().map_err(|_| form())?)),
            [channel, name] => (None, release(channel, name)?),
            // A link's ticket names the network already.
            [network, channel, name] if ticket.is_none() => {
                if network.parse::<NetworkId>().is_err() {
                    network.parse::<NetworkName>()?;
                }
                (Some(network.to_owned()), release(channel, name)?)
            }
            _ => return Err(form()),
        };
        Ok(Self { ticket, network, wanted })
    }
}

#[cfg(test)]
mod tests;
