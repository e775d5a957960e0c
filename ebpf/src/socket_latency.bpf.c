// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * socket-latency: applications that are slow to read what has arrived, and sends that block.
 *
 * Time starts when data is ready and unread, so an idle connection is not a slow reader; it ends
 * with a read, and starts again at once if that left data behind. A read by splice or zero-copy
 * has no tracepoint: it is noticed when the next data arrives, and not timed. A send is timed if it
 * blocks in TCP; two threads that send on one socket at once are timed as one.
 *
 * All are added up per namespace, direction and bucket; one that takes longer than DETAIL_NS makes a
 * record as well.
 */
#include "net.h"
#include "sums.h"

enum latency_kind {
	KIND_READ = 1,
	KIND_SEND = 2,
	KIND_READS = 3, /* these two are made by the host, of sums */
	KIND_SENDS = 4,
};
CONSTANTS(latency_kind);

#define MSG_PEEK 0x2
#define MSG_ERRQUEUE 0x2000

/* What is faster is part of a sum only. */
#define DETAIL_NS 100000000

struct socket_latency {
	struct head head;
	__u64 latency_ns;
	__u64 count;
	__u32 bytes;
	__u32 left;
	__u32 pid;
	__u8 comm[16];
	__u16 bucket;
	__u8 pad[2];
};
RECORD(socket_latency);

struct waiting {
	__u64 ready_ns;	  /* data is unread since, 0 = none is */
	__u64 send_ns;	  /* a send is under way since, 0 = none is */
	__u32 copied_seq; /* up to which TCP had been read at ready_ns */
	__u32 pad;
};

/* In the socket itself, so nothing is left when it is gone. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct waiting);
} waiting SEC(".maps");

/* Another CPU may set a start while this one ends what began before: that took no time. */
static __always_inline __u64 elapsed(__u64 since, __u64 now)
{
	return now > since ? now - since : 0;
}

static __always_inline int timed(const struct sock *sk, __u16 kind, __u64 latency, __u32 bytes, __u32 left)
{
	__u64 netns = socket_net(sk);
	__u16 bucket = bucket_of(latency);

	add_up(netns, kind, 0, bucket, latency);
	if (latency <= DETAIL_NS)
		return 0;

	struct socket_latency *record = RESERVE(socket_latency, netns);

	if (!record)
		return 0;
	record->head.kind = kind;
	record->head.proto = sk->sk_protocol;
	if (sk->sk_protocol == IPPROTO_TCP)
		record->head.tcp_state = sk->__sk_common.skc_state;
	tcp_addresses(&record->head, sk);
	record->latency_ns = latency;
	record->count = 1;
	record->bucket = bucket;
	record->bytes = bytes;
	record->left = left;
	record->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(record->comm, sizeof(record->comm));
	SUBMIT(record);
	return 0;
}

/* 6.3 and later. */
SEC("tp_btf/sk_data_ready")
int BPF_PROG(sk_data_ready, struct sock *sk)
{
	if (!is_inet(sk) || sk->__sk_common.skc_state == TCP_LISTEN)
		return 0;

	struct waiting *mine = bpf_sk_storage_get(&waiting, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (!mine)
		return 0;

	const struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	__u32 copied = tp ? tp->copied_seq : 0;

	if (mine->ready_ns && mine->copied_seq == copied)
		return 0;
	mine->copied_seq = copied;
	mine->ready_ns = bpf_ktime_get_boot_ns();
	return 0;
}

/* Bytes (TCP) or datagrams that a read has left in the queue. */
static __always_inline __u32 unread(const struct sock *sk, const struct tcp_sock *tp)
{
	if (tp)
		return tp->rcv_nxt - tp->copied_seq;

	__u32 datagrams = sk->sk_receive_queue.qlen;

	if (sk->sk_protocol == IPPROTO_UDP && may_read_kernel)
		datagrams += BPF_CORE_READ((struct udp_sock *)sk, reader_queue.qlen);
	return datagrams;
}

/* 6.3 and later. A read that found nothing, or only looked, ends no wait. */
SEC("tp_btf/sock_recv_length")
int BPF_PROG(sock_recv_length, struct sock *sk, int result, int flags)
{
	if (result < 0 || flags & (MSG_PEEK | MSG_ERRQUEUE) || !is_inet(sk))
		return 0;

	struct waiting *mine = bpf_sk_storage_get(&waiting, sk, NULL, 0);

	if (!mine || !mine->ready_ns)
		return 0;

	const struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	__u64 now = bpf_ktime_get_boot_ns();
	__u64 latency = elapsed(mine->ready_ns, now);
	__u32 left = unread(sk, tp);

	mine->ready_ns = left ? now : 0;
	if (tp)
		mine->copied_seq = tp->copied_seq;
	return timed(sk, KIND_READ, latency, result, left);
}

/* 6.16 and later: at the start of a TCP send, and each time that it goes on. */
SEC("tp_btf/tcp_sendmsg_locked")
int BPF_PROG(tcp_sendmsg_locked, struct sock *sk)
{
	struct waiting *mine = bpf_sk_storage_get(&waiting, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (mine && !mine->send_ns)
		mine->send_ns = bpf_ktime_get_boot_ns();
	return 0;
}

/* 6.3 and later: the end of a send, also of one that failed. */
SEC("tp_btf/sock_send_length")
int BPF_PROG(sock_send_length, struct sock *sk, int result)
{
	if (!is_inet(sk))
		return 0;

	struct waiting *mine = bpf_sk_storage_get(&waiting, sk, NULL, 0);

	if (!mine || !mine->send_ns)
		return 0;

	__u64 latency = elapsed(mine->send_ns, bpf_ktime_get_boot_ns());

	mine->send_ns = 0;
	return timed(sk, KIND_SEND, latency, result > 0 ? result : 0, 0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
