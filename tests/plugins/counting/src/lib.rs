//! Counts dropped packets by the version that saw them, so that a test can add up what two
//! versions received across a replacement. It keeps no state of its own.

use inspector_sdk::metrics::Counter;
use inspector_sdk::probes::SkbDrop;
use inspector_sdk::{Analyzer, Batch, Description, Error, InitArgs, MetricDecl};

const VERSION: &str = if cfg!(feature = "second") { "2.0.0" } else { "1.0.0" };
const DROPS: &str = "inspector_test_drops_total";

/// The analyzer.
#[derive(Debug)]
pub struct Counting {
    drops: Counter<&'static str>,
}

impl Analyzer for Counting {
    fn describe() -> Description {
        Description::new("counting", VERSION, "counts dropped packets").probe::<SkbDrop>().metric(
            MetricDecl::counter(DROPS, "Dropped packets that this version received").labels(&["version"]),
        )
    }

    fn init(_: &InitArgs) -> Result<Self, Error> {
        Ok(Self { drops: Counter::declared(DROPS)? })
    }

    fn on_batch(&mut self, batch: &Batch<'_>) -> Result<(), Error> {
        for drop in batch.events::<SkbDrop>() {
            self.drops.add(drop.head.entity, VERSION, drop.count);
        }
        Ok(())
    }
}

inspector_sdk::export!(Counting);
