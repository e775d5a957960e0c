//! Titles of findings. What a title counts is known only when every rule has added its share, so the
//! number is put in at the end.

/// A title, with a number of things in it or without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Title {
    /// What stands before the number; all of it if there is none.
    before: String,
    /// What is counted, in the singular.
    noun: Option<&'static str>,
    after: String,
}

impl Title {
    /// A title around a number: `Title::counting("no route to 10.0.0.1: ", "packet", " dropped")`.
    pub fn counting(before: impl Into<String>, noun: &'static str, after: impl Into<String>) -> Self {
        Self { before: before.into(), noun: Some(noun), after: after.into() }
    }

    /// The text, with that number.
    pub fn with_count(&self, count: u64) -> String {
        match self.noun {
            Some(noun) => format!("{}{}{}", self.before, plural(count, noun), self.after),
            None => self.before.clone(),
        }
    }
}

impl From<String> for Title {
    fn from(text: String) -> Self {
        Self { before: text, noun: None, after: String::new() }
    }
}

impl From<&str> for Title {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// `3 packets`, `1 packet`, `2 queries`.
pub fn plural(count: u64, noun: &str) -> String {
    match (count, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        _ => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_has_its_number_when_all_is_counted() {
        let title = Title::counting("no route: ", "query", " dropped");
        assert_eq!(title.with_count(1), "no route: 1 query dropped");
        assert_eq!(title.with_count(2), "no route: 2 queries dropped");
        assert_eq!(Title::from("no number").with_count(3), "no number");
    }
}
