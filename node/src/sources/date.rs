//! The newest date in an archive: what `SOURCE_DATE_EPOCH` is where the recipe doesn't say.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::time::Duration;

use super::command::Program;
use super::error::CommandError;

/// Longest time to list an archive: 4 GiB of xz at 20 MB/s.
const LIST_MAX: Duration = Duration::from_secs(600);
/// The most bytes of a line in the listing: two paths and the rest.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// The newest modification time of an entry of the archive at `path`, in seconds since 1970; `None` where tar can't
/// read it (it is no tar archive) or it has no entries. The answer depends on the archive's bytes alone.
///
/// # Errors
/// [`CommandError`] where tar is missing or takes too long: an answer that depended on that would not be the same
/// everywhere.
pub(super) fn newest_in_archive(path: &Path) -> Result<Option<u64>, CommandError> {
    let tar = Program::new("tar", LIST_MAX, "install GNU tar").with(|command| {
        command.env_remove("TAR_OPTIONS");
        // Numbers for owners, or an owner's name could look like a date.
        command.args(["--list", "--verbose", "--full-time", "--numeric-owner", "--quoting-style=escape", "--force-local", "--file"]);
        command.arg(path);
    });
    let listed = tar.stream(|listing| {
        let mut newest = None;
        let mut listing = BufReader::new(listing);
        let mut line = Vec::new();
        loop {
            line.clear();
            if (&mut listing).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
                return Ok(newest);
            }
            newest = newest.max(date_of(&line));
        }
    });
    match listed {
        // Not an archive that tar knows, or a damaged one: the build will say so if it matters.
        Err(CommandError::Failed { .. }) => Ok(None),
        other => other,
    }
}

/// The date in a line such as `-rw-r--r-- 0/0 1234 2023-05-02 20:03:09 lua-5.4.6/Makefile`, in seconds since 1970.
fn date_of(line: &[u8]) -> Option<u64> {
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_ascii_whitespace().skip(3);
    let (day, hour) = (words.next()?, words.next()?);
    // Fractions of a second are cut off.
    let hour = hour.split('.').next()?;
    let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let moment = time::PrimitiveDateTime::parse(&format!("{day} {hour}"), &format).ok()?;
    u64::try_from(moment.assume_utc().unix_timestamp()).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn date_is_read_from_a_line_of_the_listing() {
        assert_eq!(date_of(b"-rw-r--r-- 0/0 1234 2023-11-14 22:13:20 lua/Makefile\n"), Some(1_700_000_000));
        assert_eq!(date_of(b"-rw-r--r-- 0/0 1234 2023-11-14 22:13:20.999999999 2030-01-01 00:00:00\n"), Some(1_700_000_000));
        assert_eq!(date_of(b"drwxr-xr-x 0/0 0 1950-01-01 00:00:00 a"), None);
        assert_eq!(date_of(b"\xff\xfe"), None);
    }

    #[test]
    fn newest_entry_gives_the_date_of_an_archive_and_a_file_gives_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("old name");
        std::fs::write(&file, "x").unwrap();
        let archive = folder.path().join("a.tar.gz");
        let made = std::process::Command::new("tar")
            .args(["--create", "--gzip", "--mtime=@1700000000", "--file"])
            .arg(&archive)
            .arg("-C")
            .arg(folder.path())
            .arg("old name")
            .status()
            .unwrap();
        assert!(made.success());
        assert_eq!(newest_in_archive(&archive).unwrap(), Some(1_700_000_000));
        assert_eq!(newest_in_archive(&file).unwrap(), None);
    }
}
