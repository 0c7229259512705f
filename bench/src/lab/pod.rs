//! A pod: what does a container runtime do to get one onto the network? It makes a namespace and
//! runs the CNI plugin; so does this, with the same environment and the same bytes on stdin.

use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{Netns, VrouterNode};

/// The plugin's file name, as `type` in a network configuration names it.
pub const PLUGIN: &str = "vrouter-cni";
/// The interface every pod gets.
pub const INTERFACE: &str = "eth0";
/// The CNI version the lab speaks unless told otherwise.
pub const CNI_VERSION: &str = "1.1.0";

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A container runtime on a node: runs the plugin.
#[derive(Clone, Debug)]
pub struct Runtime {
    node: Netns,
    plugin: PathBuf,
    socket: PathBuf,
}

/// One call of the plugin.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// ADD, DEL, CHECK, GC, STATUS or VERSION.
    pub command: &'a str,
    /// `CNI_CONTAINERID`; empty where the command has none.
    pub container: &'a str,
    /// `CNI_NETNS`; empty where the command has none.
    pub netns: &'a str,
    /// `CNI_ARGS`.
    pub arguments: &'a str,
    /// The network configuration on standard input.
    pub config: Value,
}

/// The plugin's answer: what it printed, and how it ended.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Exit status 0.
    pub success: bool,
    /// Standard output as JSON; null when there was none.
    pub output: Value,
    /// Standard error.
    pub messages: String,
}

impl Runtime {
    /// The runtime of `node`'s machine.
    pub fn new(node: &VrouterNode) -> anyhow::Result<Self> {
        let folder = node.netns().lab_dir().join("cni-bin");
        std::fs::create_dir_all(&folder)?;
        let plugin = folder.join(PLUGIN);
        if !plugin.exists() {
            // Nodes of one lab share the folder: another may have been quicker.
            _ = symlink(node.binary(), &plugin);
        }
        let socket = node.run_dir().join("cni.sock");
        Ok(Self { node: node.netns().clone(), plugin, socket })
    }

    /// The network configuration a runtime reads from its configuration folder.
    pub fn config(&self) -> Value {
        json!({
            "cniVersion": CNI_VERSION,
            "name": "k8s-pod-network",
            "type": PLUGIN,
            "vrouter_socket": self.socket,
            "ipam": {"type": "calico-ipam"},
        })
    }

    /// Runs the plugin.
    pub fn call(&self, call: &Call<'_>) -> anyhow::Result<Answer> {
        let folder = self.plugin.parent().unwrap_or(Path::new("/"));
        let folder = folder.to_string_lossy();
        let mut environment = vec![("CNI_COMMAND", call.command), ("CNI_PATH", &folder)];
        for (key, value) in [
            ("CNI_CONTAINERID", call.container),
            ("CNI_NETNS", call.netns),
            ("CNI_ARGS", call.arguments),
        ] {
            if !value.is_empty() {
                environment.push((key, value));
            }
        }
        if !call.container.is_empty() {
            environment.push(("CNI_IFNAME", INTERFACE));
        }
        let input = call.config.to_string();
        let output = self.node.try_exec_with_input(&[&self.plugin], &environment, &input)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let parsed = if text.trim().is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).with_context(|| format!("the plugin printed: {text}"))?
        };
        Ok(Answer {
            success: output.status.success(),
            output: parsed,
            messages: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// An attached pod. Its namespace goes with the lab; [`Pod::detach`] runs DEL.
#[derive(Clone, Debug)]
pub struct Pod {
    netns: Netns,
    runtime: Runtime,
    container: String,
    arguments: String,
    different: Value,
    result: Value,
    address: IpAddr,
}

impl Pod {
    /// Attaches `netns` as the pod `namespace`/`name` of `node`. Returns when ADD does, that is when
    /// every worker knows the pod.
    pub fn attach(
        node: &VrouterNode,
        netns: &Netns,
        namespace: &str,
        name: &str,
    ) -> anyhow::Result<Self> {
        Self::attach_with(node, netns, (namespace, name), Value::Null)
    }

    /// As [`Pod::attach`], as the pod `(namespace, name)`, with fields of the network configuration
    /// that differ from [`Runtime::config`].
    pub fn attach_with(
        node: &VrouterNode,
        netns: &Netns,
        (namespace, name): (&str, &str),
        different: Value,
    ) -> anyhow::Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let container = format!("{:08x}{number:056x}", std::process::id());
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
             K8S_POD_INFRA_CONTAINER_ID={container}"
        );
        let runtime = Runtime::new(node)?;
        let mut pod = Self {
            netns: netns.clone(),
            runtime,
            container,
            arguments,
            different,
            result: Value::Null,
            address: IpAddr::from([0, 0, 0, 0]),
        };
        pod.result = pod.run("ADD")?;
        pod.address = first_address(&pod.result)
            .with_context(|| format!("no address in the result: {}", pod.result))?;
        Ok(pod)
    }

    /// Runs `command` for this pod; what the plugin printed. Fails with its message when it does.
    pub fn run(&self, command: &str) -> anyhow::Result<Value> {
        let mut config = self.runtime.config();
        if let (Some(fields), Value::Object(different)) = (config.as_object_mut(), &self.different)
        {
            fields.extend(different.clone());
        }
        if command != "ADD" {
            config["prevResult"] = self.result.clone();
        }
        let answer = self.runtime.call(&Call {
            command,
            container: &self.container,
            netns: &self.netns.path().to_string_lossy(),
            arguments: &self.arguments,
            config,
        })?;
        anyhow::ensure!(
            answer.success,
            "CNI {command} of {} failed: {}\n{}",
            self.netns.short(),
            answer.output,
            answer.messages
        );
        Ok(answer.output)
    }

    /// DEL.
    pub fn detach(&self) -> anyhow::Result<()> {
        self.run("DEL").map(|_| ())
    }

    /// Its (first) address.
    pub fn ip(&self) -> IpAddr {
        self.address
    }

    /// Where it lives.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// All its addresses.
    pub fn ips(&self) -> Vec<IpAddr> {
        addresses(&self.result)
    }

    /// `CNI_ARGS`.
    pub fn arguments(&self) -> &str {
        &self.arguments
    }

    /// `CNI_CONTAINERID`.
    pub fn container(&self) -> &str {
        &self.container
    }

    /// What ADD printed.
    pub fn result(&self) -> &Value {
        &self.result
    }
}

/// The first address of a CNI result of version 0.3 or later.
fn first_address(result: &Value) -> Option<IpAddr> {
    addresses(result).first().copied()
}

fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().into_iter().flatten();
    let address = |ip: &Value| ip["address"].as_str()?.split('/').next()?.parse().ok();
    ips.filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::first_address;

    #[test]
    fn the_address_is_read_from_the_result() {
        let result = json!({"cniVersion": "1.1.0", "ips": [{"address": "192.168.0.1/32"}]});
        assert_eq!(first_address(&result), "192.168.0.1".parse().ok());
        assert_eq!(first_address(&json!({"ips": []})), None);
    }
}
