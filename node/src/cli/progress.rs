//! A bar on standard error that shows how far long work is, where a person watches.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::Output;

const WITH_LENGTH: &str = "[{bar:30}] {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left  {wide_msg}";
const WITHOUT_LENGTH: &str = "{spinner} {bytes}  {bytes_per_sec}  {wide_msg}";

/// The bar; nothing where nobody watches.
pub(super) struct Bar(Option<ProgressBar>);

impl Bar {
    /// A bar that shows `doing`.
    pub fn new(out: &Output, doing: &'static str) -> Self {
        Self(out.live().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style(WITHOUT_LENGTH));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar.set_message(doing);
            bar
        }))
    }

    /// No bar, for what is done at once or prints as it goes.
    pub const fn none() -> Self {
        Self(None)
    }

    /// So many bytes are done, of so many where that is known.
    pub fn at(&self, done: u64, length: Option<u64>) {
        let Some(bar) = &self.0 else { return };
        if let Some(length) = length
            && bar.length() != Some(length)
        {
            bar.set_style(style(WITH_LENGTH));
            bar.set_length(length);
        }
        bar.set_position(done);
    }

    /// Prints a line above the bar, on standard error.
    pub fn note(&self, out: &Output, text: &str) {
        match &self.0 {
            Some(bar) => bar.suspend(|| out.note(text)),
            None => out.note(text),
        }
    }

    /// Takes it away.
    pub fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants that a test reads.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bars_can_be_drawn() {
        assert!([WITH_LENGTH, WITHOUT_LENGTH].iter().all(|template| ProgressStyle::with_template(template).is_ok()));
    }
}
