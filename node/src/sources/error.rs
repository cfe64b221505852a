//! Why a source could not be had.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use barnraiser_protocol::tree::TreeError;
use barnraiser_store::ImportError;

use super::digest::ExpectedHash;
use super::keep::KeepError;

/// Why one address of a source gave nothing that can be used.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// Not an address of a kind that is known.
    #[error("not an address that can be fetched: https://, http://, crate:NAME@VERSION and debian:NAME=VERSION can")]
    UnknownKind,
    /// `crate:` or `debian:` with a name or version that can't be one.
    #[error("{reason}; it is written {form}")]
    BadName {
        /// What is wrong.
        reason: String,
        /// The right form.
        form: &'static str,
    },
    /// The server's answer is an error.
    #[error("the server answered {0}")]
    Status(u16),
    /// Redirects that lead on and on.
    #[error("more than {0} redirects; the last one leads on")]
    Redirects(u32),
    /// Nothing answered, or the connection broke.
    #[error("{0}")]
    Http(String),
    /// More bytes than a source may have.
    #[error("larger than {limit} bytes, the most a source may have")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// Other bytes than the recipe wants.
    #[error("has the {wrong}, but the recipe wants {expected}", wrong = .actual, expected = .expected)]
    WrongHash {
        /// What the recipe wants.
        expected: ExpectedHash,
        /// What the bytes have, in the same algorithm.
        actual: ExpectedHash,
    },
    /// A program did not do its work.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A program succeeded, and yet there is no file.
    #[error("{program} reported success, but {missing} is not there; {advice}")]
    NoFile {
        /// The program.
        program: &'static str,
        /// What is missing.
        missing: String,
        /// What to do.
        advice: &'static str,
    },
    /// This machine could not keep the bytes.
    #[error("{doing} {path}: {error}")]
    Disk {
        /// What was being done, for example `writing`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
}

impl AttemptError {
    /// [`AttemptError::Disk`] as a closure for `map_err`.
    pub(super) fn disk(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |error| Self::Disk { doing, path, error }
    }
}

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The program is not installed.
    #[error("`{program}` is not installed here; {advice}")]
    Missing {
        /// The program.
        program: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// It could not be started.
    #[error("`{program}` could not be started: {error}")]
    Start {
        /// The program.
        program: &'static str,
        /// Why.
        error: io::Error,
    },
    /// It ended with an error.
    #[error("`{program}` failed ({status}){}{said}{advice}", if .said.is_empty() { "" } else { ": " })]
    Failed {
        /// The program.
        program: &'static str,
        /// Its exit status, in words.
        status: String,
        /// The end of what it wrote to its standard error, on one line.
        said: String,
        /// What to do, where that is known; empty otherwise.
        advice: String,
    },
    /// It took too long and was ended.
    #[error("`{program}` took longer than {} s and was ended", .limit.as_secs())]
    TimedOut {
        /// The program.
        program: &'static str,
        /// How long it may take.
        limit: Duration,
    },
    /// It wrote more than a caller wants to read.
    #[error("`{program}` wrote more than {limit} bytes")]
    TooMuch {
        /// The program.
        program: &'static str,
        /// The most bytes that are read.
        limit: usize,
    },
}

/// One address and what became of it.
#[derive(Debug)]
pub struct Attempt {
    /// The address, after the mirrors were applied.
    pub url: String,
    /// Why it gave nothing.
    pub error: AttemptError,
}

/// Why a source could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// None of the addresses gave the wanted bytes.
    #[error("source {name:?} could not be fetched:{}\n  what to do: {}", list(.attempts), advice(.attempts))]
    Unreachable {
        /// The source's name in the recipe.
        name: String,
        /// Every address that was tried, in order.
        attempts: Vec<Attempt>,
    },
    /// A path that is not below the recipe's folder.
    #[error("source {name:?}: path {path:?} leads out of {root}: a source must lie beside the recipe or below its folder")]
    Leaves {
        /// The source's name.
        name: String,
        /// The path as written.
        path: String,
        /// The folder that it must stay in.
        root: PathBuf,
    },
    /// A path that can't be read.
    #[error("source {name:?}: {path}: {error}", path = .path.display())]
    Path {
        /// The source's name.
        name: String,
        /// The path on this machine.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Neither a file nor a folder.
    #[error("source {name:?}: {path} is neither a file nor a folder (nor a link to one inside the recipe's folder)", path = .path.display())]
    NotAFile {
        /// The source's name.
        name: String,
        /// The path on this machine.
        path: PathBuf,
    },
    /// Something in a folder or commit can't be in a tree.
    #[error("source {name:?}: {error}")]
    Tree {
        /// The source's name.
        name: String,
        /// What is wrong.
        error: TreeError,
    },
    /// A folder or commit with more entries or bytes than a source may have.
    #[error("source {name:?} has more than {limit} {unit}, the most a source may have")]
    TooLarge {
        /// The source's name.
        name: String,
        /// The limit.
        limit: u64,
        /// What is counted.
        unit: &'static str,
    },
    /// A git address, commit or branch that can't be one.
    #[error("source {name:?}: {what} {text:?} can't be used: {reason}")]
    BadGit {
        /// The source's name.
        name: String,
        /// `git address`, `commit`, `branch` or `submodule`.
        what: &'static str,
        /// As written.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Git did not give the commit.
    #[error("source {name:?}: commit or branch {point} of {url} could not be fetched: {error}")]
    Git {
        /// The source's name.
        name: String,
        /// The repository.
        url: String,
        /// The commit or branch.
        point: String,
        /// Why; boxed, since it is larger than all else that can go wrong.
        error: Box<CommandError>,
    },
    /// Git gave something that it should not.
    #[error("source {name:?}: git answered for {url} what can't be read: {reason}")]
    GitAnswer {
        /// The source's name.
        name: String,
        /// The repository.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The repository has no such branch.
    #[error("source {name:?}: {url} has no branch {branch:?}")]
    NoBranch {
        /// The source's name.
        name: String,
        /// The repository.
        url: String,
        /// The branch.
        branch: String,
    },
    /// The date of the newest file in an archive could not be found.
    #[error("source {name:?}: its newest date could not be read ({error}); write `epoch = SECONDS` under [recipe]")]
    Date {
        /// The source's name.
        name: String,
        /// Why; boxed, since it is larger than all else that can go wrong.
        error: Box<CommandError>,
    },
    /// The store of this machine failed.
    #[error("source {name:?} could not be kept in the store: {error}")]
    Store {
        /// The source's name.
        name: String,
        /// Why.
        error: KeepError,
    },
    /// No room for temporary files.
    #[error("no temporary files can be made in {path}: {error}", path = .path.display())]
    Scratch {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl SourceError {
    /// The exit code of the command line: 4 where bytes were had but were the wrong ones, 2 where the recipe is wrong,
    /// 1 where this machine failed, 6 where nothing could be reached.
    pub fn exit_code(&self) -> u8 {
        match self {
            // A folder with a socket in it, or with a link that leaves: the source is wrong, not the store.
            Self::Store {
                error: KeepError::Import(ImportError::NotForTrees { .. } | ImportError::Tree(_) | ImportError::TooLong), ..
            } => 2,
            Self::Unreachable { attempts, .. } => {
                let wrong = |attempt: &Attempt| matches!(attempt.error, AttemptError::WrongHash { .. });
                let misspelt = |attempt: &Attempt| matches!(attempt.error, AttemptError::UnknownKind | AttemptError::BadName { .. });
                let here = |attempt: &Attempt| matches!(attempt.error, AttemptError::Disk { .. });
                if attempts.iter().any(wrong) {
                    4
                } else if attempts.iter().all(misspelt) {
                    2
                } else if attempts.iter().any(here) {
                    1
                } else {
                    6
                }
            }
            Self::Leaves { .. } | Self::Path { .. } | Self::NotAFile { .. } | Self::Tree { .. } | Self::BadGit { .. } => 2,
            Self::TooLarge { .. } => 2,
            Self::Git { .. } | Self::GitAnswer { .. } | Self::NoBranch { .. } => 6,
            Self::Date { .. } | Self::Store { .. } | Self::Scratch { .. } => 1,
        }
    }
}

fn list(attempts: &[Attempt]) -> String {
    if attempts.is_empty() {
        return String::from("\n  it has no addresses");
    }
    attempts.iter().map(|attempt| format!("\n  {}: {}", attempt.url, attempt.error)).collect()
}

fn advice(attempts: &[Attempt]) -> &'static str {
    if attempts.iter().any(|attempt| matches!(attempt.error, AttemptError::WrongHash { .. })) {
        "find out who changed the file; only if the new bytes are the right ones, remove the hash and run `barn lock` on the recipe"
    } else {
        "check the addresses and this machine's network, or name a mirror under [mirrors] in barn.toml"
    }
}
