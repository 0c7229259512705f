//! The laboratory and the harness.
