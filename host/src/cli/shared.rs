//! What all commands share: forms of output, wrong usage, and where event servers are.

use clap::ValueEnum;

use crate::config;
use crate::config::address::{Address, AddressError};
use crate::http::client;

/// How a command prints: for people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Output {
    #[default]
    Text,
    Json,
}

/// Exit status for wrong usage, which is clap's.
pub(super) const WRONG_USAGE: u8 = 2;

/// A name or a value of the user's that turns out to be wrong only where it is used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(pub(super) String);

/// Where to find an event server: the port may be left out, and the host of this node too, but not
/// both.
pub(super) fn server_address(text: &str) -> Result<Address, AddressError> {
    let mut address = Address::with_default_port(text, config::EVENTS_PORT)?;
    if address.host.is_empty() {
        "127.0.0.1".clone_into(&mut address.host);
    }
    Ok(address)
}

/// What a person should know of an error of an event server.
pub(super) fn in_words(error: client::Error) -> String {
    match error {
        client::Error::Status { status: 400, message } => message,
        client::Error::Status { status: 404, .. } => {
            format!("{error} (no agent's event server, or one of an older version)")
        }
        client::Error::Connect { .. } => {
            format!("{} (is an agent running there? see `inspector serve --help`)", client::chain(&error))
        }
        error => client::chain(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_may_be_named_without_its_port() {
        let shown = |text| server_address(text).map(|address| address.to_string());
        assert_eq!(shown("node-1").as_deref(), Ok("node-1:19102"));
        assert_eq!(shown(":80").as_deref(), Ok("127.0.0.1:80"));
        assert!(shown("").is_err(), "an unset variable of a script is no address");
    }
}
