//! Points in time as RFC 3339 text with nanoseconds, in UTC: the log's `time` and the state's `created`. Pure but for `now`.

use std::time::{SystemTime, UNIX_EPOCH};

pub fn now() -> String {
    rfc3339(SystemTime::now())
}

/// A clock set before 1970 reads as 1970: a timestamp is no reason to fail.
pub fn rfc3339(at: SystemTime) -> String {
    let since_epoch = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let nanoseconds = since_epoch.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanoseconds:09}Z")
}

/// The Gregorian date that lies `days` after 1970-01-01. Years are counted from 1 March, so that the leap day is
/// the last one and a month's length follows from its number alone; eras are the calendar's 400-year cycles.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_FROM_0000_03_01_TO_1970_01_01: u64 = 719_468;
    const DAYS_PER_ERA: u64 = 146_097;
    let days = days + DAYS_FROM_0000_03_01_TO_1970_01_01;
    let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn text(seconds: u64, nanoseconds: u32) -> String {
        rfc3339(UNIX_EPOCH + Duration::new(seconds, nanoseconds))
    }

    #[test]
    fn known_moments_have_their_known_names() {
        for (seconds, nanoseconds, expected) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399, 999_999_999, "2000-02-28T23:59:59.999999999Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000000Z"),
            (951_868_800, 0, "2000-03-01T00:00:00.000000000Z"),
            (1_709_210_096, 1, "2024-02-29T12:34:56.000000001Z"),
            (1_735_689_599, 0, "2024-12-31T23:59:59.000000000Z"),
            (1_795_341_600, 123_456_789, "2026-11-22T10:00:00.123456789Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(text(seconds, nanoseconds), expected);
        }
    }

    #[test]
    fn the_day_before_march_is_the_leap_day_exactly_in_leap_years() {
        let mut first_of_march = 0;
        for year in 1970_u64..2500 {
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let start_of_year = first_of_march;
            first_of_march = start_of_year + 31 + 28 + u64::from(leap);
            assert_eq!(civil(start_of_year), (year, 1, 1));
            assert_eq!(civil(first_of_march - 1), (year, 2, if leap { 29 } else { 28 }));
            assert_eq!(civil(first_of_march), (year, 3, 1));
            first_of_march = start_of_year + if leap { 366 } else { 365 };
        }
    }

    #[test]
    fn a_clock_before_the_epoch_reads_as_the_epoch() {
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1)), text(0, 0));
    }
}
