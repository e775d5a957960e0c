//! Promise: the architecture is what ARCHITECTURE.md says, section "Invariants".

use anyhow::Result;
use inspector_tests::imports::{circles, circles_in, violations, violations_in};
use inspector_tests::plugins::workspace;

#[test]
fn the_host_crate_keeps_the_import_rules() -> Result<()> {
    let found = violations_in(&workspace().join("host/src"))?;
    assert!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

#[test]
fn no_files_of_the_host_crate_import_each_other() -> Result<()> {
    let found = circles_in(&workspace().join("host/src"))?;
    assert!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

#[test]
fn a_circle_is_found_however_its_files_name_each_other() {
    let of = |files: &[(&str, &str)]| {
        circles(&files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect())
    };
    let long = [
        ("clock.rs", "use crate::events::log::EventLog;"),
        ("events/log.rs", "use super::throttle;"),
        ("events/throttle.rs", "fn f() { crate::clock::now(); }"),
        ("loss.rs", "use crate::clock;"),
    ];
    assert_eq!(of(&long), ["clock.rs, events/log.rs, events/throttle.rs import each other"]);
    let child =
        [("plugin/mod.rs", "mod worker; use worker::Worker;"), ("plugin/worker.rs", "use super::Limits;")];
    assert_eq!(of(&child), ["plugin/mod.rs, plugin/worker.rs import each other"]);
    let for_tests = [
        ("loss.rs", "#[cfg(test)]\nmod tests { use crate::view::View; }"),
        ("view/mod.rs", "use crate::loss::Loss;"),
    ];
    assert_eq!(of(&for_tests), Vec::<String>::new());
}

#[test]
fn an_adapter_that_imports_another_is_found() {
    for text in [
        "use crate::probe::Probes;",
        "use crate::{loss::Loss, probe::{self, Probes}};",
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
fn every_adapter_may_ask_what_it_is_allowed_and_no_file_of_the_core() {
    let text = "use crate::privilege::explained;";
    assert_eq!(violations("source/conntrack.rs", text), Vec::<String>::new());
    assert_eq!(violations("series/metrics.rs", text).len(), 1);
}

#[test]
fn a_file_of_the_core_that_imports_an_adapter_or_does_io_is_found() {
    for text in [
        "use crate::plugin;",
        "use super::super::discover::scan;",
        "use std::{collections::HashMap, fs};",
        "fn f() { std::fs::read(\"x\"); }",
        "use std::net::{IpAddr, TcpStream};",
        "use tokio::net::TcpListener;",
    ] {
        assert_eq!(violations("series/metrics.rs", text).len(), 1, "{text}");
    }
}

#[test]
fn a_library_outside_of_its_adapter_is_found() {
    for (file, text) in [
        ("agent.rs", "use wasmtime::Engine;"),
        ("plugin/engine.rs", "use aya::Ebpf;"),
        ("probe/load.rs", "fn f(x: wasmtime_wasi::WasiCtx) {}"),
        ("source/mod.rs", "use hyper::body::Body;"),
        ("config/mod.rs", "use clap::Parser;"),
        ("cli/mod.rs", "let text: toml::Value = 1;"),
        ("events/log.rs", "use prometheus_client::registry::Registry;"),
        ("status.rs", "use kube;"),
    ] {
        assert_eq!(violations(file, text).len(), 1, "{file}: {text}");
    }
}

#[test]
fn a_folder_that_has_no_place_in_the_design_is_found() {
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
        assert_eq!(violations("series/metrics.rs", text), Vec::<String>::new(), "{text}");
    }
}
