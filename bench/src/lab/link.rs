//! How do namespaces get wired to each other?

use super::Netns;

/// One end of a wire: the namespace and the interface's name in it.
pub type End<'a> = (&'a Netns, &'a str);

/// A veth pair between two namespaces, both ends up.
pub fn veth(a: End<'_>, b: End<'_>) -> anyhow::Result<()> {
    let ((left, left_name), (right, right_name)) = (a, b);
    left.ip(&format!(
        "link add {left_name} type veth peer name {right_name} netns {}",
        right.name()
    ))?;
    left.ip(&format!("link set {left_name} up"))?;
    right.ip(&format!("link set {right_name} up"))?;
    Ok(())
}

/// A bridge in `netns` over interfaces that are already there, up.
pub fn bridge(netns: &Netns, name: &str, ports: &[&str]) -> anyhow::Result<()> {
    netns.ip(&format!("link add {name} type bridge"))?;
    for port in ports {
        netns.ip(&format!("link set {port} master {name}"))?;
    }
    netns.ip(&format!("link set {name} up"))?;
    Ok(())
}

/// An interface that leads nowhere, up, with an address: something to announce or to own.
pub fn dummy(netns: &Netns, name: &str, address: &str) -> anyhow::Result<()> {
    // A veth whose far end stays unused: no kernel module beyond those the lab needs anyway.
    netns.ip(&format!("link add {name} type veth peer name {name}-end"))?;
    netns.ip(&format!("link set {name}-end up"))?;
    netns.ip(&format!("link set {name} up"))?;
    addr(netns, name, address)
}

/// Adds an address with its prefix length (`10.1.5.2/24`).
pub fn addr(netns: &Netns, interface: &str, address: &str) -> anyhow::Result<()> {
    netns.ip(&format!("addr add {address} dev {interface}")).map(|_| ())
}

/// Adds a route, as `ip route add` spells it (`default via 10.1.5.1`).
pub fn route(netns: &Netns, route: &str) -> anyhow::Result<()> {
    netns.ip(&format!("route add {route}")).map(|_| ())
}

/// Sets an interface's MTU, bytes.
pub fn mtu(netns: &Netns, interface: &str, bytes: u32) -> anyhow::Result<()> {
    netns.ip(&format!("link set {interface} mtu {bytes}")).map(|_| ())
}

/// Sets an interface's hardware address.
pub fn mac(netns: &Netns, interface: &str, address: &str) -> anyhow::Result<()> {
    netns.ip(&format!("link set {interface} address {address}")).map(|_| ())
}

/// Whether the interface exists.
pub fn exists(netns: &Netns, interface: &str) -> bool {
    netns.ip(&format!("link show dev {interface}")).is_ok()
}
