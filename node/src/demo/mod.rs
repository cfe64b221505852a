//! `barn demo`: a whole network on this machine, on real sources, narrated.
//!
//! Everything happens in processes of their own that people would start, too, over loopback, in temporary homes; this module
//! types the commands, watches and counts. [`stage`] has the processes, [`report`] the tables. `docs/src/demo.md` tells the
//! same to people.

mod image;
mod report;
mod stage;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use barnraiser_protocol::engine::query::{JobState, JobView};
use barnraiser_protocol::id::{BatchId, BlobHash};
use barnraiser_protocol::policy::Policy;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::api::{BatchPage, Fetched, Problem, ReleaseView, ReleasedTarget, Status};
use crate::cli::args::DemoArgs;
use crate::cli::output::{Output, Style, bytes};
use crate::cli::{CommandResult, Exit};
use report::{Check, ImageReport, JobReport, Person, ReleaseReport, Report, Served, name_of};
use stage::{Actor, Lends, Stage, text};

/// What is built: the files of `node/demo`.
const FILES: &[(&str, &str)] = &[
    ("batch.toml", include_str!("../../demo/batch.toml")),
    ("policy.json", include_str!("../../demo/policy.json")),
    ("recipes/bzip2.toml", include_str!("../../demo/recipes/bzip2.toml")),
    ("recipes/gz.c", include_str!("../../demo/recipes/gz.c")),
    ("recipes/gz.toml", include_str!("../../demo/recipes/gz.toml")),
    ("recipes/image.toml", include_str!("../../demo/recipes/image.toml")),
    ("recipes/lua.c", include_str!("../../demo/recipes/lua.c")),
    ("recipes/lua.toml", include_str!("../../demo/recipes/lua.toml")),
    ("recipes/zlib.toml", include_str!("../../demo/recipes/zlib.toml")),
];
const CHANNEL: &str = "nightly";
const IMAGE: &str = "demo.img";
const MAINTAINERS: [&str; 3] = ["ada", "ben", "cleo"];
/// How many maintainers sign.
const THRESHOLD: usize = 2;
const BUILDERS: [&str; 4] = ["dora", "emil", "finn", "mallory"];
/// The builder that runs the tampering program, where that is here.
const TAMPERER: &str = "mallory";
const USER: &str = "uma";

/// Longest time for nodes to hear of each other, of a release, or of results.
const SOON: Duration = Duration::from_secs(90);
/// Longest time for the batch.
const BUILD_TIME: &str = "600 s";
/// The least share of the image that a node must have served to count as one of several.
const SHARE_MIN: f64 = 0.2;

/// `barn demo`
///
/// # Errors
/// [`Problem`]: a part of it could not be done. That something did not hold is [`Exit::FAILED`].
pub async fn demo(out: Output, args: &DemoArgs) -> CommandResult {
    let mut stage = Stage::new(out, args.keep.as_deref())?;
    let failed = stage::trouble("signals can't be listened to");
    let (mut interrupt, mut terminate) =
        signal(SignalKind::interrupt()).and_then(|interrupt| Ok((interrupt, signal(SignalKind::terminate())?))).map_err(failed)?;
    let started = Instant::now();
    let played = tokio::select! {
        played = play(&mut stage) => played,
        _ = interrupt.recv() => Err(Problem::failed("interrupted")),
        _ = terminate.recv() => Err(Problem::failed("told to end")),
    };
    // Whatever happened, nothing is left running.
    let killed = stage.clear().await;
    if let Some(folder) = &args.keep {
        out.note(format!("homes and logs are in {}", folder.display()));
    }
    let mut report = played?;
    report.check(
        "nothing was left running",
        killed.is_empty(),
        match killed.as_slice() {
            [] => "all ended when asked to".into(),
            killed => format!("{} had to be killed", killed.join(", ")),
        },
    );
    report.held = report.checks.iter().all(|check| check.held);
    report.seconds = started.elapsed().as_secs_f64();
    out.document("demo", &report)?;
    out.say(format!("\n{}", report.text(&out)))?;
    Ok(if report.held { Exit::DONE } else { Exit::FAILED })
}

/// Those who take part.
struct Cast {
    maintainers: Vec<Actor>,
    user: Actor,
    people: Vec<Person>,
    tampers: bool,
}

async fn play(stage: &mut Stage) -> Result<Report, Problem> {
    let program = stage.program("barn-tamper");
    for (name, content) in FILES {
        stage.write(&format!("sources/{name}"), content)?;
    }
    let (cast, policy) = found(stage, program.as_deref()).await?;
    let (batch, jobs) = build(stage, &cast).await?;
    let (release, view) = release(stage, &cast, &batch).await?;
    let verdict = examine(stage, &cast, &view).await?;
    stage.heading("The maintainers switch their machines off; the user fetches the image by its hash all the same");
    stage.stop(&cast.maintainers).await;
    let (image, path) = fetch(stage, &cast, &view).await?;
    let signatures = verify(stage, &cast, &path).await?;
    stage.heading("The image is opened, and its programs run in it");
    let programs = image::open_and_run(stage, &path).await?;
    for run in &programs {
        stage.out.note(format!("{}: {}: {}", run.program, run.did, run.printed));
    }

    let cheater = report::cheater(&jobs, &cast.people);
    let mut report = Report {
        policy,
        people: cast.people.clone(),
        batch,
        jobs,
        cheater,
        release,
        image,
        programs,
        checks: Vec::new(),
        held: false,
        seconds: 0.0,
    };
    judge(&mut report, &cast);
    report.checks.extend([verdict, signatures]);
    Ok(report)
}

impl Report {
    fn check(&mut self, what: &'static str, held: bool, found: String) {
        self.checks.push(Check { what, found, held });
    }
}

/// Founds the network and fills it.
async fn found(stage: &mut Stage, tamperer: Option<&Path>) -> Result<(Cast, Policy), Problem> {
    stage.heading("Three maintainers found a network: two of them sign what counts");
    let entry = stage.entry_server().await?;
    let mut maintainers = Vec::new();
    let mut create: Vec<String> = ["network", "create", "demo", "--policy", "sources/policy.json"].map(String::from).to_vec();
    for name in MAINTAINERS {
        let actor = stage.actor(name, Lends::Arbiter).await?;
        let key = stage.json(&actor, &["key", "new", &format!("{name}.key")]).await?;
        create.extend(["--maintainer".into(), text(&key, "card")?]);
        maintainers.push(actor);
    }
    create.extend(["--threshold".into(), THRESHOLD.to_string(), "-o".into(), "proposal.json".into()]);
    let first = &maintainers[0];
    stage.shown(first, &create.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let mut open = vec!["network".to_owned(), "open".into(), "proposal.json".into()];
    for actor in &maintainers[..THRESHOLD] {
        let (key, signature) = (format!("{}.key", actor.name), format!("{}.sig", actor.name));
        stage.shown(actor, &["sign", "proposal.json", "--key", &key, "-o", &signature]).await?;
        open.push(signature);
    }
    open.extend(["--bootstrap".into(), entry]);
    let open: Vec<&str> = open.iter().map(String::as_str).collect();
    for actor in &maintainers {
        stage.shown(actor, &open).await?;
    }

    stage.heading("Four people lend a core each; a user lends nothing");
    let invitation = text(&stage.shown(first, &["network", "invite", "--uses", "4"]).await?, "ticket")?;
    let ticket = text(&stage.shown(first, &["network", "ticket"]).await?, "ticket")?;
    let mut builders = Vec::new();
    for name in BUILDERS {
        let actor = stage.actor(name, Lends::Core).await?;
        stage.shown(&actor, &["join", &invitation]).await?;
        builders.push(actor);
    }
    let user = stage.actor(USER, Lends::Nothing).await?;
    stage.shown(&user, &["join", &ticket]).await?;
    for actor in maintainers.iter().chain(&builders).chain([&user]) {
        let program = tamperer.filter(|_| actor.name == TAMPERER);
        stage.start(actor, program).await?;
    }
    match tamperer {
        Some(_) => stage.out.note(stage.out.paint(Style::Warn, "mallory runs barn-tamper instead of barn: it changes what it builds")),
        None => stage.out.note("the program barn-tamper is not beside this one, so all builders are honest: nobody will be shown to cheat"),
    }
    let people = maintainers
        .iter()
        .map(|actor| Person::new(actor, "maintainer"))
        .chain(builders.iter().map(|actor| Person::new(actor, "builder")))
        .chain([Person::new(&user, "user")])
        .collect();
    let policy = gathered(stage, &maintainers, &builders, &user).await?;
    stage.out.note(format!("policy: {policy}"));
    Ok((Cast { maintainers, user, people, tampers: tamperer.is_some() }, policy))
}

/// Waits until every maintainer and builder knows all of them, and the user knows the rules.
async fn gathered(stage: &mut Stage, maintainers: &[Actor], builders: &[Actor], user: &Actor) -> Result<Policy, Problem> {
    let members = maintainers.len() + builders.len();
    for actor in maintainers.iter().chain(builders) {
        let all_there = async |stage: &Stage| {
            let status: Status = stage.ask(actor, "/api/v1/status").await?;
            let here = status.networks.first().map_or(0, |network| {
                let here = |nodes: &[(_, bool)]| nodes.iter().any(|(_, present)| *present);
                network.operators.iter().filter(|operator| operator.branch.is_some() && here(&operator.nodes)).count()
            });
            Ok((here >= members).then_some(()))
        };
        stage.wait(&format!("{} knows all {members} members", actor.name), SOON, all_there).await?;
    }
    let live = async |stage: &Stage| {
        let status: Status = stage.ask(user, "/api/v1/status").await?;
        Ok(status.networks.into_iter().next().and_then(|network| network.policy))
    };
    stage.wait("the user knows the network's rules", SOON, live).await
}

/// Submits the batch, and waits for all results.
async fn build(stage: &mut Stage, cast: &Cast) -> Result<(BatchId, Vec<JobReport>), Problem> {
    let ada = &cast.maintainers[0];
    stage.heading("zlib, a program on top of it, bzip2, Lua, and an image of them: whoever is free builds");
    let ended = stage.live(ada, &["submit", "sources/batch.toml", "--wait", "--timeout", BUILD_TIME]).await?;
    let batches: Vec<barnraiser_protocol::engine::query::BatchView> = stage.ask(ada, "/api/v1/n/demo/batches").await?;
    let Some(batch) = batches.first().map(|batch| batch.id) else {
        return Err(Problem::failed("the batch was refused; see above"));
    };
    if !ended.success() {
        return Err(Problem::failed(format!("the batch did not come to a good end ({ended})")));
    }
    // The batch is done as soon as enough results agree; others may still be building what they took.
    let over = async |stage: &Stage| {
        let page: BatchPage = stage.ask(ada, &format!("/api/v1/n/demo/batches/{batch}")).await?;
        Ok(page.jobs.iter().all(is_over).then_some(page.jobs))
    };
    let jobs = stage.wait("all that was begun is revealed", SOON, over).await?;
    let jobs: Vec<JobReport> = jobs.iter().map(|job| JobReport::new(job, &cast.people)).collect();
    Ok((batch, jobs))
}

/// Whether `job` is verified and nobody builds it any more.
fn is_over(job: &JobView) -> bool {
    let revealed = job.attestations.iter().all(|attestation| attestation.outcome.is_some());
    job.state == JobState::CrossVerified && revealed && job.slots.iter().all(|slot| slot.state != "held")
}

/// Signs what was verified, with two keys that never meet.
async fn release(stage: &mut Stage, cast: &Cast, batch: &BatchId) -> Result<(ReleaseReport, ReleaseView), Problem> {
    stage.heading("Two maintainers sign the image, each on a file that is carried to them; the third is not needed");
    let ada = &cast.maintainers[0];
    stage.shown(ada, &["release", "propose", CHANNEL, "--batch", &batch.to_string(), "-o", "release.json"]).await?;
    let mut assemble = vec!["release".to_owned(), "assemble".into(), "release.json".into()];
    // Not those who signed the rules: any two will do.
    let signers = &cast.maintainers[cast.maintainers.len() - THRESHOLD..];
    for actor in signers {
        let (key, signature) = (format!("{}.key", actor.name), format!("{}.release.sig", actor.name));
        stage.shown(actor, &["sign", "release.json", "--key", &key, "-o", &signature]).await?;
        assemble.push(signature);
    }
    assemble.extend(["-o".into(), "signed.json".into()]);
    stage.shown(ada, &assemble.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    stage.shown(ada, &["release", "publish", "signed.json"]).await?;
    let view: ReleaseView = stage.ask(ada, &format!("/api/v1/n/demo/releases/{CHANNEL}")).await?;
    let report = ReleaseReport {
        channel: view.channel.clone(),
        number: view.version,
        signed_by: view.signed_by.clone(),
        signers: signers.iter().map(|actor| actor.name).collect(),
        threshold: view.threshold,
        maintainers: cast.maintainers.len(),
    };
    Ok((report, view))
}

/// The user hears of the release, and recomputes the verdict from its evidence.
async fn examine(stage: &mut Stage, cast: &Cast, view: &ReleaseView) -> Result<Check, Problem> {
    stage.heading("The user looks at the evidence, and comes to the same verdict");
    let user = &cast.user;
    let known = async |stage: &Stage| match stage.ask::<ReleaseView>(user, &format!("/api/v1/n/demo/releases/{CHANNEL}")).await {
        Ok(seen) => Ok((seen.version == view.version).then_some(())),
        // Not heard of yet, or the node is busy taking it.
        Err(problem) if matches!(problem.exit_code(), 3 | 6) => Ok(None),
        Err(problem) => Err(problem),
    };
    stage.wait("the user has heard of the release", SOON, known).await?;
    let what = "the verdict follows from the evidence";
    let Some(evidence) = image_of(view)?.evidence else {
        return Ok(Check { what, found: "the release names no evidence".into(), held: false });
    };
    stage.shown(user, &["fetch", &evidence.to_string(), "-o", "evidence", "--timeout", "60 s"]).await?;
    let verdict = stage.shown(user, &["verdict", "evidence"]).await?;
    let state = verdict.pointer("/verdict/state").and_then(Value::as_str).unwrap_or("none").to_owned();
    let attested = verdict.get("attestations").and_then(Value::as_array).map_or(0, Vec::len);
    let found = format!("{state}, from {attested} attestations");
    stage.out.note(&found);
    Ok(Check { what, held: state == "cross-verified", found })
}

fn image_of(view: &ReleaseView) -> Result<&ReleasedTarget, Problem> {
    view.targets.get(IMAGE).ok_or_else(|| Problem::failed(format!("the release has no {IMAGE}")))
}

/// The user fetches the image by its hash.
async fn fetch(stage: &Stage, cast: &Cast, view: &ReleaseView) -> Result<(ImageReport, PathBuf), Problem> {
    let target = image_of(view)?;
    let user = &cast.user;
    let path = stage.path(IMAGE);
    let asked_for = target.blake3;
    let document = stage.shown(user, &["fetch", &asked_for.to_string(), "-o", IMAGE, "--timeout", "60 s"]).await?;
    let fetched: Fetched = serde_json::from_value(document).map_err(|error| Problem::failed(format!("what fetch printed: {error}")))?;
    let all: u64 = fetched.bytes_by_peer.values().sum();
    let served = fetched.bytes_by_peer.iter().map(|(node, bytes)| Served {
        by: name_of(&cast.people, &node.to_string()),
        node: node.to_string(),
        bytes: *bytes,
        // Shown to two digits: what a double can't hold of it does not matter.
        share: *bytes as f64 / all.max(1) as f64,
    });
    let mut served: Vec<Served> = served.collect();
    served.sort_by_key(|served| std::cmp::Reverse(served.bytes));
    for served in &served {
        stage.out.note(format!("{:>8} served {}", served.by, bytes(served.bytes)));
    }
    let read = std::fs::read(&path).map_err(stage::trouble(path.display()))?;
    let image = ImageReport {
        name: IMAGE.into(),
        blake3: BlobHash::of(&read),
        asked_for,
        length: read.len() as u64,
        served,
        evidence: target.evidence,
    };
    Ok((image, path))
}

/// What the nodes' answers must show.
fn judge(report: &mut Report, cast: &Cast) {
    let jobs = report.jobs.len();
    let verified = report.jobs.iter().filter(|job| job.state == JobState::CrossVerified).count();
    report.check("every job is cross-verified", verified == jobs && jobs >= 4, format!("{verified} of {jobs}"));
    let agreeing = |job: &JobReport| job.verdict.as_ref().map_or(0, |verdict| verdict.agreeing.len());
    let least = report.jobs.iter().map(agreeing).min().unwrap_or(0);
    let quorum = usize::from(report.policy.quorum);
    report.check("independent builders agree on every job", least >= quorum && quorum >= 2, format!("{least} or more on each"));
    let honest = |name: &str| name != TAMPERER || !cast.tampers;
    let slandered = report.jobs.iter().flat_map(|job| &job.results).filter(|result| result.wrong && honest(&result.builder)).count();
    report.check("nobody honest is called wrong", slandered == 0, format!("{slandered} such words"));
    if cast.tampers {
        let lies = report.jobs.iter().flat_map(|job| &job.results).filter(|result| result.builder == TAMPERER).count();
        let named = report.cheater.as_ref().filter(|cheater| cheater.name == TAMPERER).map_or(0, |cheater| cheater.evidence.len());
        let found = format!("{TAMPERER}, in {named} of the {lies} jobs that it built");
        report.check("the cheater is named, with evidence", named > 0 && named == lies, found);
    }
    let release = &report.release;
    let enough = release.threshold == THRESHOLD && release.signed_by.len() >= THRESHOLD;
    let found = format!("{} signatures, {} wanted of {}", release.signed_by.len(), release.threshold, release.maintainers);
    report.check("the release has its signatures", enough, found);
    let several = report.image.served.iter().filter(|served| served.share >= SHARE_MIN).count();
    let found = format!("{several} nodes served a fifth or more each");
    report.check("the image came from several nodes", several >= 2, found);
    let same = report.image.blake3 == report.image.asked_for;
    report.check("its bytes have the hash that was fetched", same, report.image.blake3.short());
    let right = report.programs.iter().filter(|run| run.right).count();
    let found = format!("{right} of {}", report.programs.len());
    report.check("programs of the image do their work", right == report.programs.len() && right > 0, found);
}

/// The user checks signatures without anybody's help.
async fn verify(stage: &Stage, cast: &Cast, path: &Path) -> Result<Check, Problem> {
    let verified = stage.shown(&cast.user, &["verify", &path.display().to_string()]).await?;
    let released = verified.get("releases").and_then(Value::as_array).and_then(|releases| releases.first());
    let signers = released.and_then(|release| release.get("signed-by")?.as_array().map(Vec::len)).unwrap_or(0);
    let found = format!("{signers} valid ones on a release with this file");
    Ok(Check { what: "the user verifies the signatures", held: signers >= THRESHOLD, found })
}
