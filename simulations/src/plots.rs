//! Plots as SVG: lines, steps and bars over two axes, nothing else. Written here, since that is all that a report wants and
//! a library for it would be larger than the simulator.

use std::fmt::Write as _;

/// Size of a plot, in pixels.
const SIZE: (f64, f64) = (900.0, 480.0);
/// Room around the axes: left, top, right, bottom.
const ROOM: (f64, f64, f64, f64) = (76.0, 84.0, 28.0, 58.0);
/// About so many numbers stand at an axis.
const TICKS: f64 = 7.0;
/// Colours of series in their order, told apart by people who see red and green alike too.
const COLOURS: [&str; 4] = ["#2a6fc4", "#e07b2a", "#3a9a6b", "#8a63b8"];
const INK: &str = "#333";
const FAINT: &str = "#777";

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// From point to point.
    Line,
    /// Each value holds until the next.
    Steps,
    /// A bar for each point, as wide as the distance between them.
    Bars,
}

/// Values of one thing.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What.
    pub label: String,
    /// How.
    pub shape: Shape,
    /// In the order of x.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// A series.
    pub fn new(label: &str, shape: Shape, points: Vec<(f64, f64)>) -> Self {
        Self { label: label.to_owned(), shape, points }
    }
}

/// A plot.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plot {
    /// Name of the file, without its ending.
    pub name: String,
    /// What is shown.
    pub title: String,
    /// What the axes are: x, then y.
    pub axes: (String, String),
    /// What is drawn, at most as many as there are [`COLOURS`].
    pub series: Vec<Series>,
    /// Moments that are marked by a line: where, and what.
    pub marks: Vec<(f64, String)>,
    /// Names of the places on the x axis, for bars; numbers where there are none.
    pub places: Vec<String>,
}

impl Plot {
    /// The plot as SVG.
    pub fn to_svg(&self) -> String {
        let all = || self.series.iter().flat_map(|series| &series.points);
        let bars = !self.places.is_empty();
        let right = all().map(|point| point.0).chain(self.marks.iter().map(|mark| mark.0)).fold(0.0, f64::max);
        let ends = (if bars { self.places.len() as f64 } else { right.max(1e-9) }, all().map(|point| point.1).fold(1e-9, f64::max) * 1.05);
        let mut sheet = Sheet { text: String::new(), ends };
        let (width, height) = SIZE;
        // Writing to a string never fails; so it is below.
        let _ = write!(
            sheet.text,
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">"#
        );
        let _ = write!(sheet.text, r#"<rect width="{width}" height="{height}" fill="white"/>"#);
        sheet.write((ROOM.0, 26.0), "start", (INK, 16), &self.title);
        self.legend(&mut sheet);
        self.grid(&mut sheet);
        for (series, colour) in self.series.iter().zip(COLOURS) {
            sheet.draw(series, colour);
        }
        // Marks that stand close to each other are named below each other.
        for (row, (at, label)) in self.marks.iter().enumerate() {
            let (x, top) = (sheet.x(*at), ROOM.1);
            sheet.line((x, top), (x, height - ROOM.3), FAINT, r#" stroke-dasharray="4 3""#);
            let (anchor, shift) = if x > width / 2.0 { ("end", -5.0) } else { ("start", 5.0) };
            sheet.write((x + shift, height - ROOM.3 - 12.0 - 17.0 * row as f64), anchor, (INK, 12), label);
        }
        sheet.text.push_str("</svg>\n");
        sheet.text
    }

    fn legend(&self, sheet: &mut Sheet) {
        let mut x = ROOM.0;
        for (series, colour) in self.series.iter().zip(COLOURS) {
            let _ = write!(sheet.text, r#"<rect x="{x}" y="44" width="22" height="10" rx="2" fill="{colour}"/>"#);
            sheet.write((x + 28.0, 53.0), "start", (INK, 13), &series.label);
            // Letters of this size are about seven pixels wide.
            x += 28.0 + 7.0 * series.label.chars().count() as f64 + 22.0;
        }
    }

    fn grid(&self, sheet: &mut Sheet) {
        let (width, height) = SIZE;
        let (left, top, right, bottom) = (ROOM.0, ROOM.1, width - ROOM.2, height - ROOM.3);
        let step = step(sheet.ends.1);
        for count in 0..=(sheet.ends.1 / step) as u32 {
            let value = step * f64::from(count);
            let y = sheet.y(value);
            sheet.line((left, y), (right, y), "#e4e4e4", "");
            sheet.write((left - 8.0, y + 4.0), "end", (FAINT, 12), &number(value));
        }
        if self.places.is_empty() {
            let step = self::step(sheet.ends.0);
            for count in 0..=(sheet.ends.0 / step) as u32 {
                let value = step * f64::from(count);
                sheet.write((sheet.x(value), bottom + 18.0), "middle", (FAINT, 12), &number(value));
            }
        }
        for (at, place) in self.places.iter().enumerate() {
            sheet.write((sheet.x(at as f64 + 0.5), bottom + 18.0), "middle", (FAINT, 12), place);
        }
        sheet.line((left, bottom), (right, bottom), FAINT, "");
        sheet.write(((left + right) / 2.0, height - 16.0), "middle", (INK, 13), &self.axes.0);
        sheet.write((left - 52.0, top - 14.0), "start", (INK, 13), &self.axes.1);
    }
}

/// What is being drawn on.
struct Sheet {
    text: String,
    /// The values at the ends of the axes.
    ends: (f64, f64),
}

impl Sheet {
    fn x(&self, value: f64) -> f64 {
        ROOM.0 + value / self.ends.0 * (SIZE.0 - ROOM.0 - ROOM.2)
    }

    fn y(&self, value: f64) -> f64 {
        SIZE.1 - ROOM.3 - value / self.ends.1 * (SIZE.1 - ROOM.1 - ROOM.3)
    }

    fn write(&mut self, (x, y): (f64, f64), anchor: &str, (colour, size): (&str, u32), text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ = write!(
            self.text,
            // A white rim keeps it readable above lines.
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{colour}" font-size="{size}" stroke="white" stroke-width="3" paint-order="stroke">{text}</text>"#
        );
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, more: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = write!(self.text, r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}"{more}/>"#);
    }

    fn draw(&mut self, series: &Series, colour: &str) {
        if series.shape == Shape::Bars {
            let base = self.y(0.0);
            let wide = (self.x(1.0) - self.x(0.0)) * 0.8;
            for (at, value) in &series.points {
                let (x, y) = (self.x(at + 0.1), self.y(*value));
                let _ = write!(self.text, r#"<rect x="{x:.1}" y="{y:.1}" width="{wide:.1}" height="{:.1}" fill="{colour}"/>"#, base - y);
            }
            return;
        }
        let mut path = String::new();
        for (number, (x, y)) in series.points.iter().enumerate() {
            let (x, y) = (self.x(*x), self.y(*y));
            let _ = match (number, series.shape) {
                (0, _) => write!(path, "M{x:.1} {y:.1}"),
                (_, Shape::Steps) => write!(path, "H{x:.1}V{y:.1}"),
                _ => write!(path, "L{x:.1} {y:.1}"),
            };
        }
        let _ = write!(self.text, r#"<path d="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>"#);
    }
}

/// The distance between two numbers at an axis that ends at `end`: 1, 2 or 5 times a power of ten.
fn step(end: f64) -> f64 {
    let rough = (end / TICKS).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough).unwrap_or(10.0);
    factor * power
}

fn number(value: f64) -> String {
    if value >= 10.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_at_an_axis_are_round() {
        assert_eq!((step(100.0), step(7.0), step(0.9)), (20.0, 1.0, 0.2));
        assert_eq!(number(20.0) + &number(0.2), "200.20");
    }

    /// The first value stands at the left end, the last at the right; what is written can't break out of its place.
    #[test]
    fn plot_spans_its_axes_and_escapes_what_it_is_told() {
        let series = Series::new("a < b", Shape::Line, vec![(0.0, 0.0), (50.0, 100.0)]);
        let plot = Plot { title: "R&D".into(), series: vec![series], marks: vec![(50.0, "end".into())], ..Plot::default() };
        let svg = plot.to_svg();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("R&amp;D") && svg.contains("a &lt; b"));
        assert!(svg.contains("M76.0 422.0L872.0 "), "{svg}");
    }

    #[test]
    fn steps_hold_their_value_until_the_next() {
        let series = Series::new("steps", Shape::Steps, vec![(0.0, 1.0), (1.0, 2.0)]);
        assert!(Plot { series: vec![series], ..Plot::default() }.to_svg().contains("H872.0V"));
    }
}
