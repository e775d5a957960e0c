/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Whose is it: network namespaces and addresses, taken from devices and sockets.
 *
 * Pointers that the verifier knows are read directly, which lockdown never refuses; only a
 * packet's route needs bpf_probe_read_kernel.
 */
#ifndef INSPECTOR_NET_H
#define INSPECTOR_NET_H

#include "record.h"

/*
 * Whether argument n of the tracepoint is NULL, asked of memory where the program's own check is
 * not enough. Kernels from 6.2 until the fix of CVE-2024-56702 believe that no argument ever is,
 * delete the check, and then oops; what a helper wrote they cannot reason about.
 */
static __always_inline bool argument_is_null(const void *ctx, int n)
{
	__u64 argument = 0;

	if (bpf_core_type_exists(struct bpf_raw_tp_null_args) || !may_read_kernel)
		return false;
	bpf_probe_read_kernel(&argument, sizeof(argument), (const __u64 *)ctx + n);
	return !argument;
}

/* The cookie (5.12 and later), else the inode number; 0 = unknown. */
static __always_inline __u64 net_id(const struct net *net)
{
	if (!net)
		return 0;
	if (bpf_core_field_exists(net->net_cookie))
		return net->net_cookie;
	return net->ns.inum;
}

/* net_id() where the pointer is a number to the verifier, so that it takes bpf_probe_read_kernel. */
static __always_inline __u64 read_net_id(const struct net *net)
{
	if (bpf_core_field_exists(net->net_cookie))
		return BPF_CORE_READ(net, net_cookie);
	return BPF_CORE_READ(net, ns.inum);
}

/* Whether this number is a namespace: its loopback device points back at it. */
static __always_inline bool is_net(const struct net *net)
{
	return net && BPF_CORE_READ(net, loopback_dev, nd_net.net) == net;
}

static __always_inline __u64 socket_net(const struct sock *sk)
{
	return net_id(sk->__sk_common.skc_net.net);
}

/*
 * The namespace of skb->dev. That field shares its storage with an rb-tree node (TCP's
 * out-of-order queue) and with UDP's scratch space, so it may hold no device at all; a namespace
 * is believed only if its loopback device points back at it.
 */
static __always_inline __u64 device_net(const struct net_device *dev)
{
	if (!dev)
		return 0;

	const struct net *net = dev->nd_net.net;

	if (!net)
		return 0;

	const struct net_device *loopback = net->loopback_dev;

	if (!loopback || loopback->nd_net.net != net)
		return 0;
	return net_id(net);
}

/* The namespace of the packet's route; the same doubt, read by helper, since this is a number. */
static __always_inline __u64 route_net(const struct sk_buff *skb)
{
	struct dst_entry *dst = (struct dst_entry *)(skb->_skb_refdst & ~7ul);

	if (!dst || !may_read_kernel)
		return 0;

	struct net *net = BPF_CORE_READ(dst, dev, nd_net.net);

	return is_net(net) ? read_net_id(net) : 0;
}

static __always_inline bool is_inet(const struct sock *sk)
{
	__u16 family = sk->__sk_common.skc_family;

	return family == AF_INET || family == AF_INET6;
}

/* Whether the socket is more than a request or a remnant in TIME_WAIT, which lack most fields. */
static __always_inline bool is_full(const struct sock *sk)
{
	__u8 state = sk->__sk_common.skc_state;

	return state != TCP_NEW_SYN_RECV && state != TCP_TIME_WAIT;
}

static __always_inline void map_ipv4(__u8 *to, const void *address)
{
	to[10] = 0xff;
	to[11] = 0xff;
	__builtin_memcpy(to + 12, address, 4);
}

/* Addresses and ports of a socket; `incoming` makes its peer the source. */
static __always_inline void socket_addresses(struct head *head, const struct sock *sk, bool incoming)
{
	__u8 *local = incoming ? head->daddr : head->saddr;
	__u8 *peer = incoming ? head->saddr : head->daddr;
	__u16 local_port = sk->__sk_common.skc_num;
	__u16 peer_port = bpf_ntohs(sk->__sk_common.skc_dport);

	if (sk->__sk_common.skc_family == AF_INET) {
		__be32 address = sk->__sk_common.skc_rcv_saddr;

		map_ipv4(local, &address);
		address = sk->__sk_common.skc_daddr;
		map_ipv4(peer, &address);
	} else if (bpf_core_field_exists(sk->__sk_common.skc_v6_daddr)) {
		__builtin_memcpy(local, &sk->__sk_common.skc_v6_rcv_saddr, 16);
		__builtin_memcpy(peer, &sk->__sk_common.skc_v6_daddr, 16);
	}
	head->sport = incoming ? peer_port : local_port;
	head->dport = incoming ? local_port : peer_port;
	head->flags |= FLAG_SOCKET | FLAG_PORTS;
}

/* As above for a TCP socket that may be closed: it has given its port back, but kept a copy. */
static __always_inline void tcp_addresses(struct head *head, const struct sock *sk)
{
	const struct tcp_sock *tp = bpf_skc_to_tcp_sock((void *)sk);

	socket_addresses(head, sk, false);
	if (tp)
		head->sport = bpf_ntohs(tp->inet_conn.icsk_inet.inet_sport);
}

#endif
