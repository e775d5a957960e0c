// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * virtio-command: how long the hypervisor takes for a command of virtio_net's control queue, for
 * which the kernel waits busily under the lock of all network configuration (rtnl).
 *
 * They are rare, so each is a record. They belong to the node: netns is 0. The class and the
 * command are known on x86 only, where they are read from registers.
 */
#include "record.h"

enum command_kind {
	KIND_COMMAND = 1,
};
CONSTANTS(command_kind);

struct virtio_command {
	struct head head;
	__u64 duration_ns;
	__u32 pid;
	__u8 comm[16];
	__u8 class;
	__u8 command;
	__u8 known;
	__u8 ok;
};
RECORD(virtio_command);

struct started {
	__u64 at_ns;
	__u8 class;
	__u8 command;
	__u8 known;
	__u8 pad[5];
};

/* By thread: a command is over before its thread gives the next one. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct started);
} started SEC(".maps");

SEC("kprobe")
int command_start(struct pt_regs *ctx)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct started value = {.at_ns = bpf_ktime_get_ns()};

	if (bpf_core_field_exists(ctx->si)) {
		value.class = ctx->si;
		value.command = ctx->dx;
		value.known = 1;
	}
	bpf_map_update_elem(&started, &thread, &value, BPF_ANY);
	return 0;
}

SEC("kretprobe")
int command_end(struct pt_regs *ctx)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct started *found = bpf_map_lookup_elem(&started, &thread);

	if (!found)
		return 0;

	struct started value = *found;
	struct virtio_command *record = RESERVE(virtio_command, 0);

	bpf_map_delete_elem(&started, &thread);
	if (!record)
		return 0;
	record->head.kind = KIND_COMMAND;
	record->duration_ns = bpf_ktime_get_ns() - value.at_ns;
	record->pid = thread;
	bpf_get_current_comm(record->comm, sizeof(record->comm));
	record->class = value.class;
	record->command = value.command;
	record->known = value.known;
	/* A bool, of which the upper bits mean nothing. */
	record->ok = bpf_core_field_exists(ctx->ax) ? ctx->ax & 1 : 1;
	SUBMIT(record);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
