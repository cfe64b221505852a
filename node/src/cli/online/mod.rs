//! The commands that talk to the running node, or are it.
//!
//! | Room | Commands |
//! |---|---|
//! | `run` | `run` |
//! | `status` | `status`, `peers`, `pause`, `resume` |
//! | `events` | `events` |
//! | `submit` | `submit`, with `--wait` |
//! | `batches` | `batch`, `cancel`, `retry` |
//! | `jobs` | `job`, `why`, and which job is meant |
//! | `log` | `log` |
//! | `release` | `release propose`, `publish`, `show` |
//! | `fetch` | `fetch` |
//!
//! `context` has the way to the node and the network that is meant; `words` shows ids, times and foreign texts.

mod batches;
mod context;
mod events;
mod fetch;
mod jobs;
mod log;
mod release;
mod run;
#[cfg(test)]
mod samples;
mod status;
mod submit;
#[cfg(test)]
mod tests;
pub(super) mod words;

use super::CommandResult;
use super::args::{Global, OnlineCommand, ReleaseOnline};
use crate::client::Client;
use crate::home::Home;
use context::Context;

/// Does `command`.
///
/// # Errors
/// [`crate::api::Problem`], which says what was wrong and has an exit code.
pub async fn run(global: &Global, command: OnlineCommand) -> CommandResult {
    let home = Home::locate(global.home.as_deref())?;
    let context = Context::new(global, Client::connect(&home));
    let context = &context;
    match command {
        OnlineCommand::Run(args) => run::run(home, &args).await,
        OnlineCommand::Status => status::status(context).await,
        OnlineCommand::Peers => status::peers(context).await,
        OnlineCommand::Pause(args) => status::pause(context, args.for_time).await,
        OnlineCommand::Resume => status::resume(context).await,
        OnlineCommand::Events => events::events(context).await,
        OnlineCommand::Submit(args) => submit::submit(context, &args).await,
        OnlineCommand::Batch(args) => match &args.id {
            Some(id) => batches::matrix(context, id).await,
            None => batches::list(context).await,
        },
        OnlineCommand::Job(args) => jobs::job(context, &args.id).await,
        OnlineCommand::Why(args) => jobs::why(context, &args.id).await,
        OnlineCommand::Log(args) => log::log(context, &args).await,
        OnlineCommand::Cancel(args) => batches::cancel(context, &args.id).await,
        OnlineCommand::Retry(args) => batches::retry(context, &args.id).await,
        OnlineCommand::Fetch(args) => fetch::fetch(context, &args).await,
        OnlineCommand::Release(ReleaseOnline::Propose(args)) => release::propose(context, &args).await,
        OnlineCommand::Release(ReleaseOnline::Publish(args)) => release::publish(context, &home, &args).await,
        OnlineCommand::Release(ReleaseOnline::Show(args)) => release::show(context, &args.channel).await,
        OnlineCommand::Demo(args) => crate::demo::demo(context.out, &args).await,
    }
}
