//! Which is the longest prefix that covers an address? Values are `u32`, 0 means none.

#[cfg(test)]
mod tests;
mod trie;
pub mod v4;
pub mod v6;
