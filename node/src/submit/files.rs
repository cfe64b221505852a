//! Finds and reads the files of a batch: itself, and the recipes that its patterns name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use barnraiser_protocol::recipe::{
    BatchFile, DIAGNOSTICS_MAX, Diagnostic, FILE_BYTES_MAX, Place, Recipe, is_batch, parse_batch, parse_recipe,
};

use crate::api::Submit;
use crate::builder::glob;

/// What messages call a file that came on standard input; relative paths in it begin at its folder.
const STANDARD_INPUT: &str = "(standard input)";
/// The most recipes of one batch; a matrix makes many jobs of one.
const RECIPES_MAX: usize = 10_000;
/// The most bytes of all recipes of one batch.
const RECIPE_BYTES_MAX: usize = 64 << 20;
/// The most entries of folders that one pattern may look at. More than any collection of recipes has; far less than a
/// whole disk, where a `**` in the wrong place leads.
const ENTRIES_MAX: usize = 100_000;
/// How many folders deep a `**` looks.
const DEPTH_MAX: usize = 16;

/// The batch and its recipes. A recipe alone is a batch of one, with the recipes beside it that it needs.
///
/// # Errors
/// All that is wrong with all files, in the order in which they were found.
pub(super) fn read(request: &Submit) -> Result<(BatchFile, Vec<Recipe>), Vec<Diagnostic>> {
    let (path, text) = match &request.text {
        Some(text) if text.len() > FILE_BYTES_MAX => {
            return Err(vec![of_file(Path::new(STANDARD_INPUT), too_large())]);
        }
        Some(text) => (request.path.join(STANDARD_INPUT), text.clone()),
        None => (request.path.clone(), text_of(&request.path).map_err(|reason| vec![of_file(&request.path, reason)])?),
    };
    let name = path.display().to_string();
    if !is_batch(&name, &text) {
        let recipe = parse_recipe(&name, &text)?;
        let batch = BatchFile::of_recipe(&recipe);
        return Ok((batch, with_needed(recipe, &path)?));
    }
    let batch = parse_batch(&name, &text)?;
    let mut wrong = Vec::new();
    let files = recipe_files(&batch, &path, &mut wrong);
    let mut recipes = Vec::with_capacity(files.len());
    let mut bytes = 0;
    for (file, place) in files {
        match text_of(&file) {
            Err(reason) => wrong.push(place.diagnostic(format!("{}: {reason}", file.display()), "")),
            Ok(text) => {
                bytes += text.len();
                if bytes > RECIPE_BYTES_MAX {
                    let message = format!("the recipes have more than {} MiB together", RECIPE_BYTES_MAX >> 20);
                    wrong.push(place.diagnostic(message, "submit the batch in parts"));
                    break;
                }
                match parse_recipe(&file.display().to_string(), &text) {
                    Ok(recipe) => recipes.push(recipe),
                    Err(diagnostics) => wrong.extend(diagnostics),
                }
            }
        }
        if wrong.len() > DIAGNOSTICS_MAX {
            break;
        }
    }
    if wrong.is_empty() { Ok((batch, recipes)) } else { Err(wrong) }
}

/// `recipe`, which is in the file `path`, and all that it needs, by way of others too, of what lies beside it: `NAME.toml`
/// or `NAME.json`. A need whose file is not there is left out: the plan says where it is missing.
fn with_needed(recipe: Recipe, path: &Path) -> Result<Vec<Recipe>, Vec<Diagnostic>> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut seen = BTreeSet::from([recipe.name.clone()]);
    let mut recipes = vec![recipe];
    let (mut next, mut bytes) = (0, 0);
    while let Some(recipe) = recipes.get(next) {
        next += 1;
        let needs: Vec<(String, Place)> = recipe.needs.iter().map(|need| (need.recipe.written(), need.place.clone())).collect();
        for (name, place) in needs {
            // A name with a slash in it would look elsewhere than beside it.
            if name.contains('/') || !seen.insert(name.clone()) {
                continue;
            }
            let candidates = [format!("{name}.toml"), format!("{name}.json")].map(|file| folder.join(file));
            let Some(file) = candidates.into_iter().find(|file| file.is_file()) else { continue };
            let text = text_of(&file).map_err(|reason| vec![place.diagnostic(format!("{}: {reason}", file.display()), "")])?;
            bytes += text.len();
            if bytes > RECIPE_BYTES_MAX || recipes.len() >= RECIPES_MAX {
                return Err(vec![place.diagnostic("this recipe and what it needs are too much for one batch".to_owned(), "")]);
            }
            recipes.push(parse_recipe(&file.display().to_string(), &text)?);
        }
    }
    Ok(recipes)
}

/// The files that the batch's patterns name, each once, with the pattern's place.
fn recipe_files(batch: &BatchFile, path: &Path, wrong: &mut Vec<Diagnostic>) -> Vec<(PathBuf, Place)> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let itself = path.canonicalize().ok();
    let mut found: BTreeMap<PathBuf, (PathBuf, Place)> = BTreeMap::new();
    for (pattern, place) in &batch.recipes {
        let files = match matching(folder, pattern) {
            Ok(files) if files.is_empty() => {
                let message = format!("no file fits {pattern:?}");
                wrong.push(place.diagnostic(message, format!("it is looked for in {}", folder.display())));
                continue;
            }
            Ok(files) => files,
            Err(reason) => {
                wrong.push(place.diagnostic(reason, ""));
                continue;
            }
        };
        for file in files {
            // One file may go by two names; a batch may lie among its recipes.
            let real = file.canonicalize().unwrap_or_else(|_| file.clone());
            if itself.as_ref() != Some(&real) || !glob::is_glob(pattern) {
                found.entry(real).or_insert_with(|| (file, place.clone()));
            }
        }
        if found.len() > RECIPES_MAX {
            wrong.push(place.diagnostic(format!("the patterns fit more than {RECIPES_MAX} files"), "submit the batch in parts"));
            break;
        }
    }
    found.into_values().collect()
}

/// The files below `folder` that `pattern` names, in order. A name without wildcards is taken as it is: whether it is
/// there shows when it is read.
fn matching(folder: &Path, pattern: &str) -> Result<BTreeSet<PathBuf>, String> {
    let (base, rest) = glob::split_base(pattern);
    let base = if base.is_empty() && pattern.starts_with('/') { "/" } else { base };
    let base = folder.join(base);
    if rest.is_empty() {
        return Ok(BTreeSet::from([base]));
    }
    let any_depth = rest.split('/').any(|part| part == "**");
    let mut walk = Walk {
        pattern: rest,
        depth: if any_depth { DEPTH_MAX } else { rest.split('/').count() },
        // A link to a folder above would never end under `**`.
        follow: !any_depth,
        hidden: rest.split('/').any(|part| part.starts_with('.')),
        entries: 0,
        found: BTreeSet::new(),
    };
    if base.is_dir() {
        walk.folder(&base, "", 1)?;
    }
    Ok(walk.found)
}

struct Walk<'a> {
    pattern: &'a str,
    depth: usize,
    follow: bool,
    hidden: bool,
    entries: usize,
    found: BTreeSet<PathBuf>,
}

impl Walk<'_> {
    /// `name` is the folder's path below the base, empty or with a slash at its end.
    fn folder(&mut self, folder: &Path, name: &str, depth: usize) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(format!("{:?} looks at more than {ENTRIES_MAX} files: name the folder more closely", self.pattern));
            }
            // A pattern is text, so it can't mean a name that is none.
            let Some(own) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if own.starts_with('.') && !self.hidden {
                continue;
            }
            let (path, name) = (entry.path(), format!("{name}{own}"));
            let is_link = entry.file_type().map_err(failed)?.is_symlink();
            // A link that leads nowhere is neither.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if metadata.is_dir() {
                if depth < self.depth && (self.follow || !is_link) {
                    self.folder(&path, &format!("{name}/"), depth + 1)?;
                }
            } else if metadata.is_file() && glob::matches(self.pattern, &name) {
                self.found.insert(path);
            }
        }
        Ok(())
    }
}

fn of_file(path: &Path, reason: String) -> Diagnostic {
    Diagnostic { file: path.display().to_string(), line: 1, column: 1, message: reason, help: String::new() }
}

fn too_large() -> String {
    format!("larger than {FILE_BYTES_MAX} bytes, the most a recipe or batch may have")
}

/// The text of a file, or why it can't be had.
fn text_of(path: &Path) -> Result<String, String> {
    // A pipe or device would be waited for, and may never end.
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Err("not a file".into()),
        Ok(_) => {}
        Err(error) => return Err(format!("can't be read: {error}")),
    }
    let file = fs::File::open(path).map_err(|error| format!("can't be read: {error}"))?;
    let mut bytes = Vec::new();
    let limit = FILE_BYTES_MAX as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(|error| format!("can't be read: {error}"))?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(too_large());
    }
    String::from_utf8(bytes).map_err(|error| format!("is not text: the byte at offset {} is not UTF-8", error.utf8_error().valid_up_to()))
}
