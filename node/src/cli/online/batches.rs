//! `barn batch`, `cancel`, `retry`: batches, and the matrix of one.

use std::collections::BTreeSet;

use barnraiser_protocol::engine::query::{BatchView, JobState, JobView};
use barnraiser_protocol::id::OperatorId;
use barnraiser_protocol::record::payload::Priority;

use super::super::output::{Style, Table};
use super::super::{CommandResult, Exit};
use super::context::{Context, segment};
use super::jobs::find_job;
use super::status::say_done;
use super::words::{ago, count, now, operators, plain, state};
use crate::api::{BatchPage, Done};

/// `barn batch`
pub(super) async fn list(context: &Context) -> CommandResult {
    let network = context.network().await?;
    let batches: Vec<BatchView> = context.client.get(&network.path("batches")).await?;
    context.out.document("batches", &serde_json::json!({ "batches": batches }))?;
    if batches.is_empty() {
        context.out.note("no batch yet: `barn submit FILE` makes one");
        return Ok(Exit::DONE);
    }
    let mut table = Table::new(&["batch", "name", "channel", "priority", "submitted", "by", "jobs"]);
    let now = now();
    for batch in &batches {
        table.row([
            batch.id.short(),
            plain(&batch.name),
            plain(&batch.channel),
            priority(batch.priority).into(),
            ago(now, batch.issued),
            batch.operator.map_or_else(|| "-".into(), |operator| operator.short()),
            tally(context, batch),
        ]);
    }
    context.out.say(table.render())?;
    Ok(Exit::DONE)
}

/// `barn batch ID`
pub(super) async fn matrix(context: &Context, id: &str) -> CommandResult {
    let network = context.network().await?;
    let page: BatchPage = context.client.get(&network.path(&format!("batches/{}", segment(id)))).await?;
    context.out.document("batch", &page)?;
    context.out.say(page_text(context, &page))?;
    Ok(Exit::DONE)
}

fn page_text(context: &Context, page: &BatchPage) -> String {
    let batch = &page.batch;
    let mut text = format!(
        "{}  {}\nfor {}, priority {}, submitted {}{}\n{}",
        context.out.paint(Style::Strong, &plain(&batch.name)),
        batch.id,
        plain(&batch.channel),
        priority(batch.priority),
        ago(now(), batch.issued),
        batch.operator.map_or_else(String::new, |operator| format!(" by {}", operator.short())),
        tally(context, batch),
    );
    if !page.jobs.is_empty() {
        text.push_str("\n\n");
        text.push_str(&matrix_text(context, &page.jobs));
    }
    text
}

/// A row for each job.
pub(super) fn matrix_text(context: &Context, jobs: &[JobView]) -> String {
    let mut table = Table::new(&["job", "state", "builders", "agreeing", "why"]);
    for job in jobs {
        let agreeing = job.verdict.as_ref().map_or_else(|| "-".into(), |verdict| operators(&verdict.agreeing));
        table.row([plain(&job.label), state(&context.out, job.state), operators(&builders(job)), agreeing, plain(&job.why)]);
    }
    table.render()
}

/// Everybody who builds the job or has built it.
fn builders(job: &JobView) -> BTreeSet<OperatorId> {
    let holders = job.slots.iter().filter_map(|slot| slot.operator);
    holders.chain(job.attestations.iter().map(|attestation| attestation.operator)).collect()
}

/// How many jobs are in which state; or why nothing is built.
fn tally(context: &Context, batch: &BatchView) -> String {
    if batch.states.is_empty() {
        let why = batch.halted.as_deref().map_or_else(String::new, |why| format!(": {}", plain(why)));
        return format!("{}{why}", count(batch.job_count as usize, "job", "jobs"));
    }
    let states: Vec<String> = batch.states.iter().map(|(of, number)| format!("{number} {}", state(&context.out, *of))).collect();
    let halted = batch.halted.as_deref().map_or_else(String::new, |why| format!("  ({})", plain(why)));
    format!("{}{halted}", states.join(", "))
}

/// The priority's name in files.
const fn priority(priority: Priority) -> &'static str {
    match priority {
        Priority::Security => "security",
        Priority::Release => "release",
        Priority::Maintainer => "maintainer",
        Priority::Nightly => "nightly",
        Priority::Background => "background",
    }
}

/// `barn cancel`
pub(super) async fn cancel(context: &Context, id: &str) -> CommandResult {
    let network = context.network().await?;
    let done: Done = context.client.post(&network.path(&format!("batches/{}/cancel", segment(id))), &()).await?;
    say_done(context, &done)
}

/// `barn retry`: of all jobs of a batch that failed, or of the one that `id` names.
pub(super) async fn retry(context: &Context, id: &str) -> CommandResult {
    let network = context.network().await?;
    let path = if id.contains('/') {
        let job = find_job(&network, id).await?;
        if job.state != JobState::Failed {
            let message = format!("{} has not failed: it is {} ({})", plain(&job.label), job.state, plain(&job.why));
            return Err(crate::api::Problem::failed(message));
        }
        format!("batches/{}/retry?job={}", job.batch, job.index.0)
    } else {
        format!("batches/{}/retry", segment(id))
    };
    let done: Done = context.client.post(&network.path(&path), &()).await?;
    say_done(context, &done)
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn the_matrix_has_a_row_for_each_job() {
        let context = samples::context();
        let text = matrix_text(&context, &[samples::agreed(), samples::waiting()]);
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows.len(), 3);
        assert!(rows[0].starts_with("job") && rows[0].ends_with("why"));
        let row = rows[1];
        for part in ["zlib[device=x]", "cross-verified", "0101010101 0202020202", "2 operators agree"] {
            assert!(row.contains(part), "{part} is not in {row}");
        }
        assert!(rows[2].contains("waits for zlib") && rows[2].contains("  -  "), "{}", rows[2]);
    }

    #[test]
    fn a_page_counts_states_and_says_why_nothing_is_built() {
        let context = samples::context();
        let mut page = samples::page();
        let text = page_text(&context, &page);
        assert!(text.contains("1 waiting, 1 cross-verified") && text.contains("priority nightly"), "{text}");
        page.batch.states.clear();
        page.batch.halted = Some("its graph is being fetched".into());
        page.jobs.clear();
        assert!(page_text(&context, &page).ends_with("2 jobs: its graph is being fetched"));
    }
}
