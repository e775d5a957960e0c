//! Parsers of the counter files in `/proc/net`. Text in, rows out; no I/O.
//!
//! The columns are whatever the running kernel prints, which is why no crate with fixed structs
//! is used: new counters of a new kernel reach plugins without a release.

/// Parsed rows with the column names of this kernel.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) columns: Vec<String>,
    pub(super) numbers: Vec<u64>,
    pub(super) strings: Vec<String>,
}

impl Rows {
    fn push(&mut self, column: String, value: &str) {
        self.columns.push(column);
        self.numbers.push(number(value));
    }
}

/// A kernel counter; a negative one (`Tcp.MaxConn` is -1) in two's complement.
fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| text.parse::<i64>().unwrap_or(0).cast_unsigned())
}

/// `net/snmp` and `net/snmp6`: one row, columns `Tcp.ActiveOpens`, `Ip6.InReceives`.
pub(super) fn snmp(texts: &[String]) -> Rows {
    let mut rows = header_pairs(&texts[0]);
    for line in texts.get(1).map_or("", String::as_str).lines() {
        if let Some((name, value)) = line.split_once(char::is_whitespace)
            && let Some(column) = snmp6_column(name)
        {
            rows.push(column, value.trim());
        }
    }
    rows
}

/// `Ip6InReceives` is `Ip6.InReceives`, `UdpLite6InErrors` is `UdpLite6.InErrors`.
fn snmp6_column(name: &str) -> Option<String> {
    let end = name.find('6')? + 1;
    Some(format!("{}.{}", &name[..end], &name[end..]))
}

/// `net/netstat`: one row, columns `TcpExt.ListenDrops`, `IpExt.InNoRoutes`.
pub(super) fn netstat(texts: &[String]) -> Rows {
    header_pairs(&texts[0])
}

/// Pairs of lines `Proto: Name Name` and `Proto: 1 2`.
fn header_pairs(text: &str) -> Rows {
    let mut rows = Rows::default();
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let Some((proto, names)) = names.split_once(':') else { continue };
        let Some((_, values)) = values.split_once(':') else { continue };
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            rows.push(format!("{proto}.{name}"), value);
        }
    }
    rows
}

/// `net/dev`: one row per interface, columns `interface` (text), `rx_bytes` … `tx_compressed`.
pub(super) fn netdev(texts: &[String]) -> Rows {
    let mut rows = Rows { columns: vec!["interface".to_owned()], ..Rows::default() };
    let mut lines = texts[0].lines().skip(1);
    let mut header = lines.next().unwrap_or("").split('|').skip(1);
    for prefix in ["rx", "tx"] {
        let names = header.next().unwrap_or("").split_whitespace();
        rows.columns.extend(names.map(|name| format!("{prefix}_{name}")));
    }
    for line in lines {
        let Some((interface, values)) = line.rsplit_once(':') else { continue };
        let mut row = vec![rows.strings.len() as u64];
        row.extend(values.split_whitespace().map(number));
        if row.len() == rows.columns.len() {
            rows.strings.push(interface.trim().to_owned());
            rows.numbers.extend(row);
        }
    }
    rows
}

/// `net/sockstat` and `net/sockstat6`: one row, columns `sockets.used`, `TCP.inuse`, `TCP6.inuse`.
pub(super) fn sockstat(texts: &[String]) -> Rows {
    let mut rows = Rows::default();
    for (proto, rest) in texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.split_once(':')) {
        let mut words = rest.split_whitespace();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            rows.push(format!("{proto}.{name}"), value);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(rows: &Rows, column: &str) -> u64 {
        rows.numbers[rows.columns.iter().position(|c| c == column).expect(column)]
    }

    #[test]
    fn snmp_has_both_families_and_negative_numbers() {
        let rows = snmp(&[
            "Tcp: RtoAlgorithm MaxConn ActiveOpens\nTcp: 1 -1 16\nUdp: InDatagrams\nUdp: 3\n".to_owned(),
            "Ip6InReceives                   \t7\nUdpLite6InErrors \t2\n".to_owned(),
        ]);
        assert_eq!(cell(&rows, "Tcp.ActiveOpens"), 16);
        assert_eq!(cell(&rows, "Tcp.MaxConn"), u64::MAX);
        assert_eq!(cell(&rows, "Ip6.InReceives"), 7);
        assert_eq!(cell(&rows, "UdpLite6.InErrors"), 2);
    }

    #[test]
    fn netdev_keeps_an_interface_name_with_a_colon_and_skips_a_short_line() {
        let head = "Inter-|   Receive  |  Transmit\n face |bytes packets|bytes packets\n";
        let rows = netdev(&[format!("{head}    lo: 1 2 3 4\neth0:1: 5 6 7 8\nbad: 1\n")]);
        assert_eq!(rows.columns, ["interface", "rx_bytes", "rx_packets", "tx_bytes", "tx_packets"]);
        assert_eq!(rows.strings, ["lo", "eth0:1"]);
        assert_eq!(rows.numbers, [0, 1, 2, 3, 4, 1, 5, 6, 7, 8]);
    }

    #[test]
    fn sockstat_tells_the_families_apart() {
        let rows = sockstat(&[
            "sockets: used 5\nTCP: inuse 2 orphan 0 tw 1 alloc 4 mem 9\n".to_owned(),
            "TCP6: inuse 3\n".to_owned(),
        ]);
        assert_eq!((cell(&rows, "TCP.inuse"), cell(&rows, "TCP6.inuse"), cell(&rows, "TCP.mem")), (2, 3, 9));
    }
}
