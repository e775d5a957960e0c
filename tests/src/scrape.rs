//! The samples of one `/metrics` page, read by a parser of our own.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use crate::http;

/// One line of a page.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Metric name, with its `_bucket`, `_sum` or `_total`.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// All samples of a page, in order.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    /// The samples.
    pub samples: Vec<Sample>,
}

impl Scrape {
    /// Scrapes an agent in the Prometheus text format.
    ///
    /// # Errors
    /// If the agent does not answer, or with anything that does not parse.
    pub fn of(at: SocketAddr) -> Result<Self> {
        let page = http::get(at, "/metrics", "text/plain;version=0.0.4")?;
        ensure!(page.status == 200, "/metrics answers {}: {}", page.status, page.body);
        Self::parse(&page.body)
    }

    /// Reads the text format.
    ///
    /// # Errors
    /// On the first line that is neither a comment nor a sample.
    pub fn parse(page: &str) -> Result<Self> {
        let lines = page.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| sample(line).with_context(|| format!("no sample: {line:?}")));
        Ok(Self { samples: samples.collect::<Result<_>>()? })
    }

    /// The samples of a metric that have all these labels.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| {
            let has = |(key, value): &(&str, &str)| sample.labels.get(*key).is_some_and(|v| v == value);
            sample.name == name && labels.iter().all(has)
        })
    }

    /// Their sum; `None` if there is no such sample.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.find(name, labels).map(|sample| sample.value).reduce(|a, b| a + b)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (name, rest) = line.split_at(line.find(['{', ' '])?);
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    // No per-scrape timestamps: what follows the value would be one.
    Some(Sample { name: name.to_owned(), labels, value: value.strip_prefix(' ')?.parse().ok()? })
}

/// The labels, and what follows the closing brace.
fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (key, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.insert(key.to_owned(), value);
        rest = after.strip_prefix(',').unwrap_or(after);
    }
}

/// A label value up to its closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_label_values_are_read_back() {
        let page = "# HELP a b\na_total{x=\"1,2\",y=\"q\\\"}\\\\\\n\"} 4.5\nb 1\n";
        let scrape = Scrape::parse(page).expect("well-formed");
        assert_eq!(scrape.samples[0].labels["y"], "q\"}\\\n");
        assert_eq!(scrape.sum("a_total", &[("x", "1,2")]), Some(4.5));
        assert_eq!(scrape.sum("b", &[]), Some(1.0));
    }

    #[test]
    fn a_line_with_a_timestamp_is_refused() {
        assert!(Scrape::parse("a 1 1700000000").is_err());
    }
}
