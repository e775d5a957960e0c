// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * neighbour: hosts on the link that do not answer (ARP, neighbour discovery), or whose link-layer
 * address changes, and a table that is full.
 *
 * Left out: everything that goes well. The neighbour's address lies behind the last member that
 * the verifier knows of, so under lockdown=confidentiality records come without it. Of link-layer
 * addresses the first 8 bytes are looked at (all but InfiniBand's are shorter).
 */
#include "net.h"

enum neighbour_kind {
	KIND_FAILED = 1,
	KIND_CHANGED = 2,
	KIND_CLAIMED = 3,
	KIND_TABLE_FULL = 4,
	KIND_DEAD = 5,
	KIND_UNANSWERED = 6,
};
CONSTANTS(neighbour_kind);

enum neighbour_state {
	NUD_INCOMPLETE = 0x01,
	NUD_PROBE = 0x10,
	NUD_FAILED = 0x20,
};
CONSTANTS(neighbour_state);
/* NUD_VALID: its link-layer address may be used. */
#define NUD_VALID 0xde

#define NEIGH_UPDATE_F_OVERRIDE 1

#define LLADDR 8

struct neighbour_event {
	struct head head;
	__u32 ifindex;
	__u32 probes;
	__u8 old_lladdr[LLADDR];
	__u8 new_lladdr[LLADDR];
	__u8 lladdr_length;
	__u8 old_state;
	__u8 new_state;
	__u8 pad[5];
};
RECORD(neighbour_event);

/* AF_INET and AF_INET6; the table of Bluetooth or DECnet is none of ours. */
static __always_inline void address(struct head *head, int family, const void *key)
{
	__be32 ipv4;

	if (!may_read_kernel)
		return;
	if (family == AF_INET6) {
		bpf_probe_read_kernel(head->daddr, 16, key);
	} else if (!bpf_probe_read_kernel(&ipv4, sizeof(ipv4), key)) {
		map_ipv4(head->daddr, &ipv4);
	}
}

static __always_inline struct neighbour_event *begin(__u16 kind, int family, const struct net_device *dev,
						     const void *key)
{
	if (!dev || (family != AF_INET && family != AF_INET6))
		return NULL;

	struct neighbour_event *record = RESERVE(neighbour_event, device_net(dev));

	if (!record)
		return NULL;
	record->head.kind = kind;
	record->head.flags = FLAG_DEVICE;
	record->ifindex = dev->ifindex;
	address(&record->head, family, key);
	return record;
}

static __always_inline struct neighbour_event *begin_with(__u16 kind, const struct neighbour *n)
{
	const struct net_device *dev = n->dev;
	const struct neigh_table *table = n->tbl;

	if (!dev || !table)
		return NULL;

	struct neighbour_event *record = begin(kind, table->family, dev, n->primary_key);

	if (!record)
		return NULL;
	record->probes = n->probes.counter;
	record->old_state = n->nud_state;
	record->new_state = n->nud_state;
	record->lladdr_length = dev->addr_len;
	__builtin_memcpy(record->old_lladdr, n->ha, LLADDR);
	__builtin_memcpy(record->new_lladdr, n->ha, LLADDR);
	return record;
}

static __always_inline bool is_zero(const __u8 *lladdr)
{
	__u8 any = 0;

#pragma unroll
	for (int i = 0; i < LLADDR; i++)
		any |= lladdr[i];
	return !any;
}

/*
 * What the timer's work has left behind, 0 = nothing of note. One that is not known was asked for
 * when its entry was made, so any run of the timer means a request in vain; one that is known is
 * asked for by the timer only, the first time after some seconds without a sign of it.
 */
static __always_inline __u16 timer_kind(__u8 state, int probes)
{
	if (state == NUD_FAILED)
		return KIND_FAILED;
	if (state == NUD_INCOMPLETE || (state == NUD_PROBE && probes > 1))
		return KIND_UNANSWERED;
	return 0;
}

/*
 * Runs when the timer's work is done. A neighbour that fails keeps the link-layer address that it
 * had, which tells one that went away from one that never was there.
 */
SEC("tp_btf/neigh_timer_handler")
int BPF_PROG(neigh_timer_handler, const struct neighbour *n, int error)
{
	__u16 kind = timer_kind(n->nud_state, n->probes.counter);

	if (!kind)
		return 0;

	struct neighbour_event *record = begin_with(kind, n);

	if (!record)
		return 0;
	record->old_state = is_zero(record->old_lladdr) ? NUD_INCOMPLETE : NUD_PROBE;
	SUBMIT(record);
	return 0;
}

/* Runs before the update. One that may not override is a claim that the kernel turns down. */
SEC("tp_btf/neigh_update")
int BPF_PROG(neigh_update, const struct neighbour *n, const void *lladdr, __u8 state, __u32 flags)
{
	__u8 old[LLADDR], new[LLADDR] = {};

	if (!(n->nud_state & NUD_VALID) || !lladdr || !may_read_kernel)
		return 0;

	const struct net_device *dev = n->dev;

	if (!dev)
		return 0;

	__u8 length = dev->addr_len;

	if (length == 0)
		return 0;
	if (length > LLADDR)
		length = LLADDR;
	if (bpf_probe_read_kernel(new, length, lladdr))
		return 0;
	__builtin_memcpy(old, n->ha, LLADDR);

	bool differs = false;

#pragma unroll
	for (int i = 0; i < LLADDR; i++)
		differs |= i < length && old[i] != new[i];
	/* An entry for which no address is needed holds zeros. */
	if (!differs || is_zero(old))
		return 0;

	__u16 kind = flags & NEIGH_UPDATE_F_OVERRIDE ? KIND_CHANGED : KIND_CLAIMED;
	struct neighbour_event *record = begin_with(kind, n);

	if (!record)
		return 0;
	record->new_state = state;
	__builtin_memcpy(record->new_lladdr, new, LLADDR);
	SUBMIT(record);
	return 0;
}

/*
 * Without a neighbour there was no room for one: the table holds gc_thresh3 entries, none of which
 * can be given up, or memory ran out. Whether there is one is asked of memory, because verifiers
 * believe that no argument is NULL and would drop the check; and so is the key, because those
 * before 6.16 refuse to load a pointer to const void.
 */
SEC("tp_btf/neigh_create")
int BPF_PROG(neigh_create, const struct neigh_table *table, const struct net_device *dev)
{
	struct {
		const void *key;
		const void *neighbour;
	} arguments = {};

	if (!may_read_kernel ||
	    bpf_probe_read_kernel(&arguments, sizeof(arguments), (const __u64 *)ctx + 2) ||
	    arguments.neighbour)
		return 0;

	struct neighbour_event *record = begin(KIND_TABLE_FULL, table->family, dev, arguments.key);

	if (record)
		SUBMIT(record);
	return 0;
}

SEC("tp_btf/neigh_event_send_dead")
int BPF_PROG(neigh_event_send_dead, const struct neighbour *n, int result)
{
	struct neighbour_event *record = begin_with(KIND_DEAD, n);

	if (record)
		SUBMIT(record);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
