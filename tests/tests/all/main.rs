//! The product against its promises, one module each. See `inspector_tests` for the lab and the
//! harness. Tests run as root and in parallel; those that count the whole kernel take their turn
//! (`quiet`).

mod import_rules;
mod lab;
