//! Benchmarks of Flyover.
