//! What a recipe comes to in one cell: a job, and its symbolic key.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::check;
use super::diagnostic::{Place, cut, list, nearest};
use super::expand::Layout;
use super::file::{Arches, GitPoint, Origin, Recipe, SourceEntry};
use super::needs::Node;
use super::plan::{SourceKind, SourceRequest, SymbolicKey};
use super::reader::Fault;
use super::template::Text;
use crate::action::{ACTION_BYTES_MAX, Environment, Rootfs, Step};
use crate::codec;
use crate::graph::{Job, JobIndex, JobKind, JobNeed, Limits};
use crate::id::BlobHash;

/// Domain of [`SymbolicKey`].
const KEY_DOMAIN: &str = "barnraiser 2026 symbolic key v1";
/// Domain of [`Body::identity`].
const IDENTITY_DOMAIN: &str = "barnraiser 2026 planned job v1";

/// A job with its needs by their number before the jobs are put in order.
pub(super) struct Body {
    pub(super) job: Job,
    /// Which job, and the need with a number that is still to be filled in.
    pub(super) needs: Vec<(usize, JobNeed)>,
    pub(super) sources: Vec<SourceRequest>,
    pub(super) epoch: Option<u64>,
    pub(super) key: SymbolicKey,
    /// Key, recipe, version and limits: jobs that share all of it are one.
    pub(super) identity: [u8; 32],
    pub(super) place: Place,
    /// Bytes of the job's canonical form.
    pub(super) bytes: usize,
}

/// What the symbolic key covers (DESIGN section 13).
#[derive(Serialize)]
struct Keyed<'a> {
    kind: JobKind,
    sources: Vec<(&'a str, SourceIdentity<'a>)>,
    needs: Vec<(SymbolicKey, &'a str, bool, &'a [String])>,
    vars: &'a BTreeMap<String, String>,
    environment: &'a Environment,
    shell: &'a [String],
    steps: &'a [Step],
    outputs: &'a BTreeMap<String, String>,
    epoch: Option<u64>,
    cores: u16,
}

/// What makes a source the same: its hash where it is known, whatever address it comes from.
#[derive(Serialize)]
enum SourceIdentity<'a> {
    Hashed { sha256: Option<&'a str>, blake3: Option<BlobHash>, unpack: bool },
    Other(&'a SourceKind),
}

impl<'a> SourceIdentity<'a> {
    fn of(kind: &'a SourceKind) -> Self {
        match kind {
            SourceKind::Urls { sha256, blake3, unpack, .. } if sha256.is_some() || blake3.is_some() => {
                Self::Hashed { sha256: sha256.as_deref(), blake3: *blake3, unpack: *unpack }
            }
            other => Self::Other(other),
        }
    }
}

impl Layout<'_> {
    /// The job of `node`, whose needs are `needs` with `keys`; `None` where something is wrong with it, which is reported.
    pub(super) fn body(&mut self, node: &Node, needs: &[usize], keys: &[SymbolicKey]) -> Option<Body> {
        let recipe = &self.recipes[node.recipe];
        let cell = &node.cell;
        let environment = self.environment(recipe, cell);
        let vars = self.vars(recipe, cell);
        let outputs = self.outputs(recipe, cell);
        let sources = self.sources(recipe, cell);
        let needs = self.needs(recipe, cell, needs);
        let limits = self.limits(recipe, cell);
        let cores = self.parsed(&recipe.limits.cores, cell, check::cores);
        let version = self.parsed(&recipe.version, cell, own(check::line(64)));
        let job = Job {
            recipe: recipe.name.clone(),
            version: version?,
            cell: self.axes.written(cell),
            kind: recipe.kind,
            sources: Vec::new(),
            needs: Vec::new(),
            vars: vars?,
            environment: environment?,
            shell: recipe.shell.clone(),
            steps: recipe.steps.clone(),
            outputs: outputs?,
            epoch: 0,
            cores: cores?,
            limits: limits?,
            targets: BTreeMap::new(),
        };
        let (sources, needs) = (sources?, needs?);
        let key = key(recipe, &job, &sources, &needs, keys);
        let identity = codec::encode(&(key, &job.recipe, &job.version, &job.limits));
        let bytes = codec::encode(&job).len() + needs.iter().map(|(_, need)| codec::encode(need).len()).sum::<usize>();
        if bytes > ACTION_BYTES_MAX {
            let message = format!("`{}` has {bytes} bytes of text, at most {ACTION_BYTES_MAX} are allowed", job.label());
            self.diagnostics.add(&recipe.place, message, "keep large text in a source");
            return None;
        }
        let identity = blake3::derive_key(IDENTITY_DOMAIN, &identity);
        Some(Body { job, needs, sources, epoch: recipe.epoch, key, identity, place: recipe.place.clone(), bytes })
    }

    fn vars(&mut self, recipe: &Recipe, cell: &[u32]) -> Option<BTreeMap<String, String>> {
        let values: Vec<_> = recipe.vars.iter().map(|(name, text)| Some((name.clone(), self.expanded(text, cell)?))).collect();
        values.into_iter().collect()
    }

    fn outputs(&mut self, recipe: &Recipe, cell: &[u32]) -> Option<BTreeMap<String, String>> {
        let mut outputs = BTreeMap::new();
        let mut whole = true;
        for (name, from) in &recipe.outputs {
            let place = name.place();
            let name = self.parsed(name, cell, own(check::relative_path));
            let from = self.parsed(from, cell, own(check::pattern));
            let (Some(name), Some(from)) = (name, from) else {
                whole = false;
                continue;
            };
            if outputs.contains_key(&name) {
                self.diagnostics.add(place, format!("another output is named `{}` too", cut(&name)), "");
                whole = false;
            }
            outputs.insert(name, from);
        }
        whole.then_some(outputs)
    }

    fn sources(&mut self, recipe: &Recipe, cell: &[u32]) -> Option<Vec<SourceRequest>> {
        let mut names = BTreeSet::new();
        let mut sources = Vec::new();
        for entry in &recipe.sources {
            let name = self.parsed(&entry.name, cell, own(check::source_name));
            let kind = self.source_kind(entry, cell);
            let (Some(name), Some(kind)) = (name, kind) else { continue };
            if !names.insert(name.clone()) {
                self.diagnostics.add(
                    entry.name.place(),
                    format!("another source is named `{}` too", cut(&name)),
                    "both would lie in one place",
                );
            }
            sources.push(SourceRequest { recipe: recipe.name.clone(), name, kind, place: entry.place.clone() });
        }
        (sources.len() == recipe.sources.len()).then_some(sources)
    }

    fn source_kind(&mut self, entry: &SourceEntry, cell: &[u32]) -> Option<SourceKind> {
        Some(match &entry.origin {
            Origin::Urls { urls, sha256, blake3, unpack } => {
                let urls = self.each(urls, cell, check::url);
                let digest = |layout: &mut Self, text: &Option<Text>| match text {
                    Some(text) => layout.parsed(text, cell, check::digest).map(Some),
                    None => Some(None),
                };
                let sha256 = digest(self, sha256);
                let blake3 = digest(self, blake3);
                SourceKind::Urls { urls: urls?, sha256: sha256?.map(|hash| hash.to_string()), blake3: blake3?, unpack: *unpack }
            }
            Origin::Path { path, unpack } => SourceKind::Path {
                recipe_file: entry.place.file().to_owned(),
                path: self.parsed(path, cell, own(check::relative_path))?,
                unpack: *unpack,
            },
            Origin::Git { url, point, submodules } => {
                let url = self.parsed(url, cell, own(check::git_url));
                let point = match point {
                    GitPoint::Rev(rev) => GitPoint::Rev(self.parsed(rev, cell, own(check::commit))?.to_ascii_lowercase()),
                    GitPoint::Branch(branch) => GitPoint::Branch(self.parsed(branch, cell, own(check::branch))?),
                };
                SourceKind::Git { url: url?, point, submodules: *submodules }
            }
        })
    }

    fn needs(&mut self, recipe: &Recipe, cell: &[u32], needs: &[usize]) -> Option<Vec<(usize, JobNeed)>> {
        let mut laid = Vec::with_capacity(needs.len());
        for (entry, number) in recipe.needs.iter().zip(needs) {
            let at = match &entry.at {
                Some(at) => self.parsed(at, cell, own(check::need_place)),
                None => self.expanded(&entry.recipe, cell).map(|name| format!("/needs/{name}")),
            };
            let only = self.each(&entry.only, cell, check::pattern);
            let (Some(at), Some(only)) = (at, only) else { continue };
            laid.push((*number, JobNeed { job: JobIndex(0), at, closure: entry.closure, only }));
        }
        (laid.len() == recipe.needs.len()).then_some(laid)
    }

    fn limits(&mut self, recipe: &Recipe, cell: &[u32]) -> Option<Limits> {
        let limits = &recipe.limits;
        let memory = self.parsed(&limits.memory, cell, check::size);
        let disk = self.parsed(&limits.disk, cell, check::size);
        let wall = self.parsed(&limits.wall, cell, check::duration);
        let silent = self.parsed(&limits.silent, cell, check::duration);
        Some(Limits { memory: memory?, disk: disk?, wall: wall?, silent: silent? })
    }

    fn environment(&mut self, recipe: &Recipe, cell: &[u32]) -> Option<Environment> {
        let rootfs = self.rootfs(&recipe.environment.rootfs, cell);
        let os = self.parsed(&recipe.platform.os, cell, own(check::system));
        let isa = match &recipe.platform.isa {
            Some(isa) => self.parsed(isa, cell, own(check::feature)),
            None => Some(String::new()),
        };
        let features = self.each(&recipe.platform.features, cell, check::feature);
        let programs = self.each(&recipe.environment.programs, cell, check::program);
        let (rootfs, os) = (rootfs?, os?);
        let arch = self.arches(recipe, cell, &os, &rootfs);
        // A tree has the programs that it has; only of a host something can be asked.
        let programs = if rootfs == Rootfs::Host { programs? } else { Vec::new() };
        Some(Environment {
            rootfs,
            os,
            arch: arch?,
            isa: isa?,
            features: features?.into_iter().collect(),
            programs: programs.into_iter().collect(),
        })
    }

    fn rootfs(&mut self, text: &Text, cell: &[u32]) -> Option<Rootfs> {
        let name = self.parsed(text, cell, own(check::rootfs))?;
        if name == "host" {
            return Some(Rootfs::Host);
        }
        if let Some(tree) = name.parse().ok().or_else(|| self.options.environments.get(&name).copied()) {
            return Some(Rootfs::Tree(tree));
        }
        let known: Vec<&str> = self.options.environments.keys().map(String::as_str).collect();
        let help = match nearest(&name, known.iter().copied()) {
            Some(right) => format!("did you mean `{right}`?"),
            None if known.is_empty() => "it has none; write \"host\", or name one by `barn env add`".into(),
            None => format!("it has {}", list(&known)),
        };
        self.diagnostics.add(text.place(), format!("environment {name} is not known in this network"), help);
        None
    }

    /// The architectures that may build, less those on which the recipe is never built.
    fn arches(&mut self, recipe: &Recipe, cell: &[u32], os: &str, rootfs: &Rootfs) -> Option<BTreeSet<String>> {
        let platform = &recipe.platform;
        let mut arches: BTreeSet<String> = match &platform.arches {
            Arches::Each(_) => {
                let axis = self.axes.value(cell, super::matrix::ARCH);
                return Some(axis.map(str::to_owned).into_iter().collect());
            }
            Arches::Any(texts) => self.each(texts, cell, check::architecture)?.into_iter().collect(),
        };
        if arches.is_empty() && *rootfs == Rootfs::Host {
            arches.extend((!self.options.default_arch.is_empty()).then(|| self.options.default_arch.clone()));
        }
        let nevers: Vec<_> = platform.never.iter().filter(|never| never.os == os).collect();
        let Some(first) = nevers.first() else { return Some(arches) };
        if arches.is_empty() {
            arches = check::ARCHITECTURES.map(str::to_owned).into();
        }
        arches.retain(|arch| !nevers.iter().any(|never| never.arch.as_ref().is_none_or(|other| other == arch)));
        if arches.is_empty() {
            self.diagnostics.add(&first.place, format!("`never` leaves no machine on which `{}` could be built", recipe.name), "");
            return None;
        }
        Some(arches)
    }

    /// Why the recipe is never built in `cell`, if so: only where `each` makes a job for each architecture. `None`
    /// outside where the cell has an error.
    pub(super) fn never(&mut self, recipe: usize, cell: &[u32]) -> Option<Option<String>> {
        let platform = &self.recipes[recipe].platform;
        if platform.never.is_empty() || !matches!(platform.arches, Arches::Each(_)) {
            return Some(None);
        }
        let os = self.parsed(&platform.os, cell, own(check::system))?;
        let arch = self.axes.value(cell, super::matrix::ARCH);
        let is_this = |never: &&super::file::Never| never.os == os && never.arch.as_deref().is_none_or(|other| Some(other) == arch);
        Some(platform.never.iter().find(is_this).map(|never| never.reason.clone()))
    }

    fn each(&mut self, texts: &[Text], cell: &[u32], check: impl Fn(&str) -> Result<(), Fault>) -> Option<Vec<String>> {
        let check = own(check);
        let values: Vec<_> = texts.iter().map(|text| self.parsed(text, cell, &check)).collect();
        values.into_iter().collect()
    }
}

/// The text itself, where `check` accepts it.
fn own(check: impl Fn(&str) -> Result<(), Fault>) -> impl Fn(&str) -> Result<String, Fault> {
    move |text| check(text).map(|()| text.to_owned())
}

fn key(recipe: &Recipe, job: &Job, sources: &[SourceRequest], needs: &[(usize, JobNeed)], keys: &[SymbolicKey]) -> SymbolicKey {
    let keyed = Keyed {
        kind: job.kind,
        sources: sources.iter().map(|source| (source.name.as_str(), SourceIdentity::of(&source.kind))).collect(),
        needs: needs.iter().zip(keys).map(|((_, need), key)| (*key, need.at.as_str(), need.closure, need.only.as_slice())).collect(),
        vars: &job.vars,
        environment: &job.environment,
        shell: &job.shell,
        steps: &job.steps,
        outputs: &job.outputs,
        epoch: recipe.epoch,
        cores: job.cores,
    };
    SymbolicKey(blake3::derive_key(KEY_DOMAIN, &codec::encode(&keyed)))
}
