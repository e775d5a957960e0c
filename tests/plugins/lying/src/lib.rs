//! Answers questions as badly as it can, each scenario in another way: the host must bound, escape,
//! stop or drop it, and nobody else may be the worse for it.

use inspector_sdk::analyzer::{Action, Evidence, Finding, Report, Request};
use inspector_sdk::{Analyzer, Description, Error, InitArgs};

/// What a terminal would obey.
const EVIL: &str = "x\u{1b}[2J\r\n\u{202e}<script>alert(1)</script>";

/// The analyzer.
#[derive(Debug)]
pub struct Lying;

impl Analyzer for Lying {
    fn describe() -> Description {
        ["node", "many", "long", "refuse", "trap", "loop"]
            .iter()
            .fold(Description::new("lying", "1.0.0", "answers badly"), |d, name| d.scenario(name, EVIL))
    }

    fn init(_: &InitArgs) -> Result<Self, Error> {
        Ok(Self)
    }

    fn diagnose(&mut self, request: &Request) -> Result<Report, Error> {
        let (findings, blind_spots) = match request.scenario.as_str() {
            "node" => (vec![finding(1, EVIL)], vec![EVIL.to_owned()]),
            "many" => ((0..70).map(|n| finding(33, &n.to_string())).collect(), vec![String::new(); 40]),
            "long" => ((0..10_000).map(|_| finding(10, &"x".repeat(1000))).collect(), Vec::new()),
            "refuse" => return Err(Error::new("denied", EVIL)),
            "trap" => panic!("no such thing"),
            _ => loop {
                std::hint::black_box(request.now);
            },
        };
        Ok(Report { findings, blind_spots, since: u64::MAX, seen: u64::MAX })
    }
}

/// A finding whose numbers are impossible and whose entities are not there.
fn finding(parts: usize, text: &str) -> Finding {
    let evidence =
        Evidence { kind: EVIL.to_owned(), summary: text.to_owned(), at: Some(u64::MAX), attrs: Vec::new() };
    let action = Action {
        title: text.to_owned(),
        command: Some(text.to_owned()),
        risk: EVIL.to_owned(),
        url: Some("javascript:alert(1)".to_owned()),
    };
    Finding {
        code: text.to_owned(),
        role: text.to_owned(),
        title: text.to_owned(),
        severity: 255,
        confidence: 255,
        entities: vec![0, u32::MAX],
        first_seen: u64::MAX,
        last_seen: 0,
        count: u64::MAX,
        evidence: vec![evidence; parts],
        actions: vec![action; parts],
        checks: Vec::new(),
    }
}

inspector_sdk::export!(Lying with diagnosis);
