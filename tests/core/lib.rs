//! Ranks 0 to 3 of throng, and what reads its configuration: see `src/lib.rs`.

#[path = "../../src/limits.rs"]
pub mod limits;
#[path = "../../src/rng.rs"]
pub mod rng;
#[path = "../../src/time.rs"]
pub mod time;

#[path = "../../src/wire/mod.rs"]
pub mod wire;

#[path = "../../src/swarm/mod.rs"]
pub mod swarm;

#[path = "../../src/tracker/mod.rs"]
pub mod tracker;

#[path = "../../src/config/mod.rs"]
pub mod config;
