/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What every probe has: its ring with the maps beside it, the record head, and the one way by
 * which a record gets into the ring.
 *
 * What must stay true, per probe: produced == submitted + lost_ring + lost_limit, exactly. So a
 * probe never calls bpf_ringbuf_reserve itself; it uses RESERVE, which counts every outcome. What
 * is added up instead of getting a record (sums.h) is counted apart, in added.
 */
#ifndef INSPECTOR_RECORD_H
#define INSPECTOR_RECORD_H

#include "kernel.h"

/* Set by the host before load. */
const volatile __u32 limit_per_second = 2000; /* per network namespace, 0 = no limit */
const volatile __u32 limit_burst = 4000;      /* records at once after a quiet time */
const volatile __u32 wake_bytes = 1 << 20;    /* fill of the ring that wakes a waking reader early */
const volatile __u32 may_read_kernel = 1;     /* 0: lockdown forbids bpf_probe_read_kernel */

/*
 * Puts what C and Rust share into the object's BTF, where the layout test reads it: a record, and
 * an enum whose constants stand in the mirror as well.
 */
#define RECORD(type) struct type *const volatile type##_layout = NULL
#define CONSTANTS(name) enum name *const volatile name##_constants = NULL

CONSTANTS(ip_protocol);
CONSTANTS(socket_state);

/* What of a head is set, and by what. */
enum head_flag {
	FLAG_PACKET = 1,
	FLAG_SOCKET = 2,
	FLAG_DEVICE = 4,
	FLAG_PORTS = 8,
};
CONSTANTS(head_flag);

struct head {
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
};

struct counters {
	__u64 produced;
	__u64 lost_ring;
	__u64 lost_limit;
	__u64 added[2]; /* to the sums of each epoch */
};

/* Shared with the reader by mmap. */
struct control {
	__u32 asleep; /* the reader waits and must be woken */
	__u32 epoch;  /* which sums are being added to, see sums.h */
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control);
} control SEC(".maps");

/* Per network namespace, the time up to which its records are paid for. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, __u64);
} buckets SEC(".maps");

static __always_inline struct control *control_block(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&control, &zero);
}

/* Atomic, because a soft interrupt may run another program of this object on this CPU. */
static __always_inline void count(__u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

/* The counters of this CPU. Never NULL: the lookup is of element 0 of 1. */
static __always_inline struct counters *own_counters(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&counters, &zero);
}

/* Counts one more record that is wanted. */
static __always_inline struct counters *produce(void)
{
	struct counters *mine = own_counters();

	if (mine)
		count(&mine->produced);
	return mine;
}

/*
 * Token bucket, written as the time up to which its namespace has paid, so that it is one word.
 * CPUs that race here admit a record too many, never miscount one; a compare-and-swap would
 * cost the kernels before 5.12.
 */
static __always_inline bool admitted(__u64 netns, __u64 now)
{
	if (!limit_per_second)
		return true;

	__u64 interval = 1000000000u / limit_per_second;
	__u64 *paid_until = bpf_map_lookup_elem(&buckets, &netns);

	if (!paid_until) {
		__u64 first = now + interval;

		bpf_map_update_elem(&buckets, &netns, &first, BPF_ANY);
		return true;
	}

	__u64 until = *paid_until;

	if (until < now) {
		*paid_until = now + interval;
		return true;
	}
	if (until - now >= interval * limit_burst)
		return false;
	__sync_fetch_and_add(paid_until, interval);
	return true;
}

/* Room for a record, zeroed, with the part of the head that is the same everywhere. */
static __always_inline void *reserve(struct counters *mine, __u64 size, __u64 netns, __u64 now)
{
	struct head *head = bpf_ringbuf_reserve(&events, size, 0);

	if (!head) {
		count(&mine->lost_ring);
		return NULL;
	}
	__builtin_memset(head, 0, size);
	head->ts_ns = now;
	head->netns = netns;
	head->cpu = bpf_get_smp_processor_id();
	return head;
}

static __always_inline void *reserve_within_limit(__u64 size, __u64 netns)
{
	struct counters *mine = produce();
	__u64 now = bpf_ktime_get_boot_ns();

	if (!mine)
		return NULL;
	if (!admitted(netns, now)) {
		count(&mine->lost_limit);
		return NULL;
	}
	return reserve(mine, size, netns, now);
}

/* Room for one record of a namespace, or NULL: then its loss is counted already. */
#define RESERVE(type, netns) ((struct type *)reserve_within_limit(sizeof(struct type), netns))

/*
 * No wake-up per record: one if the reader sleeps, and one by the record that crosses the
 * threshold. A crossing that two CPUs make together may be missed, which costs a reader that is
 * awake one of its short waits. A flag cleared twice costs one wake-up.
 */
static __always_inline __u64 wakeup(__u64 size)
{
	struct control *shared = control_block();

	if (shared && shared->asleep) {
		shared->asleep = 0;
		return BPF_RB_FORCE_WAKEUP;
	}

	__u64 filled = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);
	__u64 with_header = size + 8;

	if (filled >= wake_bytes && filled - with_header < wake_bytes)
		return BPF_RB_FORCE_WAKEUP;
	return BPF_RB_NO_WAKEUP;
}

#define SUBMIT(record) bpf_ringbuf_submit(record, wakeup(sizeof(*(record))))

#endif
