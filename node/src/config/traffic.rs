//! `[traffic]` and `[store]` of `barn.toml`: how much the node may move and keep, how fast, and when.

use std::fmt;

use barnraiser_bootstrap::Rates;
use barnraiser_bootstrap::traffic::{RATE_MIN, RATE_PER_PEER_MIN};
use barnraiser_protocol::recipe::parse_size;
use barnraiser_store::Quota;
use serde::{Deserialize, Deserializer};

use super::Size;

/// What is written where nothing is limited.
const UNLIMITED: &str = "unlimited";
/// Fewer connections than this are of no use: those to entry servers, to some members, and a bulk one each way.
const CONNECTIONS_MIN: u32 = 16;
/// More sockets than this are not given to a process as a rule.
const CONNECTIONS_MAX: u32 = 10_000;
/// Smaller than this, a cap is used up by what nodes say to each other.
const CAP_MIN: u64 = 100 << 20;
/// The most ranges of hours.
const HOURS_MAX: usize = 8;
const DAY_MIN: u16 = 24 * 60;

/// `[traffic]`: what may travel to and from this node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrafficConfig {
    /// All that is sent.
    pub up: Rate,
    /// All that is received.
    pub down: Rate,
    /// Blobs sent to each peer.
    pub up_per_peer: Rate,
    /// Bytes of a calendar month, up and down together, after which bulk stops.
    pub monthly_cap: Cap,
    /// When bulk may travel.
    pub hours: Hours,
    /// Connections in all.
    pub connections: u32,
}

impl Default for TrafficConfig {
    fn default() -> Self {
        Self {
            up: Rate(None),
            down: Rate(None),
            up_per_peer: Rate(None),
            monthly_cap: Cap(None),
            hours: Hours::default(),
            connections: barnraiser_bootstrap::Limits::default().connections,
        }
    }
}

impl TrafficConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        for (name, rate, least) in
            [("up", self.up, RATE_MIN), ("down", self.down, RATE_MIN), ("up_per_peer", self.up_per_peer, RATE_PER_PEER_MIN)]
        {
            if rate.0.is_some_and(|rate| rate < least) {
                let least = Rate(Some(least));
                return Err(format!("[traffic] {name} is {rate}; at least {least} is wanted, or peers take this node for one that hangs"));
            }
        }
        if self.monthly_cap.0.is_some_and(|cap| cap < CAP_MIN) {
            let least = Size(CAP_MIN);
            return Err(format!("[traffic] monthly_cap is {}; at least {least} is wanted, which records alone may take", self.monthly_cap));
        }
        if !(CONNECTIONS_MIN..=CONNECTIONS_MAX).contains(&self.connections) {
            return Err(format!("[traffic] connections is {}; {CONNECTIONS_MIN} to {CONNECTIONS_MAX} are wanted", self.connections));
        }
        Ok(())
    }

    /// The limits on rates.
    pub const fn rates(&self) -> Rates {
        Rates { up: self.up.0, down: self.down.0, up_per_peer: self.up_per_peer.0 }
    }
}

/// Bytes a second, in the file as for example `"2 MiB/s"` or `"20 Mbit/s"`; `None` is `"unlimited"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub Option<u64>);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rate) => write!(f, "{}/s", Size(rate)),
            None => f.write_str(UNLIMITED),
        }
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_rate(&text).map_err(serde::de::Error::custom)
    }
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    if text.trim() == UNLIMITED {
        return Ok(Rate(None));
    }
    let wrong = |why: &str| format!("{text:?} is not a rate: {why}; write for example \"2 MiB/s\", \"20 Mbit/s\" or \"{UNLIMITED}\"");
    let amount = text.trim().strip_suffix("/s").ok_or_else(|| wrong("it does not end with \"/s\""))?.trim_end();
    // Bits are counted in thousands, and eight make a byte.
    let bits = [("kbit", 1_000), ("Mbit", 1_000_000), ("Gbit", 1_000_000_000), ("bit", 1u64)];
    if let Some((number, unit)) = bits.iter().find_map(|(name, unit)| Some((amount.strip_suffix(name)?.trim_end(), *unit))) {
        let number: f64 = number.parse().map_err(|_| wrong("a number is wanted before the unit"))?;
        let bytes = number * unit as f64 / 8.0;
        // Far below what a float holds exactly; more is a mistake.
        return if (1.0..1e15).contains(&bytes) { Ok(Rate(Some(bytes as u64))) } else { Err(wrong("it is too small or too large")) };
    }
    match parse_size(amount) {
        Ok(0) => Err(wrong("nothing at all could travel")),
        Ok(bytes) => Ok(Rate(Some(bytes))),
        Err(error) => Err(wrong(&error.message)),
    }
}

/// A number of bytes; `None` is `"unlimited"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap(pub Option<u64>);

impl fmt::Display for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => Size(bytes).fmt(f),
            None => f.write_str(UNLIMITED),
        }
    }
}

impl<'de> Deserialize<'de> for Cap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.trim() == UNLIMITED {
            return Ok(Self(None));
        }
        parse_size(&text).map(|bytes| Self(Some(bytes))).map_err(serde::de::Error::custom)
    }
}

/// Times of the day by the machine's clock, in the file as `"22:00-07:00"`, several with commas between them, or `"always"`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hours(Vec<(u16, u16)>);

impl Hours {
    /// How many minutes it is until bulk may travel, from this minute of the day; none where it may now.
    pub fn closed_for(&self, minute: u16) -> Option<u16> {
        let is_open = |(from, to): &(u16, u16)| if from < to { (*from..*to).contains(&minute) } else { minute >= *from || minute < *to };
        if self.0.is_empty() || self.0.iter().any(is_open) {
            return None;
        }
        self.0.iter().map(|(from, _)| (from + DAY_MIN - minute) % DAY_MIN).min()
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("always");
        }
        for (number, (from, to)) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)?;
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Hours {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_hours(&text).map_err(serde::de::Error::custom)
    }
}

fn parse_hours(text: &str) -> Result<Hours, String> {
    if text.trim() == "always" {
        return Ok(Hours::default());
    }
    let wrong = |why: &str| format!("{text:?} are not hours: {why}; write for example \"22:00-07:00\" or \"always\"");
    let time = |text: &str| -> Option<u16> {
        let (hour, minute) = text.trim().split_once(':')?;
        let digits =
            |text: &str| (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse::<u16>().ok()).flatten();
        let minutes = digits(hour)? * 60 + digits(minute).filter(|minute| *minute < 60)?;
        (minutes <= DAY_MIN).then_some(minutes)
    };
    let mut ranges = Vec::new();
    for range in text.split(',') {
        let (from, to) = range.split_once('-').ok_or_else(|| wrong("there is no \"-\" between two times"))?;
        let (Some(from), Some(to)) = (time(from), time(to)) else { return Err(wrong("a time is two digits, a colon and two digits")) };
        if from == to || from == DAY_MIN {
            return Err(wrong("a range is empty"));
        }
        ranges.push((from, to));
    }
    if ranges.len() > HOURS_MAX { Err(wrong("there are more than eight ranges")) } else { Ok(Hours(ranges)) }
}

/// `[store]`: how much the node keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// How much blobs may take before what is only cached goes.
    pub quota: Room,
}

/// A number of bytes, or a part of the disk as `"10 %"`; `None` is `"unlimited"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room(pub Option<Quota>);

impl Default for Room {
    /// A tenth of what is free: its owner should not notice.
    fn default() -> Self {
        Self(Some(Quota::Percent(10)))
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(Quota::Bytes(bytes)) => Size(bytes).fmt(f),
            Some(Quota::Percent(percent)) => write!(f, "{percent} %"),
            None => f.write_str(UNLIMITED),
        }
    }
}

impl<'de> Deserialize<'de> for Room {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.trim() == UNLIMITED {
            return Ok(Self(None));
        }
        if let Some(number) = text.trim().strip_suffix('%') {
            let percent = number.trim_end().parse::<u8>().ok().filter(|percent| (1..=100).contains(percent));
            let wrong = || serde::de::Error::custom(format!("{text:?} is not a part of the disk; write for example \"10 %\""));
            return percent.map(|percent| Self(Some(Quota::Percent(percent)))).ok_or_else(wrong);
        }
        parse_size(&text).map(|bytes| Self(Some(Quota::Bytes(bytes)))).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rates_are_bytes_or_bits_a_second() {
        for (text, bytes) in [
            ("2 MiB/s", 2 << 20),
            ("2MiB/s", 2 << 20),
            (" 1.5 MB/s ", 1_500_000),
            ("20 Mbit/s", 2_500_000),
            ("800 kbit/s", 100_000),
            ("1 Gbit/s", 125_000_000),
            ("2.5 Mbit/s", 312_500),
        ] {
            assert_eq!(parse_rate(text), Ok(Rate(Some(bytes))), "{text}");
        }
        assert_eq!(parse_rate("unlimited"), Ok(Rate(None)));
        assert_eq!(parse_rate(&Rate(Some(2 << 20)).to_string()), Ok(Rate(Some(2 << 20))));
        for text in
            ["", "2 MiB", "MiB/s", "Mbit/s", "2 elephants/s", "0 B/s", "-1 Mbit/s", "NaN Mbit/s", "1e99 Gbit/s", "inf bit/s", "fast"]
        {
            let error = parse_rate(text).unwrap_err();
            assert!(error.contains("write for example \"2 MiB/s\""), "{text}: {error}");
        }
    }

    #[test]
    fn hours_may_go_over_midnight_and_say_how_long_they_are_closed() {
        let night = parse_hours("22:00-07:00").unwrap();
        for (minute, closed) in [(0, None), (6 * 60 + 59, None), (7 * 60, Some(15 * 60)), (21 * 60 + 59, Some(1)), (22 * 60, None)] {
            assert_eq!(night.closed_for(minute), closed, "{minute}");
        }
        let two = parse_hours("01:00-02:30, 12:00-24:00").unwrap();
        for (minute, closed) in [(0, Some(60)), (90, None), (150, Some(570)), (23 * 60 + 59, None)] {
            assert_eq!(two.closed_for(minute), closed, "{minute}");
        }
        assert_eq!(Hours::default().closed_for(5), None);
        assert_eq!(two.to_string(), "01:00-02:30, 12:00-24:00");
        assert_eq!(parse_hours(&night.to_string()), Ok(night));
        for text in ["", "22-7", "22:00", "22:60-23:00", "25:00-26:00", "1:00-2:00", "07:00-07:00", "24:00-01:00", "+1:00-02:00"] {
            assert!(parse_hours(text).unwrap_err().contains("\"22:00-07:00\""), "{text}");
        }
        assert!(parse_hours(&["01:00-02:00"; 9].join(",")).is_err());
    }
}
