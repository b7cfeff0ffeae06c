//! How what weir remembers is written down for another process: times, and what a text that came from elsewhere may
//! say.
//!
//! An `Instant` means nothing in another process. So a time is written as a [`Lapse`]: how long ago it was, or how long
//! it is yet, at the moment of writing. Whoever reads it names that moment on its own clock.

use std::{
    fmt,
    time::{Duration, Instant},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::value::RawValue;

/// What is longer counts as this. Nothing that weir remembers is of use for so long.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// A time, seen from the moment of writing; in JSON a number of microseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Lapse(Duration);

impl Lapse {
    /// How long ago `at` was.
    pub fn since(at: Instant, now: Instant) -> Self {
        now.saturating_duration_since(at).into()
    }

    /// How long it is until `at`; nothing if that is over.
    pub fn until(at: Instant, now: Instant) -> Self {
        at.saturating_duration_since(now).into()
    }

    /// How long it is until `at`; `None` if that is over, or never comes.
    pub fn until_any(at: Option<Instant>, now: Instant) -> Option<Self> {
        at.filter(|at| now < *at).map(|at| Self::until(at, now))
    }

    /// So long before `now`.
    pub fn before(self, now: Instant) -> Instant {
        now.checked_sub(self.0).unwrap_or(now)
    }

    /// So long after `now`.
    pub fn after(self, now: Instant) -> Instant {
        now + self.0
    }

    /// The time as such.
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl From<Duration> for Lapse {
    fn from(time: Duration) -> Self {
        Self(time.min(LONGEST))
    }
}

impl fmt::Debug for Lapse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Lapse {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // No more than LONGEST, which has 45 bits.
        serializer.serialize_u64(self.0.as_micros() as u64)
    }
}

impl<'de> Deserialize<'de> for Lapse {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer).map(|micros| Duration::from_micros(micros).into())
    }
}

/// What is understood of a field, else its default: another build of weir may write it in another way, and the other
/// fields are as good without it.
///
/// # Errors
/// The whole text is no JSON.
pub fn or_default<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(deserializer: D) -> Result<T, D::Error> {
    let text = Box::<RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(text.get()).unwrap_or_default())
}

/// A number that is at least `least` and at most `most`, also where `value` is none of them.
pub fn within(value: f64, least: f64, most: f64) -> f64 {
    if value.is_nan() { least } else { value.clamp(least, most) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_the_same_on_another_clock() {
        let (here, there) = (Instant::now(), Instant::now() + Duration::from_secs(1000));
        let (past, future) = (here - Duration::from_millis(1500), here + Duration::from_secs(30));
        let text = serde_json::to_string(&[Lapse::since(past, here), Lapse::until(future, here)]).unwrap();
        assert_eq!(text, "[1500000,30000000]");
        let [ago, yet]: [Lapse; 2] = serde_json::from_str(&text).unwrap();
        assert_eq!((there - ago.before(there), yet.after(there) - there), (here - past, future - here));
        assert_eq!((Lapse::until_any(Some(past), here), Lapse::until_any(None, here)), (None, None));
        assert_eq!(Lapse::until(past, here), Lapse::default());
    }

    #[test]
    fn what_is_no_time_is_refused_and_what_is_too_long_is_cut() {
        let read = |text: &str| serde_json::from_str::<Lapse>(text).ok().map(Lapse::duration);
        assert_eq!(read("18446744073709551615"), Some(LONGEST));
        assert_eq!([read("-1"), read("1.5"), read("null"), read("1e30"), read("\"1\"")], [None; 5]);
        let now = Instant::now();
        let _ = (Lapse(LONGEST).before(now), Lapse(LONGEST).after(now));
        assert_eq!([f64::NAN, f64::INFINITY, -1.0, 0.5].map(|n| within(n, 0.0, 1.0)), [0.0, 1.0, 0.0, 0.5]);
    }

    #[test]
    fn a_field_that_is_not_understood_spoils_no_other() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Two {
            #[serde(default, deserialize_with = "or_default")]
            one: Vec<u32>,
            #[serde(default, deserialize_with = "or_default")]
            other: u32,
        }
        let read = |text| serde_json::from_str::<Two>(text).unwrap();
        assert_eq!(read(r#"{"one":[1,-2],"other":3,"third":{}}"#), Two { one: vec![], other: 3 });
        assert_eq!(read(r#"{"other":{"now":"a struct"}}"#), Two { one: vec![], other: 0 });
    }
}
