//! `barn`: the command line and the node. What it does is in the library; here, errors become exit codes.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use barnraiser_node::api::Problem;
use barnraiser_node::cli::args::{Cli, Command, OnlineCommand};
use barnraiser_node::cli::output::{STATUS_CLOSED_PIPE, print_problem};
use barnraiser_node::cli::{self, Exit};
use clap::Parser as _;
use tracing_subscriber::EnvFilter;

/// The variable that says what is logged, in the form of `tracing_subscriber::EnvFilter`.
const LOG_VARIABLE: &str = "BARN_LOG";

/// How long what blocks may go on when all is done.
const SHUTDOWN_TIME: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are results and go to standard output; that nobody reads them is no error.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let (json, bytes) = (cli.global.json, cli.puts_bytes_out());
    let ended = match watch(&cli) {
        Ok(()) => start(cli),
        Err(problem) => Err(problem),
    };
    match ended {
        Ok(Exit(code)) => ExitCode::from(code),
        // The reader of a pipe has seen enough.
        Err(problem) if problem.status == STATUS_CLOSED_PIPE => ExitCode::SUCCESS,
        Err(problem) => {
            print_problem(&problem, json, bytes);
            ExitCode::from(problem.exit_code())
        }
    }
}

fn start(cli: Cli) -> cli::CommandResult {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Problem::failed(format!("no threads to work with: {error}")))?;
    let ended = runtime.block_on(cli::run(cli));
    // Tasks are dropped, and with the last of them the store is closed before the process ends: RocksDB's threads must not
    // outlive what they use. What blocks a thread for long (reading standard input, say) must not hold up the end.
    runtime.shutdown_timeout(SHUTDOWN_TIME);
    ended
}

/// Sends what the program notes about itself to standard error: the node all that matters, a command only warnings.
fn watch(cli: &Cli) -> Result<(), Problem> {
    let is_node = matches!(cli.command, Command::Online(OnlineCommand::Run(_)));
    let level = match (cli.global.quiet, cli.global.verbose) {
        (true, _) => "error",
        // What libp2p says of itself is for who asks for more: a node that is alone is warned of nothing.
        (false, 0) if is_node => "info,libp2p_swarm=warn,libp2p_kad=error",
        (false, 0) => "warn,libp2p_kad=error",
        (false, 1) => "warn,barnraiser_node=debug,barnraiser_bootstrap=debug,barnraiser_store=debug,barnraiser_protocol=debug",
        (false, _) => "debug",
    };
    let filter = match std::env::var(LOG_VARIABLE) {
        Ok(directives) => EnvFilter::try_new(&directives)
            .map_err(|error| Problem::usage(format!("{LOG_VARIABLE} is {directives:?}, which can't be read: {error}")))?,
        Err(_) => EnvFilter::new(level),
    };
    let color = io::IsTerminal::is_terminal(&io::stderr()) && !cli.global.json;
    // A line that can't be written is lost; panicking over it would lose the node.
    let quiet_writer = || Quiet(io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(color).with_writer(quiet_writer).init();
    Ok(())
}

/// Standard error, of which nobody hears when it is closed.
struct Quiet(io::Stderr);

impl io::Write for Quiet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.0.write(bytes).unwrap_or(bytes.len()))
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().or(Ok(()))
    }
}
