// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * softirq: how long the network's soft interrupts wait to be run, and how long they run.
 *
 * Every wait (first raise to entry) and run (entry to exit) of NET_TX and NET_RX is added up per
 * vector, CPU and bucket; one above SLOW_NS is a record as well, with the task that was on the CPU
 * at the raise and the one at the end of the wait. They belong to the node: netns is 0.
 *
 * Left out: the other vectors. A raise that comes between an entry and the reading of its wait is
 * taken for part of it, and the next entry then has no start of a wait.
 */
#include "sums.h"

enum softirq_kind {
	KIND_SLOW = 1,
	KIND_SUM = 2, /* made by the host, of a sum */
};
CONSTANTS(softirq_kind);

/* Numbers that user space sees in /proc/softirqs by order, unchanged since 2.6. */
enum softirq_vector {
	NET_TX = 2,
	NET_RX = 3,
};
CONSTANTS(softirq_vector);

enum softirq_phase {
	PHASE_WAIT = 0,
	PHASE_RUN = 1,
};
CONSTANTS(softirq_phase);

struct softirq {
	struct head head;
	__u64 count;
	__u64 duration_ns;
	__u8 comm[16];
	__u8 raised_comm[16];
	__u32 pid;
	__u32 raised_pid;
	__u16 bucket;
	__u8 vector;
	__u8 phase;
	__u32 pad;
};
RECORD(softirq);

/* The last of each vector on this CPU, 0 = none. */
struct last {
	__u64 raised_ns;
	__u64 entered_ns;
	__u8 raised_comm[16];
	__u32 raised_pid;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct last);
} last SEC(".maps");

static __always_inline struct last *last_of(unsigned int vector)
{
	__u32 index = vector - NET_TX;

	return vector == NET_TX || vector == NET_RX ? bpf_map_lookup_elem(&last, &index) : NULL;
}

static __always_inline void observe(const struct last *mine, unsigned int vector, __u8 phase, __u64 ns)
{
	__u16 bucket = bucket_of(ns);

	add_up(0, vector, bpf_get_smp_processor_id(), phase << 8 | bucket, ns);
	if (ns <= SLOW_NS)
		return;

	struct softirq *record = RESERVE(softirq, 0);

	if (!record)
		return;
	record->head.kind = KIND_SLOW;
	record->count = 1;
	record->duration_ns = ns;
	record->bucket = bucket;
	record->vector = vector;
	record->phase = phase;
	record->pid = bpf_get_current_pid_tgid();
	bpf_get_current_comm(record->comm, sizeof(record->comm));
	record->raised_pid = mine->raised_pid;
	__builtin_memcpy(record->raised_comm, mine->raised_comm, sizeof(record->raised_comm));
	SUBMIT(record);
}

SEC("tp_btf/softirq_raise")
int BPF_PROG(softirq_raise, unsigned int vector)
{
	struct last *mine = last_of(vector);

	/* Raised once more before it ran: it has been waiting since the first time. */
	if (!mine || mine->raised_ns)
		return 0;
	mine->raised_pid = bpf_get_current_pid_tgid();
	bpf_get_current_comm(mine->raised_comm, sizeof(mine->raised_comm));
	mine->raised_ns = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/softirq_entry")
int BPF_PROG(softirq_entry, unsigned int vector)
{
	struct last *mine = last_of(vector);

	if (!mine)
		return 0;

	__u64 now = bpf_ktime_get_ns();
	__u64 raised = mine->raised_ns;

	mine->raised_ns = 0;
	mine->entered_ns = now;
	if (raised)
		observe(mine, vector, PHASE_WAIT, now - raised);
	return 0;
}

SEC("tp_btf/softirq_exit")
int BPF_PROG(softirq_exit, unsigned int vector)
{
	struct last *mine = last_of(vector);

	if (!mine || !mine->entered_ns)
		return 0;

	__u64 ns = bpf_ktime_get_ns() - mine->entered_ns;

	mine->entered_ns = 0;
	observe(mine, vector, PHASE_RUN, ns);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
