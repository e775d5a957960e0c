//! Promise: events arrive where they are sent, at least once and with their own times; what does not is counted:
//! produced = delivered + lost + waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::http::EventStream;
use inspector_tests::lab::{Family, Pair, faults};
use inspector_tests::loki::{Entry, Loki, Trouble};
use inspector_tests::otlp::{Otlp, Record};
use inspector_tests::receiver::Certificates;
use inspector_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn settings(loki: &Loki, spool: &Path, more: &str) -> Settings {
    let config = format!(
        "sinks.loki.address = '{}'\nsinks.spool_dir = '{}'\n{more}\n",
        loki.address(),
        spool.display()
    );
    Settings { config, ..Settings::default() }
}

/// The state of the one sink.
fn sink(agent: &Agent) -> Result<Value> {
    Ok(agent.api("/api/v1/sinks")?[0].clone())
}

fn number(sink: &Value, name: &str) -> u64 {
    sink[name].as_u64().unwrap_or_default()
}

/// Waits until the sink's state will do; whatever it is, it adds up.
fn until(agent: &Agent, what: &str, will_do: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut wrong = None;
    let state = wait::until(what, || {
        let state = sink(agent).ok()?;
        let [produced, delivered, lost, waiting] =
            ["produced", "delivered", "lost", "waiting"].map(|name| number(&state, name));
        if produced != delivered + lost + waiting {
            wrong = Some(state.clone());
        }
        will_do(&state).then_some(state)
    });
    ensure!(wrong.is_none(), "it does not add up: {wrong:?}");
    state.with_context(|| format!("{:?}\n{}", sink(agent), agent.log().join("\n")))
}

/// The events of the server of a pair: a node has others, too.
fn own(agent: &Agent, pair: &Pair) -> Result<EventStream> {
    EventStream::open(agent.events, &format!("backlog=10000&pod={}", pair.server.name()))
}

/// Makes events, and waits until the stream of events has those of each attempt.
fn refuse(pair: &Pair, attempts: usize, stream: &EventStream) -> Result<()> {
    let of_drops = || {
        let drops = stream.received().into_iter().filter(|event| event["type"] == "PACKETLOSS");
        drops.filter_map(|event| event["count"].as_u64()).sum::<u64>()
    };
    let before = of_drops();
    for _ in 0..attempts {
        faults::connect_to_closed_port(&pair.client, pair.server_at(Family::V4, faults::CLOSED_PORT))?;
        std::thread::sleep(Duration::from_millis(2));
    }
    wait::until("the events", || (of_drops() >= before + attempts as u64).then_some(()))
}

/// By what an event is known, whoever tells of it: its server numbers them anew after a restart.
fn key(event: &Value) -> String {
    format!("{} {} {}", event["time"], event["type"], event["seq"])
}

fn times(entries: &[Entry]) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for entry in entries {
        *times.entry(key(&entry.line)).or_default() += 1;
    }
    times
}

#[test]
fn loki_gets_each_event_once_with_its_own_time_in_either_encoding() -> Result<()> {
    let cases = [
        ("protobuf", "application/x-protobuf", "3.4.2"),
        ("json", "application/json", "3.4.2"),
        ("protobuf", "application/x-protobuf", "2.9.10"),
    ];
    for (encoding, content_type, version) in cases {
        let (loki, spool, pair) = (Loki::start()?, tempfile::tempdir()?, Pair::new()?);
        loki.become_version(version);
        loki.want_tenant("team-a");
        let more = format!(
            "sinks.loki.encoding = '{encoding}'\nsinks.loki.tenant = 'team-a'\nsinks.loki.labels.job = 'app'"
        );
        let agent = Agent::start(&settings(&loki, spool.path(), &more))?;
        let stream = own(&agent, &pair)?;
        refuse(&pair, 50, &stream)?;
        let all: Vec<Value> = wait::until("all events at Loki", || {
            let (all, arrived) = (stream.received(), times(&loki.entries()));
            all.iter().all(|event| arrived.contains_key(&key(event))).then_some(all)
        })?;
        let entries = loki.entries();
        ensure!(loki.wrong().is_empty(), "{:?}", loki.wrong());
        ensure!(loki.encodings().iter().all(|of| of == content_type), "{:?}", loki.encodings());
        for event in &all {
            let of_event: Vec<_> = entries.iter().filter(|entry| entry.line == *event).collect();
            let [entry] = of_event[..] else { anyhow::bail!("{} times: {event}", of_event.len()) };
            let time = humantime::parse_rfc3339(event["time"].as_str().context("a time")?)?;
            let time = time.duration_since(std::time::UNIX_EPOCH)?.as_nanos();
            assert_eq!(u128::from(entry.time_ns), time);
            assert_eq!(entry.labels["app"], "inspector");
            assert_eq!(entry.labels["type"], event["type"]);
            assert_eq!(entry.labels["node"], event["entity"]["node"]);
            assert_eq!(entry.metadata.is_empty(), version == "2.9.10", "{entry:?}");
        }
        let port = faults::CLOSED_PORT.to_string();
        let is_lost = |entry: &&Entry| {
            entry.line["entity"]["name"] == pair.server.name()
                && entry.line["type"] == "PACKETLOSS"
                && entry.line["attrs"]["dport"] == port.as_str()
        };
        let one = entries.iter().find(is_lost).context("a lost packet")?;
        if version == "3.4.2" {
            assert_eq!(one.metadata["pod"], pair.server.name());
            assert_eq!(one.metadata["dport"], port);
        }
        assert_eq!(agent.scrape()?.sum("inspector_sink_up", &[("sink", "loki")]), Some(1.0));
        until(&agent, "what Loki says of itself", |state| state["server"] == "ready")?;
    }
    Ok(())
}

/// The events that wait on disk.
fn spooled(spool: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(spool.join("loki"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "gz") {
            let mut text = String::new();
            flate2::read::GzDecoder::new(fs::File::open(path)?).read_to_string(&mut text)?;
            found.extend(text.lines().filter_map(|line| Some(key(&serde_json::from_str(line).ok()?))));
        }
    }
    Ok(found)
}

#[test]
fn an_outage_and_a_kill_in_the_middle_lose_nothing_and_repeat_one_batch_at_most() -> Result<()> {
    let (loki, spool, pair) = (Loki::start()?, tempfile::tempdir()?, Pair::new()?);
    let settings = settings(&loki, spool.path(), "");
    let mut expected = BTreeSet::new();
    for trouble in [Trouble::Status(503, 0), Trouble::Close] {
        loki.trouble(Some(trouble));
        let agent = Agent::start(&settings)?;
        let stream = own(&agent, &pair)?;
        refuse(&pair, 300, &stream)?;
        // In an outage what was taken is on disk.
        let all = wait::until("all events on disk", || {
            let (all, spooled) = (stream.received(), spooled(spool.path()).ok()?);
            all.iter().all(|event| spooled.contains(&key(event))).then_some(all)
        })?;
        assert_eq!(sink(&agent)?["state"], "failing");
        expected.extend(all.iter().map(key));
        kill(Pid::from_raw(agent.pid().cast_signed()), Signal::SIGKILL)?;
    }
    // It takes a batch, and the agent is killed before it knows.
    loki.trouble(Some(Trouble::Slow(Duration::from_secs(20))));
    let agent = Agent::start(&settings)?;
    wait::until("a batch", || (!loki.entries().is_empty()).then_some(()))?;
    kill(Pid::from_raw(agent.pid().cast_signed()), Signal::SIGKILL)?;
    drop(agent);
    let twice = loki.entries().len();
    loki.trouble(None);
    let agent = Agent::start(&settings)?;
    let state = until(&agent, "nothing to wait", |state| {
        number(state, "waiting") == 0 && number(state, "delivered") > 0
    })?;
    // A node on which very much happens may drop events before any sink comes for them.
    let missed = agent.scrape()?.sum("inspector_lost_total", &[("stage", "loki"), ("name", "missed")]);
    assert_eq!(Some(number(&state, "lost") as f64), missed);
    let arrived = times(&loki.entries());
    let missing: Vec<_> = expected.iter().filter(|event| !arrived.contains_key(*event)).collect();
    ensure!(missing.is_empty(), "{} of {} are missing: {missing:?}", missing.len(), expected.len());
    let repeated: usize = arrived.values().map(|times| times - 1).sum();
    ensure!(repeated <= twice && twice <= loki.largest_push(), "{repeated} came again, {twice} at once");
    Ok(())
}

#[test]
fn of_a_batch_with_lines_that_are_refused_only_these_are_lost() -> Result<()> {
    let (loki, spool, pair) = (Loki::start()?, tempfile::tempdir()?, Pair::new()?);
    // Some are of this type, and many are not.
    loki.poison("PACKETLOSS", pair.server.name());
    let agent = Agent::start(&settings(&loki, spool.path(), ""))?;
    let stream = own(&agent, &pair)?;
    refuse(&pair, 20, &stream)?;
    let is_poison = |event: &&Value| event["type"] == "PACKETLOSS";
    let refused = [("stage", "loki"), ("name", "refused")];
    let refused = || agent.scrape().ok()?.sum("inspector_lost_total", &refused);
    let all = wait::until("everything decided", || {
        let (all, arrived) = (stream.received(), times(&loki.entries()));
        let poison = all.iter().filter(is_poison).count();
        let mut others = all.iter().filter(|event| !is_poison(event));
        let is_decided = others.all(|event| arrived.contains_key(&key(event)));
        (is_decided && poison >= 20 && refused() == Some(poison as f64)).then_some(all)
    })
    .with_context(|| format!("{:?}", sink(&agent)))?;
    until(&agent, "it adds up", |state| number(state, "lost") >= 20)?;
    let arrived = times(&loki.entries());
    for event in all.iter().filter(|event| !is_poison(event)) {
        assert_eq!(arrived.get(&key(event)), Some(&1), "{event}");
    }
    Ok(())
}

#[test]
fn a_server_that_is_slow_or_wants_to_be_left_alone_costs_nothing_else() -> Result<()> {
    let (loki, spool, pair) = (Loki::start()?, tempfile::tempdir()?, Pair::new()?);
    loki.trouble(Some(Trouble::Status(429, 3600)));
    let agent = Agent::start(&settings(&loki, spool.path(), ""))?;
    let stream = own(&agent, &pair)?;
    refuse(&pair, 20, &stream)?;
    until(&agent, "a refusal", |state| state["reason"].as_str().is_some_and(|why| why.contains("429")))?;
    refuse(&pair, 20, &stream)?;
    std::thread::sleep(Duration::from_secs(3));
    // The version, a push, and how it is.
    ensure!(loki.requests() <= 3, "{} requests", loki.requests());
    assert_eq!(agent.scrape()?.sum("inspector_sink_up", &[("sink", "loki")]), Some(0.0));
    assert_eq!(agent.scrape()?.sum("inspector_ready", &[]), Some(1.0));
    // It does not wait for the server when it is to end.
    ensure!(agent.stop()?.success());

    loki.trouble(Some(Trouble::Redirect));
    let agent = Agent::start(&settings(&loki, spool.path(), ""))?;
    until(&agent, "a redirect", |state| state["reason"].as_str().is_some_and(|why| why.contains("307")))?;
    loki.trouble(Some(Trouble::Slow(Duration::from_secs(2))));
    until(&agent, "slow deliveries", |state| number(state, "delivered") >= 80)?;
    Ok(())
}

#[test]
fn a_server_that_refuses_whatever_comes_is_a_failure_and_not_the_events_end() -> Result<()> {
    let (loki, spool, pair) = (Loki::start()?, tempfile::tempdir()?, Pair::new()?);
    loki.trouble(Some(Trouble::Status(400, 0)));
    let agent = Agent::start(&settings(&loki, spool.path(), ""))?;
    let stream = own(&agent, &pair)?;
    refuse(&pair, 200, &stream)?;
    let state = until(&agent, "a failure", |state| state["state"] == "failing")?;
    assert_eq!(number(&state, "lost"), 100);
    assert_eq!(agent.scrape()?.sum("inspector_sink_up", &[("sink", "loki")]), Some(0.0));
    loki.trouble(None);
    let state = until(&agent, "the rest", |state| number(state, "waiting") == 0 && state["state"] == "up")?;
    assert_eq!(number(&state, "lost"), 100);
    ensure!(loki.entries().len() as u64 == number(&state, "delivered"), "{state}");
    Ok(())
}

#[test]
fn what_comes_at_once_is_not_lost_where_nothing_may_wait_on_disk() -> Result<()> {
    let (directory, pair) = (tempfile::tempdir()?, Pair::new()?);
    let file = directory.path().join("events.jsonl");
    let args = ["--sinks.file.path", file.to_str().context("UTF-8")?].map(str::to_owned);
    let config = "probes.limit_per_second = 10000000\nprobes.limit_burst = 10000000".to_owned();
    let agent = Agent::start(&Settings { args: args.into(), config, ..Settings::default() })?;
    let stream = own(&agent, &pair)?;
    let process = Pid::from_raw(agent.pid().cast_signed());
    kill(process, Signal::SIGSTOP)?;
    let to = pair.server_at(Family::V4, faults::CLOSED_PORT);
    let refused = (0..3000).try_for_each(|_| faults::connect_to_closed_port(&pair.client, to).map(drop));
    kill(process, Signal::SIGCONT)?;
    refused?;
    // How many are folded into one depends on the machine: that it was more than memory holds is not certain.
    let state = until(&agent, "thousands of events", |state| {
        number(state, "produced") > 2000 && number(state, "waiting") == 0
    })?;
    assert_eq!(number(&state, "lost"), 0, "{state}");
    wait::until("all of them in the file", || {
        let text = fs::read_to_string(&file).ok()?;
        let written: BTreeSet<_> =
            text.lines().filter_map(|line| Some(key(&serde_json::from_str(line).ok()?))).collect();
        stream.received().iter().all(|event| written.contains(&key(event))).then_some(())
    })?;
    assert_eq!(number(&sink(&agent)?, "lost"), 0, "{:?}", sink(&agent)?);
    Ok(())
}

/// A file system of its own, as large as some batches.
struct Small(tempfile::TempDir);

impl Small {
    fn new(bytes: u64) -> Result<Self> {
        let at = tempfile::tempdir()?;
        let size = format!("size={bytes}");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at.path()).status()?;
        ensure!(mount.success(), "mount");
        Ok(Self(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // The folder is removed behind it, which fails if this did.
        drop(Command::new("umount").arg(self.0.path()).status());
    }
}

#[test]
fn what_neither_disk_nor_memory_takes_is_counted() -> Result<()> {
    let (loki, small, pair) = (Loki::start()?, Small::new(12 << 10)?, Pair::new()?);
    loki.trouble(Some(Trouble::Close));
    let agent = Agent::start(&settings(&loki, small.0.path(), ""))?;
    let stream = own(&agent, &pair)?;
    let mut state = sink(&agent)?;
    for _ in 0..40 {
        refuse(&pair, 5, &stream)?;
        let produced = number(&state, "produced");
        state = until(&agent, "another batch", |state| number(state, "produced") > produced)?;
        if number(&state, "lost") > 0 {
            break;
        }
    }
    ensure!(number(&state, "lost") > 0, "{state}");
    agent.wait_for_log(&["events cannot wait on disk", "No space left"])?;
    let full = || agent.scrape().ok()?.sum("inspector_lost_total", &[("stage", "loki"), ("name", "full")]);
    let lost = number(&sink(&agent)?, "lost");
    assert!(full() >= Some(lost as f64));
    loki.trouble(None);
    let state = until(&agent, "the rest", |state| number(state, "waiting") == 0)?;
    ensure!(loki.entries().len() as u64 >= number(&state, "delivered"));
    wait::until("the same number of lost ones", || {
        (full()? == number(&sink(&agent).ok()?, "lost") as f64).then_some(())
    })
}

#[test]
fn a_file_and_standard_error_get_the_lines_of_the_stream() -> Result<()> {
    let (directory, pair) = (tempfile::tempdir()?, Pair::new()?);
    let file = directory.path().join("events.jsonl");
    let args = ["--sinks.file.path", file.to_str().context("UTF-8")?, "--sinks.stderr"].map(str::to_owned);
    let agent = Agent::start(&Settings { args: args.into(), ..Settings::default() })?;
    let stream = own(&agent, &pair)?;
    refuse(&pair, 10, &stream)?;
    let all = stream.received();
    let has_all = |lines: &[Value]| all.iter().all(|event| lines.contains(event));
    let parsed = |text: &str| serde_json::from_str::<Value>(text).ok();
    wait::until("the file", || {
        let text = fs::read_to_string(&file).ok()?;
        has_all(&text.lines().filter_map(parsed).collect::<Vec<_>>()).then_some(())
    })?;
    wait::until("standard error", || {
        has_all(&agent.log().iter().filter_map(|line| parsed(line)).collect::<Vec<_>>()).then_some(())
    })?;
    // A disk that is full is no reason to end, or to lose what comes.
    let args = ["--sinks.file.path", "/dev/full"].map(str::to_owned);
    let agent = Agent::start(&Settings { args: args.into(), ..Settings::default() })?;
    let stream = own(&agent, &pair)?;
    refuse(&pair, 5, &stream)?;
    let state = until(&agent, "a full disk", |state| state["state"] == "failing")?;
    ensure!(number(&state, "waiting") == number(&state, "produced"), "{state}");
    Ok(())
}

/// What a record is of an event.
fn is_of(record: &Record, event: &Value) -> Result<bool> {
    let at = humantime::parse_rfc3339(event["time"].as_str().context("a time")?)?;
    let time_ns = at.duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    let seq: u64 = record.attributes["inspector.event.seq"].parse()?;
    Ok(u128::from(record.time_ns) == time_ns && record.name == event["type"] && event["seq"] == seq)
}

#[test]
fn a_collector_gets_each_event_once_by_tls_from_whom_it_knows() -> Result<()> {
    let (directory, pair) = (tempfile::tempdir()?, Pair::new()?);
    let (certificates, others) = (Certificates::new()?, Certificates::new()?);
    let otlp = Otlp::start(Some(&certificates), "first")?;
    let at = |name: &str| directory.path().join(name).display().to_string();
    for (name, text) in [
        ("ca.pem", &others.ca),
        ("cert.pem", &certificates.client),
        ("key.pem", &certificates.client_key),
        ("token", &"old\n".to_owned()),
    ] {
        fs::write(at(name), text)?;
    }
    let keys = [
        ("spool_dir", at("spool")),
        ("otlp.endpoint", format!("https://{}", otlp.address())),
        ("otlp.ca_file", at("ca.pem")),
        ("otlp.cert_file", at("cert.pem")),
        ("otlp.key_file", at("key.pem")),
        ("otlp.bearer_token_file", at("token")),
    ];
    let config = keys.iter().map(|(key, value)| format!("sinks.{key} = '{value}'\n")).collect();
    let agent = Agent::start(&Settings { config, ..Settings::default() })?;
    let stream = own(&agent, &pair)?;
    refuse(&pair, 20, &stream)?;
    let because = |why: &str| {
        until(&agent, why, |state| {
            state["state"] == "failing" && state["reason"].as_str().is_some_and(|reason| reason.contains(why))
        })
    };
    // Neither the server nor the client is taken for what it is not, and what is put right is noticed.
    because("invalid peer certificate")?;
    fs::write(at("ca.pem"), &certificates.ca)?;
    because("401")?;
    assert!(otlp.records().is_empty());
    fs::write(at("token"), "first\n")?;
    let all = stream.received();
    let find = |event: &Value| -> Result<Vec<Record>> {
        let mut found = Vec::new();
        for record in otlp.records() {
            if is_of(&record, event)? {
                found.push(record);
            }
        }
        Ok(found)
    };
    wait::until("all events at the collector", || {
        all.iter().all(|event| find(event).is_ok_and(|found| !found.is_empty())).then_some(())
    })
    .with_context(|| format!("{:?}", sink(&agent)))?;
    ensure!(otlp.wrong().is_empty(), "{:?}", otlp.wrong());
    for event in &all {
        let [record] = &find(event)?[..] else { anyhow::bail!("not once: {event}") };
        assert_eq!(record.body, event["message"].as_str().unwrap_or_default());
        assert_eq!(record.scope, event["source"].as_str().unwrap_or_default());
        assert_eq!(record.resource["service.name"], "inspector");
        assert_eq!(record.resource["k8s.node.name"], event["entity"]["node"].as_str().unwrap_or_default());
        assert_eq!(record.attributes["inspector.entity.name"], pair.server.name());
        for (name, value) in event["attrs"].as_object().context("attributes")? {
            assert_eq!(record.attributes.get(name).map(String::as_str), value.as_str(), "{event}");
        }
    }
    let warned = all.iter().find(|event| event["level"] == "WARN").context("a warning")?;
    assert_eq!(find(warned)?[0].severity, 13);

    // What it says that it refuses is lost, and not sent again.
    until(&agent, "nothing to wait", |state| number(state, "waiting") == 0)?;
    let before = otlp.records().len() as u64;
    otlp.refuse(3);
    refuse(&pair, 20, &stream)?;
    let state = until(&agent, "three are lost", |state| {
        number(state, "lost") == 3 && number(state, "waiting") == 0 && state["state"] == "up"
    })?;
    assert_eq!(number(&state, "delivered"), otlp.records().len() as u64);
    assert!(otlp.records().len() as u64 > before);
    let refused = [("stage", "otlp"), ("name", "refused")];
    assert_eq!(agent.scrape()?.sum("inspector_lost_total", &refused), Some(3.0));
    Ok(())
}

#[test]
fn files_that_a_sink_needs_are_looked_at_before_a_start() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (own, missing) = (directory.path().join("own.toml"), directory.path().join("missing"));
    fs::write(
        &own,
        format!("[sinks.loki]\naddress = 'loki'\nusername = 'me'\nca_file = '{}'\n", missing.display()),
    )?;
    let output = Command::new(inspector_tests::agent::binary()?)
        .args(["serve", "--check", "--config"])
        .arg(&own)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for wrong in ["sinks.loki.password_file", "must name a file", "sinks.loki.ca_file", "No such file"] {
        assert!(said.contains(wrong), "{wrong}: {said}");
    }
    Ok(())
}
