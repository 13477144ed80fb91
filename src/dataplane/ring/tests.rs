//! Ring tests (being written).
