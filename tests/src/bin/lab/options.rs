//! What the command line asks for.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use inspector_tests::exam::{Exam, Manner};
use inspector_tests::lab::cases::Ongoing;

/// How it is called.
pub const USAGE: &str = "\
lab [WORD]... [--ongoing] [--patience TIME] [--scenario NAME] [--settle TIME] [--keep DIR]
    [--make-only] [--list] [-o text|json]

  WORD             run the cases of this theme (what fails: firewall, dns, healthy ...), of this origin
                   (how they came about: known, life, variation, noise, and the exams that were held
                   back: unseen, blind, ongoing), or with this in their name; all without any
  --ongoing        ask while the faults last and their clients go on; `--list` says which do not last
  --patience TIME  when those clients give up each time; 500ms by default
  --scenario NAME  the question that is asked; node by default
  --settle TIME    how long after the fault it is asked; by default as soon as the agent has heard of it
  --keep DIR       keep each answer in a file of its own
  --make-only      make the cases and ask nobody: each proves that it happened, or fails
  --list           show theme, origin and name of the cases and how they are made, and run none
  -o json          one document for programs
";

/// What is to be done.
#[derive(Debug)]
pub struct Options {
    /// Themes, origins and parts of names; all cases if empty.
    words: Vec<String>,
    /// Whether faults are asked about while they last.
    ongoing: bool,
    /// How patient clients are then.
    patience: Duration,
    /// How it is asked.
    pub manner: Manner,
    /// Where answers are kept.
    pub keep: Option<PathBuf>,
    /// Print a document and no table.
    pub json: bool,
    /// Make the cases and ask nobody.
    pub make_only: bool,
    /// Print the cases and run none.
    pub list: bool,
    /// Print the usage and do nothing.
    pub help: bool,
}

impl Options {
    /// Reads the arguments behind the program's name.
    ///
    /// # Errors
    /// On one that is unknown, and on a name that no case has.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            words: Vec::new(),
            ongoing: false,
            patience: Duration::from_millis(500),
            manner: Manner::default(),
            keep: None,
            json: false,
            make_only: false,
            list: false,
            help: false,
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--ongoing" => options.ongoing = true,
                "--patience" => options.patience = humantime::parse_duration(&value()?)?,
                "--scenario" => options.manner.scenario = value()?,
                "--settle" => options.manner.settle = Some(humantime::parse_duration(&value()?)?),
                "--keep" => options.keep = Some(value()?.into()),
                "--make-only" => options.make_only = true,
                "--list" => options.list = true,
                "-h" | "--help" => options.help = true,
                "-o" => match value()?.as_str() {
                    "json" => options.json = true,
                    "text" => options.json = false,
                    other => bail!("-o {other}: text or json"),
                },
                other if other.starts_with('-') => bail!("unknown argument {other}\n{USAGE}"),
                _ => options.words.push(arg),
            }
        }
        ensure!(options.exams().next().is_some(), "no case is called {}", options.words.join(" or "));
        Ok(options)
    }

    /// The cases that are asked for, in each of their families.
    pub fn exams(&self) -> impl Iterator<Item = Exam> {
        let once = (!self.ongoing).then(Exam::all).into_iter().flatten();
        let lasting = self.ongoing.then(|| Exam::ongoing(self.patience)).into_iter().flatten();
        once.chain(lasting).filter(|exam| self.wants(exam))
    }

    /// Those of them that have no ongoing form, and why, if that is what is asked for.
    pub fn that_do_not_last(&self) -> impl Iterator<Item = (Exam, &'static str)> {
        let all = self.ongoing.then(Exam::all).into_iter().flatten();
        all.filter(|exam| self.wants(exam)).filter_map(|exam| match exam.case.ongoing {
            Ongoing::Never(reason) => Some((exam, reason)),
            _ => None,
        })
    }

    fn wants(&self, exam: &Exam) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| exam.is_called(word))
    }
}
