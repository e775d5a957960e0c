//! Error numbers that are reported to sockets, as errno.h of Linux on x86, Arm and RISC-V has them.

macro_rules! errors {
    ($($name:ident = $number:literal)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` of errno.h.")]
            pub const $name: u32 = $number;
        )*

        /// Name of an error, `ERRNO_<number>` of one that is not listed here.
        pub fn name(number: u32) -> String {
            match number {
                $($name => stringify!($name).to_owned(),)*
                other => format!("ERRNO_{other}"),
            }
        }
    };
}

errors! {
    EPERM = 1
    EINTR = 4
    EIO = 5
    EAGAIN = 11
    ENOMEM = 12
    EACCES = 13
    EINVAL = 22
    EPIPE = 32
    ENONET = 64
    EPROTO = 71
    EMSGSIZE = 90
    ENOPROTOOPT = 92
    EOPNOTSUPP = 95
    EADDRINUSE = 98
    EADDRNOTAVAIL = 99
    ENETDOWN = 100
    ENETUNREACH = 101
    ECONNABORTED = 103
    ECONNRESET = 104
    ENOBUFS = 105
    ETIMEDOUT = 110
    ECONNREFUSED = 111
    EHOSTDOWN = 112
    EHOSTUNREACH = 113
}
