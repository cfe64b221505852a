//! The rules of the Barnraiser network.
//!
//! This crate decides and does nothing else: it holds the messages, the engine (leases, graph, verdicts), the trust
//! root and the formats. It opens no socket, file or thread and reads no clock; time and randomness are arguments.
//! The node drives it with libp2p and tokio, the simulator with an event heap: the same code in both.
//!
//! Where to go next: [`record`] for what travels, [`engine`] for what a node decides, [`verdict`] for when a result
//! counts, [`trust`] for who may say what, [`recipe`] for what people write, [`action`] and [`graph`] for what is built.
#![forbid(unsafe_code)]

pub mod action;
pub mod blame;
pub mod bounded;
pub mod codec;
pub mod engine;
pub mod evidence;
pub mod graph;
pub mod id;
pub mod keys;
mod lists;
pub mod outcome;
pub mod plan;
pub mod platform;
pub mod policy;
pub mod recipe;
pub mod record;
pub mod release;
pub mod sync;
mod table;
pub mod ticket;
pub mod time;
pub mod transfer;
pub mod tree;
pub mod trust;
pub mod verdict;
