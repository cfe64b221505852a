//! `barn job`, `barn why`: the evidence of one job. And which job is meant by what people type.

use std::collections::BTreeMap;
use std::time::Duration;

use barnraiser_protocol::engine::query::{AttestationView, JobView};
use barnraiser_protocol::outcome::Outcome;
use barnraiser_protocol::time::Timestamp;

use super::super::output::{Output, Style, Table, bytes};
use super::super::{CommandResult, Exit};
use super::context::{Context, InNetwork, segment};
use super::words::{ago, count, length, now, operators, plain, state};
use crate::api::{BatchPage, Problem};

/// The job that `id` names: `BATCH/RECIPE[axis=value]`, or any unique beginning of its action's id. Where several
/// batches have the same action, that of the newest.
///
/// # Errors
/// [`Problem`]: not found, or not one job.
pub(super) async fn find_job(network: &InNetwork<'_>, id: &str) -> Result<JobView, Problem> {
    let client = &network.context.client;
    let Some((batch, wanted)) = id.split_once('/') else {
        if id.is_empty() || !id.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(Problem::usage(format!(
                "{id:?} names no job: BATCH/RECIPE[axis=value] or the beginning of an action's id is wanted"
            )));
        }
        // Newest batch first, so its job is the first one.
        let found: Result<Vec<JobView>, Problem> = client.get(&network.path(&format!("actions/{}", id.to_ascii_lowercase()))).await;
        let jobs = match found {
            Err(unknown) if unknown.exit_code() == 3 => return Err(is_batch(network, id).await.unwrap_or(unknown)),
            found => found?,
        };
        return jobs.into_iter().next().ok_or_else(|| Problem::not_found(format!("no action {id:?} is known here")));
    };
    let page: BatchPage = client.get(&network.path(&format!("batches/{}", segment(batch)))).await?;
    if page.jobs.is_empty() {
        let why = page.batch.halted.unwrap_or_else(|| "its jobs are not known yet".into());
        return Err(Problem::not_found(format!("batch {}: {}", page.batch.id.short(), plain(&why))));
    }
    pick(page.jobs, wanted)
}

/// What to say where `id` is no action's, and a batch's.
async fn is_batch(network: &InNetwork<'_>, id: &str) -> Option<Problem> {
    let page: BatchPage =
        network.context.client.get(&network.path(&format!("batches/{}", segment(&id.to_ascii_lowercase())))).await.ok()?;
    let (short, first) = (page.batch.id.short(), page.jobs.first().map_or_else(|| "RECIPE".into(), |job| plain(&job.label)));
    let many = count(page.batch.job_count as usize, "job", "jobs");
    Some(Problem::not_found(format!("{id:?} is a batch of {many}: `barn batch {short}` lists them, and one is named like {short}/{first}")))
}

/// The job that `wanted` names among those of a batch.
fn pick(jobs: Vec<JobView>, wanted: &str) -> Result<JobView, Problem> {
    let parsed = parse_label(wanted);
    let mut fits: Vec<JobView> = Vec::new();
    let mut close: Vec<String> = Vec::new();
    for job in jobs {
        let label = parse_label(&job.label);
        if job.label == wanted || (parsed.is_some() && label == parsed) {
            return Ok(job);
        }
        let (Some((recipe, cell)), Some((own, own_cell))) = (&parsed, &label) else { continue };
        if recipe == own {
            close.push(plain(&job.label));
            // Axes that tell no two jobs apart need not be given.
            if cell.iter().all(|(axis, value)| own_cell.get(axis) == Some(value)) {
                fits.push(job);
            }
        }
    }
    let number = fits.len();
    match (fits.pop(), number) {
        (Some(only), 1) => Ok(only),
        (Some(_), _) => Err(Problem::usage(format!("{wanted:?} fits {number} jobs: {}", some(&close)))),
        (None, _) if close.is_empty() => {
            Err(Problem::not_found(format!("the batch has no job {wanted:?}; `barn batch ID` lists its jobs")))
        }
        (None, _) => Err(Problem::not_found(format!("the batch has no job {wanted:?}; it has {}", some(&close)))),
    }
}

/// At most a dozen of `names`.
fn some(names: &[String]) -> String {
    let more = if names.len() > 12 { ", …" } else { "" };
    format!("{}{more}", names.iter().take(12).map(String::as_str).collect::<Vec<_>>().join(", "))
}

/// Recipe and cell of `recipe[axis=value,…]`; axes may stand in any order, with blanks around them.
fn parse_label(label: &str) -> Option<(&str, BTreeMap<&str, &str>)> {
    let Some((recipe, cell)) = label.split_once('[') else { return Some((label, BTreeMap::new())) };
    let cell = cell.strip_suffix(']')?;
    let axes = cell.split(',').map(|axis| axis.split_once('=').map(|(axis, value)| (axis.trim(), value.trim())));
    Some((recipe, axes.collect::<Option<_>>()?))
}

/// `barn job ID`
pub(super) async fn job(context: &Context, id: &str) -> CommandResult {
    let network = context.network().await?;
    let job = find_job(&network, id).await?;
    context.out.document("job", &job)?;
    context.out.say(job_text(&context.out, &job, now()))?;
    Ok(Exit::DONE)
}

/// `barn why ID`
pub(super) async fn why(context: &Context, id: &str) -> CommandResult {
    let network = context.network().await?;
    let job = find_job(&network, id).await?;
    let why = serde_json::json!({ "batch": job.batch, "job": job.label, "state": job.state, "why": job.why });
    context.out.document("why", &why)?;
    context.out.say(format!("{}: {}: {}", plain(&job.label), state(&context.out, job.state), plain(&job.why)))?;
    Ok(Exit::DONE)
}

/// All that is known of a job.
pub(super) fn job_text(out: &Output, job: &JobView, now: Timestamp) -> String {
    let mut facts = Table::plain();
    let mut fact = |name: &str, value: String| facts.row([out.paint(Style::Strong, name), value]);
    let version = if job.version.is_empty() { String::new() } else { format!("  version {}", plain(&job.version)) };
    fact("job", format!("{}/{}{version}", job.batch.short(), plain(&job.label)));
    fact("state", format!("{}: {}", state(out, job.state), plain(&job.why)));
    match job.action {
        Some(action) if job.generation > 1 => fact("action", format!("{action}  (bound for the {}. time)", job.generation)),
        Some(action) => fact("action", action.to_string()),
        None => fact("action", "not known before its inputs are".into()),
    }
    if !job.needs.is_empty() {
        let needs: Vec<String> = job.needs.iter().map(|need| plain(need)).collect();
        fact("needs", needs.join(", "));
    }
    for (number, (name, output)) in job.targets.iter().enumerate() {
        fact(if number == 0 { "released as" } else { "" }, format!("{} = {}", plain(name), plain(output)));
    }
    if let Some(verdict) = &job.verdict {
        if let Some(outcome) = &verdict.outcome {
            fact("outcome", outcome_text(outcome));
            fact("agreeing", operators(&verdict.agreeing));
        }
        for (operator, hash) in &verdict.differing {
            let word = if verdict.wrong.contains(operator) { out.paint(Style::Bad, "wrong") } else { "differing".into() };
            fact(&word, format!("{}  attested {}", operator, hash.short()));
        }
        if let Some(arbiter) = verdict.arbiter {
            fact("settled by", arbiter.to_string());
        }
    }
    let mut text = facts.render();
    if !job.slots.is_empty() {
        text.push_str("\n\n");
        text.push_str(&slots_text(job, now));
    }
    if !job.attestations.is_empty() {
        text.push_str("\n\n");
        text.push_str(&attestations_text(out, job, now));
    }
    text
}

fn slots_text(job: &JobView, now: Timestamp) -> String {
    let mut table = Table::new(&["slot", "state", "epoch", "operator", "node", "lapses"]);
    for slot in &job.slots {
        // An arbiter's slots have numbers of their own, which say nothing to people.
        let number = if slot.arbiter { "arbiter".into() } else { slot.slot.0.to_string() };
        table.row([
            number,
            plain(&slot.state),
            slot.epoch.to_string(),
            slot.operator.map_or_else(|| "-".into(), |operator| operator.short()),
            slot.node.map_or_else(|| "-".into(), |node| node.short()),
            slot.until.filter(|_| slot.state == "held").map_or_else(|| "-".into(), |until| ago(now, until)),
        ]);
    }
    table.render()
}

fn attestations_text(out: &Output, job: &JobView, now: Timestamp) -> String {
    let mut table = Table::new(&["operator", "node", "slot", "word", "hash", "result", "took", "CPU", "memory", "committed", "sandbox"]);
    for attestation in &job.attestations {
        let slot = attestation.lease.slot;
        let told = attestation.particulars.as_ref();
        let told = |show: &dyn Fn(&barnraiser_protocol::outcome::Particulars) -> String| told.map_or_else(|| "-".into(), show);
        table.row([
            attestation.operator.short(),
            attestation.node.short(),
            if slot.is_arbiter() { "arbiter".into() } else { slot.0.to_string() },
            word(out, job, attestation),
            attestation.outcome_hash.map_or_else(|| "-".into(), |hash| hash.short()),
            match &attestation.outcome {
                Some(outcome) => match &attestation.again {
                    Some(again) if again != outcome => format!("{}, then {}", result_text(outcome), result_text(again)),
                    Some(_) => format!("{}, twice", result_text(outcome)),
                    None => result_text(outcome),
                },
                None => "not revealed yet".into(),
            },
            told(&|told| length(Duration::from_millis(told.wall_ms))),
            told(&|told| length(Duration::from_millis(told.cpu_ms))),
            told(&|told| if told.memory_peak == 0 { "-".into() } else { bytes(told.memory_peak) }),
            ago(now, attestation.committed),
            told(&|told| plain(&told.sandbox)),
        ]);
    }
    let mut text = table.render();
    // Only where machines differ: a fingerprint is long.
    let mut machines: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for attestation in &job.attestations {
        if let Some(told) = &attestation.particulars {
            machines.entry(&told.fingerprint).or_default().push(attestation.operator.short());
        }
    }
    if machines.len() > 1 {
        text.push_str(&format!("\n\n{}", count(machines.len(), "kind of machine:", "kinds of machines:")));
        for (fingerprint, operators) in machines {
            text.push_str(&format!("\n  {}: {}", operators.join(" "), plain(fingerprint)));
        }
    }
    text
}

/// How an attestation stands to the verdict.
fn word(out: &Output, job: &JobView, attestation: &AttestationView) -> String {
    let (Some(outcome), Some(verdict)) = (&attestation.outcome, &job.verdict) else { return "committed".into() };
    match &verdict.outcome {
        Some(stands) if stands == outcome => out.paint(Style::Good, "agrees"),
        Some(_) if verdict.wrong.contains(&attestation.operator) => out.paint(Style::Bad, "wrong"),
        Some(_) => out.paint(Style::Warn, "differs"),
        None => out.paint(Style::Warn, "disputed"),
    }
}

/// An outcome in a table.
fn result_text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Success { tree } => format!("tree {}", tree.short()),
        failure @ Outcome::Failure { .. } => outcome_text(failure),
    }
}

fn outcome_text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Success { tree } => format!("tree {tree}"),
        Outcome::Failure { class, stage } => format!("failed: {class}, in {:?}", plain(stage)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::samples;
    use super::*;

    #[test]
    fn the_evidence_names_who_was_wrong() {
        let out = samples::context().out;
        let text = job_text(&out, &samples::cheated(), Timestamp(90_000));
        let wrong = samples::operator(3);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&format!("wrong {wrong} attested ")), "{text}");
        assert!(words.contains(&format!("settled by {}", samples::operator(4))), "{text}");
        let row = |operator: u8| {
            let start = format!("{}  ", samples::operator(operator).short());
            text.lines().find(|line| line.starts_with(&start)).unwrap_or_default().to_owned()
        };
        assert!(row(1).contains("agrees") && row(3).contains("wrong") && row(4).contains("arbiter"), "{text}");
        assert!(text.contains("LE.img = image/LE.img"));
    }

    #[test]
    fn what_is_not_revealed_says_so() {
        let out = samples::context().out;
        let mut job = samples::agreed();
        job.attestations[0].outcome = None;
        job.attestations[0].outcome_hash = None;
        job.attestations[0].particulars = None;
        let text = job_text(&out, &job, Timestamp(90_000));
        assert!(text.contains("committed") && text.contains("not revealed yet"), "{text}");
    }

    #[test]
    fn jobs_are_found_by_what_tells_them_apart() {
        let job = |label: &str| JobView { label: label.into(), ..samples::agreed() };
        let jobs = || vec![job("zlib[device=x]"), job("lua[arch=a,device=x]"), job("lua[arch=a,device=y]"), job("tree")];
        let found = |wanted: &str| pick(jobs(), wanted).map(|job| job.label);
        assert_eq!(found("tree").unwrap(), "tree");
        assert_eq!(found("zlib").unwrap(), "zlib[device=x]");
        assert_eq!(found("lua[device=y]").unwrap(), "lua[arch=a,device=y]");
        assert_eq!(found("lua[device=x, arch=a]").unwrap(), "lua[arch=a,device=x]");
        let two = found("lua[arch=a]").unwrap_err();
        assert!(two.exit_code() == 2 && two.message.contains("device=x") && two.message.contains("device=y"), "{two}");
        assert_eq!(found("lua[device=z]").unwrap_err().exit_code(), 3);
        assert_eq!(found("bash").unwrap_err().exit_code(), 3);
        assert_eq!(found("tree[").unwrap_err().exit_code(), 3);
    }
}
