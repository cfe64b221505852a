//! Whole nodes on loopback: finding each other, records, blobs, and peers that break the rules.
#![allow(clippy::unwrap_used)]

mod announcements;
mod blobs;
mod differences;
mod entry;
mod fakes;
mod holders;
mod liar;
mod members;
mod pusher;
mod records;
mod rig;
mod traffic;
