//! The conversation that a line of evidence is about, and where connection tracking sends it.

use std::net::SocketAddr;

use crate::answers::report::Evidence;

/// The attribute that names a conversation.
pub const FLOW: &str = "flow";
/// The attribute that names the address and port of a Service, as its client knows it.
pub const SENT_TO: &str = "sent_to";
/// The attribute that names where that goes.
const ARRIVES_AT: &str = "arrives_at";

/// A conversation as the attribute names it, e.g. `TCP 10.0.0.1:4242 10.0.0.2:80`: the same text at both ends.
/// An end without a port stands for many conversations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow<'a>(pub &'a str);

impl<'a> Flow<'a> {
    /// `TCP` or another name of a protocol.
    pub fn proto(self) -> &'a str {
        self.0.split(' ').next().unwrap_or_default()
    }

    /// Those that have a port.
    pub fn ends(self) -> impl Iterator<Item = SocketAddr> {
        self.0.split(' ').skip(1).filter_map(|end| end.parse().ok())
    }
}

impl Evidence {
    /// The conversation that it is about.
    pub fn flow(&self) -> Option<Flow<'_>> {
        self.attr(FLOW).map(Flow)
    }

    /// The address of a Service, or another that is translated, that a client sends to.
    pub fn sent_to(&self) -> Option<SocketAddr> {
        self.attr(SENT_TO)?.parse().ok()
    }

    /// Where that goes.
    pub fn arrives_at(&self) -> Option<SocketAddr> {
        self.attr(ARRIVES_AT)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_without_a_port_is_none() {
        let ends = |text| Flow(text).ends().map(|end| end.to_string()).collect::<Vec<_>>();
        assert_eq!(ends("TCP 10.0.0.1:4242 10.0.0.2:80"), ["10.0.0.1:4242", "10.0.0.2:80"]);
        assert_eq!(ends("UDP fd00::53 [fd00::1]:5353"), ["[fd00::1]:5353"]);
        assert_eq!((ends(""), Flow("").proto()), (Vec::new(), ""));
        assert_eq!(Flow("UDP fd00::53 fd00::1").proto(), "UDP");
    }
}
