//! "Did you mean": the name that is meant by one that does not exist.

/// Names that are less alike than this (0 to 1) are no misspellings of each other.
const ALIKE: f64 = 0.8;

/// The name that is most like the one that was given, if any is.
pub fn nearest<'a>(asked: &str, known: &'a [String]) -> Option<&'a str> {
    let asked = asked.to_lowercase();
    let rated = known.iter().map(|name| (strsim::jaro_winkler(&asked, &name.to_lowercase()), name));
    let best = rated.filter(|(alike, _)| *alike >= ALIKE).max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.map(|(_, name)| name.as_str())
}

/// ` (did you mean NAME?)`, or nothing.
pub fn hint(asked: &str, known: &[String]) -> String {
    nearest(asked, known).map_or_else(String::new, |name| format!(" (did you mean {name}?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelling_is_understood_and_another_word_is_not() {
        let known = ["PACKETLOSS", "TCPRETRANS", "DNS_TIMEOUT"].map(str::to_owned);
        assert_eq!(nearest("packetlos", &known), Some("PACKETLOSS"));
        assert_eq!(nearest("DNSTIMEOUT", &known), Some("DNS_TIMEOUT"));
        assert_eq!(nearest("NOSUCH", &known), None);
        assert_eq!(hint("TCPRETRAN", &known), " (did you mean TCPRETRANS?)");
    }
}
