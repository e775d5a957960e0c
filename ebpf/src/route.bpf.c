// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * route: connects and sends of this node's programs that a route refuses, or that have no route.
 *
 * They end as an error of the system call before there is a packet, so no other probe sees them.
 * The hook is the lookup in a routing table, which serves more than programs: forwarded packets,
 * the source of what arrives (rp_filter, a firewall's `fib`), the kernel's own answers. Reported is
 * a lookup for output and for a protocol, made by a program's task in its system call or with the
 * flow that a socket keeps. The rest is left out, also SYN-ACKs and resets without a route.
 *
 * An IPv4 lookup does not say in which namespace. The socket's is certain; without one (datagrams)
 * it is the task's, which is wrong if it sends on a socket that it made in, or was given from,
 * another namespace. All of this needs bpf_probe_read_kernel.
 */
#include "packet.h"

enum route_kind {
	KIND_REFUSED = 1,
};
CONSTANTS(route_kind);

#define LOOPBACK_IFINDEX 1
#define PF_KTHREAD 0x00200000

/*
 * THREAD_SIZE of x86-64, and of arm64 with pages of 4 KiB. On a kernel with larger stacks system
 * calls run above this, and datagrams are not reported; never is another stack taken for it.
 */
#define STACK_BYTES 16384

/* User ABI of rtnetlink. */
enum route_type {
	RTN_UNSPEC = 0,
	RTN_BLACKHOLE = 6,
	RTN_UNREACHABLE = 7,
	RTN_PROHIBIT = 8,
};
CONSTANTS(route_type);
#define RT_TABLE_MAIN 254

#define EAGAIN 11
#define EACCES 13
#define EINVAL 22
#define ENETUNREACH 101
#define EHOSTUNREACH 113

struct route {
	struct head head;
	__u32 error;
	__u32 table;
	__u32 ifindex;
	__u32 pid;
	__u8 comm[16];
	__u8 route_type;
	__u8 in_socket;
	__u8 pad[6];
};
RECORD(route);

/* Who made a lookup. */
struct asker {
	const struct net *net; /* a number to the verifier */
	bool in_socket;	       /* that keeps the flow, in this state */
	__u8 state;
	bool is_task; /* in a system call of the current one */
};

static __always_inline __u64 number_of(const void *pointer)
{
	__u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &pointer);
	return number;
}

/* The socket whose member this flow is. Any memory is asked, so all that is known must agree. */
static __always_inline struct sock *keeper(__u64 flow, __u8 proto)
{
	struct sock *sk = (struct sock *)(flow - bpf_core_field_offset(struct inet_sock, cork.fl));
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	if (family != AF_INET && family != AF_INET6)
		return NULL;
	if (BPF_CORE_READ(sk, sk_protocol) != proto || !is_net(BPF_CORE_READ(sk, __sk_common.skc_net.net)))
		return NULL;
	return sk;
}

/*
 * False if it is neither a task nor a socket: soft interrupts run on a stack of their own, or on a
 * kernel thread's. The context lies on the stack that is in use.
 */
static __always_inline bool find_asker(struct asker *asker, const void *ctx, const void *flow, __u8 proto)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	__u64 stack = (__u64)BPF_CORE_READ(task, stack);
	__u64 at = number_of(flow);
	struct sock *sk = at - stack < STACK_BYTES ? NULL : keeper(at, proto);

	asker->is_task = number_of(ctx) - stack < STACK_BYTES && !(BPF_CORE_READ(task, flags) & PF_KTHREAD);
	asker->in_socket = sk != NULL;
	if (sk) {
		asker->net = BPF_CORE_READ(sk, __sk_common.skc_net.net);
		asker->state = BPF_CORE_READ(sk, __sk_common.skc_state);
		return true;
	}
	asker->net = BPF_CORE_READ(task, nsproxy, net_ns);
	return asker->is_task && asker->net;
}

/*
 * Output begins at the loopback device. Without a protocol, or without both ports, it is a question
 * and no packet: where an arriving one would be answered, or `ip route get`.
 */
static __always_inline bool is_output(const struct flowi_common *flow, const union flowi_uli *upper)
{
	if (flow->flowic_iif != LOOPBACK_IFINDEX || !flow->flowic_proto)
		return false;
	return !has_ports(flow->flowic_proto) || upper->ports.sport || upper->ports.dport;
}

/* What the kernel makes of a route's type (fib_props, fib6_prop); 0 if it lets packets pass. */
static __always_inline __u32 error_of(__u8 type)
{
	switch (type) {
	case RTN_BLACKHOLE:
		return EINVAL;
	case RTN_UNREACHABLE:
		return EHOSTUNREACH;
	case RTN_PROHIBIT:
		return EACCES;
	}
	return 0;
}

static __always_inline __u8 type_of(int error)
{
	switch (error) {
	case -EINVAL:
		return RTN_BLACKHOLE;
	case -EHOSTUNREACH:
		return RTN_UNREACHABLE;
	case -EACCES:
		return RTN_PROHIBIT;
	}
	return RTN_UNSPEC;
}

static __always_inline struct route *begin(const struct asker *asker, __u64 netns, __u8 type, __u32 table,
					   const struct flowi_common *flow, const union flowi_uli *upper)
{
	struct route *record = RESERVE(route, netns);

	if (!record)
		return NULL;
	record->head.kind = KIND_REFUSED;
	record->head.proto = flow->flowic_proto;
	record->head.flags = FLAG_SOCKET;
	if (has_ports(record->head.proto)) {
		record->head.sport = bpf_ntohs(upper->ports.sport);
		record->head.dport = bpf_ntohs(upper->ports.dport);
		record->head.flags |= FLAG_PORTS;
	}
	record->error = type == RTN_UNSPEC ? ENETUNREACH : error_of(type);
	record->route_type = type;
	record->table = table;
	record->ifindex = flow->flowic_oif;
	record->in_socket = asker->in_socket;
	if (record->head.proto == IPPROTO_TCP)
		record->head.tcp_state = asker->state;
	if (asker->is_task) {
		record->pid = bpf_get_current_pid_tgid() >> 32;
		bpf_get_current_comm(record->comm, sizeof(record->comm));
	}
	return record;
}

/* Whether a miss in the main table is final, because no rule and no table comes after it. */
static __always_inline bool main_is_last(const struct net *net)
{
	if (!bpf_core_field_exists(net->ipv4.fib_has_custom_rules))
		return true;
	return !BPF_CORE_READ(net, ipv4.fib_has_custom_rules) && !BPF_CORE_READ(net, ipv4.fib_default);
}

/* To a given device without a route, IPv4 sends all the same, as if the destination were on its link. */
static __always_inline bool is_assumed_on_link(const struct flowi_common *flow)
{
	if (!flow->flowic_oif)
		return false;
	return !bpf_core_field_exists(flow->flowic_l3mdev) || !flow->flowic_l3mdev;
}

/* Most lookups find a route, and a table that has none says -EAGAIN: the next one is asked. */
SEC("tp_btf/fib_table_lookup")
int BPF_PROG(fib_table_lookup, __u32 table, const struct flowi4 *flow, const struct fib_nh_common *nhc,
	     int error)
{
	if (error >= 0 || (error == -EAGAIN && table != RT_TABLE_MAIN))
		return 0;

	const struct flowi_common *common = &flow->__fl_common;
	struct asker asker = {};

	if (!may_read_kernel || !is_output(common, &flow->uli) || is_assumed_on_link(common) ||
	    !find_asker(&asker, ctx, flow, common->flowic_proto) ||
	    (error == -EAGAIN && !main_is_last(asker.net)))
		return 0;

	struct route *record =
		begin(&asker, read_net_id(asker.net), type_of(error), table, common, &flow->uli);

	if (!record)
		return 0;

	__be32 saddr = flow->saddr, daddr = flow->daddr;

	map_ipv4(record->head.saddr, &saddr);
	map_ipv4(record->head.daddr, &daddr);
	SUBMIT(record);
	return 0;
}

static __always_inline bool is_unset(const struct in6_addr *address)
{
	__u64 halves[2];

	__builtin_memcpy(halves, address, sizeof(halves));
	return !(halves[0] | halves[1]);
}

/*
 * Finds the null entry where there is no route. A refusal without a source address is not the last
 * word: the kernel chooses one and asks again, for routes may depend on it.
 */
SEC("tp_btf/fib6_table_lookup")
int BPF_PROG(fib6_table_lookup, const struct net *net, const struct fib6_result *found,
	     const struct fib6_table *table, const struct flowi6 *flow)
{
	__u8 type = found->fib6_type;
	bool misses = found->f6i == net->ipv6.fib6_null_entry;

	if (!misses && !error_of(type))
		return 0;
	if (misses) {
		if (table->tb6_id != RT_TABLE_MAIN)
			return 0;
		if (bpf_core_field_exists(net->ipv6.fib6_has_custom_rules) && net->ipv6.fib6_has_custom_rules)
			return 0;
		/* The null entry has a type of its own. */
		type = RTN_UNSPEC;
	}

	const struct flowi_common *common = &flow->__fl_common;
	struct asker asker = {};

	if (!may_read_kernel || !is_output(common, &flow->uli) || is_unset(&flow->saddr) ||
	    !find_asker(&asker, ctx, flow, common->flowic_proto))
		return 0;

	struct route *record = begin(&asker, net_id(net), type, table->tb6_id, common, &flow->uli);

	if (!record)
		return 0;
	__builtin_memcpy(record->head.saddr, &flow->saddr, 16);
	__builtin_memcpy(record->head.daddr, &flow->daddr, 16);
	SUBMIT(record);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
