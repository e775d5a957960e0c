//! Mirror of `virtio_command.bpf.c`.

use crate::record::record;

/// A command that the hypervisor has answered.
pub const KIND_COMMAND: u16 = 1;

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
