//! `WWW-Authenticate`: what a registry wants to see (RFC 9110, 11.6.1).

use ureq::http::{HeaderMap, header};

/// One way to authenticate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token from another server.
    Bearer {
        /// Where to get it.
        realm: String,
        /// For whom.
        service: Option<String>,
    },
}

/// The best of what a registry offers.
pub fn of(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    for value in headers.get_all(header::WWW_AUTHENTICATE) {
        for (scheme, parameters) in parse(value.to_str().unwrap_or_default()) {
            let parameter = |name: &str| {
                parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = parameter("realm")
            {
                return Some(Challenge::Bearer { realm, service: parameter("service") });
            }
            if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

/// Schemes with their parameters. A word without `=` begins a scheme.
fn parse(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut all: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = text.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let end = rest.find(['=', ' ', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after.trim_start_matches(' ');
        match rest.strip_prefix('=') {
            Some(value) => {
                let (value, after) = value_of(value.trim_start_matches(' '));
                if let Some((_, parameters)) = all.last_mut() {
                    parameters.push((word.to_owned(), value));
                }
                rest = after;
            }
            None => all.push((word.to_owned(), Vec::new())),
        }
        rest = rest.trim_start_matches([' ', ',']);
    }
    all
}

/// A token or quoted string, and what follows it.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        let (value, after) = text.split_at(end);
        return (value.to_owned(), after);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::WWW_AUTHENTICATE, value.parse().unwrap());
        }
        of(&headers)
    }

    #[test]
    fn challenges_of_real_registries() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned) })
        };
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="a:b:pull,push""#;
        assert_eq!(challenge(&[hub]), bearer("https://auth.docker.io/token", Some("registry.docker.io")));
        assert_eq!(
            challenge(&["Basic realm=\"x, y\"", "bearer Realm = https://t/x , error=e"]),
            bearer("https://t/x", None)
        );
        assert_eq!(challenge(&["Basic realm=\"Registry \\\"1\\\" = x\", charset=\"UTF-8\""]), Some(Challenge::Basic));
        assert_eq!(challenge(&["Basic, Bearer realm=\"https://t\""]), bearer("https://t", None));
        assert_eq!(challenge(&["Negotiate"]), None);
        assert_eq!(challenge(&["=,=\"", "Bearer"]), None);
        assert_eq!(challenge(&[]), None);
    }
}
