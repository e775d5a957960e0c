//! Mirror of `dns.bpf.c`.

use crate::catalog::{Class, Description};
use crate::hook::{Direction, cgroup_skb};
use crate::record::{constants, record};

constants! {
    enum dns_kind: u16 {
        /// A query leaves its client's socket.
        KIND_QUERY = 1,
        /// An answer reaches its client's socket.
        KIND_ANSWER = 2,
    }
}

/// Bytes of a name that a record has room for; a whole one has up to 255.
pub const NAME: usize = 128;

/// What it hooks, what that costs, and which questions rest on it.
pub const DESCRIPTION: Description = Description {
    class: Class::Medium,
    answers: &["dns"],
    hooks: &[
        cgroup_skb(Direction::Egress, "dns_query")
            .gives("DNS queries")
            .delivers("queries: name (128 bytes of it), type, id, server, tries")
            .cost(85, 111_000),
        cgroup_skb(Direction::Ingress, "dns_answer")
            .gives("DNS answers")
            .delivers("answers: response code, latency, number of records")
            .cost(88, 41_000),
    ],
    append_sum: None,
};

record! {
    /// A DNS message at the client's side; `saddr` is the client and `daddr` the server, in queries
    /// and answers. Where addresses are translated on this node, the server of the query and of its
    /// answer may differ.
    Dns, probe "dns", schema 1, c "dns",
    {
        /// Of a matched answer: time since the query; since the first of several that went out
        /// within five seconds.
        latency_ns: u64,
        /// Cookie of the client's socket; with `id` and `head.proto` it makes a query unique.
        socket: u64,
        /// Bytes in the DNS message; over TCP in the segment, from the message on.
        length: u32,
        /// DNS transaction id.
        id: u16,
        /// Type of the question (A 1, AAAA 28, …); 0 if an answer repeats no question.
        qtype: u16,
        /// Answer records.
        answers: u16,
        /// Response code of an answer (NOERROR 0, SERVFAIL 2, NXDOMAIN 3, REFUSED 5, …).
        rcode: u8,
        /// 0: an answer to which no query was seen.
        matched: u8,
        /// Queries with this id on this socket that wait for an answer, this one included.
        tries: u8,
        /// Bytes of the whole name as on the wire, 0 = none; over 128 it is cut in `name`.
        name_length: u8,
        /// The question's name as on the wire: labels, each behind its length.
        name: [u8; 128],
    } pad { pad: [u8; 2], }
}

impl Dns {
    /// The name with dots, in lower case as DNS compares it, `.` for the root; every byte that is no
    /// printable ASCII, and a dot or backslash within a label, is written `\ddd` (RFC 1035).
    ///
    /// A name that was cut ends in `…`; without a question it is empty.
    pub fn query_name(&self) -> String {
        let whole = usize::from(self.name_length);
        let bytes = &self.name[..whole.min(NAME)];
        let mut name = String::with_capacity(bytes.len());
        let mut at = 0;
        while let Some(&length) = bytes.get(at).filter(|length| **length > 0) {
            let end = at + 1 + usize::from(length);
            if at > 0 {
                name.push('.');
            }
            let label = &bytes[at + 1..end.min(bytes.len())];
            label.iter().for_each(|byte| push(&mut name, byte.to_ascii_lowercase()));
            at = end;
        }
        match (whole, name.is_empty()) {
            (0, _) => {}
            (_, true) => name.push('.'),
            (whole, _) if whole > NAME => name.push('…'),
            _ => {}
        }
        name
    }
}

fn push(name: &mut String, byte: u8) {
    if byte.is_ascii_graphic() && byte != b'.' && byte != b'\\' {
        name.push(char::from(byte));
    } else {
        name.push_str(&format!("\\{byte:03}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::FromBytes;

    fn name(bytes: &[u8], length: u8) -> String {
        let mut dns = Dns::read_from_bytes(&[0; size_of::<Dns>()]).expect("zeros are a record");
        dns.name[..bytes.len()].copy_from_slice(bytes);
        dns.name_length = length;
        dns.query_name()
    }

    #[test]
    fn a_name_is_shown_with_dots_in_lower_case() {
        assert_eq!(name(b"\x03Www\x07example\x03org\0", 17), "www.example.org");
        assert_eq!(name(b"\0", 1), ".");
        assert_eq!(name(b"", 0), "");
    }

    #[test]
    fn no_byte_of_a_name_reaches_a_terminal_as_it_is() {
        assert_eq!(name(b"\x05a.\x1b\\\xff\0", 7), "a\\046\\027\\092\\255");
    }

    #[test]
    fn a_name_that_was_cut_says_so() {
        let long = [b"\x3f".as_slice(), &[b'a'; 63], b"\x3f", &[b'b'; 63]].concat();
        let shown = name(&long, 255);
        assert_eq!(shown, format!("{}.{}…", "a".repeat(63), "b".repeat(63)));
    }

    #[test]
    fn a_length_beyond_the_end_is_no_panic() {
        assert_eq!(name(b"\x3fab", 3), "ab");
    }
}
