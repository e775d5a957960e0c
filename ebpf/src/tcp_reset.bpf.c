// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * tcp-reset: TCP resets that the local stack sent or received.
 *
 * A received reset is seen once the socket has accepted it. Before 6.10 a sent one is seen only
 * if there was a socket, so not for a closed port, and without a reason.
 */
#include "packet.h"

enum reset_kind {
	KIND_SENT = 1,
	KIND_RECEIVED = 2,
};
CONSTANTS(reset_kind);

struct tcp_reset {
	struct head head;
	__u32 reason;
	__u8 has_reason;
	__u8 has_socket;
	__u8 has_segment;
	__u8 tcp_flags;
};
RECORD(tcp_reset);

static __always_inline __u64 segment_net(const struct sk_buff *skb)
{
	__u64 netns = device_net(skb->dev);

	return netns ? netns : route_net(skb);
}

/* The provoking segment came from the peer: its destination is the sender of the reset. */
static __always_inline void reply_addresses(struct head *head)
{
	__u8 peer[16];
	__u16 port = head->sport;

	__builtin_memcpy(peer, head->saddr, 16);
	__builtin_memcpy(head->saddr, head->daddr, 16);
	__builtin_memcpy(head->daddr, peer, 16);
	head->sport = head->dport;
	head->dport = port;
}

static __always_inline int sent(const struct sock *sk, const struct sk_buff *skb, bool has_reason,
				__u32 reason)
{
	__u64 netns = sk ? socket_net(sk) : skb ? segment_net(skb) : 0;
	struct tcp_reset *record = RESERVE(tcp_reset, netns);

	if (!record)
		return 0;
	record->head.kind = KIND_SENT;
	record->reason = reason;
	record->has_reason = has_reason;
	if (skb) {
		record->has_segment = 1;
		record->tcp_flags = packet_addresses(&record->head, skb);
		reply_addresses(&record->head);
	}
	if (sk) {
		record->has_socket = 1;
		record->head.tcp_state = sk->__sk_common.skc_state;
		if (!(record->head.flags & FLAG_PACKET))
			tcp_addresses(&record->head, sk);
	}
	record->head.proto = IPPROTO_TCP;
	SUBMIT(record);
	return 0;
}

/* 6.10 and later. */
SEC("tp_btf/tcp_send_reset")
int BPF_PROG(tcp_send_reset_3, const struct sock *sk, const struct sk_buff *skb, __u32 reason)
{
	return sent(argument_is_null(ctx, 0) ? NULL : sk, argument_is_null(ctx, 1) ? NULL : skb, true,
		    reason);
}

SEC("tp_btf/tcp_send_reset")
int BPF_PROG(tcp_send_reset_2, const struct sock *sk, const struct sk_buff *skb)
{
	return sent(argument_is_null(ctx, 0) ? NULL : sk, argument_is_null(ctx, 1) ? NULL : skb, false, 0);
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(tcp_receive_reset, const struct sock *sk)
{
	struct tcp_reset *record = RESERVE(tcp_reset, socket_net(sk));

	if (!record)
		return 0;
	record->head.kind = KIND_RECEIVED;
	record->head.proto = IPPROTO_TCP;
	record->head.tcp_state = sk->__sk_common.skc_state;
	record->has_socket = 1;
	tcp_addresses(&record->head, sk);
	SUBMIT(record);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
