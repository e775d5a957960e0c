//! A run of events of one probe, as typed views into the words that the host copied in.

use inspector_ebpf::{Record, view};

use crate::Timestamp;

/// Events of one probe, in the order in which the kernel delivered them.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The probe's name, e.g. `skb-drop`.
    pub probe: &'a str,
    /// Number of events.
    pub count: u32,
    /// Sequence number of the first event of this probe for this analyzer.
    pub first_seq: u64,
    /// Events lost since the previous batch of this probe, in the kernel or in the queue.
    pub lost: u64,
    /// Host time at delivery.
    pub now: Timestamp,
    pub(crate) stride: u16,
    pub(crate) words: &'a [u64],
}

impl<'a> Batch<'a> {
    /// The events as `R`, without a copy; none if the batch is of another probe, so that an
    /// analyzer with several probes asks for each of its types in turn.
    pub fn events<R: Record>(&self) -> impl Iterator<Item = &'a R> + use<'a, R> {
        let words = if self.probe == R::PROBE { self.words } else { &[] };
        view(words, self.stride)
    }
}
