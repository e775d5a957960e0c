//! The rules of nf_tables as the kernel holds them, with their counters and comments: those of `nft`, of
//! firewalls that use it, and of iptables where that writes to nf_tables.
//!
//! `nft` prints them as people write them, but it need not be installed, it cannot print matches of iptables,
//! the comments among them, and it does not say which rule it was. Of a rule this reads what it does and not
//! all of what it matches.

use std::io;

use nix::sys::socket::SockProtocol;

use crate::netns::netlink::{attributes, dump, text};

/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_GETRULE` of linux/netfilter/nf_tables.h.
const GET_RULE: u16 = (10 << 8) | 7;
/// `struct nfgenmsg`; 0 as its family asks for the rules of all.
const NFGENMSG: [u8; 4] = [0; 4];
/// Rules that are kept of one namespace: kube-proxy writes some ten for each Service.
const MAX_RULES: usize = 1 << 17;
// `enum nft_rule_attributes`.
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;
// `enum nft_expr_attributes`.
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
// `enum nft_immediate_attributes`, `enum nft_data_attributes`, `enum nft_verdict_attributes`.
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
// `enum nft_payload_attributes` and `enum nft_payload_bases`, `enum nft_meta_attributes` and `enum nft_meta_keys`.
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NETWORK_HEADER: u32 = 1;
const NFTA_META_KEY: u16 = 2;
const IN_NAME: u32 = 6;
const OUT_NAME: u32 = 7;
// `enum nft_counter_attributes`, `enum nft_cmp_attributes` and `enum nft_cmp_ops`, `enum nft_target_attributes` and
// nft_match's.
const NFTA_COUNTER_PACKETS: u16 = 2;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const EQUAL: u32 = 0;
const NFTA_TARGET_NAME: u16 = 1;
const NFTA_MATCH_INFO: u16 = 3;
/// `NF_DROP`.
const DROP: u32 = 0;
/// `NFTNL_UDATA_RULE_COMMENT` of libnftnl's udata.h: the type of a comment in what tools keep with a rule.
const COMMENT: u8 = 0;

/// What a rule may compare, of what is known of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// The source address.
    Source,
    /// The destination address.
    Destination,
    /// The name of the device by which a packet came.
    In,
    /// The name of the device by which it leaves.
    Out,
}

/// One rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rule {
    /// Family and name, e.g. `ip filter`.
    pub(super) table: String,
    pub(super) chain: String,
    /// Its number in its table.
    pub(super) handle: u64,
    /// What becomes of a packet that it ends: `drops` or `rejects`.
    pub(super) ends: Option<&'static str>,
    /// The chain where it goes on.
    pub(super) leads_to: Option<String>,
    /// Packets that it matched, if it counts them.
    pub(super) packets: Option<u64>,
    pub(super) comments: Vec<String>,
    /// What it wants to be equal, as in memory; what else it compares is not here.
    pub(super) values: Vec<(Field, Vec<u8>)>,
}

impl Rule {
    /// The same for one rule at any time: its number is that in its table.
    pub(super) fn id(&self) -> (&str, u64) {
        (&self.table, self.handle)
    }

    /// Its chain, whose name is one in its table.
    pub(super) fn chain_id(&self) -> (&str, &str) {
        (&self.table, &self.chain)
    }

    /// The chain to which it leads.
    pub(super) fn target(&self) -> Option<(&str, &str)> {
        Some((&self.table, self.leads_to.as_deref()?))
    }

    /// Where it stands, for people.
    pub(super) fn place(&self) -> String {
        format!("table {}, chain {}, handle {}", self.table, self.chain, self.handle)
    }

    /// None for what is no rule.
    fn of(message: &[u8]) -> Option<Self> {
        let family = match *message.first()? {
            1 => "inet",
            2 => "ip",
            3 => "arp",
            5 => "netdev",
            7 => "bridge",
            10 => "ip6",
            _ => "other",
        };
        let mut rule = Self::default();
        for (kind, value) in attributes(message.get(NFGENMSG.len()..)?) {
            match kind {
                NFTA_RULE_TABLE => rule.table = format!("{family} {}", text(value)),
                NFTA_RULE_CHAIN => rule.chain = text(value),
                NFTA_RULE_HANDLE => rule.handle = u64::from_be_bytes(value.try_into().ok()?),
                NFTA_RULE_EXPRESSIONS => {
                    let mut loaded = None;
                    attributes(value).for_each(|(_, it)| rule.add_expression(it, &mut loaded));
                }
                NFTA_RULE_USERDATA => rule.comments.extend(comment(value)),
                _ => {}
            }
        }
        Some(rule)
    }

    /// `loaded` is what the next comparison is about.
    fn add_expression(&mut self, expression: &[u8], loaded: &mut Option<Field>) {
        let data = attribute(expression, NFTA_EXPR_DATA).unwrap_or_default();
        match attribute(expression, NFTA_EXPR_NAME).map(text).unwrap_or_default().as_str() {
            "immediate" => {
                let verdict = attribute(data, NFTA_IMMEDIATE_DATA)
                    .and_then(|data| attribute(data, NFTA_DATA_VERDICT))
                    .unwrap_or_default();
                if number(verdict, NFTA_VERDICT_CODE) == Some(DROP) {
                    self.ends = Some("drops");
                }
                self.leads_to = attribute(verdict, NFTA_VERDICT_CHAIN).map(text);
            }
            "reject" => self.ends = Some("rejects"),
            "target" if attribute(data, NFTA_TARGET_NAME).map(text).as_deref() == Some("REJECT") => {
                self.ends = Some("rejects");
            }
            "counter" => {
                let packets = attribute(data, NFTA_COUNTER_PACKETS).and_then(|count| count.try_into().ok());
                self.packets = packets.map(u64::from_be_bytes);
            }
            "payload" => {
                let at = (number(data, NFTA_PAYLOAD_BASE), number(data, NFTA_PAYLOAD_OFFSET));
                *loaded = match at {
                    // Of IPv4, of IPv6.
                    (Some(NETWORK_HEADER), Some(12 | 8)) => Some(Field::Source),
                    (Some(NETWORK_HEADER), Some(16 | 24)) => Some(Field::Destination),
                    _ => None,
                };
            }
            "meta" => {
                *loaded = match number(data, NFTA_META_KEY) {
                    Some(IN_NAME) => Some(Field::In),
                    Some(OUT_NAME) => Some(Field::Out),
                    _ => None,
                };
            }
            "cmp" => {
                let value = attribute(data, NFTA_CMP_DATA).and_then(|data| attribute(data, NFTA_DATA_VALUE));
                if let (Some(field), Some(value), Some(EQUAL)) =
                    (loaded.take(), value, number(data, NFTA_CMP_OP))
                {
                    self.values.push((field, value.to_vec()));
                }
            }
            // A part of an address is no address.
            "bitwise" | "lookup" | "range" => *loaded = None,
            "match" if attribute(data, NFTA_TARGET_NAME).map(text).as_deref() == Some("comment") => {
                self.comments.extend(attribute(data, NFTA_MATCH_INFO).map(text));
            }
            _ => {}
        }
    }
}

/// All of them, in the order of their chains.
pub(super) fn read() -> io::Result<Vec<Rule>> {
    dump(SockProtocol::NetlinkNetFilter, GET_RULE, &NFGENMSG, Vec::new, |rules, message| {
        if rules.len() < MAX_RULES {
            rules.extend(Rule::of(message));
        }
    })
}

/// A number in the byte order of the network.
fn number(of: &[u8], wanted: u16) -> Option<u32> {
    Some(u32::from_be_bytes(attribute(of, wanted)?.try_into().ok()?))
}

fn attribute(of: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(of).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// Tools keep what is theirs as bytes of type and length, and the value.
fn comment(mut userdata: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = userdata {
        let value = rest.get(..usize::from(*length))?;
        if *kind == COMMENT {
            return Some(text(value));
        }
        userdata = &rest[value.len()..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((4 + value.len() as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn expression(name: &str, data: &[u8]) -> Vec<u8> {
        let name = attr(NFTA_EXPR_NAME, format!("{name}\0").as_bytes());
        attr(1, &[name, attr(NFTA_EXPR_DATA, data)].concat())
    }

    #[test]
    fn a_rule_is_read_with_its_counter_its_end_and_its_comment() {
        let verdict = attr(NFTA_DATA_VERDICT, &attr(NFTA_VERDICT_CODE, &DROP.to_be_bytes()));
        let value = |field: &[u8], value: &[u8], op: u32| {
            let is =
                [attr(NFTA_CMP_OP, &op.to_be_bytes()), attr(NFTA_CMP_DATA, &attr(NFTA_DATA_VALUE, value))];
            [field, &expression("cmp", &is.concat())].concat()
        };
        let at = |offset: u32| {
            let at = [
                attr(NFTA_PAYLOAD_BASE, &NETWORK_HEADER.to_be_bytes()),
                attr(NFTA_PAYLOAD_OFFSET, &offset.to_be_bytes()),
            ];
            expression("payload", &at.concat())
        };
        let out = expression("meta", &attr(NFTA_META_KEY, &OUT_NAME.to_be_bytes()));
        let expressions = [
            value(&at(12), &[10, 0, 0, 1], EQUAL),
            value(&at(16), &[10, 0, 0, 2], EQUAL + 1),
            value(&out, b"eth0", EQUAL),
            expression("counter", &attr(NFTA_COUNTER_PACKETS, &7u64.to_be_bytes())),
            expression("immediate", &attr(NFTA_IMMEDIATE_DATA, &verdict)),
        ];
        let message = [
            vec![2, 0, 0, 0],
            attr(NFTA_RULE_TABLE, b"filter\0"),
            attr(NFTA_RULE_CHAIN, b"in\0"),
            attr(NFTA_RULE_HANDLE, &12u64.to_be_bytes()),
            attr(NFTA_RULE_EXPRESSIONS, &expressions.concat()),
            attr(NFTA_RULE_USERDATA, &[9, 1, 0, COMMENT, 4, b'w', b'h', b'y', 0]),
        ];
        let rule = Rule::of(&message.concat()).expect("a rule");
        let expected = Rule {
            table: "ip filter".to_owned(),
            chain: "in".to_owned(),
            handle: 12,
            ends: Some("drops"),
            leads_to: None,
            packets: Some(7),
            comments: vec!["why".to_owned()],
            values: vec![(Field::Source, vec![10, 0, 0, 1]), (Field::Out, b"eth0".to_vec())],
        };
        assert_eq!(rule, expected);
        assert_eq!(rule.place(), "table ip filter, chain in, handle 12");
    }

    #[test]
    fn a_target_of_iptables_and_a_jump_are_told_apart() {
        let mut rule = Rule::default();
        let verdict = [attr(NFTA_VERDICT_CODE, &(-3i32).to_be_bytes()), attr(NFTA_VERDICT_CHAIN, b"next\0")];
        let data = attr(NFTA_DATA_VERDICT, &verdict.concat());
        let jump = expression("immediate", &attr(NFTA_IMMEDIATE_DATA, &data));
        rule.add_expression(&jump[4..], &mut None);
        assert_eq!((rule.ends, rule.leads_to.as_deref()), (None, Some("next")));
        let comment = [attr(NFTA_TARGET_NAME, b"comment\0"), attr(NFTA_MATCH_INFO, b"for pod\0\0\0")];
        for part in [
            expression("match", &comment.concat()),
            expression("target", &attr(NFTA_TARGET_NAME, b"REJECT\0")),
        ] {
            rule.add_expression(&part[4..], &mut None);
        }
        assert_eq!((rule.ends, rule.comments), (Some("rejects"), vec!["for pod".to_owned()]));
    }

    #[test]
    fn what_is_cut_off_is_no_rule_and_no_comment() {
        assert_eq!(Rule::of(&[]), None);
        assert_eq!(Rule::of(&[2, 0]), None);
        assert_eq!(comment(&[COMMENT, 9, b'a']), None);
        assert_eq!(comment(&[1]), None);
    }
}
