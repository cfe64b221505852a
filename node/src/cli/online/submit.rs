//! `barn submit`: hands a file to the node, and with `--wait` watches what becomes of it.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};

use barnraiser_protocol::engine::query::{JobState, JobView};
use barnraiser_protocol::id::BatchId;
use barnraiser_protocol::recipe::FILE_BYTES_MAX;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::args::{SubmitArgs, WaitFor};
use super::super::planning::a_folder;
use super::super::{CommandResult, Exit};
use super::context::{Context, InNetwork};
use super::log;
use super::words::{count, length, padded_state, plain};
use crate::api::{BatchPage, Problem, Submit, Submitted};

/// How soon the node is asked again at first. A job that is built in a second is seen in each of its states.
const ASK_SOON: Duration = Duration::from_millis(100);
/// How late the node is asked again at most.
const ASK_LATE: Duration = Duration::from_secs(5);
/// A question may take this part of the time, so that watching a large batch does not slow its building down.
const ASK_SHARE: u32 = 20;
/// Lines that are shown of the log of a job that failed.
const TAIL_LINES: usize = 20;

/// `barn submit`
pub(super) async fn submit(context: &Context, args: &SubmitArgs) -> CommandResult {
    let network = context.network().await?;
    let ask = request(args)?;
    let submitted: Submitted = context.client.post(&network.path("submit"), &ask).await?;
    context.out.say(submitted.batch.to_string())?;
    let Some(wanted) = args.wait else {
        context.out.document("submitted", &submitted)?;
        return Ok(Exit::DONE);
    };
    context.out.stream("submitted", &submitted)?;
    wait(&network, submitted.batch, wanted, args.timeout).await
}

fn request(args: &SubmitArgs) -> Result<Submit, Problem> {
    let unread = |error: std::io::Error| Problem::usage(format!("{}: can't be read: {error}", args.file.display()));
    let (path, text) = if args.file == Path::new("-") {
        (std::env::current_dir().map_err(unread)?, Some(standard_input().map_err(unread)?))
    } else if args.file.is_dir() {
        return Err(a_folder(&args.file));
    } else {
        (std::path::absolute(&args.file).map_err(unread)?, None)
    };
    Ok(Submit {
        path,
        text,
        channel: args.channel.clone(),
        priority: args.priority,
        set: once("--set", &args.set)?,
        labels: once("--label", &args.label)?,
    })
}

fn standard_input() -> std::io::Result<String> {
    let mut text = String::new();
    // One more byte than may be: the node says that it is too large.
    std::io::stdin().lock().take(FILE_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// Pairs by their first part, each given once.
fn once(option: &str, pairs: &[(String, String)]) -> Result<BTreeMap<String, String>, Problem> {
    let mut map = BTreeMap::new();
    for (name, value) in pairs {
        if let Some(first) = map.insert(name.clone(), value.clone()) {
            return Err(Problem::usage(format!("{option} gives {name} twice: {first:?} and {value:?}")));
        }
    }
    Ok(map)
}

/// What a batch has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Come {
    /// So many jobs are where they should be; the others can still get there.
    Under(usize),
    /// All of them.
    Reached,
    /// The job at this place failed.
    Failed(usize),
    /// The job at this place is not built any more.
    Withdrawn(usize),
}

fn reached(state: JobState, wanted: WaitFor) -> bool {
    match wanted {
        WaitFor::CrossVerified => state == JobState::CrossVerified,
        WaitFor::Candidate => matches!(state, JobState::Candidate | JobState::CrossVerified),
    }
}

/// What `jobs` have come to. A job that failed by itself is named before those that needed it.
fn come(jobs: &[JobView], wanted: WaitFor) -> Come {
    let itself = |job: &&JobView| job.verdict.as_ref().is_some_and(|verdict| verdict.state.is_failure());
    let mut failed = jobs.iter().enumerate().filter(|(_, job)| job.state == JobState::Failed);
    let first = failed.clone().find(|(_, job)| itself(job)).or_else(|| failed.next());
    if let Some((place, _)) = first {
        return Come::Failed(place);
    }
    let there = jobs.iter().filter(|job| reached(job.state, wanted)).count();
    if there == jobs.len() && there > 0 {
        return Come::Reached;
    }
    let withdrawn = jobs.iter().position(|job| matches!(job.state, JobState::Superseded | JobState::Withdrawn));
    withdrawn.map_or(Come::Under(there), Come::Withdrawn)
}

/// Waits until every job of `batch` is where it should be, and says what happens meanwhile.
async fn wait(network: &InNetwork<'_>, batch: BatchId, wanted: WaitFor, timeout: Option<Duration>) -> CommandResult {
    let context = network.context;
    let path = network.path(&format!("batches/{batch}"));
    let started = Instant::now();
    let mut show = Show::new(context);
    let mut pause = ASK_SOON;
    loop {
        let asked = Instant::now();
        let page: BatchPage = context.client.get(&path).await?;
        show.page(&page.jobs, wanted)?;
        match come(&page.jobs, wanted) {
            Come::Under(_) => {}
            Come::Reached => {
                show.end();
                let result = serde_json::json!({ "batch": batch, "reached": true, "jobs": page.jobs.len() });
                context.out.stream("batch-result", &result)?;
                let jobs = count(page.jobs.len(), "job is", "jobs are");
                context.out.note(format!("{jobs} {}, after {}", word(wanted), length(started.elapsed())));
                return Ok(Exit::DONE);
            }
            Come::Failed(place) => {
                show.end();
                return Err(failure(network, &page.jobs, place).await);
            }
            Come::Withdrawn(place) => {
                show.end();
                let why = page.jobs.get(place).map_or("", |job| job.why.as_str());
                return Err(Problem::failed(format!("batch {} is not built any more: {}", batch.short(), plain(why))));
            }
        }
        pause = (pause * 2).min(ASK_LATE).min((asked.elapsed() * ASK_SHARE).max(ASK_SOON * 3));
        let left = timeout.map(|timeout| timeout.saturating_sub(started.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            show.end();
            return Err(late(&page, wanted, started.elapsed()));
        }
        tokio::time::sleep(left.map_or(pause, |left| pause.min(left))).await;
    }
}

const fn word(wanted: WaitFor) -> &'static str {
    match wanted {
        WaitFor::Candidate => "candidate or better",
        WaitFor::CrossVerified => "cross-verified",
    }
}

/// Exit code 6, with what is missing.
fn late(page: &BatchPage, wanted: WaitFor, waited: Duration) -> Problem {
    let there = page.jobs.iter().filter(|job| reached(job.state, wanted)).count();
    let total = page.batch.job_count;
    let mut text =
        format!("timed out after {}: {there} of {} {}", length(waited), count(total as usize, "job is", "jobs are"), word(wanted));
    if let Some(why) = &page.batch.halted {
        text.push_str(&format!("; {}", plain(why)));
    }
    for job in page.jobs.iter().filter(|job| !reached(job.state, wanted)).take(10) {
        text.push_str(&format!("\n  {}: {}: {}", plain(&job.label), job.state, plain(&job.why)));
    }
    text.push_str(&format!("\nthe batch goes on; `barn batch {}` shows it", page.batch.id.short()));
    Problem::unreachable(text)
}

/// Exit code 7, with the job that failed and the end of its log.
async fn failure(network: &InNetwork<'_>, jobs: &[JobView], place: usize) -> Problem {
    let Some(job) = jobs.get(place) else { return Problem::failed("a job failed") };
    let name = format!("{}/{}", job.batch.short(), plain(&job.label));
    let mut text = format!("{} failed: {}", plain(&job.label), plain(&job.why));
    match log::tail(network, job, TAIL_LINES).await {
        Ok(Some((operator, tail))) => {
            text.push_str(&format!("\n--- the end of its log, by {}\n{tail}\n--- all of it: barn log '{name}'", operator.short()));
        }
        Ok(None) => text.push_str("\nno log of it can be had"),
        Err(problem) => text.push_str(&format!("\nits log can't be had: {problem}")),
    }
    let others = jobs.iter().filter(|other| !matches!(other.state, JobState::Failed | JobState::CrossVerified)).count();
    if others > 0 {
        text.push_str(&format!("\n{} on; `barn batch {}` shows them", count(others, "other job goes", "other jobs go"), job.batch.short()));
    }
    Problem { status: STATUS_JOB_FAILED, message: text }
}

/// The status whose exit code is 7 ([`Problem::exit_code`]).
const STATUS_JOB_FAILED: u16 = 424;

/// Says what changes: a line for each change, and a bar below them where a person watches.
struct Show<'a> {
    context: &'a Context,
    bar: Option<ProgressBar>,
    seen: Vec<JobState>,
}

impl<'a> Show<'a> {
    fn new(context: &'a Context) -> Self {
        let bar = context.out.live().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // The template is a constant that a test reads.
            bar.set_style(ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { context, bar, seen: Vec::new() }
    }

    fn page(&mut self, jobs: &[JobView], wanted: WaitFor) -> Result<(), Problem> {
        let out = &self.context.out;
        let changed = changes(&mut self.seen, jobs);
        let width = jobs.iter().map(|job| job.label.len()).max().unwrap_or(0).min(40);
        for job in changed {
            let event = serde_json::json!({ "batch": job.batch, "job": job.label, "state": job.state, "why": job.why });
            out.stream("job-state", &event)?;
            let line = format!("{:width$}  {}  {}", plain(&job.label), padded_state(out, job.state), plain(&job.why));
            match &self.bar {
                Some(bar) => bar.println(line),
                None => out.note(line),
            }
        }
        if let Some(bar) = &self.bar {
            let mut states: BTreeMap<JobState, usize> = BTreeMap::new();
            for job in jobs {
                *states.entry(job.state).or_default() += 1;
            }
            let states: Vec<String> = states.iter().map(|(of, number)| format!("{number} {of}")).collect();
            bar.set_length(jobs.len() as u64);
            bar.set_position(jobs.iter().filter(|job| reached(job.state, wanted)).count() as u64);
            bar.set_message(if jobs.is_empty() { "the graph is on its way".to_owned() } else { states.join(", ") });
        }
        Ok(())
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

const TEMPLATE: &str = "{elapsed} [{bar:24}] {pos}/{len}  {wide_msg}";

/// The jobs whose state is another than the one `seen`, which is brought up to date.
fn changes<'j>(seen: &mut Vec<JobState>, jobs: &'j [JobView]) -> Vec<&'j JobView> {
    let changed = jobs.iter().enumerate().filter(|(place, job)| seen.get(*place) != Some(&job.state));
    let changed = changed.map(|(_, job)| job).collect();
    *seen = jobs.iter().map(|job| job.state).collect();
    changed
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::samples;
    use super::*;
    use barnraiser_protocol::verdict::VerdictState;

    fn job(label: &str, state: JobState) -> JobView {
        let mut job = samples::agreed();
        job.verdict = None;
        JobView { label: label.into(), state, ..job }
    }

    #[test]
    fn waiting_ends_when_every_job_is_there() {
        let both = |a, b| [job("a", a), job("b", b)];
        let (candidate, verified) = (WaitFor::Candidate, WaitFor::CrossVerified);
        assert_eq!(come(&both(JobState::CrossVerified, JobState::Candidate), verified), Come::Under(1));
        assert_eq!(come(&both(JobState::CrossVerified, JobState::Candidate), candidate), Come::Reached);
        assert_eq!(come(&both(JobState::CrossVerified, JobState::CrossVerified), verified), Come::Reached);
        assert_eq!(come(&both(JobState::CrossVerified, JobState::Withdrawn), verified), Come::Withdrawn(1));
        // A graph that has not come yet is no batch without jobs.
        assert_eq!(come(&[], verified), Come::Under(0));
        assert_eq!(come(&both(JobState::Disputed, JobState::PlatformDependent), verified), Come::Under(0));
    }

    #[test]
    fn the_job_that_failed_is_named_before_those_that_needed_it() {
        let mut root = job("root", JobState::Failed);
        let mut verdict = samples::agreed().verdict.unwrap();
        verdict.state = VerdictState::Failed;
        root.verdict = Some(verdict);
        let jobs = [job("dependant", JobState::Failed), root, job("other", JobState::Building)];
        assert_eq!(come(&jobs, WaitFor::CrossVerified), Come::Failed(1));
        assert_eq!(come(&jobs[..1], WaitFor::CrossVerified), Come::Failed(0));
    }

    #[test]
    fn each_change_is_told_once() {
        let mut seen = Vec::new();
        let mut jobs = [job("a", JobState::Ready), job("b", JobState::Waiting)];
        assert_eq!(changes(&mut seen, &jobs).len(), 2);
        assert!(changes(&mut seen, &jobs).is_empty());
        jobs[1].state = JobState::Ready;
        assert_eq!(changes(&mut seen, &jobs)[0].label, "b");
    }

    #[test]
    fn a_timeout_says_what_is_missing() {
        let problem = late(&samples::page(), WaitFor::CrossVerified, Duration::from_secs(90));
        assert_eq!(problem.exit_code(), 6);
        for part in ["1 min 30 s", "1 of 2 jobs", "image[device=x]: waiting: waits for"] {
            assert!(problem.message.contains(part), "{part} is not in {problem}");
        }
    }

    #[test]
    fn an_option_is_given_once_for_each_name() {
        let pair = |name: &str| (name.to_owned(), "v".to_owned());
        assert_eq!(once("--set", &[pair("a"), pair("b")]).unwrap().len(), 2);
        assert_eq!(once("--set", &[pair("a"), pair("a")]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn the_bar_can_be_drawn() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
        assert_eq!(Problem { status: STATUS_JOB_FAILED, message: String::new() }.exit_code(), 7);
    }
}
