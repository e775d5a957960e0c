// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * icmp: errors that this node's kernel sends, and the packets that they are about.
 *
 * The tracepoint icmp_send is IPv4's only. ICMPv6 errors are seen where the kernel's own socket,
 * which belongs to the root of the cgroup tree, sends them. A namespace's rate limit has let both
 * pass by then. Echo replies and other messages that are no errors are left out.
 */
#include "cgroup.h"

enum icmp_kind {
	KIND_ICMP = 1,
	KIND_ICMPV6 = 2,
};
CONSTANTS(icmp_kind);

#define ICMPV6_FIRST_THAT_IS_NO_ERROR 128

struct icmp {
	struct head head;
	__u32 ifindex;
	__u32 length;
	__u8 icmp_type;
	__u8 code;
	__u8 pad[6];
};
RECORD(icmp);

SEC("tp_btf/icmp_send")
int BPF_PROG(icmp_send, const struct sk_buff *skb, int type, int code)
{
	const struct net_device *dev = skb->dev;
	__u64 netns = device_net(dev);
	bool on_device = netns != 0;
	struct icmp *record = RESERVE(icmp, netns ? netns : route_net(skb));

	if (!record)
		return 0;
	record->head.kind = KIND_ICMP;
	record->icmp_type = type;
	record->code = code;
	record->length = skb->len;
	packet_addresses(&record->head, skb);
	if (on_device) {
		record->head.flags |= FLAG_DEVICE;
		record->ifindex = dev->ifindex;
	}
	SUBMIT(record);
	return 0;
}

/* An ICMPv6 error as sent: the packet that it is about follows its header of eight bytes. */
struct error_packet {
	struct ipv6 ip;
	__u8 type;
	__u8 code;
	__u16 checksum;
	__u32 value;
	struct ipv6 about;
	struct ports ports;
};

/* The first 50 bytes tell whether it is an error, and cost one load. */
SEC("cgroup_skb/egress")
int icmpv6_send(struct __sk_buff *ctx)
{
	struct error_packet packet;

	if (ctx->protocol != bpf_htons(ETH_P_IPV6) ||
	    bpf_skb_load_bytes(ctx, 0, &packet, __builtin_offsetof(struct error_packet, value)) ||
	    packet.ip.next != IPPROTO_ICMPV6 || packet.type >= ICMPV6_FIRST_THAT_IS_NO_ERROR ||
	    bpf_skb_load_bytes(ctx, __builtin_offsetof(struct error_packet, about), &packet.about,
			       sizeof(packet.about)))
		return PASS;

	struct icmp *record = RESERVE(icmp, owner_net(ctx));

	if (!record)
		return PASS;
	record->head.kind = KIND_ICMPV6;
	record->head.flags = FLAG_PACKET;
	record->head.proto = packet.about.next;
	__builtin_memcpy(record->head.saddr, packet.about.saddr, 16);
	__builtin_memcpy(record->head.daddr, packet.about.daddr, 16);
	if (has_ports(packet.about.next) &&
	    !bpf_skb_load_bytes(ctx, __builtin_offsetof(struct error_packet, ports), &packet.ports,
				sizeof(packet.ports))) {
		record->head.sport = bpf_ntohs(packet.ports.source);
		record->head.dport = bpf_ntohs(packet.ports.dest);
		record->head.flags |= FLAG_PORTS;
	}
	record->ifindex = ctx->ifindex;
	record->length = sizeof(struct ipv6) + bpf_ntohs(packet.about.payload);
	record->icmp_type = packet.type;
	record->code = packet.code;
	SUBMIT(record);
	return PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
