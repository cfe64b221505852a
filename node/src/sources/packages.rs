//! Sources that come through a package client: `crate:NAME@VERSION` by cargo, `debian:NAME=VERSION` by apt-get.
//!
//! The client knows the registry, its mirrors, its proxies and how to check what it gets; no registry is named here.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command::Program;
use super::error::{AttemptError, CommandError};

/// Longest time for a package client: an index and a few archives.
const CLIENT_MAX: Duration = Duration::from_secs(600);
const CRATE_FORM: &str = "crate:NAME@VERSION, for example crate:lua-src@547.0.0";
const DEBIAN_FORM: &str = "debian:NAME=VERSION, for example debian:tree=2.1.0-1";

/// A package in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Package {
    name: String,
    version: String,
}

impl Package {
    /// The package that the part of an address behind `crate:` names.
    pub(super) fn of_crate(text: &str) -> Result<Self, AttemptError> {
        let bad = |reason: &str| AttemptError::BadName { reason: reason.to_owned(), form: CRATE_FORM };
        let (name, version) = text.split_once('@').ok_or_else(|| bad("no version is given"))?;
        if !is_word(name, "-_") || name.starts_with(['-', '_']) {
            return Err(bad("the name is not a crate's"));
        }
        if !is_word(version, ".-+") || !version.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(bad("the version is not a full version"));
        }
        Ok(Self { name: name.to_owned(), version: version.to_owned() })
    }

    /// The package that the part of an address behind `debian:` names.
    pub(super) fn of_debian(text: &str) -> Result<Self, AttemptError> {
        let bad = |reason: &str| AttemptError::BadName { reason: reason.to_owned(), form: DEBIAN_FORM };
        let (name, version) = text.split_once('=').ok_or_else(|| bad("no version is given"))?;
        if !is_word(name, "+-.") || name.starts_with(['-', '+', '.']) {
            return Err(bad("the name is not a source package's"));
        }
        if !is_word(version, ".+-~:") || version.starts_with('-') {
            return Err(bad("the version is not one"));
        }
        Ok(Self { name: name.to_owned(), version: version.to_owned() })
    }

    /// The archives of this crate that cargo keeps, with those that it can fetch if it keeps none. Several registries
    /// may have given one of that name: all are listed, and the hash decides.
    ///
    /// `scratch` must be an empty folder.
    pub(super) fn crate_archives(&self, cargo_home: Option<&Path>, scratch: &Path) -> Result<Vec<PathBuf>, AttemptError> {
        let home = match cargo_home {
            Some(home) => home.to_owned(),
            None => default_cargo_home().ok_or_else(|| AttemptError::NoFile {
                program: "cargo",
                missing: String::from("its home"),
                advice: "set CARGO_HOME",
            })?,
        };
        let kept = self.in_cargo_cache(&home)?;
        if !kept.is_empty() {
            return Ok(kept);
        }
        self.cargo_fetch(&home, scratch)?;
        let kept = self.in_cargo_cache(&home)?;
        if kept.is_empty() {
            return Err(AttemptError::NoFile {
                program: "cargo fetch",
                missing: format!("registry/cache/*/{}-{}.crate in {}", self.name, self.version, home.display()),
                advice: "is the registry replaced by a vendored folder in cargo's configuration?",
            });
        }
        Ok(kept)
    }

    /// Whether cargo keeps the archive of this crate already.
    pub(super) fn is_cached(&self, cargo_home: Option<&Path>) -> bool {
        let home = cargo_home.map(Path::to_owned).or_else(default_cargo_home);
        home.is_some_and(|home| self.in_cargo_cache(&home).is_ok_and(|kept| !kept.is_empty()))
    }

    fn in_cargo_cache(&self, home: &Path) -> Result<Vec<PathBuf>, AttemptError> {
        let cache = home.join("registry/cache");
        let registries = match std::fs::read_dir(&cache) {
            Ok(registries) => registries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(AttemptError::Disk { doing: "reading", path: cache, error }),
        };
        let file = format!("{}-{}.crate", self.name, self.version);
        let mut found = Vec::new();
        for registry in registries {
            let archive = registry.map_err(AttemptError::disk("reading", &cache))?.path().join(&file);
            if archive.is_file() {
                found.push(archive);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Lets cargo fetch the crate, as the one dependency of a package that is made for it.
    fn cargo_fetch(&self, home: &Path, scratch: &Path) -> Result<(), AttemptError> {
        let manifest = scratch.join("Cargo.toml");
        // The empty [workspace] keeps cargo from looking for one in the folders above.
        let text = format!(
            "[package]\nname = \"barnraiser-source\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\n[lib]\npath = \"lib.rs\"\n\n\
             [dependencies]\n{} = \"={}\"\n\n[workspace]\n",
            self.name, self.version
        );
        std::fs::write(&manifest, text).map_err(AttemptError::disk("writing", &manifest))?;
        let library = scratch.join("lib.rs");
        std::fs::write(&library, "").map_err(AttemptError::disk("writing", &library))?;
        Program::new("cargo", CLIENT_MAX, "`crate:` sources come through it: install Rust, or give an https address")
            .with(|command| {
                command.args(["fetch", "--quiet", "--manifest-path"]).arg(&manifest).current_dir(scratch).env("CARGO_HOME", home);
            })
            .output()?;
        Ok(())
    }

    /// Lets apt-get fetch the source package into `scratch`, an empty folder, and gives the upstream archive.
    pub(super) fn debian_archive(&self, scratch: &Path) -> Result<PathBuf, AttemptError> {
        let wanted = format!("{}={}", self.name, self.version);
        let fetched =
            Program::new("apt-get", CLIENT_MAX, "`debian:` sources come through it: use a Debian machine, or give an https address")
                .with(|command| {
                    command.args(["source", "--download-only", "--quiet=2", "--only-source", "--", &wanted]).current_dir(scratch);
                })
                .output();
        if let Err(error) = fetched {
            return Err(with_apt_advice(error).into());
        }
        let mut archives = Vec::new();
        for entry in std::fs::read_dir(scratch).map_err(AttemptError::disk("reading", scratch))? {
            let path = entry.map_err(AttemptError::disk("reading", scratch))?.path();
            if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| is_upstream_archive(name, &self.name)) {
                archives.push(path);
            }
        }
        archives.sort();
        archives.into_iter().next().ok_or_else(|| AttemptError::NoFile {
            program: "apt-get source",
            missing: format!("{}_*.orig.tar.* in {}", self.name, scratch.display()),
            advice: "is it a package without upstream archive?",
        })
    }
}

/// Whether `name` is the upstream archive (`NAME_VERSION.orig.tar.EXT`), or all of a package that has no upstream
/// (`NAME_VERSION.tar.EXT`); not one of the further components or Debian's own part.
fn is_upstream_archive(name: &str, package: &str) -> bool {
    let Some(rest) = name.strip_prefix(package).and_then(|rest| rest.strip_prefix('_')) else { return false };
    let Some((before, ending)) = rest.split_once(".tar.") else { return false };
    !ending.contains('.') && !before.ends_with(".debian") && !before.contains(".orig-")
}

fn with_apt_advice(error: CommandError) -> CommandError {
    match error {
        CommandError::Failed { program, status, said, .. } => {
            let advice = if said.contains("deb-src") {
                "; add `deb-src` to the Types of /etc/apt/sources.list.d/debian.sources (or deb-src lines to sources.list) and run `apt-get update`"
            } else if said.contains("Can not find version") || said.contains("Unable to find a source package") {
                "; run `apt-get update`, and see with `apt-cache showsrc` which versions there are"
            } else {
                ""
            };
            CommandError::Failed { program, status, said, advice: advice.to_owned() }
        }
        other => other,
    }
}

fn default_cargo_home() -> Option<PathBuf> {
    match std::env::var_os("CARGO_HOME") {
        Some(home) if !home.is_empty() => Some(home.into()),
        _ => std::env::home_dir().map(|home| home.join(".cargo")),
    }
}

/// Whether `text` is 1 to 128 ASCII letters, digits and characters of `others`.
fn is_word(text: &str, others: &str) -> bool {
    (1..=128).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_that_could_be_options_or_paths_are_refused() {
        for text in ["", "lua-src", "@1.0.0", "-q@1.0.0", "a/b@1.0.0", "a@", "a@latest", "a@1\"\n[x]", "a@-1"] {
            assert!(matches!(Package::of_crate(text), Err(AttemptError::BadName { .. })), "{text:?}");
        }
        for text in ["", "tree", "=1", "-o=1", "a/b=1", "tree=", "tree=-1", "tree=1 2"] {
            assert!(matches!(Package::of_debian(text), Err(AttemptError::BadName { .. })), "{text:?}");
        }
        Package::of_crate("zstd-sys@2.0.16+zstd.1.5.7").unwrap();
        Package::of_debian("g++-x=1:2.0~rc1+dfsg-3").unwrap();
    }

    #[test]
    fn upstream_archive_is_told_from_the_other_files() {
        for name in ["tree_2.1.0.orig.tar.gz", "tree_2.1.0.tar.xz"] {
            assert!(is_upstream_archive(name, "tree"), "{name}");
        }
        for name in
            ["tree_2.1.0-1.debian.tar.xz", "tree_2.1.0-1.dsc", "tree_2.1.0.orig-po.tar.gz", "tree_2.1.0.orig.tar.gz.asc", "treex_1.tar.gz"]
        {
            assert!(!is_upstream_archive(name, "tree"), "{name}");
        }
    }

    /// What cargo has fetched before needs no network.
    #[test]
    fn crate_in_the_cache_of_cargo_is_found_there() {
        let home = tempfile::tempdir().unwrap();
        let archive = home.path().join("registry/cache/some-registry/lua-src-547.0.0.crate");
        std::fs::create_dir_all(archive.parent().unwrap()).unwrap();
        std::fs::write(&archive, "bytes").unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let found = Package::of_crate("lua-src@547.0.0").unwrap().crate_archives(Some(home.path()), scratch.path()).unwrap();
        assert_eq!(found, [archive]);
    }

    #[test]
    fn missing_deb_src_comes_with_what_to_do() {
        let error = CommandError::Failed {
            program: "apt-get",
            status: "exit code 100".into(),
            said: "E: You must put some 'deb-src' URIs in your sources.list".into(),
            advice: String::new(),
        };
        assert!(with_apt_advice(error).to_string().contains("apt-get update"));
    }
}
