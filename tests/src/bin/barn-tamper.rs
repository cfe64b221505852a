//! `barn-tamper`: a node that takes work like any other and changes what it builds: the misbehaving builder of `barn demo`
//! and of tests. It is `barn run` in all else, so what shows it up is nothing but other people's results.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use barnraiser_node::builder::{self, BuildRequest, OutputSink, Progress};
use barnraiser_node::daemon::workbench::{Building, Workbench};
use barnraiser_node::daemon::{self, RunOptions};
use barnraiser_node::home::Home;
use barnraiser_protocol::id::BlobHash;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What is put behind every output.
const BACKDOOR: &[u8] = b"\n# something that nobody asked for\n";

/// A builder that cheats: it builds what it is asked to, and adds something to each file before it attests to the result.
#[derive(Debug, Parser)]
#[command(name = "barn-tamper")]
struct Arguments {
    /// The home
    #[arg(long, value_name = "DIR")]
    home: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).init();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("barn-tamper: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let home = Home::at(&arguments.home)?;
    let stop = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stopping.cancel();
    });
    daemon::run_with(home, RunOptions::default(), stop, Arc::new(Tampering)).await?;
    Ok(())
}

/// Builds in the sandbox, honestly, and hands over something else.
struct Tampering;

impl Workbench for Tampering {
    fn build(
        &self,
        request: BuildRequest,
        sink: Box<dyn OutputSink>,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Building {
        Box::pin(builder::run(request, Box::new(Changing(sink)), progress, cancel))
    }
}

/// Changes every file on its way.
struct Changing(Box<dyn OutputSink>);

impl OutputSink for Changing {
    fn file(&mut self, name: &str, mut file: File, executable: bool) -> io::Result<(BlobHash, u64)> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        if let Some(byte) = bytes.last_mut() {
            *byte ^= 1;
        }
        bytes.extend_from_slice(BACKDOOR);
        let mut changed = tempfile::tempfile()?;
        changed.write_all(&bytes)?;
        changed.rewind()?;
        self.0.file(name, changed, executable)
    }
}
