//! What carries out a build once its inputs are laid out: the sandbox, in every node.

use std::pin::Pin;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::builder::{self, BuildRequest, OutputSink, Progress, Report};

/// A build that is under way. Dropping it kills everything in the sandbox.
pub type Building = Pin<Box<dyn Future<Output = Report> + Send>>;

/// Where a node's builds are done. A program that embeds a node may bring its own: the tests' misbehaving builder does.
pub trait Workbench: Send + Sync + 'static {
    /// Builds `request`, as [`builder::run`] does: outputs go into `sink`, and what goes wrong is in the report.
    fn build(
        &self,
        request: BuildRequest,
        sink: Box<dyn OutputSink>,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Building;
}

/// The sandbox of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SandboxBench;

impl Workbench for SandboxBench {
    fn build(
        &self,
        request: BuildRequest,
        sink: Box<dyn OutputSink>,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Building {
        Box::pin(builder::run(request, sink, progress, cancel))
    }
}
