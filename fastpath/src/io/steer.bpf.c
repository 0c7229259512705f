// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only)
/*
 * Which packets of an interface are the router's? Those it takes; all others stay the kernel's.
 *
 *   steer       XDP: the router's packets to the AF_XDP socket of their queue
 *   steer_all   XDP on a pod's veth: every packet is the router's
 *   choose      socket filter: the router's packets into a packet socket
 *   shadow      ingress hook beside such a socket: the kernel drops its own copy of them
 *   shadow_all  the same on a pod's veth
 *   tunnel      egress hook: TCP super-packets of the router's leave in a tunnel whole
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum kind {
	FOREIGN, /* the kernel's */
	POOL,    /* to an address of a pool */
	TUNNEL,  /* IPIP from a node to this one */
};

enum counter { TAKEN, PASSED, DROPPED, COUNTERS };

struct prefix4 {
	__u32 length;
	__u32 address;
};

struct prefix6 {
	__u32 length;
	__u32 address[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

/* Nodes that may send us IPIP. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u32);
} nodes SEC(".maps");

/* Addresses of this node that tunnels end at. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} locals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct prefix4);
	__type(value, __u32);
} pools4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct prefix6);
	__type(value, __u32);
} pools6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		*value += 1;
}

static __always_inline enum kind judge4(const struct iphdr *ip)
{
	struct prefix4 key = { .length = 32, .address = ip->daddr };
	__u32 source = ip->saddr, destination = ip->daddr;

	if (ip->version != 4)
		return FOREIGN;
	if (ip->protocol == IPPROTO_IPIP && bpf_map_lookup_elem(&locals, &destination))
		return bpf_map_lookup_elem(&nodes, &source) ? TUNNEL : FOREIGN;
	return bpf_map_lookup_elem(&pools4, &key) ? POOL : FOREIGN;
}

static __always_inline enum kind judge6(const struct ipv6hdr *ip)
{
	struct prefix6 key = { .length = 128 };

	if (ip->version != 6)
		return FOREIGN;
	__builtin_memcpy(key.address, &ip->daddr, sizeof(key.address));
	return bpf_map_lookup_elem(&pools6, &key) ? POOL : FOREIGN;
}

/* A frame as a driver shows it. ARP, neighbour discovery and VLAN-tagged frames are foreign. */
static __always_inline enum kind judge_frame(const struct xdp_md *context)
{
	void *data = (void *)(long)context->data;
	void *end = (void *)(long)context->data_end;
	struct ethhdr *eth = data;
	void *ip = eth + 1;

	if (ip > end)
		return FOREIGN;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return ip + sizeof(struct iphdr) > end ? FOREIGN : judge4(ip);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return ip + sizeof(struct ipv6hdr) > end ? FOREIGN : judge6(ip);
	return FOREIGN;
}

/* A frame as a socket buffer shows it (in front of it may stand a tag the device took off). */
static __always_inline enum kind judge_buffer(struct __sk_buff *buffer)
{
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
	} ip;
	__be16 protocol;

	if (buffer->vlan_present ||
	    bpf_skb_load_bytes(buffer, ETH_ALEN * 2, &protocol, sizeof(protocol)))
		return FOREIGN;
	if (protocol == bpf_htons(ETH_P_IP))
		return bpf_skb_load_bytes(buffer, ETH_HLEN, &ip.v4, sizeof(ip.v4)) ?
			       FOREIGN :
			       judge4(&ip.v4);
	if (protocol == bpf_htons(ETH_P_IPV6))
		return bpf_skb_load_bytes(buffer, ETH_HLEN, &ip.v6, sizeof(ip.v6)) ?
			       FOREIGN :
			       judge6(&ip.v6);
	return FOREIGN;
}

/* To the socket of the queue; without one, `otherwise`. */
static __always_inline int take(const struct xdp_md *context, int otherwise)
{
	int action = bpf_redirect_map(&xsks, context->rx_queue_index, otherwise);

	count(action == XDP_REDIRECT ? TAKEN : action == XDP_PASS ? PASSED : DROPPED);
	return action;
}

SEC("xdp.frags")
int steer(struct xdp_md *context)
{
	switch (judge_frame(context)) {
	case TUNNEL:
		/* No kernel may ever see it: behind the outer header stands a pod's packet. */
		return take(context, XDP_DROP);
	case POOL:
		return take(context, XDP_PASS);
	default:
		count(PASSED);
		return XDP_PASS;
	}
}

SEC("xdp.frags")
int steer_all(struct xdp_md *context)
{
	/* Without the router nothing judges a pod's packets: closed. */
	return take(context, XDP_DROP);
}

SEC("socket")
int choose(struct __sk_buff *buffer)
{
	return judge_buffer(buffer) == FOREIGN ? 0 : -1;
}

SEC("tcx/ingress")
int shadow(struct __sk_buff *buffer)
{
	if (judge_buffer(buffer) == FOREIGN) {
		count(PASSED);
		return TC_ACT_UNSPEC;
	}
	count(TAKEN);
	return TC_ACT_SHOT;
}

SEC("tcx/ingress")
int shadow_all(struct __sk_buff *buffer)
{
	count(TAKEN);
	return TC_ACT_SHOT;
}

/* What the router's sender sets on its packets (io/packet_socket/sender.rs). */
#define SENDER_MARK 0x76526f75
#define SENDER_PRIORITY 0x74657200

/*
 * An offload header can't say that a super-packet is in a tunnel, so the sender hands it over as
 * if its outer header were none of the kernel's business. Here that header is taken off and put on
 * again in the way that makes the kernel repeat it in front of every segment.
 */
SEC("tcx/egress")
int tunnel(struct __sk_buff *buffer)
{
	struct iphdr outer;
	__u64 fixed = BPF_F_ADJ_ROOM_FIXED_GSO;

	if (buffer->mark != SENDER_MARK || buffer->priority != SENDER_PRIORITY)
		return TC_ACT_UNSPEC;
	buffer->mark = 0;
	buffer->priority = 0;
	if (!buffer->gso_size || buffer->protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_UNSPEC;
	if (bpf_skb_load_bytes(buffer, ETH_HLEN, &outer, sizeof(outer)))
		return TC_ACT_SHOT;
	if (outer.protocol != IPPROTO_IPIP)
		return TC_ACT_UNSPEC;
	if (bpf_skb_adjust_room(buffer, -(int)sizeof(outer), BPF_ADJ_ROOM_MAC, fixed) ||
	    bpf_skb_adjust_room(buffer, sizeof(outer), BPF_ADJ_ROOM_MAC,
				fixed | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) ||
	    bpf_skb_store_bytes(buffer, ETH_HLEN, &outer, sizeof(outer), 0))
		return TC_ACT_SHOT;
	return TC_ACT_UNSPEC;
}
