//! A plugin's subscriptions applied to a batch: predicates and sampling, before the copy into the
//! guest. Subscriptions to one probe are OR-ed, the predicates of one are AND-ed.

use inspector_ebpf::{PROBES, Probe};

use super::bindings::inspector::analyzer::manifest::{Predicate, Subscription};
use crate::kernel::batch::Batch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Mask,
}

#[derive(Debug, Clone, Copy)]
struct Test {
    word: usize,
    shift: u32,
    mask: u64,
    op: Op,
    value: u64,
}

#[derive(Debug, Clone)]
struct Branch {
    tests: Vec<Test>,
    one_in: u32,
    seen: u32,
}

/// All subscriptions of a plugin to one probe.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    pub(crate) probe: &'static Probe,
    branches: Vec<Branch>,
}

impl Selection {
    /// Checks a plugin's subscriptions and groups them by probe. Probes this agent does not know
    /// are left out; that a required one is missing is for the caller to judge.
    ///
    /// # Errors
    /// A predicate names a field or an operator that does not exist.
    pub(super) fn of(subscriptions: &[Subscription]) -> Result<Vec<Self>, String> {
        let mut selections: Vec<Self> = Vec::new();
        for subscription in subscriptions {
            let Some(probe) = PROBES.iter().find(|probe| probe.name == subscription.probe) else { continue };
            let tests = subscription.filters.iter().map(|p| test(probe, p)).collect::<Result<_, _>>()?;
            let branch = Branch { tests, one_in: subscription.sample_one_in.max(1), seen: 0 };
            match selections.iter_mut().find(|selection| selection.probe.id == probe.id) {
                Some(selection) => selection.branches.push(branch),
                None => selections.push(Self { probe, branches: vec![branch] }),
            }
        }
        Ok(selections)
    }

    /// The records of `batch` that the plugin asked for; `scratch` holds them if not all pass.
    pub(crate) fn select<'a>(&mut self, batch: &'a Batch, scratch: &'a mut Vec<u64>) -> &'a [u64] {
        if self.branches.iter().any(|branch| branch.tests.is_empty() && branch.one_in == 1) {
            return &batch.words;
        }
        scratch.clear();
        for record in batch.records() {
            if self.branches.iter_mut().any(|branch| branch.passes(record)) {
                scratch.extend_from_slice(record);
            }
        }
        scratch
    }
}

impl Branch {
    fn passes(&mut self, record: &[u64]) -> bool {
        if !self.tests.iter().all(|test| test.holds(record)) {
            return false;
        }
        self.seen = (self.seen + 1) % self.one_in;
        self.one_in == 1 || self.seen == 1
    }
}

impl Test {
    fn holds(self, record: &[u64]) -> bool {
        let field = (record[self.word] >> self.shift) & self.mask;
        match self.op {
            Op::Eq => field == self.value,
            Op::Ne => field != self.value,
            Op::Lt => field < self.value,
            Op::Le => field <= self.value,
            Op::Gt => field > self.value,
            Op::Ge => field >= self.value,
            Op::Mask => field & self.value != 0,
        }
    }
}

fn test(probe: &Probe, predicate: &Predicate) -> Result<Test, String> {
    let integers = || probe.fields.iter().filter(|field| field.size <= 8);
    let field = integers().find(|field| field.name == predicate.field).ok_or_else(|| {
        let known: Vec<_> = integers().map(|field| field.name).collect();
        format!(
            "probe {} has no integer field {:?}; it has {}",
            probe.name,
            predicate.field,
            known.join(", ")
        )
    })?;
    let op = match predicate.op.as_str() {
        "eq" => Op::Eq,
        "ne" => Op::Ne,
        "lt" => Op::Lt,
        "le" => Op::Le,
        "gt" => Op::Gt,
        "ge" => Op::Ge,
        "mask" => Op::Mask,
        other => return Err(format!("unknown operator {other:?}: use eq, ne, lt, le, gt, ge or mask")),
    };
    let bits = u32::from(field.size) * 8;
    Ok(Test {
        word: usize::from(field.offset) / 8,
        shift: u32::from(field.offset % 8) * 8,
        mask: if bits == 64 { u64::MAX } else { (1 << bits) - 1 },
        op,
        value: predicate.value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(filters: &[(&str, &str, u64)], sample_one_in: u32) -> Subscription {
        let filters = filters.iter().map(|(field, op, value)| Predicate {
            field: (*field).to_owned(),
            op: (*op).to_owned(),
            value: *value,
        });
        let probe = PROBES[0].name.to_owned();
        Subscription { probe, min_schema: 1, required: false, filters: filters.collect(), sample_one_in }
    }

    fn batch(dports: &[u16]) -> Batch {
        let probe = &PROBES[0];
        let stride = usize::from(probe.stride) / 8;
        let mut words = vec![0u64; stride * dports.len()];
        for (i, dport) in dports.iter().enumerate() {
            // dport is at byte 58: word 7, shift 16.
            words[i * stride + 7] = u64::from(*dport) << 16;
        }
        Batch { probe, count: dports.len() as u32, first_seq: 0, lost: 0, now_ns: 0, words }
    }

    fn selected(subscriptions: &[Subscription], dports: &[u16]) -> Vec<u16> {
        let mut selections = Selection::of(subscriptions).expect("valid");
        let mut scratch = Vec::new();
        let batch = batch(dports);
        let words = selections[0].select(&batch, &mut scratch);
        words.chunks(batch.stride_words()).map(|record| (record[7] >> 16) as u16).collect()
    }

    #[test]
    fn two_subscriptions_are_joined_by_or_and_their_filters_by_and() {
        let range = subscription(&[("dport", "ge", 80), ("dport", "lt", 90)], 1);
        let one = subscription(&[("dport", "eq", 443)], 1);
        assert_eq!(selected(&[range, one], &[79, 80, 89, 90, 443]), [80, 89, 443]);
    }

    #[test]
    fn sampling_delivers_one_of_n() {
        assert_eq!(selected(&[subscription(&[], 3)], &[1, 2, 3, 4, 5, 6, 7]), [1, 4, 7]);
    }

    #[test]
    fn an_unknown_field_is_refused_with_the_fields_there_are() {
        let error = Selection::of(&[subscription(&[("port", "eq", 1)], 1)]).expect_err("no such field");
        assert!(error.contains("\"port\"") && error.contains("dport"), "{error}");
    }
}
