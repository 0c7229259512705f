//! Does the host's packet filter let the router's packets through its FORWARD path?
//!
//! Where that chain's policy is DROP (container runtimes set it) what the kernel forwards for pods
//! would be lost. An accept in a table of our own cannot undo another chain's drop, so the rules
//! must stand in the very chain.

use std::io;
use std::process::{Command, Output};

use serde_json::Value;

/// Why the packet filter could not be asked or told.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// A program could not be started.
    #[error("{program}: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A program failed.
    #[error("{command}: {message}")]
    Failed {
        /// The whole command line.
        command: String,
        /// What it printed.
        message: String,
    },
}

/// Marks our rules, so that they are recognised and removed.
const COMMENT: &str = "vrouter";
/// Tables that exist only once the legacy iptables has been used: asking it creates them.
const LEGACY_TABLES: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];

/// Puts accept rules for `devices` into every FORWARD chain whose policy is DROP, once; says in
/// words what it did. Nothing is touched where the policy is ACCEPT.
pub(super) fn accept(devices: &[&str]) -> Result<Vec<String>, ForwardError> {
    let mut done = Vec::new();
    for tool in iptables() {
        // A tool whose half of the kernel is not there cannot list, and filters nothing either.
        let Ok(listed) = run(&tool, &["-w", "5", "-S", "FORWARD"]) else { continue };
        if !listed.lines().any(|line| line.trim() == "-P FORWARD DROP") {
            continue;
        }
        for rule in iptables_rules(devices) {
            if !succeeds(&tool, &iptables_arguments(&["-C", "FORWARD"], &rule))? {
                run(&tool, &iptables_arguments(&["-I", "FORWARD", "1"], &rule))?;
                done.push(format!(
                    "{tool}: FORWARD accepts {}, its policy is DROP",
                    rule.join(" ")
                ));
            }
        }
    }
    for chain in nft_chains()? {
        done.extend(chain.accept(devices)?);
    }
    Ok(done)
}

/// Takes the accept rules away again.
pub(super) fn withdraw(devices: &[&str]) -> Result<(), ForwardError> {
    for tool in iptables() {
        for rule in iptables_rules(devices) {
            while succeeds(&tool, &iptables_arguments(&["-D", "FORWARD"], &rule))? {}
        }
    }
    for chain in nft_chains()? {
        for handle in chain.our_rules()? {
            let handle = handle.to_string();
            let [family, table, name] = chain.place();
            run("nft", &["delete", "rule", family, table, name, "handle", &handle])?;
        }
    }
    Ok(())
}

/// The iptables programs to ask: both variants where both are there, since both filter.
fn iptables() -> Vec<String> {
    let mut tools = Vec::new();
    for (base, legacy_tables) in ["iptables", "ip6tables"].into_iter().zip(LEGACY_TABLES) {
        let (nft, legacy) = (format!("{base}-nft"), format!("{base}-legacy"));
        if exists(&nft) {
            tools.push(nft);
            let used = std::fs::read_to_string(legacy_tables).is_ok_and(|t| t.contains("filter"));
            if used && exists(&legacy) {
                tools.push(legacy);
            }
        } else if exists(base) {
            tools.push(base.into());
        }
    }
    tools
}

fn iptables_rules<'a>(devices: &[&'a str]) -> Vec<[&'a str; 2]> {
    devices.iter().flat_map(|device| [["-i", *device], ["-o", *device]]).collect()
}

fn iptables_arguments<'a>(action: &[&'a str], rule: &[&'a str; 2]) -> Vec<&'a str> {
    let mut arguments = vec!["-w", "5"];
    arguments.extend(action);
    arguments.extend(rule);
    arguments.extend(["-m", "comment", "--comment", COMMENT, "-j", "ACCEPT"]);
    arguments
}

/// A base chain of nftables that iptables does not manage.
struct NftChain {
    family: String,
    table: String,
    name: String,
}

impl NftChain {
    fn place(&self) -> [&str; 3] {
        [&self.family, &self.table, &self.name]
    }

    fn accept(&self, devices: &[&str]) -> Result<Option<String>, ForwardError> {
        if !self.our_rules()?.is_empty() {
            return Ok(None);
        }
        let [family, table, name] = self.place();
        let set = format!("{{ {} }}", devices.join(", "));
        for direction in ["iifname", "oifname"] {
            let quoted = format!("\"{COMMENT}\"");
            run(
                "nft",
                &[
                    "insert", "rule", family, table, name, direction, &set, "accept", "comment",
                    &quoted,
                ],
            )?;
        }
        Ok(Some(format!(
            "nft: {family} {table} {name} accepts {}, its policy is drop",
            devices.join(", ")
        )))
    }

    /// The handles of our rules in it.
    fn our_rules(&self) -> Result<Vec<u64>, ForwardError> {
        let [family, table, name] = self.place();
        let objects = nft_json(&["list", "chain", family, table, name])?;
        let rules = objects.iter().filter_map(|object| object.get("rule"));
        Ok(rules
            .filter(|rule| rule.get("comment").and_then(Value::as_str) == Some(COMMENT))
            .filter_map(|rule| rule.get("handle")?.as_u64())
            .collect())
    }
}

/// The forward chains with policy drop that are not iptables' own.
fn nft_chains() -> Result<Vec<NftChain>, ForwardError> {
    if !exists("nft") {
        return Ok(Vec::new());
    }
    let text = |chain: &Value, key: &str| chain.get(key)?.as_str().map(str::to_owned);
    let objects = nft_json(&["list", "chains"])?;
    Ok(objects
        .iter()
        .filter_map(|object| object.get("chain"))
        .filter(|chain| {
            text(chain, "hook").as_deref() == Some("forward")
                && text(chain, "policy").as_deref() == Some("drop")
                && text(chain, "name").as_deref() != Some("FORWARD")
        })
        .filter_map(|chain| {
            Some(NftChain {
                family: text(chain, "family")?,
                table: text(chain, "table")?,
                name: text(chain, "name")?,
            })
        })
        .collect())
}

fn nft_json(arguments: &[&str]) -> Result<Vec<Value>, ForwardError> {
    let all: Vec<_> = ["-j"].iter().chain(arguments).copied().collect();
    let printed = run("nft", &all)?;
    let parsed: Value = serde_json::from_str(&printed).map_err(|error| ForwardError::Failed {
        command: format!("nft {}", all.join(" ")),
        message: format!("it printed no JSON: {error}"),
    })?;
    Ok(parsed.get("nftables").and_then(Value::as_array).cloned().unwrap_or_default())
}

fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn succeeds(program: &str, arguments: &[&str]) -> Result<bool, ForwardError> {
    output(program, arguments).map(|output| output.status.success())
}

fn run(program: &str, arguments: &[&str]) -> Result<String, ForwardError> {
    let output = output(program, arguments)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(ForwardError::Failed {
        command: format!("{program} {}", arguments.join(" ")),
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

fn output(program: &str, arguments: &[&str]) -> Result<Output, ForwardError> {
    Command::new(program)
        .args(arguments)
        .output()
        .map_err(|source| ForwardError::Start { program: program.into(), source })
}
