//! Traps on every batch: the host must drop this instance and nothing else.

use inspector_sdk::probes::SkbDrop;
use inspector_sdk::{Analyzer, Batch, Description, Error, InitArgs};

/// The analyzer.
#[derive(Debug)]
pub struct Trapping;

impl Analyzer for Trapping {
    fn describe() -> Description {
        Description::new("trapping", "1.0.0", "traps on every batch").probe::<SkbDrop>()
    }

    fn init(_: &InitArgs) -> Result<Self, Error> {
        Ok(Self)
    }

    fn on_batch(&mut self, batch: &Batch<'_>) -> Result<(), Error> {
        panic!("{} events are too many", batch.count)
    }
}

inspector_sdk::export!(Trapping);
