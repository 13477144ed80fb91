//! Who is in which swarm.
