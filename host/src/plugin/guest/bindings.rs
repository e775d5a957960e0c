//! The host side of `wit/analyzer.wit`, generated.
//!
//! `full-analyzer` is only a way to generate bindings for every interface: which optional exports
//! a component really has is looked up when it is loaded ([`super::instance`]).

#![allow(missing_docs, reason = "generated from wit/, where everything is documented")]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "full-analyzer",
});
