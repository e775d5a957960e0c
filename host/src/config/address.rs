//! Where a server listens or is found: `host:port`, `[v6]:port` or `:port`.
//!
//! The host stays text, because a name is looked up when it is used, and each time anew. Nothing
//! here looks anything up.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::text::escape::cut;

/// A host, or every address of this node, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Address {
    /// Name or address, without brackets; empty means every address of this node.
    pub host: String,
    /// TCP port; 0 lets the kernel choose one.
    pub port: u16,
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no address: {reason} (examples: `:9102`, `127.0.0.1:9102`, `[::1]:9102`)", .text.escape_debug())]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

impl AddressError {
    fn of(text: &str, reason: &'static str) -> Self {
        /// Bytes of what is said to be none.
        const MAX_TEXT: usize = 128;
        Self { text: cut(text, MAX_TEXT).to_owned(), reason }
    }
}

impl Address {
    /// Every address of this node.
    pub fn all(port: u16) -> Self {
        Self { host: String::new(), port }
    }

    /// Reads an address that may leave out its port.
    ///
    /// # Errors
    ///
    /// If the text is neither a host nor a host and a port.
    pub fn with_default_port(text: &str, port: u16) -> Result<Self, AddressError> {
        let err = |reason| AddressError::of(text, reason);
        if text.is_empty() {
            return Err(err("it is empty"));
        }
        let (host, rest) = match text.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once(']').ok_or_else(|| err("a `]` is missing"))?,
            // Two colons and no brackets: an IPv6 address without a port.
            None if text.matches(':').count() > 1 => (text, ""),
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let port = match rest.strip_prefix(':') {
            Some(digits) => digits.parse().map_err(|_| err("the port is no number up to 65535"))?,
            None if rest.is_empty() => port,
            None => return Err(err("a `:` and a port must follow the `]`")),
        };
        if host.contains(|c: char| c.is_whitespace() || c.is_control() || "/[]?#@".contains(c)) {
            return Err(err("this is no host name"));
        }
        if host.contains(':') && host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(err("an IPv6 address has brackets, and one port behind them"));
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let err = |reason| AddressError::of(text, reason);
        // Without brackets the last colon could be a part of an IPv6 address.
        let after_host = text.rfind(']').map_or(text, |end| &text[end..]);
        if !after_host.contains(':') {
            return Err(err("the port is missing"));
        }
        if !text.starts_with('[') && text.matches(':').count() > 1 {
            return Err(err("an IPv6 address has brackets, and one port behind them"));
        }
        Self::with_default_port(text, 0)
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(String, u16), AddressError> {
        text.parse().map(|a: Address| (a.host, a.port))
    }

    #[test]
    fn a_host_may_be_a_name_an_address_or_left_out() {
        assert_eq!(read(":9102"), Ok((String::new(), 9102)));
        assert_eq!(read("127.0.0.1:1"), Ok(("127.0.0.1".into(), 1)));
        assert_eq!(read("node-1.example:65535"), Ok(("node-1.example".into(), 65535)));
        assert_eq!(read("[::1]:0"), Ok(("::1".into(), 0)));
    }

    #[test]
    fn an_address_is_shown_as_it_is_written() {
        for text in [":9102", "127.0.0.1:1", "[fe80::1]:80", "localhost:19102"] {
            assert_eq!(text.parse::<Address>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in
            ["", "9102", "host", "host:", "host:x", "host:65536", "host:-1", "::1", "::1:80", "[::1]", "[::1"]
        {
            assert!(read(text).is_err(), "{text}");
        }
        for text in ["[::1]80", "[x:y]:1", "http://a:1", "a b:1", "a\u{1b}:1"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_port_may_be_left_out_where_there_is_a_usual_one() {
        let shown = |text| Address::with_default_port(text, 19102).map(|a| a.to_string());
        assert_eq!(shown("node-1").as_deref(), Ok("node-1:19102"));
        assert_eq!(shown("fe80::1").as_deref(), Ok("[fe80::1]:19102"));
        assert_eq!(shown("[fe80::1]").as_deref(), Ok("[fe80::1]:19102"));
        assert_eq!(shown("node-1:80").as_deref(), Ok("node-1:80"));
        assert!(shown("[::1]x").is_err() && shown("").is_err());
    }
}
