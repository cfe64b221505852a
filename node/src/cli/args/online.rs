//! The commands that talk to the running node, or are it.

use std::path::PathBuf;
use std::time::Duration;

use barnraiser_protocol::record::payload::Priority;
use clap::{Args, Subcommand, ValueEnum};
use regex::Regex;

use super::{duration, pair};

/// Commands of [`super::Command`] that are done by `cli::online`.
#[derive(Debug, Subcommand)]
pub enum OnlineCommand {
    /// Run the node, in the foreground
    Run(RunArgs),
    /// What the node does and, when it rests, why
    Status,
    /// Whom this node sees
    Peers,
    /// Have a batch built; prints its id
    Submit(SubmitArgs),
    /// The batches of the network, or the jobs of one
    Batch(BatchArgs),
    /// All that is known of a job: its builders, their results, the verdict
    Job(JobArgs),
    /// In one line, why a job is not running
    Why(JobArgs),
    /// What a build printed
    Log(LogArgs),
    /// End a batch
    Cancel(CancelArgs),
    /// Try failed jobs again
    Retry(RetryArgs),
    /// Fetch a file from the swarm, verified and resumed
    Fetch(FetchArgs),
    /// Take no work for a while; what is being built is handed back
    Pause(PauseArgs),
    /// Take work again
    Resume,
    /// What happens, as it happens
    Events,
    /// A whole network on this machine, on real input, narrated
    Demo(DemoArgs),
    /// `barn release …`, in so far as it needs the node; parsed as part of [`super::ReleaseCommand`].
    #[command(skip)]
    Release(ReleaseOnline),
}

/// `barn run`
#[derive(Debug, Clone, Default, Args)]
pub struct RunArgs {
    /// Take no builds: store, serve and fetch only
    #[arg(long)]
    pub no_build: bool,
    /// Listen there instead of on the addresses of barn.toml
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Vec<String>,
}

/// How far `submit --wait` waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum WaitFor {
    /// Every job has a result that one voter stands for
    Candidate,
    /// Every job's result is cross-verified
    #[default]
    CrossVerified,
}

/// `barn submit`
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// A batch or recipe; - for standard input
    pub file: PathBuf,
    /// The channel, instead of the batch's own
    #[arg(long)]
    pub channel: Option<String>,
    /// security, release, maintainer, nightly or background, instead of the batch's own
    #[arg(long, value_parser = priority)]
    pub priority: Option<Priority>,
    /// Hold an axis at a value
    #[arg(long, value_name = "AXIS=VALUE", value_parser = pair)]
    pub set: Vec<(String, String)>,
    /// A label, for people
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub label: Vec<(String, String)>,
    /// Wait until every job has come so far
    #[arg(long, value_name = "STATE", value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "cross-verified")]
    pub wait: Option<WaitFor>,
    /// How long to wait at most, for example "30 min"
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "wait")]
    pub timeout: Option<Duration>,
}

/// `barn batch`
#[derive(Debug, Args)]
pub struct BatchArgs {
    /// The batch: any unique beginning of its id
    pub id: Option<String>,
}

/// `barn job`, `barn why`
#[derive(Debug, Args)]
pub struct JobArgs {
    /// An action's id, or BATCH/RECIPE[axis=value]
    pub id: String,
}

/// `barn log`
#[derive(Debug, Args)]
pub struct LogArgs {
    /// An action's id, or BATCH/RECIPE[axis=value]
    pub id: String,
    /// Go on as the build prints more
    #[arg(short, long)]
    pub follow: bool,
    /// The build of this operator: any unique beginning of its id
    #[arg(long, value_name = "OPERATOR")]
    pub by: Option<String>,
    /// Only this step
    #[arg(long, value_name = "STEP")]
    pub step: Option<String>,
    /// Only lines that this regular expression fits
    #[arg(long, value_name = "RE", value_parser = pattern)]
    pub grep: Option<Regex>,
}

/// `barn cancel`
#[derive(Debug, Args)]
pub struct CancelArgs {
    /// The batch
    pub id: String,
}

/// `barn retry`
#[derive(Debug, Args)]
pub struct RetryArgs {
    /// The batch, or one of its jobs: BATCH/RECIPE[axis=value]
    pub id: String,
    /// All jobs of the batch that failed (the same as without it)
    #[arg(long)]
    pub failed: bool,
}

/// `barn fetch`
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// A hash, [NETWORK/]CHANNEL/NAME, or barn:TICKET/CHANNEL/NAME
    pub what: String,
    /// Where to write it; - for standard output, in order, as it comes [default: the name, in this folder]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// An older version: only what differs is fetched [default: what the node has that is like it]
    #[arg(long, value_name = "OLDFILE")]
    pub seed: Option<PathBuf>,
    /// Give up after this time without any progress
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
}

/// `barn pause`
#[derive(Debug, Args)]
pub struct PauseArgs {
    /// How long [default: until `barn resume`]
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub for_time: Option<Duration>,
}

/// `barn demo`
#[derive(Debug, Clone, Default, Args)]
pub struct DemoArgs {
    /// Keep all homes and logs in this folder, which must not exist yet
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

/// The commands of `barn release` that need the node.
#[derive(Debug, Subcommand)]
pub enum ReleaseOnline {
    /// Write down a release of a batch's targets, to be signed
    Propose(ProposeArgs),
    /// Publish an assembled release; with --batch and --key, propose, sign and publish in one step
    Publish(PublishArgs),
    /// The newest release of a channel, and who signed it
    Show(ReleaseShowArgs),
}

/// `barn release propose`
#[derive(Debug, Args)]
pub struct ProposeArgs {
    /// The channel
    pub channel: String,
    /// The batch whose targets are released
    #[arg(long, value_name = "ID")]
    pub batch: String,
    /// Only these targets [default: all]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Where the document goes [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `barn release publish`
#[derive(Debug, Args)]
pub struct PublishArgs {
    /// What `release assemble` wrote; with --batch, the channel
    #[arg(value_name = "FILE|CHANNEL")]
    pub what: String,
    /// The batch whose targets are released
    #[arg(long, value_name = "ID", requires = "key")]
    pub batch: Option<String>,
    /// Sign with this key, where one signature is enough
    #[arg(long, value_name = "FILE", requires = "batch")]
    pub key: Option<PathBuf>,
}

/// `barn release show`
#[derive(Debug, Args)]
pub struct ReleaseShowArgs {
    /// The channel
    pub channel: String,
}

fn pattern(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| format!("{error}\n  (to find a text as it is, put \\ before each of . * + ? ( ) [ ] {{ }} | ^ $ \\)"))
}

fn priority(text: &str) -> Result<Priority, String> {
    use serde::Deserialize as _;
    use serde::de::IntoDeserializer as _;
    let parsed: Result<_, serde::de::value::Error> = Priority::deserialize(text.into_deserializer());
    parsed.map_err(|_| "security, release, maintainer, nightly or background is wanted".to_owned())
}
