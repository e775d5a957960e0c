//! What the kernel delivers, and what it calls things.
//!
//! - [`batch`], [`table`]: packed event records, and counter tables.
//! - [`names`], [`symbols`]: the names behind the numbers and addresses of the running kernel.
//! - [`advice`]: what the kernel's drop and reset reasons mean to people.

pub mod advice;
pub mod batch;
pub mod names;
pub mod symbols;
pub mod table;
