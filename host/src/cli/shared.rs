//! What all commands share: forms of output, wrong usage, files of users, and where event servers are.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use clap::ValueEnum;

use crate::config;
use crate::config::address::{Address, AddressError};
use crate::http::client;
use crate::http::reach::Server;

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
        // A node is named where this is shown, an address in the text.
        client::Error::Timeout(server) if !server.contains(':') => "no answer in time".to_owned(),
        client::Error::Connect { .. } => {
            format!("{} (is an agent running there? see `inspector serve --help`)", client::chain(&error))
        }
        error => client::chain(&error),
    }
}

/// The named event servers; that of this node if none is named.
pub(super) fn or_this_node(mut servers: Vec<Address>) -> Result<Vec<Server>, AddressError> {
    if servers.is_empty() {
        servers.push(server_address("127.0.0.1")?);
    }
    Ok(servers.iter().map(Server::at).collect())
}

/// Maximum bytes of a file that a user wrote: a device that never ends is none.
const MAX_TEXT: u64 = 4 << 20;

/// A file that a user wrote; it may be a pipe, which is waited for.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_TEXT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_TEXT {
        return Err(io::Error::other(format!("larger than {} MiB", MAX_TEXT >> 20)));
    }
    Ok(text)
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

    #[test]
    fn a_file_without_an_end_is_refused() {
        let refused = read_text(Path::new("/dev/zero")).expect_err("it has no end");
        assert_eq!(refused.to_string(), "larger than 4 MiB");
    }
}
