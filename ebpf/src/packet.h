/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Addresses and ports as they are on the wire: IPv4, IPv6 with its extension headers, ARP.
 *
 * Headers are numbers to the verifier, so all of this needs bpf_probe_read_kernel, which lockdown
 * may forbid: then a record has the addresses of a socket, or none. Left out: what is inside of
 * tunnels and ICMP errors.
 */
#ifndef INSPECTOR_PACKET_H
#define INSPECTOR_PACKET_H

#include "net.h"

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
