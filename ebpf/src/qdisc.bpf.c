// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * qdisc: what goes through the queueing disciplines of each device.
 *
 * ENQUEUE and DEQUEUE are added up per namespace, device and bucket of the time in the queue, at the
 * device's own (root) discipline. Sums only, no record of a single packet: tx-latency has those.
 *
 * Left out: packets that an empty discipline lets through without queueing them, drops (skb-drop
 * has them, reason QDISC_DROP), and the time of a packet that is dequeued in one call with others
 * before it: those are only counted.
 */
#include "net.h"
#include "sums.h"

enum qdisc_kind {
	KIND_SUM = 2, /* made by the host, of a sum */
};
CONSTANTS(qdisc_kind);

enum qdisc_operation {
	OP_ENQUEUE = 0,
	OP_DEQUEUE = 1,
	OP_UNTIMED = 2,
};
CONSTANTS(qdisc_operation);

struct qdisc {
	struct head head;
	__u64 count;
	__u64 duration_ns;
	__u32 ifindex;
	__u16 bucket;
	__u8 op;
	__u8 pad;
};
RECORD(qdisc);

/*
 * Packets that are queued, by address, which is used again. What is queued writes its entry anew
 * and what is dropped is forgotten, so only a segment that the discipline cut from a larger packet
 * may find an entry that is not its own: buffer and length tell it from what was there before.
 */
struct queued {
	__u64 at_ns;
	__u64 buffer;
	__u32 length;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct queued);
} queued SEC(".maps");

SEC("tp_btf/qdisc_enqueue")
int BPF_PROG(qdisc_enqueue, const struct Qdisc *qdisc, const struct netdev_queue *queue,
	     const struct sk_buff *skb)
{
	const struct net_device *dev = queue->dev;

	if (!dev || !skb)
		return 0;

	__u64 key = (__u64)skb;
	struct queued value = {
		.at_ns = bpf_ktime_get_ns(),
		.buffer = (__u64)skb->head,
		.length = skb->len,
	};

	bpf_map_update_elem(&queued, &key, &value, BPF_ANY);
	add_up(device_net(dev), 0, dev->ifindex, OP_ENQUEUE << 8, 0);
	return 0;
}

/*
 * Read by helper: some kernels believe that the packet is never NULL, delete the check for it, and
 * oops at a direct read. Under lockdown nothing is timed.
 */
static __always_inline bool is_the_same(const struct queued *value, const struct sk_buff *skb)
{
	return may_read_kernel && (__u64)BPF_CORE_READ(skb, head) == value->buffer &&
	       BPF_CORE_READ(skb, len) == value->length;
}

/* Told also when there was nothing to take out: then skb is NULL. */
SEC("tp_btf/qdisc_dequeue")
int BPF_PROG(qdisc_dequeue, const struct Qdisc *qdisc, const struct netdev_queue *queue, int packets,
	     const struct sk_buff *skb)
{
	__u64 key = (__u64)skb;
	const struct net_device *dev = queue->dev;

	if (!key || !dev || packets < 1)
		return 0;

	struct queued *found = bpf_map_lookup_elem(&queued, &key);
	__u64 netns = device_net(dev);
	int untimed = packets - 1;

	if (found && is_the_same(found, skb)) {
		__u64 ns = bpf_ktime_get_ns() - found->at_ns;

		bpf_map_delete_elem(&queued, &key);
		add_up(netns, 0, dev->ifindex, OP_DEQUEUE << 8 | bucket_of(ns), ns);
	} else {
		untimed = packets;
	}
	for (int i = 0; i < 64 && i < untimed; i++)
		add_up(netns, 0, dev->ifindex, OP_UNTIMED << 8, 0);
	return 0;
}

/* A packet that was dropped while it waited. */
SEC("tp_btf/kfree_skb")
int BPF_PROG(kfree_skb, const struct sk_buff *skb)
{
	__u64 key = (__u64)skb;

	bpf_map_delete_elem(&queued, &key);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
