//! A window of one day: how long equal operations are one, without a date in their key.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A day is never longer than this, whatever its time zone does to the clocks.
const LONGEST: Duration = Duration::from_secs(48 * 3600);

/// Equal operations are one until midnight in a named time zone, and for at least an *overlap* after the
/// first one ended.
///
/// No date is part of the key. A key with a date changes at midnight: a try at 23:59:59 and its retry at
/// 00:00:01 both execute. Here the record of the first one is still there, and is replayed; it is
/// forgotten at midnight, or when the overlap is over, whichever is later.
///
/// Hand it to [`Guard::daily`](crate::Guard::daily). The TTL is made when an execution begins and counts
/// from its end, so a record outlives midnight by as long as its execution took. An *unknown* outcome does
/// not end at midnight: see [`Guard::unknown_ttl`](crate::Guard::unknown_ttl).
#[derive(Clone, Debug)]
pub struct Daily(Arc<DailyRules>);

#[derive(Clone, Debug)]
struct DailyRules {
    zone: TimeZone,
    overlap: Duration,
}

/// There is no time zone of this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownZone(String);

impl fmt::Display for UnknownZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no time zone of the name {:?}", self.0)
    }
}

impl std::error::Error for UnknownZone {}

impl Daily {
    /// Days of a time zone of the IANA database, such as `Europe/Berlin`, with an overlap of an hour.
    ///
    /// # Errors
    ///
    /// [`UnknownZone`] if neither the system nor this program knows it.
    ///
    /// ```
    /// use idempotency::keys::Daily;
    /// use std::time::Duration;
    ///
    /// let window = Daily::in_zone("Europe/Berlin")?.overlap(Duration::from_secs(2 * 3600));
    /// assert!(Daily::in_zone("Europe/Atlantis").is_err());
    /// # Ok::<(), idempotency::keys::UnknownZone>(())
    /// ```
    pub fn in_zone(name: &str) -> Result<Daily, UnknownZone> {
        let zone = TimeZone::get(name).map_err(|_| UnknownZone(name.to_owned()))?;
        let overlap = Duration::from_secs(3600);
        Ok(Daily(Arc::new(DailyRules { zone, overlap })))
    }

    /// How long a record is kept after its execution ended, at least, also past midnight: longer than any
    /// client goes on retrying.
    pub fn overlap(self, overlap: Duration) -> Daily {
        let zone = self.0.zone.clone();
        Daily(Arc::new(DailyRules { zone, overlap }))
    }

    /// The TTL of a record whose execution begins at this moment.
    pub fn ttl_at(&self, now: SystemTime) -> Duration {
        let midnight = self.until_midnight(now).unwrap_or(LONGEST);
        midnight.max(self.0.overlap)
    }

    /// The local date of this moment, as `2026-11-29`; for [`Business::on`](crate::keys::Business::on).
    pub fn date_at(&self, now: SystemTime) -> String {
        let zoned = self.zoned(now);
        zoned.map_or_else(String::new, |zoned| zoned.date().to_string())
    }

    /// The local date of now.
    pub fn today(&self) -> String {
        self.date_at(SystemTime::now())
    }

    fn zoned(&self, now: SystemTime) -> Option<ZonedDateTime> {
        let now = Timestamp::try_from(now).ok()?;
        Some(now.to_zoned_datetime(self.0.zone.clone()))
    }

    /// The first moment of tomorrow may be another one than 00:00: some zones put their clocks forward at
    /// midnight.
    fn until_midnight(&self, now: SystemTime) -> Option<Duration> {
        let zoned = self.zoned(now)?;
        let midnight = zoned.tomorrow().ok()?.start_of_day().ok()?;
        Duration::try_from(zoned.duration_until(&midnight)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> SystemTime {
        time.parse::<Timestamp>().unwrap().try_into().unwrap()
    }

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(n * 60)
    }

    #[test]
    fn until_local_midnight_and_at_least_the_overlap() {
        for (zone, now, left) in [
            // 12:00 in Berlin, in winter and in summer.
            ("Europe/Berlin", "2026-01-15T11:00:00Z", 12 * 60),
            ("Europe/Berlin", "2026-07-15T10:00:00Z", 12 * 60),
            // The days on which the clocks change have 23 and 25 hours.
            ("Europe/Berlin", "2026-03-28T23:00:00Z", 23 * 60),
            ("Europe/Berlin", "2026-10-24T22:00:00Z", 25 * 60),
            // In Beirut, 2026-03-29 begins at 01:00.
            ("Asia/Beirut", "2026-03-28T21:00:00Z", 60),
            ("Asia/Kolkata", "2026-01-15T12:30:00Z", 6 * 60),
            ("UTC", "2026-12-31T00:00:00Z", 24 * 60),
        ] {
            let window = Daily::in_zone(zone).unwrap().overlap(minutes(1));
            assert_eq!(window.ttl_at(at(now)), minutes(left), "{zone} {now}");
        }
        let window = Daily::in_zone("UTC").unwrap().overlap(minutes(60));
        assert_eq!(window.ttl_at(at("2026-12-31T23:59:59Z")), minutes(60));
        assert_eq!(window.ttl_at(at("2026-12-31T22:59:00Z")), minutes(61));
    }

    #[test]
    fn the_date_is_the_local_one() {
        let window = Daily::in_zone("Pacific/Auckland").unwrap();
        assert_eq!(window.date_at(at("2026-11-29T12:00:00Z")), "2026-11-30");
        assert_eq!(window.date_at(at("2026-11-29T10:00:00Z")), "2026-11-29");
    }
}
