//! What this node tells the others of itself: what it is and has to spare.

use std::time::Duration;

use crate::bounded::BoundedString;
use crate::record::Payload;
use crate::record::payload::Presence;
use crate::time::Timestamp;

use super::super::Engine;
use super::super::io::{Capacity, Timer};

/// How long a Presence is in effect, ...
const PRESENCE_LIFETIME: Duration = Duration::from_secs(900);
/// ... longer by so much for every machine that is present, so that in large networks about four are said a second, ...
const PRESENCE_LIFETIME_EACH: Duration = Duration::from_millis(360);
/// ... and this at most. It is said again after two thirds of that.
const PRESENCE_LIFETIME_MAX: Duration = Duration::from_secs(3600);
/// Changes of capacity are told at most this often.
const PRESENCE_INTERVAL: Duration = Duration::from_millis(300);

impl Engine {
    pub(in crate::engine) fn presence_changed(&mut self, now: Timestamp) {
        let at = self.desk.announced.as_ref().map_or(now, |(at, _)| (*at + PRESENCE_INTERVAL).max(now));
        self.arm_earlier(Timer::Presence, at);
    }

    fn presence_lifetime(&self) -> Duration {
        let present = u32::try_from(self.crowd.present()).unwrap_or(u32::MAX);
        PRESENCE_LIFETIME_EACH.saturating_mul(present).clamp(PRESENCE_LIFETIME, PRESENCE_LIFETIME_MAX)
    }

    pub(in crate::engine) fn announce_presence(&mut self, now: Timestamp) {
        let lifetime = self.presence_lifetime();
        self.arm(Timer::Presence, now + lifetime * 2 / 3);
        if self.desk.left || self.operator().is_none() {
            return; // the last word is spoken, or nobody can make anything of it
        }
        let (lend, own) = (&self.config.lend, self.in_use());
        let facts = &self.config.facts;
        let room = Capacity {
            cores: self.desk.free.cores.saturating_add(own.cores).min(lend.cores),
            memory: self.desk.free.memory.saturating_add(own.memory).min(lend.memory),
        };
        let presence = Presence {
            accepting: self.is_willing(),
            arbiter_only: lend.arbiter_only,
            free_cores: room.cores,
            cores: lend.cores,
            free_memory_mib: u32::try_from(room.memory >> 20).unwrap_or(u32::MAX),
            os: BoundedString::cut(&facts.os),
            arch: BoundedString::cut(&facts.arch),
            isa: BoundedString::cut(&facts.isa),
            features: facts.features_bounded(),
        };
        let fresh = |(at, said): &(Timestamp, Presence)| *said == presence && now.since(*at) < lifetime / 2;
        if self.desk.announced.as_ref().is_some_and(fresh) {
            return;
        }
        self.desk.announced = Some((now, presence.clone()));
        self.author(now, Payload::Presence(presence.into()), lifetime);
    }

    /// Says that this node is not there, for as long as a Presence may last: whoever still has the one that this takes back
    /// must not bring it back.
    pub(super) fn say_farewell(&mut self, now: Timestamp) {
        self.author(now, Payload::Presence(Presence::farewell().into()), PRESENCE_LIFETIME_MAX);
    }
}
