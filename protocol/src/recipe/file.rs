//! A recipe as its maintainer wrote it: its parts with their places, axes not expanded yet.

use super::diagnostic::{Diagnostic, Place, SourceText};
use super::reader::Reader;
use super::template::Text;
use super::{sections, value};
use crate::action::Step;
use crate::graph::JobKind;

/// What a file may leave out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ParseOptions {
    /// Sources with `urls` may have no hash yet: `barn lock` is about to write it.
    pub allow_missing_hashes: bool,
}

/// A recipe that was read, whatever it mentions still unexpanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// Unique in a batch.
    pub name: String,
    /// Where the name is written.
    pub place: Place,
    /// For people; empty if not given.
    pub version: Text,
    /// Voted on or not.
    pub kind: JobKind,
    /// For people, one line; axes are not expanded in it.
    pub summary: String,
    /// `SOURCE_DATE_EPOCH` in seconds, where it is not the newest date of the sources.
    pub epoch: Option<u64>,
    /// Environment variables of the steps.
    pub vars: Vec<(String, Text)>,
    /// In the order of the file.
    pub sources: Vec<SourceEntry>,
    /// What the build sees beside its inputs.
    pub environment: EnvironmentEntry,
    /// In the order of the file.
    pub needs: Vec<NeedEntry>,
    /// Program and arguments that run a step, the script on standard input.
    pub shell: Vec<String>,
    /// In the order of the file.
    pub steps: Vec<Step>,
    /// Name in the artefact, and file, folder or glob after the build.
    pub outputs: Vec<(Text, Text)>,
    /// Limits of a build.
    pub limits: RecipeLimits,
    /// The machine that builds.
    pub platform: PlatformEntry,
}

/// One `[[source]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceEntry {
    /// The place below `/build`: a folder for what is unpacked and for trees, else the file itself.
    pub name: Text,
    /// Where the `[[source]]` begins.
    pub place: Place,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a source comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Fetched from the first of `urls` that has it.
    Urls {
        /// Tried in order.
        urls: Vec<Text>,
        /// 64 hexadecimal digits, once expanded.
        sha256: Option<Text>,
        /// 64 hexadecimal digits, once expanded.
        blake3: Option<Text>,
        /// Unpacked in the sandbox, one leading folder stripped.
        unpack: bool,
    },
    /// A file or folder beside the recipe.
    Path {
        /// Relative to the recipe's folder.
        path: Text,
        /// A file that is an archive to be unpacked; false unless written.
        unpack: bool,
    },
    /// The tree of a commit.
    Git {
        /// The repository.
        url: Text,
        /// Which commit.
        point: GitPoint<Text>,
        /// With the trees of its submodules.
        submodules: bool,
    },
}

/// What names a commit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GitPoint<T> {
    /// The commit's id.
    Rev(T),
    /// The newest commit of a branch, at submit.
    Branch(T),
}

/// `[environment]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentEntry {
    /// `host`, a hash, or an environment's name with its version. Default `host`.
    pub rootfs: Text,
    /// What a `host` must have on its `PATH`.
    pub programs: Vec<Text>,
}

/// One `[[need]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeedEntry {
    /// Where the `[[need]]` begins.
    pub place: Place,
    /// The other recipe.
    pub recipe: Text,
    /// Axes of the other cell that differ from this one; with the place of each key.
    pub with: Vec<(String, Place, Text)>,
    /// Absolute path in the sandbox; default `/needs/RECIPE`.
    pub at: Option<Text>,
    /// With all that the other needs itself.
    pub closure: bool,
    /// Patterns; empty means all.
    pub only: Vec<Text>,
}

/// `[limits]`, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipeLimits {
    /// Default 1.
    pub cores: Text,
    /// Default 2 GiB.
    pub memory: Text,
    /// Default 4 GiB.
    pub disk: Text,
    /// Default 60 min.
    pub wall: Text,
    /// Default 10 min.
    pub silent: Text,
}

/// `[platform]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformEntry {
    /// Default `linux`.
    pub os: Text,
    /// Which architectures.
    pub arches: Arches,
    /// Least ISA level; empty means any.
    pub isa: Option<Text>,
    /// What the machine must have.
    pub features: Vec<Text>,
    /// Where it is never built.
    pub never: Vec<Never>,
}

/// Which architectures build a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arches {
    /// Any of these; empty means any at all, or with a `host` root file system the submitter's own.
    Any(Vec<Text>),
    /// A job for each, with its place.
    Each(Vec<(String, Place)>),
}

/// A platform on which a recipe is never built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Never {
    /// Where it is written.
    pub place: Place,
    /// Operating system.
    pub os: String,
    /// Architecture; `None` for all.
    pub arch: Option<String>,
    /// Why, for people.
    pub reason: String,
}

impl Recipe {
    /// Every text in which axes are expanded, but for those of needs.
    pub(super) fn texts(&self) -> Vec<&Text> {
        let mut texts = vec![&self.version, &self.environment.rootfs, &self.platform.os];
        texts.extend(self.vars.iter().map(|(_, value)| value));
        for source in &self.sources {
            texts.push(&source.name);
            match &source.origin {
                Origin::Urls { urls, sha256, blake3, .. } => texts.extend(urls.iter().chain(sha256).chain(blake3)),
                Origin::Path { path, .. } => texts.push(path),
                Origin::Git { url, point: GitPoint::Rev(point) | GitPoint::Branch(point), .. } => texts.extend([url, point]),
            }
        }
        texts.extend(&self.environment.programs);
        texts.extend(self.outputs.iter().flat_map(|(name, from)| [name, from]));
        let limits = &self.limits;
        texts.extend([&limits.cores, &limits.memory, &limits.disk, &limits.wall, &limits.silent]);
        if let Arches::Any(arches) = &self.platform.arches {
            texts.extend(arches);
        }
        texts.extend(self.platform.isa.iter().chain(&self.platform.features));
        texts
    }
}

/// Reads a recipe: TOML, or JSON where the name ends in `.json` or the text starts with `{`.
///
/// # Errors
/// Every error of the file, at most [`super::DIAGNOSTICS_MAX`]; a file that is no TOML or JSON at all gives only its
/// syntax errors.
pub fn parse_recipe(file_name: &str, text: &str) -> Result<Recipe, Vec<Diagnostic>> {
    parse_recipe_with(file_name, text, ParseOptions::default())
}

/// [`parse_recipe`] with options.
///
/// # Errors
/// As [`parse_recipe`].
pub fn parse_recipe_with(file_name: &str, text: &str, options: ParseOptions) -> Result<Recipe, Vec<Diagnostic>> {
    let source = SourceText::new(file_name, text);
    let mut reader = Reader::new(source.clone());
    let recipe = value::parse(&source, &mut reader.diagnostics).and_then(|node| sections::recipe(&mut reader, &node, options));
    reader.diagnostics.into_result(recipe)
}
