/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Adding up in the kernel what is too frequent for a record each: a count and a total per key,
 * which the host turns into records of the probe once a second (sum.rs says what a key means).
 *
 * What must stay true: what is added is counted as added and delivered once; what finds no room is
 * counted as produced and lost_ring.
 */
#ifndef INSPECTOR_SUMS_H
#define INSPECTOR_SUMS_H

#include "record.h"

/*
 * The host flips control.epoch once a second and takes the entries of the epoch before, to which
 * no program can be adding any more: none runs for that long.
 */
struct sum_key {
	__u64 netns;
	__u64 what;
	__u32 which;
	__u16 detail;
	__u16 epoch;
};

struct sum {
	__u64 count;
	__u64 total; /* nanoseconds or bytes, as the probe says */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192); /* of two epochs together */
	__type(key, struct sum_key);
	__type(value, struct sum);
} sums SEC(".maps");

/* Adds one to a sum, or counts it as lost where there is no room for another key. */
static __always_inline void add_up(__u64 netns, __u64 what, __u32 which, __u16 detail, __u64 amount)
{
	struct counters *mine = own_counters();
	struct control *shared = control_block();
	struct sum_key key = {
		.netns = netns,
		.what = what,
		.which = which,
		.detail = detail,
		.epoch = shared ? shared->epoch : 0,
	};

	if (!mine)
		return;

	struct sum *sum = bpf_map_lookup_elem(&sums, &key);

	if (!sum) {
		struct sum none = {};

		/* Another CPU may come first, which is as good. */
		bpf_map_update_elem(&sums, &key, &none, BPF_NOEXIST);
		sum = bpf_map_lookup_elem(&sums, &key);
	}
	if (!sum) {
		count(&mine->produced);
		count(&mine->lost_ring);
		return;
	}
	/* Under the epoch of the sum, so that the host can compare the two when neither changes any more. */
	count(&mine->added[key.epoch & 1]);
	count(&sum->count);
	__sync_fetch_and_add(&sum->total, amount);
}

/* What takes longer gets a record of its own beside its part in a sum. */
#define SLOW_NS 10000000

/*
 * Index of the bucket that a duration falls in: bounds are 1, 2 and 5 times each power of ten from
 * 1 us to 5 s, inclusive, and one bucket is above them all (BOUNDS_NS of sum.rs). Powers of two
 * would be a shift, but 1 ms, 10 ms and 100 ms, which counters ask for, would lie inside buckets.
 */
static __always_inline __u16 bucket_of(__u64 ns)
{
	__u64 decade = 1000;
	__u16 index = 0;

	for (int i = 0; i < 6; i++) {
		if (ns <= 5 * decade)
			break;
		decade *= 10;
		index += 3;
	}
	return index + (ns > decade) + (ns > 2 * decade) + (ns > 5 * decade);
}

#endif
