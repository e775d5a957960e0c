//! What the command line asks for.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use inspector_tests::exam::{Exam, Manner};

/// How it is called.
pub const USAGE: &str = "\
lab [NAME-PART]... [--scenario NAME] [--settle TIME] [--keep DIR] [--make-only] [--list] [-o text|json]

  NAME-PART        run the cases (or groups) whose name holds one of these; all without any
  --scenario NAME  the question that is asked; node by default
  --settle TIME    how long after the fault it is asked; 1500ms by default
  --keep DIR       keep each answer in a file of its own
  --make-only      make the cases and ask nobody: each proves that it happened, or fails
  --list           name the cases and how they are made, and run none
  -o json          one document for programs
";

/// What is to be done.
#[derive(Debug)]
pub struct Options {
    /// Parts of names; all cases if empty.
    parts: Vec<String>,
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
            parts: Vec::new(),
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
                "--scenario" => options.manner.scenario = value()?,
                "--settle" => options.manner.settle = humantime::parse_duration(&value()?)?,
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
                _ => options.parts.push(arg),
            }
        }
        ensure!(options.exams().next().is_some(), "no case is called {}", options.parts.join(" or "));
        Ok(options)
    }

    /// The cases that are asked for, in each of their families.
    pub fn exams(&self) -> impl Iterator<Item = Exam> {
        Exam::all().filter(|exam| self.wants(exam))
    }

    fn wants(&self, exam: &Exam) -> bool {
        let has = |part: &String| exam.group == part || exam.name().contains(part.as_str());
        self.parts.is_empty() || self.parts.iter().any(has)
    }
}
