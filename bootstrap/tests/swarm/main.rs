//! Whole nodes on loopback: finding each other, records, blobs, and peers that break the rules.
#![allow(clippy::unwrap_used)]

mod announcements;
mod blobs;
mod differences;
mod entry;
mod fakes;
mod liar;
mod members;
mod records;
mod rig;
mod traffic;
