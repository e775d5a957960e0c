// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The floor of the benches: dropped packets as a C programmer would send them to user space by
 * hand. The same record as skb-drop's and nothing else: no limit per namespace, no summaries, no
 * accounting beyond a count of lost records.
 *
 * SUBMIT_FLAGS is given at compile time: 0 is libbpf's default, a wake-up by each record that
 * finds the reader caught up; BPF_RB_NO_WAKEUP is for a reader that looks by the clock.
 */
#include "kernel.h"

struct record {
	__u64 ts_ns;
	__u64 netns;
	__u32 entity;
	__u16 kind;
	__u16 cpu;
	__u8 saddr[16];
	__u8 daddr[16];
	__u16 sport;
	__u16 dport;
	__u8 proto;
	__u8 tcp_state;
	__u16 flags;
	__u64 location;
	__u64 count;
	__u32 reason;
	__u32 ifindex;
	__u32 length;
	__u16 ethertype;
	__u8 tcp_flags;
	__u8 pkt_type;
};
_Static_assert(sizeof(struct record) == RECORD_BYTES, "not the record of skb-drop");

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
	__u8 front[6];
	__u8 next;
	__u8 hops;
	__u8 saddr[16];
	__u8 daddr[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} events SEC(".maps");

__u64 lost;

static __always_inline void ports(struct record *record, const void *at)
{
	__be16 both[2];

	if (record->proto != IPPROTO_TCP && record->proto != IPPROTO_UDP)
		return;
	if (bpf_probe_read_kernel(both, sizeof(both), at))
		return;
	record->sport = bpf_ntohs(both[0]);
	record->dport = bpf_ntohs(both[1]);
}

static __always_inline void addresses(struct record *record, const struct sk_buff *skb)
{
	const void *at = skb->head + skb->network_header;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct ipv4 ip;

		if (bpf_probe_read_kernel(&ip, sizeof(ip), at))
			return;
		record->saddr[10] = record->saddr[11] = 0xff;
		record->daddr[10] = record->daddr[11] = 0xff;
		__builtin_memcpy(record->saddr + 12, &ip.saddr, 4);
		__builtin_memcpy(record->daddr + 12, &ip.daddr, 4);
		record->proto = ip.protocol;
		ports(record, at + (ip.version_ihl & 15) * 4);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6 ip;

		if (bpf_probe_read_kernel(&ip, sizeof(ip), at))
			return;
		__builtin_memcpy(record->saddr, ip.saddr, 16);
		__builtin_memcpy(record->daddr, ip.daddr, 16);
		record->proto = ip.next;
		ports(record, at + sizeof(ip));
	}
}

/* 5.17 and later, as there is no reason before. */
SEC("tp_btf/kfree_skb")
int BPF_PROG(floor_kfree_skb, const struct sk_buff *skb, void *location, __u32 reason)
{
	const struct net_device *dev = skb->dev;
	const struct sock *sk = skb->sk;
	struct record *record;

	if (reason == bpf_core_enum_value(enum skb_drop_reason, SKB_CONSUMED))
		return 0;
	record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);
	if (!record) {
		__sync_fetch_and_add(&lost, 1);
		return 0;
	}
	__builtin_memset(record, 0, sizeof(*record));
	record->ts_ns = bpf_ktime_get_boot_ns();
	record->kind = 1;
	record->cpu = bpf_get_smp_processor_id();
	record->location = (__u64)location;
	record->count = 1;
	record->reason = reason;
	record->length = skb->len;
	record->ethertype = bpf_ntohs(skb->protocol);
	record->pkt_type = BPF_CORE_READ_BITFIELD(skb, pkt_type);
	if (dev) {
		record->netns = dev->nd_net.net->net_cookie;
		record->ifindex = dev->ifindex;
	} else if (sk) {
		record->netns = sk->__sk_common.skc_net.net->net_cookie;
	}
	if (sk)
		record->tcp_state = sk->__sk_common.skc_state;
	addresses(record, skb);
	bpf_ringbuf_submit(record, SUBMIT_FLAGS);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
