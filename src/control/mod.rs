//! One thread's I/O, for operators.
