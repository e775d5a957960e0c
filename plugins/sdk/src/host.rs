//! The functions that the host provides, under one name on both sides: a component imports them,
//! a native build (tests, benches) gets the stand-in of `testing`.

#[cfg(target_arch = "wasm32")]
pub use crate::bindings::inspector::analyzer::{entities, events, kernel, log, metrics, sources};
#[cfg(not(target_arch = "wasm32"))]
pub use crate::testing::host::{entities, events, kernel, log, metrics, sources};
