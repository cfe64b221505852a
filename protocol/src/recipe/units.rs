//! Sizes such as `2 GiB` and times such as `30 min`.

use std::time::Duration;

use super::diagnostic::{cut, list, nearest};

const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

const TIMES: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// A text that is no size or no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({help})")]
pub struct UnitError {
    /// What is wrong.
    pub message: String,
    /// What to write.
    pub help: &'static str,
}

/// The bytes that `text` says: a number and a unit, for example `2 GiB` or `1.5 GB`.
///
/// # Errors
/// [`UnitError`].
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let fault =
        |reason: String| UnitError { message: format!("{:?} is not a size: {reason}", cut(text)), help: "write for example \"2 GiB\"" };
    let (amount, rest) = quantity(text, &SIZES).map_err(fault)?;
    if !rest.is_empty() {
        return Err(fault(format!("{:?} stands behind it", cut(rest))));
    }
    Ok(amount)
}

/// The time that `text` says: numbers and units, for example `30 min` or `1 h 30 min`.
///
/// # Errors
/// [`UnitError`].
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let fault =
        |reason: String| UnitError { message: format!("{:?} is not a time: {reason}", cut(text)), help: "write for example \"30 min\"" };
    let mut total: u64 = 0;
    let mut rest = text;
    loop {
        let (amount, behind) = quantity(rest, &TIMES).map_err(fault)?;
        total = total.checked_add(amount).ok_or_else(|| fault("it is too long".into()))?;
        rest = behind;
        if rest.is_empty() {
            return Ok(Duration::from_millis(total));
        }
    }
}

/// The first number and unit of `text`, and what follows them without leading spaces.
fn quantity<'a>(text: &'a str, units: &[(&str, u64)]) -> Result<(u64, &'a str), String> {
    let text = text.trim();
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(number_end);
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return Err("a number is wanted first".into());
    }
    let rest = rest.trim_start();
    let unit_end = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    let names: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
    if unit.is_empty() {
        return Err(format!("it has no unit; {} is wanted", list(&names)));
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        let same = names.iter().find(|name| name.eq_ignore_ascii_case(unit)).copied();
        return Err(match same.or_else(|| nearest(unit, names.iter().copied())) {
            Some(name) => format!("{:?} is no unit, did you mean `{name}`?", cut(unit)),
            None => format!("{:?} is no unit; {} is wanted", cut(unit), list(&names)),
        });
    };
    Ok((scaled(number, *factor)?, rest.trim_start()))
}

/// `number`, a decimal fraction, times `factor`, rounded down. Whole numbers, so that every machine reads the same.
fn scaled(number: &str, factor: u64) -> Result<u64, String> {
    let bad = || format!("{:?} is no number", cut(number));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return Err(bad());
    }
    let large = || String::from("it is too large");
    let whole: u64 = whole.parse().map_err(|_| large())?;
    let parts: u64 = fraction.parse().map_err(|_| bad())?;
    let digits = u32::try_from(fraction.len()).map_err(|_| bad())?;
    let below_one = u128::from(parts) * u128::from(factor) / 10u128.pow(digits);
    let total = u128::from(whole) * u128::from(factor) + below_one;
    u64::try_from(total).map_err(|_| large())
}
