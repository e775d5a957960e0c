// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * tcp-state: connections opened, accepted, failed and closed, with what they were like.
 *
 * One record per transition that matters: a connection that closes through FIN_WAIT1, FIN_WAIT2 and
 * TIME_WAIT is reported once, when its socket reaches CLOSE. An accepted connection that never was
 * established is not reported. TCP only: MPTCP, SCTP and DCCP share the tracepoint.
 */
#include "net.h"

enum transition_kind {
	KIND_CONNECTED = 1,
	KIND_ACCEPTED = 2,
	KIND_FAILED = 3,
	KIND_CLOSED = 4,
};
CONSTANTS(transition_kind);

struct tcp_state {
	struct head head;
	__u64 duration_ns;
	__u64 bytes_sent;
	__u64 bytes_received;
	__u32 srtt_us;
	__u32 retransmits;
	__u32 error;
	__u8 old_state;
	__u8 new_state;
	__u16 pad;
};
RECORD(tcp_state);

/*
 * Since when a socket is in SYN_SENT, or established. Keyed by address, which is safe although
 * addresses are reused: CLOSE removes the entry, and a new connection overwrites it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, __u64);
} since SEC(".maps");

/* The kind of record that a transition makes, 0 = none. */
static __always_inline __u16 kind_of(int old_state, int new_state)
{
	if (new_state == TCP_ESTABLISHED)
		return old_state == TCP_SYN_SENT ? KIND_CONNECTED : KIND_ACCEPTED;
	if (new_state != TCP_CLOSE)
		return 0;
	switch (old_state) {
	case TCP_SYN_SENT:
		return KIND_FAILED;
	case TCP_SYN_RECV:
	case TCP_NEW_SYN_RECV:
	case TCP_LISTEN:
	case TCP_CLOSE:
		return 0;
	}
	return KIND_CLOSED;
}

/* Takes the time since the last remembered moment, and remembers or forgets this one. */
static __always_inline __u64 lap(const struct sock *sk, int new_state)
{
	__u64 key = (__u64)sk;
	__u64 now = bpf_ktime_get_boot_ns();
	__u64 *start = bpf_map_lookup_elem(&since, &key);
	__u64 duration = start ? now - *start : 0;

	if (new_state == TCP_CLOSE) {
		if (start)
			bpf_map_delete_elem(&since, &key);
	} else if (start) {
		*start = now;
	} else {
		bpf_map_update_elem(&since, &key, &now, BPF_ANY);
	}
	return duration;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state, const struct sock *sk, const int old_state, const int new_state)
{
	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;

	__u64 duration = 0;
	__u16 kind = kind_of(old_state, new_state);

	if (kind || new_state == TCP_SYN_SENT || new_state == TCP_CLOSE)
		duration = lap(sk, new_state);
	if (!kind)
		return 0;

	struct tcp_state *record = RESERVE(tcp_state, socket_net(sk));

	if (!record)
		return 0;
	record->head.kind = kind;
	record->head.proto = IPPROTO_TCP;
	record->head.tcp_state = new_state;
	tcp_addresses(&record->head, sk);
	/* A handshake that a listener answers is a request until it ends: no socket to time it by. */
	record->duration_ns = kind == KIND_ACCEPTED ? 0 : duration;
	record->error = sk->sk_err;
	record->old_state = old_state;
	record->new_state = new_state;

	const struct tcp_sock *tp = bpf_skc_to_tcp_sock((void *)sk);

	if (tp) {
		record->bytes_sent = tp->bytes_acked;
		record->bytes_received = tp->bytes_received;
		record->srtt_us = tp->srtt_us >> 3;
		record->retransmits = tp->total_retrans;
	}
	SUBMIT(record);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
