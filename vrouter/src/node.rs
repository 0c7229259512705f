//! How does a node start? In the order that keeps what was there: descriptors, tables, then news.

use crate::api::node::NodeBgp;
use crate::api::{self, IpPool, IpPoolSpec};
use crate::cni::handler::NodeHandler;
use crate::cni::server::CniServer;
use crate::config::{AddressSource, Cores, NodeConfig};
use crate::control::event::Event;
use crate::control::keeper::Keeper;
use crate::control::workloads::Records;
use crate::control::{Control, Parts};
use crate::ctl::socket;
use crate::datastore::{self, Datastore, FileStore, WatchEvent};
use crate::host::autodetect::{self, Lookups};
use crate::host::monitor::Monitor;
use crate::host::netlink::{Family, Netlink};
use crate::host::netns::NetNs;
use crate::host::state::KernelState;
use crate::ipam::Ipam;
use anyhow::Context;
use crossbeam::channel::{Sender, unbounded};
use fastpath::router::{Router, RouterConfig};
use fastpath::tables::Tables;
use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use slowpath::bgp::{self, SpeakerConfig};
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How often it is looked after what tells nobody when it ends.
const CARE: Duration = Duration::from_secs(2);

/// Runs the node until it is told to stop.
pub fn run(config: NodeConfig) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let name = config.node_name.clone();
    fs::create_dir_all(&config.run_dir)
        .with_context(|| format!("make the run directory {}", config.run_dir.display()))?;
    fs::create_dir_all(&config.lib_dir)
        .with_context(|| format!("make the state directory {}", config.lib_dir.display()))?;
    let _only_one = lock(&config.run_dir)?;
    tracing::info!(node = %name, "starting: {}", config.effective());

    for notice in &config.notices {
        tracing::warn!("{notice}");
    }

    let (sender, receiver) = unbounded();
    stop_on_signals(&sender)?;
    // Subscribe first, then read: nothing in between is missed.
    let monitor = Monitor::open()?;
    let mut netlink = Netlink::open()?;
    let kernel = KernelState::dump(&mut netlink)?;
    follow_kernel(monitor, &sender)?;

    let store: Arc<dyn Datastore> = Arc::new(FileStore::open(&config.datastore_dir)?);
    let address = node_address(&config, &kernel, &mut netlink)?;
    register(&*store, &name, address, &config)?;
    default_pool(&*store, &config)?;
    let watch = follow_datastore(&*store, &sender)?;

    let exe = std::env::current_exe().context("find this program for the holder")?;
    let keeper = Arc::new(Keeper::open(config.run_dir.join("hold.sock"), exe)?);
    let router = start_router(&config, &sender)?;
    // Descriptors kept by the holder mean that forwarding goes on as before.
    let restarting = keeper.names().iter().any(|name| name.starts_with("tun:"));
    let speaker = if config.bgp {
        let router_id = address.map_or(Ipv4Addr::UNSPECIFIED, |net| match net.addr() {
            IpAddr::V4(a) => a,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        });
        let mut first = SpeakerConfig::new(64_512, router_id);
        first.restarting = restarting;
        let sender = sender.clone();
        Some(bgp::spawn(first, move |event| {
            let _ = sender.send(Event::Bgp(event));
        })?)
    } else {
        None
    };
    let v4 = address.and_then(|net| match net.addr() {
        IpAddr::V4(a) => Some(a),
        IpAddr::V6(_) => None,
    });
    let parts = Parts {
        config: Arc::clone(&config),
        node: name.clone(),
        store: Arc::clone(&store),
        router,
        netlink,
        kernel,
        keeper: Arc::clone(&keeper),
        node_address: v4,
        speaker,
        restarting,
        events: (sender.clone(), receiver),
    };
    let mut control = Control::new(parts, Instant::now());
    let records = Records::open(&config.run_dir)?;
    control.take_over(&records)?;
    let cni = serve(&config, &store, &keeper, records, &sender)?;
    look_after(keeper, Records::open(&config.run_dir)?, sender)?;
    let outcome = control.run();
    drop((cni, watch));
    outcome
}

/// Looks, every now and then, after what tells nobody when it ends: the holder, and the namespaces
/// of pods that nobody detached.
fn look_after(keeper: Arc<Keeper>, records: Records, sender: Sender<Event>) -> anyhow::Result<()> {
    thread::Builder::new().name("caretaker".into()).spawn(move || {
        loop {
            thread::sleep(CARE);
            keeper.look_after();
            for record in records.all().unwrap_or_default() {
                let gone = NetNs::open(&record.netns).is_err_and(|error| error.is_gone());
                if gone && sender.send(Event::NetnsGone(Box::new(record))).is_err() {
                    return;
                }
            }
        }
    })?;
    Ok(())
}

/// One router per run directory.
fn lock(run_dir: &Path) -> anyhow::Result<Flock<File>> {
    let path = run_dir.join("lock");
    let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
        anyhow::anyhow!(
            "{}: another `vrouter run` has this run directory ({error})",
            path.display()
        )
    })
}

fn stop_on_signals(sender: &Sender<Event>) -> anyhow::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let sender = sender.clone();
    thread::Builder::new().name("signals".into()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            tracing::info!(signal, "told to stop");
            let _ = sender.send(Event::Stop);
        }
    })?;
    Ok(())
}

fn follow_kernel(mut monitor: Monitor, sender: &Sender<Event>) -> anyhow::Result<()> {
    let sender = sender.clone();
    let mut readiness = mio::Poll::new()?;
    let descriptor = monitor.as_raw_fd();
    let mut source = mio::unix::SourceFd(&descriptor);
    readiness.registry().register(&mut source, mio::Token(0), mio::Interest::READABLE)?;
    thread::Builder::new().name("netlink".into()).spawn(move || {
        let mut ready = mio::Events::with_capacity(1);
        loop {
            if let Err(error) = readiness.poll(&mut ready, None)
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "the kernel's changes can't be waited for");
                return;
            }
            // Readiness is told once: read until there is nothing more.
            loop {
                match monitor.read() {
                    Ok(events) if events.is_empty() => break,
                    Ok(events) => {
                        if sender.send(Event::Kernel(events)).is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "the kernel's changes can't be read");
                        break;
                    }
                }
            }
        }
    })?;
    Ok(())
}

fn follow_datastore(
    store: &dyn Datastore,
    sender: &Sender<Event>,
) -> anyhow::Result<datastore::WatchHandle> {
    let sender = sender.clone();
    let sink = move |event: WatchEvent| {
        let _ = sender.send(Event::Datastore(event));
    };
    Ok(store.watch(Box::new(sink))?)
}

fn start_router(config: &NodeConfig, sender: &Sender<Event>) -> anyhow::Result<Router> {
    let wake = sender.clone();
    let settings = RouterConfig {
        workers: config.workers,
        cores: cores(config)?,
        wake: Arc::new(move || {
            // A full channel means that the loop is awake and will look at the ring anyway.
            let _ = wake.try_send(Event::Punts);
        }),
        ..RouterConfig::default()
    };
    Router::start(settings, Tables::default()).context("start the workers")
}

/// The cores the workers are pinned to; never all that this process may use.
fn cores(config: &NodeConfig) -> anyhow::Result<Option<Vec<usize>>> {
    Ok(match &config.cores {
        Cores::Unpinned => None,
        Cores::These(list) => {
            anyhow::ensure!(
                list.len() >= config.workers,
                "cores names {} cores for {} workers: name one for each",
                list.len(),
                config.workers
            );
            Some(list.clone())
        }
        Cores::Auto => {
            let allowed =
                sched_getaffinity(Pid::from_raw(0)).context("ask for the allowed cores")?;
            let allowed: Vec<_> = (0..CpuSet::count())
                .filter(|core| allowed.is_set(*core).unwrap_or(false))
                .collect();
            let first = allowed.len().checked_sub(config.workers).filter(|first| *first > 0);
            first.map(|first| allowed[first..].to_vec())
        }
    })
}

/// The node's address: given, or found in the kernel's tables.
fn node_address(
    config: &NodeConfig,
    kernel: &KernelState,
    netlink: &mut Netlink,
) -> anyhow::Result<Option<IpNet>> {
    match &config.ip {
        AddressSource::None => Ok(None),
        AddressSource::Fixed(net) => Ok(Some(with_subnet(*net, kernel))),
        AddressSource::Autodetect => {
            let resolve = |name: &str| {
                (name, 0).to_socket_addrs().map(|all| all.map(|a| a.ip()).collect::<Vec<_>>())
            };
            let netlink = std::cell::RefCell::new(netlink);
            let source = |to: IpAddr| netlink.borrow_mut().lookup_route(to).ok()??.source;
            let lookups = Lookups { resolve: &resolve, source: &source, internal_ip: None };
            let found = autodetect::detect(&config.autodetection, Family::V4, kernel, &lookups)?;
            tracing::info!(address = %found.net, interface = %found.interface, "{}", found.reason);
            Ok(Some(found.net))
        }
    }
}

/// An address given without its subnet takes the one it has on its interface.
fn with_subnet(net: IpNet, kernel: &KernelState) -> IpNet {
    if net.prefix_len() < net.max_prefix_len() {
        return net;
    }
    kernel.addresses.iter().map(|a| a.net).find(|n| n.addr() == net.addr()).unwrap_or(net)
}

/// Writes what this node is into its Node object, and leaves the rest of it alone.
fn register(
    store: &dyn Datastore,
    name: &str,
    address: Option<IpNet>,
    config: &NodeConfig,
) -> anyhow::Result<()> {
    change_node(store, name, |node| {
        let bgp = node.spec.bgp.get_or_insert_with(NodeBgp::default);
        match address {
            Some(net @ IpNet::V4(_)) => bgp.ipv4_address = Some(net.into()),
            Some(net @ IpNet::V6(_)) => bgp.ipv6_address = Some(net.into()),
            None => {}
        }
        if let Some(number) = config.as_number {
            bgp.as_number = Some(api::scalar::AsNumber(number));
        }
    })
}

/// Changes a Node object, making it if need be; tries again when somebody else was faster.
fn change_node(
    store: &dyn Datastore,
    name: &str,
    change: impl Fn(&mut api::Node),
) -> anyhow::Result<()> {
    loop {
        let outcome = if let Some(mut node) = datastore::find::<api::Node>(store, name)? {
            let before = node.clone();
            change(&mut node);
            if node == before {
                return Ok(());
            }
            store.update(node.into())
        } else {
            let mut node = api::Node::named(name, api::NodeSpec::default());
            change(&mut node);
            store.create(node.into())
        };
        match outcome {
            Ok(_) => return Ok(()),
            Err(error) if error.is_race() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The first node of a cluster makes the default pool, once.
fn default_pool(store: &dyn Datastore, config: &NodeConfig) -> anyhow::Result<()> {
    let Some(wanted) = &config.default_pool else { return Ok(()) };
    if !datastore::list::<IpPool>(store)?.is_empty() {
        return Ok(());
    }
    let mut spec = IpPoolSpec::new(wanted.cidr);
    spec.ipip_mode = wanted.ipip_mode;
    spec.block_size = wanted.block_size.or(spec.block_size);
    spec.nat_outgoing = wanted.nat_outgoing;
    spec.disable_bgp_export = wanted.disable_bgp_export;
    if let Some(selector) = &wanted.node_selector {
        spec.node_selector.clone_from(selector);
    }
    match store.create(IpPool::named("default-ipv4-ippool", spec).into()) {
        Ok(_) => tracing::info!(cidr = %wanted.cidr, "made the default pool"),
        Err(error) if error.is_race() => {}
        Err(error) => return Err(error).context("make the default pool"),
    }
    Ok(())
}

/// Allocates the node's tunnel address, once, and writes it to its Node object; `None` where no
/// pool has one to give.
pub(crate) fn tunnel_address(store: &dyn Datastore, me: &str) -> anyhow::Result<Option<Ipv4Addr>> {
    let ipam = Ipam::new(store, me).with_selector(&crate::selects);
    let Some(address) = ipam.ensure_tunnel_address()? else { return Ok(None) };
    change_node(store, me, |node| {
        node.spec.bgp.get_or_insert_with(NodeBgp::default).ipv4_ipip_tunnel_addr = Some(address);
    })?;
    Ok(Some(address))
}

/// Opens the sockets of operators and of the CNI plugin.
fn serve(
    config: &Arc<NodeConfig>,
    store: &Arc<dyn Datastore>,
    keeper: &Arc<Keeper>,
    records: Records,
    sender: &Sender<Event>,
) -> anyhow::Result<CniServer> {
    let events = sender.clone();
    socket::serve(&config.run_dir.join("vrouter.sock"), move |request, reply| {
        events.send(Event::Operator(request, reply)).is_ok()
    })
    .context("open the operator socket")?;
    let handler = NodeHandler::new(
        Arc::clone(config),
        Arc::clone(store),
        Arc::clone(keeper),
        records,
        sender.clone(),
    );
    CniServer::start(&config.run_dir.join("cni.sock"), Arc::new(handler))
        .context("open the CNI socket")
}
