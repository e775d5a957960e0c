//! Sends events elsewhere: to Grafana Loki, by OpenTelemetry's protocol, to a file, to standard error.
//!
//! A sink is a thread with a position in the log of events ([`runner`]). One that is slow or dead costs nobody
//! else anything: what it cannot send waits in memory and then on disk ([`queue`], [`spool`]), and what does not
//! fit is counted ([`account`]). Each kind of sink is one file that says how a batch is delivered ([`Deliver`]).

mod account;
mod client;
mod deliver;
mod file;
mod loki;
mod otlp;
mod queue;
mod runner;
mod spool;
mod stderr;

pub use account::Account;
pub use client::{Credentials, Login};
pub use deliver::Deliver;
pub use file::File;
pub use loki::{Encoding, Labels, Loki};
pub use otlp::Otlp;
pub use runner::{Running, Sink};
pub use spool::Place;
pub use stderr::Stderr;
