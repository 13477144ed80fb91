//! The tracker through its door (being written).
