//! The record head that all probes share, and typed views into packed batches.
//!
//! Records are little-endian, `#[repr(C)]`, explicitly padded, a multiple of 8 bytes long, without
//! unions and without `bool`. Fields are only ever appended to a tail (schema number + 1); the
//! stride travels with each batch, so an older mirror reads the front of a newer record.
//!
//! Layouts and constants stand here and in C. A test compares them with the types of the compiled
//! objects, field by field and constant by constant.

use std::net::{IpAddr, Ipv6Addr};

pub use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An integer field of a record, by which predicates select (`wit`: `manifest.predicate`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its name, the same in C and Rust.
    pub name: &'static str,
    /// Byte offset in the record.
    pub offset: u16,
    /// Size in bytes: 1, 2, 4 or 8; 16 is an address and cannot be compared as an integer.
    pub size: u16,
}

/// Numbers that C programs and their readers share: one C enum, and its values in Rust.
#[derive(Debug, Clone, Copy)]
pub struct Constants {
    /// Tag of the enum in C, for the layout test.
    pub c_name: &'static str,
    /// Every constant of it, by name.
    pub values: &'static [(&'static str, u32)],
}

/// Declares the constants of one or more C enums, and the table of them as `CONSTANTS`.
macro_rules! constants {
    ($(enum $c_name:ident: $type:ty { $($(#[$meta:meta])* $name:ident = $value:literal,)* })*) => {
        $($($(#[$meta])* pub const $name: $type = $value;)*)*

        /// The constants of this module, by the C enum that has them as well.
        pub const CONSTANTS: &[$crate::record::Constants] = &[$($crate::record::Constants {
            c_name: stringify!($c_name),
            values: &[$((stringify!($name), $value),)*],
        },)*];
    };
}
pub(crate) use constants;

/// A mirror of one probe's C struct.
pub trait Record: FromBytes + IntoBytes + Immutable + KnownLayout + Sized + 'static {
    /// Name of the probe that delivers it.
    const PROBE: &'static str;
    /// The schema this mirror describes.
    const SCHEMA: u16;
    /// Name of the struct in C, for the layout test.
    const C_NAME: &'static str;
    /// Head and tail fields, by offset, without padding.
    const FIELDS: &'static [Field];

    /// The common head.
    fn head(&self) -> &Head;
}

/// Declares a mirror: the struct, its `Record` implementation and its field table.
macro_rules! record {
    (
        $(#[$meta:meta])*
        $name:ident, probe $probe:literal, schema $schema:literal, c $c:literal,
        { $($(#[$fmeta:meta])* $field:ident: $ty:ty,)* } pad { $($pad:ident: $padty:ty,)* }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, $crate::record::FromBytes, $crate::record::IntoBytes,
                 $crate::record::Immutable, $crate::record::KnownLayout)]
        #[repr(C)]
        pub struct $name {
            /// The head common to all records.
            pub head: $crate::record::Head,
            $($(#[$fmeta])* pub $field: $ty,)*
            $(#[doc(hidden)] pub $pad: $padty,)*
        }

        impl $crate::record::Record for $name {
            const PROBE: &'static str = $probe;
            const SCHEMA: u16 = $schema;
            const C_NAME: &'static str = $c;
            const FIELDS: &'static [$crate::record::Field] = {
                const TAIL: &[$crate::record::Field] = &[$($crate::record::Field {
                    name: stringify!($field),
                    offset: ::std::mem::offset_of!($name, $field) as u16,
                    size: ::std::mem::size_of::<$ty>() as u16,
                },)*];
                const ALL: [$crate::record::Field; $crate::record::HEAD_FIELDS.len() + TAIL.len()] =
                    $crate::record::concat($crate::record::HEAD_FIELDS, TAIL);
                &ALL
            };

            fn head(&self) -> &$crate::record::Head {
                &self.head
            }
        }

        const _: () = assert!(::std::mem::size_of::<$name>() % 8 == 0);
    };
}
pub(crate) use record;

/// `[a, b]` as one array, at compile time.
pub(crate) const fn concat<const N: usize>(a: &[Field], b: &[Field]) -> [Field; N] {
    let mut all = [Field { name: "", offset: 0, size: 0 }; N];
    let mut i = 0;
    while i < N {
        all[i] = if i < a.len() { a[i] } else { b[i - a.len()] };
        i += 1;
    }
    all
}

constants! {
    enum head_flag: u16 {
        /// The packet headers were readable: addresses and ports are those on the wire.
        FLAG_PACKET = 1,
        /// Addresses and ports come from a socket.
        FLAG_SOCKET = 2,
        /// The namespace was taken from a device (else from a socket or a destination).
        FLAG_DEVICE = 4,
        /// `sport`/`dport` are meaningful (TCP, UDP and their like; not ICMP, not later fragments).
        FLAG_PORTS = 8,
    }
}

/// The first 64 bytes of every record.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Head {
    /// `CLOCK_BOOTTIME` in the kernel's record; nanoseconds since the Unix epoch in a batch.
    pub ts_ns: u64,
    /// `net->net_cookie` (5.12 and later; the namespace's inode number before), 0 = unknown.
    pub netns: u64,
    /// Entity id, stamped by the host; 0 = unknown.
    pub entity: u32,
    /// What happened, per probe.
    pub kind: u16,
    /// CPU it happened on.
    pub cpu: u16,
    /// Source address, IPv4 as v4-mapped IPv6, network byte order.
    pub saddr: [u8; 16],
    /// Destination address, IPv4 as v4-mapped IPv6, network byte order.
    pub daddr: [u8; 16],
    /// Source port, host byte order.
    pub sport: u16,
    /// Destination port, host byte order.
    pub dport: u16,
    /// IP protocol number ([`crate::kernel::IPPROTO_TCP`] …).
    pub proto: u8,
    /// TCP state ([`crate::kernel::TCP_ESTABLISHED`] …), 0 = no socket.
    pub tcp_state: u8,
    /// `FLAG_*`.
    pub flags: u16,
}

const _: () = assert!(size_of::<Head>() == 64);

macro_rules! head_fields {
    ($($field:ident: $size:literal),* $(,)?) => {
        &[$(Field { name: stringify!($field), offset: std::mem::offset_of!(Head, $field) as u16, size: $size },)*]
    };
}

/// The fields of [`Head`].
pub const HEAD_FIELDS: &[Field] = head_fields!(
    ts_ns: 8, netns: 8, entity: 4, kind: 2, cpu: 2, saddr: 16, daddr: 16, sport: 2, dport: 2,
    proto: 1, tcp_state: 1, flags: 2,
);

/// Text that the kernel ended by a zero byte; what is no UTF-8 is replaced.
pub(crate) fn text(bytes: &[u8]) -> String {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

impl Head {
    /// Source address, IPv4 where it is v4-mapped.
    pub fn source(&self) -> IpAddr {
        Ipv6Addr::from(self.saddr).to_canonical()
    }

    /// Destination address, IPv4 where it is v4-mapped.
    pub fn destination(&self) -> IpAddr {
        Ipv6Addr::from(self.daddr).to_canonical()
    }
}

/// The records in `words`, `stride` bytes apart, without a copy.
///
/// A stride larger than the mirror (a newer probe) is read at its front; a smaller one, or one
/// that is no multiple of 8, yields nothing.
pub fn view<R: Record>(words: &[u64], stride: u16) -> impl Iterator<Item = &R> {
    let step = usize::from(stride) / 8;
    let fits = usize::from(stride) >= size_of::<R>() && stride.is_multiple_of(8);
    let words = if fits { words } else { &[] };
    words
        .chunks_exact(step.max(1))
        .filter_map(|record| R::ref_from_prefix(record.as_bytes()).ok().map(|(r, _)| r))
}
