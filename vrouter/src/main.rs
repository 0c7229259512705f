//! vrouter: the node and its commands.
fn main() {}
