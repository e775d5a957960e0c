//! Numbers of protocols, each once: IP's, Ethernet's and well-known ports.

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// Ethernet protocol number of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;

/// Port of DNS servers, over UDP and TCP.
pub const DNS_PORT: u16 = 53;

/// Name of an IP protocol, or its number.
pub fn name(number: u8) -> String {
    let name = match number {
        ICMP => "ICMP",
        2 => "IGMP",
        TCP => "TCP",
        UDP => "UDP",
        33 => "DCCP",
        47 => "GRE",
        50 => "ESP",
        ICMPV6 => "ICMPv6",
        132 => "SCTP",
        other => return other.to_string(),
    };
    name.to_owned()
}
