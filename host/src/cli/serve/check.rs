//! `inspector serve --check`: looks at everything that a configuration names, and starts nothing.
//!
//! A port that is taken is a failure, also where the agent has it that is to be restarted: this
//! says what `serve` would do now.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::slice;

use crate::cli::shared::read_text;
use crate::cli::table::Table;
use crate::cli::terminal::{self, Colour, Style};
use crate::config::address::Address;
use crate::config::sinks::Sinks;
use crate::config::{Config, Plugins};
use crate::http;
use crate::kernel::advice::Advice;
use crate::plugin::{self, Described, Look};
use crate::text::cause;

/// One thing that the configuration names.
struct Row {
    key: &'static str,
    what: String,
    /// What there is, or what is wrong with it.
    found: Result<String, String>,
}

impl Row {
    fn new(key: &'static str, what: impl ToString, found: Result<String, String>) -> Self {
        Self { key, what: what.to_string(), found }
    }
}

/// Prints what was found; fails if something is wrong.
pub(super) fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let mut rows = vec![Row::new("node.name", &config.node.name, Ok("value of the label `node`".to_owned()))];
    rows.extend(addresses(config));
    rows.extend(plugins(&config.plugins)?);
    rows.extend(texts(&config.advice.file));
    rows.extend(sinks(&config.sinks));
    rows.push(Row::new("paths.procfs", config.paths.procfs.display(), procfs(&config.paths.procfs)));
    rows.push(Row::new("paths.netns", config.paths.netns.display(), Ok(names(&config.paths.netns))));
    print(&rows, Style::of_stdout())?;
    let wrong = rows.iter().any(|row| row.found.is_err());
    Ok(if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(rows: &[Row], style: Style) -> io::Result<()> {
    let mut table = Table::new(&["key", "value", "state", "found"]);
    for Row { key, what, found } in rows {
        match found {
            Ok(found) => table.row([key, what, "ok", found]),
            Err(wrong) => table.row([key, what, "failed", wrong]),
        }
    }
    // What was found stands at the end of its line and is what people came for: it is not cut.
    for line in table.lines(Style { width: None, ..style }) {
        terminal::print_line(&line)?;
    }
    let (colour, summary) = match rows.iter().filter(|row| row.found.is_err()).count() {
        0 => (Colour::Green, "The configuration is good.".to_owned()),
        1 => (Colour::Red, "One thing is wrong.".to_owned()),
        wrong => (Colour::Red, format!("{wrong} things are wrong.")),
    };
    terminal::print_line(&format!("\n{}", style.paint(colour, &summary)))
}

/// Every address is held until all were tried, as `serve` would hold them.
fn addresses(config: &Config) -> Vec<Row> {
    let web = config.web.listen.iter().map(|address| ("web.listen", address));
    let events = config.events.listen.iter().map(|address| ("events.listen", address));
    let mut held = Vec::new();
    let mut found = |key: &'static str, address: &Address| match http::bind(slice::from_ref(address), key) {
        Ok(bound) => {
            held.push((key, address.clone(), bound));
            Ok("free".to_owned())
        }
        Err(http::Error::Bind { reason, .. }) if reason.kind() == io::ErrorKind::AddrInUse => {
            let own = held.iter().find(|(_, other, _)| other.port == address.port);
            Err(own.map_or_else(
                || "in use: serve would not start while that runs".to_owned(),
                |(key, other, _)| format!("its port is that of {key} {other} already"),
            ))
        }
        Err(error) => Err(error.to_string()),
    };
    web.chain(events).map(|(key, address)| Row::new(key, address, found(key, address))).collect()
}

fn plugins(config: &Plugins) -> anyhow::Result<Vec<Row>> {
    let looks = plugin::look(&config.directories)?;
    let names: Vec<_> =
        looks.iter().filter_map(|look| Some(look.found.as_ref().ok()?.name.clone())).collect();
    let empty = |directory: &&PathBuf| !looks.iter().any(|look| look.path.starts_with(directory));
    let empty = config.directories.iter().filter(empty);
    let empty = empty.map(|directory| {
        Row::new("plugins.directories", directory.display(), Err("there is no component in it".to_owned()))
    });
    let mut rows: Vec<_> = empty.collect();
    rows.extend(looks.into_iter().map(|Look { path, found }| {
        let found = found.map(|Described { name, version }| {
            let disabled = if config.disabled.contains(&name) { ", disabled" } else { "" };
            format!("{name} {version}{disabled}")
        });
        Row::new("plugins.directories", path.display(), found)
    }));
    rows.extend(config.strangers(&names).map(|stranger| {
        let wrong = format!("no analyzer has this name; there are {}", names.join(", "));
        Row::new("plugins.disabled", stranger, Err(wrong))
    }));
    Ok(rows)
}

/// What sinks that are configured read. Nobody is asked: that a server is away now is nothing wrong here.
fn sinks(config: &Sinks) -> Vec<Row> {
    let (loki, otlp) = (&config.loki, &config.otlp);
    let mut files = Vec::new();
    if !loki.address.is_empty() {
        files.extend([
            ("sinks.loki.password_file", &loki.password_file, !loki.username.is_empty()),
            ("sinks.loki.bearer_token_file", &loki.bearer_token_file, false),
            ("sinks.loki.ca_file", &loki.ca_file, false),
            ("sinks.loki.cert_file", &loki.cert_file, is_given(&loki.key_file)),
            ("sinks.loki.key_file", &loki.key_file, is_given(&loki.cert_file)),
        ]);
    }
    if !otlp.endpoint.is_empty() {
        files.extend([
            ("sinks.otlp.password_file", &otlp.password_file, !otlp.username.is_empty()),
            ("sinks.otlp.bearer_token_file", &otlp.bearer_token_file, false),
            ("sinks.otlp.ca_file", &otlp.ca_file, false),
            ("sinks.otlp.cert_file", &otlp.cert_file, is_given(&otlp.key_file)),
            ("sinks.otlp.key_file", &otlp.key_file, is_given(&otlp.cert_file)),
        ]);
    }
    let files = files.into_iter().filter(|(_, file, is_needed)| *is_needed || is_given(file));
    let found = |file: &Path| match std::fs::read(file) {
        _ if !is_given(file) => Err("must name a file, since what belongs to it is given".to_owned()),
        Ok(_) => Ok("readable".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    files.map(|(key, file, _)| Row::new(key, file.display(), found(file))).collect()
}

fn is_given(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

/// The operator's own texts, if there are any.
fn texts(file: &Path) -> Option<Row> {
    if file.as_os_str().is_empty() {
        return None;
    }
    let found = read_texts(file).map(|advice| format!("{} texts", advice.all().count()));
    Some(Row::new("advice.file", file.display(), found))
}

/// Reads the operator's own texts, or says why they cannot be used.
pub(super) fn read_texts(file: &Path) -> Result<Advice, String> {
    let text = read_text(file).map_err(|error| error.to_string())?;
    Advice::parse(&file.display().to_string(), &text).map_err(|error| error.to_string())
}

fn procfs(path: &Path) -> Result<String, String> {
    let snmp = path.join("self/net/snmp");
    let read = std::fs::read(&snmp);
    read.map(|_| "readable".to_owned())
        .map_err(|error| format!("{}: {error}: is it a procfs?", snmp.display()))
}

fn names(path: &Path) -> String {
    match std::fs::read_dir(path) {
        Ok(entries) => format!("{} names of network namespaces", entries.count()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            "not there: nothing has a name by `ip netns` yet".to_owned()
        }
        Err(error) => cause::chain(&error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// What is found of the addresses of a configuration, in its order.
    fn found(web: &str, events: &str) -> Vec<Result<String, String>> {
        let text = format!("web.listen = ['{web}']\nevents.listen = ['{events}']\n");
        let config = Config::parse("x", &text).expect("valid");
        addresses(&config).into_iter().map(|row| row.found).collect()
    }

    #[test]
    fn an_address_that_is_named_twice_or_in_use_is_a_failure() {
        // Of this address no other test takes a port.
        let taken = TcpListener::bind("127.0.0.77:0").expect("a port");
        let at = taken.local_addr().expect("an address").to_string();
        let free = || Ok("free".to_owned());
        let in_use = Err("in use: serve would not start while that runs".to_owned());
        assert_eq!(found("127.0.0.1:0", "127.0.0.1:0"), [free(), free()]);
        assert_eq!(found("127.0.0.1:0", &at), [free(), in_use]);
        drop(taken);
        let twice = Err(format!("its port is that of web.listen {at} already"));
        assert_eq!(found(&at, &at), [free(), twice]);
    }
}
