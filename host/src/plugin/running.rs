//! The plugins that run, as those see them who have something for them: a copy of what
//! [`super::loader`] holds, so that delivering and asking never wait for loading.

use std::collections::BTreeSet;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use super::inbox::Inbox;
use super::question::{PendingQuestion, ResolvedQuestion};
use crate::answers::report::AnalyzerReply;

/// See the module.
#[derive(Default)]
pub(super) struct Running {
    lists: RwLock<Lists>,
}

#[derive(Default)]
struct Lists {
    inboxes: Vec<Arc<Inbox>>,
    sources: BTreeSet<String>,
}

impl Running {
    /// Adds a plugin, which misses nothing from then on.
    pub(super) fn add(&self, inbox: Arc<Inbox>) {
        self.write().inboxes.push(inbox);
    }

    /// These run, and read these sources; returns whether there are more sources than before.
    pub(super) fn set(&self, inboxes: Vec<Arc<Inbox>>, sources: BTreeSet<String>) -> bool {
        let mut lists = self.write();
        let more = !sources.is_subset(&lists.sources);
        *lists = Lists { inboxes, sources };
        more
    }

    /// Tells every plugin something.
    pub(super) fn each(&self, tell: impl Fn(&Inbox)) {
        self.read().inboxes.iter().for_each(|inbox| tell(inbox));
    }

    /// Sources that they read.
    pub(super) fn sources(&self) -> BTreeSet<String> {
        self.read().sources.clone()
    }

    /// Asks all of `plugins` at once, and waits until the deadline. One that does not run, refuses,
    /// fails or is late costs its own answer only.
    pub(super) fn ask(&self, question: ResolvedQuestion, plugins: BTreeSet<String>) -> Vec<AnalyzerReply> {
        let deadline = question.deadline;
        let question = Arc::new(question);
        let mut waited_for = plugins;
        let (reply, answers) = sync_channel(waited_for.len());
        let mut replies: Vec<AnalyzerReply> = Vec::new();
        for inbox in &self.read().inboxes {
            if !waited_for.contains(inbox.plugin()) {
                continue;
            }
            let pending = PendingQuestion { question: Arc::clone(&question), reply: reply.clone() };
            if !inbox.ask(pending) {
                waited_for.remove(inbox.plugin());
                replies.push(unanswered(inbox.plugin(), "too many questions wait for it"));
            }
        }
        drop(reply);
        // Ends early when the last one has answered, or has gone without an answer.
        while let Ok(reply) = answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            waited_for.remove(&reply.analyzer);
            replies.push(reply);
        }
        let late = if Instant::now() < deadline { "it does not run" } else { "not in time" };
        replies.extend(waited_for.iter().map(|plugin| unanswered(plugin, late)));
        replies.sort_by(|a, b| a.analyzer.cmp(&b.analyzer));
        replies
    }

    fn read(&self) -> RwLockReadGuard<'_, Lists> {
        self.lists.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Lists> {
        self.lists.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unanswered(plugin: &str, why: &str) -> AnalyzerReply {
    AnalyzerReply { analyzer: plugin.to_owned(), answer: Err(why.to_owned()) }
}
