//! What each kind of sink has to do, and what becomes of a batch.

use std::time::Duration;

use crate::events::event::EventLine;

/// How a batch gets where it is to go.
pub trait Deliver {
    /// Delivers events. What became of them is known when it returns; one that refuses them, or says `Later`, may
    /// have kept some all the same.
    fn deliver(&mut self, events: &[EventLine]) -> impl Future<Output = Outcome>;

    /// What the other side says of itself, for people; empty where there is nobody to ask.
    fn ask(&mut self) -> impl Future<Output = String> {
        std::future::ready(String::new())
    }
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is there.
    Taken,
    /// It is there, but for some that are never taken; it does not say which.
    TakenBut {
        /// How many.
        events: u64,
        /// See [`Outcome::Refused`].
        what: &'static str,
        /// For people.
        why: String,
    },
    /// It is to be tried again, since nothing is wrong with it.
    Later {
        /// Why it is not there.
        why: String,
        /// The other side wants to be left alone for so long.
        after: Option<Duration>,
        /// It has answered, so that less at once may help.
        answered: bool,
    },
    /// Something in it is never taken.
    Refused {
        /// What, in a word that counts it: the label `name` of `inspector_lost_total`.
        what: &'static str,
        /// For people.
        why: String,
    },
}
