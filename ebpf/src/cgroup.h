/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Packets as a program on the cgroup tree sees them: from the IP header on, with their socket.
 *
 * Bytes are loaded by a helper that lockdown does not forbid. Whose namespace it is needs
 * bpf_probe_read_kernel: at run time the context is the kernel's sk_buff itself, though a program
 * may read it only through the fields of the interface. Extension headers of IPv6 are not walked.
 */
#ifndef INSPECTOR_CGROUP_H
#define INSPECTOR_CGROUP_H

#include "packet.h"

/* The verdict that lets a packet pass. */
#define PASS 1

struct ports {
	__be16 source;
	__be16 dest;
};

struct ipv4_packet {
	struct ipv4 ip;
	struct ports ports;
};

struct ipv6_packet {
	struct ipv6 ip;
	struct ports ports;
};

/* The namespace of the packet's socket, 0 = unknown. */
static __always_inline __u64 owner_net(struct __sk_buff *ctx)
{
	struct sk_buff *skb = (void *)ctx;

	if (!may_read_kernel)
		return 0;

	struct net *net = BPF_CORE_READ(skb, sk, __sk_common.skc_net.net);

	return net ? read_net_id(net) : 0;
}

#endif
