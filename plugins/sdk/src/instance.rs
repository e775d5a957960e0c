//! A running analyzer behind its exports: knows the probes it was granted, and sends what it
//! produced when a hook returns.

use inspector_ebpf::Record;

use crate::bindings::exports::inspector::analyzer::guest;
use crate::{Analyzer, Batch, EntityId, Error, InitArgs, event, kernel, series};

/// An analyzer after `init`.
#[derive(Debug)]
pub struct Instance<A> {
    analyzer: A,
    /// Name of each granted probe under the host's number for it.
    probes: Vec<(u16, String)>,
}

impl<A: Analyzer> Instance<A> {
    /// Starts an analyzer.
    ///
    /// # Errors
    /// What [`Analyzer::init`] refuses.
    pub fn init(args: &InitArgs) -> Result<Self, Error> {
        series::declare(&A::describe().metrics);
        kernel::forget();
        let granted = args.probes.iter().flatten();
        let probes = granted.map(|probe| (probe.probe, probe.name.clone())).collect();
        let analyzer = A::init(args)?;
        send();
        Ok(Self { analyzer, probes })
    }

    /// Hands a batch to the analyzer.
    ///
    /// # Errors
    /// A probe that was not granted, and what [`Analyzer::on_batch`] refuses.
    pub fn on_batch(&mut self, info: &guest::Batch, words: &[u64]) -> Result<(), Error> {
        let probe = self.probes.iter().find(|(number, _)| *number == info.probe);
        let (_, probe) = probe.ok_or_else(|| Error::new("invalid", format!("no probe {}", info.probe)))?;
        let batch = Batch {
            probe,
            count: info.count,
            first_seq: info.first_seq,
            lost: info.lost,
            now: info.now,
            stride: info.stride,
            words,
        };
        let result = self.analyzer.on_batch(&batch);
        send();
        result
    }

    /// Tells it that entities vanished; their series go after the hook.
    pub fn removed(&mut self, ids: &[EntityId]) {
        self.hook(|analyzer| analyzer.removed(ids));
        series::forget(ids);
    }

    /// Runs any other hook.
    pub fn hook<R>(&mut self, call: impl FnOnce(&mut A) -> R) -> R {
        let result = call(&mut self.analyzer);
        send();
        result
    }

    /// The host's number for the probe of `R`, if it was granted.
    pub fn number_of<R: Record>(&self) -> Option<u16> {
        self.probes.iter().find(|(_, name)| name == R::PROBE).map(|(number, _)| *number)
    }
}

fn send() {
    series::flush();
    event::flush();
}
