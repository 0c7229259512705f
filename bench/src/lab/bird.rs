//! A real BGP speaker in a namespace: what does BIRD see?

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::wait::wait_until;
use super::{Netns, Process};

const PATIENCE: Duration = Duration::from_secs(10);

/// A running BIRD 2. Stopped when dropped.
#[derive(Debug)]
pub struct Bird {
    netns: Netns,
    process: Process,
    socket: PathBuf,
}

impl Bird {
    /// Starts BIRD in `netns` with `config` (bird.conf syntax) and waits until it answers.
    pub fn start(netns: &Netns, config: &str) -> anyhow::Result<Self> {
        let file = netns.lab_dir().join(format!("{}.bird.conf", netns.short()));
        let socket = netns.lab_dir().join(format!("{}.bird.ctl", netns.short()));
        fs::write(&file, config)?;
        _ = fs::remove_file(&socket);
        let mut command = netns.command("bird");
        command.arg("-f").arg("-c").arg(&file).arg("-s").arg(&socket);
        let process = netns.start(command, "bird")?;
        let mut bird = Self { netns: netns.clone(), process, socket };
        let mut ended = false;
        let ready = wait_until(PATIENCE, "BIRD to answer", || {
            ended = !bird.process.is_running();
            ended || bird.birdc("show status").is_ok()
        });
        anyhow::ensure!(!ended && ready.is_ok(), "BIRD did not start:\n{}", bird.process.log());
        Ok(bird)
    }

    /// What `birdc <words>` prints.
    pub fn birdc(&self, words: &str) -> anyhow::Result<String> {
        let socket = self.socket.to_string_lossy();
        let mut line = vec!["birdc", "-s", &socket];
        line.extend(words.split_whitespace());
        let output = self.netns.exec(&line)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Whether the BGP session `protocol` is established.
    pub fn is_established(&self, protocol: &str) -> bool {
        self.birdc(&format!("show protocols {protocol}"))
            .is_ok_and(|text| text.contains("Established"))
    }

    /// The prefixes in its main IPv4 table, as `show route` names them (`192.168.1.0/26`).
    pub fn prefixes(&self) -> anyhow::Result<Vec<String>> {
        let text = self.birdc("show route")?;
        Ok(prefixes_in(&text))
    }

    /// Everything it knows of `prefix`: path, next hop, attributes.
    pub fn route(&self, prefix: &str) -> anyhow::Result<String> {
        self.birdc(&format!("show route for {prefix} all"))
    }

    /// Loads another configuration into the running process.
    pub fn configure(&self, config: &str) -> anyhow::Result<String> {
        let file = self.netns.lab_dir().join(format!("{}.bird.conf", self.netns.short()));
        fs::write(&file, config)?;
        self.birdc("configure")
    }

    /// The process, to signal or watch it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn prefixes_in(text: &str) -> Vec<String> {
    // A second route to the same prefix has an empty first column.
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    text.lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_hexdigit()))
        .filter_map(first)
        .filter(|word| word.contains('/'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::prefixes_in;

    #[test]
    fn prefixes_are_the_first_column() {
        let text = "BIRD 2.0.12 ready.\nTable master4:\n\
            192.168.7.64/26      unicast [n1 05:00:00.000] * (100) [AS64512i]\n\
            \tvia 10.1.5.11 on eth0\n\
            \u{20}                    unicast [n2 05:00:01.000] (100) [AS64512i]\n\
            203.0.113.0/24       unicast [static1 05:00:00.000] * (200)\n";
        assert_eq!(prefixes_in(text), ["192.168.7.64/26", "203.0.113.0/24"]);
    }
}
