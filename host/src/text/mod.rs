//! Words for people: [`cause`] tells an error's causes once each, [`escape`] makes foreign text safe to
//! show, [`similar`] guesses which name was meant.

pub mod cause;
pub mod escape;
pub mod similar;
