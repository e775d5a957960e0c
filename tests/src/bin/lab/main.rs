//! `make lab`: every case of [`inspector_tests::lab::cases`], made for real, and what the product
//! concludes of it.
//!
//! - [`options`]: what the command line asks for.
//! - [`report`]: the table, the scores and the list of misses.
//!
//! Exit status 1 below [`GOAL`] percent, and on any false alarm.

mod options;
mod report;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use inspector_tests::agent::Settings;
use inspector_tests::exam::score::Mark;
use inspector_tests::exam::{Exam, Examiner};
use inspector_tests::lab::end_in_order;
use inspector_tests::wait;

use crate::options::Options;

/// Of the faults, so many percent must be concluded right.
const GOAL: usize = 95;

fn main() -> ExitCode {
    match lab() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// True if the goal is reached.
fn lab() -> Result<bool> {
    // The agent ends with the thread that started it.
    end_in_order(|| ())?;
    let options = Options::parse(std::env::args().skip(1))?;
    if options.help {
        print!("{}", options::USAGE);
        return Ok(true);
    }
    if options.list {
        let line = |exam: &Exam, text: &str| {
            println!("{:<12} {:<9} {:<26} {text}", exam.theme, exam.case.origin.word(), exam.name());
        };
        options.exams().for_each(|exam| line(&exam, exam.case.made));
        options.that_do_not_last().for_each(|(exam, reason)| line(&exam, &format!("not: {reason}")));
        return Ok(true);
    }
    if options.make_only {
        return Ok(make(&options));
    }
    if let Some(dir) = &options.keep {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    let examiner = Examiner::start(&Settings::default(), wait::PATIENCE, options.manner.clone())?;
    let (mut rows, mut kept) = (Vec::new(), Ok(()));
    examiner.examine(options.exams(), |row| {
        if !options.json {
            report::progress(&row);
        }
        if let (Some(dir), Ok(())) = (&options.keep, &kept) {
            kept = report::keep(dir, &row);
        }
        rows.push(row);
    });
    kept?;
    if options.json {
        report::json(&rows)
    } else {
        report::text(&rows)
    }
    let faults = rows.iter().filter(|row| !row.exam.case.expect.is_empty());
    let right = faults.clone().filter(|row| row.mark == Mark::Right).count();
    let alarmed = rows.iter().any(|row| row.mark == Mark::FalseAlarm);
    let broken = rows.iter().any(|row| row.exam.case.expect.is_empty() && row.mark == Mark::Broken);
    Ok(right * 100 >= faults.count() * GOAL && !alarmed && !broken)
}

/// Makes the cases without asking anybody about them; true if all of them happened.
fn make(options: &Options) -> bool {
    let mut all = true;
    for exam in options.exams() {
        let begun = Instant::now();
        let made = exam.make();
        let took = begun.elapsed().as_secs_f64();
        match &made {
            Ok(()) => println!("{took:>6.2} s  {}", exam.name()),
            Err(error) => println!("{took:>6.2} s  {} DID NOT HAPPEN: {error:#}", exam.name()),
        }
        all &= made.is_ok();
    }
    all
}
