//! Every command and option of `barn`, as clap types. What they do stands in the modules beside this one.

mod network;
mod online;
mod store;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use network::{
    ChannelCommand, CreateArgs, GrantArgs, GrantRight, InviteArgs, LeaveArgs, NetworkCommand, OpenArgs, PolicyArgs, SigningWay, TicketArgs,
    TrustArgs,
};
pub use online::{
    BatchArgs, CancelArgs, DemoArgs, FetchArgs, JobArgs, LogArgs, OnlineCommand, PauseArgs, ProposeArgs, PublishArgs, ReleaseOnline,
    ReleaseShowArgs, RetryArgs, RunArgs, SubmitArgs, WaitFor,
};
pub use store::{GcArgs, PinArgs, StoreAddArgs, StoreCommand, StoreGetArgs, StoreLsArgs, UnpinArgs};

/// Builds software together with people who need not trust each other.
#[derive(Debug, Parser)]
#[command(name = "barn", version, max_term_width = 110, propagate_version = false, disable_help_subcommand = true)]
#[command(after_help = "Exit codes: 0 done; 1 failed; 2 wrong usage or unreadable input; 3 not found; 4 verification failed; \
                        5 not allowed; 6 unreachable or timed out; 7 the job failed.")]
pub struct Cli {
    /// Options of all commands.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Whether standard output is for the bytes of a file: all else then goes to standard error.
    pub fn puts_bytes_out(&self) -> bool {
        let output = match &self.command {
            Command::Online(OnlineCommand::Fetch(args)) => &args.output,
            Command::Store(StoreCommand::Get(args)) => &args.output,
            _ => return false,
        };
        output.as_deref() == Some(std::path::Path::new("-"))
    }
}

/// The heading of options that every command takes: they would drown the command's own.
const GLOBAL: &str = "Options of all commands";

/// Options that every command takes.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// The folder of keys, settings and store [default: $BARN_HOME, else barnraiser in the XDG data folder]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Which network, where the home is a member of several: its name, or the beginning of its id
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "NAME")]
    pub network: Option<String>,
    /// Print one JSON document with `kind` and `version` (one a line where it streams)
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub json: bool,
    /// Print results only
    #[arg(short, long, global = true, help_heading = GLOBAL, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; twice, still more
    #[arg(short, long, global = true, help_heading = GLOBAL, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Colours
    #[arg(long, global = true, help_heading = GLOBAL, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColorWhen,
}

/// When output is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ColorWhen {
    /// Where a person watches and `NO_COLOR` is not set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The commands. Those of [`OnlineCommand`] talk to the node, or are it; all others work without one.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make keys and a commented barn.toml; never overwrites anything
    Init,
    /// What this machine can do, and what to mend
    Doctor,
    /// Signing and operator keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// A network's members and rules
    #[command(subcommand)]
    Network(NetworkCommand),
    /// A network's channels and policy
    #[command(subcommand)]
    Channel(ChannelCommand),
    /// The networks that this home is a member of
    Networks,
    /// Join a network
    Join(JoinArgs),
    /// Leave a network
    Leave(LeaveArgs),
    /// Sign a proposal or a release, and show in words what it says
    Sign(SignArgs),
    /// Which release a file belongs to
    Verify(VerifyArgs),
    /// Recompute a verdict from its evidence
    Verdict(VerdictArgs),
    /// The ids of this node and its operator
    Id,
    /// What would be built
    Plan(PlanArgs),
    /// Build here, alone, without a network
    Build(BuildArgs),
    /// Fill in the hashes that a recipe lacks
    Lock(LockArgs),
    /// The blobs that this home keeps
    #[command(subcommand)]
    Store(StoreCommand),
    /// Releases of a channel
    #[command(subcommand)]
    Release(ReleaseCommand),
    /// All that needs the node.
    #[command(flatten)]
    Online(OnlineCommand),
}

/// `barn key …`
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a maintainer's signing key
    New {
        /// The file, which must not exist yet
        file: PathBuf,
        /// Leave this home's operator out of the card that is printed
        #[arg(long)]
        no_operator: bool,
    },
    /// The public card of a signing key; without FILE the ids of this home's keys
    Show {
        /// The signing key's file
        file: Option<PathBuf>,
        /// Leave this home's operator out of the card
        #[arg(long)]
        no_operator: bool,
    },
    /// Copy this home's secret keys to a file, for a safe place
    Backup {
        /// The file, which must not exist yet
        file: PathBuf,
    },
    /// Make a home from a file that `key backup` wrote
    Restore {
        /// The file
        file: PathBuf,
    },
}

/// `barn join`
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The ticket: a word that begins with barn1
    pub ticket: String,
    /// A line for the maintainers, where the ticket does not vouch
    #[arg(long, value_name = "TEXT")]
    pub message: Option<String>,
}

/// `barn sign`
#[derive(Debug, Args)]
pub struct SignArgs {
    /// The proposal or release
    pub file: PathBuf,
    /// The signing key's file
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Where the signature goes
    #[arg(short, long, value_name = "SIG")]
    pub output: PathBuf,
}

/// `barn verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The file
    pub file: PathBuf,
    /// Only releases of this channel
    #[arg(long)]
    pub channel: Option<String>,
    /// A release document to check against, beside those that this home knows
    #[arg(long, value_name = "FILE")]
    pub release: Option<PathBuf>,
    /// Accept releases that have expired
    #[arg(long)]
    pub allow_expired: bool,
}

/// `barn verdict`
#[derive(Debug, Args)]
pub struct VerdictArgs {
    /// The evidence, as a release names it
    pub evidence: PathBuf,
}

/// `barn plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// A batch or a recipe
    pub file: PathBuf,
    /// Hold an axis at a value
    #[arg(long, value_name = "AXIS=VALUE", value_parser = pair)]
    pub set: Vec<(String, String)>,
}

/// `barn build`
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// A recipe or batch file, or FILE:JOB for one job of it and what it needs, for example batch.toml:zlib[device=RPi5]
    #[arg(value_name = "RECIPE|FILE:JOB")]
    pub what: String,
    /// Build twice and compare
    #[arg(long)]
    pub twice: bool,
    /// In the last build, change what must not matter: process numbers, the order of files, the number of CPUs
    #[arg(long)]
    pub chaos: bool,
    /// Open a shell in the sandbox where a step fails
    #[arg(long)]
    pub shell: bool,
    /// Put the outputs there
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Hold an axis at a value
    #[arg(long, value_name = "AXIS=VALUE", value_parser = pair)]
    pub set: Vec<(String, String)>,
}

/// `barn lock`
#[derive(Debug, Args)]
pub struct LockArgs {
    /// The recipe
    pub file: PathBuf,
}

/// `barn release …`
#[derive(Debug, Subcommand)]
pub enum ReleaseCommand {
    /// Put carried signatures on a proposed release
    Assemble(AssembleArgs),
    /// Those that need the node.
    #[command(flatten)]
    Online(ReleaseOnline),
}

/// `barn release assemble`
#[derive(Debug, Args)]
pub struct AssembleArgs {
    /// What `release propose` wrote
    pub document: PathBuf,
    /// What `barn sign` wrote
    #[arg(required = true, value_name = "SIG")]
    pub signatures: Vec<PathBuf>,
    /// Where the release goes
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

/// `name=value`, with a name.
///
/// # Errors
/// What is wrong, for clap.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("NAME=VALUE is wanted".to_owned()),
    }
}

/// A time like `30 min` or `90s`, as in recipes.
///
/// # Errors
/// What is wrong, for clap.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    barnraiser_protocol::recipe::parse_duration(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
