// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * skb-drop: packets that the kernel freed without delivering them.
 *
 * Details are limited per network namespace; what the limit suppresses is counted per (namespace,
 * reason, location, protocol) and becomes summary records, so that counts made from records stay
 * exact: but for what is lost_ring, the sum of `count` is the number of drops.
 *
 * Left out: packets that never were on a network (netlink, unix), and consumed ones.
 */
#include "packet.h"
#include "sums.h"

enum drop_kind {
	KIND_DROP = 1,
	KIND_SUMMARY = 2, /* made by the host, of a sum */
};
CONSTANTS(drop_kind);

struct skb_drop {
	struct head head;
	__u64 location;
	__u64 count;
	__u32 reason;
	__u32 ifindex;
	__u32 length;
	__u16 ethertype;
	__u8 tcp_flags;
	__u8 pkt_type;
};
RECORD(skb_drop);

static __always_inline int drop(const struct sk_buff *skb, const struct sock *rx_sk, void *location,
				__u32 reason)
{
	const struct net_device *dev = skb->dev;
	const struct sock *owner = skb->sk;
	const struct sock *sk = rx_sk ? rx_sk : owner;
	__u64 netns = device_net(dev);
	bool on_device = netns != 0;

	if (sk && !is_inet(sk))
		sk = NULL;
	if (!netns && sk)
		netns = socket_net(sk);
	if (!netns)
		netns = route_net(skb);
	if (!netns && !sk && !skb->protocol)
		return 0;

	struct counters *mine = produce();
	__u64 now = bpf_ktime_get_boot_ns();

	if (!mine)
		return 0;
	if (!admitted(netns, now)) {
		/* Its details are lost, its number is not. */
		count(&mine->lost_limit);
		add_up(netns, (__u64)location, reason, bpf_ntohs(skb->protocol), 0);
		return 0;
	}

	struct skb_drop *record = reserve(mine, sizeof(*record), netns, now);

	if (!record)
		return 0;
	record->head.kind = KIND_DROP;
	record->location = (__u64)location;
	record->count = 1;
	record->reason = reason;
	record->length = skb->len;
	record->ethertype = bpf_ntohs(skb->protocol);
	record->pkt_type = BPF_CORE_READ_BITFIELD(skb, pkt_type);
	record->tcp_flags = packet_addresses(&record->head, skb);
	if (on_device) {
		record->head.flags |= FLAG_DEVICE;
		record->ifindex = dev->ifindex;
	}
	if (sk) {
		if (!(record->head.flags & FLAG_PACKET)) {
			socket_addresses(&record->head, sk, rx_sk != NULL);
			record->head.proto = is_full(sk) ? sk->sk_protocol : IPPROTO_TCP;
		}
		if (record->head.proto == IPPROTO_TCP)
			record->head.tcp_state = sk->__sk_common.skc_state;
	}
	SUBMIT(record);
	return 0;
}

static __always_inline bool is_consumed(__u32 reason)
{
	return bpf_core_enum_value_exists(enum skb_drop_reason, SKB_CONSUMED) &&
	       reason == bpf_core_enum_value(enum skb_drop_reason, SKB_CONSUMED);
}

/* 6.11 and later. */
SEC("tp_btf/kfree_skb")
int BPF_PROG(kfree_skb_4, const struct sk_buff *skb, void *location, __u32 reason, const struct sock *rx_sk)
{
	if (is_consumed(reason))
		return 0;
	return drop(skb, argument_is_null(ctx, 3) ? NULL : rx_sk, location, reason);
}

/* 5.17 to 6.10. */
SEC("tp_btf/kfree_skb")
int BPF_PROG(kfree_skb_3, const struct sk_buff *skb, void *location, __u32 reason)
{
	if (is_consumed(reason))
		return 0;
	return drop(skb, NULL, location, reason);
}

/* Before 5.17 there are no reasons. */
SEC("tp_btf/kfree_skb")
int BPF_PROG(kfree_skb_2, const struct sk_buff *skb, void *location)
{
	return drop(skb, NULL, location, 0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
