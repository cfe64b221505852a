//! The store from outside: what it takes in, hands out, refuses, and keeps through crashes. One binary, since each links
//! the whole database.
#![allow(clippy::unwrap_used)]

mod blobs;
mod damage;
mod differences;
mod disks;
mod full_disk;
mod kill;
mod metadata;
mod opening;
mod oracle;
mod partials;
mod power_loss;
mod ranges;
mod sharing;
mod support;
mod trees;
