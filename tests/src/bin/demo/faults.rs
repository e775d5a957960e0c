//! The three faults of the demo, and what Inspector has to say of each.

use inspector_tests::lab::cases::Place;

/// A label and its value.
type Label = (&'static str, &'static str);

/// A fault, live as a case of the lab or from a recorded trace.
pub struct Fault {
    /// The case that makes it.
    pub case: &'static str,
    /// The folder of its trace in `tests/replay`.
    pub trace: &'static str,
    /// What it is, for people.
    pub title: &'static str,
    /// Events that are shown: type, where, and a word that is in it.
    pub events: &'static [(&'static str, Place, &'static str)],
    /// Metrics that rise: name, where, and a label.
    pub metrics: &'static [(&'static str, Place, &'static [Label])],
    /// The finding that the diagnosis begins with, where it is shown.
    pub concluded: Option<&'static str>,
}

/// In the order in which they are shown; the last one is diagnosed.
pub const FAULTS: [Fault; 3] = [
    Fault {
        case: "tcp_closed_port",
        trace: "closed-port",
        title: "A closed port: the client connects to 10.9.0.2:9, where nobody listens",
        events: &[
            ("TCPRESET_NOSOCK", Place::Server, "reason=NO_SOCKET"),
            ("TCPRESET_RECEIVE", Place::Client, ""),
        ],
        metrics: &[
            ("inspector_pod_tcpoutrsts", Place::Server, &[]),
            ("inspector_pod_tcpattemptfails", Place::Client, &[]),
            ("inspector_drops_total", Place::Server, &[("reason", "NO_SOCKET")]),
        ],
        concluded: None,
    },
    Fault {
        case: "nft_drop_in",
        trace: "firewall-drop",
        title: "A firewall: the server's nftables drop what comes in for 10.9.0.2:80",
        events: &[("PACKETLOSS", Place::Server, "NETFILTER_DROP"), ("TCPRETRANS", Place::Client, "")],
        metrics: &[
            ("inspector_pod_packetloss_netfilter", Place::Server, &[]),
            ("inspector_tcp_retransmits_total", Place::Client, &[("kind", "syn")]),
        ],
        concluded: None,
    },
    Fault {
        case: "listen_overflow",
        trace: "accept-queue-full",
        title: "A full accept queue: the server at 10.9.0.2 never calls accept",
        events: &[("TCPLISTEN_OVERFLOW", Place::Server, "")],
        metrics: &[
            ("inspector_pod_tcpextlistenoverflows", Place::Server, &[]),
            ("inspector_pod_tcpextlistendrops", Place::Server, &[]),
            ("inspector_pod_tcpexttcpsynretrans", Place::Client, &[]),
        ],
        concluded: Some("accept-queue-overflow"),
    },
];
