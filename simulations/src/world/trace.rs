//! What happened, as one hash: two runs of one seed must have the same.

use std::fmt::Write as _;

use barnraiser_protocol::time::Timestamp;

/// The hash of all events so far.
#[derive(Debug, Default)]
pub struct Trace {
    hasher: blake3::Hasher,
    text: String,
    /// Events so far.
    pub events: u64,
    /// Whether events are printed too, for people who look for a fault.
    pub verbose: bool,
}

impl Trace {
    /// Adds an event.
    pub fn add(&mut self, at: Timestamp, what: std::fmt::Arguments<'_>) {
        self.events += 1;
        self.text.clear();
        // Writing to a string never fails.
        let _ = write!(self.text, "{} {what}", at.0);
        self.hasher.update(self.text.as_bytes());
        self.hasher.update(b"\n");
        if self.verbose {
            eprintln!("{}", self.text);
        }
    }

    /// The hash, in hexadecimal digits.
    pub fn hash(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}
