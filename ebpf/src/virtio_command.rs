//! Mirror of `virtio_command.bpf.c`.

use crate::catalog::{Class, Description};
use crate::hook::{Point, kprobe};
use crate::record::{constants, record};

constants! {
    enum command_kind: u16 {
        /// A command that the hypervisor has answered.
        KIND_COMMAND = 1,
    }
}

/// Functions of module virtio_net; the second is the name before 6.10.
const SEND_COMMAND: &[&str] = &["virtnet_send_command_reply", "virtnet_send_command"];

/// What it hooks, what that costs, and which questions rest on it.
pub const DESCRIPTION: Description = Description {
    class: Class::Low,
    answers: &[],
    hooks: &[
        kprobe(SEND_COMMAND, Point::Entry, "command_start")
            .gives("time of commands to the hypervisor")
            .delivers("the start of a command of virtio_net's control queue, with its class")
            .versions("the second name before 6.10"),
        kprobe(SEND_COMMAND, Point::Return, "command_end")
            .gives("time of commands to the hypervisor")
            .delivers("each command: duration, class, task"),
    ],
    append_sum: None,
};

record! {
    /// A command of a virtio network device's control queue; `head.netns` is 0.
    VirtioCommand, probe "virtio-command", schema 1, c "virtio_command",
    {
        /// From the driver's call to its end, in nanoseconds.
        duration_ns: u64,
        /// Thread that gave it.
        pid: u32,
        /// Its name (`task->comm`, padded with zeros).
        comm: [u8; 16],
        /// `VIRTIO_NET_CTRL_*`: 0 receive mode, 1 MAC, 2 VLAN, 4 queues, 6 coalescing …
        class: u8,
        /// Number of the command in its class.
        command: u8,
        /// 1 if class and command are known (x86 only).
        known: u8,
        /// 1 if the hypervisor accepted it.
        ok: u8,
    } pad {}
}
