//! One core's I/O. Moves bytes, decides nothing.

pub mod mailbox;
pub mod probe;
pub mod ring;
pub mod socket;
pub mod steering;
