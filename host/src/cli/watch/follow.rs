//! Follows the event stream of one server, and finds it again when it goes away.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;
use tokio::sync::mpsc::Sender;
use tokio::time::{sleep, timeout};

use super::filter::Filter;
use super::line::{Event, Line};
use crate::cli::shared::in_words;
use crate::entities::Entity;
use crate::http::client::{self, Error, Lines};
use crate::http::reach::Server;

/// First wait before a reconnect; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Longest wait before a reconnect.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A server says something at least every ten seconds; one that is silent for so long is gone.
const SILENCE: Duration = Duration::from_secs(30);
/// A reconnect asks for so much more than the time since the last line, in case lines were on
/// their way; what was seen already is told by its number.
const OVERLAP: Duration = Duration::from_secs(2);

/// What a follower has to say.
#[derive(Debug)]
pub enum Message {
    /// An event.
    Event(Box<Event>),
    /// The server dropped so many events before this client could read them.
    Lost(u64),
    /// A node whose server is followed from now on.
    Joined,
    /// A node that has no agent any more.
    Left,
    /// The stream begins, for the first time or again.
    Connected,
    /// The stream broke; the next attempt follows after the wait.
    Broken(String, Duration),
    /// The server refuses for good; `true` if the question was wrong.
    Refused(String, bool),
    /// There is no such name on that server now, so nothing may come for long.
    Nobody(String),
    /// The node of that server, where the filter names nodes.
    Node(String),
    /// A line that is no line of an event stream.
    Nonsense(String),
}

/// Follows one server.
#[derive(Debug)]
pub struct Follower {
    server: Server,
    filter: Filter,
    /// What is normal is wanted too.
    noise: bool,
    out: Sender<(Arc<str>, Message)>,
    /// When the last line came.
    heard: Option<Instant>,
    /// Latest time and highest number of an event: a server that was restarted counts from 1
    /// again, but what it says happened later.
    last: Option<(String, u64)>,
}

/// Why one connection ended.
enum End {
    Broken(String),
    Refused(String, bool),
    /// All that was asked for has come.
    Complete,
    /// Nobody reads any more.
    Unwanted,
}

impl Follower {
    /// A follower of a server that sends what it finds, with the server's name, to `out`.
    pub fn new(server: Server, filter: Filter, noise: bool, out: Sender<(Arc<str>, Message)>) -> Self {
        Self { server, filter, noise, out, heard: None, last: None }
    }

    /// Follows until the server refuses, all has come, or nobody reads any more.
    pub async fn run(mut self) {
        let mut wait = FIRST_WAIT;
        loop {
            let heard = self.heard;
            let message = match self.connection().await {
                End::Unwanted | End::Complete => return,
                End::Refused(why, is_wrong) => {
                    self.say(Message::Refused(why, is_wrong)).await;
                    return;
                }
                // Who does not follow wants to know now.
                End::Broken(why) if self.filter.no_follow => {
                    self.say(Message::Refused(why, false)).await;
                    return;
                }
                End::Broken(why) => {
                    if self.heard != heard {
                        wait = FIRST_WAIT;
                    }
                    Message::Broken(why, wait)
                }
            };
            if !self.say(message).await {
                return;
            }
            sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn connection(&mut self) -> End {
        let since = self.heard.map(|heard| heard.elapsed() + OVERLAP);
        let path = self.filter.path(since, self.noise);
        let mut lines = match timeout(SILENCE, client::lines(&self.server, &path)).await {
            Ok(Ok(lines)) => lines,
            Ok(Err(err)) if err.is_refusal() => {
                let is_wrong = matches!(err, Error::Status { status: 400, .. });
                return End::Refused(in_words(err), is_wrong);
            }
            Ok(Err(err)) => return End::Broken(in_words(err)),
            Err(_) => return End::Broken("no answer".to_owned()),
        };
        if !self.say(Message::Connected).await {
            return End::Unwanted;
        }
        if self.heard.is_none() && self.filter.names_somebody() {
            self.look_for_names().await;
        }
        // Of a cluster it is known already.
        if self.heard.is_none() && self.filter.names_nodes() && self.server.node().is_none() {
            self.tell_node().await;
        }
        self.stream(&mut lines).await
    }

    /// Tells of names that nobody has. It is no error: whoever is waited for may be about to start.
    async fn look_for_names(&self) {
        let Ok(entities) = client::get_json::<Vec<Entity>>(&self.server, "/api/v1/entities").await else {
            return;
        };
        for nobody in self.filter.nobody(&entities) {
            self.say(Message::Nobody(nobody)).await;
        }
    }

    /// Tells whose server it is, if that says so: whether a node is not there, only who knows all
    /// servers can tell.
    async fn tell_node(&self) {
        #[derive(Deserialize)]
        struct Version {
            node: String,
        }
        if let Ok(Version { node }) = client::get_json(&self.server, "/api/v1/version").await {
            self.say(Message::Node(node)).await;
        }
    }

    async fn stream(&mut self, lines: &mut Lines) -> End {
        loop {
            let line = match timeout(SILENCE, lines.next()).await {
                Ok(Ok(Some(line))) => line,
                Ok(Ok(None)) if self.is_complete() => return End::Complete,
                Ok(Ok(None)) => return End::Broken("the server ended the stream".to_owned()),
                Ok(Err(err)) => return End::Broken(client::chain(&err)),
                Err(_) => return End::Broken("the server is silent".to_owned()),
            };
            self.heard = Some(Instant::now());
            let message = match Line::read(line) {
                Ok(Line::KeepAlive) => continue,
                Ok(Line::Lost(count)) => Message::Lost(count),
                Ok(Line::Event(event)) if self.is_seen(&event) => continue,
                Ok(Line::Event(event)) => Message::Event(event),
                Err(err) => Message::Nonsense(err.to_string()),
            };
            if !self.say(message).await {
                return End::Unwanted;
            }
        }
    }

    /// Whether the server had a reason to end the stream.
    fn is_complete(&self) -> bool {
        self.filter.no_follow || self.filter.is_over(SystemTime::now())
    }

    /// Whether an event came before the last connection broke already; remembers it if not.
    fn is_seen(&mut self, event: &Event) -> bool {
        let (new_time, new_seq) = (&event.fields.time, event.fields.seq);
        let Some((time, seq)) = &mut self.last else {
            self.last = Some((new_time.clone(), new_seq));
            return false;
        };
        // The times are of one form and length, so that they compare as text.
        let seen = new_seq <= *seq && *new_time <= *time;
        if !seen {
            *seq = new_seq;
        }
        if *new_time > *time {
            time.clone_from(new_time);
        }
        seen
    }

    /// False if nobody reads any more.
    async fn say(&self, message: Message) -> bool {
        self.out.send((Arc::clone(self.server.name()), message)).await.is_ok()
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event(event) => f.write_str(&event.fields.text()),
            Self::Lost(count) => write!(f, "{count} events lost: this client did not keep up"),
            Self::Joined => f.write_str("followed from now on"),
            Self::Left => f.write_str("no pod of the agent is there any more"),
            Self::Connected => f.write_str("connected"),
            Self::Broken(why, wait) => {
                write!(f, "{why}; trying again in {}", humantime::format_duration(*wait))
            }
            Self::Refused(why, _) => f.write_str(why),
            Self::Node(name) => write!(f, "node {name}"),
            Self::Nobody(name) => write!(f, "{name}; waiting, since it may come"),
            Self::Nonsense(why) => write!(f, "a line that is no event: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::thread::{self, JoinHandle};

    use tokio::sync::mpsc;

    use super::*;
    use crate::config::address::Address;

    /// Gives each connection one answer, then closes it; returns the paths that were asked for.
    fn server(answers: Vec<String>) -> anyhow::Result<(Address, JoinHandle<Vec<String>>)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string().parse()?;
        let answer_all = move || {
            let answer = |text: &String| {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
                let request = lines.next().expect("a request").expect("text");
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                stream.write_all(text.as_bytes()).expect("the client reads");
                request
            };
            answers.iter().map(answer).collect()
        };
        Ok((address, thread::spawn(answer_all)))
    }

    fn stream(lines: &[String]) -> String {
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
        lines.iter().fold(head.to_owned(), |text, line| text + line + "\n")
    }

    fn event(second: u32, seq: u64) -> String {
        serde_json::json!({
            "time": format!("2023-02-03T09:01:{second:02}.000000000Z"), "level": "INFO", "source": "tcp",
            "msg": "X", "meta": "", "event": "", "seq": seq, "type": "X", "severity": 0, "count": 1,
            "message": "", "attrs": {}, "entity": {
                "id": 1, "kind": "host", "namespace": "", "name": "", "node": "n", "netns": 1, "cookie": 1,
            },
        })
        .to_string()
    }

    /// What a follower says of a server, in short, until it ends or has said `count` things.
    async fn said(server: &Address, count: usize) -> Vec<String> {
        let (out, mut messages) = mpsc::channel(16);
        let server = Server::at(server);
        tokio::spawn(Follower::new(server, Filter::default(), true, out).run());
        let mut said = Vec::new();
        while said.len() < count {
            let next = timeout(Duration::from_secs(10), messages.recv()).await.expect("in time");
            let Some((_, message)) = next else { break };
            said.push(match message {
                Message::Event(event) => format!("event {}", event.fields.seq),
                Message::Broken(why, _) => format!("broken: {why}"),
                other => other.to_string(),
            });
        }
        said
    }

    #[tokio::test]
    async fn a_reconnect_shows_what_happened_meanwhile_and_nothing_twice() -> anyhow::Result<()> {
        let first = [event(1, 1), event(2, 2), String::new()];
        // An event that is older than its predecessor, and a server that was restarted.
        let second = [event(1, 1), event(2, 2), event(1, 3), event(9, 1)];
        let (address, answered) = server(vec![stream(&first), stream(&second)])?;
        assert_eq!(
            said(&address, 7).await,
            [
                "connected",
                "event 1",
                "event 2",
                "broken: the server ended the stream",
                "connected",
                "event 3",
                "event 1"
            ]
        );
        let paths = answered.join().expect("the server does not panic");
        assert!(!paths[0].contains("since=") && paths[1].contains("since="), "{paths:?}");
        Ok(())
    }

    #[tokio::test]
    async fn a_refusal_ends_it() -> anyhow::Result<()> {
        let refusal = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n{\"error\":\"bad type\"}";
        let (address, _) = server(vec![refusal.to_owned()])?;
        assert_eq!(said(&address, 9).await, ["bad type"]);
        Ok(())
    }

    #[tokio::test]
    async fn loss_and_nonsense_are_told_and_the_stream_goes_on() -> anyhow::Result<()> {
        let lines = ["{\"lost\":5}".to_owned(), "\u{1b}c".to_owned(), event(1, 1)];
        let (address, _) = server(vec![stream(&lines)])?;
        let said = said(&address, 4).await;
        assert_eq!(said[1], "5 events lost: this client did not keep up");
        assert!(said[2].starts_with("a line that is no event: "), "{said:?}");
        assert_eq!(said[3], "event 1");
        Ok(())
    }
}
