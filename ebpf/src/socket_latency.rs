//! Mirror of `socket_latency.bpf.c`.

use crate::record::record;

/// Data waited unread; `latency_ns` is from data ready, or from a read that left some, to this read.
pub const KIND_READ: u16 = 1;
/// A send took long: TCP's send buffer was full.
pub const KIND_SEND: u16 = 2;

record! {
    /// A read or send that took a millisecond or more; `saddr` is the local side.
    SocketLatency, probe "socket-latency", schema 1, c "socket_latency",
    {
        /// How long, in nanoseconds.
        latency_ns: u64,
        /// Bytes read or sent; 0 if the send failed.
        bytes: u32,
        /// What the read left unread: bytes (TCP) or datagrams.
        left: u32,
        /// Process that read or sent, in the host's numbering.
        pid: u32,
        /// Name of its thread, ended by a zero byte.
        comm: [u8; 16],
    } pad { pad: u32, }
}

impl SocketLatency {
    /// Name of the thread that read or sent; what is no UTF-8 is replaced.
    pub fn thread_name(&self) -> String {
        let bytes = self.comm.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }
}
