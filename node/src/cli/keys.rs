//! `barn key …`: the maintainers' signing keys, and copies of a home's secrets.

use std::fs;
use std::path::Path;

use barnraiser_protocol::id::OperatorId;
use barnraiser_protocol::trust::keys::{KEY_FILE_BYTES_MAX, KeyKind, SigningKey, parse_key_file, print_key_file};
use serde_json::json;

use super::args::KeyCommand;
use super::here::{Here, in_file, read_file};
use super::online::words;
use super::output::Table;
use super::{CommandResult, Exit};
use crate::api::Problem;
use crate::home::{Home, HomeError, read_key_text, write_secret};

/// What stands in front of each key of a backup.
const SECTION: &str = "== ";
/// The most signing keys that go into a backup.
const SIGNING_KEYS_MAX: usize = 100;

/// Does `command`.
pub(super) fn run(here: &Here, command: KeyCommand) -> CommandResult {
    match command {
        KeyCommand::New { file, no_operator } => new(here, &file, no_operator),
        KeyCommand::Show { file: Some(file), no_operator } => show(here, &file, no_operator),
        KeyCommand::Show { file: None, .. } => show_home(here),
        KeyCommand::Backup { file } => backup(here, &file),
        KeyCommand::Restore { file } => restore(here, &file),
    }
}

/// The signing key in a file.
pub(super) fn signing_key(path: &Path) -> Result<SigningKey, Problem> {
    let text = read_key_text(path)?;
    Ok(SigningKey::parse(&text).map_err(|error| HomeError::Key { path: path.to_owned(), error })?)
}

/// This home's operator, for cards; none where there is no home.
fn card_operator(here: &Here, no_operator: bool) -> Result<Option<OperatorId>, Problem> {
    if no_operator {
        return Ok(None);
    }
    let Ok(home) = here.home() else { return Ok(None) };
    Ok(if home.exists()? { Some(home.operator_key()?.operator()) } else { None })
}

fn new(here: &Here, file: &Path, no_operator: bool) -> CommandResult {
    let operator = card_operator(here, no_operator)?;
    let key = SigningKey::from_seed(&rand::random());
    if !write_secret(file, &key.to_file())? {
        return Err(HomeError::Occupied { path: file.to_owned() }.into());
    }
    print_card(here, file, &key, operator)?;
    here.out.note(format!("the secret is in {}; keep it off the machines that build, and a copy in a safe place", file.display()));
    Ok(Exit::DONE)
}

fn show(here: &Here, file: &Path, no_operator: bool) -> CommandResult {
    let operator = card_operator(here, no_operator)?;
    print_card(here, file, &signing_key(file)?, operator)?;
    Ok(Exit::DONE)
}

fn print_card(here: &Here, file: &Path, key: &SigningKey, operator: Option<OperatorId>) -> Result<(), Problem> {
    let card = key.card(operator);
    here.out.say(card.to_string())?;
    if operator.is_none() {
        here.out.note("the card names no operator, so this maintainer will sign but not be a founder");
    }
    here.out.document("key", &json!({ "file": file, "card": card, "release-key": card.release.id(), "operator": operator }))
}

fn show_home(here: &Here) -> CommandResult {
    let home = here.home()?;
    let open = home.open()?;
    let (operator, node) = (open.operator.operator(), open.node.node());
    let mut table = Table::plain();
    table.row(["operator".into(), operator.to_string()]);
    table.row(["node".into(), node.to_string()]);
    let mut cards = Vec::new();
    for (name, text) in signing_keys(&home)? {
        let path = home.keys_dir().join(&name);
        let key = SigningKey::parse(&text).map_err(|error| HomeError::Key { path: path.clone(), error })?;
        let card = key.card(Some(operator));
        table.row([format!("keys/{name}"), card.to_string()]);
        cards.push(json!({ "file": path, "card": card }));
    }
    here.out.say(table.render())?;
    here.out.document("keys", &json!({ "operator": operator, "node": node, "signing": cards }))?;
    Ok(Exit::DONE)
}

/// Names and texts of the signing keys in a home.
fn signing_keys(home: &Home) -> Result<Vec<(String, String)>, Problem> {
    let folder = home.keys_dir();
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(HomeError::io("reading", &folder)(error).into()),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(HomeError::io("reading", &folder))?;
        names.extend(entry.file_name().into_string().ok().filter(|name| is_key_name(name)));
    }
    names.sort();
    if names.len() > SIGNING_KEYS_MAX {
        return Err(Problem::usage(format!("{} has more than {SIGNING_KEYS_MAX} keys", folder.display())));
    }
    names.into_iter().map(|name| Ok((name.clone(), read_key_text(&folder.join(name))?))).collect()
}

/// A file name of a signing key: `network create` makes them of networks' names.
fn is_key_name(name: &str) -> bool {
    let stem = name.strip_suffix(".key").unwrap_or_default();
    !stem.is_empty() && stem.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

fn backup(here: &Here, file: &Path) -> CommandResult {
    let home = here.home()?;
    let open = home.open()?;
    let mut text =
        String::from("# Barnraiser: a copy of a home's secret keys. SECRET. `barn --home DIR key restore FILE` makes a home of it.\n");
    let signing = signing_keys(&home)?;
    let keys = [
        ("operator.key".to_owned(), print_key_file(KeyKind::Operator, &open.operator)),
        ("node.key".to_owned(), print_key_file(KeyKind::Node, &open.node)),
    ];
    let count = keys.len() + signing.len();
    for (name, key) in keys.into_iter().chain(signing) {
        text.push_str(&format!("\n{SECTION}{name}\n{key}"));
    }
    if !write_secret(file, &text)? {
        return Err(HomeError::Occupied { path: file.to_owned() }.into());
    }
    here.out.say(format!("{} in {}", words::count(count, "key is", "keys are"), file.display()))?;
    here.out.note("one node key must not run on two machines at once; for a second machine, make a home of its own there");
    here.out.document("backup", &json!({ "file": file, "keys": count }))?;
    Ok(Exit::DONE)
}

fn restore(here: &Here, file: &Path) -> CommandResult {
    let home = here.home()?;
    let bytes = read_file(file, (SIGNING_KEYS_MAX + 2) * KEY_FILE_BYTES_MAX)?;
    let text = String::from_utf8(bytes).map_err(|_| in_file(file, "is not a text in UTF-8"))?;
    let sections: Vec<(&str, &str)> =
        (text.split(&format!("\n{SECTION}")).skip(1)).filter_map(|section| section.split_once('\n')).collect();
    let key = |name: &str, kind| {
        let (_, text) =
            sections.iter().find(|(found, _)| *found == name).ok_or_else(|| in_file(file, format_args!("there is no {name} in it")))?;
        parse_key_file(kind, text).map_err(|error| in_file(file, format_args!("{name}: {error}")))
    };
    let (operator, node) = (key("operator.key", KeyKind::Operator)?, key("node.key", KeyKind::Node)?);
    let mut signing = Vec::new();
    for (name, text) in sections.iter().filter(|(name, _)| !["operator.key", "node.key"].contains(name)) {
        if !is_key_name(name) {
            return Err(in_file(file, format_args!("{name:?} is not a key's name")));
        }
        signing.push((name, SigningKey::parse(text).map_err(|error| in_file(file, format_args!("{name}: {error}")))?));
    }
    let report = home.restore(&operator, &node)?;
    for (name, key) in &signing {
        let path = home.keys_dir().join(name);
        if !write_secret(&path, &key.to_file())? {
            return Err(HomeError::Occupied { path }.into());
        }
    }
    here.out.say(format!("restored {}\noperator  {}\nnode      {}", home.root().display(), report.operator, report.node))?;
    let fields = json!({ "home": home.root(), "operator": report.operator, "node": report.node, "keys": signing.len() + 2 });
    here.out.document("home", &fields)?;
    Ok(Exit::DONE)
}
