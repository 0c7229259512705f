//! How much of everything there may be: every bound of the fast path in one place.

/// Packets a stage takes at once.
pub const BATCH: usize = 64;
/// Bytes free in front of a received packet: an outer IPv4 header, an Ethernet header, a virtio
/// network header and room to spare, kept a multiple of the cache line.
pub const HEADROOM: usize = 128;
/// Longest packet an IP length field can name; super-packets come this large.
pub const PACKET_MAX: usize = 65_535;
/// Bytes of one packet slot: headroom, the longest packet, an Ethernet header, rounded up.
pub const SLOT: usize = HEADROOM + 65_536 + 64;
/// Packet slots a worker takes at start (it never allocates more while it runs).
pub const SLOTS_PER_WORKER: usize = 512;
/// Ports a router may own.
pub const PORTS: usize = 4_096;
/// Next hops in one generation of the tables.
pub const NEXT_HOPS: usize = 1 << 20;
/// Members of one equal-cost group.
pub const GROUP_MEMBERS: usize = 16;
/// Connections in the shared table, unless configured.
pub const CONNECTIONS: usize = 262_144;
/// Entries of one worker's flow cache (a power of two).
pub const FLOW_CACHE: usize = 65_536;
/// Rules with a counter of their own; rule ids beyond it share the last one.
pub const RULE_COUNTERS: usize = 65_536;
/// Packets waiting for the control loop.
pub const PUNT_RING: usize = 1_024;
/// Packets waiting to be sent on the control loop's behalf, per worker.
pub const INJECT_RING: usize = 1_024;
/// IPv6 extension headers walked before a packet is refused.
pub const EXTENSION_HEADERS: usize = 8;
/// Fragmented datagrams whose first fragment's verdict is remembered.
pub const FRAGMENTED_DATAGRAMS: usize = 4_096;
/// Smallest segment size an offload header of a pod may ask for (bytes of payload).
pub const GSO_SIZE_MIN: u16 = 256;
/// Packets waiting to be sent through a worker's queue by other workers.
pub const LANE_RING: usize = 1_024;
/// Connections looked at per round for being idle too long.
pub const EXPIRIES_PER_ROUND: usize = 64;
/// Records of a trace or capture waiting for whoever asked for them.
pub const TAP_RING: usize = 4_096;
/// Set memberships written out in full over all address classes (4 bytes each); classes beyond
/// link to others and are judged without an index.
pub const CLASS_MEMBERS: usize = 1 << 22;
/// Cells of one program's matrix (4 bytes each, taken from the system only when touched).
pub const PROGRAM_CELLS: u64 = 1 << 22;
/// Recent answers a program keeps whose matrix would have more cells (8 bytes each).
pub const PROGRAM_ANSWERS: u64 = 1 << 16;
/// Rules listed over all port intervals while a program is compiled; beyond it the program is
/// judged without an index.
pub const PORT_LISTINGS: usize = 1 << 22;
