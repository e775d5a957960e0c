// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * tcp-retransmit: what TCP retransmits, why, and how its congestion state changes.
 *
 * One record is one call, which may carry several segments (RetransSegs counts those). A
 * retransmission that the host itself could not send is left out, as the kernels before 6.16,
 * which lack `err`, leave it out.
 */
#include "net.h"

enum retransmit_kind {
	KIND_SEGMENT = 1,
	KIND_SYNACK = 2,
	KIND_CONG_STATE = 3,
};
CONSTANTS(retransmit_kind);

enum retransmit_why {
	WHY_SYN = 1,
	WHY_RTO = 2,
	WHY_FAST = 3,
	WHY_TLP = 4,
	WHY_LOSS = 5,
};
CONSTANTS(retransmit_why);

struct tcp_retransmit {
	struct head head;
	__u32 seq;
	__u32 seq_distance;
	__u32 length;
	__u32 total;
	__u8 ca_state;
	__u8 why;
	__u8 timeouts;
	__u8 tcp_flags;
	__u32 pad;
};
RECORD(tcp_retransmit);

/*
 * The timer's handler clears icsk_pending before it retransmits and sets it again afterwards, so
 * in the loss state a pending timer means that an acknowledgement, not the timer, is at work. A
 * tail-loss probe is sent with its own timer still pending, and never in recovery or loss.
 */
static __always_inline __u8 classify(__u8 state, __u8 ca_state, __u8 pending)
{
	if (state == TCP_SYN_SENT || state == TCP_SYN_RECV)
		return WHY_SYN;
	if (ca_state == TCP_CA_LOSS)
		return pending == ICSK_TIME_RETRANS ? WHY_LOSS : WHY_RTO;
	if (ca_state == TCP_CA_RECOVERY)
		return WHY_FAST;
	if (pending == ICSK_TIME_LOSS_PROBE)
		return WHY_TLP;
	return 0;
}

/* A record filled from the socket, or NULL if there is no room for it. */
static __always_inline struct tcp_retransmit *begin(const struct sock *sk, const struct tcp_sock *tp,
						    __u16 kind)
{
	struct tcp_retransmit *record = RESERVE(tcp_retransmit, socket_net(sk));

	if (!record)
		return NULL;
	record->head.kind = kind;
	record->head.proto = IPPROTO_TCP;
	record->head.tcp_state = sk->__sk_common.skc_state;
	socket_addresses(&record->head, sk, false);
	record->total = tp->total_retrans;
	record->timeouts = tp->inet_conn.icsk_retransmits;
	return record;
}

static __always_inline int segment(const struct sock *sk, const struct sk_buff *skb)
{
	const struct tcp_sock *tp = bpf_skc_to_tcp_sock((void *)sk);

	if (!tp)
		return 0;

	struct tcp_retransmit *record = begin(sk, tp, KIND_SEGMENT);

	if (!record)
		return 0;

	const struct tcp_skb_cb *cb = (const void *)skb->cb;

	record->seq = cb->seq;
	record->seq_distance = cb->seq - tp->snd_una;
	record->tcp_flags = cb->tcp_flags;
	record->length = skb->len;
	record->ca_state = BPF_CORE_READ_BITFIELD(tp, inet_conn.icsk_ca_state);
	record->why = classify(record->head.tcp_state, record->ca_state, tp->inet_conn.icsk_pending);
	SUBMIT(record);
	return 0;
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(tcp_retransmit_skb_3, const struct sock *sk, const struct sk_buff *skb, int err)
{
	return err ? 0 : segment(sk, skb);
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(tcp_retransmit_skb_2, const struct sock *sk, const struct sk_buff *skb)
{
	return segment(sk, skb);
}

/* The connection is still a request here; it has the addresses, the listener the namespace. */
SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(tcp_retransmit_synack, const struct sock *sk, const struct request_sock *req)
{
	struct tcp_retransmit *record = RESERVE(tcp_retransmit, socket_net(sk));

	if (!record)
		return 0;
	record->head.kind = KIND_SYNACK;
	record->head.proto = IPPROTO_TCP;
	record->head.tcp_state = req->__req_common.skc_state;
	socket_addresses(&record->head, (const struct sock *)req, false);
	record->total = req->num_retrans + 1; /* counted only after it was sent */
	record->timeouts = BPF_CORE_READ_BITFIELD(req, num_timeout);
	record->why = WHY_SYN;
	SUBMIT(record);
	return 0;
}

/* Runs before the change. A state that is set although it already holds makes no record. */
SEC("tp_btf/tcp_cong_state_set")
int BPF_PROG(tcp_cong_state_set, const struct sock *sk, const __u8 ca_state)
{
	const struct tcp_sock *tp = bpf_skc_to_tcp_sock((void *)sk);

	if (!tp || BPF_CORE_READ_BITFIELD(tp, inet_conn.icsk_ca_state) == ca_state)
		return 0;

	struct tcp_retransmit *record = begin(sk, tp, KIND_CONG_STATE);

	if (!record)
		return 0;
	record->ca_state = ca_state;
	SUBMIT(record);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
