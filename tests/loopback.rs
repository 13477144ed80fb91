//! The whole program over real sockets: what only a kernel can show.
//!
//! Each test starts the binary as a child of its own on loopback. Where the machine denies io_uring
//! or has no IPv6 loopback the tests say so and pass.

mod process;

#[path = "loopback/admin.rs"]
mod admin;
#[path = "loopback/client.rs"]
mod client;
#[path = "loopback/hostile.rs"]
mod hostile;
#[path = "loopback/http.rs"]
mod http;
#[path = "loopback/latency.rs"]
mod latency;
#[path = "loopback/limits.rs"]
mod limits;
#[path = "loopback/load.rs"]
mod load;
#[path = "loopback/operation.rs"]
mod operation;
#[path = "loopback/operators.rs"]
mod operators;
#[path = "loopback/proxy.rs"]
mod proxy;
#[path = "loopback/swarms.rs"]
mod swarms;
#[path = "loopback/websocket.rs"]
mod websocket;
