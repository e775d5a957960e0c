//! The product examined: a case of the lab, made for real, the question, the answer, and whether
//! that is right.
//!
//! - [`Exam`]: one case in one family, asked about when it has happened, or while it lasts.
//! - [`Examiner`]: an agent that is asked about cases, one after the other.
//! - [`score`]: what an answer is worth.
//! - `marker`: by which it is known that the agent has heard of all that happened.
//! - `ongoing`: how a case lasts.

mod marker;
mod ongoing;
pub mod score;

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use self::marker::Marker;
use self::score::{Concluded, Mark};
use crate::agent::{Agent, Settings};
use crate::http::post;
use crate::lab::cases::{Case, Ongoing, Place, THEMES};
use crate::lab::{Family, Namespace, Pace, Scene};
use crate::wait;

/// Sources are read once a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at a scrape, which costs the agent more than the usual look at a condition.
const LOOK: Duration = Duration::from_millis(40);

/// The window reaches back so far before the fault.
const BEFORE: Duration = Duration::from_secs(2);

/// The host itself, as entity lists show it.
const HOST: &str = "host";

/// One case in one family, in one form.
#[derive(Debug, Clone, Copy)]
pub struct Exam {
    /// What fails: the name of its theme.
    pub theme: &'static str,
    /// What is made.
    pub case: &'static Case,
    /// In which family.
    pub family: Family,
    /// The question comes while it lasts, and its clients go on; none of them is more patient.
    pub ongoing: Option<Duration>,
}

impl Exam {
    /// Every case in each of its families.
    pub fn all() -> impl Iterator<Item = Self> {
        let all = THEMES.iter().flat_map(|(theme, cases)| cases.iter().map(move |case| (*theme, case)));
        all.flat_map(|(theme, case)| {
            case.families.iter().map(move |family| Self { theme, case, family: *family, ongoing: None })
        })
    }

    /// The one that has this name, made once.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(name: &str) -> Result<Self> {
        Self::all().find(|exam| exam.name() == name).with_context(|| format!("no case is called {name}"))
    }

    /// The ongoing form of every fault that has one, with clients of this patience.
    pub fn ongoing(patience: Duration) -> impl Iterator<Item = Self> {
        let faults = Self::all().filter(|exam| !exam.case.expect.is_empty());
        let lasting = faults.filter(|exam| !matches!(exam.case.ongoing, Ongoing::Never(_)));
        lasting.map(move |exam| Self { ongoing: Some(patience), ..exam })
    }

    /// Makes it and asks nobody.
    ///
    /// # Errors
    /// If it did not happen.
    pub fn make(&self) -> Result<()> {
        self.amid(&self.scene()?, || Ok(()))
    }

    /// Whether a word of the command line is for it: its theme, its origin, or a part of its name.
    pub fn is_called(&self, word: &str) -> bool {
        self.theme == word || self.case.origin.word() == word || self.name().contains(word)
    }

    /// Its name in tables and on the command line; `/6` says IPv6, `~` the ongoing form, with the
    /// patience of clients where they go by it.
    pub fn name(&self) -> String {
        let family = match self.family {
            Family::V4 => "",
            Family::V6 => "/6",
        };
        let form = match (self.ongoing, self.case.ongoing) {
            (None, _) => String::new(),
            (Some(patience), Ongoing::Clients) => format!("~{patience:?}"),
            (Some(_), _) => "~".to_owned(),
        };
        format!("{}{family}{form}", self.case.name)
    }

    /// While somebody asks, not before.
    fn is_made_again(&self) -> bool {
        self.ongoing.is_some() && self.case.ongoing == Ongoing::Again
    }

    /// Its hosts, joined.
    ///
    /// # Errors
    /// Without root, or if `ip` fails.
    pub fn scene(&self) -> Result<Scene> {
        let pace = match (self.ongoing, self.case.ongoing) {
            (Some(patience), Ongoing::Clients) => Pace::Again(patience),
            _ => Pace::Once,
        };
        Ok(Scene::new(self.case.topology, self.family)?.at_pace(pace))
    }
}

/// What became of one case.
#[derive(Debug)]
pub struct Row {
    /// The case.
    pub exam: Exam,
    /// Whether the answer is right.
    pub mark: Mark,
    /// All findings, as they were ranked.
    pub findings: Vec<Concluded>,
    /// From the question to the answer.
    pub took: Duration,
    /// The answer as it came.
    pub answer: Value,
    /// Why there is no answer, if there is none.
    pub error: String,
}

/// How a question is asked.
#[derive(Debug, Clone)]
pub struct Manner {
    /// Which one.
    pub scenario: String,
    /// How long after the fault; without it, once the agent has heard of all that happened until then.
    pub settle: Option<Duration>,
}

impl Default for Manner {
    fn default() -> Self {
        Self { scenario: "node".to_owned(), settle: None }
    }
}

/// An agent with every plugin, and how it is asked.
#[derive(Debug)]
pub struct Examiner {
    agent: Agent,
    manner: Manner,
    marker: Option<Marker>,
}

impl Examiner {
    /// Starts the agent.
    ///
    /// # Errors
    /// If it does not get ready.
    pub fn start(settings: &Settings, patience: Duration, manner: Manner) -> Result<Self> {
        let mut settings = settings.clone();
        settings.config.push_str("sources.interval = \"1s\"\nplugins.disabled = []\n");
        let agent = Agent::start_within(&settings, patience)?;
        wait::within(patience, "the analyzers to run", || {
            let plugins = agent.api("/api/v1/plugins").ok()?;
            let plugins = plugins.as_array()?;
            let all = !plugins.is_empty() && plugins.iter().all(|plugin| plugin["state"] == "running");
            all.then_some(())
        })?;
        let marker = if manner.settle.is_none() { Some(Marker::new()?) } else { None };
        Ok(Self { agent, manner, marker })
    }

    /// Makes one case after the other and asks about each. What fails is in its row. No two cases are there
    /// at once: all have the same addresses, and whose one is must be clear.
    pub fn examine(&self, exams: impl Iterator<Item = Exam>, mut each: impl FnMut(Row)) {
        for exam in exams {
            each(self.ask(exam).unwrap_or_else(|error| Row {
                exam,
                mark: Mark::Broken,
                findings: Vec::new(),
                took: Duration::ZERO,
                answer: Value::Null,
                error: format!("{error:#}"),
            }));
        }
    }

    fn ask(&self, exam: Exam) -> Result<Row> {
        let scene = &exam.scene()?;
        wait::within(PATIENCE, "the agent to know the hosts", || {
            sleep(LOOK);
            scene.hosts().all(|host| self.is_read(host)).then_some(())
        })?;
        let begun = Instant::now();
        let (answer, took) = exam.amid(scene, || {
            match (&self.marker, self.manner.settle) {
                (Some(marker), _) => marker.is_heard(&self.agent)?,
                (None, settle) => sleep(settle.unwrap_or_default()),
            }
            self.question(exam.case, scene, begun)
        })?;
        let findings = score::findings(&answer, scene);
        let mark = score::mark(exam.case, &findings, took);
        Ok(Row { exam, mark, findings, took, answer, error: String::new() })
    }

    /// Asks what has happened since a case begun; returns the answer, and how long it took.
    fn question(&self, case: &Case, scene: &Scene, begun: Instant) -> Result<(Value, Duration)> {
        let mut entities: Vec<_> = scene.hosts().map(Namespace::name).collect();
        if case.expect.iter().any(|expected| expected.at == Place::Host) {
            entities.push(HOST);
        }
        let question = json!({
            "scenario": self.manner.scenario,
            "entities": entities,
            "window_ms": (begun.elapsed() + BEFORE).as_millis() as u64,
            "confirm": false,
        });
        let asked = Instant::now();
        let response = post(self.agent.events, "/api/v1/diagnose", &question)?;
        let took = asked.elapsed();
        ensure!(
            response.status == 200,
            "the question is answered with {}: {}",
            response.status,
            response.body
        );
        Ok((serde_json::from_str(&response.body).context("an answer in JSON")?, took))
    }

    /// Its counters have been read, so that the next reading shows what changed.
    fn is_read(&self, host: &Namespace) -> bool {
        self.agent
            .scrape()
            .is_ok_and(|page| page.find("inspector_pod_tcpoutsegs", &[("pod", host.name())]).next().is_some())
    }
}
