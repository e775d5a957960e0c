// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * rx-latency: how long a segment takes from its device (the last one, for a packet that
 * comes through several) until TCP processes it for its established connection: netfilter, routing,
 * and waiting for a socket that is in use.
 *
 * All are added up per namespace of the socket and bucket; one above SLOW_NS is a record as well.
 *
 * Left out: handshakes; UDP, since no tracepoint tells which datagram reaches its socket, nor that
 * one is read if it is in one piece; IPv4 options and IPv6 extension headers; and everything under
 * lockdown, since headers cannot be read then.
 */
#include "packet.h"
#include "sums.h"

enum rx_kind {
	KIND_SLOW = 1,
	KIND_SUM = 2, /* made by the host, of a sum */
};
CONSTANTS(rx_kind);

struct rx_latency {
	struct head head;
	__u64 count;
	__u64 duration_ns;
	__u32 length;
	__u16 bucket;
	__u16 pad;
};
RECORD(rx_latency);

/*
 * The key is the address of the packet, which the kernel reuses, and not everything that is received
 * ends in our hook. So an entry is believed only if the packet has the same sequence and
 * acknowledgement numbers at both ends.
 */
struct received {
	__u64 at_ns;
	__be32 sequence;
	__be32 acknowledged;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct received);
} received SEC(".maps");

struct tcp {
	__be16 source;
	__be16 dest;
	__be32 sequence;
	__be32 acknowledged;
};

/* Where its TCP header is, or NULL if it has none at the usual place. */
static __always_inline const void *tcp_header(const struct sk_buff *skb)
{
	const void *at = network_header(skb);
	__u8 next = 0;

	if (!at)
		return NULL;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct ipv4 ip;

		if (bpf_probe_read_kernel(&ip, sizeof(ip), at) || ip.version_ihl != 0x45)
			return NULL;
		next = ip.protocol;
		at += sizeof(ip);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		bpf_probe_read_kernel(&next, 1, at + __builtin_offsetof(struct ipv6, next));
		at += sizeof(struct ipv6);
	}
	return next == IPPROTO_TCP ? at : NULL;
}

SEC("tp_btf/netif_receive_skb")
int BPF_PROG(netif_receive_skb, const struct sk_buff *skb)
{
	const void *at = may_read_kernel ? tcp_header(skb) : NULL;
	struct tcp tcp;

	if (!at || bpf_probe_read_kernel(&tcp, sizeof(tcp), at))
		return 0;

	__u64 key = (__u64)skb;
	struct received value = {
		.at_ns = bpf_ktime_get_ns(),
		.sequence = tcp.sequence,
		.acknowledged = tcp.acknowledged,
	};

	bpf_map_update_elem(&received, &key, &value, BPF_ANY);
	return 0;
}

/* Every segment that reaches an established connection, also late, when the socket is released. */
SEC("tp_btf/tcp_probe")
int BPF_PROG(tcp_probe, const struct sock *sk, const struct sk_buff *skb)
{
	__u64 key = (__u64)skb;
	struct received *found = bpf_map_lookup_elem(&received, &key);

	if (!found)
		return 0;

	const struct tcp_skb_cb *cb = (const struct tcp_skb_cb *)skb->cb;
	__u64 ns = bpf_ktime_get_ns() - found->at_ns;
	bool same = bpf_ntohl(found->sequence) == cb->seq && bpf_ntohl(found->acknowledged) == cb->ack_seq;
	__u64 netns = socket_net(sk);
	__u16 bucket = bucket_of(ns);

	bpf_map_delete_elem(&received, &key);
	if (!same)
		return 0;
	add_up(netns, 0, 0, bucket, ns);
	if (ns <= SLOW_NS)
		return 0;

	struct rx_latency *record = RESERVE(rx_latency, netns);

	if (!record)
		return 0;
	record->head.kind = KIND_SLOW;
	record->head.proto = IPPROTO_TCP;
	record->head.tcp_state = sk->__sk_common.skc_state;
	socket_addresses(&record->head, sk, true);
	record->count = 1;
	record->duration_ns = ns;
	record->bucket = bucket;
	record->length = skb->len;
	SUBMIT(record);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
