//! What does the node do for a container runtime? Address, device, endpoint, and a wait until
//! every worker runs the tables that hold the pod and its policy.

use super::config::{Attachment, PodArgs};
use super::request::{AddRequest, CheckRequest, DelRequest, GcRequest};
use super::result::{AddResult, CniError, ErrorCode, Interface, IpConfig, RouteConfig};
use super::server::CniHandler;
use crate::api::{self, Key, Kind, Resource, WorkloadEndpoint, WorkloadEndpointSpec};
use crate::config::{NodeConfig, PodPort};
use crate::control::event::Event;
use crate::control::keeper::Keeper;
use crate::control::workloads::{Attach, Detach, Record, Records};
use crate::datastore::{self, Datastore};
use crate::host::netlink::{MacAddress, Netlink};
use crate::host::netns::NetNs;
use crate::host::pod::{self, PodInterface};
use crate::ipam::{AssignRequest, Family, Ipam};
use crossbeam::channel::{Sender, bounded};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long a pod may take to be live everywhere before its ADD fails.
const PATIENCE: Duration = Duration::from_secs(20);
/// The namespace of containers that no orchestrator named.
const DEFAULT_NAMESPACE: &str = "default";
/// Pod annotations that choose addresses (Calico's names).
const POOLS_ANNOTATION: &str = "cni.projectcalico.org/ipv4pools";
const ADDRESSES_ANNOTATION: &str = "cni.projectcalico.org/ipAddrs";
/// A pod annotation that wants an Ethernet port (Calico's name).
const MAC_ANNOTATION: &str = "cni.projectcalico.org/hwAddr";

/// Serves the plugin on one node.
pub struct NodeHandler {
    config: Arc<NodeConfig>,
    store: Arc<dyn Datastore>,
    keeper: Arc<Keeper>,
    records: Records,
    events: Sender<Event>,
}

/// Which pod a request is about.
struct Subject {
    namespace: String,
    pod: String,
    port: String,
    endpoint: Key,
    handle: String,
}

impl NodeHandler {
    /// A handler that works on this node's state.
    pub fn new(
        config: Arc<NodeConfig>,
        store: Arc<dyn Datastore>,
        keeper: Arc<Keeper>,
        records: Records,
        events: Sender<Event>,
    ) -> Self {
        Self { config, store, keeper, records, events }
    }

    fn subject(&self, network: &str, attachment: &Attachment, args: &PodArgs) -> Subject {
        let namespace = args.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        let pod = args.pod.clone().unwrap_or_else(|| attachment.container_id.clone());
        let port = if attachment.ifname == "eth0" {
            pod::interface_name(&namespace, &pod, &self.config.interface_prefix)
        } else {
            // A pod's further interfaces need names of their own.
            let pod = format!("{pod}.{}", attachment.ifname);
            pod::interface_name(&namespace, &pod, &self.config.interface_prefix)
        };
        let name = api::endpoint::endpoint_name(&self.config.node_name, &pod, &attachment.ifname);
        let endpoint = Key::namespaced(Kind::WorkloadEndpoint, namespace.clone(), name);
        let handle = format!("{network}.{}", attachment.container_id);
        Subject { namespace, pod, port, endpoint, handle }
    }

    fn ipam(&self) -> Ipam<'_> {
        Ipam::new(&*self.store, &self.config.node_name).with_selector(&crate::selects)
    }

    /// Assigns the pod's addresses, one of each family that is asked for.
    fn assign(
        &self,
        subject: &Subject,
        request: &AddRequest,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Vec<IpAddr>, CniError> {
        let mut families = Vec::new();
        if request.config.assigns_ipv4() {
            families.push((Family::V4, request.config.ipam.ipv4_pools.clone()));
        }
        if request.config.assigns_ipv6() {
            families.push((Family::V6, request.config.ipam.ipv6_pools.clone()));
        }
        let fixed = fixed_addresses(annotations)?;
        let namespace = Key::new(Kind::Namespace, subject.namespace.clone());
        let namespace_labels = self
            .store
            .get(&namespace)
            .map(|found| found.metadata().labels.clone())
            .unwrap_or_default();
        let mut addresses = Vec::new();
        for (family, configured) in families {
            let mut wanted = AssignRequest::workload(
                subject.handle.clone(),
                family,
                &subject.namespace,
                &subject.pod,
            );
            wanted.namespace_labels.clone_from(&namespace_labels);
            wanted.pools = match annotations.get(POOLS_ANNOTATION) {
                Some(list) if family == Family::V4 => string_list(POOLS_ANNOTATION, list)?,
                _ => configured.unwrap_or_default(),
            };
            wanted.fixed = fixed.iter().copied().find(|a| Family::of(*a) == family);
            let got = self.ipam().assign(&wanted).map_err(|error| {
                CniError::new(ErrorCode::TryAgain, "no address for the pod").with_details(error)
            })?;
            addresses.push(got.address);
        }
        if addresses.is_empty() {
            return Err(CniError::new(
                ErrorCode::InvalidNetworkConfig,
                "ipam.assign_ipv4 and ipam.assign_ipv6 are both false: the pod would get no address",
            ));
        }
        Ok(addresses)
    }

    fn mtu(&self, request: &AddRequest) -> u16 {
        let configured = request.config.mtu.filter(|mtu| *mtu != 0).or(self.config.ipip_mtu);
        let mtu = configured.or_else(|| {
            // The doors have what the uplink takes, less the tunnel's header.
            let door = crate::host::links::FORWARD_PORT;
            let mut netlink = Netlink::open().ok()?;
            Some(netlink.link(door).ok()??.mtu)
        });
        mtu.unwrap_or(1480).min(u32::from(u16::MAX)) as u16
    }

    fn attach(
        &self,
        subject: &Subject,
        request: &AddRequest,
        pod: Option<&api::Pod>,
    ) -> Result<Record, CniError> {
        let none = BTreeMap::new();
        let annotations = pod.map_or(&none, |p| &p.metadata.annotations);
        let namespace = NetNs::open(&request.netns).map_err(|error| {
            CniError::new(ErrorCode::InvalidEnvironment, "CNI_NETNS can't be opened")
                .with_details(error)
        })?;
        let addresses = self.assign(subject, request, annotations)?;
        let kind = if annotations.contains_key(MAC_ANNOTATION) {
            PodPort::Veth
        } else {
            self.config.pod_port
        };
        let mut record = Record {
            namespace: subject.namespace.clone(),
            endpoint: subject.endpoint.name.clone(),
            pod: subject.pod.clone(),
            container_id: request.attachment.container_id.clone(),
            netns: request.netns.clone(),
            interface: request.attachment.ifname.clone(),
            port: subject.port.clone(),
            kind,
            addresses,
            mtu: self.mtu(request),
            mac: [0; 6],
            host_link: None,
            ip_forwarding: request.config.container_settings.allow_ip_forwarding,
        };
        let mut interface = pod_interface(&record);
        interface.mac = match annotations.get(MAC_ANNOTATION) {
            Some(text) => Some(parse_mac(text)?),
            None => None,
        };
        let failed = |error: pod::PodError| {
            CniError::internal("the pod's interface can't be made").with_details(error)
        };
        let tun = match kind {
            PodPort::Tun => {
                let fd = pod::attach_tun(&namespace, &interface).map_err(failed)?;
                self.keeper.keep(&format!("tun:{}", record.port), fd.as_fd());
                Some(fd)
            }
            PodPort::Veth => {
                let mut netlink = Netlink::open().map_err(|error| {
                    CniError::internal("the kernel can't be asked").with_details(error)
                })?;
                let veth =
                    pod::attach_veth(&mut netlink, &namespace, &interface).map_err(failed)?;
                record.mac = veth.pod_mac.0;
                record.host_link = Some(veth.host_link);
                None
            }
        };
        self.records.put(&record).map_err(|error| {
            CniError::new(ErrorCode::Io, "the endpoint's record can't be written")
                .with_details(error)
        })?;
        let resource = self.store_endpoint(subject, &record, pod)?;
        self.publish(record.clone(), tun, resource)?;
        Ok(record)
    }

    /// Writes the `WorkloadEndpoint`.
    fn store_endpoint(
        &self,
        subject: &Subject,
        record: &Record,
        pod: Option<&api::Pod>,
    ) -> Result<Resource, CniError> {
        let spec = WorkloadEndpointSpec {
            orchestrator: "k8s".to_owned(),
            node: self.config.node_name.clone(),
            container_id: record.container_id.clone(),
            pod: subject.pod.clone(),
            endpoint: record.interface.clone(),
            service_account_name: pod
                .map(|p| p.spec.service_account_name.clone())
                .unwrap_or_default(),
            ip_networks: record.addresses.iter().map(|a| IpNet::from(*a).into()).collect(),
            profiles: vec![format!("kns.{}", subject.namespace)],
            interface_name: record.port.clone(),
            mac: if record.kind == PodPort::Veth {
                MacAddress(record.mac).to_string()
            } else {
                String::new()
            },
            ..WorkloadEndpointSpec::default()
        };
        let mut endpoint = WorkloadEndpoint::named(subject.endpoint.name.clone(), spec);
        endpoint.metadata.namespace = Some(subject.namespace.clone());
        let labels = pod.map(|p| p.metadata.labels.clone()).unwrap_or_default();
        endpoint.metadata.labels = labels;
        for (key, value) in [
            ("projectcalico.org/namespace", subject.namespace.as_str()),
            ("projectcalico.org/orchestrator", "k8s"),
        ] {
            endpoint.metadata.labels.insert(key.to_owned(), value.to_owned());
        }
        self.store.apply(endpoint.into()).map_err(|error| {
            CniError::new(ErrorCode::TryAgain, "the WorkloadEndpoint can't be written")
                .with_details(error)
        })
    }

    /// Hands the port to the control loop and waits until every worker has it.
    fn publish(
        &self,
        record: Record,
        tun: Option<std::os::fd::OwnedFd>,
        resource: Resource,
    ) -> Result<(), CniError> {
        let (reply, answer) = bounded(1);
        let attach = Box::new(Attach { record, tun, resource, reply });
        let stopping = || CniError::new(ErrorCode::TryAgain, "the node agent is stopping");
        self.events.send(Event::Attach(attach)).map_err(|_| stopping())?;
        match answer.recv_timeout(PATIENCE) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(CniError::internal(error.to_string())),
            Err(_) => Err(CniError::new(
                ErrorCode::TryAgain,
                "the pod's tables are not live in every worker yet",
            )),
        }
    }

    /// Takes away whatever there is of a pod's interface.
    fn remove(
        &self,
        subject: &Subject,
        netns: Option<&Path>,
        interface: &str,
    ) -> Result<(), CniError> {
        let (reply, answer) = bounded(1);
        let detach = Detach { port: subject.port.clone(), reply };
        if self.events.send(Event::Detach(detach)).is_ok() {
            let _ = answer.recv_timeout(PATIENCE);
        }
        self.keeper.release(&format!("tun:{}", subject.port));
        // Without CNI_NETNS the record knows where the device is.
        let recorded = self.records.get(&subject.port).map(|record| record.netns);
        let netns = netns.map(Path::to_path_buf).or(recorded);
        if let Some(namespace) = netns.and_then(|path| NetNs::open(path).ok()) {
            pod::detach(&namespace, interface).map_err(|error| {
                CniError::internal("the pod's interface can't be removed").with_details(error)
            })?;
        }
        self.records.remove(&subject.port);
        match self.store.delete(&subject.endpoint, None) {
            Ok(_) | Err(datastore::Error::NotFound(_)) => {}
            Err(error) => {
                return Err(CniError::new(
                    ErrorCode::TryAgain,
                    "the WorkloadEndpoint can't be deleted",
                )
                .with_details(error));
            }
        }
        self.ipam().release_handle(&subject.handle).map_err(|error| {
            CniError::new(ErrorCode::TryAgain, "the pod's address can't be released")
                .with_details(error)
        })?;
        Ok(())
    }
}

impl CniHandler for NodeHandler {
    fn add(&self, request: &AddRequest) -> Result<AddResult, CniError> {
        let subject = self.subject(&request.config.name, &request.attachment, &request.args);
        let pod: Option<api::Pod> = datastore::find_in(
            &*self.store,
            &Key::namespaced(Kind::Pod, subject.namespace.clone(), subject.pod.clone()),
        )
        .map_err(|error| {
            CniError::new(ErrorCode::TryAgain, "the Pod can't be read").with_details(error)
        })?;
        if let Some(other) = self.records.get(&subject.port)
            && (other.namespace != subject.namespace || other.pod != subject.pod)
        {
            return Err(CniError::internal(format!(
                "the name {} is taken by pod {}/{}: the hash of both names is the same",
                subject.port, other.namespace, other.pod
            )));
        }
        match self.attach(&subject, request, pod.as_ref()) {
            Ok(record) => Ok(result(&record)),
            Err(error) => {
                let interface = &request.attachment.ifname;
                if let Err(undo) = self.remove(&subject, Some(&request.netns), interface) {
                    tracing::warn!(pod = %subject.pod, error = %undo.msg, "an ADD that failed can't be undone");
                }
                Err(error)
            }
        }
    }

    fn del(&self, request: &DelRequest) -> Result<(), CniError> {
        let subject = self.subject(&request.config.name, &request.attachment, &request.args);
        let record = self.records.get(&subject.port);
        if let Some(record) = &record
            && record.container_id != request.attachment.container_id
        {
            // An old sandbox of a pod that has a new one: only the address is the old one's.
            return self.ipam().release_handle(&subject.handle).map(|_| ()).map_err(|error| {
                CniError::new(ErrorCode::TryAgain, "the pod's address can't be released")
                    .with_details(error)
            });
        }
        self.remove(&subject, request.netns.as_deref(), &request.attachment.ifname)
    }

    fn check(&self, request: &CheckRequest) -> Result<(), CniError> {
        let subject = self.subject(&request.config.name, &request.attachment, &request.args);
        let Some(record) = self.records.get(&subject.port) else {
            return Err(CniError::new(
                ErrorCode::UnknownContainer,
                format!("pod {}/{} is not attached", subject.namespace, subject.pod),
            ));
        };
        let expected: Vec<_> = request.expected.ips.iter().map(|ip| ip.address.addr()).collect();
        if record.addresses != expected {
            return Err(CniError::internal(format!(
                "the pod has the addresses {:?}, prevResult says {expected:?}",
                record.addresses
            )));
        }
        let namespace = NetNs::open(&request.netns).map_err(|error| {
            CniError::new(ErrorCode::InvalidEnvironment, "CNI_NETNS can't be opened")
                .with_details(error)
        })?;
        pod::check(&namespace, &pod_interface(&record)).map_err(|error| {
            CniError::internal("the pod's interface is not as it was made").with_details(error)
        })
    }

    fn gc(&self, request: &GcRequest) -> Result<(), CniError> {
        let records = self.records.all().map_err(|error| {
            CniError::new(ErrorCode::Io, "the endpoints' records can't be read").with_details(error)
        })?;
        for record in records {
            let attachment = Attachment {
                container_id: record.container_id.clone(),
                ifname: record.interface.clone(),
            };
            if request.valid.contains(&attachment) {
                continue;
            }
            let subject = Subject {
                endpoint: Key::namespaced(
                    Kind::WorkloadEndpoint,
                    record.namespace.clone(),
                    record.endpoint.clone(),
                ),
                handle: format!("{}.{}", request.config.name, record.container_id),
                namespace: record.namespace,
                pod: record.pod,
                port: record.port,
            };
            self.remove(&subject, Some(&record.netns), &record.interface)?;
        }
        Ok(())
    }

    fn status(&self) -> Result<(), CniError> {
        let usable = datastore::list::<api::IpPool>(&*self.store)
            .map_err(|error| {
                CniError::new(ErrorCode::NotAvailable, "the datastore can't be read")
                    .with_details(error)
            })?
            .iter()
            .any(|pool| !pool.spec.disabled);
        if usable {
            Ok(())
        } else {
            Err(CniError::new(ErrorCode::NotAvailable, "there is no enabled IPPool"))
        }
    }
}

/// What a pod's interface is to be, by its record.
pub fn pod_interface(record: &Record) -> PodInterface {
    PodInterface {
        name: record.interface.clone(),
        port: record.port.clone(),
        addresses: record.addresses.clone(),
        mtu: u32::from(record.mtu),
        tx_queue_length: pod::TX_QUEUE_LENGTH,
        ip_forwarding: record.ip_forwarding,
        mac: (record.kind == PodPort::Veth && record.mac != [0; 6])
            .then_some(MacAddress(record.mac)),
    }
}

fn result(record: &Record) -> AddResult {
    let gateway = |address: &IpAddr| match address {
        IpAddr::V4(_) => IpAddr::V4(pod::GATEWAY_V4),
        IpAddr::V6(_) => IpAddr::V6(pod::GATEWAY_V6),
    };
    let interface = Interface {
        name: record.interface.clone(),
        mac: (record.kind == PodPort::Veth).then(|| MacAddress(record.mac).to_string()),
        mtu: Some(u32::from(record.mtu)),
        sandbox: Some(record.netns.display().to_string()),
    };
    let ips = record.addresses.iter().map(|address| IpConfig {
        address: IpNet::from(*address),
        gateway: Some(gateway(address)),
        interface: Some(0),
    });
    let routes = record.addresses.iter().filter_map(|address| {
        let any = match address {
            IpAddr::V4(_) => IpNet::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            IpAddr::V6(_) => IpNet::new(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 0),
        };
        Some(RouteConfig { dst: any.ok()?, gw: Some(gateway(address)) })
    });
    AddResult {
        interfaces: vec![interface],
        ips: ips.collect(),
        routes: routes.collect(),
        ..AddResult::default()
    }
}

fn fixed_addresses(annotations: &BTreeMap<String, String>) -> Result<Vec<IpAddr>, CniError> {
    let Some(text) = annotations.get(ADDRESSES_ANNOTATION) else { return Ok(Vec::new()) };
    string_list(ADDRESSES_ANNOTATION, text)?
        .iter()
        .map(|a| {
            a.parse().map_err(|_| bad_annotation(ADDRESSES_ANNOTATION, a, "a list of addresses"))
        })
        .collect()
}

fn string_list(annotation: &str, text: &str) -> Result<Vec<String>, CniError> {
    serde_json::from_str(text)
        .map_err(|_| bad_annotation(annotation, text, "a JSON list of strings, [\"…\"]"))
}

fn parse_mac(text: &str) -> Result<MacAddress, CniError> {
    let bytes: Vec<_> = text.split(':').map(|b| u8::from_str_radix(b, 16)).collect();
    let bytes: Option<Vec<u8>> = bytes.into_iter().map(Result::ok).collect();
    bytes
        .and_then(|b| <[u8; 6]>::try_from(b).ok())
        .filter(|mac| mac[0] & 1 == 0)
        .map(MacAddress)
        .ok_or_else(|| bad_annotation(MAC_ANNOTATION, text, "a unicast MAC address, 02:00:…"))
}

fn bad_annotation(name: &str, value: &str, right: &str) -> CniError {
    CniError::new(
        ErrorCode::InvalidNetworkConfig,
        format!("the pod's annotation {name} is {value:?}; it has to be {right}"),
    )
}
