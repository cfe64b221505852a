//! From a batch and its recipes to a plan: cells, jobs, their order, their keys, and each job once.

use std::collections::BTreeMap;

use super::PLACEMENTS_MAX;
use super::batch::BatchFile;
use super::body::Body;
use super::diagnostic::{Diagnostic, Diagnostics, cut, list};
use super::file::{Arches, Recipe};
use super::matrix::{self, ARCH, Axes, Cell};
use super::needs::Nodes;
use super::plan::{CellIndex, Plan, Planned, RequestId, Skipped, SourceKind, SourceRequest, SymbolicKey};
use super::reader::Fault;
use super::template::{ExpandError, Text};
use crate::action::ACTION_BYTES_MAX;
use crate::graph::{GRAPH_BYTES_MAX, Graph, JOBS_MAX, Job, JobIndex, JobNeed};
use crate::id::BlobHash;

/// What the caller knows and the files don't say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExpandOptions {
    /// The architecture of `host` builds whose recipe names none, as `std::env::consts::ARCH` spells it: outputs
    /// depend on it.
    pub default_arch: String,
    /// The environments that the maintainers named, for example `debian-c@3`, and their trees.
    pub environments: BTreeMap<String, BlobHash>,
    /// Axes held at a value by the submitter (`--set`); one that the matrix does not have is added.
    pub set: BTreeMap<String, String>,
}

/// What is laid out, and what is wrong with it.
pub(super) struct Layout<'a> {
    pub(super) batch: &'a BatchFile,
    pub(super) recipes: &'a [Recipe],
    pub(super) options: &'a ExpandOptions,
    pub(super) by_name: BTreeMap<&'a str, usize>,
    pub(super) axes: Axes,
    pub(super) cells: Vec<Cell>,
    /// The number of the axis that `each` makes, where a recipe has it.
    pub(super) each_axis: Option<usize>,
    pub(super) diagnostics: Diagnostics,
    /// What was proposed for names of recipes that are not there: every cell may ask again.
    pub(super) proposals: BTreeMap<String, Option<&'a str>>,
}

/// Jobs as they are found, equal ones once.
#[derive(Default)]
struct Jobs {
    bodies: Vec<Body>,
    depths: Vec<u32>,
    cells: Vec<Vec<u32>>,
    /// The job that each node became, and its key.
    of_node: Vec<(usize, SymbolicKey)>,
}

/// Lays `recipes` out over the matrix of `batch`.
///
/// The result does not depend on the order of `recipes`, and takes time in proportion to the jobs and their needs.
///
/// # Errors
/// Every error with its place, at most [`super::DIAGNOSTICS_MAX`]: unknown axes and recipes, cycles, cells that are not
/// there, values that are wrong once expanded, targets of one name.
pub fn expand(batch: &BatchFile, recipes: &[Recipe], options: &ExpandOptions) -> Result<Plan, Vec<Diagnostic>> {
    let mut diagnostics = Diagnostics::default();
    let Some(layout) = prepare(batch, recipes, options, &mut diagnostics) else {
        return diagnostics.into_result(None);
    };
    let mut layout = Layout { diagnostics, ..layout };
    let plan = layout.plan();
    layout.diagnostics.into_result(plan)
}

fn prepare<'a>(
    batch: &'a BatchFile,
    recipes: &'a [Recipe],
    options: &'a ExpandOptions,
    diagnostics: &mut Diagnostics,
) -> Option<Layout<'a>> {
    if recipes.is_empty() {
        let place = batch.recipes.first().map_or(&batch.place, |(_, place)| place);
        diagnostics.add(place, "the batch has no recipe", "no file fits the patterns of `recipes`");
        return None;
    }
    let mut by_name: BTreeMap<&str, usize> = BTreeMap::new();
    for (number, recipe) in recipes.iter().enumerate() {
        if let Some(first) = by_name.insert(&recipe.name, number) {
            let message = format!("another recipe is named `{}` too", recipe.name);
            diagnostics.add(&recipe.place, message, format!("the other one is {:?}", recipes[first].place));
        }
    }
    let with_each = || {
        recipes.iter().filter_map(|recipe| match &recipe.platform.arches {
            Arches::Each(arches) => arches.first(),
            Arches::Any(_) => None,
        })
    };
    let of_matrix = batch.matrix.axes.iter().map(|(name, ..)| name);
    let of_entries = batch.matrix.include.iter().flat_map(|entry| entry.values.iter().map(|(name, ..)| name));
    let arch_is_axis = of_matrix.chain(of_entries).any(|name| name == ARCH);
    if arch_is_axis && let Some((_, place)) = with_each().next() {
        diagnostics.add(
            place,
            format!("`each` makes an axis `{ARCH}`, but the matrix has one already"),
            format!("write `arch = \"{{{ARCH}}}\"` here, or rename the axis"),
        );
        return None;
    }
    let has_each = with_each().next().is_some();
    let (axes, cells) = matrix::cells(batch, &options.set, has_each, diagnostics)?;
    let each_axis = axes.number(ARCH).filter(|_| has_each);
    let placements = recipes.iter().map(|recipe| (1 + recipe.needs.len()).saturating_mul(each_count(recipe)));
    let placements = placements.chain([batch.targets.len()]).fold(0usize, usize::saturating_add).saturating_mul(cells.len());
    if placements > PLACEMENTS_MAX {
        let message = format!("{} recipes in {} cells, with their needs, are too much for one batch", recipes.len(), cells.len());
        diagnostics.add(&batch.place, message, "submit it in parts");
        return None;
    }
    let layout = Layout {
        batch,
        recipes,
        options,
        by_name,
        axes,
        cells,
        each_axis,
        diagnostics: Diagnostics::default(),
        proposals: BTreeMap::new(),
    };
    diagnostics.is_empty().then_some(layout)
}

fn each_count(recipe: &Recipe) -> usize {
    match &recipe.platform.arches {
        Arches::Each(arches) => arches.len(),
        Arches::Any(_) => 1,
    }
}

impl Layout<'_> {
    fn plan(&mut self) -> Option<Plan> {
        let masks = self.relevant_axes();
        if !self.diagnostics.is_empty() {
            return None;
        }
        let mut nodes = Nodes::new(self.recipes.len());
        let mut skipped = BTreeMap::new();
        for (recipe, mask) in masks.iter().enumerate() {
            for (cell_number, cell) in self.places(recipe) {
                let cell = matrix::project(&cell, *mask);
                if let Some(reason) = self.never(recipe, &cell)? {
                    skipped.insert((recipe, cell), reason);
                    continue;
                }
                let node = nodes.place(recipe, cell);
                nodes.all[node].cells.push(cell_number);
            }
            if nodes.all.len() > JOBS_MAX {
                let message = format!("the batch has more than {JOBS_MAX} jobs");
                self.diagnostics.add(&self.batch.place, message, "submit it in parts");
                return None;
            }
        }
        self.connect(&mut nodes, &masks, &skipped);
        let order = if self.diagnostics.is_empty() { self.ordered(&nodes) } else { Vec::new() };
        if !self.diagnostics.is_empty() {
            return None;
        }
        let jobs = self.jobs(&nodes, &order)?;
        let mut plan = self.assemble(jobs, &nodes, &masks)?;
        plan.skipped = skipped
            .into_iter()
            .map(|((recipe, cell), reason)| Skipped { label: self.axes.label(&self.recipes[recipe].name, &cell), reason })
            .collect();
        Some(plan)
    }

    /// Every cell of the matrix with its number, once for each architecture where the recipe has `each`.
    pub(super) fn places(&mut self, recipe: usize) -> Vec<(u32, Cell)> {
        let numbered = (0u32..).zip(&self.cells);
        let (Some(axis), Arches::Each(arches)) = (self.each_axis, &self.recipes[recipe].platform.arches) else {
            return numbered.map(|(number, cell)| (number, cell.clone())).collect();
        };
        let held = self.options.set.get(ARCH);
        let wanted = arches.iter().map(|(name, _)| name).filter(|name| held.is_none_or(|held| held == *name));
        let arches: Vec<u32> = wanted.map(|name| self.axes.intern(name)).collect();
        let with_arch = numbered.flat_map(|(number, cell)| {
            arches.iter().map(move |arch| {
                let mut cell = cell.clone();
                cell[axis] = *arch;
                (number, cell)
            })
        });
        with_arch.collect()
    }

    /// `text` in `cell`; what is wrong is reported.
    pub(super) fn expanded(&mut self, text: &Text, cell: &[u32]) -> Option<String> {
        if let Some(literal) = text.literal() {
            return Some(literal.to_owned());
        }
        let axes = &self.axes;
        match text.expand(ACTION_BYTES_MAX, |axis| axes.value(cell, axis)) {
            Ok(text) => Some(text),
            Err(ExpandError::TooLong) => {
                let message = format!("more than {ACTION_BYTES_MAX} bytes, once its axes are expanded");
                self.diagnostics.add(text.place(), message, "");
                None
            }
            Err(ExpandError::NoValue { axis, place }) if axes.number(axis).is_some() => {
                let cell: Vec<String> = axes.written(cell).into_iter().map(|(axis, value)| format!("{axis}={value}")).collect();
                let message = format!("axis `{axis}` has no value in cell [{}]", cell.join(","));
                self.diagnostics.add(place, message, "give it one by `include`, or exclude the cell");
                None
            }
            Err(ExpandError::NoValue { axis, place }) => {
                self.unknown_axis(axis, place);
                None
            }
        }
    }

    /// `text` in `cell`, made a value by `parse`; what is wrong is reported.
    pub(super) fn parsed<T>(&mut self, text: &Text, cell: &[u32], parse: impl Fn(&str) -> Result<T, Fault>) -> Option<T> {
        let expanded = self.expanded(text, cell)?;
        match parse(&expanded) {
            Ok(value) => Some(value),
            Err((message, help)) => {
                self.diagnostics.add(text.place(), message, help);
                None
            }
        }
    }

    /// The job of each node, in `order`; nodes of one recipe whose jobs are equal share one.
    fn jobs(&mut self, nodes: &Nodes, order: &[(usize, u32)]) -> Option<Jobs> {
        let mut jobs = Jobs { of_node: vec![(0, SymbolicKey([0; 32])); nodes.all.len()], ..Jobs::default() };
        let mut by_identity: BTreeMap<[u8; 32], usize> = BTreeMap::new();
        let mut bytes = 0usize;
        for (number, depth) in order {
            let node = &nodes.all[*number];
            let (needs, keys): (Vec<_>, Vec<_>) = node.needs.iter().map(|need| jobs.of_node[*need]).unzip();
            let Some(body) = self.body(node, &needs, &keys) else {
                // No plan comes of this, and going on finds the other errors.
                if self.diagnostics.is_full() {
                    return None;
                }
                continue;
            };
            let key = body.key;
            bytes = bytes.saturating_add(body.bytes);
            if bytes > GRAPH_BYTES_MAX {
                let message = format!("the jobs have more than {GRAPH_BYTES_MAX} bytes of text");
                self.diagnostics.add(&self.batch.place, message, "submit it in parts");
                return None;
            }
            let job = *by_identity.entry(body.identity).or_insert_with(|| {
                jobs.bodies.push(body);
                jobs.depths.push(*depth);
                jobs.cells.push(Vec::new());
                jobs.bodies.len() - 1
            });
            jobs.of_node[*number] = (job, key);
            jobs.cells[job].extend_from_slice(&node.cells);
        }
        self.diagnostics.is_empty().then_some(jobs)
    }

    /// Puts the jobs in order, numbers them, and gives each its targets and sources.
    fn assemble(&mut self, jobs: Jobs, nodes: &Nodes, masks: &[u64]) -> Option<Plan> {
        let Jobs { bodies, depths, cells, of_node } = jobs;
        let mut order: Vec<usize> = (0..bodies.len()).collect();
        order.sort_by(|a, b| {
            let rank = |job: &usize| (depths[*job], &bodies[*job].job.recipe, &bodies[*job].job.cell);
            rank(a).cmp(&rank(b))
        });
        let mut numbers = vec![JobIndex(0); bodies.len()];
        for (number, job) in (0u32..).zip(&order) {
            numbers[*job] = JobIndex(number);
        }
        let mut targets = self.place_targets(nodes, masks, &of_node, &bodies)?;
        let mut bodies: Vec<Option<Body>> = bodies.into_iter().map(Some).collect();
        let mut requests = Requests::default();
        let mut graph = Graph::default();
        let mut planned = Vec::with_capacity(order.len());
        for number in order {
            let Some(Body { mut job, needs, sources, key, place, epoch, .. }) = bodies[number].take() else { continue };
            job.needs = needs.into_iter().map(|(need, entry)| JobNeed { job: numbers[need], ..entry }).collect();
            job.targets = targets.remove(&number).unwrap_or_default();
            let sources = sources.into_iter().map(|source| (source.name.clone(), requests.id(source))).collect();
            let mut cells: Vec<CellIndex> = cells[number].iter().copied().map(CellIndex).collect();
            cells.sort_unstable();
            cells.dedup();
            graph.jobs.push(job);
            planned.push(Planned { key, cells, sources, epoch, place });
        }
        let cells = self.cells.iter().map(|cell| self.axes.written(cell)).collect();
        Some(Plan { graph, jobs: planned, cells, requests: requests.all, skipped: Vec::new() })
    }

    /// Name in the channel → name among the outputs, for each job that has targets.
    fn place_targets(
        &mut self,
        nodes: &Nodes,
        masks: &[u64],
        of_node: &[(usize, SymbolicKey)],
        bodies: &[Body],
    ) -> Option<BTreeMap<usize, BTreeMap<String, String>>> {
        let mut taken: BTreeMap<String, (usize, String)> = BTreeMap::new();
        let batch = self.batch;
        for target in &batch.targets {
            for cell in 0..self.cells.len() {
                if self.diagnostics.is_full() {
                    return None;
                }
                let cell = self.cells[cell].clone();
                let Some(recipe) = self.target_recipe(&target.recipe, &cell) else { continue };
                let places = if self.each_axis.is_some() { self.each_places(recipe, &cell) } else { vec![cell] };
                for cell in places {
                    // A cell in which the recipe is never built has no target either.
                    let Some(node) = nodes.find(recipe, &matrix::project(&cell, masks[recipe])) else { continue };
                    let (job, _) = of_node[node];
                    let Some(name) =
                        self.parsed(&target.name, &cell, |name| super::batch::check_target_name(name).map(|()| name.to_owned()))
                    else {
                        continue;
                    };
                    let Some(output) = self.expanded(&target.output, &cell) else { continue };
                    if !has_output(&bodies[job].job, &output) {
                        let names: Vec<&str> = bodies[job].job.outputs.keys().map(String::as_str).collect();
                        let message = format!("`{}` has no output `{}`", bodies[job].job.label(), cut(&output));
                        self.diagnostics.add(target.recipe.place(), message, format!("it has {}", list(&names)));
                        continue;
                    }
                    match taken.get(&name) {
                        Some((other, same)) if *other == job && *same == output => {}
                        Some((other, _)) => {
                            let (one, two) = (bodies[*other].job.label(), bodies[job].job.label());
                            let message = format!("target `{name}` is given by `{one}` and by `{two}`");
                            self.diagnostics.add(target.name.place(), message, "mention the axis in the name, or take another name");
                        }
                        None => {
                            taken.insert(name, (job, output));
                        }
                    }
                }
            }
        }
        let mut targets: BTreeMap<usize, BTreeMap<String, String>> = BTreeMap::new();
        for (name, (job, output)) in taken {
            targets.entry(job).or_default().insert(name, output);
        }
        self.diagnostics.is_empty().then_some(targets)
    }

    fn target_recipe(&mut self, text: &Text, cell: &[u32]) -> Option<usize> {
        let name = self.expanded(text, cell)?;
        if let Some(recipe) = self.by_name.get(name.as_str()) {
            return Some(*recipe);
        }
        self.unknown_recipe(text.place(), &name, "write \"RECIPE/OUTPUT\"");
        None
    }

    /// `cell`, once for each architecture of the recipe.
    fn each_places(&mut self, recipe: usize, cell: &Cell) -> Vec<Cell> {
        let (Some(axis), Arches::Each(arches)) = (self.each_axis, &self.recipes[recipe].platform.arches) else {
            return vec![cell.clone()];
        };
        let place = |(name, _): &(String, _)| {
            let mut cell = cell.clone();
            cell[axis] = self.axes.intern(name);
            cell
        };
        arches.iter().map(place).collect()
    }
}

/// Whether `output` is a name of the job's outputs, or lies below one (a folder or glob).
fn has_output(job: &Job, output: &str) -> bool {
    let above = output.match_indices('/').map(|(at, _)| &output[..at]);
    above.chain([output]).any(|name| job.outputs.contains_key(name))
}

/// Requests as they are found, equal ones once.
#[derive(Default)]
struct Requests {
    all: Vec<SourceRequest>,
    ids: BTreeMap<SourceKind, RequestId>,
}

impl Requests {
    fn id(&mut self, source: SourceRequest) -> RequestId {
        if let Some(id) = self.ids.get(&source.kind) {
            return *id;
        }
        // Fewer than there are jobs times the entries of a recipe, bounded far below 2^32 by the graph's bytes.
        let id = RequestId(u32::try_from(self.all.len()).unwrap_or(u32::MAX));
        self.ids.insert(source.kind.clone(), id);
        self.all.push(source);
        id
    }
}
