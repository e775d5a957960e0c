//! Commands that findings suggest. A person pastes them into a shell, and the names and addresses in
//! them were chosen by others: whatever is put into a command is quoted here, and nowhere else.

use std::net::IpAddr;

/// Punctuation that means nothing to a shell, wherever it stands in a word.
const PLAIN: &str = "-_./:@%+,";

/// What is known for the gaps of a command.
#[derive(Debug, Default)]
pub struct Words {
    /// What leads into the entity's namespace, made of [`word`]s.
    pub inside: String,
    /// Name and value of each gap.
    pub values: Vec<(&'static str, String)>,
}

impl Words {
    /// The command with `{in}` and each `{name}` filled in. What is not known stays a word in capitals
    /// for the reader to replace; braces around anything but a name are the command's own.
    pub fn fill(&self, command: &str) -> String {
        let mut filled = String::with_capacity(command.len());
        let mut rest = command;
        while let Some((before, after)) = rest.split_once('{') {
            filled.push_str(before);
            match after.split_once('}') {
                Some((name, after)) if is_name(name) => {
                    filled.push_str(&self.gap(name));
                    rest = after;
                }
                _ => {
                    filled.push('{');
                    rest = after;
                }
            }
        }
        filled + rest
    }

    fn gap(&self, name: &str) -> String {
        let value = |name| self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| value);
        let is_v6 =
            |value: &String| value.parse().is_ok_and(|ip: IpAddr| ip.is_ipv6()) || value.contains('%');
        match name {
            "in" => self.inside.clone(),
            // ARP is IPv4's; a ping makes IPv6 ask for its neighbour.
            "ask" if value("address").is_some_and(is_v6) => "ping -6".to_owned(),
            "ask" => "arping".to_owned(),
            "family" if value("destination").is_some_and(is_v6) => "-6".to_owned(),
            "family" => "-4".to_owned(),
            name => value(name).map_or_else(|| name.to_ascii_uppercase(), |value| word(value)),
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase())
}

/// One word of a POSIX shell that stands for this text, whatever is in it.
pub fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || PLAIN.contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn with(values: &[(&'static str, &str)], command: &str) -> String {
        let values = values.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Words { inside: format!("ip netns exec {} ", word("op;touch x$(id)")), values }.fill(command)
    }

    #[test]
    fn no_name_of_others_is_more_than_one_word_to_a_shell() {
        for text in ["op;touch x$(id)", "it's", "", "a b", "`id`", "$HOME", "=ls", "~", "*", "a\nb", "ä"] {
            let command = format!("printf %s. {}", word(text));
            let shown = Command::new("sh").args(["-c", &command]).output().expect("a shell runs");
            assert_eq!(String::from_utf8(shown.stdout).expect("text"), format!("{text}."));
        }
        assert_eq!(word("fe80::1%eth0"), "fe80::1%eth0");
    }

    #[test]
    fn gaps_are_filled_with_what_is_known_and_named_otherwise() {
        let to = [("server", "10.0.0.1")];
        assert_eq!(
            with(&to, "{in}dig @{server} {name}"),
            "ip netns exec 'op;touch x$(id)' dig @10.0.0.1 NAME"
        );
        assert_eq!(with(&[], "awk '{print $1}' {}"), "awk '{print $1}' {}");
        // A value is never taken for a gap.
        assert_eq!(with(&[("a", "{b}"), ("b", "'")], "{a}"), "'{b}'");
    }

    #[test]
    fn each_family_is_asked_with_its_own_tool() {
        assert_eq!(with(&[("address", "10.0.0.1")], "{ask} {address}"), "arping 10.0.0.1");
        assert_eq!(with(&[("address", "fd00::1")], "{ask} {address}"), "ping -6 fd00::1");
        assert_eq!(with(&[("destination", "fd00::1")], "ip {family} route"), "ip -6 route");
    }
}
