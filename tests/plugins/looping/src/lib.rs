//! Never returns from a batch: the host must stop it at its deadline.

use inspector_sdk::probes::SkbDrop;
use inspector_sdk::{Analyzer, Batch, Description, Error, InitArgs};

/// The analyzer.
#[derive(Debug)]
pub struct Looping;

impl Analyzer for Looping {
    fn describe() -> Description {
        Description::new("looping", "1.0.0", "never returns from a batch").probe::<SkbDrop>()
    }

    fn init(_: &InitArgs) -> Result<Self, Error> {
        Ok(Self)
    }

    fn on_batch(&mut self, batch: &Batch<'_>) -> Result<(), Error> {
        loop {
            std::hint::black_box(batch.count);
        }
    }
}

inspector_sdk::export!(Looping);
