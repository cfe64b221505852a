//! Fetching by http and https, into a temporary file that is digested on the way.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use super::digest::{CopyError, Digests, copy};
use super::error::AttemptError;
use super::{Limits, OnProgress, Progress};

/// Redirects that are followed. Download pages use up to three; more is a loop.
const REDIRECTS_MAX: u32 = 8;
/// Longest time to connect, and longest time without a byte.
const STALL_MAX: Duration = Duration::from_secs(30);
/// Longest time for one file: 4 GiB at 10 Mbit/s.
const FETCH_MAX: Duration = Duration::from_secs(3600);

/// Follows `url` and writes what it gives to `into`.
///
/// # Errors
/// [`AttemptError`]; `into` may then hold a part.
pub(super) fn download(url: &str, into: &Path, limits: &Limits, on_progress: OnProgress<'_>) -> Result<Digests, AttemptError> {
    let agent = ureq::Agent::config_builder()
        .user_agent(concat!("barnraiser/", env!("CARGO_PKG_VERSION")))
        .max_redirects(REDIRECTS_MAX)
        .timeout_connect(Some(STALL_MAX))
        .timeout_recv_response(Some(STALL_MAX))
        .timeout_per_read(Some(STALL_MAX))
        .timeout_global(Some(FETCH_MAX))
        .build()
        .new_agent();
    let response = agent.get(url).call().map_err(refused)?;
    let body = response.into_body();
    let total = body.content_length();
    let too_large = AttemptError::TooLarge { limit: limits.bytes_max };
    if total.is_some_and(|total| total > limits.bytes_max) {
        return Err(too_large);
    }
    let mut file = File::create(into).map_err(AttemptError::disk("writing", into))?;
    let progress = |bytes| on_progress(Progress { what: url, bytes, total });
    copy(&mut body.into_reader(), &mut file, limits.bytes_max, progress).map_err(|error| match error {
        CopyError::TooLarge => too_large,
        CopyError::Read(error) => AttemptError::Http(format!("the connection broke: {error}")),
        CopyError::Write(error) => AttemptError::Disk { doing: "writing", path: into.to_owned(), error },
    })
}

fn refused(error: ureq::Error) -> AttemptError {
    match error {
        ureq::Error::StatusCode(status) => AttemptError::Status(status),
        ureq::Error::TooManyRedirects => AttemptError::Redirects(REDIRECTS_MAX),
        ureq::Error::HostNotFound => AttemptError::Http("the host's name is not known".into()),
        ureq::Error::Io(error) => AttemptError::Http(error.to_string()),
        other => AttemptError::Http(other.to_string()),
    }
}

/// The file name that an address gives: its last part, without query and fragment; `None` where it has none that could
/// be a file's name.
pub(super) fn file_name(url: &str) -> Option<String> {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let (_, path) = path.split_once("://")?;
    let (_, name) = path.rsplit_once('/')?;
    (barnraiser_protocol::tree::check_path(name).is_ok()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_name_is_the_last_part_of_the_path() {
        assert_eq!(file_name("https://example.org/a/lua-5.4.6.tar.gz?x=/y#z").as_deref(), Some("lua-5.4.6.tar.gz"));
        assert_eq!(file_name("https://example.org"), None);
        assert_eq!(file_name("https://example.org/a/"), None);
        assert_eq!(file_name("https://example.org/.."), None);
    }
}
