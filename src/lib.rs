//! throng: a BitTorrent tracker engine.

pub mod limits;
pub mod rng;
pub mod time;

pub mod wire;

pub mod swarm;

pub mod tracker;

pub mod control;
pub mod dataplane;

pub mod check;
pub mod config;
pub mod runtime;
