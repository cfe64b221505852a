//! Which recipe needs which, in which cells: the axes a recipe depends on, the edges between jobs, and cycles.

use std::collections::{BTreeMap, BTreeSet};

use super::diagnostic::{Place, cut, list, nearest};
use super::expand::Layout;
use super::file::{Arches, NeedEntry};
use super::matrix::{ARCH, Cell, NONE, project};
use super::template::Text;

/// A job before equal ones are merged: a recipe in one cell of the axes that it depends on.
pub(super) struct Node {
    pub(super) recipe: usize,
    pub(super) cell: Cell,
    /// The cells of the matrix that it stands for.
    pub(super) cells: Vec<u32>,
    /// The node of each need of the recipe, in its order.
    pub(super) needs: Vec<usize>,
}

/// All nodes, found by recipe and cell.
#[derive(Default)]
pub(super) struct Nodes {
    pub(super) all: Vec<Node>,
    by_recipe: Vec<BTreeMap<Cell, usize>>,
}

impl Nodes {
    pub(super) fn new(recipes: usize) -> Self {
        Self { all: Vec::new(), by_recipe: vec![BTreeMap::new(); recipes] }
    }

    pub(super) fn find(&self, recipe: usize, cell: &[u32]) -> Option<usize> {
        self.by_recipe.get(recipe)?.get(cell).copied()
    }

    /// The node of `recipe` in `cell`, which may be new.
    pub(super) fn place(&mut self, recipe: usize, cell: Cell) -> usize {
        if let Some(node) = self.find(recipe, &cell) {
            return node;
        }
        let node = self.all.len();
        self.by_recipe[recipe].insert(cell.clone(), node);
        self.all.push(Node { recipe, cell, cells: Vec::new(), needs: Vec::new() });
        node
    }
}

impl Layout<'_> {
    /// The axes that each recipe depends on, itself or by what it needs, as a bit for each axis. An axis that does not
    /// exist and a recipe that is not there are errors.
    pub(super) fn relevant_axes(&mut self) -> Vec<u64> {
        let recipes = self.recipes;
        let arch = self.each_axis.map_or(0, |axis| 1 << axis);
        let mut masks: Vec<u64> = Vec::with_capacity(recipes.len());
        // For each recipe those that need it, and the axes that the need passes on.
        let mut dependants: Vec<Vec<(usize, u64)>> = vec![Vec::new(); recipes.len()];
        for (number, recipe) in recipes.iter().enumerate() {
            let is_each = matches!(recipe.platform.arches, Arches::Each(_));
            let mut mask = if is_each { arch } else { 0 };
            for text in recipe.texts() {
                mask |= self.mentioned(text, is_each);
            }
            for need in &recipe.needs {
                let texts = need.with.iter().map(|(.., value)| value).chain(&need.at).chain(&need.only);
                for text in texts.chain([&need.recipe]) {
                    mask |= self.mentioned(text, is_each);
                }
                let mut passed = u64::MAX;
                for (axis, place, _) in &need.with {
                    match self.axes.number(axis) {
                        Some(axis) => passed &= !(1 << axis),
                        None => self.unknown_axis(axis, place),
                    }
                }
                // What `each` makes is this recipe's own affair.
                passed &= if is_each { u64::MAX } else { !arch };
                for target in self.targets_of(number, need) {
                    dependants[target].push((number, passed));
                }
            }
            masks.push(mask);
        }
        let mut changed: BTreeSet<usize> = (0..recipes.len()).collect();
        while let Some(target) = changed.pop_first() {
            for (dependant, passed) in &dependants[target] {
                let mask = masks[*dependant] | masks[target] & passed;
                if mask != masks[*dependant] {
                    masks[*dependant] = mask;
                    changed.insert(*dependant);
                }
            }
        }
        masks
    }

    fn mentioned(&mut self, text: &Text, is_each: bool) -> u64 {
        let mut mask = 0;
        for (axis, place) in text.mentions() {
            match self.axes.number(axis) {
                Some(number) if is_each || Some(number) != self.each_axis => mask |= 1 << number,
                Some(_) => {
                    self.diagnostics.add(place, format!("axis `{ARCH}` is only known where [platform] has `each`"), "");
                }
                None => self.unknown_axis(axis, place),
            }
        }
        mask
    }

    pub(super) fn unknown_axis(&mut self, axis: &str, place: &Place) {
        let names: Vec<&str> = self.axes.names().collect();
        let help = match nearest(axis, names.iter().copied()) {
            Some(name) => format!("did you mean `{name}`?"),
            None if names.is_empty() => format!("the batch has no [matrix]; write one, or set `{axis}` when you submit"),
            None => format!("the axes are {}", list(&names)),
        };
        self.diagnostics.add(place, format!("there is no axis `{}`", cut(axis)), help);
    }

    /// The recipes that a need may mean; most often the one that it names.
    fn targets_of(&mut self, recipe: usize, need: &NeedEntry) -> Vec<usize> {
        if need.recipe.literal().is_some() {
            return self.target(need, &[]).into_iter().collect();
        }
        // Unknown axes were reported; what can't be expanded names nothing.
        let mask = need.recipe.mentions().filter_map(|(axis, _)| self.axes.number(axis)).fold(0u64, |mask, axis| mask | 1 << axis);
        let cells: BTreeSet<Cell> = self.places(recipe).into_iter().map(|(_, cell)| project(&cell, mask)).collect();
        let targets: BTreeSet<usize> = cells.iter().filter_map(|cell| self.target(need, cell)).collect();
        targets.into_iter().collect()
    }

    /// The recipe that a need means in `cell`.
    fn target(&mut self, need: &NeedEntry, cell: &[u32]) -> Option<usize> {
        let name = self.expanded(&need.recipe, cell)?;
        if let Some(target) = self.by_name.get(name.as_str()) {
            return Some(*target);
        }
        self.unknown_recipe(need.recipe.place(), &name, "add its file to `recipes` of the batch");
        None
    }

    /// Says that there is no recipe `name`.
    pub(super) fn unknown_recipe(&mut self, place: &Place, name: &str, otherwise: &str) {
        if self.diagnostics.is_full() {
            return;
        }
        let by_name = &self.by_name;
        let proposal = *self.proposals.entry(name.to_owned()).or_insert_with(|| nearest(name, by_name.keys().copied()));
        let help = proposal.map_or_else(|| otherwise.to_owned(), |right| format!("did you mean `{right}`?"));
        self.diagnostics.add(place, format!("the batch has no recipe `{}`", cut(name)), help);
    }

    /// Finds the node of every need. `skipped` tells why a cell of a recipe is not there.
    pub(super) fn connect(&mut self, nodes: &mut Nodes, masks: &[u64], skipped: &BTreeMap<(usize, Cell), String>) {
        // Cells that differ only where the need does not look have one and the same mistake.
        let mut absent: BTreeSet<(usize, usize, Cell)> = BTreeSet::new();
        for number in 0..nodes.all.len() {
            let node = &nodes.all[number];
            let (recipe, cell) = (node.recipe, node.cell.clone());
            let mut needs = Vec::new();
            for (entry, need) in self.recipes[recipe].needs.iter().enumerate() {
                if self.diagnostics.is_full() {
                    return;
                }
                let Some((target, wanted)) = self.wanted(masks, &cell, need) else { continue };
                match nodes.find(target, &wanted) {
                    Some(node) => needs.push(node),
                    None if absent.insert((recipe, entry, wanted.clone())) => {
                        self.report_absent(nodes, skipped, need, target, &wanted);
                    }
                    None => {}
                }
            }
            nodes.all[number].needs = needs;
        }
    }

    /// The recipe and cell that a need means in `cell`.
    fn wanted(&mut self, masks: &[u64], cell: &[u32], need: &NeedEntry) -> Option<(usize, Cell)> {
        let target = self.target(need, cell)?;
        let mut wanted: Cell = cell.into();
        for (axis, _, text) in &need.with {
            let number = self.axes.number(axis)?;
            let value = self.expanded(text, cell)?;
            wanted[number] = self.axes.intern(&value);
        }
        Some((target, project(&wanted, masks[target])))
    }

    /// Says why the cell that a need means is not there.
    fn report_absent(&mut self, nodes: &Nodes, skipped: &BTreeMap<(usize, Cell), String>, need: &NeedEntry, target: usize, wanted: &Cell) {
        let name = &self.recipes[target].name;
        let label = self.axes.label(name, wanted);
        if let Some(reason) = skipped.get(&(target, wanted.clone())) {
            self.diagnostics.add(
                &need.place,
                format!("`{label}` is never built: {reason}"),
                "leave the need out, or name another cell by `with`",
            );
            return;
        }
        if let (Some(axis), Arches::Each(arches)) = (self.each_axis, &self.recipes[target].platform.arches)
            && wanted[axis] == NONE
        {
            let arches: Vec<&str> = arches.iter().map(|(name, _)| name.as_str()).collect();
            let help = format!("write `with = {{ {ARCH} = … }}`, {}", list(&arches));
            self.diagnostics.add(&need.place, format!("`{name}` has a job for each architecture; which one is needed is not said"), help);
            return;
        }
        let help = self.nearest_cell(nodes, target, wanted);
        self.diagnostics.add(&need.place, format!("the matrix has no cell for `{label}`"), help);
    }

    /// What to do about a cell that is not there.
    fn nearest_cell(&self, nodes: &Nodes, target: usize, wanted: &[u32]) -> String {
        for (axis, value) in wanted.iter().enumerate().filter(|(_, value)| **value != NONE) {
            let values: BTreeSet<u32> = nodes.by_recipe[target].keys().map(|cell| cell[axis]).filter(|value| *value != NONE).collect();
            if values.contains(value) {
                continue;
            }
            let axis = self.axes.names().nth(axis).unwrap_or_default();
            let value = self.axes.value(wanted, axis).unwrap_or_default();
            let values: BTreeSet<&str> = values.into_iter().filter_map(|value| self.axes.text(value)).collect();
            return match nearest(value, values.iter().copied()) {
                Some(right) => format!("`{axis}` has no value `{}`; did you mean `{right}`?", cut(value)),
                None => format!("`{axis}` is {}", list(&values.into_iter().collect::<Vec<_>>())),
            };
        }
        "`exclude` takes it out, or it was never in; name another cell by `with`".into()
    }

    /// The nodes, each behind all that it needs, with its depth; cycles are errors.
    pub(super) fn ordered(&mut self, nodes: &Nodes) -> Vec<(usize, u32)> {
        let mut waiting: Vec<usize> = nodes.all.iter().map(|node| node.needs.len()).collect();
        let mut dependants: Vec<Vec<usize>> = vec![Vec::new(); nodes.all.len()];
        for (number, node) in nodes.all.iter().enumerate() {
            for need in &node.needs {
                dependants[*need].push(number);
            }
        }
        let mut depths = vec![0u32; nodes.all.len()];
        let mut order: Vec<usize> = (0..nodes.all.len()).filter(|node| waiting[*node] == 0).collect();
        let mut next = 0;
        while let Some(node) = order.get(next).copied() {
            next += 1;
            for dependant in &dependants[node] {
                depths[*dependant] = depths[*dependant].max(depths[node] + 1);
                waiting[*dependant] -= 1;
                if waiting[*dependant] == 0 {
                    order.push(*dependant);
                }
            }
        }
        if order.len() < nodes.all.len() {
            self.report_cycles(nodes, &waiting);
        }
        order.into_iter().map(|node| (node, depths[node])).collect()
    }

    /// Every node that still waits needs one that still waits: following the first such need ends in a cycle.
    fn report_cycles(&mut self, nodes: &Nodes, waiting: &[usize]) {
        let mut seen = vec![0usize; nodes.all.len()];
        let mut reported: BTreeSet<Vec<usize>> = BTreeSet::new();
        for start in (0..nodes.all.len()).filter(|node| waiting[*node] > 0) {
            let mut path = Vec::new();
            let mut node = start;
            while seen[node] == 0 {
                seen[node] = start + 1;
                path.push(node);
                match nodes.all[node].needs.iter().find(|need| waiting[**need] > 0) {
                    Some(need) => node = *need,
                    None => return,
                }
            }
            // Run into an earlier walk: what it leads to was reported then.
            let Some(begin) = path.iter().position(|other| *other == node) else { continue };
            self.report_cycle(nodes, &path[begin..], waiting, &mut reported);
        }
    }

    fn report_cycle(&mut self, nodes: &Nodes, cycle: &[usize], waiting: &[usize], reported: &mut BTreeSet<Vec<usize>>) {
        // From the recipe that comes first in the alphabet, so that one cycle has one message.
        let name = |node: &usize| &self.recipes[nodes.all[*node].recipe].name;
        let first = (0..cycle.len()).min_by_key(|at| name(&cycle[*at])).unwrap_or(0);
        let rotated: Vec<usize> = cycle[first..].iter().chain(&cycle[..first]).copied().collect();
        // The same recipes in another cell are the same mistake.
        if !reported.insert(rotated.iter().map(|node| nodes.all[*node].recipe).collect()) {
            return;
        }
        let Some(node) = rotated.first().map(|node| &nodes.all[*node]) else { return };
        let recipe = &self.recipes[node.recipe];
        let need = node.needs.iter().position(|need| waiting[*need] > 0).and_then(|at| recipe.needs.get(at));
        let place = need.map_or(&recipe.place, |need| &need.place);
        let one_cell = rotated.iter().map(|node| nodes.all[*node].recipe).collect::<BTreeSet<_>>().len() == rotated.len();
        let label = |node: &usize| {
            if one_cell { name(node).clone() } else { self.axes.label(name(node), &nodes.all[*node].cell) }
        };
        let mut labels: Vec<String> = rotated.iter().chain(rotated.first()).map(label).collect();
        // A cycle through a thousand recipes is still one message.
        if labels.len() > 40 {
            let left_out = labels.len() - 40;
            labels.splice(20..20 + left_out, [format!("… {left_out} more …")]);
        }
        let message = format!("needs go in a cycle: {}", labels.join(" → "));
        self.diagnostics.add(place, message, "one of them must do without the next");
    }
}
