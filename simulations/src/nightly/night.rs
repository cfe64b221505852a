//! One night's work: each distinct build once, with what it costs, and the graph that asks for all of them.

use std::collections::BTreeMap;

use barnraiser_protocol::graph::{Graph, Job};

use super::workload::{Image, Step, Workload};
use crate::dice::Dice;
use crate::world::work::{MEMORY, Nature, Task, Work};

/// Spread of durations: the standard deviation of their logarithm.
const COST_SIGMA: f64 = 1.3;
/// Outputs: the median in bytes, ...
const OUTPUT_MEDIAN: f64 = (1 << 20) as f64;
/// ... the standard deviation of the logarithm, ...
const OUTPUT_SIGMA: f64 = 2.0;
/// ... the most, ...
const OUTPUT_MAX: f64 = (200 << 20) as f64;
/// ... and what an image has.
const IMAGE_BYTES: u64 = 150 << 20;
const IMAGE_NAME: &str = "image:target";
/// A build that costs less than so many core-seconds asks for one core, ...
const ONE_CORE_BELOW: f64 = 120.0;
/// ... one that costs less than so many for two, and all others for [`CORES_MAX`].
const TWO_CORES_BELOW: f64 = 480.0;
/// A build uses no more.
pub const CORES_MAX: u16 = 4;

/// A distinct build.
#[derive(Debug, Clone, PartialEq)]
pub struct Chore {
    /// Cores that it asks for, and uses all the time.
    pub cores: u16,
    /// What one build costs. 0 where there is nothing to build.
    pub core_seconds: f64,
    /// What must be built before, as places in the list.
    pub needs: Vec<usize>,
}

impl Chore {
    /// How long one build takes, in milliseconds, if its inputs are there.
    pub fn millis(&self) -> u64 {
        // At most some days.
        (self.core_seconds * 1000.0 / f64::from(self.cores.max(1))).ceil() as u64
    }
}

/// A night's work.
#[derive(Debug)]
pub struct Night {
    /// Distinct builds, each behind what it needs.
    pub chores: Vec<Chore>,
    /// All steps of all images, one image after the other; several may be the same build.
    pub graph: Graph,
    /// Which build each job of the graph is.
    pub chore_of: Vec<usize>,
    /// What each recipe costs, as a build that needs nothing.
    pub costs: BTreeMap<String, Chore>,
}

/// What makes two steps one build: where it is shared, its name, and the builds that it needs.
type Same<'a> = (String, &'a str, Vec<usize>);

impl Night {
    /// Draws what each step costs and lists it with `work`. The draw depends on the seed and the step's name alone, so
    /// that a package costs the same in all images; it is scaled so that the mean image costs what it should.
    pub fn plan(workload: &Workload, seed: u64, work: &mut Work) -> Self {
        let mut drawn: BTreeMap<&str, (f64, u64)> = BTreeMap::new();
        let steps = || workload.images.iter().flat_map(|image| &image.steps);
        for step in steps() {
            drawn.entry(&step.name).or_insert_with(|| draw(step, seed));
        }
        let total: f64 = steps().filter(|step| !step.is_virtual).map(|step| drawn[&*step.name].0).sum();
        let scale = workload.mean_image_core_seconds() * workload.images.len() as f64 / total.max(f64::MIN_POSITIVE);
        let mut night = Self { chores: Vec::new(), graph: Graph::default(), chore_of: Vec::new(), costs: BTreeMap::new() };
        let mut known: BTreeMap<Same<'_>, usize> = BTreeMap::new();
        for image in &workload.images {
            let first = night.graph.jobs.len();
            for step in &image.steps {
                let needs: Vec<usize> = step.needs.iter().map(|need| night.chore_of[first + need]).collect();
                let (cost, bytes) = drawn[&*step.name];
                let core_seconds = if step.is_virtual { 0.0 } else { cost * scale };
                let chore = Chore { cores: cores(core_seconds), core_seconds, needs: needs.clone() };
                let task = Task { nature: Nature::Sound, core_seconds, output_bytes: bytes, memory: MEMORY / 2 };
                night.graph.jobs.push(job(image, step, first, chore.cores, task, work));
                let alone = Chore { needs: Vec::new(), ..chore.clone() };
                let cost = night.costs.entry(step.name.clone()).or_insert_with(|| alone.clone());
                // A step may be virtual in one image and not in another.
                if cost.core_seconds == 0.0 {
                    *cost = alone;
                }
                let place = *known.entry((owner(image, step), &*step.name, needs)).or_insert_with(|| {
                    night.chores.push(chore);
                    night.chores.len() - 1
                });
                night.chore_of.push(place);
            }
        }
        night
    }

    /// What it costs to build everything once, in core-seconds.
    pub fn core_seconds(&self) -> f64 {
        self.chores.iter().map(|chore| chore.core_seconds).sum()
    }
}

/// What a step costs, not scaled, and the bytes of its output.
fn draw(step: &Step, seed: u64) -> (f64, u64) {
    let cost = Dice::new(seed, &format!("cost of {}", step.name)).log_normal(1.0, COST_SIGMA);
    let bytes = match (&*step.name, step.is_virtual) {
        (IMAGE_NAME, _) => IMAGE_BYTES,
        (_, true) => 0,
        _ => Dice::new(seed, &format!("size of {}", step.name)).log_normal(OUTPUT_MEDIAN, OUTPUT_SIGMA).min(OUTPUT_MAX) as u64,
    };
    (cost, bytes)
}

fn cores(core_seconds: f64) -> u16 {
    match core_seconds {
        cost if cost < ONE_CORE_BELOW => 1,
        cost if cost < TWO_CORES_BELOW => 2,
        _ => CORES_MAX,
    }
}

/// Who shares the step: all images of an architecture, or nobody.
fn owner(image: &Image, step: &Step) -> String {
    if step.is_host() { image.arch.clone() } else { format!("{}/{}/{}", image.project, image.device, image.arch) }
}

/// The step as a job, where the jobs of its image begin at `first`.
fn job(image: &Image, step: &Step, first: usize, cores: u16, task: Task, work: &mut Work) -> Job {
    let needs: Vec<usize> = step.needs.iter().map(|need| first + need).collect();
    let mut job = work.add(&format!("{} for {}", step.name, owner(image, step)), &needs, cores, "x86_64", task);
    // Named as people would: durations are known by recipe, and the place of an input is part of the action.
    job.recipe.clone_from(&step.name);
    for (need, below) in job.needs.iter_mut().zip(&step.needs) {
        need.at = format!("/needs/{}", image.steps[*below].name);
    }
    job.cell = if step.is_host() {
        BTreeMap::from([("arch".to_owned(), image.arch.clone())])
    } else {
        BTreeMap::from([
            ("arch".to_owned(), image.arch.clone()),
            ("device".to_owned(), image.device.clone()),
            ("project".to_owned(), image.project.clone()),
        ])
    };
    job
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(images: usize, steps: usize) -> (Workload, Night) {
        let workload = Workload::made_up(1, images, steps);
        let night = Night::plan(&workload, 1, &mut Work::default());
        (workload, night)
    }

    /// The images share the tools of their architecture and nothing else.
    #[test]
    fn tools_are_built_once_an_architecture() {
        let (workload, night) = plan(6, 30);
        let hosts = workload.images[0].steps.iter().filter(|step| step.is_host()).count();
        assert_eq!(night.graph.jobs.len(), 6 * 30);
        assert_eq!(night.chores.len(), 6 * (30 - hosts) + 3 * hosts);
        night.graph.check().unwrap();
    }

    #[test]
    fn mean_image_costs_what_it_should() {
        let (workload, night) = plan(3, 310);
        // Each of the three is of its own architecture, so nothing is shared.
        let mean = night.core_seconds() / 3.0;
        assert!((mean / (48.0 * 3600.0) - 1.0).abs() < 1e-9, "{mean}");
        assert!(night.chores.iter().all(|chore| (1..=CORES_MAX).contains(&chore.cores)));
        assert_eq!(workload.images[0].steps.last().map(|step| &*step.name), Some(IMAGE_NAME));
    }

    #[test]
    fn package_costs_the_same_in_all_images_and_another_seed_draws_anew() {
        let workload = Workload::made_up(1, 3, 30);
        let costs = |seed| Night::plan(&workload, seed, &mut Work::default()).chores.iter().map(|c| c.core_seconds).collect::<Vec<_>>();
        let (one, two) = (costs(1), costs(2));
        assert_eq!(one[..30], one[30..60]);
        assert_ne!(one, two);
    }
}
