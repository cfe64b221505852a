//! `barn plan`, `barn lock`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use barnraiser_protocol::recipe::{FILE_BYTES_MAX, Plan, SourceKind};
use barnraiser_store::Store;
use serde_json::{Value, json};

use super::args::{LockArgs, PlanArgs};
use super::here::{Here, in_file, read_file};
use super::online::words::count;
use super::output::{Style, Table, bytes};
use super::{CommandResult, Exit};
use crate::api::{Problem, Submit};
use crate::home::{Home, write_atomic};
use crate::platform::Platform;
use crate::sources::Sources;
use crate::submit::{Planned, Surroundings, plan_only};

/// How many files of a folder are named to who may have meant one of them.
const FILES_NAMED: usize = 8;

/// What is to be planned, as the submit module takes it. `-` is standard input.
pub(super) fn request(file: &Path, set: Vec<(String, String)>) -> Result<Submit, Problem> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(|error| in_file(path, error));
    let (path, text) = if file == Path::new("-") {
        let mut text = String::new();
        let limit = FILE_BYTES_MAX as u64 + 1;
        let read = std::io::stdin().lock().take(limit).read_to_string(&mut text);
        read.map_err(|error| Problem::usage(format!("standard input can't be read: {error}")))?;
        (absolute(Path::new("."))?, Some(text))
    } else {
        if !file.exists() {
            return Err(Problem::not_found(format!("{}: there is no such file", file.display())));
        }
        if file.is_dir() {
            return Err(a_folder(file));
        }
        (absolute(file)?, None)
    };
    let set: BTreeMap<String, String> = set.into_iter().collect();
    Ok(Submit { path, text, channel: None, priority: None, set, labels: BTreeMap::new() })
}

/// What to say to somebody who named a folder: which of its files could be meant.
pub(super) fn a_folder(folder: &Path) -> Problem {
    let is_file = |name: &String| name.ends_with(".toml") && name != "barn.toml";
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(is_file).collect();
    files.sort();
    files.truncate(FILES_NAMED);
    let there = match files.as_slice() {
        [] => "it has no .toml file".to_owned(),
        files => format!("it has {}", files.join(", ")),
    };
    Problem::usage(format!("{} is a folder; a recipe or batch file is wanted, and {there}", folder.display()))
}

/// The sources of a store that only offline commands use.
pub(super) fn local_sources(home: &Home) -> Result<(Store, Sources), Problem> {
    let folder = home.local_dir();
    std::fs::create_dir_all(&folder).map_err(|error| Problem::failed(format!("{} can't be made: {error}", folder.display())))?;
    let store = Store::open(&folder.join("store")).map_err(|error| Problem::failed(error.to_string()))?;
    let sources = Sources::new(store.clone(), folder.join("fetch"), home.config()?.mirrors());
    Ok((store, sources))
}

/// `barn plan`
pub(super) fn plan(here: &Here, args: PlanArgs) -> CommandResult {
    let Planned { plan, heading } = plan_only(&request(&args.file, args.set)?, &Surroundings::here(BTreeMap::new()))?;
    here.out.say(table(here, &plan))?;
    for skipped in &plan.skipped {
        here.out.say(format!("{}  never: {}", skipped.label, skipped.reason))?;
    }
    let targets: usize = plan.graph.jobs.iter().map(|job| job.targets.len()).sum();
    here.out.say(format!(
        "\n{}: {} for {}, {}, {}",
        &*heading.name,
        count(plan.graph.jobs.len(), "job", "jobs"),
        count(plan.cells.len(), "cell", "cells"),
        count(plan.requests.len(), "source", "sources"),
        count(targets, "target", "targets")
    ))?;
    here.out.document("plan", &document(&plan, &heading.name))?;
    Ok(Exit::DONE)
}

fn table(here: &Here, plan: &Plan) -> String {
    let platform = Platform::this();
    let mut table = Table::new(&["job", "kind", "needs", "sources", "cores", "memory", "targets", "here"]);
    for (job, planned) in plan.graph.jobs.iter().zip(&plan.jobs) {
        let needs: Vec<String> = (job.needs.iter()).filter_map(|need| Some(plan.graph.job(need.job)?.label())).collect();
        let sources: Vec<&str> = planned.sources.iter().map(|(at, _)| at.as_str()).collect();
        let kind = serde_json::to_value(job.kind).ok().and_then(|kind| Some(kind.as_str()?.to_owned())).unwrap_or_default();
        let here_too = match platform.matches(&job.environment) {
            Ok(()) => here.out.paint(Style::Good, "yes"),
            Err(lacks) => here.out.paint(Style::Warn, &lacks),
        };
        let targets: Vec<&str> = job.targets.keys().map(String::as_str).collect();
        let or_dash = |list: String| if list.is_empty() { "-".to_owned() } else { list };
        table.row([
            job.label(),
            kind,
            or_dash(needs.join(" ")),
            or_dash(sources.join(" ")),
            job.cores.to_string(),
            bytes(job.limits.memory),
            or_dash(targets.join(" ")),
            here_too,
        ]);
    }
    table.render()
}

fn document(plan: &Plan, name: &str) -> Value {
    let platform = Platform::this();
    let jobs: Vec<Value> = (plan.graph.jobs.iter().zip(&plan.jobs))
        .map(|(job, planned)| {
            json!({
                "label": job.label(), "recipe": job.recipe, "recipe-version": job.version, "cell": job.cell, "job-kind": job.kind,
                "key": planned.key, "needs": job.needs.iter().map(|need| need.job).collect::<Vec<_>>(),
                "sources": planned.sources.iter().map(|(at, request)| json!({ "at": at, "request": request })).collect::<Vec<_>>(),
                "cells": planned.cells, "targets": job.targets, "cores": job.cores, "memory": job.limits.memory,
                "lacking-here": platform.matches(&job.environment).err(),
            })
        })
        .collect();
    let requests: Vec<Value> = (plan.requests.iter())
        .map(
            |request| json!({ "recipe": request.recipe, "name": request.name, "source": request.kind, "pinned": is_pinned(&request.kind) }),
        )
        .collect();
    let skipped: Vec<Value> = plan.skipped.iter().map(|skipped| json!({ "label": skipped.label, "reason": skipped.reason })).collect();
    json!({ "name": name, "jobs": jobs, "cells": plan.cells, "requests": requests, "skipped": skipped })
}

/// Whether the recipe itself says which bytes are meant.
fn is_pinned(kind: &SourceKind) -> bool {
    match kind {
        SourceKind::Urls { sha256, blake3, .. } => sha256.is_some() || blake3.is_some(),
        SourceKind::Path { .. } => false,
        SourceKind::Git { point, .. } => matches!(point, barnraiser_protocol::recipe::GitPoint::Rev(_)),
    }
}

/// `barn lock`
pub(super) fn lock(here: &Here, args: LockArgs) -> CommandResult {
    use std::os::unix::fs::PermissionsExt as _;
    if args.file.is_dir() {
        return Err(a_folder(&args.file));
    }
    let text = String::from_utf8(read_file(&args.file, FILE_BYTES_MAX)?).map_err(|_| in_file(&args.file, "is not a text in UTF-8"))?;
    let home = here.home()?;
    let (_store, sources) = local_sources(&home)?;
    let noting = |progress: crate::sources::Progress<'_>| {
        if progress.bytes == 0 {
            here.out.note(format!("fetching {}", progress.what));
        }
    };
    let locked = sources.lock(&args.file.display().to_string(), &text, &noting).map_err(|error| {
        let message = error.to_string();
        match error.exit_code() {
            2 => Problem::usage(message),
            4 => Problem::unverified(message),
            6 => Problem::unreachable(message),
            _ => Problem::failed(message),
        }
    })?;
    if !locked.checked.is_empty() {
        here.out.say(format!("checked, and right: {}", locked.checked.join(", ")))?;
    }
    if !locked.unchecked.is_empty() {
        here.out.note(format!("not checked, since the bytes are not here (`barn build` fetches them): {}", locked.unchecked.join(", ")));
    }
    if locked.added.is_empty() {
        here.out.say("every source has a hash already")?;
    } else {
        let mode = std::fs::metadata(&args.file).map_or(0o644, |meta| meta.permissions().mode() & 0o777);
        // What a link leads to is what people edit.
        let path = args.file.canonicalize().map_err(|error| in_file(&args.file, error))?;
        write_atomic(&path, locked.text.as_bytes(), mode)?;
        for (name, sha256) in &locked.added {
            here.out.say(format!("{name}  sha256 {sha256}"))?;
        }
    }
    let added: Vec<Value> = locked.added.iter().map(|(name, sha256)| json!({ "name": name, "sha256": sha256 })).collect();
    here.out.document("locked", &json!({ "file": args.file, "added": added, "checked": locked.checked, "unchecked": locked.unchecked }))?;
    Ok(Exit::DONE)
}
