//! An error with its causes, in one line and each said once.
//!
//! Some libraries' errors repeat their cause in their own text and name it as well, some do only one
//! of both; whoever shows an error need not know which.

use std::error::Error;

/// The error and what caused it: `reading x: No such file or directory`.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.map(ToString::to_string).fold(error.to_string(), |text, cause| {
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

/// What caused it in the end, without the layers through which it came.
pub fn innermost(error: &(dyn Error + 'static)) -> String {
    std::iter::successors(Some(error), |cause| (*cause).source())
        .last()
        .map_or_else(String::new, ToString::to_string)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Outer {
        #[error("reading x: {0}")]
        Repeats(#[source] io::Error),
        #[error("reading x")]
        Leaves(#[source] io::Error),
    }

    #[test]
    fn a_cause_is_said_once_whether_or_not_its_effect_repeats_it() {
        let cause = || io::Error::new(io::ErrorKind::NotFound, "no such file");
        for outer in [Outer::Repeats(cause()), Outer::Leaves(cause())] {
            assert_eq!(chain(&outer), "reading x: no such file");
            assert_eq!(chain(anyhow::Error::new(outer).context("a").as_ref()), "a: reading x: no such file");
        }
    }
}
