//! What servers say about when to come again, and how much is left.

use std::time::{Duration, SystemTime};
use ureq::http::HeaderMap;

/// The pause that a server asks for, in seconds or until a date.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(http_date(text)?.duration_since(SystemTime::now()).unwrap_or_default()),
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that servers may still write (RFC 9110, 5.6.7).
fn http_date(text: &str) -> Option<SystemTime> {
    let mut parts = text.split_once(", ")?.1.split_ascii_whitespace();
    let day: u64 = parts.next()?.parse().ok()?;
    let month = parts.next()?;
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|name| *name == month)? as u64 + 1;
    let year: u64 = parts.next()?.parse().ok().filter(|year| (1970..10_000).contains(year))?;
    let mut clock = parts.next()?.split(':').map(|part| part.parse::<u64>().ok().filter(|part| *part < 62));
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    // Days since the epoch, with years beginning in March (the civil calendar's usual formula).
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (shifted / 400, shifted % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.clamp(1, 31) - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400 + hour * 3600 + minute * 60 + second))
}

/// The limit and the wait, each with the punctuation that it needs in a sentence.
pub fn explain(headers: &HeaderMap) -> (String, String) {
    // `100;w=21600`: so many in so many seconds.
    let number = |name| -> Option<(u64, Option<u64>)> {
        let text = headers.get(name)?.to_str().ok()?;
        let (count, window) = text.split_once(';').unwrap_or((text, ""));
        Some((count.trim().parse().ok()?, window.trim().strip_prefix("w=").and_then(|seconds| seconds.parse().ok())))
    };
    let mut limit = String::new();
    if let Some((count, window)) = number("ratelimit-limit") {
        let window = window.map(|seconds| format!(" in {}", span(seconds))).unwrap_or_default();
        let left = number("ratelimit-remaining").map(|(left, _)| format!(", {left} left")).unwrap_or_default();
        limit = format!(", {count}{window}{left}");
    }
    let wait = retry_after(headers).map(|wait| format!(" {}", span(wait.as_secs()))).unwrap_or_default();
    (limit, wait)
}

fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_rfc_9110_writes_them() {
        let time = |text| http_date(text).map(|time| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
        assert_eq!(time("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(time("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
        assert_eq!(time("soon"), None);
        assert_eq!(time("Sun, 06 Nov 99999999999999999999 08:49:37 GMT"), None);
    }

    #[test]
    fn limits_are_put_into_words() {
        let mut headers = HeaderMap::new();
        headers.insert("ratelimit-limit", "100;w=21600".parse().unwrap());
        headers.insert("ratelimit-remaining", "0;w=21600".parse().unwrap());
        headers.insert("retry-after", "600".parse().unwrap());
        assert_eq!(explain(&headers), (", 100 in 6 h, 0 left".to_owned(), " 10 min".to_owned()));
        assert_eq!(explain(&HeaderMap::new()), (String::new(), String::new()));
    }
}
