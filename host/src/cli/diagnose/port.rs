//! The port of `--to`: what is about it comes first. Nothing is left out for it, because a finding about many
//! connections names some of them only.

use crate::answers::flow::Flow;
use crate::answers::report::{Evidence, Report};

/// A pod, and a port of it if one is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherEnd {
    /// `NAMESPACE/NAME`.
    pub pod: String,
    /// Not 0.
    pub port: Option<u16>,
}

/// Puts findings first that name one of these ports, and otherwise leaves them in their order.
pub fn first(report: &mut Report, ports: &[u16]) {
    report.findings.sort_by_key(|finding| !finding.evidence.iter().any(|line| is_about(line, ports)));
}

fn is_about(line: &Evidence, ports: &[u16]) -> bool {
    // Of what is sent to a Service, the port of the pod is where it arrives.
    let mut ends = line.flow().into_iter().flat_map(Flow::ends).chain(line.arrives_at());
    ends.any(|end| ports.contains(&end.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::report::Finding;
    use crate::cli::diagnose::text::tests::report;

    #[test]
    fn findings_about_the_port_come_first_and_none_is_left_out() {
        let finding = |code: &str, name: &str, value: &str| {
            let attrs = vec![(name.to_owned(), value.to_owned())];
            Finding { evidence: vec![Evidence { attrs, ..Evidence::default() }], ..Finding::test(code) }
        };
        let findings = vec![
            finding("a", "flow", "TCP 10.0.0.1:4242 10.0.0.2:80"),
            finding("b", "flow", "TCP [fd00::1]:4242 [fd00::2]:5432"),
            finding("c", "flow", "TCP fd00::5432 fd00::1"),
            finding("d", "arrives_at", "10.0.0.2:5432"),
        ];
        let mut report = Report { findings, ..report() };
        let codes =
            |report: &Report| report.findings.iter().map(|found| found.code.clone()).collect::<String>();
        first(&mut report, &[5432]);
        assert_eq!(codes(&report), "bdac");
        first(&mut report, &[]);
        assert_eq!(codes(&report), "bdac");
    }
}
