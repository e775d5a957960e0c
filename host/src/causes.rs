//! An error with its causes, in one line for people.

use std::error::Error;
use std::iter::successors;

/// The text of an error and of its causes, outermost first. An error that tells its cause itself is
/// not said twice.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let chain = successors(error.source(), |cause: &&(dyn Error + 'static)| (*cause).source())
        .map(ToString::to_string);
    chain.fold(
        error.to_string(),
        |text, cause| {
            if text.contains(&cause) { text } else { format!("{text}: {cause}") }
        },
    )
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Failure {
        #[error("cannot read x: {0}")]
        Telling(#[source] io::Error),
        #[error("cannot read x")]
        Silent(#[source] io::Error),
    }

    #[test]
    fn a_cause_is_said_once_whoever_tells_it() {
        let missing = || io::Error::from_raw_os_error(2);
        let expected = "cannot read x: No such file or directory (os error 2)";
        assert_eq!(causes(&Failure::Telling(missing())), expected);
        assert_eq!(causes(&Failure::Silent(missing())), expected);
    }
}
