//! What a table of operations has at a path: perhaps several, by their methods.

use percent_encoding::percent_decode_str;

/// All that is at one path.
#[derive(Debug)]
pub struct Place<T> {
    /// As the table has it; metrics go by it.
    pub path: &'static str,
    /// What stands for the `{…}`, decoded; empty where the path has none.
    pub named: String,
    rows: Vec<(&'static str, T)>,
}

impl<T> Place<T> {
    /// Of `rows`, each with its method and its path. Where several paths fit, it is the one that
    /// leaves the least to its `{…}`.
    pub fn find(
        rows: impl IntoIterator<Item = (&'static str, &'static str, T)>,
        path: &str,
    ) -> Option<Place<T>> {
        let mut found: Option<Place<T>> = None;
        for (method, pattern, row) in rows {
            let Some(named) = matched(pattern, path) else {
                continue;
            };
            match &mut found {
                Some(place) if place.path == pattern => place.rows.push((method, row)),
                Some(place) if place.named.len() <= named.len() => {}
                _ => {
                    found = Some(Place {
                        path: pattern,
                        named,
                        rows: vec![(method, row)],
                    });
                }
            }
        }
        found
    }

    /// What `method` asks for here, `HEAD` the same as `GET`. `Err`: the methods that are taken.
    pub fn take(self, method: &str) -> Result<T, String> {
        let answers = |of: &str| of == method || (of, method) == ("GET", "HEAD");
        let methods = self.rows.iter().map(|(of, _)| match *of {
            "GET" => "GET, HEAD",
            other => other,
        });
        let methods: Vec<&str> = methods.collect();
        let allow = methods.join(", ");
        let mut rows = self.rows.into_iter();
        let row = rows.find_map(|(of, row)| answers(of).then_some(row));
        row.ok_or(allow)
    }
}

/// What stands for the pattern's `{…}`: one segment, or at the end all that is left. Nothing where
/// it has none.
fn matched(pattern: &str, path: &str) -> Option<String> {
    let Some((before, (_, after))) = pattern
        .split_once('{')
        .and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    else {
        return (pattern == path).then(String::new);
    };
    let named = path.strip_prefix(before)?.strip_suffix(after)?;
    let whole = after.is_empty() || !named.contains('/');
    decoded(named).filter(|named| whole && !named.is_empty())
}

/// With its percent-encoding undone (RFC 3986 section 2.1).
fn decoded(text: &str) -> Option<String> {
    let is_code = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit);
    let mut codes = text.as_bytes().split(|byte| *byte == b'%').skip(1);
    if !codes.all(|code| code.get(..2).is_some_and(is_code)) {
        return None;
    }
    let decoded = percent_decode_str(text).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths with several methods, and paths within others.
    const ROWS: &[(&str, &str)] = &[
        ("POST", "/v1/files"),
        ("GET", "/v1/files"),
        ("GET", "/v1/files/{id}"),
        ("DELETE", "/v1/files/{id}"),
        ("GET", "/v1/files/{id}/content"),
        ("POST", "/v1/fine_tuning/jobs"),
        ("GET", "/v1/fine_tuning/jobs"),
        ("GET", "/v1/fine_tuning/jobs/{id}"),
        ("POST", "/v1/fine_tuning/jobs/{id}/cancel"),
        ("GET", "/v1/fine_tuning/jobs/{id}/events"),
        ("GET", "/v1/prompts/{id}"),
        ("PUT", "/v1/prompts/{id}"),
        ("DELETE", "/v1/prompts/{id}"),
        ("PUT", "/keys/{id}"),
        ("POST", "/keys/explain"),
    ];

    fn at(path: &str) -> Option<Place<(&'static str, &'static str)>> {
        Place::find(ROWS.iter().map(|row| (row.0, row.1, *row)), path)
    }

    #[test]
    fn a_path_means_what_its_methods_say() {
        for row in ROWS {
            let place = at(&row.1.replace("{id}", "a")).unwrap();
            assert_eq!(place.path, row.1);
            assert_eq!(place.take(row.0), Ok(*row));
        }
    }

    #[test]
    fn head_is_taken_where_get_is() {
        let taken = |path| at(path).unwrap().take("HEAD");
        assert_eq!(taken("/v1/files"), Ok(("GET", "/v1/files")));
        assert_eq!(taken("/v1/files/a"), Ok(("GET", "/v1/files/{id}")));
        assert_eq!(taken("/keys/explain"), Err("POST".to_owned()));
    }

    #[test]
    fn another_method_is_told_those_that_are_taken() {
        for (path, allow) in [
            ("/v1/files", "POST, GET, HEAD"),
            ("/v1/files/a", "GET, HEAD, DELETE"),
            ("/v1/files/a/content", "GET, HEAD"),
            ("/v1/fine_tuning/jobs/a/cancel", "POST"),
            ("/v1/prompts/a", "GET, HEAD, PUT, DELETE"),
        ] {
            for method in ["PATCH", "OPTIONS", "get", ""] {
                assert_eq!(at(path).unwrap().take(method), Err(allow.to_owned()));
            }
        }
    }

    #[test]
    fn the_name_is_the_segment_or_all_that_is_left() {
        for (path, pattern, named) in [
            ("/v1/files/a%2Fb/content", "/v1/files/{id}/content", "a/b"),
            ("/v1/files/a/b/content", "/v1/files/{id}", "a/b/content"),
            ("/v1/files/content", "/v1/files/{id}", "content"),
            ("/keys/explain", "/keys/explain", ""),
            ("/keys/explained", "/keys/{id}", "explained"),
        ] {
            let place = at(path).unwrap();
            assert_eq!((place.path, place.named.as_str()), (pattern, named));
        }
        for nowhere in ["/", "/v1", "/v1/files/", "/v1/files/%zz"] {
            assert!(at(nowhere).is_none(), "{nowhere}");
        }
    }

    #[test]
    fn percent_encoding() {
        assert_eq!(decoded("dev%2F1%2b%C3%A9").as_deref(), Some("dev/1+é"));
        for bad in ["%", "%2", "%zz", "%+1", "%ff"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }
}
