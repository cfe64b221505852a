//! The command line: what people type becomes calls, and what comes of them is printed.
//!
//! [`args`] lists every command. Commands that need no running node have a module each here; all others are in
//! [`online`], which talks to the node through its socket. [`output`] prints, [`run`] leads from the one to the other.
//!
//! | Room | Commands |
//! |---|---|
//! | `machine` | `init`, `doctor`, `id` |
//! | `keys` | `key …` |
//! | `founding` | `network create`, `network open`, and every change of a network's rules |
//! | `members` | `network ticket`, `network invite`, `join`, `leave` |
//! | `show` | `networks`, `network show`, `channel ls` |
//! | `signing` | `sign`, `release assemble` |
//! | `checking` | `verify`, `verdict` |
//! | `planning` | `plan`, `lock` |
//! | `building` | `build` |
//! | `store` | `store …`, through the node where one runs |

pub mod args;
mod building;
mod checking;
mod founding;
mod here;
mod interrupt;
mod keys;
mod machine;
mod members;
pub mod online;
pub mod output;
mod pipe;
mod planning;
mod progress;
mod show;
mod signing;
mod store;

use crate::api::Problem;
use args::{ChannelCommand, Cli, Command, NetworkCommand, ReleaseCommand};
use here::Here;

/// With which code `barn` ends where nothing went wrong with the command itself: `submit --wait` does all that it should
/// and yet ends with 7 when the job failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(pub u8);

impl Exit {
    /// Done.
    pub const DONE: Self = Self(0);
    /// What was examined is not well (`doctor`).
    pub const FAILED: Self = Self(1);
    /// A verification failed, and the output says so.
    pub const UNVERIFIED: Self = Self(4);
    /// The job failed, and the output says so.
    pub const JOB_FAILED: Self = Self(7);
    /// Ctrl-C ended it in good order: 128 and the signal's number, as shells show it.
    pub const INTERRUPTED: Self = Self(130);
    /// Who reads its bytes has seen enough: as of `cat`, which SIGPIPE ends.
    pub const CLOSED_PIPE: Self = Self(141);
    /// SIGTERM ended it in good order.
    pub const TERMINATED: Self = Self(143);
}

/// What a command gives back: [`Problem`] where it could not do its work, which is then printed.
pub type CommandResult = Result<Exit, Problem>;

/// Does what was typed.
///
/// # Errors
/// [`Problem`], which says what was wrong and has an exit code.
pub async fn run(cli: Cli) -> CommandResult {
    let Cli { global, command } = cli;
    let here = Here::new(global);
    match command {
        Command::Init => machine::init(&here),
        Command::Doctor => machine::doctor(&here).await,
        Command::Id => machine::id(&here).await,
        Command::Key(command) => keys::run(&here, command),
        Command::Network(command) => match command {
            NetworkCommand::Create(args) => founding::create(&here, args).await,
            NetworkCommand::Open(args) => founding::open(&here, args).await,
            NetworkCommand::Trust(args) => founding::trust(&here, args).await,
            NetworkCommand::Grant(args) => founding::grant(&here, args).await,
            NetworkCommand::Policy(args) => founding::policy(&here, args).await,
            NetworkCommand::Ticket(args) => members::ticket(&here, args).await,
            NetworkCommand::Invite(args) => members::invite(&here, args).await,
            NetworkCommand::Show => show::network(&here).await,
        },
        Command::Channel(command) => match command {
            ChannelCommand::Create { name, way } => founding::create_channel(&here, &name, way).await,
            ChannelCommand::Policy { name, policy, way } => founding::channel_policy(&here, &name, policy, way).await,
            ChannelCommand::Ls => show::channels(&here),
        },
        Command::Networks => show::networks(&here),
        Command::Join(args) => members::join(&here, args).await,
        Command::Leave(args) => members::leave(&here, args).await,
        Command::Sign(args) => signing::sign(&here, args),
        Command::Verify(args) => checking::verify(&here, args),
        Command::Verdict(args) => checking::verdict(&here, args),
        Command::Plan(args) => planning::plan(&here, args),
        Command::Lock(args) => planning::lock(&here, args),
        Command::Store(command) => store::run(&here, command).await,
        Command::Build(args) => building::build(&here, args).await,
        Command::Release(ReleaseCommand::Assemble(args)) => signing::assemble(&here, args),
        Command::Release(ReleaseCommand::Online(command)) => online::run(&here.global, args::OnlineCommand::Release(command)).await,
        Command::Online(command) => online::run(&here.global, command).await,
    }
}
