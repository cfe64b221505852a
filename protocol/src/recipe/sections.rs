//! The sections of a recipe, each from its table to its type.

use super::check::{self, accepts};
use super::diagnostic::{Diagnostics, Place};
use super::file::{
    Arches, EnvironmentEntry, GitPoint, NeedEntry, Never, Origin, ParseOptions, PlatformEntry, Recipe, RecipeLimits, SourceEntry,
};
use super::reader::{Fields, Reader};
use super::template::{Text, check_axis_name};
use super::value::{Node, Value};
use crate::action::Step;
use crate::graph::JobKind;

const SECTIONS: [&str; 9] = ["recipe", "vars", "source", "environment", "need", "steps", "outputs", "limits", "platform"];
const RECIPE_KEYS: [&str; 5] = ["name", "version", "kind", "summary", "epoch"];
const SOURCE_KEYS: [&str; 10] = ["name", "urls", "sha256", "blake3", "unpack", "path", "git", "rev", "branch", "submodules"];
const NEED_KEYS: [&str; 5] = ["recipe", "with", "at", "closure", "only"];
const LIMIT_KEYS: [&str; 5] = ["cores", "memory", "disk", "wall", "silent"];
const PLATFORM_KEYS: [&str; 6] = ["os", "arch", "each", "isa", "features", "never"];

/// The last second of the year 9999.
const EPOCH_MAX: i64 = 253_402_300_799;

/// The recipe that a file's top table is; `None` or errors in the reader where it is none.
pub(super) fn recipe(reader: &mut Reader, node: &Node, options: ParseOptions) -> Option<Recipe> {
    let top = reader.fields("a recipe", node, &SECTIONS)?;
    let head = recipe_head(reader, top);
    let vars = vars(reader, top);
    let sources = sources(reader, top, options);
    let environment = environment(reader, top);
    let needs = needs(reader, top);
    let (shell, steps) = steps(reader, top);
    let kind = head.as_ref().map_or(JobKind::Build, |head| head.kind);
    let outputs = outputs(reader, top, kind);
    let limits = limits(reader, top);
    let platform = platform(reader, top);
    let head = head?;
    Some(Recipe {
        name: head.name?,
        place: head.place,
        version: head.version,
        kind,
        summary: head.summary,
        epoch: head.epoch,
        vars,
        sources,
        environment,
        needs,
        shell,
        steps,
        outputs,
        limits,
        platform,
    })
}

struct Head {
    name: Option<String>,
    place: Place,
    version: Text,
    kind: JobKind,
    summary: String,
    epoch: Option<u64>,
}

fn recipe_head(reader: &mut Reader, top: Fields<'_>) -> Option<Head> {
    let node = reader.required(top, "recipe", "begin with `[recipe]` and `name = …`")?;
    let fields = reader.fields("[recipe]", node, &RECIPE_KEYS)?;
    let name_node = reader.required(fields, "name", "write for example `name = \"lua\"`");
    let place = name_node.map_or_else(|| reader.fields_place(fields), |node| reader.place(node.at));
    let name = name_node.and_then(|node| reader.checked("name", node, check::recipe_name));
    let version = fields.field("version").and_then(|node| reader.checked_text("version", node, check::line(64)));
    let kind = fields.field("kind").and_then(|node| {
        let text = reader.string("kind", node)?;
        match text.as_str() {
            "build" => Some(JobKind::Build),
            "check" => Some(JobKind::Check),
            _ => {
                reader.error(
                    node.at,
                    format!("{:?} is no kind of recipe", super::diagnostic::cut(&text)),
                    "\"build\" or \"check\" is wanted",
                );
                None
            }
        }
    });
    let summary = fields.field("summary").and_then(|node| reader.checked("summary", node, check::line(256)));
    let epoch = fields.field("epoch").and_then(|node| reader.integer("epoch", node, 0, EPOCH_MAX));
    Some(Head {
        name,
        version: version.unwrap_or_else(|| Text::plain("", place.clone())),
        place,
        kind: kind.unwrap_or(JobKind::Build),
        summary: summary.unwrap_or_default(),
        epoch: epoch.and_then(|seconds| u64::try_from(seconds).ok()),
    })
}

fn vars(reader: &mut Reader, top: Fields<'_>) -> Vec<(String, Text)> {
    let Some(fields) = top.field("vars").and_then(|node| reader.free_fields("[vars]", node)) else { return Vec::new() };
    let mut vars = Vec::new();
    for entry in fields.entries() {
        if let Err((message, help)) = check::variable_name(&entry.key) {
            reader.error(entry.key_at, message, help);
        } else if let Some(value) = reader.checked_text(&entry.key, &entry.node, check::variable_value) {
            vars.push((entry.key.clone(), value));
        }
    }
    vars
}

fn sources(reader: &mut Reader, top: Fields<'_>, options: ParseOptions) -> Vec<SourceEntry> {
    let Some(node) = top.field("source") else { return Vec::new() };
    let tables = reader.tables("[[source]]", node, &SOURCE_KEYS);
    tables.into_iter().filter_map(|fields| source(reader, fields, options)).collect()
}

fn source(reader: &mut Reader, fields: Fields<'_>, options: ParseOptions) -> Option<SourceEntry> {
    let place = reader.fields_place(fields);
    let name = reader.required(fields, "name", "its folder below /build: write for example `name = \"lua\"`");
    let name = name.and_then(|node| reader.checked_text("name", node, check::source_name));
    let given: Vec<_> = ["urls", "path", "git"].into_iter().filter_map(|key| fields.entry(key)).collect();
    let [kind] = given.as_slice() else {
        match given.get(1) {
            None => reader.error(place.offset(), "[[source]] has no `urls`, `path` or `git`", "say where it comes from"),
            Some(second) => {
                reader.error(
                    second.key_at,
                    format!("[[source]] has `{}` beside `{}`", second.key, given[0].key),
                    "one of `urls`, `path` and `git` is wanted",
                );
            }
        }
        return None;
    };
    // Which keys go with which kind of source; a key that does nothing is a mistake.
    let belongs: &[&str] = match kind.key.as_str() {
        "urls" => &["name", "urls", "sha256", "blake3", "unpack"],
        "path" => &["name", "path", "unpack"],
        _ => &["name", "git", "rev", "branch", "submodules"],
    };
    for entry in fields.entries().iter().filter(|entry| SOURCE_KEYS.contains(&entry.key.as_str())) {
        if !belongs.contains(&entry.key.as_str()) {
            let help = if entry.key.ends_with('6') || entry.key == "blake3" { "it is pinned by its own content" } else { "" };
            reader.error(entry.key_at, format!("`{}` has no meaning beside `{}`", entry.key, kind.key), help);
        }
    }
    let unpack = fields.field("unpack").and_then(|node| reader.boolean("unpack", node));
    let origin = match kind.key.as_str() {
        "urls" => urls_origin(reader, fields, &kind.node, unpack.unwrap_or(true), options),
        "path" => {
            let path = reader.checked_text("path", &kind.node, check::relative_path);
            path.map(|path| Origin::Path { path, unpack: unpack.unwrap_or(false) })
        }
        _ => git_origin(reader, fields, &kind.node),
    };
    Some(SourceEntry { name: name?, place, origin: origin? })
}

fn urls_origin(reader: &mut Reader, fields: Fields<'_>, node: &Node, unpack: bool, options: ParseOptions) -> Option<Origin> {
    let urls = reader.texts("urls", node, check::url);
    if let Some([]) = urls.as_deref() {
        // The list may be empty only because its entries were refused.
        if matches!(&node.value, Value::Array(items) if items.is_empty()) {
            reader.error(node.at, "`urls` is empty", "give at least one address");
        }
    }
    let sha256 = fields.field("sha256");
    let blake3 = fields.field("blake3");
    if sha256.is_none() && blake3.is_none() && !options.allow_missing_hashes {
        reader.error(node.at, "[[source]] with `urls` has no `sha256` and no `blake3`", "`barn lock FILE` fills it in");
    }
    Some(Origin::Urls {
        urls: urls?,
        sha256: sha256.and_then(|node| reader.checked_text("sha256", node, check::hash)),
        blake3: blake3.and_then(|node| reader.checked_text("blake3", node, check::hash)),
        unpack,
    })
}

fn git_origin(reader: &mut Reader, fields: Fields<'_>, node: &Node) -> Option<Origin> {
    let url = reader.checked_text("git", node, check::git_url);
    let rev = fields.field("rev");
    let branch = fields.entry("branch");
    let point = match (rev, branch) {
        (Some(node), None) => reader.checked_text("rev", node, check::commit).map(GitPoint::Rev),
        (None, Some(entry)) => reader.checked_text("branch", &entry.node, check::branch).map(GitPoint::Branch),
        (None, None) => {
            reader.error(node.at, "[[source]] with `git` has no `rev` and no `branch`", "write `rev = \"COMMIT\"`");
            None
        }
        (Some(_), Some(entry)) => {
            reader.error(entry.key_at, "[[source]] has `branch` beside `rev`", "one of them is wanted");
            None
        }
    };
    let submodules = fields.field("submodules").and_then(|node| reader.boolean("submodules", node)).unwrap_or(false);
    Some(Origin::Git { url: url?, point: point?, submodules })
}

fn environment(reader: &mut Reader, top: Fields<'_>) -> EnvironmentEntry {
    let node = top.field("environment");
    let fields = node.and_then(|node| reader.fields("[environment]", node, &["rootfs", "programs"]));
    let field = |key| fields.and_then(|fields| fields.field(key));
    let rootfs = field("rootfs").and_then(|node| reader.checked_text("rootfs", node, check::rootfs));
    let programs = field("programs").and_then(|node| reader.texts("programs", node, check::program));
    EnvironmentEntry {
        rootfs: rootfs.unwrap_or_else(|| Text::plain("host", reader.place(node.map_or(0, |node| node.at)))),
        programs: programs.unwrap_or_default(),
    }
}

fn needs(reader: &mut Reader, top: Fields<'_>) -> Vec<NeedEntry> {
    let Some(node) = top.field("need") else { return Vec::new() };
    let tables = reader.tables("[[need]]", node, &NEED_KEYS);
    tables.into_iter().filter_map(|fields| need(reader, fields)).collect()
}

fn need(reader: &mut Reader, fields: Fields<'_>) -> Option<NeedEntry> {
    let recipe = reader.required(fields, "recipe", "name the other recipe: `recipe = \"zlib\"`");
    let recipe = recipe.and_then(|node| reader.checked_text("recipe", node, check::recipe_name));
    let with = fields.field("with").and_then(|node| reader.free_fields("with", node));
    let mut axes = Vec::new();
    for entry in with.iter().flat_map(|fields| fields.entries()) {
        let place = reader.place(entry.key_at);
        if let Err(reason) = check_axis_name(&entry.key) {
            reader.error(entry.key_at, format!("{:?} does not name an axis", super::diagnostic::cut(&entry.key)), reason);
        } else if let Some(value) = reader.text(&entry.key, &entry.node) {
            axes.push((entry.key.clone(), place, value));
        }
    }
    let at = fields.field("at").and_then(|node| reader.checked_text("at", node, check::need_place));
    let closure = fields.field("closure").and_then(|node| reader.boolean("closure", node));
    let only = fields.field("only").and_then(|node| reader.texts("only", node, check::pattern));
    Some(NeedEntry {
        place: reader.fields_place(fields),
        recipe: recipe?,
        with: axes,
        at,
        closure: closure.unwrap_or(false),
        only: only.unwrap_or_default(),
    })
}

fn steps(reader: &mut Reader, top: Fields<'_>) -> (Vec<String>, Vec<Step>) {
    let mut shell = vec![String::from("sh"), String::from("-e")];
    let mut steps = Vec::new();
    let Some(node) = reader.required(top, "steps", "write `[steps]` and `build = \"…\"`") else { return (shell, steps) };
    let Some(fields) = reader.free_fields("[steps]", node) else { return (shell, steps) };
    for entry in fields.entries() {
        if entry.key == "shell" {
            if let Some(words) = shell_words(reader, &entry.node) {
                shell = words;
            }
        } else if let Err((message, help)) = check::step_name(&entry.key) {
            reader.error(entry.key_at, message, help);
        } else if let Some(script) = reader.string(&entry.key, &entry.node) {
            steps.push(Step { name: entry.key.clone(), script });
        }
    }
    if fields.entries().iter().all(|entry| entry.key == "shell") {
        reader.error(node.at, "[steps] has no step", "write for example `build = \"make\"`");
    }
    (shell, steps)
}

/// A program and its arguments: a list, or a string that is split at spaces.
fn shell_words(reader: &mut Reader, node: &Node) -> Option<Vec<String>> {
    let words: Vec<String> = match &node.value {
        Value::Text(text) => text.split_whitespace().map(str::to_owned).collect(),
        Value::Array(_) => reader.strings("shell", node)?.into_iter().map(|(word, _)| word).collect(),
        other => {
            reader.error(node.at, format!("`shell` is {}; a string or a list of strings is wanted", other.describe()), "");
            return None;
        }
    };
    if words.first().is_none_or(String::is_empty) || words.iter().any(|word| word.contains('\0')) {
        reader.error(node.at, "`shell` names no program", "write for example `shell = \"bash -e\"`");
        return None;
    }
    Some(words)
}

fn outputs(reader: &mut Reader, top: Fields<'_>, kind: JobKind) -> Vec<(Text, Text)> {
    let help = "write `[outputs]` and `\"bin/lua\" = \"lua/src/lua\"`, or `kind = \"check\"` in [recipe]";
    let node = match kind {
        JobKind::Build => reader.required(top, "outputs", help),
        JobKind::Check => top.field("outputs"),
    };
    let Some(fields) = node.and_then(|node| reader.free_fields("[outputs]", node)) else { return Vec::new() };
    if fields.entries().is_empty() && kind == JobKind::Build {
        reader.diagnostics.add(&reader.fields_place(fields), "[outputs] names no output", help);
    }
    let mut outputs = Vec::new();
    for entry in fields.entries() {
        let name = text_key(reader, &entry.key, entry.key_at, check::relative_path);
        let from = reader.checked_text(&entry.key, &entry.node, check::pattern);
        outputs.extend(name.zip(from));
    }
    outputs
}

/// A key in which axes are expanded.
pub(super) fn text_key(
    reader: &mut Reader,
    key: &str,
    at: usize,
    check: impl Fn(&str) -> Result<(), super::reader::Fault>,
) -> Option<Text> {
    let place = reader.place(at);
    let diagnostics: &mut Diagnostics = &mut reader.diagnostics;
    let text = Text::parse(key, place, diagnostics)?;
    if let Some(Err((message, help))) = text.literal().map(check) {
        reader.error(at, message, help);
        return None;
    }
    Some(text)
}

fn limits(reader: &mut Reader, top: Fields<'_>) -> RecipeLimits {
    let node = top.field("limits");
    let fields = node.and_then(|node| reader.fields("[limits]", node, &LIMIT_KEYS));
    let field = |key| fields.and_then(|fields| fields.field(key));
    let fallback = reader.place(node.map_or(0, |node| node.at));
    let or = |text: Option<Text>, default: &str| text.unwrap_or_else(|| Text::plain(default, fallback.clone()));
    let cores = field("cores").and_then(|node| match &node.value {
        Value::Integer(_) => {
            let cores = reader.integer("cores", node, 1, 1024)?;
            Some(Text::plain(cores.to_string(), reader.place(node.at)))
        }
        Value::Text(_) => reader.checked_text("cores", node, accepts(check::cores)),
        other => {
            reader.error(node.at, format!("`cores` is {}; an integer is wanted", other.describe()), "");
            None
        }
    });
    let memory = field("memory").and_then(|node| reader.checked_text("memory", node, accepts(check::size)));
    let disk = field("disk").and_then(|node| reader.checked_text("disk", node, accepts(check::size)));
    let wall = field("wall").and_then(|node| reader.checked_text("wall", node, accepts(check::duration)));
    let silent = field("silent").and_then(|node| reader.checked_text("silent", node, accepts(check::duration)));
    RecipeLimits {
        cores: or(cores, "1"),
        memory: or(memory, "2 GiB"),
        disk: or(disk, "4 GiB"),
        wall: or(wall, "60 min"),
        silent: or(silent, "10 min"),
    }
}

fn platform(reader: &mut Reader, top: Fields<'_>) -> PlatformEntry {
    let node = top.field("platform");
    let fields = node.and_then(|node| reader.fields("[platform]", node, &PLATFORM_KEYS));
    let field = |key| fields.and_then(|fields| fields.field(key));
    let os = field("os").and_then(|node| reader.checked_text("os", node, check::system));
    let isa = field("isa").and_then(|node| reader.checked_text("isa", node, check::feature));
    let features = field("features").and_then(|node| reader.texts("features", node, check::feature));
    let arch = field("arch").and_then(|node| match &node.value {
        Value::Text(_) => reader.checked_text("arch", node, check::architecture).map(|text| vec![text]),
        _ => reader.texts("arch", node, check::architecture),
    });
    let each = fields.and_then(|fields| fields.entry("each"));
    let arches = match each {
        None => Arches::Any(arch.unwrap_or_default()),
        Some(entry) => {
            if field("arch").is_some() {
                reader.error(
                    entry.key_at,
                    "[platform] has `each` beside `arch`",
                    "`arch` is any of its list, `each` is a job for each: write one",
                );
            }
            Arches::Each(each_arches(reader, &entry.node))
        }
    };
    let never = field("never").and_then(|node| reader.free_fields("never", node)).map(|fields| nevers(reader, fields));
    PlatformEntry {
        os: os.unwrap_or_else(|| Text::plain("linux", reader.place(node.map_or(0, |node| node.at)))),
        arches,
        isa,
        features: features.unwrap_or_default(),
        never: never.unwrap_or_default(),
    }
}

fn each_arches(reader: &mut Reader, node: &Node) -> Vec<(String, Place)> {
    let Some(names) = reader.strings("each", node) else { return Vec::new() };
    if names.is_empty() {
        reader.error(node.at, "`each` is empty", "name at least one architecture, or leave it out");
    }
    let mut seen = std::collections::BTreeSet::new();
    for (name, place) in &names {
        if let Err((message, help)) = check::architecture(name) {
            reader.diagnostics.add(place, message, help);
        } else if !seen.insert(name) {
            reader.diagnostics.add(place, format!("{name:?} is given twice"), "");
        }
    }
    names
}

fn nevers(reader: &mut Reader, fields: Fields<'_>) -> Vec<Never> {
    let mut nevers = Vec::new();
    for entry in fields.entries() {
        let (os, arch) = entry.key.split_once('/').map_or((entry.key.as_str(), None), |(os, arch)| (os, Some(arch)));
        let checked = check::system(os).and_then(|()| arch.map_or(Ok(()), check::architecture));
        if let Err((message, help)) = checked {
            reader.error(entry.key_at, message, if help.is_empty() { "write \"SYSTEM/ARCHITECTURE\"".into() } else { help });
        } else if let Some(reason) = reader.checked(&entry.key, &entry.node, check::filled_line(256)) {
            let place = reader.place(entry.key_at);
            nevers.push(Never { place, os: os.to_owned(), arch: arch.map(str::to_owned), reason });
        }
    }
    nevers
}
