//! An agent without servers, for one question.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::running::{self, Agent, Error};
use crate::answers::question::{Question, Refusal};
use crate::answers::report::Report;
use crate::config::Config;
use crate::notify::{Notify, Wake};

/// Diagnoses without an agent: starts one in this process, without servers, lets it look for as long as
/// `time` or until `stop` is closed, and asks it. Blocking. `begun` is called when it begins to look,
/// which it does with all analyzers there are.
///
/// # Errors
/// The agent cannot start. That the question cannot be answered is the inner error.
pub fn run(
    config: &Config,
    question: &Question,
    time: Duration,
    stop: &Notify,
    begun: impl FnOnce(),
) -> Result<Result<Report, Refusal>, Error> {
    let mut agent = Agent::start(config, running::view(config))?;
    let diagnoser = Arc::clone(&agent.diagnoser);
    // An error is the end of the thread: what it has not started is missing from the answer.
    let _ = agent.loaded.take().map(oneshot::Receiver::blocking_recv);
    begun();
    // Wrong names need not be waited for.
    let refused = diagnoser.check(question).err();
    let answer = match refused {
        Some(refusal) => Err(refusal),
        None => {
            let end = Instant::now() + time;
            while stop.wait(end.saturating_duration_since(Instant::now())) == Wake::Notified {}
            diagnoser.answer(question)
        }
    };
    agent.stop();
    Ok(answer)
}
