//! What the demo found, as tables and as one document. All of it is taken from answers of the network's nodes, or measured.

use std::collections::BTreeMap;

use barnraiser_protocol::engine::query::{JobState, JobView};
use barnraiser_protocol::id::{ActionId, BatchId, BlobHash, OutcomeHash};
use barnraiser_protocol::outcome::Outcome;
use barnraiser_protocol::policy::Policy;
use barnraiser_protocol::verdict::Verdict;
use serde::Serialize;

use super::stage::Actor;
use crate::cli::output::{Output, Style, Table, bytes};

/// All of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The policy under which results count.
    pub policy: Policy,
    /// Who takes part, and with what.
    pub people: Vec<Person>,
    /// The batch that was built.
    pub batch: BatchId,
    /// Its jobs.
    pub jobs: Vec<JobReport>,
    /// Who was shown to be wrong; `None` where all builders were honest.
    pub cheater: Option<Cheater>,
    /// The signed release.
    pub release: ReleaseReport,
    /// The image that the user fetched.
    pub image: ImageReport,
    /// Programs of the image that were run.
    pub programs: Vec<ProgramRun>,
    /// What had to hold, and whether it did.
    pub checks: Vec<Check>,
    /// Whether all of `checks` held.
    pub held: bool,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Somebody who takes part.
#[derive(Debug, Clone, Serialize)]
pub struct Person {
    /// How the demo calls them.
    pub name: &'static str,
    /// `maintainer`, `builder` or `user`.
    pub role: &'static str,
    /// Their operator's id.
    pub operator: String,
    /// Their node's id.
    pub node: String,
}

impl Person {
    /// `actor` in that role.
    pub fn new(actor: &Actor, role: &'static str) -> Self {
        Self { name: actor.name, role, operator: actor.operator.clone(), node: actor.node.clone() }
    }
}

/// A job.
#[derive(Debug, Serialize)]
pub struct JobReport {
    /// `RECIPE[axis=value]`.
    pub job: String,
    /// The recipe's version.
    pub version: String,
    /// The action that it stands for.
    pub action: Option<ActionId>,
    /// Its state.
    pub state: JobState,
    /// The verdict.
    pub verdict: Option<Verdict>,
    /// What each builder attested.
    pub results: Vec<BuilderResult>,
}

/// What a builder attested.
#[derive(Debug, Serialize)]
pub struct BuilderResult {
    /// Who.
    pub builder: String,
    /// Their operator's id.
    pub operator: String,
    /// Hash of the outcome.
    pub hash: Option<OutcomeHash>,
    /// The artefact; `None` for a failure.
    pub tree: Option<BlobHash>,
    /// Whether it was built to settle a dispute.
    pub arbiter: bool,
    /// Whether the verdict says that it is wrong.
    pub wrong: bool,
}

impl JobReport {
    /// A job as a node shows it.
    pub fn new(job: &JobView, people: &[Person]) -> Self {
        let wrong =
            |operator: &String| job.verdict.as_ref().is_some_and(|verdict| verdict.wrong.iter().any(|id| id.to_string() == *operator));
        let results = job.attestations.iter().filter(|attestation| attestation.outcome.is_some()).map(|attestation| {
            let operator = attestation.operator.to_string();
            BuilderResult {
                builder: name_of(people, &operator),
                hash: attestation.outcome_hash,
                tree: attestation.outcome.as_ref().and_then(Outcome::tree),
                arbiter: attestation.lease.slot.is_arbiter(),
                wrong: wrong(&operator),
                operator,
            }
        });
        Self {
            job: job.label.clone(),
            version: job.version.clone(),
            action: job.action,
            state: job.state,
            verdict: job.verdict.clone(),
            results: results.collect(),
        }
    }
}

/// The name behind an operator's or a node's id.
pub fn name_of(people: &[Person], id: &str) -> String {
    let person = people.iter().find(|person| person.operator == id || person.node == id);
    person.map_or_else(|| id.chars().take(10).collect(), |person| person.name.to_owned())
}

/// Somebody who handed over what was not built.
#[derive(Debug, Serialize)]
pub struct Cheater {
    /// How the demo calls them.
    pub name: String,
    /// Their operator's id.
    pub operator: String,
    /// Job by job, what they attested and what it should have been.
    pub evidence: Vec<Lie>,
}

/// One of their results.
#[derive(Debug, Serialize)]
pub struct Lie {
    /// The job.
    pub job: String,
    /// The action.
    pub action: Option<ActionId>,
    /// What they attested.
    pub attested: OutcomeHash,
    /// What stands.
    pub right: Option<OutcomeHash>,
    /// Who agrees on what stands.
    pub agreeing: Vec<String>,
    /// Who settled it.
    pub arbiter: Option<String>,
}

/// What `jobs` say of those who were shown to be wrong; the one with the most lies where there are several.
pub fn cheater(jobs: &[JobReport], people: &[Person]) -> Option<Cheater> {
    let mut lies: BTreeMap<String, Vec<Lie>> = BTreeMap::new();
    for job in jobs {
        let Some(verdict) = &job.verdict else { continue };
        for operator in &verdict.wrong {
            let Some(attested) = verdict.differing.get(operator) else { continue };
            let agreeing = verdict.agreeing.iter().map(|operator| name_of(people, &operator.to_string()));
            lies.entry(operator.to_string()).or_default().push(Lie {
                job: job.job.clone(),
                action: job.action,
                attested: *attested,
                right: verdict.outcome.as_ref().map(Outcome::hash),
                agreeing: agreeing.collect(),
                arbiter: verdict.arbiter.map(|operator| name_of(people, &operator.to_string())),
            });
        }
    }
    let (operator, evidence) = lies.into_iter().max_by_key(|(_, lies)| lies.len())?;
    Some(Cheater { name: name_of(people, &operator), operator, evidence })
}

/// The signed release.
#[derive(Debug, Serialize)]
pub struct ReleaseReport {
    /// The channel.
    pub channel: String,
    /// Its number in the channel.
    pub number: u64,
    /// Ids of the keys that signed.
    pub signed_by: Vec<String>,
    /// Whose keys those are.
    pub signers: Vec<&'static str>,
    /// How many signatures are wanted.
    pub threshold: usize,
    /// How many maintainers there are.
    pub maintainers: usize,
}

/// The fetched image.
#[derive(Debug, Serialize)]
pub struct ImageReport {
    /// Its name in the channel.
    pub name: String,
    /// BLAKE3 of the bytes that were fetched, computed from the file.
    pub blake3: BlobHash,
    /// The hash that was fetched.
    pub asked_for: BlobHash,
    /// Its length in bytes.
    pub length: u64,
    /// Who served how many bytes.
    pub served: Vec<Served>,
    /// The evidence from which anybody recomputes the verdict.
    pub evidence: Option<BlobHash>,
}

/// Bytes that a node served.
#[derive(Debug, Serialize)]
pub struct Served {
    /// Whose node.
    pub by: String,
    /// The node.
    pub node: String,
    /// Bytes, counted by the fetcher.
    pub bytes: u64,
    /// Of all, from 0 to 1.
    pub share: f64,
}

/// A program of the image that was run.
#[derive(Debug, Serialize)]
pub struct ProgramRun {
    /// Its path in the image.
    pub program: String,
    /// What was done with it.
    pub did: &'static str,
    /// What it printed, or what went wrong.
    pub printed: String,
    /// Whether that is what it should.
    pub right: bool,
}

/// Something that has to hold.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What.
    pub what: &'static str,
    /// How far.
    pub found: String,
    /// Whether it holds.
    pub held: bool,
}

impl Report {
    /// The tables.
    pub fn text(&self, out: &Output) -> String {
        [self.jobs_text(out), self.cheater_text(out), self.image_text(out), self.checks_text(out)].join("\n\n")
    }

    fn jobs_text(&self, out: &Output) -> String {
        let builders: Vec<&Person> = self.people.iter().filter(|person| person.role == "builder").collect();
        let mut headings = vec!["job", "version", "verdict"];
        headings.extend(builders.iter().map(|person| person.name));
        headings.push("settled by");
        let mut table = Table::new(&headings);
        for job in &self.jobs {
            let good = job.state == JobState::CrossVerified;
            let mut row = vec![job.job.clone(), job.version.clone()];
            row.push(out.paint(if good { Style::Good } else { Style::Bad }, &job.state.to_string()));
            for builder in &builders {
                let result = job.results.iter().find(|result| result.operator == builder.operator && !result.arbiter);
                row.push(result.map_or_else(|| "-".into(), |result| result.text(out)));
            }
            let arbiter = job.results.iter().find(|result| result.arbiter);
            row.push(arbiter.map_or_else(|| "-".into(), |result| format!("{} {}", result.text(out), result.builder)));
            table.row(row);
        }
        table.render()
    }

    fn cheater_text(&self, out: &Output) -> String {
        let Some(cheater) = &self.cheater else {
            return "Nobody cheated: all builders attested the same.".into();
        };
        let heading = format!("{} handed over what was not built", cheater.name);
        let mut text = format!("{} (operator {}):", out.paint(Style::Bad, &heading), cheater.operator);
        for lie in &cheater.evidence {
            let right = lie.right.map_or_else(|| "-".into(), |hash| hash.short());
            let settled = lie.arbiter.as_ref().map_or_else(String::new, |arbiter| format!(", settled by {arbiter}, who built it twice"));
            let action = lie.action.map_or_else(|| "-".into(), |action| action.short());
            text.push_str(&format!(
                "\n  {:8} action {action}: attested {}, right is {right} ({}{settled})",
                lie.job,
                lie.attested.short(),
                lie.agreeing.join(", "),
            ));
        }
        text
    }

    fn image_text(&self, out: &Output) -> String {
        let mut table = Table::plain();
        let release = &self.release;
        table.row([
            out.paint(Style::Strong, &format!("{}/{}", release.channel, self.image.name)),
            format!("release {}, {}", release.number, bytes(self.image.length)),
        ]);
        table.row(["  BLAKE3".into(), self.image.blake3.to_string()]);
        let signed = format!("{} ({} of {} are wanted)", release.signers.join(", "), release.threshold, release.maintainers);
        table.row(["  signed by".into(), signed]);
        for served in &self.image.served {
            table.row(["  served by".into(), format!("{:8} {:>9}  {:.0} %", served.by, bytes(served.bytes), served.share * 100.0)]);
        }
        for run in &self.programs {
            table.row([format!("  {}", run.program), format!("{}: {}", run.did, run.printed)]);
        }
        table.render()
    }

    fn checks_text(&self, out: &Output) -> String {
        let mut table = Table::plain();
        for check in &self.checks {
            let sign = if check.held { out.paint(Style::Good, "✓") } else { out.paint(Style::Bad, "✗") };
            table.row([sign, check.what.to_owned(), check.found.clone()]);
        }
        let held = self.checks.iter().filter(|check| check.held).count();
        let all = format!("{held} of {} held, in {:.0} s", self.checks.len(), self.seconds);
        let all = out.paint(if self.held { Style::Good } else { Style::Bad }, &all);
        format!("{}\n{all}", table.render())
    }
}

impl BuilderResult {
    fn text(&self, out: &Output) -> String {
        let hash = self.hash.map_or_else(|| "-".into(), |hash| hash.short());
        if self.wrong { out.paint(Style::Bad, &format!("{hash} ✗")) } else { hash }
    }
}
