//! Counts dropped datagrams by the version that saw them, so that a test can add up what two
//! versions received across a replacement. It keeps no state of its own.
//!
//! Only those to the lab's closed port: a young namespace drops a few multicast packets as well.

use inspector_sdk::metrics::Counter;
use inspector_sdk::probes::SkbDrop;
use inspector_sdk::protocol::UDP;
use inspector_sdk::{Analyzer, Batch, Description, Error, InitArgs, MetricDecl};

const VERSION: &str = if cfg!(feature = "second") { "2.0.0" } else { "1.0.0" };
/// UDP, and the port that `lab::faults::CLOSED_PORT` names.
const WANTED: (u8, u16) = (UDP, 9);
const DROPS: &str = "inspector_test_drops_total";

/// The analyzer.
#[derive(Debug)]
pub struct Counting {
    drops: Counter<&'static str>,
}

impl Analyzer for Counting {
    fn describe() -> Description {
        Description::new("counting", VERSION, "counts dropped datagrams").probe::<SkbDrop>().metric(
            MetricDecl::counter(DROPS, "Dropped datagrams that this version received").labels(&["version"]),
        )
    }

    fn init(_: &InitArgs) -> Result<Self, Error> {
        Ok(Self { drops: Counter::declared(DROPS)? })
    }

    fn on_batch(&mut self, batch: &Batch<'_>) -> Result<(), Error> {
        let wanted = |drop: &&SkbDrop| (drop.head.proto, drop.head.dport) == WANTED;
        for drop in batch.events::<SkbDrop>().filter(wanted) {
            self.drops.add(drop.head.entity, VERSION, drop.count);
        }
        Ok(())
    }
}

inspector_sdk::export!(Counting);
