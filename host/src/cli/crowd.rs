//! Asks many servers at once, some at a time, and shows how far that is.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};

use super::progress;
use crate::http::reach::Server;

/// Servers that are asked at the same time. It bounds what an API server has to carry and what answers
/// take of memory; more would be hardly faster.
const AT_ONCE: usize = 32;
/// Names of servers that say the same, in one line of an error.
pub(super) const FEW: usize = 20;

/// What everybody says, in the order of the servers. One that takes its time holds up nobody but one of
/// those that are asked after it: each `ask` has to end by itself.
pub(super) async fn each<T, F: Future<Output = T>>(
    servers: &[Server],
    ask: impl Fn(Server) -> F,
) -> Vec<(Server, T)> {
    let answered = Cell::new(0);
    let asking = stream::iter(servers.iter().cloned().enumerate()).map(|(at, server)| {
        let answer = ask(server.clone());
        let answered = &answered;
        async move {
            let answer = answer.await;
            answered.set(answered.get() + 1);
            (at, server, answer)
        }
    });
    let text = |passed| progress_of(servers, answered.get(), passed);
    let mut answers: Vec<_> = progress::shown(text, asking.buffer_unordered(AT_ONCE).collect()).await;
    answers.sort_by_key(|(at, _, _)| *at);
    answers.into_iter().map(|(_, server, answer)| (server, answer)).collect()
}

fn progress_of(servers: &[Server], answered: usize, passed: Duration) -> String {
    if servers.iter().all(|server| server.node().is_some()) {
        return format!("{answered} of {} nodes answered", servers.len());
    }
    let names: Vec<_> = servers.iter().map(|server| &**server.name()).collect();
    format!("waiting for {} ({} s)", names.join(", "), passed.as_secs())
}

/// What is said of servers, with the names of those of which it is the same, at most so many of them.
pub(super) fn grouped(whys: Vec<(String, String)>, most: usize) -> Vec<(String, String)> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut order = Vec::new();
    for (name, why) in whys {
        if !groups.contains_key(&why) {
            order.push(why.clone());
        }
        groups.entry(why).or_default().push(name);
    }
    let group = |why: String| (few(groups.get(&why).map_or(&[], Vec::as_slice), most), why);
    order.into_iter().map(group).collect()
}

/// Names, but for those that nobody would read any more.
fn few(names: &[String], most: usize) -> String {
    let shown = names.iter().take(most).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(most) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn nodes(count: usize) -> Vec<Server> {
        let opener = || std::future::pending();
        let opener: crate::http::reach::Opener = Arc::new(move || Box::pin(opener()));
        (0..count).map(|n| Server::of_node(&format!("n{n}"), Arc::clone(&opener))).collect()
    }

    #[tokio::test]
    async fn slow_ones_hold_up_nobody_and_answers_come_in_the_order_of_the_servers() {
        const SLOW: u64 = AT_ONCE as u64 - 1;
        let (all, others) = (200, Cell::new(0));
        let (servers, others) = (nodes(all), &others);
        let answers = each(&servers, |server| async move {
            let number: u64 = server.name()[1..].parse().expect("a number");
            // The rest goes through the one place that is left.
            while number < SLOW && others.get() < all as u64 - SLOW {
                tokio::task::yield_now().await;
            }
            others.set(others.get() + u64::from(number >= SLOW));
            number
        });
        let answers = tokio::time::timeout(Duration::from_secs(60), answers).await.expect("nobody waits");
        assert!(answers.into_iter().map(|(_, number)| number).eq(0..all as u64));
    }

    #[test]
    fn what_is_the_same_of_many_is_said_once() {
        let why = |name: usize, why: &str| (format!("n{name}"), why.to_owned());
        let told = grouped((0..25).map(|n| why(n, "a")).chain([why(30, "b")]).collect(), FEW);
        let names = (0..20).map(|n| format!("n{n}")).collect::<Vec<_>>().join(", ");
        assert_eq!(told, [(format!("{names} and 5 more"), "a".to_owned()), ("n30".into(), "b".into())]);
    }

    #[test]
    fn of_nodes_it_is_said_how_many_answered() {
        assert_eq!(progress_of(&nodes(3), 2, Duration::ZERO), "2 of 3 nodes answered");
    }
}
