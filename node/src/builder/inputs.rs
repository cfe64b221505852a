//! Lays sources into the build folder and needs into folders that are bound into the sandbox.
//!
//! What comes in was fetched and checked by the caller; what is laid here is private to one build.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use barnraiser_protocol::action::{Need, Source, SourceForm};
use barnraiser_protocol::outcome::FailureClass;
use barnraiser_protocol::tree::check_path;

use super::collect::join;
use super::glob;

/// What the caller has fetched for a build.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// Each source of the action, in its order, and the blob's file; for [`SourceForm::Tree`] the laid-out folder.
    pub sources: Vec<(Source, PathBuf)>,
    /// Each need of the action, in its order, and the laid-out folder. What is bound is this folder itself wherever it
    /// can be, so its files should be read-only and have one fixed time of change.
    pub needs: Vec<(Need, PathBuf)>,
    /// The laid-out root file system, for [`barnraiser_protocol::action::Rootfs::Tree`].
    pub rootfs: Option<PathBuf>,
}

/// Why inputs can't be laid.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// A place where nothing may be put.
    #[error("need at {at:?}: {reason}")]
    Place {
        /// The place.
        at: String,
        /// Why not there.
        reason: &'static str,
    },
    /// Two needs have the same file.
    #[error("needs at {at:?} both have {path:?}")]
    Collision {
        /// The place that they share.
        at: String,
        /// The path in it.
        path: String,
    },
    /// Two sources have the same place.
    #[error("source at {at:?}: something else is there already")]
    SourceCollision {
        /// The place.
        at: String,
    },
    /// This machine's fault.
    #[error("{path}: {error}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl InputError {
    /// How the build failed by this, and in which part of the work.
    pub const fn failure(&self) -> (FailureClass, &'static str) {
        match self {
            Self::Place { .. } | Self::Collision { .. } => (FailureClass::Build, "needs"),
            Self::SourceCollision { .. } => (FailureClass::Unpack, "sources"),
            Self::Io { .. } => (FailureClass::Sandbox, "inputs"),
        }
    }
}

/// An archive that the sandbox has to unpack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// The place below `/build`.
    pub at: String,
    /// The blob.
    pub blob: PathBuf,
    /// Zip by its first bytes; `tar` finds out about everything else.
    pub zip: bool,
}

/// Copies files and trees into the build folder, and gives the archives, in their order. `reverse` makes the files of
/// trees in reverse order, which shows in the listings of many file systems.
///
/// # Errors
/// [`InputError`].
pub fn lay_sources(sources: &[(Source, PathBuf)], build: &Path, reverse: bool) -> Result<Vec<Archive>, InputError> {
    let mut archives = Vec::new();
    for (source, from) in sources {
        if check_path(&source.at).is_err() {
            return Err(InputError::SourceCollision { at: source.at.clone() });
        }
        let to = build.join(&source.at);
        let taken = || InputError::SourceCollision { at: source.at.clone() };
        match source.form {
            SourceForm::Archive => {
                let mut magic = [0u8; 2];
                let mut file = fs::File::open(from).map_err(io_at(from))?;
                let zip = file.read_exact(&mut magic).is_ok() && &magic == b"PK";
                archives.push(Archive { at: source.at.clone(), blob: from.clone(), zip });
            }
            SourceForm::File => {
                make_folders(build, above(&source.at), taken)?;
                if fs::symlink_metadata(&to).is_ok() {
                    return Err(taken());
                }
                copy_file(from, &to, 0o644)?;
            }
            SourceForm::Tree => {
                make_folders(build, &source.at, taken)?;
                lay_tree(from, &to, &Lay::Copy { reverse }).map_err(|error| match error {
                    InputError::Collision { .. } => taken(),
                    other => other,
                })?;
            }
        }
    }
    Ok(archives)
}

/// Places that belong to the sandbox.
const RESERVED: &[&str] = &["build", "dev", "proc", "run", "sys", "tmp"];
/// Places that hold the toolchain of a `host` environment.
const RESERVED_HOST: &[&str] = &["bin", "etc", "gnu", "lib", "lib32", "lib64", "libx32", "nix", "sbin", "usr"];

/// A folder to bind into the sandbox, read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Absolute path in the sandbox.
    pub at: String,
    /// The folder.
    pub folder: PathBuf,
}

/// Where each need goes: a need that is alone at its place is bound as it is; several at one place, one below another,
/// or with a selection of paths, are laid over each other in a folder below `scratch`, by hard links where the file
/// system allows.
///
/// # Errors
/// [`InputError`] where two have the same file, or a place is not to be had.
pub fn lay_needs(needs: &[(Need, PathBuf)], scratch: &Path, host: bool) -> Result<Vec<Place>, InputError> {
    let mut groups: BTreeMap<&str, Vec<(&str, &Need, &Path)>> = BTreeMap::new();
    let mut places: Vec<&str> = needs.iter().map(|(need, _)| need.at.as_str()).collect();
    places.sort_unstable();
    for (need, folder) in needs {
        check_place(&need.at, host)?;
        // The outermost place that this one is at or below.
        let outermost = places.iter().copied().find(|place| below(place, &need.at).is_some()).unwrap_or(&need.at);
        let inner = below(outermost, &need.at).unwrap_or("");
        groups.entry(outermost).or_default().push((inner, need, folder));
    }
    let mut laid = Vec::new();
    for (number, (at, members)) in groups.into_iter().enumerate() {
        if let [(_, need, folder)] = members.as_slice()
            && need.only.is_empty()
        {
            laid.push(Place { at: at.to_owned(), folder: (*folder).to_owned() });
            continue;
        }
        let merged = scratch.join(format!("need-{number}"));
        for (inner, need, folder) in members {
            let to = merged.join(inner);
            fs::create_dir_all(&merged).map_err(io_at(&merged))?;
            make_folders(&merged, inner, || InputError::Collision { at: at.to_owned(), path: inner.to_owned() })?;
            lay_tree(folder, &to, &Lay::Link { at, only: &need.only })?;
        }
        laid.push(Place { at: at.to_owned(), folder: merged });
    }
    Ok(laid)
}

/// What of `path` lies below `place`; empty where they are equal.
fn below<'a>(place: &str, path: &'a str) -> Option<&'a str> {
    let rest = path.strip_prefix(place)?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix('/') }
}

fn check_place(at: &str, host: bool) -> Result<(), InputError> {
    let refuse = |reason| Err(InputError::Place { at: at.to_owned(), reason });
    let Some(rest) = at.strip_prefix('/').filter(|rest| check_path(rest).is_ok()) else {
        return refuse("not an absolute, normal path");
    };
    let top = rest.split('/').next().unwrap_or(rest);
    if RESERVED.contains(&top) {
        return refuse("this place belongs to the sandbox; /needs/NAME is usual");
    }
    if host && RESERVED_HOST.contains(&top) {
        return refuse("this place holds the machine's own toolchain; /needs/NAME is usual");
    }
    Ok(())
}

/// How a tree is laid out.
enum Lay<'a> {
    /// Writable copies.
    Copy { reverse: bool },
    /// Hard links, or copies where those are not possible, of what is selected.
    Link { at: &'a str, only: &'a [String] },
}

fn lay_tree(from: &Path, to: &Path, how: &Lay<'_>) -> Result<(), InputError> {
    let mut waiting = vec![String::new()];
    while let Some(relative) = waiting.pop() {
        let folder = from.join(&relative);
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(io_at(&folder))? {
            let entry = entry.map_err(io_at(&folder))?;
            names.push((entry.file_name(), entry.file_type().map_err(io_at(&folder))?));
        }
        // The order of creation is the order in which many file systems list a folder again.
        names.sort_by(|a, b| a.0.cmp(&b.0));
        if matches!(how, Lay::Copy { reverse: true }) {
            names.reverse();
        }
        for (name, kind) in names {
            let Some(name) = name.to_str() else { continue };
            let path = join(&relative, name);
            let target = to.join(&path);
            let source = from.join(&path);
            let collision = || {
                let at = if let Lay::Link { at, .. } = how { (*at).to_owned() } else { String::new() };
                InputError::Collision { at, path: path.clone() }
            };
            if kind.is_dir() {
                if !matches!(how, Lay::Link { only, .. } if !only.is_empty()) {
                    make_folders(to, &path, collision)?;
                }
                waiting.push(path);
                continue;
            }
            if let Lay::Link { only, .. } = how
                && !glob::selected(only, &path)
            {
                continue;
            }
            make_folders(to, &relative, collision)?;
            if fs::symlink_metadata(&target).is_ok() {
                return Err(collision());
            }
            if kind.is_symlink() {
                let text = fs::read_link(&source).map_err(io_at(&source))?;
                std::os::unix::fs::symlink(text, &target).map_err(io_at(&target))?;
            } else if matches!(how, Lay::Copy { .. }) || fs::hard_link(&source, &target).is_err() {
                let mode = fs::metadata(&source).map_err(io_at(&source))?.permissions().mode();
                copy_file(&source, &target, if mode & 0o100 == 0 { 0o644 } else { 0o755 })?;
            }
        }
    }
    Ok(())
}

/// The folder that `path` is in; empty where it is in the root.
fn above(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(above, _)| above)
}

/// Makes the folders of `relative` below `root` that are not there. A link in the way is a collision: another input
/// brought it, and what is laid behind it would lie wherever it leads on this machine.
fn make_folders(root: &Path, relative: &str, collision: impl Fn() -> InputError) -> Result<(), InputError> {
    let mut at = root.to_owned();
    for part in relative.split('/').filter(|part| !part.is_empty()) {
        at.push(part);
        match fs::symlink_metadata(&at) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(collision()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(&at).map_err(io_at(&at))?,
            Err(error) => return Err(io_at(&at)(error)),
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path, mode: u32) -> Result<(), InputError> {
    fs::copy(from, to).map_err(io_at(from))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).map_err(io_at(to))
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> InputError + '_ {
    move |error| InputError::Io { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use barnraiser_protocol::id::BlobHash;

    fn need(at: &str, only: &[&str]) -> Need {
        Need { at: at.into(), tree: BlobHash::of(b""), only: only.iter().map(|&p| p.into()).collect() }
    }

    fn folder(home: &Path, name: &str, files: &[&str]) -> PathBuf {
        for file in files {
            let path = home.join(name).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, *file).unwrap();
        }
        home.join(name)
    }

    #[test]
    fn needs_at_one_place_are_laid_over_each_other() {
        let home = tempfile::tempdir().unwrap();
        let zlib = folder(home.path(), "zlib", &["lib/libz.a", "include/zlib.h"]);
        let bzip = folder(home.path(), "bzip", &["lib/libbz2.a", "doc/manual"]);
        let alone = folder(home.path(), "alone", &["x"]);
        let needs =
            [(need("/sysroot", &[]), zlib.clone()), (need("/sysroot/more", &["lib/**"]), bzip), (need("/needs/alone", &[]), alone.clone())];
        let laid = lay_needs(&needs, &home.path().join("scratch"), true).unwrap();
        assert_eq!(laid[0], Place { at: "/needs/alone".into(), folder: alone });
        let merged = &laid[1].folder;
        assert!(merged.join("lib/libz.a").exists() && merged.join("more/lib/libbz2.a").exists());
        assert!(!merged.join("more/doc").exists());
        let clash = [(need("/s", &[]), zlib.clone()), (need("/s", &[]), zlib)];
        assert!(matches!(lay_needs(&clash, &home.path().join("again"), true), Err(InputError::Collision { .. })));
    }

    /// A link of one need must not lead the files of another one out of the folder in which they are merged.
    #[test]
    fn needs_are_not_laid_through_links() {
        let home = tempfile::tempdir().unwrap();
        let outside = home.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let linked = folder(home.path(), "linked", &["file"]);
        std::os::unix::fs::symlink(&outside, linked.join("link")).unwrap();
        let behind = folder(home.path(), "behind", &["link/evil"]);
        let plain = folder(home.path(), "plain", &["evil"]);
        for (number, (at, only, from)) in
            [("/s", &[][..], &behind), ("/s", &["link/*"][..], &behind), ("/s/link", &[][..], &plain), ("/s/link/x", &[][..], &plain)]
                .into_iter()
                .enumerate()
        {
            let needs = [(need("/s", &[]), linked.clone()), (need(at, only), from.clone())];
            let error = lay_needs(&needs, &home.path().join(format!("scratch-{number}")), true).unwrap_err();
            assert!(matches!(error, InputError::Collision { .. }), "{at}: {error}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn needs_cannot_cover_the_sandbox() {
        for at in ["/build/x", "/proc", "/tmp/a", "/usr/lib", "relative", "/a/../b", "/"] {
            let needs = [(need(at, &[]), PathBuf::from("/nonexistent"))];
            let error = lay_needs(&needs, Path::new("/nonexistent"), true).unwrap_err();
            assert!(matches!(error, InputError::Place { .. }), "{at}");
        }
    }
}
