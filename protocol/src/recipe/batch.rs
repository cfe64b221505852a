//! A batch as its maintainer wrote it: which recipes, in which cells, for which channel.

use super::diagnostic::{Diagnostic, Diagnostics, Place, SourceText, list};
use super::file::Recipe;
use super::reader::{Fault, Fields, Reader};
use super::template::{Text, check_axis_name, check_axis_value};
use super::value::{Node, Value};
use super::{AXES_MAX, check, sections, value};
use crate::record::payload::Priority;

/// A batch that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchFile {
    /// For people.
    pub name: String,
    /// Where the name is written.
    pub place: Place,
    /// Where its targets are meant to be released, unless `submit --channel` says otherwise.
    pub channel: Option<String>,
    /// Default: a maintainer's own work.
    pub priority: Priority,
    /// Globs of recipe files, relative to this one, with the place of each. The caller finds the files and reads them.
    pub recipes: Vec<(String, Place)>,
    /// The source revision, for people; empty if not given.
    pub revision: String,
    /// Where to read about it, for people; empty if not given.
    pub url: String,
    /// For people and for picking.
    pub labels: Vec<(String, String)>,
    /// What is released under which name.
    pub targets: Vec<Target>,
    /// The cells in which recipes are laid out.
    pub matrix: Matrix,
}

/// One line of `[batch.targets]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The name in the channel.
    pub name: Text,
    /// The recipe.
    pub recipe: Text,
    /// The name among its outputs.
    pub output: Text,
}

/// `[matrix]`, as written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matrix {
    /// Axis, its place, and its values.
    pub axes: Vec<(String, Place, Vec<String>)>,
    /// Cells beside the product of the axes, or further axes for some of its cells.
    pub include: Vec<MatrixEntry>,
    /// Cells that are taken out of the product.
    pub exclude: Vec<MatrixEntry>,
}

/// One entry of `include` or `exclude`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatrixEntry {
    /// Where it is written.
    pub place: Place,
    /// Axis, its place, and its value.
    pub values: Vec<(String, Place, String)>,
}

const BATCH_KEYS: [&str; 8] = ["name", "channel", "priority", "recipes", "revision", "url", "labels", "targets"];
const PRIORITIES: [(&str, Priority); 5] = [
    ("security", Priority::Security),
    ("release", Priority::Release),
    ("maintainer", Priority::Maintainer),
    ("nightly", Priority::Nightly),
    ("background", Priority::Background),
];
/// The most entries of `include` or `exclude`: each is held against every cell.
const ENTRIES_MAX: usize = 1000;
/// As the `Batch` record's bound.
const LABELS_MAX: usize = 16;

impl BatchFile {
    /// The batch of one recipe that is submitted by itself: no matrix, no targets.
    pub fn of_recipe(recipe: &Recipe) -> Self {
        Self {
            name: recipe.name.clone(),
            place: recipe.place.clone(),
            channel: None,
            priority: Priority::Maintainer,
            recipes: Vec::new(),
            revision: String::new(),
            url: String::new(),
            labels: Vec::new(),
            targets: Vec::new(),
            matrix: Matrix::default(),
        }
    }
}

/// Whether `text` is a batch: it has a `batch` table at its top. False for what can't be read at all.
pub fn is_batch(file_name: &str, text: &str) -> bool {
    let source = SourceText::new(file_name, text);
    match value::parse(&source, &mut Diagnostics::default()) {
        Some(Node { value: Value::Table(entries), .. }) => entries.iter().any(|entry| entry.key == "batch"),
        _ => false,
    }
}

/// Reads a batch: TOML, or JSON where the name ends in `.json` or the text starts with `{`.
///
/// # Errors
/// Every error of the file, at most [`super::DIAGNOSTICS_MAX`]; a file that is no TOML or JSON at all gives only its
/// syntax errors.
pub fn parse_batch(file_name: &str, text: &str) -> Result<BatchFile, Vec<Diagnostic>> {
    let source = SourceText::new(file_name, text);
    let mut reader = Reader::new(source.clone());
    let batch = value::parse(&source, &mut reader.diagnostics).and_then(|node| batch(&mut reader, &node));
    reader.diagnostics.into_result(batch)
}

fn batch(reader: &mut Reader, node: &Node) -> Option<BatchFile> {
    let top = reader.fields("a batch", node, &["batch", "matrix"])?;
    let matrix = top.field("matrix").and_then(|node| matrix(reader, node)).unwrap_or_default();
    let node = reader.required(top, "batch", "begin with `[batch]` and `name = …`")?;
    let fields = reader.fields("[batch]", node, &BATCH_KEYS)?;
    let name_node = reader.required(fields, "name", "write for example `name = \"nightly\"`");
    let place = name_node.map_or_else(|| reader.fields_place(fields), |node| reader.place(node.at));
    let name = name_node.and_then(|node| reader.checked("name", node, check::filled_line(64)));
    let channel = fields.field("channel").and_then(|node| reader.checked("channel", node, channel_name));
    let recipes = reader.required(fields, "recipes", "write for example `recipes = [\"recipes/*.toml\"]`");
    let recipes = recipes.and_then(|node| {
        let recipes = reader.strings("recipes", node)?;
        if recipes.is_empty() && matches!(&node.value, Value::Array(items) if items.is_empty()) {
            reader.error(node.at, "`recipes` is empty", "name the recipes' files, or give a pattern such as \"recipes/*.toml\"");
        }
        Some(recipes)
    });
    let text = |reader: &mut Reader, key: &'static str, most| {
        fields.field(key).and_then(|node| reader.checked(key, node, check::line(most))).unwrap_or_default()
    };
    let revision = text(reader, "revision", 64);
    let url = text(reader, "url", 256);
    let priority = fields.field("priority").and_then(|node| priority(reader, node));
    let labels = fields.field("labels").map(|node| labels(reader, node));
    let targets = fields.field("targets").map(|node| targets(reader, node));
    Some(BatchFile {
        name: name?,
        place,
        channel,
        priority: priority.unwrap_or(Priority::Maintainer),
        recipes: recipes?,
        revision,
        url,
        labels: labels.unwrap_or_default(),
        targets: targets.unwrap_or_default(),
        matrix,
    })
}

fn channel_name(name: &str) -> Result<(), Fault> {
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    if name.is_empty() || name.len() > 32 || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(known) {
        let help = "1 to 32 characters: small letters, digits, `.`, `_` and `-`, a letter or digit first";
        return Err((format!("{:?} can't be a channel's name", super::diagnostic::cut(name)), help.into()));
    }
    Ok(())
}

fn priority(reader: &mut Reader, node: &Node) -> Option<Priority> {
    let text = reader.string("priority", node)?;
    if let Some((_, priority)) = PRIORITIES.iter().find(|(name, _)| *name == text) {
        return Some(*priority);
    }
    let names = PRIORITIES.map(|(name, _)| name);
    reader.error(node.at, format!("{:?} is no priority", super::diagnostic::cut(&text)), format!("{} is wanted", list(&names)));
    None
}

fn labels(reader: &mut Reader, node: &Node) -> Vec<(String, String)> {
    let Some(fields) = reader.free_fields("labels", node) else { return Vec::new() };
    if fields.entries().len() > LABELS_MAX {
        reader.error(node.at, format!("{} labels, at most {LABELS_MAX} are allowed", fields.entries().len()), "");
    }
    let mut labels = Vec::new();
    for entry in fields.entries() {
        if let Err((message, help)) = check::filled_line(32)(&entry.key) {
            reader.error(entry.key_at, message, help);
        } else if let Some(value) = reader.checked(&entry.key, &entry.node, check::line(64)) {
            labels.push((entry.key.clone(), value));
        }
    }
    labels
}

fn targets(reader: &mut Reader, node: &Node) -> Vec<Target> {
    let Some(fields) = reader.free_fields("[batch.targets]", node) else { return Vec::new() };
    let mut targets = Vec::new();
    for entry in fields.entries() {
        let name = sections::text_key(reader, &entry.key, entry.key_at, check_target_name);
        let Some(from) = reader.text(&entry.key, &entry.node) else { continue };
        match from.split_once('/') {
            Some((recipe, output)) => targets.extend(name.map(|name| Target { name, recipe, output })),
            None => {
                let message = format!("{:?} names no recipe and output", super::diagnostic::cut(&from.written()));
                reader.error(entry.node.at, message, "write \"RECIPE/OUTPUT\"");
            }
        }
    }
    targets
}

/// Checks a name in a channel: flat, since TUF clients make a file of it.
pub(super) fn check_target_name(name: &str) -> Result<(), Fault> {
    let fault = |message: String| Err((message, String::from("a file's name without folders, for example \"LE-{device}.img\"")));
    if name.contains('/') {
        return fault(format!("{:?} has a `/`; names in a channel have no folders", super::diagnostic::cut(name)));
    }
    if name.len() > 200 || name.starts_with(['.', '-']) || name.contains(' ') {
        return fault(format!("{:?} can't be a name in a channel", super::diagnostic::cut(name)));
    }
    crate::tree::check_path(name).or_else(|error| fault(error.to_string()))
}

fn matrix(reader: &mut Reader, node: &Node) -> Option<Matrix> {
    let fields = reader.free_fields("[matrix]", node)?;
    let mut matrix = Matrix::default();
    for entry in fields.entries() {
        match entry.key.as_str() {
            "include" => matrix.include = entries(reader, "include", &entry.node),
            "exclude" => matrix.exclude = entries(reader, "exclude", &entry.node),
            axis => {
                if let Err(reason) = check_axis_name(axis) {
                    reader.error(entry.key_at, format!("{:?} does not name an axis", super::diagnostic::cut(axis)), reason);
                } else if let Some(values) = axis_values(reader, axis, &entry.node) {
                    matrix.axes.push((axis.to_owned(), reader.place(entry.key_at), values));
                }
            }
        }
    }
    if matrix.axes.len() > AXES_MAX {
        reader.error(node.at, format!("{} axes, at most {AXES_MAX} are allowed", matrix.axes.len()), "");
    }
    Some(matrix)
}

fn axis_values(reader: &mut Reader, axis: &str, node: &Node) -> Option<Vec<String>> {
    let values = reader.strings(axis, node)?;
    if values.is_empty() && matches!(&node.value, Value::Array(items) if items.is_empty()) {
        reader.error(node.at, format!("axis `{axis}` has no value"), "give it at least one, or leave it out");
    }
    let mut seen = std::collections::BTreeSet::new();
    for (value, place) in &values {
        if let Err(reason) = check_axis_value(value) {
            reader.diagnostics.add(place, reason, "");
        } else if !seen.insert(value) {
            reader.diagnostics.add(place, format!("{value:?} is given twice"), "");
        }
    }
    Some(values.into_iter().map(|(value, _)| value).collect())
}

fn entries(reader: &mut Reader, key: &'static str, node: &Node) -> Vec<MatrixEntry> {
    let Value::Array(items) = &node.value else {
        reader.error(
            node.at,
            format!("`{key}` is {}; a list of tables is wanted", node.value.describe()),
            format!("write for example `{key} = [{{ device = \"RPi5\" }}]`"),
        );
        return Vec::new();
    };
    if items.len() > ENTRIES_MAX {
        reader.error(node.at, format!("`{key}` has {} entries, at most {ENTRIES_MAX} are allowed", items.len()), "");
        return Vec::new();
    }
    let tables: Vec<(usize, Fields<'_>)> = items.iter().filter_map(|item| Some((item.at, reader.free_fields(key, item)?))).collect();
    tables.into_iter().map(|(at, fields)| entry(reader, at, fields)).collect()
}

fn entry(reader: &mut Reader, at: usize, fields: Fields<'_>) -> MatrixEntry {
    let mut values = Vec::new();
    if fields.entries().is_empty() {
        reader.error(at, "an entry without an axis", "write for example `{ device = \"RPi5\" }`");
    }
    for entry in fields.entries() {
        if let Err(reason) = check_axis_name(&entry.key) {
            reader.error(entry.key_at, format!("{:?} does not name an axis", super::diagnostic::cut(&entry.key)), reason);
            continue;
        }
        let check = |value: &str| check_axis_value(value).map_err(|reason| (reason, String::new()));
        if let Some(value) = reader.checked(&entry.key, &entry.node, check) {
            values.push((entry.key.clone(), reader.place(entry.key_at), value));
        }
    }
    MatrixEntry { place: reader.place(at), values }
}
