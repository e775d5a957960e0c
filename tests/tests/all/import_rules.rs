//! Promise: the architecture is what ARCHITECTURE.md says, section "Invariants".

use anyhow::Result;
use inspector_tests::imports::{violations, violations_in};
use inspector_tests::plugins::workspace;

#[test]
fn the_host_crate_keeps_the_import_rules() -> Result<()> {
    let found = violations_in(&workspace().join("host/src"))?;
    assert!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

#[test]
fn a_door_that_imports_another_door_is_found() {
    for text in [
        "use crate::probe::Probes;",
        "use crate::{batch::Batch, probe::{self, Probes}};",
        "use super::super::probe;",
        "fn f() { crate::probe::kernel_names(); }",
        "pub(crate) use crate::probe as p;",
    ] {
        assert!(!violations("http/server.rs", text).is_empty(), "{text}");
        assert_eq!(violations("cli/doctor.rs", text), Vec::<String>::new(), "{text}");
        assert_eq!(violations("probe/reader.rs", text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn every_door_may_ask_what_it_is_allowed_and_no_noun() {
    let text = "use crate::privilege::explained;";
    assert_eq!(violations("source/conntrack.rs", text), Vec::<String>::new());
    assert_eq!(violations("metrics.rs", text).len(), 1);
}

#[test]
fn a_noun_that_imports_a_door_or_does_io_is_found() {
    for text in [
        "use crate::plugin;",
        "use super::discover::scan;",
        "use std::{collections::HashMap, fs};",
        "fn f() { std::fs::read(\"x\"); }",
        "use std::net::{IpAddr, TcpStream};",
        "use tokio::net::TcpListener;",
    ] {
        assert_eq!(violations("metrics.rs", text).len(), 1, "{text}");
    }
}

#[test]
fn a_library_outside_of_its_door_is_found() {
    for (file, text) in [
        ("agent.rs", "use wasmtime::Engine;"),
        ("plugin/engine.rs", "use aya::Ebpf;"),
        ("probe/load.rs", "fn f(x: wasmtime_wasi::WasiCtx) {}"),
        ("source/mod.rs", "use hyper::body::Body;"),
        ("config.rs", "use clap::Parser;"),
        ("cli/mod.rs", "let text: toml::Value = 1;"),
        ("events.rs", "use prometheus_client::registry::Registry;"),
        ("status.rs", "use kube;"),
    ] {
        assert_eq!(violations(file, text).len(), 1, "{file}: {text}");
    }
}

#[test]
fn a_folder_that_is_no_door_is_found() {
    assert_eq!(violations("utils/mod.rs", "").len(), 1);
}

#[test]
fn what_only_looks_like_a_path_is_let_pass() {
    for text in [
        "// use crate::probe::Probes;",
        "//! [`crate::plugin`] runs them.",
        "/* crate::probe::x */",
        "let text = \"crate::probe::x, \\\" std::fs::read\";",
        "let text = r#\"use aya::x;\"#;",
        "let quote = '\"'; // \"\nlet x = 1;",
        "use std::net::{IpAddr, SocketAddr};",
        "use crate::probes_seen::x;",
        "my::toml::parse();",
        "use crate::entities::{Entities, EntityId as Id};",
    ] {
        assert_eq!(violations("metrics.rs", text), Vec::<String>::new(), "{text}");
    }
}
