//! Name servers.
//!
//! - [`silence`]: name servers that are silent;
//! - [`answers`]: name servers that are slow or say no.

pub mod answers;
pub mod silence;
