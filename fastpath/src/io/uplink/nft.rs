//! How does a kernel without ingress hooks for programs drop its copy of the router's packets?
//! By a table of nftables rules, one per interface, replaced as a whole.

use super::Sets;
use crate::io::steer::Take;
use ipnet::IpNet;
use std::fmt::{Display, Write as _};
use std::io::{self, Write};
use std::process::{Command, Stdio};

/// The rules of one interface; removed with this value. (If the process is killed they stay until
/// it starts again, and the node's kernel goes on dropping pool traffic it could not judge.)
#[derive(Debug)]
pub struct NftDrop {
    table: String,
    interface: String,
    take: Take,
}

impl NftDrop {
    /// Puts the rules in force, in the calling thread's network namespace.
    ///
    /// # Errors
    /// There is no `nft`, or what it said.
    pub fn new(interface: &str, take: Take, sets: &Sets) -> io::Result<Self> {
        let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let table = format!("vrouter_{}", interface.chars().map(word).collect::<String>());
        let rules = Self { table, interface: interface.to_owned(), take };
        rules.set(sets)?;
        Ok(rules)
    }

    /// Replaces the rules, in one transaction.
    ///
    /// # Errors
    /// What `nft` said; the old rules stay.
    pub fn set(&self, sets: &Sets) -> io::Result<()> {
        nft(&self.script(sets))
    }

    fn script(&self, sets: &Sets) -> String {
        let Self { table, interface, take } = self;
        let mut script = format!(
            "table netdev {table} {{}}\ndelete table netdev {table}\ntable netdev {table} {{\n"
        );
        let v4 = sets.pools.iter().filter(|net| matches!(net, IpNet::V4(_)));
        let v6 = sets.pools.iter().filter(|net| matches!(net, IpNet::V6(_)));
        set(&mut script, "nodes", "ipv4_addr", sets.nodes.iter());
        set(&mut script, "locals", "ipv4_addr", sets.locals.iter());
        set(&mut script, "pools4", "ipv4_addr; flags interval; auto-merge", v4);
        set(&mut script, "pools6", "ipv6_addr; flags interval; auto-merge", v6);
        let policy = if *take == Take::All { "drop" } else { "accept" };
        let _ = write!(
            script,
            "chain ingress {{\n\
             type filter hook ingress device \"{interface}\" priority -500; policy {policy};\n\
             ip protocol 4 ip saddr @nodes ip daddr @locals drop\n\
             ip daddr @pools4 drop\n\
             ip6 daddr @pools6 drop\n}}\n}}\n"
        );
        script
    }
}

impl Drop for NftDrop {
    fn drop(&mut self) {
        // The table may have gone with its interface.
        let _ = nft(&format!("delete table netdev {}\n", self.table));
    }
}

fn set<T: Display>(script: &mut String, name: &str, kind: &str, elements: impl Iterator<Item = T>) {
    let elements: Vec<String> = elements.map(|e| e.to_string()).collect();
    let _ = write!(script, "set {name} {{ type {kind};");
    if !elements.is_empty() {
        let _ = write!(script, " elements = {{ {} }}", elements.join(", "));
    }
    script.push_str(" }\n");
}

fn nft(script: &str) -> io::Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| {
            io::Error::new(error.kind(), format!("nft (package nftables): {error}"))
        })?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("nft: {}", text.lines().next().unwrap_or("failed"))))
}
