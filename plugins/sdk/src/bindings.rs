//! Generated from `wit/analyzer.wit`, the one contract; nothing here is written by hand.
//!
//! The world `analyzer` holds all imports and the one mandatory export. Each optional hook is a
//! world of its own (`wit/hooks.wit`), because a component must export exactly the hooks that its
//! author lists, and wit-bindgen exports a world as a whole.

#![allow(missing_docs, reason = "the documentation of these items is the WIT file")]

wit_bindgen::generate!({
    path: "../../wit",
    world: "inspector:analyzer/analyzer",
    pub_export_macro: true,
    export_macro_name: "export_guest",
    additional_derives: [PartialEq, Default],
});

macro_rules! hook {
    ($module:ident, $world:literal) => {
        pub mod $module {
            wit_bindgen::generate!({
                path: ["../../wit", "wit"],
                world: $world,
                pub_export_macro: true,
                additional_derives: [PartialEq, Default],
                with: { "inspector:analyzer/types@0.1.0": crate::bindings::inspector::analyzer::types },
            });
        }
    };
}

hook!(ticker, "inspector:sdk/ticker");
hook!(entity_watch, "inspector:sdk/entity-watch");
hook!(diagnosis, "inspector:sdk/diagnosis");
hook!(snapshot, "inspector:sdk/snapshot");
