//! qdisc: packets through queueing disciplines, per device.

use anyhow::{Context as _, Result, ensure};
use inspector::probe::Options;
use inspector_ebpf::Qdisc;
use inspector_ebpf::qdisc::{KIND_SUM, OP_DEQUEUE, OP_ENQUEUE, OP_UNTIMED};
use inspector_tests::lab::{Family, Pair, delays, faults};
use inspector_tests::wait;

use super::{check_bucket, eth0};
use crate::observer::Observer;

#[test]
fn what_goes_into_a_throttled_queue_comes_out_of_it_after_its_time() -> Result<()> {
    for family in Family::BOTH {
        let pair = Pair::new()?;
        let (netns, ifindex) = (pair.client.cookie()?, eth0(&pair.client)?);
        // Neighbours are known before, so that nothing else is in the queue.
        faults::send_udp(&pair.client, pair.server_at(family, 9), 1, 1)?;
        delays::throttle(&pair.client)?;
        let observer = Observer::of(&["qdisc"], Options::default())?;
        let sent = 8;
        faults::send_udp(&pair.client, pair.server_at(family, 9), sent, 1000)?;
        let of = |op| {
            let mut records = observer.records::<Qdisc>();
            records.retain(|r| r.head.netns == netns && r.ifindex == ifindex && r.op == op);
            records
        };
        let count = |op| of(op).iter().map(|r| r.count).sum::<u64>();
        let left = || count(OP_DEQUEUE) + count(OP_UNTIMED);
        // What waited there already when the probe was loaded leaves without having come.
        let done = wait::until("all packets to leave the queue", || {
            let (left, came) = (left(), count(OP_ENQUEUE));
            (came >= sent && (came..came + 4).contains(&left)).then_some(())
        });
        done.with_context(|| {
            format!("{} left, {} of them untimed, {} came", left(), count(OP_UNTIMED), count(OP_ENQUEUE))
        })?;
        ensure!((sent..sent + 4).contains(&count(OP_ENQUEUE)), "{} taken in", count(OP_ENQUEUE));
        for record in of(OP_DEQUEUE) {
            assert_eq!(record.head.kind, KIND_SUM);
            check_bucket(record.bucket, record.count, record.duration_ns)?;
        }
        let waited: u64 = of(OP_DEQUEUE).iter().map(|r| r.duration_ns).sum();
        // The first goes at once, each further one 130 ms after the one before.
        ensure!((1_000_000_000..10_000_000_000).contains(&waited), "{waited} ns in all");
    }
    Ok(())
}
