//! What a nightly builds: the steps of many images, from a file or made up from the seed.
//!
//! The file is JSON: `{"images": [{"project", "device", "arch", "steps": [[task, name, section, [needed step, …]], …]}]}`,
//! steps in an order in which they can be built. It is not kept here.

use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;

use crate::dice::Dice;

/// Core-seconds of the mean image: 48 core-hours, as published for one image (3 hours on 16 cores).
const IMAGE_CORE_SECONDS: f64 = 48.0 * 3600.0;
/// Steps of an image that is made up, as many as those of the file have.
pub const IMAGE_STEPS: usize = 310;
/// Images that are made up, as many as the file has.
pub const IMAGES: usize = 29;
/// Of the steps that are made up this share are tools for the machine that builds.
const HOST_SHARE: f64 = 0.33;
/// One in so many of the others has nothing to build and stands for what it needs.
const VIRTUAL_EVERY: usize = 18;

/// One step of an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "(String, String, String, Vec<usize>)")]
pub struct Step {
    /// `build` or `install`.
    pub task: String,
    /// `package:target`, `package:host`, ….
    pub name: String,
    /// Whether there is nothing to build.
    pub is_virtual: bool,
    /// Places of the steps, in the same image, that must be done first.
    pub needs: Vec<usize>,
}

impl From<(String, String, String, Vec<usize>)> for Step {
    fn from((task, name, section, needs): (String, String, String, Vec<usize>)) -> Self {
        Self { task, name, is_virtual: section == "virtual", needs }
    }
}

impl Step {
    /// Whether it builds a tool that all images of an architecture share.
    pub fn is_host(&self) -> bool {
        self.name.ends_with(":host")
    }
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Image {
    /// The family of devices.
    pub project: String,
    /// The device.
    pub device: String,
    /// What it is built for.
    pub arch: String,
    /// In an order in which they can be built.
    pub steps: Vec<Step>,
}

/// All that is built in one night.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Workload {
    /// The images.
    pub images: Vec<Image>,
    /// Whether it was made up.
    #[serde(skip)]
    pub made_up: bool,
}

impl Workload {
    /// The workload in a file.
    ///
    /// # Errors
    /// The file can't be read, is no workload, or a step needs one that does not stand before it.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("{} can't be read", path.display()))?;
        let workload: Self = serde_json::from_slice(&text).with_context(|| format!("{} is no workload", path.display()))?;
        for image in &workload.images {
            let late = image.steps.iter().enumerate().find(|(at, step)| step.needs.iter().any(|need| need >= at));
            if let Some((at, step)) = late {
                anyhow::bail!("{}: step {at} of {}, {}, needs one that does not stand before it", path.display(), image.device, step.name);
            }
        }
        anyhow::ensure!(workload.images.iter().any(|image| !image.steps.is_empty()), "{} has no steps", path.display());
        Ok(workload)
    }

    /// A workload of about the shape of a real one: each image is a third tools, which all images of an architecture
    /// share, then packages, of which most need a few, some are needed by many, and the image needs a sixth of all.
    pub fn made_up(seed: u64, images: usize, steps: usize) -> Self {
        let mut dice = Dice::new(seed, "workload");
        let steps = steps.max(3);
        let hosts = (steps as f64 * HOST_SHARE) as usize;
        let needs: Vec<Vec<usize>> = (0..steps - 1).map(|at| made_up_needs(at, hosts, &mut dice)).collect();
        let image = |number: usize| {
            let mut list: Vec<Step> = Vec::new();
            for (at, needs) in needs.iter().enumerate() {
                let is_virtual = at >= hosts && at % VIRTUAL_EVERY == 0;
                let (task, kind) = if at < hosts { ("build", "host") } else { ("install", "target") };
                list.push(Step { task: task.into(), name: format!("package-{at}:{kind}"), is_virtual, needs: needs.clone() });
            }
            let all = (hosts..steps - 1).filter(|at| at % 6 == number % 6).collect();
            list.push(Step { task: "install".into(), name: "image:target".into(), is_virtual: true, needs: all });
            let arch = ["aarch64", "arm", "x86_64"][number % 3];
            Image { project: "Made-up".into(), device: format!("device-{number}"), arch: arch.into(), steps: list }
        };
        Self { images: (0..images.max(1)).map(image).collect(), made_up: true }
    }

    /// Core-seconds of the mean image: an image with fewer steps than a real one costs so much less.
    pub fn mean_image_core_seconds(&self) -> f64 {
        let steps: usize = self.images.iter().map(|image| image.steps.len()).sum();
        let share = steps as f64 / (self.images.len().max(1) * IMAGE_STEPS) as f64;
        if self.made_up { IMAGE_CORE_SECONDS * share } else { IMAGE_CORE_SECONDS }
    }
}

/// What the step at `at` needs: one of those just before it, and two of all, rather the early ones.
fn made_up_needs(at: usize, hosts: usize, dice: &mut Dice) -> Vec<usize> {
    let mut needs = std::collections::BTreeSet::new();
    if at > 0 {
        for _ in 0..2 {
            let early = dice.unit() * dice.unit();
            needs.insert((early * at as f64) as usize);
        }
        needs.insert(at - 1 - dice.below(at.min(40)));
    }
    // A tool is built with tools alone, which come first anyway.
    needs.retain(|need| at >= hosts || *need < hosts);
    needs.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_as_the_file_has_them() {
        let text = r#"{"source": "x", "images": [{"project": "P", "device": "D", "arch": "arm",
            "steps": [["build", "make:host", "", []], ["install", "image:target", "virtual", [0]]]}]}"#;
        let workload: Workload = serde_json::from_str(text).unwrap();
        let steps = &workload.images[0].steps;
        assert!(steps[0].is_host() && !steps[0].is_virtual);
        assert!(!steps[1].is_host() && steps[1].is_virtual);
        assert_eq!(steps[1].needs, [0]);
    }

    #[test]
    fn made_up_steps_stand_behind_what_they_need() {
        let workload = Workload::made_up(1, 4, 60);
        assert_eq!(workload.images.len(), 4);
        for image in &workload.images {
            assert_eq!(image.steps.len(), 60);
            assert!(image.steps.iter().enumerate().all(|(at, step)| step.needs.iter().all(|need| *need < at)));
        }
        assert_eq!(workload, Workload::made_up(1, 4, 60));
        assert_ne!(workload, Workload::made_up(2, 4, 60));
    }
}
