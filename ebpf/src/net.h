/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Whose packet is it: network namespaces and addresses, from devices, sockets and headers.
 *
 * Pointers that the verifier knows are read directly, which lockdown never refuses; only packet
 * headers and a packet's route need bpf_probe_read_kernel.
 */
#ifndef INSPECTOR_NET_H
#define INSPECTOR_NET_H

#include "record.h"

#define UNSET_HEADER 0xffff
#define ETHERNET_HEADER 14
#define IP_FRAGMENT_OFFSET 0x1fff
#define IPV6_FRAGMENT_OFFSET 0xfff8
#define MAX_EXTENSIONS 4

#define IPV6_HOP_BY_HOP 0
#define IPV6_ROUTING 43
#define IPV6_FRAGMENT 44
#define IPV6_AUTH 51
#define IPV6_DESTINATION 60

struct ipv4 {
	__u8 version_ihl;
	__u8 tos;
	__be16 total;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__u16 checksum;
	__be32 saddr;
	__be32 daddr;
};

struct ipv6 {
	__u8 version_class;
	__u8 label[3];
	__be16 payload;
	__u8 next;
	__u8 hops;
	__u8 saddr[16];
	__u8 daddr[16];
};

struct ipv6_extension {
	__u8 next;
	__u8 length;
	__be16 offset; /* of a fragment header */
};

struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender_ip[4];
	__u8 target_mac[6];
	__u8 target_ip[4];
};

/* The front of every transport header that has ports; the flags are TCP's. */
struct transport {
	__be16 source;
	__be16 dest;
	__u8 sequence[8];
	__u8 offset;
	__u8 flags;
};

/*
 * Whether argument n of the tracepoint is NULL, asked of memory where the program's own check is
 * not enough. Kernels from 6.2 until the fix of CVE-2024-56702 believe that no argument ever is,
 * delete the check, and then oops; what a helper wrote they cannot reason about.
 */
static __always_inline bool argument_is_null(const void *ctx, int n)
{
	__u64 argument = 0;

	if (bpf_core_type_exists(struct bpf_raw_tp_null_args) || !may_read_kernel)
		return false;
	bpf_probe_read_kernel(&argument, sizeof(argument), (const __u64 *)ctx + n);
	return !argument;
}

/* The cookie (5.12 and later), else the inode number; 0 = unknown. */
static __always_inline __u64 net_id(const struct net *net)
{
	if (!net)
		return 0;
	if (bpf_core_field_exists(net->net_cookie))
		return net->net_cookie;
	return net->ns.inum;
}

static __always_inline __u64 socket_net(const struct sock *sk)
{
	return net_id(sk->__sk_common.skc_net.net);
}

/*
 * The namespace of skb->dev. That field shares its storage with an rb-tree node (TCP's
 * out-of-order queue) and with UDP's scratch space, so it may hold no device at all; a namespace
 * is believed only if its loopback device points back at it.
 */
static __always_inline __u64 device_net(const struct net_device *dev)
{
	if (!dev)
		return 0;

	const struct net *net = dev->nd_net.net;

	if (!net)
		return 0;

	const struct net_device *loopback = net->loopback_dev;

	if (!loopback || loopback->nd_net.net != net)
		return 0;
	return net_id(net);
}

/* The namespace of the packet's route; the same doubt, read by helper, since this is a number. */
static __always_inline __u64 route_net(const struct sk_buff *skb)
{
	struct dst_entry *dst = (struct dst_entry *)(skb->_skb_refdst & ~7ul);

	if (!dst || !may_read_kernel)
		return 0;

	struct net *net = BPF_CORE_READ(dst, dev, nd_net.net);

	if (!net || BPF_CORE_READ(net, loopback_dev, nd_net.net) != net)
		return 0;
	if (bpf_core_field_exists(net->net_cookie))
		return BPF_CORE_READ(net, net_cookie);
	return BPF_CORE_READ(net, ns.inum);
}

static __always_inline bool is_inet(const struct sock *sk)
{
	__u16 family = sk->__sk_common.skc_family;

	return family == AF_INET || family == AF_INET6;
}

/* Whether the socket is more than a request or a remnant in TIME_WAIT, which lack most fields. */
static __always_inline bool is_full(const struct sock *sk)
{
	__u8 state = sk->__sk_common.skc_state;

	return state != TCP_NEW_SYN_RECV && state != TCP_TIME_WAIT;
}

static __always_inline void map_ipv4(__u8 *to, const void *address)
{
	to[10] = 0xff;
	to[11] = 0xff;
	__builtin_memcpy(to + 12, address, 4);
}

/* Addresses and ports of a socket; `incoming` makes its peer the source. */
static __always_inline void socket_addresses(struct head *head, const struct sock *sk, bool incoming)
{
	__u8 *local = incoming ? head->daddr : head->saddr;
	__u8 *peer = incoming ? head->saddr : head->daddr;
	__u16 local_port = sk->__sk_common.skc_num;
	__u16 peer_port = bpf_ntohs(sk->__sk_common.skc_dport);

	if (sk->__sk_common.skc_family == AF_INET) {
		__be32 address = sk->__sk_common.skc_rcv_saddr;

		map_ipv4(local, &address);
		address = sk->__sk_common.skc_daddr;
		map_ipv4(peer, &address);
	} else if (bpf_core_field_exists(sk->__sk_common.skc_v6_daddr)) {
		__builtin_memcpy(local, &sk->__sk_common.skc_v6_rcv_saddr, 16);
		__builtin_memcpy(peer, &sk->__sk_common.skc_v6_daddr, 16);
	}
	head->sport = incoming ? peer_port : local_port;
	head->dport = incoming ? local_port : peer_port;
	head->flags |= FLAG_SOCKET | FLAG_PORTS;
}

/* As above for a TCP socket that may be closed: it has given its port back, but kept a copy. */
static __always_inline void tcp_addresses(struct head *head, const struct sock *sk)
{
	const struct tcp_sock *tp = bpf_skc_to_tcp_sock((void *)sk);

	socket_addresses(head, sk, false);
	if (tp)
		head->sport = bpf_ntohs(tp->inet_conn.icsk_inet.inet_sport);
}

static __always_inline bool has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP ||
	       proto == IPPROTO_DCCP || proto == IPPROTO_UDPLITE;
}

/* Ports, and the flags byte if this is TCP (else 0). */
static __always_inline __u8 transport_ports(struct head *head, const void *at)
{
	struct transport transport;

	if (!has_ports(head->proto) || bpf_probe_read_kernel(&transport, sizeof(transport), at))
		return 0;
	head->sport = bpf_ntohs(transport.source);
	head->dport = bpf_ntohs(transport.dest);
	head->flags |= FLAG_PORTS;
	return head->proto == IPPROTO_TCP ? transport.flags : 0;
}

static __always_inline __u8 ipv4_addresses(struct head *head, const void *at)
{
	struct ipv4 ip;

	if (bpf_probe_read_kernel(&ip, sizeof(ip), at) || ip.version_ihl >> 4 != 4)
		return 0;
	map_ipv4(head->saddr, &ip.saddr);
	map_ipv4(head->daddr, &ip.daddr);
	head->proto = ip.protocol;
	head->flags |= FLAG_PACKET;
	if (bpf_ntohs(ip.fragment) & IP_FRAGMENT_OFFSET)
		return 0;
	return transport_ports(head, at + (ip.version_ihl & 15) * 4);
}

static __always_inline __u8 ipv6_addresses(struct head *head, const void *at)
{
	struct ipv6 ip;

	if (bpf_probe_read_kernel(&ip, sizeof(ip), at) || ip.version_class >> 4 != 6)
		return 0;
	__builtin_memcpy(head->saddr, ip.saddr, 16);
	__builtin_memcpy(head->daddr, ip.daddr, 16);
	head->flags |= FLAG_PACKET;

	__u8 next = ip.next;

	at += sizeof(ip);
#pragma unroll
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		struct ipv6_extension extension;

		if (next != IPV6_HOP_BY_HOP && next != IPV6_ROUTING && next != IPV6_FRAGMENT &&
		    next != IPV6_AUTH && next != IPV6_DESTINATION)
			break;
		if (bpf_probe_read_kernel(&extension, sizeof(extension), at))
			break;
		if (next == IPV6_FRAGMENT && bpf_ntohs(extension.offset) & IPV6_FRAGMENT_OFFSET) {
			head->proto = extension.next;
			return 0;
		}
		if (next == IPV6_FRAGMENT)
			at += 8;
		else if (next == IPV6_AUTH)
			at += (extension.length + 2) * 4;
		else
			at += (extension.length + 1) * 8;
		next = extension.next;
	}
	head->proto = next;
	return transport_ports(head, at);
}

static __always_inline void arp_addresses(struct head *head, const void *at)
{
	struct arp arp;

	if (bpf_probe_read_kernel(&arp, sizeof(arp), at) || arp.protocol != bpf_htons(ETH_P_IP))
		return;
	map_ipv4(head->saddr, arp.sender_ip);
	map_ipv4(head->daddr, arp.target_ip);
	head->flags |= FLAG_PACKET;
}

/* Where the network header is, or NULL if it is not in the packet's linear part. */
static __always_inline const void *network_header(const struct sk_buff *skb)
{
	__u32 at = skb->network_header;

	if (at == 0 || at == UNSET_HEADER) {
		__u32 mac = skb->mac_header;

		at = mac == 0 || mac == UNSET_HEADER ? skb->data - skb->head : mac + ETHERNET_HEADER;
	}
	if (at + sizeof(struct ipv4) > skb->tail)
		return NULL;
	return skb->head + at;
}

/*
 * Addresses and ports as on the wire; returns the flags byte of TCP, else 0. FLAG_PACKET is set
 * if there were any. A packet without a protocol has no network header yet.
 */
static __always_inline __u8 packet_addresses(struct head *head, const struct sk_buff *skb)
{
	if (!may_read_kernel)
		return 0;

	const void *at = network_header(skb);

	if (!at)
		return 0;
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return ipv4_addresses(head, at);
	case bpf_htons(ETH_P_IPV6):
		return ipv6_addresses(head, at);
	case bpf_htons(ETH_P_ARP):
		arp_addresses(head, at);
	}
	return 0;
}

#endif
