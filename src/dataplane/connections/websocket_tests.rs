//! Frames of well and badly behaved clients, whole and cut anywhere.
