//! Times as people write and read them.

use std::time::{Duration, SystemTime};

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned, civil};

/// A moment that a flag names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// So long before now.
    Ago(Duration),
    /// Then.
    At(Timestamp),
}

impl Moment {
    /// Reads a duration back from now (`5m`), a time of today in the local time zone (`14:30`), or a
    /// time in RFC 3339.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(ago) = humantime::parse_duration(text) {
            return Ok(Self::Ago(ago));
        }
        let at = text.parse().ok().or_else(|| today(text.parse().ok()?));
        at.map(Self::At).ok_or_else(|| "not a time like 5m, 14:30 or 2026-11-30T14:30:00Z".to_owned())
    }

    /// As the event server reads it.
    pub fn query(&self) -> String {
        match self {
            Self::Ago(ago) => format!("{}ms", ago.as_millis()),
            Self::At(at) => format!("{at:.9}"),
        }
    }

    /// When it is.
    pub fn at(&self, now: SystemTime) -> SystemTime {
        match self {
            Self::Ago(ago) => now.checked_sub(*ago).unwrap_or(SystemTime::UNIX_EPOCH),
            Self::At(at) => (*at).into(),
        }
    }
}

fn today(time: civil::Time) -> Option<Timestamp> {
    Some(Zoned::now().date().to_datetime(time).to_zoned(TimeZone::system()).ok()?.timestamp())
}

/// How the time of an event is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum TimeForm {
    /// In the local time zone, with the date if it is not today's
    #[default]
    Local,
    /// In UTC, as RFC 3339
    Utc,
    /// Seconds since the first line
    Relative,
    /// Not at all
    None,
}

/// Writes the times of one run.
#[derive(Debug)]
pub struct Times {
    form: TimeForm,
    zone: TimeZone,
    first: Option<Timestamp>,
}

impl Times {
    /// Writes in a form.
    pub fn new(form: TimeForm) -> Self {
        Self { form, zone: TimeZone::system(), first: None }
    }

    /// The text for a time in RFC 3339, or `None` where none is shown. What is no time stays as it is.
    pub fn text(&mut self, rfc3339: &str) -> Option<String> {
        if self.form == TimeForm::None {
            return None;
        }
        let Ok(at) = rfc3339.parse::<Timestamp>() else { return Some(rfc3339.to_owned()) };
        let first = *self.first.get_or_insert(at);
        Some(match self.form {
            TimeForm::Utc => format!("{at:.3}"),
            TimeForm::Relative => format!("{:>+10.3}", at.duration_since(first).as_secs_f64()),
            TimeForm::Local | TimeForm::None => local(at, &self.zone),
        })
    }
}

fn local(at: Timestamp, zone: &TimeZone) -> String {
    let (at, today) = (at.to_zoned(zone.clone()), Timestamp::now().to_zoned(zone.clone()).date());
    let form = if at.date() == today { "%H:%M:%S%.3f" } else { "%Y-%m-%d %H:%M:%S%.3f" };
    at.strftime(form).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "2023-02-03T09:01:03.402118044Z";

    fn times(form: TimeForm) -> Times {
        Times { form, zone: TimeZone::fixed(jiff::tz::offset(2)), first: None }
    }

    #[test]
    fn a_time_is_shown_as_it_was_asked_for() {
        let text = |form| times(form).text(LINE);
        assert_eq!(text(TimeForm::Local).as_deref(), Some("2023-02-03 11:01:03.402"));
        assert_eq!(text(TimeForm::Utc).as_deref(), Some("2023-02-03T09:01:03.402Z"));
        assert_eq!(text(TimeForm::None), None);
        let mut relative = times(TimeForm::Relative);
        assert_eq!(relative.text(LINE).as_deref(), Some("    +0.000"));
        assert_eq!(relative.text("2023-02-03T09:02:04.5Z").as_deref(), Some("   +61.098"));
        let today = local(Timestamp::now(), &TimeZone::UTC);
        assert_eq!(today.len(), "11:01:03.402".len(), "{today}");
        assert_eq!(times(TimeForm::Local).text("nonsense").as_deref(), Some("nonsense"));
    }

    #[test]
    fn a_moment_is_a_duration_a_time_of_today_or_a_time() {
        let now = SystemTime::now();
        assert_eq!(Moment::parse("90s"), Ok(Moment::Ago(Duration::from_secs(90))));
        assert_eq!(Moment::parse("5m").map(|m| m.query()).as_deref(), Ok("300000ms"));
        let at = Moment::parse(LINE).expect("RFC 3339");
        assert_eq!((at.query().as_str(), at.at(now) < now), (LINE, true));
        let noon = Moment::parse("12:00").expect("a time of today").at(now);
        let apart = noon.duration_since(now).or_else(|_| now.duration_since(noon)).expect("either");
        assert!(apart <= Duration::from_secs(25 * 3600));
        assert_eq!(Moment::parse("14:03:27.481").map(|m| matches!(m, Moment::At(_))), Ok(true));
        for wrong in ["", "yesterday", "25:00", "5", "2026-13-01T00:00:00Z"] {
            assert!(Moment::parse(wrong).is_err(), "{wrong}");
        }
    }
}
