//! What the kernel's drop and reset reasons mean to people: one text each, from `advice.toml`,
//! which is compiled in, and from a file of the operator's that comes before it. What they mean to
//! programs is in `inspector_ebpf::drop_reason`; a test compares the two.
//!
//! Keyed by name, since numbers differ on every kernel. Nothing here reads a file.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text::escape::{MAX_REASON, admit};

/// The texts that come with this version.
const BUILT_IN: &str = include_str!("../../advice.toml");

/// Which enum a reason is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `enum skb_drop_reason` and those of subsystems.
    Drop,
    /// `enum sk_rst_reason`.
    Reset,
}

impl Kind {
    /// As in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Reset => "reset",
        }
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Happens in a healthy network.
    Benign,
    /// May be intended or may be the fault.
    Suspicious,
    /// Something is broken, misconfigured or overloaded.
    Fault,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Benign => "benign",
            Self::Suspicious => "suspicious",
            Self::Fault => "fault",
        })
    }
}

/// One text, for all reasons that mean the same to an operator.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// Names without `SKB_DROP_REASON_` or `SK_RST_REASON_`.
    pub names: Vec<String>,
    /// How bad it is.
    pub class: Class,
    /// What the kernel did and why.
    pub means: String,
    /// When it is nothing to worry about.
    pub normal: String,
    /// What tells the cases apart.
    pub check: String,
    /// What makes it go away.
    pub change: String,
}

/// What is known of reasons that have no text of their own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subsystem {
    /// What its names begin with.
    pub prefix: String,
    /// What they have in common.
    pub means: String,
}

/// All texts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Advice {
    drop: Vec<Text>,
    reset: Vec<Text>,
    subsystem: Vec<Subsystem>,
}

/// A file of texts that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {message}")]
pub struct Error {
    file: String,
    message: String,
}

/// A reason and its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'a> {
    /// Which enum it is of.
    pub kind: Kind,
    /// Its name.
    pub name: &'a str,
    /// Its text.
    pub text: &'a Text,
}

impl Advice {
    /// The texts that come with this version.
    pub fn built_in() -> Self {
        Self::parse("advice.toml", BUILT_IN).expect("a test reads it")
    }

    /// Reads a file of texts; `file` is its name in errors.
    ///
    /// # Errors
    /// It is no TOML of this form, or gives a reason two texts.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        let error = |message| Error { file: file.to_owned(), message: admit(message, MAX_REASON) };
        let advice: Self = toml::from_str(text).map_err(|wrong| {
            let at = wrong.span().map_or(0, |span| span.start).min(text.len());
            let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
            error(format!("line {line}: {}", wrong.message()))
        })?;
        let mut seen = BTreeSet::new();
        if let Some(twice) = advice.all().find(|found| !seen.insert((found.kind, found.name))) {
            return Err(error(format!("{} {} has two texts", twice.kind.as_str(), twice.name)));
        }
        Ok(advice)
    }

    /// The same with the texts of `own` before these.
    pub fn under(mut self, own: Self) -> Self {
        let named: BTreeSet<_> = own.all().map(|found| (found.kind, found.name.to_owned())).collect();
        for (kind, texts) in [(Kind::Drop, &mut self.drop), (Kind::Reset, &mut self.reset)] {
            texts
                .iter_mut()
                .for_each(|text| text.names.retain(|name| !named.contains(&(kind, name.clone()))));
        }
        self.drop.extend(own.drop);
        self.reset.extend(own.reset);
        self.subsystem.splice(0..0, own.subsystem);
        self
    }

    /// Every reason that has a text.
    pub fn all(&self) -> impl Iterator<Item = Found<'_>> {
        let drops = self.drop.iter().map(|text| (Kind::Drop, text));
        let resets = self.reset.iter().map(|text| (Kind::Reset, text));
        drops
            .chain(resets)
            .flat_map(|(kind, text)| text.names.iter().map(move |name| Found { kind, name, text }))
    }

    /// The text of exactly this reason.
    pub fn of(&self, kind: Kind, name: &str) -> Option<&Text> {
        self.all().find(|found| found.kind == kind && found.name == name).map(|found| found.text)
    }

    /// What a person may mean: the reasons of this name, or else those whose names contain it;
    /// upper and lower case are the same, and so is a name with the kernel's prefix.
    pub fn find(&self, asked: &str) -> Vec<Found<'_>> {
        let asked = plain(asked);
        let exact: Vec<_> = self.all().filter(|found| found.name == asked).collect();
        if !exact.is_empty() || asked.is_empty() {
            return exact;
        }
        self.all().filter(|found| found.name.contains(&asked)).collect()
    }

    /// What is known of a reason without a text, by what its name begins with.
    pub fn subsystem(&self, asked: &str) -> Option<&Subsystem> {
        let asked = plain(asked);
        self.subsystem.iter().find(|subsystem| asked.starts_with(&subsystem.prefix))
    }
}

/// A name as it is listed.
pub fn plain(asked: &str) -> String {
    let asked = asked.trim().to_uppercase().replace('-', "_");
    let prefixes = ["SKB_DROP_REASON_", "SK_RST_REASON_"];
    prefixes.iter().find_map(|prefix| asked.strip_prefix(prefix)).unwrap_or(&asked).to_owned()
}

#[cfg(test)]
mod tests {
    use inspector_ebpf::drop_reason::{self, DROP_REASONS};

    use super::*;

    #[test]
    fn every_text_says_something_in_each_of_its_parts() {
        let advice = Advice::built_in();
        assert!(advice.all().count() > 200);
        for Found { name, text, .. } in advice.all() {
            for part in [&text.means, &text.normal, &text.check, &text.change] {
                assert!(part.ends_with(['.', '?']) && part.len() > 3, "{name}: {part:?}");
                assert!(part.len() < 420, "{name}: {} bytes are no short text", part.len());
            }
        }
    }

    /// What programs read of a drop reason and what people read cannot disagree.
    #[test]
    fn the_drop_reasons_that_have_a_text_are_those_of_the_table_with_its_class() {
        let advice = Advice::built_in();
        let texts: Vec<_> = advice.all().filter(|found| found.kind == Kind::Drop).collect();
        for Found { name, text, .. } in &texts {
            let row = drop_reason::find(name).unwrap_or_else(|| panic!("{name} is in no row of the table"));
            assert_eq!(format!("{:?}", text.class), format!("{:?}", row.class), "{name}");
        }
        assert_eq!(texts.len(), DROP_REASONS.len(), "a row has no text");
    }

    #[test]
    fn a_reason_that_only_older_kernels_have_keeps_its_text() {
        assert!(Advice::built_in().of(Kind::Drop, "SKB_BAD_GSO").is_some());
    }

    #[test]
    fn a_reason_is_found_in_any_case_with_its_prefix_and_by_a_part_of_its_name() {
        let advice = Advice::built_in();
        let kinds = |asked: &str| advice.find(asked).iter().map(|found| found.kind).collect::<Vec<_>>();
        assert_eq!(kinds("no_socket"), [Kind::Drop, Kind::Reset]);
        assert_eq!(advice.find("skb_drop_reason_netfilter_drop")[0].name, "NETFILTER_DROP");
        assert_eq!(advice.find("listen")[0].name, "TCP_LISTEN_OVERFLOW");
        assert_eq!(advice.find("no-such-reason"), []);
        let unknown = advice.subsystem("ovs_drop_of_the_future").expect("Open vSwitch");
        assert!(unknown.means.contains("Open vSwitch"));
    }

    #[test]
    fn an_operators_text_comes_before_the_built_in_one() {
        let own = "[[drop]]\nnames = ['NO_SOCKET']\nclass = 'benign'\nmeans = 'Ours.'\nnormal = 'x.'\n\
                   check = 'x.'\nchange = 'x.'\n";
        let advice = Advice::built_in().under(Advice::parse("own", own).expect("valid"));
        assert_eq!(advice.of(Kind::Drop, "NO_SOCKET").expect("a text").means, "Ours.");
        assert_ne!(advice.of(Kind::Reset, "NO_SOCKET").expect("a text").means, "Ours.");
        assert_eq!(advice.find("NO_SOCKET").len(), 2);
    }

    #[test]
    fn a_file_with_a_mistake_is_refused_with_its_name() {
        for wrong in ["[[drop]]\nname = 'x'", "[[drop]]\nnames = ['A']\nclass = 'bad'", "drop = 1"] {
            let error = Advice::parse("own.toml", wrong).expect_err(wrong).to_string();
            assert!(error.starts_with("own.toml: "), "{error}");
        }
        let text = "class = 'benign'\nmeans = ''\nnormal = ''\ncheck = ''\nchange = ''\n";
        let twice = format!("[[drop]]\nnames = ['A', 'A']\n{text}");
        assert!(Advice::parse("own.toml", &twice).expect_err("twice").to_string().contains("two texts"));
    }
}
