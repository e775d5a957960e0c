// SPDX-License-Identifier: Apache-2.0
/*
 * The floor of the benches, its user-space half: a bare libbpf program that loads one object,
 * reads its ring and counts in a hash table by namespace, reason and location.
 *
 * usage: floor_consumer OBJECT clock|wake
 *   clock: looks at the ring every millisecond, for an object that never wakes its reader
 *   wake:  sleeps in epoll until the object wakes it, as ring_buffer__poll does by default
 *
 * Says "ready" when the program is attached. On SIGUSR1 it says "EVENTS LOST KEYS". Ends when its
 * standard input does, so that it does not outlive the bench.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#define SLOTS 4096 /* a power of two, far more than keys */

/* Offsets in the record of skb-drop. */
#define NETNS_AT 8
#define LOCATION_AT 64
#define REASON_AT 80

struct slot {
	uint64_t netns;
	uint64_t location;
	uint32_t reason;
	uint64_t count;
};

static struct slot slots[SLOTS];
static uint64_t events;
static uint64_t keys;
static volatile sig_atomic_t asked;

static void on_signal(int number)
{
	(void)number;
	asked = 1;
}

static int on_record(void *context, void *data, size_t size)
{
	uint64_t netns, location, hash;
	uint32_t reason;

	(void)context;
	(void)size;
	memcpy(&netns, (char *)data + NETNS_AT, sizeof(netns));
	memcpy(&location, (char *)data + LOCATION_AT, sizeof(location));
	memcpy(&reason, (char *)data + REASON_AT, sizeof(reason));
	hash = (netns * 31 + location) * 31 + reason;
	hash = hash * 0x9e3779b97f4a7c15ull >> 32;
	for (uint64_t i = 0; i < SLOTS; i++) {
		struct slot *slot = &slots[(hash + i) % SLOTS];

		if (!slot->count) {
			slot->netns = netns;
			slot->location = location;
			slot->reason = reason;
			keys++;
		}
		if (slot->netns == netns && slot->location == location && slot->reason == reason) {
			slot->count++;
			break;
		}
	}
	events++;
	return 0;
}

static void answer(const struct bpf_map *globals)
{
	uint32_t zero = 0;
	uint64_t lost = 0;

	bpf_map__lookup_elem(globals, &zero, sizeof(zero), &lost, sizeof(lost), 0);
	printf("%llu %llu %llu\n", (unsigned long long)events, (unsigned long long)lost,
	       (unsigned long long)keys);
	fflush(stdout);
}

static int stdin_ended(void)
{
	struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };

	return poll(&in, 1, 0) > 0;
}

static int run(struct ring_buffer *ring, const struct bpf_map *globals, int by_clock)
{
	const struct timespec millisecond = { .tv_nsec = 1000000 };
	const struct sigaction action = { .sa_handler = on_signal };
	time_t looked = 0;

	/* Without SA_RESTART, so that a sleeping reader answers at once. */
	sigaction(SIGUSR1, &action, NULL);
	printf("ready\n");
	fflush(stdout);
	for (;;) {
		int got = by_clock ? ring_buffer__consume(ring) : ring_buffer__poll(ring, 1000);

		if (got < 0 && got != -EINTR)
			return 1;
		if (asked) {
			asked = 0;
			answer(globals);
		}
		if (time(NULL) != looked) {
			looked = time(NULL);
			if (stdin_ended())
				return 0;
		}
		if (by_clock)
			nanosleep(&millisecond, NULL);
	}
}

int main(int argc, char **argv)
{
	struct bpf_object *object;
	struct bpf_program *program;
	struct bpf_map *globals;
	struct ring_buffer *ring;

	if (argc != 3) {
		fprintf(stderr, "usage: floor_consumer OBJECT clock|wake\n");
		return 2;
	}
	libbpf_set_strict_mode(LIBBPF_STRICT_ALL & ~LIBBPF_STRICT_AUTO_RLIMIT_MEMLOCK);
	object = bpf_object__open_file(argv[1], NULL);
	if (!object || bpf_object__load(object))
		return 1;
	program = bpf_object__find_program_by_name(object, "floor_kfree_skb");
	if (!program || !bpf_program__attach(program))
		return 1;
	globals = bpf_object__find_map_by_name(object, ".bss");
	ring = ring_buffer__new(bpf_object__find_map_fd_by_name(object, "events"), on_record, NULL, NULL);
	if (!globals || !ring)
		return 1;
	return run(ring, globals, !strcmp(argv[2], "clock"));
}
