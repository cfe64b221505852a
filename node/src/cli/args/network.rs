//! `barn network`, `barn channel`, `barn leave`.

use std::path::PathBuf;
use std::time::Duration;

use barnraiser_protocol::id::OperatorId;
use barnraiser_protocol::trust::keys::MaintainerCard;
use clap::{Args, Subcommand};

use super::duration;

/// `barn network …`
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Make a network: at once when alone, as a proposal when several maintainers sign
    Create(CreateArgs),
    /// Put carried signatures on a proposal: a network opens, or its rules change
    Open(OpenArgs),
    /// Print the ticket with which others join and fetch; it vouches for nobody
    Ticket(TicketArgs),
    /// Vouch for an operator; without OPERATOR, print a ticket that vouches for who holds it
    Invite(InviteArgs),
    /// Trust an operator: it may settle disputes, and its results make releases acceptable
    Trust(TrustArgs),
    /// Give an operator a right
    Grant(GrantArgs),
    /// Change how much agreement a result needs
    Policy(PolicyArgs),
    /// Rules and members
    Show,
}

/// `barn channel …`. A network has one policy, which holds for all of its channels.
#[derive(Debug, Subcommand)]
pub enum ChannelCommand {
    /// Add a channel
    Create {
        /// Its name
        name: String,
        /// How to sign it
        #[command(flatten)]
        way: SigningWay,
    },
    /// Change how much agreement a result needs; the policy is the network's, so it changes for all channels
    Policy {
        /// The channel
        name: String,
        /// `solo`, `small`, or a JSON file
        policy: String,
        /// How to sign it
        #[command(flatten)]
        way: SigningWay,
    },
    /// List the channels
    Ls,
}

/// `barn network create`
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Its name: letters, digits, - and _
    pub name: String,
    /// `solo`, `small`, or a JSON file
    #[arg(long, default_value = "solo")]
    pub policy: String,
    /// The card of a maintainer (`barn key show`); give it once for each
    #[arg(long, value_name = "CARD", requires = "output")]
    pub maintainer: Vec<MaintainerCard>,
    /// How many of the maintainers must sign [default: all]
    #[arg(long, value_name = "M", requires = "maintainer")]
    pub threshold: Option<u32>,
    /// Where the proposal goes, to be signed by the maintainers and then opened
    #[arg(short, long, value_name = "PROPOSAL", requires = "maintainer")]
    pub output: Option<PathBuf>,
    /// A founding operator, beside those that the cards name
    #[arg(long, value_name = "OPERATOR")]
    pub founder: Vec<OperatorId>,
    /// A channel [default: nightly and stable]
    #[arg(long, value_name = "NAME")]
    pub channel: Vec<String>,
    /// A node that newcomers ask first; kept in this home and put into tickets
    #[arg(long, value_name = "MULTIADDR")]
    pub bootstrap: Vec<String>,
    /// How long a lease lasts without being renewed, in seconds
    #[arg(long, value_name = "SECONDS")]
    pub lease_ttl: Option<u32>,
    /// How far clocks may differ, in seconds
    #[arg(long, value_name = "SECONDS")]
    pub clock_difference: Option<u32>,
}

/// `barn network open`
#[derive(Debug, Args)]
pub struct OpenArgs {
    /// The proposal
    pub proposal: PathBuf,
    /// What `barn sign` wrote
    #[arg(required = true, value_name = "SIG")]
    pub signatures: Vec<PathBuf>,
    /// A node to ask first, for a new network
    #[arg(long, value_name = "MULTIADDR")]
    pub bootstrap: Vec<String>,
}

/// `barn network ticket`
#[derive(Debug, Args)]
pub struct TicketArgs {
    /// A node to ask first [default: those that this home has for the network, and the running node's own]
    #[arg(long, value_name = "MULTIADDR")]
    pub bootstrap: Vec<String>,
}

/// `barn network invite`
#[derive(Debug, Args)]
pub struct InviteArgs {
    /// The operator (`barn id` on its machine); without it, a ticket is printed
    pub operator: Option<OperatorId>,
    /// How many operators may use the ticket
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub uses: u16,
    /// Until when it can be used, from now on
    #[arg(long, value_name = "TIME", default_value = "14 d", value_parser = duration)]
    pub expires: Duration,
    /// A node to ask first, put into the ticket
    #[arg(long, value_name = "MULTIADDR")]
    pub bootstrap: Vec<String>,
}

/// How a change of the rules gets signed.
#[derive(Debug, Clone, Default, Args)]
pub struct SigningWay {
    /// Sign with this key and put the change into force; enough where one maintainer's signature is [default: the key
    /// that `network create` made here]
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    pub key: Option<PathBuf>,
    /// Write a proposal, to be signed by the maintainers and then opened
    #[arg(short, long, value_name = "PROPOSAL")]
    pub output: Option<PathBuf>,
}

/// `barn network trust`
#[derive(Debug, Args)]
pub struct TrustArgs {
    /// The operator
    pub operator: OperatorId,
    /// Trust it no longer
    #[arg(long)]
    pub revoke: bool,
    /// How to sign it
    #[command(flatten)]
    pub way: SigningWay,
}

/// `barn network grant`
#[derive(Debug, Args)]
pub struct GrantArgs {
    /// The operator
    pub operator: OperatorId,
    /// The right
    #[arg(value_enum)]
    pub right: GrantRight,
    /// The channel
    #[arg(long)]
    pub channel: String,
    /// Take it back
    #[arg(long)]
    pub revoke: bool,
    /// How to sign it
    #[command(flatten)]
    pub way: SigningWay,
}

/// What can be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum GrantRight {
    /// To submit batches to a channel
    Submit,
}

/// `barn network policy`
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// `solo`, `small`, or a JSON file
    pub policy: String,
    /// How to sign it
    #[command(flatten)]
    pub way: SigningWay,
}

/// `barn leave`
#[derive(Debug, Args)]
pub struct LeaveArgs {
    /// Its name, or the beginning of its id
    #[arg(value_name = "NETWORK")]
    pub name: String,
}
