//! The whole protocol as one deterministic machine per core.

pub mod owner;
