//! Events: what happened, in users' words.
//!
//! They wait here until the hook returns and leave in one call. What exceeds the host's quota is
//! counted by the host.

use std::cell::RefCell;
use std::fmt::Display;

use crate::bindings::inspector::analyzer::types::Attr;
use crate::host::events;
use crate::{EntityId, Event, Timestamp};

/// How bad an event or a finding is; later ones are worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Nothing fails; worth knowing when looking for something else.
    Info,
    /// Something fails.
    Warning,
    /// Nothing of it works: a service is down.
    Critical,
}

impl Severity {
    /// A warning if that holds, else information.
    pub fn warning_if(is_trouble: bool) -> Self {
        if is_trouble { Self::Warning } else { Self::Info }
    }
}

/// The contract's number.
impl From<Severity> for u8 {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Info => 0,
            Severity::Warning => 1,
            Severity::Critical => 2,
        }
    }
}

/// A named fact.
pub fn attr(name: &str, value: impl Display) -> Attr {
    Attr { name: name.to_owned(), value: value.to_string() }
}

thread_local! {
    static PENDING: RefCell<Vec<Event>> = const { RefCell::new(Vec::new()) };
}

impl Event {
    /// An event of a declared kind, informational and of no entity until said otherwise.
    pub fn new(kind: &str, at: Timestamp) -> Self {
        Self { at, kind: kind.to_owned(), ..Self::default() }
    }

    /// Says whose it is.
    #[must_use]
    pub fn entity(mut self, id: EntityId) -> Self {
        self.entity = id;
        self
    }

    /// Says how bad it is.
    #[must_use]
    pub fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity.into();
        self
    }

    /// Adds a fact to the attributes, not to the message.
    #[must_use]
    pub fn attr(mut self, name: &str, value: impl Display) -> Self {
        self.attrs.push(attr(name, value));
        self
    }

    /// Adds ` name=value` to the message, not to the attributes.
    #[must_use]
    pub fn say(mut self, name: &str, value: impl Display) -> Self {
        use std::fmt::Write;
        let blank = if self.message.is_empty() { "" } else { " " };
        write!(self.message, "{blank}{name}={value}").expect("a String takes every write");
        self
    }

    /// Adds a fact to both.
    #[must_use]
    pub fn fact(self, name: &str, value: impl Display) -> Self {
        self.say(name, &value).attr(name, value)
    }

    /// Adds a duration in milliseconds to both, as `duration_ms`.
    #[must_use]
    pub fn duration_ns(self, ns: u64) -> Self {
        self.fact("duration_ms", format_args!("{:.3}", ns as f64 / 1e6))
    }

    /// The host folds events with equal keys into one with a count, inside a short window.
    #[must_use]
    pub fn dedup_key(mut self, key: impl Into<String>) -> Self {
        self.dedup_key = Some(key.into());
        self
    }

    /// Sends it when the hook returns.
    pub fn emit(self) {
        PENDING.with_borrow_mut(|pending| pending.push(self));
    }
}

/// Events of one call. The host takes 1 MiB of text at once, and ends whoever brings more.
const AT_ONCE: usize = 256;

/// Hands everything that waits to the host.
pub(crate) fn flush() {
    PENDING.with_borrow_mut(|pending| {
        for some in pending.chunks(AT_ONCE) {
            events::emit(some);
        }
        pending.clear();
    });
}
