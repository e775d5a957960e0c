// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * socket-error: errors that the kernel reports to a socket, and packets for which it had no room.
 *
 * Internet sockets only. A report without an error (a timestamp or a zero-copy notice that waits in
 * the error queue) is left out.
 */
#include "packet.h"

enum error_kind {
	KIND_REPORTED = 1,
	KIND_MEMORY = 2,
	KIND_QUEUE_FULL = 3,
	KIND_UDP_REFUSED = 4,
};
CONSTANTS(error_kind);

#define ENOMEM 12

struct socket_error {
	struct head head;
	__u64 memory_pages;
	__u32 error;
	__u32 receive_queued;
	__u32 receive_limit;
	__u32 send_queued;
	__u32 send_limit;
	__u32 length;
	__u8 sending;
	__u8 pad[7];
};
RECORD(socket_error);

/* A record filled from the socket, or NULL. The packet, if any, is one that it received. */
static __always_inline struct socket_error *begin(const struct sock *sk, const struct sk_buff *skb,
						  __u16 kind, __u32 error)
{
	if (!is_inet(sk))
		return NULL;

	struct socket_error *record = RESERVE(socket_error, socket_net(sk));

	if (!record)
		return NULL;
	record->head.kind = kind;
	record->error = error;
	if (skb) {
		packet_addresses(&record->head, skb);
		record->length = skb->len;
	}

	bool tcp = sk->sk_protocol == IPPROTO_TCP;

	if (!(record->head.flags & FLAG_PACKET)) {
		tcp_addresses(&record->head, sk);
		if (!has_ports(sk->sk_protocol)) {
			record->head.flags &= ~FLAG_PORTS;
			record->head.sport = 0;
			record->head.dport = 0;
		}
	}
	record->head.proto = sk->sk_protocol;
	if (tcp)
		record->head.tcp_state = sk->__sk_common.skc_state;
	record->receive_queued = sk->sk_backlog.rmem_alloc.counter;
	record->receive_limit = sk->sk_rcvbuf;
	/* The count of allocated bytes starts at one. */
	record->send_queued = tcp ? sk->sk_wmem_queued : sk->sk_wmem_alloc.refs.counter - 1;
	record->send_limit = sk->sk_sndbuf;
	return record;
}

SEC("tp_btf/inet_sk_error_report")
int BPF_PROG(inet_sk_error_report, const struct sock *sk)
{
	if (!sk->sk_err)
		return 0;

	struct socket_error *record = begin(sk, NULL, KIND_REPORTED, sk->sk_err);

	if (record)
		SUBMIT(record);
	return 0;
}

SEC("tp_btf/sock_exceed_buf_limit")
int BPF_PROG(sock_exceed_buf_limit, const struct sock *sk, const void *proto, long allocated, int receiving)
{
	struct socket_error *record = begin(sk, NULL, KIND_MEMORY, ENOMEM);

	if (!record)
		return 0;
	record->memory_pages = allocated;
	record->sending = !receiving;
	SUBMIT(record);
	return 0;
}

SEC("tp_btf/sock_rcvqueue_full")
int BPF_PROG(sock_rcvqueue_full, const struct sock *sk, const struct sk_buff *skb)
{
	struct socket_error *record = begin(sk, skb, KIND_QUEUE_FULL, ENOMEM);

	if (record)
		SUBMIT(record);
	return 0;
}

static __always_inline int udp_refused(int result, const struct sock *sk, const struct sk_buff *skb)
{
	struct socket_error *record = begin(sk, skb, KIND_UDP_REFUSED, -result);

	if (record)
		SUBMIT(record);
	return 0;
}

/* 6.10 and later. */
SEC("tp_btf/udp_fail_queue_rcv_skb")
int BPF_PROG(udp_fail_queue_rcv_skb_3, int result, const struct sock *sk, const struct sk_buff *skb)
{
	return udp_refused(result, sk, skb);
}

SEC("tp_btf/udp_fail_queue_rcv_skb")
int BPF_PROG(udp_fail_queue_rcv_skb_2, int result, const struct sock *sk)
{
	return udp_refused(result, sk, NULL);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
