//! What the store's errors are to people: what to do, and the exit code.

use std::io;
use std::path::Path;

use barnraiser_protocol::id::BlobHash;
use barnraiser_store::{Fault, ImportError, LayOutError, OpenError, ReadError};

use crate::api::Problem;

/// This machine could not.
pub(super) fn fault(fault: Fault) -> Problem {
    Problem::failed(fault.to_string())
}

pub(super) fn import(error: ImportError) -> Problem {
    let text = error.to_string();
    match error {
        ImportError::Source { source, .. } if source.kind() == io::ErrorKind::NotFound => Problem::not_found(text),
        ImportError::Source { .. } | ImportError::TooLong | ImportError::NotForTrees { .. } | ImportError::Tree(_) => Problem::usage(text),
        ImportError::Evicted(_) | ImportError::Fault(_) => Problem::failed(text),
    }
}

/// The blob is in quarantine.
pub(super) fn damaged(hash: &BlobHash) -> Problem {
    Problem::unverified(format!("blob {hash} is damaged on disk and not given out; `barn store scrub` or `barn fetch` brings it again"))
}

pub(super) fn read(error: ReadError) -> Problem {
    match error {
        ReadError::NotFound(_) => Problem::not_found(error.to_string()),
        ReadError::Damaged { hash, .. } => damaged(&hash),
        // The receiver has seen enough, or its disk is full: it knows.
        ReadError::Output(source) => Problem::failed(format!("could not write: {source}")),
        other => Problem::failed(other.to_string()),
    }
}

/// As [`read()`], where a person named the file.
pub(super) fn export(to: &Path, error: ReadError) -> Problem {
    match error {
        ReadError::Fault(Fault::Io { source, .. })
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory) =>
        {
            Problem::usage(format!("{} can't be written: {source}", to.display()))
        }
        other => read(other),
    }
}

pub(super) fn lay_out(error: LayOutError) -> Problem {
    match error {
        LayOutError::Read(error) => read(error),
        LayOutError::NotATree { .. } | LayOutError::Collision { .. } => Problem::usage(error.to_string()),
        LayOutError::Length { .. } => Problem::unverified(error.to_string()),
        LayOutError::Fault(error) => fault(error),
    }
}

impl From<OpenError> for Problem {
    fn from(error: OpenError) -> Self {
        Self::failed(error.to_string())
    }
}
