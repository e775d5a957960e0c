// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * tx-latency: where the time of a packet goes on its way out, and what a driver refused.
 *
 * QDISC: from being queued to a device until its driver is called. DRIVER: that call. KERNEL: from
 * the time at which TCP sent the segment (5.18 and later; other packets: from being queued) until
 * the driver is called, so it includes netfilter, routing and waiting for a neighbour's address. Each
 * is added up per namespace of the device and bucket; one above SLOW_NS is a record as well.
 *
 * Left out: what is segmented in software behind the queue, since those are packets that never
 * were queued (added up as UNSEEN), and what bypasses the queue (XDP, PACKET_QDISC_BYPASS).
 */
#include "packet.h"
#include "sums.h"

enum tx_kind {
	KIND_SLOW = 1,
	KIND_SUM = 2, /* made by the host, of a sum */
	KIND_ERROR = 3,
};
CONSTANTS(tx_kind);

enum tx_stage {
	STAGE_QDISC = 0,
	STAGE_DRIVER = 1,
	STAGE_KERNEL = 2,
	STAGE_UNSEEN = 3,
	STAGE_ERROR = 4,
};
CONSTANTS(tx_stage);

#define NETDEV_TX_BUSY 16
#define CLOCK_MONOTONIC_STAMP 1

struct tx_latency {
	struct head head;
	__u64 count;
	__u64 duration_ns;
	__u8 device[16];
	__u32 ifindex;
	__u32 length;
	__s32 code;
	__u16 bucket;
	__u8 stage;
	__u8 pad;
};
RECORD(tx_latency);

/* A packet that one device's driver has still to take; stacked devices pass it on as it is. */
struct packet {
	__u64 skb;
	__u64 device;
};

/*
 * The key is the address of the packet, which the kernel reuses. Every packet is written here when
 * it is queued, but for a segment that was made behind the queue; buffer and length tell it from the
 * packet that had its address before: a dropped packet is forgotten at once, one that was cut into
 * segments is longer than any of them.
 */
struct queued {
	__u64 at_ns;
	__u64 sent_ns;
	__u64 started_ns; /* 0: not yet with the driver */
	__u64 buffer;
	__u32 length;
	__u32 cpu; /* that called the driver; the call ends there too */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct packet);
	__type(value, struct queued);
} queued SEC(".maps");

/* When TCP sent it (CLOCK_MONOTONIC), else now. For a paced packet the stamp lies in the future. */
static __always_inline __u64 sent_at(const struct sk_buff *skb, __u64 now)
{
	__u64 at = 0;

	if (bpf_core_field_exists(skb->tstamp_type)) {
		if (BPF_CORE_READ_BITFIELD(skb, tstamp_type) == CLOCK_MONOTONIC_STAMP)
			at = skb->skb_mstamp_ns;
	} else if (bpf_core_field_exists(skb->mono_delivery_time)) {
		if (BPF_CORE_READ_BITFIELD(skb, mono_delivery_time))
			at = skb->skb_mstamp_ns;
	}
	return at && at < now ? at : now;
}

static __always_inline struct tx_latency *record_of(const struct net_device *dev, __u16 kind, __u8 stage)
{
	struct tx_latency *record = RESERVE(tx_latency, device_net(dev));

	if (!record)
		return NULL;
	record->head.kind = kind;
	record->head.flags = FLAG_DEVICE;
	record->count = 1;
	record->stage = stage;
	record->ifindex = dev->ifindex;
	__builtin_memcpy(record->device, dev->name, sizeof(record->device));
	return record;
}

/* `skb` is NULL where the packet may be freed already: then its record has no addresses. */
static __always_inline void observe(const struct sk_buff *skb, const struct net_device *dev, __u8 stage,
				    __u64 ns, __u32 length)
{
	__u16 bucket = bucket_of(ns);

	add_up(device_net(dev), 0, 0, stage << 8 | bucket, ns);
	if (ns <= SLOW_NS)
		return;

	struct tx_latency *record = record_of(dev, KIND_SLOW, stage);

	if (!record)
		return;
	record->duration_ns = ns;
	record->bucket = bucket;
	record->length = length;
	if (skb)
		packet_addresses(&record->head, skb);
	SUBMIT(record);
}

SEC("tp_btf/net_dev_queue")
int BPF_PROG(net_dev_queue, const struct sk_buff *skb)
{
	__u64 now = bpf_ktime_get_ns();
	struct packet key = {.skb = (__u64)skb, .device = (__u64)skb->dev};
	struct queued value = {
		.at_ns = now,
		.sent_ns = sent_at(skb, now),
		.buffer = (__u64)skb->head,
		.length = skb->len,
	};

	bpf_map_update_elem(&queued, &key, &value, BPF_ANY);
	return 0;
}

SEC("tp_btf/net_dev_start_xmit")
int BPF_PROG(net_dev_start_xmit, const struct sk_buff *skb, const struct net_device *dev)
{
	struct packet key = {.skb = (__u64)skb, .device = (__u64)dev};
	struct queued *value = bpf_map_lookup_elem(&queued, &key);

	if (!value || value->buffer != (__u64)skb->head || value->length != skb->len) {
		add_up(device_net(dev), 0, 0, STAGE_UNSEEN << 8, 0);
		if (value)
			bpf_map_delete_elem(&queued, &key);
		return 0;
	}

	__u64 now = bpf_ktime_get_ns();

	/* Observed once: a driver that was busy is called once more with the same packet. */
	if (!value->started_ns) {
		observe(skb, dev, STAGE_QDISC, now - value->at_ns, skb->len);
		observe(skb, dev, STAGE_KERNEL, now - value->sent_ns, skb->len);
	}
	value->started_ns = now;
	value->cpu = bpf_get_smp_processor_id();
	return 0;
}

/* The packet may be freed by now, so nothing of it is read. */
SEC("tp_btf/net_dev_xmit")
int BPF_PROG(net_dev_xmit, const struct sk_buff *skb, int code, const struct net_device *dev,
	     unsigned int length)
{
	struct packet key = {.skb = (__u64)skb, .device = (__u64)dev};
	struct queued *found = bpf_map_lookup_elem(&queued, &key);
	__u64 now = bpf_ktime_get_ns();

	if (code != 0 && code != NETDEV_TX_BUSY) {
		add_up(device_net(dev), 0, dev->ifindex, STAGE_ERROR << 8, 0);

		struct tx_latency *record = record_of(dev, KIND_ERROR, STAGE_ERROR);

		if (record) {
			record->code = code;
			record->length = length;
			SUBMIT(record);
		}
	}
	/* Meanwhile its address may be that of a packet which another CPU queued. */
	if (!found || !found->started_ns || found->cpu != bpf_get_smp_processor_id() ||
	    code == NETDEV_TX_BUSY)
		return 0;

	__u64 ns = now - found->started_ns;

	bpf_map_delete_elem(&queued, &key);
	observe(NULL, dev, STAGE_DRIVER, ns, length);
	return 0;
}

/* A packet that was dropped while it waited. */
SEC("tp_btf/kfree_skb")
int BPF_PROG(kfree_skb, const struct sk_buff *skb)
{
	struct packet key = {.skb = (__u64)skb, .device = (__u64)skb->dev};

	bpf_map_delete_elem(&queued, &key);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
