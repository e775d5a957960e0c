// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * dns: questions that this node's sockets ask, the answers that they get, and how long those took.
 *
 * A query is counted once, where its client's socket sends it, and an answer where that socket
 * receives it; servers on this node, bridges and veth links in between are not looked at. Only port
 * 53. Over TCP a message is seen if it and its length begin a segment, which is how the resolvers
 * of libc, Go and systemd write it. Encrypted DNS, IPv6 extension headers and fragments but the
 * first are left out.
 */
#include "cgroup.h"

enum dns_kind {
	KIND_QUERY = 1,
	KIND_ANSWER = 2,
};
CONSTANTS(dns_kind);

#define DNS_PORT 53
#define DNS_RESPONSE 0x8000
#define DNS_OPCODE 0x7800
#define DNS_RCODE 0xf
#define MAX_LABELS 127
#define MAX_NAME 255
#define NAME 128

/* A resolver waits for so long before it asks again; an older query with its id is another one. */
#define RETRY_NS 5000000000ull

struct dns {
	struct head head;
	__u64 latency_ns;
	__u64 socket;
	__u32 length;
	__u16 id;
	__u16 qtype;
	__u16 answers;
	__u8 rcode;
	__u8 matched;
	__u8 tries;
	__u8 name_length;
	__u8 name[NAME];
	__u8 pad[2];
};
RECORD(dns);

struct dns_header {
	__be16 id;
	__be16 flags;
	__be16 questions;
	__be16 answers;
	__be16 authorities;
	__be16 additional;
};

/*
 * Without the server's address: where the host itself is the client of a service, the query leaves
 * for a backend, and the answer comes from the service.
 */
struct query {
	__u64 socket;
	__u16 id;
	__u16 proto;
	__u32 pad;
};

struct pending {
	__u64 since_ns;
	__u32 tries; /* queries without an answer */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct query);
	__type(value, struct pending);
} pending SEC(".maps");

/* A DNS message in a packet. */
struct message {
	struct head head; /* addresses, as on the wire */
	struct dns_header header;
	__u32 at;
	__u32 name_at;
	__u32 name_length;
	__u16 qtype;
};

/* Where the payload begins, or 0 if no port of the packet is that of DNS. */
static __always_inline __u32 udp_or_tcp(struct __sk_buff *ctx, struct head *head, __u8 proto, __u32 at,
					const struct ports *ports, bool sending)
{
	head->sport = bpf_ntohs(ports->source);
	head->dport = bpf_ntohs(ports->dest);
	if ((sending ? head->dport : head->sport) != DNS_PORT)
		return 0;
	head->proto = proto;
	head->flags = FLAG_PACKET | FLAG_PORTS;
	if (proto == IPPROTO_UDP)
		return at + 8;
	if (proto != IPPROTO_TCP)
		return 0;

	__u8 offset;

	if (bpf_skb_load_bytes(ctx, at + 12, &offset, 1))
		return 0;
	/* The message's length comes first. */
	return at + (offset >> 4) * 4 + 2;
}

/* Where the DNS message begins, or 0; the common case, any other packet, costs one load. */
static __always_inline __u32 find(struct __sk_buff *ctx, struct head *head, bool sending)
{
	if (ctx->protocol == bpf_htons(ETH_P_IP)) {
		struct ipv4_packet packet;

		if (bpf_skb_load_bytes(ctx, 0, &packet, sizeof(packet)))
			return 0;

		__u32 at = (packet.ip.version_ihl & 15) * 4;

		if (bpf_ntohs(packet.ip.fragment) & IP_FRAGMENT_OFFSET)
			return 0;
		if (at != sizeof(packet.ip) &&
		    bpf_skb_load_bytes(ctx, at, &packet.ports, sizeof(packet.ports)))
			return 0;
		at = udp_or_tcp(ctx, head, packet.ip.protocol, at, &packet.ports, sending);
		if (!at)
			return 0;
		map_ipv4(head->saddr, &packet.ip.saddr);
		map_ipv4(head->daddr, &packet.ip.daddr);
		return at;
	}
	if (ctx->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6_packet packet;

		if (bpf_skb_load_bytes(ctx, 0, &packet, sizeof(packet)))
			return 0;

		__u32 at = udp_or_tcp(ctx, head, packet.ip.next, sizeof(packet.ip), &packet.ports, sending);

		if (!at)
			return 0;
		__builtin_memcpy(head->saddr, packet.ip.saddr, 16);
		__builtin_memcpy(head->daddr, packet.ip.daddr, 16);
		return at;
	}
	return 0;
}

/* Walks the labels of the question's name, which are never compressed; false if it is none. */
static __always_inline bool question(struct __sk_buff *ctx, struct message *message)
{
	__u32 start = message->at + sizeof(message->header);
	__u32 end = start;
	__u8 label = 1;
	__be16 qtype;

	for (int i = 0; i <= MAX_LABELS && label; i++) {
		if (bpf_skb_load_bytes(ctx, end, &label, 1) || label > 63)
			return false;
		end += 1 + label;
	}
	if (label || end - start > MAX_NAME || bpf_skb_load_bytes(ctx, end, &qtype, sizeof(qtype)))
		return false;
	message->name_at = start;
	message->name_length = end - start;
	message->qtype = bpf_ntohs(qtype);
	return true;
}

/* A refusal may come without its question, with the code alone. */
static __always_inline bool parse(struct __sk_buff *ctx, struct message *message, bool sending)
{
	message->at = find(ctx, &message->head, sending);
	if (!message->at || bpf_skb_load_bytes(ctx, message->at, &message->header, sizeof(message->header)))
		return false;

	__u16 flags = bpf_ntohs(message->header.flags);
	__u16 questions = bpf_ntohs(message->header.questions);

	if (flags & DNS_OPCODE || !(flags & DNS_RESPONSE) != sending)
		return false;
	if (questions == 0)
		return !sending;
	return questions == 1 && question(ctx, message);
}

static __always_inline int deliver(struct __sk_buff *ctx, const struct message *message,
				   const struct query *query, __u16 kind, __u64 latency, __u8 tries,
				   bool matched)
{
	struct dns *record = RESERVE(dns, owner_net(ctx));

	if (!record)
		return PASS;

	bool query_sent = kind == KIND_QUERY;
	__u32 length = message->name_length;

	/* The client's side first, in both directions. */
	__builtin_memcpy(record->head.saddr, query_sent ? message->head.saddr : message->head.daddr, 16);
	__builtin_memcpy(record->head.daddr, query_sent ? message->head.daddr : message->head.saddr, 16);
	record->head.sport = query_sent ? message->head.sport : message->head.dport;
	record->head.dport = query_sent ? message->head.dport : message->head.sport;
	record->head.kind = kind;
	record->head.proto = message->head.proto;
	record->head.flags = message->head.flags;
	record->latency_ns = latency;
	record->socket = query->socket;
	record->length = ctx->len - message->at;
	record->id = query->id;
	record->qtype = message->qtype;
	record->answers = bpf_ntohs(message->header.answers);
	record->rcode = bpf_ntohs(message->header.flags) & DNS_RCODE;
	record->matched = matched;
	record->tries = tries;
	record->name_length = length;
	if (length > NAME)
		length = NAME;
	if (length) {
		/* Verifiers before 6.8 learn nothing from "not zero"; the mask says "1 to NAME". */
		length--;
		asm volatile("" : "+r"(length));
		length = (length & (NAME - 1)) + 1;
		bpf_skb_load_bytes(ctx, message->name_at, record->name, length);
	}
	SUBMIT(record);
	return PASS;
}

static __always_inline struct query key_of(struct __sk_buff *ctx, const struct message *message)
{
	struct query query = {
		.socket = bpf_get_socket_cookie(ctx),
		.id = bpf_ntohs(message->header.id),
		.proto = message->head.proto,
	};

	return query;
}

SEC("cgroup_skb/egress")
int dns_query(struct __sk_buff *ctx)
{
	struct message message = {};

	if (!parse(ctx, &message, true))
		return PASS;

	struct query query = key_of(ctx, &message);
	struct pending *before = bpf_map_lookup_elem(&pending, &query);
	struct pending first = {.since_ns = bpf_ktime_get_boot_ns(), .tries = 1};

	if (before && first.since_ns - before->since_ns < RETRY_NS) {
		/* TCP sends a lost segment again on its own. */
		if (message.head.proto == IPPROTO_TCP)
			return PASS;
		first.since_ns = before->since_ns;
		first.tries = before->tries + 1;
	}
	bpf_map_update_elem(&pending, &query, &first, BPF_ANY);
	return deliver(ctx, &message, &query, KIND_QUERY, 0, first.tries, true);
}

SEC("cgroup_skb/ingress")
int dns_answer(struct __sk_buff *ctx)
{
	struct message message = {};

	if (!parse(ctx, &message, false))
		return PASS;

	struct query query = key_of(ctx, &message);
	struct pending *before = bpf_map_lookup_elem(&pending, &query);
	__u64 now = bpf_ktime_get_boot_ns();

	if (!before) {
		/* What follows the first segment of an answer may look like one. */
		if (message.head.proto == IPPROTO_TCP)
			return PASS;
		return deliver(ctx, &message, &query, KIND_ANSWER, 0, 0, false);
	}

	__u64 latency = now - before->since_ns;
	__u32 tries = before->tries;

	if (tries <= 1)
		bpf_map_delete_elem(&pending, &query);
	else
		before->tries = tries - 1;
	return deliver(ctx, &message, &query, KIND_ANSWER, latency, tries, true);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
