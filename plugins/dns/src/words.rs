//! Names of DNS numbers, as in the registries of IANA; the rest is `other`, so that a hostile server
//! cannot make series without end.

/// No error.
pub const NOERROR: u8 = 0;
/// The name does not exist.
pub const NXDOMAIN: u8 = 3;

/// Name of a response code.
pub fn rcode(code: u8) -> &'static str {
    match code {
        NOERROR => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        NXDOMAIN => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        6 => "YXDOMAIN",
        7 => "YXRRSET",
        8 => "NXRRSET",
        9 => "NOTAUTH",
        10 => "NOTZONE",
        _ => "other",
    }
}

/// Name of a record type; `none` of an answer that repeats no question.
pub fn qtype(number: u16) -> &'static str {
    match number {
        0 => "none",
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        35 => "NAPTR",
        48 => "DNSKEY",
        43 => "DS",
        64 => "SVCB",
        65 => "HTTPS",
        255 => "ANY",
        _ => "other",
    }
}

/// Name of a transport.
pub fn transport(protocol: u8) -> &'static str {
    if protocol == inspector_sdk::protocol::TCP { "tcp" } else { "udp" }
}
