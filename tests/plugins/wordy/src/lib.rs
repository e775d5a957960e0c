//! Says of itself and of its failure far more than anybody reads, and writes a long log: the host must
//! keep and show a part of it.

use inspector_sdk::{Analyzer, Description, Error, InitArgs, MetricDecl};

/// The analyzer.
#[derive(Debug)]
pub struct Wordy;

impl Analyzer for Wordy {
    fn describe() -> Description {
        let help = "help ".repeat(40_000);
        Description::new("wordy", "1.0.0", &help)
            .metric(MetricDecl::counter("inspector_test_wordy_total", &help))
            .event("WORDY", &help)
    }

    fn init(_: &InitArgs) -> Result<Self, Error> {
        println!("{}", "line ".repeat(20_000));
        Err(Error::new("wordy", "why ".repeat(175_000)))
    }
}

inspector_sdk::export!(Wordy);
