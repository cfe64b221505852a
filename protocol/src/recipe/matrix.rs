//! The cells of a batch: the product of its axes, less what is excluded, and what is included beside it.

use std::collections::{BTreeMap, BTreeSet};

use super::batch::{BatchFile, MatrixEntry};
use super::diagnostic::{Diagnostics, list, nearest};
use super::template::{check_axis_name, check_axis_value};
use super::{AXES_MAX, CELLS_MAX};

/// The axis that `each` of `[platform]` makes.
pub(super) const ARCH: &str = "arch";
/// No value: the axis is not of this cell.
pub(super) const NONE: u32 = 0;

/// The value of each axis, by the axes' numbers; [`NONE`] where the cell has none.
pub(super) type Cell = Box<[u32]>;

/// Axes and values, numbered, so that cells are compared quickly.
#[derive(Debug, Default)]
pub(super) struct Axes {
    names: Vec<String>,
    numbers: BTreeMap<String, usize>,
    values: Vec<String>,
    value_numbers: BTreeMap<String, u32>,
}

impl Axes {
    fn axis(&mut self, name: &str) -> usize {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        self.numbers.insert(name.to_owned(), self.names.len());
        self.names.push(name.to_owned());
        self.names.len() - 1
    }

    /// The number of `value`, from 1.
    pub(super) fn intern(&mut self, value: &str) -> u32 {
        if let Some(number) = self.value_numbers.get(value) {
            return *number;
        }
        self.values.push(value.to_owned());
        // There is less than a value for each byte of the input and each expansion, all bounded far below 2^32.
        let number = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
        self.value_numbers.insert(value.to_owned(), number);
        number
    }

    pub(super) fn number(&self, axis: &str) -> Option<usize> {
        self.numbers.get(axis).copied()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    pub(super) fn value(&self, cell: &[u32], axis: &str) -> Option<&str> {
        self.text(*cell.get(self.number(axis)?)?)
    }

    /// The value with the number `value`; `None` for [`NONE`].
    pub(super) fn text(&self, value: u32) -> Option<&str> {
        self.values.get((value as usize).checked_sub(1)?).map(String::as_str)
    }

    /// Axis → value.
    pub(super) fn written(&self, cell: &[u32]) -> BTreeMap<String, String> {
        let value = |axis: &String| Some((axis.clone(), self.value(cell, axis)?.to_owned()));
        self.names.iter().filter_map(value).collect()
    }

    /// `recipe` or `recipe[axis=value,…]`.
    pub(super) fn label(&self, recipe: &str, cell: &[u32]) -> String {
        let cell: Vec<String> = self.written(cell).into_iter().map(|(axis, value)| format!("{axis}={value}")).collect();
        if cell.is_empty() { recipe.to_owned() } else { format!("{recipe}[{}]", cell.join(",")) }
    }
}

/// `cell` with only the axes whose bit is in `mask`.
pub(super) fn project(cell: &[u32], mask: u64) -> Cell {
    cell.iter().enumerate().map(|(axis, value)| if mask >> axis & 1 == 1 { *value } else { NONE }).collect()
}

/// The axes and cells of `batch`, with the axes that the submitter `set`: an axis of the matrix is held at that value,
/// another is added to every cell.
pub(super) fn cells(
    batch: &BatchFile,
    set: &BTreeMap<String, String>,
    with_arch: bool,
    diagnostics: &mut Diagnostics,
) -> Option<(Axes, Vec<Cell>)> {
    let matrix = &batch.matrix;
    let mut axes = Axes::default();
    for (name, ..) in &matrix.axes {
        axes.axis(name);
    }
    let of_product = axes.names.len();
    for (name, ..) in matrix.include.iter().flat_map(|entry| &entry.values) {
        axes.axis(name);
    }
    if with_arch {
        axes.axis(ARCH);
    }
    for (name, value) in set {
        let checked = check_axis_name(name).map_err(str::to_owned).and_then(|()| check_axis_value(value));
        if let Err(reason) = checked {
            diagnostics.add(&batch.place, format!("axis {name:?} can't be set to {value:?}"), reason);
            return None;
        }
        axes.axis(name);
    }
    if axes.names.len() > AXES_MAX + 1 {
        diagnostics.add(&batch.place, format!("{} axes, at most {AXES_MAX} are allowed", axes.names.len()), "");
        return None;
    }
    let mut cells = product(batch, &mut axes, diagnostics)?;
    exclude(batch, &mut axes, of_product, &mut cells, diagnostics);
    include(batch, &mut axes, of_product, &mut cells, diagnostics);
    hold(batch, set, with_arch, &mut axes, &mut cells, diagnostics);
    if cells.is_empty() && diagnostics.is_empty() {
        diagnostics.add(&batch.place, "the matrix has no cell", "`exclude` takes out all of them");
    }
    diagnostics.is_empty().then_some((axes, cells))
}

/// All combinations, the first axis changing slowest. Without axes: one empty cell, or none where `include` lists them.
fn product(batch: &BatchFile, axes: &mut Axes, diagnostics: &mut Diagnostics) -> Option<Vec<Cell>> {
    let matrix = &batch.matrix;
    if matrix.axes.is_empty() && !matrix.include.is_empty() {
        return Some(Vec::new());
    }
    let count = matrix.axes.iter().try_fold(1usize, |count, (.., values)| count.checked_mul(values.len()));
    match count {
        Some(count) if count <= CELLS_MAX => {}
        _ => {
            let place = matrix.axes.first().map_or(&batch.place, |(_, place, _)| place);
            let count = count.map_or_else(|| String::from("far too many"), |count| count.to_string());
            diagnostics.add(place, format!("the matrix has {count} cells, at most {CELLS_MAX} are allowed"), "");
            return None;
        }
    }
    let mut cells = vec![vec![NONE; axes.names.len()].into_boxed_slice()];
    for (axis, (.., values)) in matrix.axes.iter().enumerate() {
        let values: Vec<u32> = values.iter().map(|value| axes.intern(value)).collect();
        let longer = cells.iter().flat_map(|cell| {
            values.iter().map(move |value| {
                let mut cell = cell.clone();
                cell[axis] = *value;
                cell
            })
        });
        cells = longer.collect();
    }
    Some(cells)
}

fn matches(cell: &[u32], values: &[(usize, u32)]) -> bool {
    values.iter().all(|(axis, value)| cell[*axis] == *value)
}

fn numbered(axes: &mut Axes, entry: &MatrixEntry) -> Vec<(usize, u32)> {
    entry.values.iter().map(|(axis, _, value)| (axes.axis(axis), axes.intern(value))).collect()
}

fn exclude(batch: &BatchFile, axes: &mut Axes, of_product: usize, cells: &mut Vec<Cell>, diagnostics: &mut Diagnostics) {
    let whole = cells.clone();
    for entry in &batch.matrix.exclude {
        let unknown = entry.values.iter().find(|(axis, ..)| axes.number(axis).is_none_or(|number| number >= of_product));
        if let Some((axis, place, _)) = unknown {
            let help = match nearest(axis, axes.names().take(of_product)) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("its axes are {}", list(&axes.names().take(of_product).collect::<Vec<_>>())),
            };
            diagnostics.add(place, format!("the matrix has no axis `{axis}`"), help);
            continue;
        }
        let values = numbered(axes, entry);
        // Asked of the whole product: two entries may take out the same cell.
        if !whole.iter().any(|cell| matches(cell, &values)) {
            diagnostics.add(&entry.place, "`exclude` takes out no cell of the matrix", "look for a value that is spelled differently");
        }
        cells.retain(|cell| !matches(cell, &values));
    }
}

fn include(batch: &BatchFile, axes: &mut Axes, of_product: usize, cells: &mut Vec<Cell>, diagnostics: &mut Diagnostics) {
    let base = cells.len();
    for entry in &batch.matrix.include {
        let values = numbered(axes, entry);
        let (in_product, further): (Vec<_>, Vec<_>) = values.iter().copied().partition(|(axis, _)| *axis < of_product);
        let mut extended = false;
        for cell in cells[..base].iter_mut().filter(|cell| matches(cell, &in_product)) {
            for (axis, value) in &further {
                cell[*axis] = *value;
            }
            extended = true;
        }
        if extended && !further.is_empty() {
            continue;
        }
        if in_product.len() < of_product {
            let named: BTreeSet<usize> = in_product.iter().map(|(axis, _)| *axis).collect();
            let missing: Vec<&str> =
                axes.names().take(of_product).enumerate().filter(|(axis, _)| !named.contains(axis)).map(|(_, name)| name).collect();
            let message = if extended { "`include` adds nothing" } else { "`include` fits no cell of the matrix" };
            diagnostics.add(&entry.place, message, format!("to add a cell, give a value to {} too", list(&missing)));
            continue;
        }
        let mut cell = vec![NONE; axes.names.len()].into_boxed_slice();
        for (axis, value) in values {
            cell[axis] = value;
        }
        if cells.len() >= CELLS_MAX {
            diagnostics.add(&entry.place, format!("the matrix has more than {CELLS_MAX} cells"), "");
            return;
        }
        cells.push(cell);
    }
    let mut seen = BTreeSet::new();
    cells.retain(|cell| seen.insert(cell.clone()));
}

fn hold(
    batch: &BatchFile,
    set: &BTreeMap<String, String>,
    with_arch: bool,
    axes: &mut Axes,
    cells: &mut Vec<Cell>,
    diagnostics: &mut Diagnostics,
) {
    for (axis, value) in set {
        // Held where the jobs of `each` are made.
        if with_arch && axis == ARCH {
            continue;
        }
        let number = axes.axis(axis);
        let of_matrix = cells.iter().any(|cell| cell[number] != NONE);
        if !of_matrix {
            let value = axes.intern(value);
            for cell in cells.iter_mut() {
                cell[number] = value;
            }
            continue;
        }
        let known: BTreeSet<&str> = cells.iter().filter_map(|cell| axes.value(cell, axis)).collect();
        if !known.contains(value.as_str()) {
            let known: Vec<&str> = known.into_iter().collect();
            let help = format!("its values are {}", list(&known));
            diagnostics.add(&batch.place, format!("axis `{axis}` has no value {value:?} to be set to"), help);
            continue;
        }
        let value = axes.intern(value);
        cells.retain(|cell| cell[number] == value);
    }
}
