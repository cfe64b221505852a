//! How ids, times, states and foreign texts are shown to people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use barnraiser_protocol::engine::query::JobState;
use barnraiser_protocol::id::OperatorId;
use barnraiser_protocol::time::Timestamp;

use super::super::output::{Output, Style};

/// `text` without what could steer a terminal: names and logs come from strangers. Tabs stay; colours of a log stay where
/// `colours` says so.
pub(super) fn printable(text: &str, colours: bool) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c != '\t' && (c.is_control() || is_turning(c))) {
        kept.push_str(&rest[..at]);
        let tail = &rest[at..];
        match colour(tail) {
            Some(length) => {
                if colours {
                    kept.push_str(&tail[..length]);
                }
                rest = &tail[length..];
            }
            None => {
                let length = tail.chars().next().map_or(tail.len(), char::len_utf8);
                rest = &tail[length..];
            }
        }
    }
    kept.push_str(rest);
    kept
}

/// Whether `c` turns the direction of what follows, so that a line reads other than it is.
const fn is_turning(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The length of a sequence that sets a colour or style, at the beginning of `text`.
fn colour(text: &str) -> Option<usize> {
    let numbers = text.strip_prefix("\u{1b}[")?;
    let length = numbers.find(|c: char| !(c.is_ascii_digit() || c == ';'))?;
    (numbers[length..].starts_with('m')).then_some(2 + length + 1)
}

/// A foreign text in a table.
pub(in crate::cli) fn plain(text: &str) -> String {
    printable(text, false)
}

/// A state in its colour.
pub(super) fn state(out: &Output, state: JobState) -> String {
    out.paint(style(state), &state.to_string())
}

/// A state in its colour, as wide as most of them, for lines that stand below each other.
pub(super) fn padded_state(out: &Output, state: JobState) -> String {
    out.paint(style(state), &format!("{:14}", state.to_string()))
}

const fn style(state: JobState) -> Style {
    match state {
        JobState::CrossVerified => Style::Good,
        JobState::Disputed | JobState::Failed => Style::Bad,
        JobState::Candidate | JobState::PlatformDependent => Style::Warn,
        JobState::Building | JobState::Ready => Style::Strong,
        JobState::Waiting | JobState::Superseded | JobState::Withdrawn => Style::Dim,
    }
}

/// Operators, shortened, in the order given.
pub(super) fn operators<'a>(operators: impl IntoIterator<Item = &'a OperatorId>) -> String {
    let short: Vec<String> = operators.into_iter().map(OperatorId::short).collect();
    if short.is_empty() { "-".into() } else { short.join(" ") }
}

/// `count` of `one`, or of `many`.
pub(in crate::cli) fn count(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// This machine's time.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// How long ago `moment` was, or how far ahead it is: clocks differ.
pub(in crate::cli) fn ago(now: Timestamp, moment: Timestamp) -> String {
    match (now.since(moment), moment.since(now)) {
        (past, _) if past >= Duration::from_secs(1) => format!("{} ago", length(past)),
        (_, ahead) if ahead >= Duration::from_secs(1) => format!("in {}", length(ahead)),
        _ => "now".into(),
    }
}

/// A length of time in its two largest units at most.
pub(in crate::cli) fn length(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if seconds == 0 => format!("{} ms", time.subsec_millis()),
        (0, 0, 0) if seconds < 10 => format!("{}.{} s", seconds, time.subsec_millis() / 100),
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_steer_the_terminal() {
        assert_eq!(plain("a\u{1b}]0;title\u{7}b\rc\u{202e}d"), "a]0;titlebcd");
        assert_eq!(printable("\u{1b}[1;31mred\u{1b}[0m\u{1b}[2J", true), "\u{1b}[1;31mred\u{1b}[0m[2J");
        assert_eq!(plain("\u{1b}[31mred\tx"), "red\tx");
        assert_eq!(plain("ünï \u{1b}"), "ünï ");
    }

    #[test]
    fn times_are_short() {
        assert_eq!(ago(Timestamp(100_000), Timestamp(40_000)), "1 min 0 s ago");
        assert_eq!(ago(Timestamp(40_000), Timestamp(100_000)), "in 1 min 0 s");
        assert_eq!(ago(Timestamp(40_000), Timestamp(40_100)), "now");
        assert_eq!(length(Duration::from_millis(1250)), "1.2 s");
        assert_eq!(length(Duration::from_millis(250)), "250 ms");
        assert_eq!(length(Duration::from_secs(90_000)), "1 d 1 h");
    }
}
