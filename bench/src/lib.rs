//! What do tests, demos and benchmarks share? The laboratory: real namespaces, links, pods and peers.

pub mod lab;
