//! Promise: the first finding about a fault is its cause, where it sits, and healthy traffic gives
//! no warning. Some quick cases of the lab; all of them are `make lab`'s.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use inspector_tests::agent::Settings;
use inspector_tests::exam::score::Mark;
use inspector_tests::exam::{Exam, Examiner, Manner};
use inspector_tests::lab::cases::Ongoing;
use inspector_tests::wait;

/// Of different families, none of which changes a setting of the machine.
const CASES: &[&str] = &[
    "baseline",
    "baseline_dns_search",
    "baseline_health_checks",
    "baseline_noise_kept_out",
    "tcp_closed_port/6",
    "listen_overflow",
    "app_close_unread/6",
    "nft_drop_in",
    "tc_bpf_ingress_drop/6",
    "route_unreachable_forward",
    "no_route_local/6",
    "mtu_pmtud_ok",
    "arp_wrong_mac",
    "udp_rcvbuf_overflow/6",
    "tcp_out_of_window",
    "dns_servfail",
    "var_unsigned_peer",
    "var_overlay_wrong_port/6",
    "var_hairpin",
    "var_narrow_bridge/6",
];

/// What goes on while the question is asked, by clients that wait for less than a SYN is repeated
/// after, and by patient ones.
const ONGOING: &[&str] = &[
    "ongoing_impatient_checks",
    "ongoing_health_checks/6",
    "ongoing_servfail/6",
    "ongoing_slow_server",
    "ongoing_search_lists",
    "listen_overflow/6~",
    "route_blackhole_forward~300ms",
    "arp_fail/6~800ms",
    "app_linger0~",
    "ipt_reject_icmp~2.5s",
];

#[test]
fn a_fault_is_concluded_and_healthy_traffic_is_not() -> Result<()> {
    examine(CASES)
}

#[test]
fn a_fault_is_concluded_while_it_lasts_and_its_clients_go_on() -> Result<()> {
    examine(ONGOING)
}

/// Every form in which a case is made.
fn forms() -> impl Iterator<Item = Exam> {
    let patience = [300, 800, 2500].map(Duration::from_millis);
    Exam::all().chain(patience.into_iter().flat_map(Exam::ongoing))
}

fn examine(names: &[&'static str]) -> Result<()> {
    let _turn = crate::heavy();
    let examiner = Examiner::start(&Settings::default(), wait::PATIENCE, Manner::default())?;
    let named = |name: &&'static str| forms().find(|exam| exam.name() == *name).context(*name);
    let exams = names.iter().map(named).collect::<Result<Vec<_>>>()?;
    let mut wrong = Vec::new();
    examiner.examine(exams.into_iter(), |row| {
        if row.mark != Mark::Right {
            let name = row.exam.name();
            wrong.push(format!("{name}: {:?} {} {:#?}", row.mark, row.error, row.findings));
        }
    });
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn every_fault_has_an_ongoing_form_or_says_why_not() {
    let faults = Exam::all().filter(|exam| !exam.case.expect.is_empty());
    let (without, with): (Vec<_>, Vec<_>) =
        faults.partition(|exam| matches!(exam.case.ongoing, Ongoing::Never(_)));
    let silent = without.iter().filter(|exam| exam.case.ongoing == Ongoing::Never(""));
    assert_eq!(silent.count(), 0);
    let lasting: Vec<_> = Exam::ongoing(Duration::from_secs(1)).map(|exam| exam.name()).collect();
    assert_eq!(lasting.len(), with.len());
    assert!(lasting.contains(&"nft_drop_in/6~1s".to_owned()), "{lasting:?}");
    assert!(lasting.contains(&"dns_timeout~".to_owned()), "{lasting:?}");
}

#[test]
fn every_case_has_a_name_of_its_own_and_says_how_it_is_made() {
    let names: Vec<_> = Exam::all().map(|exam| exam.name()).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
    let silent: Vec<_> = Exam::all().filter(|exam| exam.case.made.is_empty()).map(|e| e.name()).collect();
    assert!(silent.is_empty(), "{silent:?}");
}
