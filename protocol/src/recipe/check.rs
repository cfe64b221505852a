//! What single values may be. Each check says what is wrong and what to do; the caller knows the place.

use std::time::Duration;

use super::diagnostic::{cut, list, nearest};
use super::reader::Fault;
use super::units;
use crate::id::BlobHash;

/// Operating systems, as Rust's `std::env::consts::OS` spells them.
const SYSTEMS: [&str; 15] = [
    "linux",
    "macos",
    "windows",
    "freebsd",
    "netbsd",
    "openbsd",
    "dragonfly",
    "illumos",
    "solaris",
    "android",
    "haiku",
    "hurd",
    "aix",
    "redox",
    "fuchsia",
];

/// Architectures, as Rust's `std::env::consts::ARCH` spells them.
pub(super) const ARCHITECTURES: [&str; 23] = [
    "aarch64",
    "arm",
    "arm64ec",
    "avr",
    "csky",
    "hexagon",
    "loongarch32",
    "loongarch64",
    "m68k",
    "mips",
    "mips32r6",
    "mips64",
    "mips64r6",
    "msp430",
    "powerpc",
    "powerpc64",
    "riscv32",
    "riscv64",
    "s390x",
    "sparc",
    "sparc64",
    "x86",
    "x86_64",
];

/// Other people's names of architectures and systems.
const SYNONYMS: [(&str, &str); 16] = [
    ("amd64", "x86_64"),
    ("x86-64", "x86_64"),
    ("x64", "x86_64"),
    ("i386", "x86"),
    ("i486", "x86"),
    ("i586", "x86"),
    ("i686", "x86"),
    ("arm64", "aarch64"),
    ("armhf", "arm"),
    ("armv7", "arm"),
    ("armv7l", "arm"),
    ("ppc", "powerpc"),
    ("ppc64le", "powerpc64"),
    ("ppc64", "powerpc64"),
    ("darwin", "macos"),
    ("gnu/linux", "linux"),
];

const URL_FORMS: &str = "https:, http: or file: addresses, `debian:NAME=VERSION` and `crate:NAME@VERSION` are known";

fn fault<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, Fault> {
    Err((message.into(), help.into()))
}

/// A recipe's name.
pub(super) fn recipe_name(name: &str) -> Result<(), Fault> {
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+._-".contains(c);
    let first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if name.len() > 64 || !name.starts_with(first) || !name.chars().all(rest) {
        let help = "1 to 64 characters: a small letter or digit, then small letters, digits, `+`, `.`, `_` and `-`";
        return fault(format!("{:?} can't be a recipe's name", cut(name)), help);
    }
    Ok(())
}

/// Text for people: one line of at most `most` bytes.
pub(super) fn line(most: usize) -> impl Fn(&str) -> Result<(), Fault> {
    move |text| {
        if text.len() > most {
            return fault(format!("{} bytes of text, at most {most} are allowed", text.len()), "");
        }
        if text.chars().any(char::is_control) {
            return fault("a control character in a text of one line", "");
        }
        Ok(())
    }
}

/// A text without which nothing works.
pub(super) fn filled_line(most: usize) -> impl Fn(&str) -> Result<(), Fault> {
    move |text| if text.is_empty() { fault("an empty text", "") } else { line(most)(text) }
}

/// An environment variable's name.
pub(super) fn variable_name(name: &str) -> Result<(), Fault> {
    let rest = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.len() > 128 || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(rest) {
        return fault(format!("{:?} can't be an environment variable's name", cut(name)), "letters, digits and `_`, not a digit first");
    }
    match name {
        "SOURCE_DATE_EPOCH" => fault("SOURCE_DATE_EPOCH is set by the builder", "write `epoch = SECONDS` in [recipe]"),
        "BARN_CORES" => fault("BARN_CORES is set by the builder", "write `cores = NUMBER` in [limits]"),
        _ => Ok(()),
    }
}

/// An environment variable's value.
pub(super) fn variable_value(value: &str) -> Result<(), Fault> {
    if value.contains('\0') { fault("a variable's value with a zero byte", "") } else { Ok(()) }
}

/// A step's name; `sources` and `outputs` are how the builder calls its own stages.
pub(super) fn step_name(name: &str) -> Result<(), Fault> {
    let rest = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > 64 || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(rest) {
        return fault(format!("{:?} can't be a step's name", cut(name)), "letters, digits, `.`, `_` and `-`, 64 at most");
    }
    if matches!(name, "sources" | "outputs") {
        return fault(format!("`{name}` is the builder's own stage, no name of a step"), "");
    }
    Ok(())
}

/// A path below `/build` or in the artefact.
pub(super) fn relative_path(path: &str) -> Result<(), Fault> {
    let Err(error) = crate::tree::check_path(path) else { return Ok(()) };
    fault(error.to_string(), "write a path without a leading `/`, without `.` and `..`")
}

/// The name of a source, which is its place below `/build`.
pub(super) fn source_name(name: &str) -> Result<(), Fault> {
    relative_path(name)
}

/// The place of a need in the sandbox.
pub(super) fn need_place(at: &str) -> Result<(), Fault> {
    let normal = at.strip_prefix('/').is_some_and(|rest| crate::tree::check_path(rest).is_ok());
    if !normal {
        return fault(
            format!("place {:?} is not an absolute path without `.`, `..` and a `/` at its end", cut(at)),
            "for example \"/needs/zlib\"",
        );
    }
    let top = at.split('/').nth(1).unwrap_or_default();
    if matches!(top, "proc" | "sys" | "dev") {
        return fault(format!("nothing can be laid at {:?}: `/{top}` is the system's", cut(at)), "for example \"/needs/zlib\"");
    }
    Ok(())
}

/// A pattern of paths.
pub(super) fn pattern(glob: &str) -> Result<(), Fault> {
    relative_path(glob)
}

/// An address of a source.
pub(super) fn url(url: &str) -> Result<(), Fault> {
    if url.len() > 2048 || url.chars().any(|c| c.is_control() || c == ' ') {
        return fault("an address has no spaces and 2048 bytes at most", "");
    }
    let Some((scheme, rest)) = url.split_once(':') else {
        return fault(format!("{:?} is no address", cut(url)), format!("{URL_FORMS}; for a file beside the recipe write `path = …`"));
    };
    let named = |separator: char, example: &str| match rest.split_once(separator) {
        Some((name, version)) if !name.is_empty() && !version.is_empty() && !name.contains('/') && !version.contains('/') => Ok(()),
        _ => fault(format!("{:?} names no package and version", cut(url)), format!("write for example `{example}`")),
    };
    match scheme {
        "https" | "http" => {
            if rest.strip_prefix("//").is_none_or(|host| host.is_empty() || host.starts_with('/')) {
                return fault(format!("{:?} names no host", cut(url)), format!("write `{scheme}://HOST/PATH`"));
            }
            Ok(())
        }
        "file" => {
            if !rest.starts_with('/') {
                return fault(format!("{:?} is not absolute", cut(url)), "write `file:///FOLDER/FILE`");
            }
            Ok(())
        }
        "debian" => named('=', "debian:zlib=1:1.2.13.dfsg-1"),
        "crate" => named('@', "crate:libz-sys@1.1.20"),
        _ => fault(format!("`{}:` is no kind of address", cut(scheme)), URL_FORMS),
    }
}

/// An address of a git repository.
pub(super) fn git_url(url: &str) -> Result<(), Fault> {
    let known =
        ["https://", "http://", "ssh://", "git://", "file:///"].iter().any(|start| url.len() > start.len() && url.starts_with(start));
    if !known || url.len() > 2048 || url.chars().any(|c| c.is_control() || c == ' ') {
        return fault(format!("{:?} is no address of a git repository", cut(url)), "write for example `https://HOST/REPOSITORY`");
    }
    Ok(())
}

/// A git branch.
pub(super) fn branch(name: &str) -> Result<(), Fault> {
    let odd = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    if name.is_empty() || name.len() > 255 || name.starts_with('-') || name.contains("..") || name.contains(odd) {
        return fault(format!("{:?} can't be a branch", cut(name)), "");
    }
    Ok(())
}

/// A git commit.
pub(super) fn commit(rev: &str) -> Result<(), Fault> {
    if !matches!(rev.len(), 40 | 64) || !rev.chars().all(|c| c.is_ascii_hexdigit()) {
        let help = "write all of its hexadecimal digits; a tag can be moved, so it pins nothing (`branch = …` is pinned at submit)";
        return fault(format!("{:?} is no commit", cut(rev)), help);
    }
    Ok(())
}

/// A sha256 or BLAKE3.
pub(super) fn hash(text: &str) -> Result<(), Fault> {
    digest(text).map(|_| ())
}

/// The 32 bytes of a sha256 or BLAKE3.
pub(super) fn digest(text: &str) -> Result<BlobHash, Fault> {
    let wrong =
        |_| (format!("{:?} is no hash: it has {} characters", cut(text), text.chars().count()), "64 hexadecimal digits are wanted".into());
    text.parse().map_err(wrong)
}

/// A root file system: `host`, a hash, or an environment's name with its version.
pub(super) fn rootfs(text: &str) -> Result<(), Fault> {
    if text == "host" || text.parse::<BlobHash>().is_ok() {
        return Ok(());
    }
    let name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    match text.split_once('@') {
        Some((left, version)) if !left.is_empty() && left.len() <= 64 && left.chars().all(name) && version.parse::<u32>().is_ok() => Ok(()),
        _ => fault(
            format!("{:?} is no root file system", cut(text)),
            "write \"host\", a hash of 64 hexadecimal digits, or a versioned name such as \"debian-c@3\"",
        ),
    }
}

/// A program's name.
pub(super) fn program(name: &str) -> Result<(), Fault> {
    if name.is_empty() || name.len() > 128 || name.contains(|c: char| c.is_control() || c == '/' || c == ' ') {
        return fault(format!("{:?} is no program's name", cut(name)), "write the name that is looked up in PATH, for example \"cmake\"");
    }
    Ok(())
}

/// A feature or an ISA level.
pub(super) fn feature(name: &str) -> Result<(), Fault> {
    let known = |c: char| c.is_ascii_alphanumeric() || "+._:-".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(known) {
        return fault(
            format!("{:?} can't be the name of a feature", cut(name)),
            "letters, digits, `+`, `.`, `_`, `:` and `-`, for example \"device:rpi4\"",
        );
    }
    Ok(())
}

fn one_of(what: &str, name: &str, known: &[&str]) -> Result<(), Fault> {
    if known.contains(&name) {
        return Ok(());
    }
    let synonym = SYNONYMS.iter().find(|(other, right)| other.eq_ignore_ascii_case(name) && known.contains(right)).map(|(_, right)| *right);
    let help = match synonym.or_else(|| nearest(name, known.iter().copied())) {
        Some(right) => format!("did you mean `{right}`?"),
        None => format!("{} are known", list(known)),
    };
    fault(format!("{:?} is no {what}", cut(name)), help)
}

/// An operating system.
pub(super) fn system(name: &str) -> Result<(), Fault> {
    one_of("operating system", name, &SYSTEMS)
}

/// An architecture.
pub(super) fn architecture(name: &str) -> Result<(), Fault> {
    one_of("architecture", name, &ARCHITECTURES)
}

/// A number of cores.
pub(super) fn cores(text: &str) -> Result<u16, Fault> {
    match text.parse() {
        Ok(cores @ 1..=1024) => Ok(cores),
        _ => fault(format!("{:?} is no number of cores", cut(text)), "a whole number from 1 to 1024 is wanted"),
    }
}

fn unit(error: units::UnitError) -> Fault {
    (error.message, error.help.into())
}

/// A limit on memory or disk, in bytes.
pub(super) fn size(text: &str) -> Result<u64, Fault> {
    match units::parse_size(text).map_err(unit)? {
        bytes if (1 << 20..=1 << 50).contains(&bytes) => Ok(bytes),
        _ => fault(format!("{:?} is out of range", cut(text)), "1 MiB to 1024 TiB is allowed"),
    }
}

/// A limit on time.
pub(super) fn duration(text: &str) -> Result<Duration, Fault> {
    match units::parse_duration(text).map_err(unit)? {
        time if (1..=30 * 86_400).contains(&time.as_secs()) => Ok(time),
        _ => fault(format!("{:?} is out of range", cut(text)), "1 s to 30 d is allowed"),
    }
}

/// A check that only asks whether `parse` accepts.
pub(super) fn accepts<T>(parse: impl Fn(&str) -> Result<T, Fault>) -> impl Fn(&str) -> Result<(), Fault> {
    move |text| parse(text).map(|_| ())
}
