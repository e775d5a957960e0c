//! The counter files in `/proc/net`: text in, rows out.
//!
//! The columns are whatever the running kernel prints, which is why no crate with fixed structs
//! is used: new counters of a new kernel reach plugins without a release.

use std::io;
use std::path::Path;

use super::rows::Rows;

/// Reads files of `/proc/net` in the namespace of the calling thread and parses them. The first
/// must exist, further ones are empty where they do not.
pub(super) fn read(files: &[&str], parse: fn(&[String]) -> Rows) -> io::Result<Rows> {
    // thread-self, because /proc/net follows the thread-group leader, which stays at home.
    let directory = Path::new("/proc/thread-self/net");
    let mut texts = Vec::with_capacity(files.len());
    for (i, file) in files.iter().enumerate() {
        match std::fs::read(directory.join(file)) {
            Ok(bytes) => texts.push(String::from_utf8_lossy(&bytes).into_owned()),
            Err(e) if i > 0 && e.kind() == io::ErrorKind::NotFound => texts.push(String::new()),
            Err(e) => return Err(io::Error::new(e.kind(), format!("/proc/net/{file}: {e}"))),
        }
    }
    Ok(parse(&texts))
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
            rows.push(column, number(value.trim()));
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
            rows.push(format!("{proto}.{name}"), number(value));
        }
    }
    rows
}

/// `net/softnet_stat`: one row per CPU that is online, columns `cpu`, `processed`, `dropped`,
/// `time_squeeze`, `received_rps`, `flow_limit` and, since 5.10, `backlog_len`.
pub(super) fn softnet(texts: &[String]) -> Rows {
    /// Position of each column in the file's hexadecimal words.
    const WORDS: [(&str, usize); 6] = [
        ("processed", 0),
        ("dropped", 1),
        ("time_squeeze", 2),
        ("received_rps", 9),
        ("flow_limit", 10),
        ("backlog_len", 11),
    ];
    /// The CPU's number, since 5.10; before, the lines are those of CPUs that are online.
    const CPU: usize = 12;
    let lines: Vec<Vec<u64>> =
        texts[0].lines().map(|line| line.split_whitespace().map(hex).collect()).collect();
    let width = lines.first().map_or(0, Vec::len);
    let known: Vec<_> = WORDS.iter().filter(|(_, word)| *word < width).collect();
    let mut rows = Rows::under(&["cpu"]);
    rows.columns.extend(known.iter().map(|(name, _)| (*name).to_owned()));
    for (i, words) in lines.iter().enumerate().filter(|(_, words)| words.len() == width) {
        rows.numbers.push(words.get(CPU).copied().unwrap_or(i as u64));
        rows.numbers.extend(known.iter().map(|(_, word)| words[*word]));
    }
    rows
}

/// `net/ip_vs_stats`: one row of the totals, in its third line; hexadecimal.
pub(super) fn ipvs(texts: &[String]) -> Rows {
    let names = ["connections", "incoming_packets", "outgoing_packets", "incoming_bytes", "outgoing_bytes"];
    let totals = texts[0].lines().nth(2).unwrap_or("").split_whitespace().map(hex);
    let mut rows = Rows::default();
    for (name, value) in names.into_iter().zip(totals) {
        rows.push(name, value);
    }
    rows
}

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap_or(0)
}

/// `net/sockstat` and `net/sockstat6`: one row, columns `sockets.used`, `TCP.inuse`, `TCP6.inuse`.
pub(super) fn sockstat(texts: &[String]) -> Rows {
    let mut rows = Rows::default();
    for (proto, rest) in texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.split_once(':')) {
        let mut words = rest.split_whitespace();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            rows.push(format!("{proto}.{name}"), number(value));
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
    fn softnet_has_a_row_per_cpu_and_the_columns_of_this_kernel() {
        let new = "00000010 00000002 00000003 0 0 0 0 0 0 00000004 00000005 00000006 00000003 0 0\n";
        let rows = softnet(&[new.to_owned()]);
        assert_eq!(
            rows.columns[1..],
            ["processed", "dropped", "time_squeeze", "received_rps", "flow_limit", "backlog_len"]
        );
        assert_eq!(rows.numbers, [3, 16, 2, 3, 4, 5, 6]);
        let old = "0000000a 0 0 0 0 0 0 0 0 0 1\n00000001 0 0 0 0 0 0 0 0 0 0\n";
        let rows = softnet(&[old.to_owned()]);
        assert_eq!((rows.columns.len(), &rows.numbers[..]), (6, &[0, 10, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0][..]));
    }

    #[test]
    fn ipvs_totals_are_hexadecimal() {
        let rows = ipvs(&["   Total Incoming Outgoing         Incoming         Outgoing
   Conns  Packets  Packets            Bytes            Bytes
     1A2       FF        0           186A0                0

 Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s
       0        0        0                0                0
"
        .to_owned()]);
        assert_eq!(rows.numbers, [0x1a2, 255, 0, 100_000, 0]);
        assert_eq!(cell(&rows, "incoming_bytes"), 100_000);
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
