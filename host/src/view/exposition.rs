//! Writes everything that `/metrics` shows, as Prometheus text 0.0.4 or OpenMetrics 1.0.0.
//!
//! Plugin series have their own encoder, because prometheus-client appends `_total` to names that
//! are a contract, knows only OpenMetrics and is too slow for 100 000 series: here a line is a
//! few copies of text that was escaped when the series was made. Two entities of one name (a
//! tombstone and its successor) are one line each, so a scrape never has a duplicate.
//! Half of this file is its test, an independent reader of both formats.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::entities::EntityId;
use crate::series::declaration::{Decl, MAX_HELP, MetricKind};
use crate::series::family::{Family, Histogram, Series, Value};
use crate::series::metrics::Metrics;
use crate::text::escape;
use crate::view::identity::Identities;

/// A text format that scrapers understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format a scraper prefers by its `Accept` header; text if it does not say.
    pub fn negotiate(accept: &str) -> Self {
        let quality = |kind: &str| {
            let matching = accept.split(',').filter(|range| range.trim().starts_with(kind));
            matching.map(quality_of).fold(0.0, f64::max)
        };
        let open = quality("application/openmetrics-text");
        if open > 0.0 && open >= quality("text/plain") { Self::OpenMetrics } else { Self::Text }
    }

    /// The `Content-Type` of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Appends all plugin series, by name.
pub fn encode(out: &mut Vec<u8>, metrics: &Metrics, identities: &mut Identities<'_>, format: Format) {
    for exposed in metrics.exposed() {
        exposed.read(|family| encode_family(out, family, identities, format));
    }
}

fn encode_family(out: &mut Vec<u8>, family: &Family, identities: &mut Identities<'_>, format: Format) {
    if family.series.is_empty() {
        return;
    }
    encode_head(out, &family.decl, format);
    let lines = Lines::new(&family.decl);
    let start = out.len();
    for series in &family.series {
        let Some(number) = identities.number(series.entity) else { continue };
        let identity = identities.identity(number);
        if identity.shared {
            // Rare: begin this family again, with equal series added up.
            out.truncate(start);
            for ((number, labels), (_, value)) in merge(family, identities) {
                lines.push(out, &identities.identity(number).labels, &labels, &value);
            }
            return;
        }
        lines.push(out, &identity.labels, &series.labels, &series.value);
    }
}

/// One value per label set: counters and histograms are added up, of the others the one of the
/// newest entity is taken.
fn merge(family: &Family, identities: &mut Identities<'_>) -> BTreeMap<(u32, Arc<str>), (EntityId, Value)> {
    let mut merged: BTreeMap<(u32, Arc<str>), (EntityId, Value)> = BTreeMap::new();
    for Series { entity, labels, value, .. } in &family.series {
        let Some(number) = identities.number(*entity) else { continue };
        let (newest, sum) = merged
            .entry((number, Arc::clone(labels)))
            .and_modify(|(_, sum)| add(sum, value, family.decl.kind))
            .or_insert_with(|| (*entity, value.clone()));
        if *entity > *newest {
            *newest = *entity;
            if matches!(family.decl.kind, MetricKind::Gauge | MetricKind::Unknown) {
                *sum = value.clone();
            }
        }
    }
    merged
}

fn add(sum: &mut Value, value: &Value, kind: MetricKind) {
    match (sum, value) {
        (Value::Number(sum), Value::Number(value)) if kind == MetricKind::Counter => *sum += value,
        (Value::Histogram(sum), Value::Histogram(value)) => {
            let counts = sum.counts.iter_mut().zip(&value.counts);
            counts.for_each(|(sum, count)| *sum = sum.saturating_add(*count));
            sum.sum += value.sum;
        }
        _ => {}
    }
}

fn encode_head(out: &mut Vec<u8>, decl: &Decl, format: Format) {
    let (name, kind) = match (format, decl.kind) {
        (Format::Text, MetricKind::Counter) => (decl.name.as_str(), "counter"),
        (Format::Text, MetricKind::Unknown) => (decl.name.as_str(), "untyped"),
        (Format::OpenMetrics, MetricKind::Unknown) => (decl.name.as_str(), "unknown"),
        (Format::OpenMetrics, MetricKind::Counter) => (decl.base_name(), "counter"),
        (_, MetricKind::Gauge) => (decl.name.as_str(), "gauge"),
        (_, MetricKind::Histogram) => (decl.name.as_str(), "histogram"),
    };
    let mut help = escape::admit(decl.help.clone(), MAX_HELP).replace('\\', "\\\\");
    if format == Format::OpenMetrics {
        help = help.replace('"', "\\\"");
    }
    out.extend_from_slice(format!("# HELP {name} {help}\n# TYPE {name} {kind}\n").as_bytes());
    if let (Format::OpenMetrics, Some(unit)) = (format, &decl.unit) {
        // The format demands that the name ends in the unit.
        if name.strip_suffix(unit.as_str()).is_some_and(|rest| rest.ends_with('_')) {
            out.extend_from_slice(format!("# UNIT {name} {unit}\n").as_bytes());
        }
    }
}

/// The parts of a family's lines that are the same in every line.
struct Lines<'a> {
    name: &'a str,
    /// Histogram: `,le="…"` of each bucket, `+Inf` last.
    bounds: Vec<String>,
}

impl<'a> Lines<'a> {
    fn new(decl: &'a Decl) -> Self {
        let finite = decl.buckets.iter().map(|bound| format!(",le=\"{bound:?}\""));
        let bounds = finite.chain([",le=\"+Inf\"".to_owned()]).collect();
        Self { name: &decl.name, bounds }
    }

    fn push(&self, out: &mut Vec<u8>, identity: &str, labels: &str, value: &Value) {
        match value {
            // Not known now.
            Value::Number(number) if number.is_nan() => {}
            Value::Number(number) => {
                self.begin(out, "", identity, labels);
                end(out, *number);
            }
            Value::Histogram(histogram) => self.push_histogram(out, identity, labels, histogram),
        }
    }

    fn push_histogram(&self, out: &mut Vec<u8>, identity: &str, labels: &str, histogram: &Histogram) {
        let mut count = 0_u64;
        for (bound, in_bucket) in self.bounds.iter().zip(&histogram.counts) {
            // A guest may count as high as it likes: buckets never go down for that.
            count = count.saturating_add(*in_bucket);
            self.begin(out, "_bucket", identity, labels);
            out.extend_from_slice(bound.as_bytes());
            end(out, count as f64);
        }
        self.begin(out, "_sum", identity, labels);
        end(out, histogram.sum);
        self.begin(out, "_count", identity, labels);
        end(out, count as f64);
    }

    fn begin(&self, out: &mut Vec<u8>, suffix: &str, identity: &str, labels: &str) {
        out.extend_from_slice(self.name.as_bytes());
        // Most lines have neither suffix nor labels, and a copy of nothing is not free.
        if !suffix.is_empty() {
            out.extend_from_slice(suffix.as_bytes());
        }
        out.extend_from_slice(identity.as_bytes());
        if !labels.is_empty() {
            out.extend_from_slice(labels.as_bytes());
        }
    }
}

/// Ends a line behind its labels: `} `, the value, a line feed.
fn end(out: &mut Vec<u8>, number: f64) {
    // Whole numbers below 2^53 are exact, and most values are such.
    if number.fract() != 0.0 || number.abs() >= 9_007_199_254_740_992.0 {
        let text = match number {
            f64::INFINITY => "+Inf".to_owned(),
            f64::NEG_INFINITY => "-Inf".to_owned(),
            number => format!("{number:?}"),
        };
        return out.extend_from_slice(format!("}} {text}\n").as_bytes());
    }
    let mut tail = *b"} -                     ";
    let first = if number < 0.0 { 3 } else { 2 };
    let mut rest = number.abs() as u64;
    let end = first + rest.checked_ilog10().unwrap_or(0) as usize + 1;
    for digit in tail[first..end].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    tail[end] = b'\n';
    // Copying all of it and cutting is faster than copying a number of bytes known only now.
    out.extend_from_slice(&tail);
    out.truncate(out.len() - tail.len() + end + 1);
}

/// The `q` of a media range; 1 if it has none.
fn quality_of(range: &str) -> f64 {
    let q = range.split(';').find_map(|parameter| parameter.trim().strip_prefix("q="));
    q.map_or(1.0, |q| q.trim().parse().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::series::family::MAX_LABEL_VALUE;
    use crate::status::Process;
    use crate::view::View;

    type Labels = BTreeMap<String, String>;

    fn scrape(view: &View, format: Format) -> String {
        String::from_utf8(view.scrape(&Process::default(), format, 0)).expect("UTF-8")
    }

    /// Reads one sample as the formats define it, sharing nothing with the encoder.
    fn parse(line: &str) -> (String, Labels, f64) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).expect("a name"));
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{line}");
        let mut labels = Labels::new();
        let mut rest = rest.strip_prefix('{').map_or(rest, |inside| {
            let mut inside = inside;
            while !inside.starts_with('}') {
                let (label, quoted) = inside.split_once("=\"").expect(line);
                let mut value = String::new();
                let mut chars = quoted.char_indices();
                let end = loop {
                    match chars.next().expect(line) {
                        (_, '\\') => match chars.next().expect(line).1 {
                            'n' => value.push('\n'),
                            c @ ('"' | '\\') => value.push(c),
                            c => panic!("escape {c} in {line}"),
                        },
                        (end, '"') => break end,
                        (_, c) => value.push(c),
                    }
                };
                assert_eq!(labels.insert(label.to_owned(), value), None, "label twice: {line}");
                inside = &quoted[end + 1..];
                inside = inside.strip_prefix(',').unwrap_or(inside);
            }
            &inside[1..]
        });
        rest = rest.strip_prefix(' ').expect(line);
        (name.to_owned(), labels, rest.replace("Inf", "inf").parse().expect(line))
    }

    /// All samples; fails on whatever would make a scraper refuse the whole scrape.
    fn read(text: &str) -> Vec<(String, Labels, f64)> {
        let (mut families, mut seen, mut samples) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        let mut family = String::new();
        for line in text.lines() {
            if let Some(of) = line.strip_prefix("# TYPE ") {
                family = of.split(' ').next().expect(line).to_owned();
                assert!(families.insert(family.clone()), "family twice: {line}");
            } else if !line.starts_with('#') {
                let sample = parse(line);
                assert!(sample.0.starts_with(&family), "{line} is outside of its family {family}");
                assert!(seen.insert((sample.0.clone(), sample.1.clone())), "sample twice: {line}");
                samples.push(sample);
            }
        }
        samples
    }

    /// A text of characters that formats, terminals and parsers stumble over.
    fn arbitrary(seed: &mut u64) -> String {
        const CHARS: [char; 16] =
            ['"', '\\', '\n', '\r', '\0', '\u{1b}', '{', '}', ',', '=', ' ', '#', 'a', 'é', '\u{202e}', '𝄞'];
        let mut next = || {
            *seed ^= *seed << 13;
            *seed ^= *seed >> 7;
            *seed ^= *seed << 17;
            *seed as usize
        };
        let length = next() % 80;
        (0..length).map(|_| CHARS[next() % CHARS.len()]).collect()
    }

    #[test]
    fn a_gauge_that_is_not_known_now_is_not_shown() {
        let view = View::test();
        let series =
            view.metrics.register("p", &[Decl::test("depth", MetricKind::Gauge, &[])]).expect("valid");
        let entity = view.test_entity(1, "web");
        let id = series.series(0, entity, vec![]).expect("room");
        let shown = |value| {
            series.apply(&[id], &[value]);
            read(&scrape(&view, Format::Text)).into_iter().filter(|(name, ..)| name == "depth").count()
        };
        assert_eq!([shown(3.0), shown(f64::NAN), shown(4.0)], [1, 0, 1]);
    }

    #[test]
    fn arbitrary_label_values_and_names_are_read_back() {
        let view = View::test();
        let decl = Decl::test("x_total", MetricKind::Counter, &["a", "b"]);
        let series = view.metrics.register("p", &[decl]).expect("valid");
        let mut expected = BTreeMap::new();
        let mut seed = 0x9e37_79b9;
        for i in 1..400_u32 {
            let [pod, a, b] = [(); 3].map(|()| arbitrary(&mut seed));
            let entity = view.test_entity(i.into(), &pod);
            let id = series.series(0, entity, vec![a.clone(), b.clone()]).expect("room");
            series.apply(&[id], &[f64::from(i)]);
            let shown = [pod, a, b].map(|text| escape::admit(text, MAX_LABEL_VALUE));
            *expected.entry(shown).or_default() += f64::from(i);
        }
        for format in [Format::Text, Format::OpenMetrics] {
            let samples = read(&scrape(&view, format));
            let ours = samples.into_iter().filter(|(name, ..)| name == "x_total");
            let got = ours.map(|(_, l, value)| (["pod", "a", "b"].map(|name| l[name].clone()), value));
            assert_eq!(got.collect::<BTreeMap<_, _>>(), expected);
        }
    }

    #[test]
    fn two_entities_of_one_name_are_one_line() {
        let view = View::test();
        let decls = [
            Decl::test("c_total", MetricKind::Counter, &[]),
            Decl::test("g", MetricKind::Gauge, &[]),
            Decl::test("h", MetricKind::Histogram, &[]),
        ];
        let series = view.metrics.register("p", &decls).expect("valid");
        for (cookie, name, value) in [(1, "web", 1.0), (2, "db", 5.0), (3, "web", 0.05)] {
            let entity = view.test_entity(cookie, name);
            let ids: Vec<u32> = (0..3).map(|m| series.series(m, entity, vec![]).expect("room")).collect();
            series.apply(&ids, &[value; 3]);
        }
        let samples = read(&scrape(&view, Format::Text));
        let value = |name: &str, le: Option<&str>| {
            let web =
                samples.iter().filter(|(n, l, _)| n == name && l.get("pod").is_some_and(|p| p == "web"));
            web.filter(|(_, l, _)| l.get("le").map(String::as_str) == le).map(|s| s.2).collect::<Vec<_>>()
        };
        assert_eq!(value("c_total", None), [1.05]);
        assert_eq!(value("g", None), [0.05]);
        assert_eq!(value("h_bucket", Some("0.1")), [1.0]);
        assert_eq!(value("h_bucket", Some("+Inf")), [2.0]);
        assert_eq!((value("h_count", None), value("h_sum", None)), (vec![2.0], vec![1.05]));
    }

    #[test]
    fn each_format_has_its_own_names_and_types() {
        let view = View::test();
        let mut decls = [
            Decl::test("inspector_pod_tcppassiveopens", MetricKind::Unknown, &[]),
            Decl::test("wait_seconds_total", MetricKind::Counter, &["why"]),
        ];
        decls[1].unit = Some("seconds".into());
        decls[1].help = "Says \"why\".\n\\".into();
        let series = view.metrics.register("p", &decls).expect("valid");
        let web = view.test_entity(9, "web");
        let ids = [series.series(0, web, vec![]), series.series(1, 0, vec!["x".into()])]
            .map(|id| id.expect("room"));
        series.apply(&ids, &[3.0, 0.25]);
        let text = scrape(&view, Format::Text);
        assert!(
            text.starts_with(
                r#"# HELP inspector_pod_tcppassiveopens Help.
# TYPE inspector_pod_tcppassiveopens untyped
inspector_pod_tcppassiveopens{namespace="",pod="web",node="n1"} 3
# HELP wait_seconds_total Says "why".\\n\\
# TYPE wait_seconds_total counter
wait_seconds_total{namespace="",pod="unknown",node="n1",why="x"} 0.25
"#
            ),
            "{text}"
        );
        let open = scrape(&view, Format::OpenMetrics);
        assert!(
            open.starts_with(
                r#"# HELP inspector_pod_tcppassiveopens Help.
# TYPE inspector_pod_tcppassiveopens unknown
inspector_pod_tcppassiveopens{namespace="",pod="web",node="n1"} 3
# HELP wait_seconds Says \"why\".\\n\\
# TYPE wait_seconds counter
# UNIT wait_seconds seconds
wait_seconds_total{namespace="",pod="unknown",node="n1",why="x"} 0.25
"#
            ),
            "{open}"
        );
        assert!(open.ends_with("\n# EOF\n") && !text.contains("EOF"));
    }

    #[test]
    fn a_scraper_gets_the_format_it_prefers() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::negotiate(prometheus), Format::OpenMetrics);
        for accept in [
            "",
            "*/*",
            "text/html",
            "text/plain, application/openmetrics-text;q=0.5",
            "application/openmetrics-text; q=0",
        ] {
            assert_eq!(Format::negotiate(accept), Format::Text, "{accept}");
        }
    }

    #[test]
    fn numbers_are_exact() {
        let shown = |number| {
            let mut out = Vec::new();
            end(&mut out, number);
            let text = String::from_utf8(out).expect("ASCII");
            text.strip_prefix("} ").and_then(|text| text.strip_suffix('\n')).expect("a value").to_owned()
        };
        for number in [0.0, 1.0, -1.0, 0.1, -2.5, 9_007_199_254_740_991.0, 1e300, 5e-324, u64::MAX as f64] {
            assert_eq!(shown(number).parse(), Ok(number));
        }
        assert_eq!([shown(f64::NAN), shown(f64::INFINITY), shown(-f64::INFINITY)], ["NaN", "+Inf", "-Inf"]);
        assert_eq!(shown(18_446_744.0), "18446744");
    }
}
