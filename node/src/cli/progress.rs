//! How far long work is: a bar on standard error where a person watches, one event a line with `--json`, else nothing.
//!
//! The bar is one line that fits the terminal, however narrow: what matters less is left out ([`Facts::line`]). The speed is a
//! mean of the last seconds ([`Speed`]), so that neither it nor the time that is left jumps.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde_json::Value;

use super::online::words::{count, length as time_text};
use super::output::{Output, bytes};
use crate::api::Problem;

/// How often the bar is drawn anew.
const DRAW_EVERY: Duration = Duration::from_millis(200);
/// At least this long lies between two progress events, so that a log of them stays readable.
pub(super) const EVENT_EVERY: Duration = Duration::from_millis(500);
/// The last seconds make the speed; what was before them counts for a third, and so on.
const SPEED_OVER: Duration = Duration::from_secs(4);
/// What comes within less is one measurement: shorter ones would measure how the system hands out time.
const MEASURE_EVERY: Duration = Duration::from_millis(100);
/// Characters that are left free: a terminal shows `^C` behind the line, and what then goes on in the next could not be wiped away.
const BESIDE: usize = 4;
/// Characters between the brackets of the bar.
const BAR_WIDTH: (usize, usize) = (10, 30);

/// Bytes per second over the last seconds.
#[derive(Debug, Clone)]
struct Speed {
    measured: Instant,
    done: u64,
    rate: f64,
    /// How much of a whole mean `rate` is: less in the first seconds.
    weight: f64,
}

impl Speed {
    fn new(now: Instant, done: u64) -> Self {
        Self { measured: now, done, rate: 0.0, weight: 0.0 }
    }

    fn at(&mut self, now: Instant, done: u64) {
        let time = now.saturating_duration_since(self.measured);
        if time >= MEASURE_EVERY {
            let share = 1.0 - (-time.as_secs_f64() / SPEED_OVER.as_secs_f64()).exp();
            let rate = done.saturating_sub(self.done) as f64 / time.as_secs_f64();
            self.rate += (rate - self.rate) * share;
            self.weight += (1.0 - self.weight) * share;
            (self.measured, self.done) = (now, done);
        }
    }

    /// As of `now`: where nothing comes any more, it falls.
    fn rate(&self, now: Instant) -> u64 {
        let mut until_now = self.clone();
        until_now.at(now, self.done);
        if until_now.weight > 0.0 { (until_now.rate / until_now.weight) as u64 } else { 0 }
    }
}

/// What is known of the work.
#[derive(Debug)]
struct Facts {
    doing: &'static str,
    done: u64,
    length: Option<u64>,
    peers: Option<usize>,
    speed: Speed,
    began: Instant,
}

impl Facts {
    /// The bar in less than `width` characters, with as much of what is known as fits: the share and the speed before all else.
    fn line(&self, now: Instant, width: usize) -> String {
        let room = width.saturating_sub(BESIDE);
        let rate = self.speed.rate(now);
        let turn = ['-', '\\', '|', '/'][(now.saturating_duration_since(self.began).as_millis() / DRAW_EVERY.as_millis() % 4) as usize];
        let share = self.length.map(|length| share(self.done, length));
        let left = self.length.map(|length| length.saturating_sub(self.done)).filter(|left| *left > 0 && rate > 0);
        let is_counted = self.done > 0 || self.length.is_some();
        // In the order of the line, each with its rank: the lowest go first where there is no room.
        let parts = [
            (0, Some(share.map_or_else(|| turn.to_string(), |share| format!("{share:3} %")))),
            (2, is_counted.then(|| bytes(self.done) + &self.length.map_or_else(String::new, |length| format!(" of {}", bytes(length))))),
            (1, is_counted.then(|| format!("{}/s", bytes(rate)))),
            (3, left.map(|left| format!("{} left", time_left((left / rate).max(1))))),
            (4, self.peers.filter(|peers| *peers > 0).map(|peers| count(peers, "peer", "peers"))),
            (if is_counted { 6 } else { 1 }, Some(self.doing.to_owned())),
        ];
        let mut ranks: Vec<u8> = parts.iter().filter(|(_, text)| text.is_some()).map(|(rank, _)| *rank).collect();
        ranks.sort_unstable();
        let taken = |last: Option<u8>| {
            let fit = parts.iter().filter(|(rank, _)| last.is_some_and(|last| *rank <= last));
            fit.filter_map(|(_, text)| text.as_deref()).collect::<Vec<_>>().join("  ")
        };
        let has_bar = |line: &String| share.is_some() && room >= line.len() + BAR_WIDTH.0 + 3;
        let lines = || ranks.iter().rev().map(|rank| taken(Some(*rank))).filter(|line| line.len() <= room);
        // The bar itself goes before the words that say what is done.
        let line = lines().find(has_bar).filter(|line| line.len() >= taken(Some(4)).len()).or_else(|| lines().next()).unwrap_or_default();
        match self.length.filter(|_| has_bar(&line)) {
            Some(length) => {
                let width = (room - line.len() - 3).min(BAR_WIDTH.1);
                let full = if length == 0 { width } else { (self.done.min(length) as f64 / length as f64 * width as f64) as usize };
                let head = if full < width { ">" } else { "" };
                format!("[{}{head}{}] {line}", "=".repeat(full), " ".repeat(width - full - head.len()))
            }
            None => line,
        }
    }
}

/// Whole seconds: tenths of a guess mean nothing.
fn time_left(seconds: u64) -> String {
    if seconds < 60 { format!("{seconds} s") } else { time_text(Duration::from_secs(seconds)) }
}

/// Whole per cents; 100 only when it is all.
fn share(done: u64, length: u64) -> u64 {
    let share = (u128::from(done.min(length)) * 100).checked_div(u128::from(length));
    share.map_or(100, |share| u64::try_from(share).unwrap_or(100))
}

/// Shows or tells how far long work is.
pub(super) struct Progress {
    out: Output,
    /// Whether events go to standard error, since bytes go to standard output.
    beside: bool,
    facts: Arc<Mutex<Facts>>,
    bar: Option<ProgressBar>,
    told: Mutex<Instant>,
}

impl Progress {
    /// Of work that is called `doing` as long as nothing else is known.
    pub fn new(out: &Output, doing: &'static str) -> Self {
        Self::shown(out, doing, out.live())
    }

    /// Where standard output is for the bytes themselves: all else goes to standard error.
    pub fn beside_bytes(out: &Output, doing: &'static str) -> Self {
        let mut progress = Self::new(out, doing);
        progress.beside = true;
        progress
    }

    /// No bar, for what is done at once or prints as it goes.
    pub fn none(out: &Output) -> Self {
        Self::shown(out, "", false)
    }

    fn shown(out: &Output, doing: &'static str, live: bool) -> Self {
        let now = Instant::now();
        let facts = Facts { doing, done: 0, length: None, peers: None, speed: Speed::new(now, 0), began: now };
        let facts = Arc::new(Mutex::new(facts));
        let bar = live.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style(facts.clone()));
            bar.enable_steady_tick(DRAW_EVERY);
            bar
        });
        Self { out: *out, beside: false, facts, bar, told: Mutex::new(now) }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        // Each holder leaves the facts whole.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The work begins at `done` bytes of `length`: the speed counts from there.
    pub fn begins_at(&self, done: u64, length: Option<u64>) {
        let mut facts = self.facts();
        (facts.done, facts.length) = (done, length);
        facts.speed = Speed::new(Instant::now(), done);
    }

    /// Names what is done now.
    pub fn doing(&self, doing: &'static str) {
        self.facts().doing = doing;
    }

    /// So many bytes are done, of so many where that is known, by so many peers where there are any. Every half second
    /// `event` makes the event of that from the rate in bytes per second.
    ///
    /// # Errors
    /// [`Problem`] where the event can't be written.
    pub fn at(&self, done: u64, length: Option<u64>, peers: Option<usize>, event: impl FnOnce(u64) -> Value) -> Result<(), Problem> {
        let now = Instant::now();
        let rate = {
            let mut facts = self.facts();
            (facts.done, facts.peers) = (done, peers);
            facts.length = length.or(facts.length);
            facts.speed.at(now, done);
            facts.speed.rate(now)
        };
        if !self.out.json {
            return Ok(());
        }
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if now.saturating_duration_since(*told) < EVENT_EVERY {
                return Ok(());
            }
            *told = now;
        }
        self.event("progress", &event(rate))
    }

    /// How many bytes are done, of how many.
    pub fn so_far(&self) -> (u64, Option<u64>) {
        let facts = self.facts();
        (facts.done, facts.length)
    }

    /// Prints an event of its own, with `--json`.
    ///
    /// # Errors
    /// [`Problem`] where it can't be written.
    pub fn event(&self, kind: &str, fields: &impl serde::Serialize) -> Result<(), Problem> {
        if self.beside { self.out.stream_beside(kind, fields) } else { self.out.stream(kind, fields) }
    }

    /// Prints a line above the bar, on standard error.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.out.note(text)),
            None => self.out.note(text),
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // Whatever ends the work, what is printed next stands on a line of its own.
        self.end();
    }
}

fn style(facts: Arc<Mutex<Facts>>) -> ProgressStyle {
    let line = move |_: &ProgressState, to: &mut dyn fmt::Write| {
        let width = usize::from(console::Term::stderr().size().1);
        let line = facts.lock().unwrap_or_else(PoisonError::into_inner).line(Instant::now(), width);
        // Drawn anew in a moment; an error has nowhere to go.
        let _ = to.write_str(&line);
    };
    // The template is a constant that a test reads.
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_spinner());
    style.with_key("line", line)
}

const TEMPLATE: &str = "{line}";

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn facts(done: u64, length: Option<u64>, rate: f64, peers: Option<usize>) -> (Facts, Instant) {
        let now = Instant::now();
        let speed = Speed { measured: now, done, rate, weight: 1.0 };
        (Facts { doing: "fetching", done, length, peers, speed, began: now }, now)
    }

    #[test]
    fn the_bar_can_be_drawn() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }

    #[test]
    fn a_wide_terminal_shows_all_and_a_narrow_one_what_matters_most() {
        let (facts, now) = facts(128 * MIB, Some(512 * MIB), 8e6, Some(3));
        let line = |width| facts.line(now, width);
        assert_eq!(line(120), "[=======>                      ]  25 %  128.0 MiB of 512.0 MiB  7.6 MiB/s  50 s left  3 peers  fetching",);
        assert_eq!(line(80), "[===>         ]  25 %  128.0 MiB of 512.0 MiB  7.6 MiB/s  50 s left  3 peers");
        assert_eq!(line(60), " 25 %  128.0 MiB of 512.0 MiB  7.6 MiB/s  50 s left");
        assert_eq!(line(46), " 25 %  128.0 MiB of 512.0 MiB  7.6 MiB/s");
        assert_eq!(line(20), " 25 %  7.6 MiB/s");
        assert_eq!(line(10), " 25 %");
        assert_eq!(line(1), "");
        for width in BESIDE..200 {
            assert!(line(width).len() + BESIDE <= width, "{width}: {:?}", line(width));
        }
    }

    #[test]
    fn work_of_unknown_length_shows_how_much_and_how_fast() {
        let (mut facts, now) = facts(0, None, 0.0, None);
        facts.doing = "looking for who has it";
        assert_eq!(facts.line(now, 80), "-  looking for who has it");
        (facts.done, facts.doing) = (3 * MIB, "taking it in");
        facts.speed = Speed { measured: now, done: facts.done, rate: 1e6, weight: 0.5 };
        assert_eq!(facts.line(now, 80), "-  3.0 MiB  1.9 MiB/s  taking it in");
    }

    #[test]
    fn all_is_shown_only_when_all_is_there() {
        assert_eq!([share(0, 10), share(999, 1000), share(1000, 1000), share(0, 0), share(u64::MAX, u64::MAX)], [0, 99, 100, 100, 100]);
        let (facts, now) = facts(10 * MIB, Some(10 * MIB), 0.0, None);
        assert_eq!(facts.line(now, 120), "[==============================] 100 %  10.0 MiB of 10.0 MiB  0 B/s  fetching");
    }

    /// What was there before is no speed; a moment's burst or pause is not the speed either; and what stands still slows down.
    #[test]
    fn speed_is_that_of_the_last_seconds() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut speed = Speed::new(start, 500 * MIB);
        assert_eq!(speed.rate(start), 0);
        for step in 1..=40 {
            speed.at(after(step * 250), 500 * MIB + step * MIB / 4);
        }
        let steady = speed.rate(after(10_000));
        assert!(steady.abs_diff(MIB) < MIB / 100, "{steady}");
        speed.at(after(10_001), 700 * MIB);
        assert!(speed.rate(after(10_001)) == steady, "too short to measure");
        speed.at(after(10_250), 511 * MIB);
        assert!(speed.rate(after(10_250)) < 2 * MIB, "one burst is not the speed: {}", speed.rate(after(10_250)));
        assert!(speed.rate(after(22_000)) < MIB / 10, "it stands still");
    }
}
