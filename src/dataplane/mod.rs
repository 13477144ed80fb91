//! One core's I/O. Moves bytes, decides nothing.

pub mod budget;
pub mod connections;
mod exits;
pub mod mailbox;
pub mod orders;
pub mod probe;
pub mod ring;
mod sleep;
pub mod socket;
pub mod steering;
pub mod worker;
