/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The kernel's types, as far as the probes read them: no field is here that no probe reads.
 *
 * Offsets, sizes and even bit positions are those of the running kernel, patched in at load
 * (CO-RE), so order and gaps mean nothing here. There is no vmlinux.h and no header of the build
 * machine's kernel, so an object does not depend on where it was compiled.
 */
#ifndef INSPECTOR_KERNEL_H
#define INSPECTOR_KERNEL_H

typedef signed char __s8;
typedef unsigned char __u8;
typedef short __s16;
typedef unsigned short __u16;
typedef int __s32;
typedef unsigned int __u32;
typedef long long __s64;
typedef unsigned long long __u64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;

#define NULL ((void *)0)
#define true 1
#define false 0

/* Numbers of the BPF system call's interface, which never change. */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27,

	BPF_F_NO_PREALLOC = 1 << 0,
	BPF_F_MMAPABLE = 1 << 10,

	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_SK_STORAGE_GET_F_CREATE = 1,

	BPF_RB_NO_WAKEUP = 1,
	BPF_RB_FORCE_WAKEUP = 2,
	BPF_RB_AVAIL_DATA = 0,
};

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

#define AF_INET 2
#define AF_INET6 10

#define ETH_P_IP 0x0800
#define ETH_P_ARP 0x0806
#define ETH_P_IPV6 0x86dd

enum ip_protocol {
	IPPROTO_TCP = 6,
	IPPROTO_UDP = 17,
	IPPROTO_DCCP = 33,
	IPPROTO_ICMPV6 = 58,
	IPPROTO_SCTP = 132,
	IPPROTO_UDPLITE = 136,
};

/* Of TCP, and of every socket that has a state. */
enum socket_state {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT = 2,
	TCP_SYN_RECV = 3,
	TCP_FIN_WAIT1 = 4,
	TCP_FIN_WAIT2 = 5,
	TCP_TIME_WAIT = 6,
	TCP_CLOSE = 7,
	TCP_CLOSE_WAIT = 8,
	TCP_LAST_ACK = 9,
	TCP_LISTEN = 10,
	TCP_CLOSING = 11,
	TCP_NEW_SYN_RECV = 12,
};

#define TCP_CA_RECOVERY 3
#define TCP_CA_LOSS 4

#define ICSK_TIME_RETRANS 1
#define ICSK_TIME_LOSS_PROBE 5

/* The context of programs on packets; its offsets are those of the interface, not of sk_buff. */
struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* Only its presence is asked: the number is the running kernel's. */
enum skb_drop_reason {
	SKB_CONSUMED = 1,
};

/* Its presence tells that the verifier knows which arguments of a tracepoint may be NULL. */
struct bpf_raw_tp_null_args {
	const char *func;
};

typedef struct {
	int counter;
} atomic_t;

typedef struct refcount_struct {
	atomic_t refs;
} refcount_t;

struct ns_common {
	__u32 inum;
};

struct fib_table;

struct netns_ipv4 {
	struct fib_table *fib_default;
	bool fib_has_custom_rules;
};

struct netns_ipv6 {
	struct fib6_info *fib6_null_entry;
	bool fib6_has_custom_rules;
};

struct net {
	struct ns_common ns;
	struct net_device *loopback_dev;
	__u64 net_cookie;
	struct netns_ipv4 ipv4;
	struct netns_ipv6 ipv6;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	char name[16];
	int ifindex;
	unsigned char addr_len;
	possible_net_t nd_net;
};

struct Qdisc;

struct netdev_queue {
	struct net_device *dev;
};

struct dst_entry {
	struct net_device *dev;
};

struct in6_addr {
	__u8 bytes[16];
};

struct flowi_common {
	int flowic_oif;
	int flowic_iif;
	__u8 flowic_proto;
	int flowic_l3mdev; /* 5.18 and later */
};

union flowi_uli {
	struct {
		__be16 dport;
		__be16 sport;
	} ports;
};

struct flowi4 {
	struct flowi_common __fl_common;
	__be32 saddr;
	__be32 daddr;
	union flowi_uli uli;
};

struct flowi6 {
	struct flowi_common __fl_common;
	struct in6_addr daddr;
	struct in6_addr saddr;
	union flowi_uli uli;
};

struct flowi {
	union {
		struct flowi4 ip4;
		struct flowi6 ip6;
	} u;
};

struct fib_nh_common;
struct fib6_info;

struct fib6_result {
	struct fib6_info *f6i;
	__u8 fib6_type;
};

struct fib6_table {
	__u32 tb6_id;
};

struct nsproxy {
	struct net *net_ns;
};

struct task_struct {
	void *stack;
	unsigned int flags;
	struct nsproxy *nsproxy;
};

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	__u16 skc_family;
	__u8 skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct sk_buff_head {
	__u32 qlen;
};

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
	int sk_err;
	struct {
		atomic_t rmem_alloc;
	} sk_backlog;
	struct sk_buff_head sk_receive_queue;
	int sk_rcvbuf;
	int sk_wmem_queued;
	refcount_t sk_wmem_alloc;
	int sk_sndbuf;
};

struct request_sock {
	struct sock_common __req_common;
	__u8 num_retrans;
	__u8 num_timeout : 7;
};

struct inet_cork_full {
	struct flowi fl;
};

struct inet_sock {
	__be16 inet_sport;
	struct inet_cork_full cork;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	__u8 icsk_ca_state : 5;
	__u8 icsk_retransmits;
	__u8 icsk_pending;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 snd_una;
	__u32 rcv_nxt;
	__u32 copied_seq;
	__u32 srtt_us;
	__u32 total_retrans;
	__u64 bytes_acked;
	__u64 bytes_received;
};

struct udp_sock {
	struct sk_buff_head reader_queue;
};

struct neighbour {
	atomic_t probes;
	__u8 nud_state;
	unsigned char ha[32];
	struct net_device *dev;
	struct neigh_table *tbl;
	__u8 primary_key[];
};

struct neigh_table {
	int family;
};

struct tcp_skb_cb {
	__u32 seq;
	__u32 ack_seq;
	__u8 tcp_flags;
};

struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	char cb[48];
	unsigned long _skb_refdst;
	__u32 len;
	__u8 pkt_type : 3;
	__u8 tstamp_type : 2;	     /* 6.11 and later */
	__u8 mono_delivery_time : 1; /* 5.18 to 6.10 */
	__u64 skb_mstamp_ns;
	__be16 protocol;
	__u16 network_header;
	__u16 mac_header;
	__u32 tail;
	unsigned char *head;
	unsigned char *data;
};

/* The part of a saved register set that tells arguments and result of a function on x86. */
struct pt_regs {
	unsigned long si;
	unsigned long dx;
	unsigned long ax;
};

#pragma clang attribute pop

#endif
