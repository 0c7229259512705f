//! Does the right source win, and is every wrong value named with what would be right?

use super::*;

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Resolves with a state directory of its own.
fn resolve(args: RunArgs, pairs: &[(&str, &str)]) -> Result<NodeConfig, ConfigErrors> {
    let dir = tempfile::tempdir().unwrap();
    let args = RunArgs {
        lib_dir: args.lib_dir.clone().or_else(|| Some(dir.path().display().to_string())),
        ..args
    };
    NodeConfig::resolve(&args, &environment(pairs), Some("Host-1"))
}

fn with(pairs: &[(&str, &str)]) -> NodeConfig {
    resolve(RunArgs::default(), pairs).unwrap()
}

fn errors(pairs: &[(&str, &str)]) -> Vec<String> {
    resolve(RunArgs::default(), pairs).unwrap_err().0.iter().map(ToString::to_string).collect()
}

#[test]
fn defaults() {
    let config = with(&[]);
    assert_eq!(config.node_name, "host-1");
    assert_eq!(config.ip, AddressSource::Autodetect);
    assert!(matches!(config.autodetection, Method::FirstFound));
    assert_eq!(
        (config.as_number, config.router_id, config.bgp, config.ipip_mtu),
        (None, None, true, None)
    );
    assert_eq!(config.datastore_dir, Path::new("/etc/vrouter/resources"));
    assert_eq!(config.run_dir, Path::new("/run/vrouter"));
    assert_eq!(
        (config.workers, config.pod_port, config.uplink_io),
        (1, PodPort::Tun, UplinkIo::Auto)
    );
    assert_eq!((config.interface_prefix.as_str(), config.log_level), ("cali", LevelFilter::INFO));
    let pool = config.default_pool.unwrap();
    assert_eq!(
        (pool.cidr.to_string().as_str(), pool.ipip_mode),
        ("192.168.0.0/16", EncapMode::Always)
    );
    assert_eq!((pool.nat_outgoing, pool.disable_bgp_export, pool.block_size), (true, false, None));
    assert!(config.uplinks.is_empty() && config.notices.is_empty());
}

#[test]
fn the_variables_of_calicos_node() {
    let config = with(&[
        ("NODENAME", "node-7.example"),
        ("IP", "10.1.5.11/24"),
        ("IP_AUTODETECTION_METHOD", "cidr=10.1.0.0/16,10.2.0.0/16"),
        ("AS", "1.10"),
        ("CALICO_ROUTER_ID", "10.0.0.9"),
        ("CALICO_NETWORKING_BACKEND", "none"),
        ("CALICO_IPV4POOL_CIDR", "10.244.0.0/16"),
        ("CALICO_IPV4POOL_IPIP", "CrossSubnet"),
        ("CALICO_IPV4POOL_BLOCK_SIZE", "24"),
        ("CALICO_IPV4POOL_NAT_OUTGOING", "false"),
        ("CALICO_IPV4POOL_NODE_SELECTOR", "has(zone)"),
        ("CALICO_IPV4POOL_DISABLE_BGP_EXPORT", "true"),
        ("CALICO_IPV4POOL_VXLAN", "Never"),
        ("DATASTORE_TYPE", "file"),
        ("FELIX_IPINIPMTU", "1440"),
        ("FELIX_INTERFACEPREFIX", "pod,cali"),
        ("FELIX_LOGSEVERITYSCREEN", "Debug"),
    ]);
    assert_eq!(config.node_name, "node-7.example");
    assert_eq!(config.ip, AddressSource::Fixed("10.1.5.11/24".parse().unwrap()));
    assert!(matches!(&config.autodetection, Method::Cidr(nets) if nets.len() == 2));
    assert_eq!((config.as_number, config.bgp, config.ipip_mtu), (Some(65_546), false, Some(1440)));
    assert_eq!(config.router_id, Some(Ipv4Addr::new(10, 0, 0, 9)));
    assert_eq!((config.interface_prefix.as_str(), config.log_level), ("pod", LevelFilter::DEBUG));
    let pool = config.default_pool.clone().unwrap();
    assert_eq!(
        (pool.ipip_mode, pool.block_size, pool.nat_outgoing),
        (EncapMode::CrossSubnet, Some(24), false)
    );
    assert_eq!((pool.node_selector.as_deref(), pool.disable_bgp_export), (Some("has(zone)"), true));
    let told = config.effective().to_string();
    assert!(
        told.contains("nodeName=node-7.example (NODENAME)") && told.contains("workers=1,"),
        "{told}"
    );
}

#[test]
fn variants_of_values() {
    assert_eq!(with(&[("IP", "none")]).ip, AddressSource::None);
    assert_eq!(with(&[("IP", "")]).ip, AddressSource::Autodetect);
    assert_eq!(
        with(&[("IP", "10.1.5.11")]).ip,
        AddressSource::Fixed("10.1.5.11/32".parse().unwrap())
    );
    assert_eq!(
        with(&[("CALICO_IPV4POOL_IPIP", "Off")]).default_pool.unwrap().ipip_mode,
        EncapMode::Never
    );
    assert_eq!(with(&[("NO_DEFAULT_POOLS", "true")]).default_pool, None);
    assert_eq!(with(&[("FELIX_IPINIPMTU", "0")]).ipip_mtu, None);
    assert_eq!(with(&[("VROUTER_POD_INTERFACE", "veth")]).pod_port, PodPort::Veth);
    assert_eq!(with(&[("VROUTER_CORES", "2, 3")]).cores, Cores::These(vec![2, 3]));
    assert_eq!(with(&[("VROUTER_UPLINK_IO", "packet")]).uplink_io, UplinkIo::Packet);
    assert_eq!(with(&[("VROUTER_UPLINKS", "eth0, eth1")]).uplinks, ["eth0", "eth1"]);
    let hashed =
        |name: &str| with(&[("NODENAME", name), ("CALICO_ROUTER_ID", "hash")]).router_id.unwrap();
    assert_eq!(hashed("a"), hashed("a"));
    assert_ne!(hashed("a"), hashed("b"));
}

#[test]
fn the_nodes_name_has_fallbacks() {
    let dir = tempfile::tempdir().unwrap();
    let name = |pairs: &[(&str, &str)]| {
        let args =
            RunArgs { lib_dir: Some(dir.path().display().to_string()), ..RunArgs::default() };
        resolve(args, pairs).unwrap().node_name
    };
    assert_eq!(name(&[]), "host-1");
    assert_eq!(name(&[("HOSTNAME", "from-shell")]), "from-shell");
    std::fs::write(dir.path().join("nodename"), "kept\n").unwrap();
    assert_eq!(name(&[("HOSTNAME", "from-shell")]), "kept");
    assert_eq!(name(&[("HOSTNAME", "from-shell"), ("NODENAME", "given")]), "given");
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vrouter.yaml");
    std::fs::write(
        &file,
        "# node\nworkers: 2\nuplinks: [eth0, eth1]\nas: 64513\nnoDefaultPools: true\nrunDir:\n",
    )
    .unwrap();
    let resolved = |flag: Option<&str>, pairs: &[(&str, &str)]| {
        let args = RunArgs {
            config: Some(file.clone()),
            workers: flag.map(str::to_owned),
            ..RunArgs::default()
        };
        resolve(args, pairs).unwrap()
    };
    let config = resolved(None, &[]);
    assert_eq!((config.workers, config.as_number, config.default_pool), (2, Some(64_513), None));
    assert_eq!(config.uplinks, ["eth0", "eth1"]);
    assert_eq!(config.run_dir, Path::new("/run/vrouter"));
    assert_eq!(resolved(None, &[("VROUTER_WORKERS", "3")]).workers, 3);
    assert_eq!(
        resolved(None, &[("VROUTER_WORKERS", "")]).workers,
        2,
        "an empty variable says nothing"
    );
    let config = resolved(Some("4"), &[("VROUTER_WORKERS", "3")]);
    assert_eq!(config.workers, 4);
    let workers = config.settings().iter().find(|setting| setting.field == "workers").unwrap();
    assert_eq!(workers.source, Source::Flag("--workers"));
}

#[test]
fn wrong_values_are_named_with_what_would_be_right() {
    for (name, value, words) in [
        ("NODENAME", "Not A Name", "as Kubernetes calls the node"),
        ("IP", "10.1.5", "autodetect or none"),
        ("IP", "fd00::1", "autodetect or none"),
        ("IP", "127.0.0.1", "other nodes can reach"),
        ("IP_AUTODETECTION_METHOD", "best", "first-found"),
        ("IP_AUTODETECTION_METHOD", "interface=(", "regular expression"),
        ("AS", "0", "1 to 4294967295"),
        ("CALICO_ROUTER_ID", "0.0.0.0", "no BGP identifier"),
        ("CALICO_ROUTER_ID", "one", "or hash"),
        ("CALICO_NETWORKING_BACKEND", "vxlan", "not supported yet"),
        ("CALICO_NETWORKING_BACKEND", "ospf", "write bird"),
        ("DATASTORE_TYPE", "etcdv3", "not supported yet"),
        ("DATASTORE_TYPE", "kubernetes", "not supported yet"),
        ("DATASTORE_TYPE", "sql", "write file"),
        ("CALICO_IPV4POOL_CIDR", "10.244.0.0", "not a prefix"),
        ("CALICO_IPV4POOL_CIDR", "10.244.0.1/16", "write 10.244.0.0/16"),
        ("CALICO_IPV4POOL_CIDR", "10.244.0.0/30", "smaller than one block"),
        ("CALICO_IPV4POOL_CIDR", "fd00::/64", "not IPv4"),
        ("CALICO_IPV4POOL_IPIP", "Sometimes", "CrossSubnet"),
        ("CALICO_IPV4POOL_VXLAN", "Always", "not supported yet"),
        ("CALICO_IPV4POOL_BLOCK_SIZE", "12", "between 20 and 32"),
        ("CALICO_IPV4POOL_NAT_OUTGOING", "maybe", "true or false"),
        ("NO_DEFAULT_POOLS", "maybe", "true or false"),
        ("FELIX_IPINIPMTU", "70000", "between 576"),
        ("FELIX_INTERFACEPREFIX", "calico", "at most 4"),
        ("FELIX_LOGSEVERITYSCREEN", "loud", "Trace, Debug"),
        ("VROUTER_DATASTORE_DIR", "here", "absolute path"),
        ("VROUTER_WORKERS", "0", "between 1 and 256"),
        ("VROUTER_UPLINK_IO", "dpdk", "xdp-generic"),
        ("VROUTER_UPLINKS", "eth0,an interface", "no interface's name"),
        ("VROUTER_POD_INTERFACE", "tap", "tun or veth"),
        ("VROUTER_CORES", "2,x", "core numbers"),
    ] {
        let errors = errors(&[(name, value)]);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(
            errors[0].starts_with(&format!("{name}: {value:?}: ")) && errors[0].contains(words),
            "{}",
            errors[0]
        );
    }
    assert_eq!(
        errors(&[("AS", "x"), ("VROUTER_WORKERS", "x"), ("IP", "x")]).len(),
        3,
        "all at once"
    );
    let flag = resolve(RunArgs { workers: Some("many".to_owned()), ..RunArgs::default() }, &[])
        .unwrap_err();
    assert!(flag.to_string().starts_with("--workers: \"many\": "), "{flag}");
}

#[test]
fn wrong_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vrouter.yaml");
    let error = |text: &str| {
        std::fs::write(&file, text).unwrap();
        resolve(RunArgs { config: Some(file.clone()), ..RunArgs::default() }, &[])
            .unwrap_err()
            .to_string()
    };
    assert!(error("workers: none").contains("vrouter.yaml: workers: \"none\": write a number"));
    assert!(
        error("wrokers: 2")
            .contains("vrouter.yaml: wrokers: \"2\": unknown field; known are nodeName,")
    );
    assert!(error("[").contains("vrouter.yaml: not YAML"));
    assert!(error("just text").contains("nodeName: node-1"));
    assert!(error("workers: {a: 1}").contains("workers: must be a text"));
    std::fs::remove_file(&file).unwrap();
    let missing =
        resolve(RunArgs { config: Some(file.clone()), ..RunArgs::default() }, &[]).unwrap_err();
    assert!(missing.to_string().contains("cannot be read"), "{missing}");
}

#[test]
fn what_has_no_effect_is_told() {
    let config = with(&[
        ("FELIX_WIREGUARDENABLED", "true"),
        ("FELIX_IPV6SUPPORT", "false"),
        ("IP6", "autodetect"),
        ("VROUTER_WROKERS", "2"),
        ("PATH", "/bin"),
    ]);
    let told = config.notices.join("\n");
    assert_eq!(config.notices.len(), 3, "{told}");
    assert!(
        told.contains("FELIX_WIREGUARDENABLED=true has no effect")
            && told.contains("VROUTER_WROKERS"),
        "{told}"
    );
}

#[test]
fn the_flags_parse() {
    use clap::Parser;
    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        run: RunArgs,
    }
    let line = [
        "vrouter",
        "--node-name",
        "a",
        "--as",
        "64512",
        "--ip-autodetection-method",
        "interface=eth.*",
        "--workers=2",
    ];
    let args = Command::try_parse_from(line).unwrap().run;
    let config = resolve(args, &[]).unwrap();
    assert_eq!(
        (config.node_name.as_str(), config.as_number, config.workers),
        ("a", Some(64_512), 2)
    );
}

#[test]
fn directories_may_stand_before_or_behind_the_command() {
    use clap::Parser;
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        directories: Directories,
        #[command(subcommand)]
        command: Command,
    }
    #[derive(clap::Subcommand)]
    enum Command {
        Run(Box<RunArgs>),
        Other,
    }
    for line in [["vrouter", "--run-dir", "/a", "run"], ["vrouter", "run", "--run-dir", "/a"]] {
        let Command::Run(args) = Line::try_parse_from(line).unwrap().command else {
            unreachable!()
        };
        assert_eq!(resolve(*args, &[]).unwrap().run_dir, Path::new("/a"));
    }
    let other = Line::try_parse_from(["vrouter", "other", "--datastore-dir", "/b"]).unwrap();
    assert!(matches!(other.command, Command::Other));
    assert_eq!(other.directories.datastore_dir(), Path::new("/b"));
    assert_eq!(other.directories.run_dir(), Path::new("/run/vrouter"));
}
