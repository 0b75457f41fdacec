//! Which form of an answer a client wants: `Accept` (RFC 9110 section 12.5.1).

use hyper::header::{ACCEPT, HeaderMap, VARY};
use hyper::{Response, StatusCode};

use super::reply::{self, Body};
use crate::telemetry::Format;

/// The form that a request's headers like best. The first one is for whoever says nothing, or likes
/// several equally; and for whoever wants neither, who can but try.
pub(super) fn format(headers: &HeaderMap) -> Format {
    let ranges = ranges(headers);
    let of = |format: Format| quality(format.media_type(), &ranges);
    let [mut best, ref others @ ..] = Format::ALL;
    for other in others {
        if of(*other) > of(best) {
            best = *other;
        }
    }
    best
}

/// Whether a request's headers like the media type `one` better than `usual`.
pub(super) fn wants(headers: &HeaderMap, one: &str, usual: &str) -> bool {
    let ranges = ranges(headers);
    quality(one, &ranges) > quality(usual, &ranges)
}

fn ranges(headers: &HeaderMap) -> Vec<Range<'_>> {
    let values = headers.get_all(ACCEPT).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| parts(value, ','))
        .filter_map(Range::parse)
        .collect()
}

pub(super) fn metrics(format: Format, text: String) -> Response<Body> {
    let mut response = reply::full(StatusCode::OK, format.media_type(), text);
    reply::set(response.headers_mut(), VARY, ACCEPT.as_str());
    response
}

/// A media range with its weight.
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    version: Option<&'a str>,
    /// In thousandths.
    quality: u16,
}

impl<'a> Range<'a> {
    /// None for what is no range.
    fn parse(text: &'a str) -> Option<Range<'a>> {
        let mut members = parts(text, ';');
        let (kind, subtype) = members.next()?.split_once('/')?;
        let mut range = Range {
            kind,
            subtype,
            version: None,
            quality: 1000,
        };
        for (name, value) in members.filter_map(|member| member.split_once('=')) {
            if name.eq_ignore_ascii_case("version") {
                range.version = Some(value.trim_matches('"'));
            } else if name.eq_ignore_ascii_case("q") {
                let weight: f32 = value.parse().ok()?;
                range.quality = (0.0..=1.0).contains(&weight).then_some(weight * 1000.0)? as u16;
            }
        }
        Some(range)
    }

    /// How closely it names this type: the more closely, the more it counts.
    fn names(&self, offered: &Range<'_>) -> Option<u8> {
        let same = |one: &str, other: &str| one.eq_ignore_ascii_case(other);
        match (self.kind, self.subtype, self.version) {
            ("*", "*", _) => Some(0),
            (kind, "*", _) => same(kind, offered.kind).then_some(1),
            (kind, subtype, _) if !same(kind, offered.kind) || !same(subtype, offered.subtype) => {
                None
            }
            (_, _, None) => Some(2),
            (_, _, version) => (version == offered.version).then_some(3),
        }
    }
}

fn quality(media_type: &str, ranges: &[Range<'_>]) -> u16 {
    let Some(offered) = Range::parse(media_type) else {
        return 0;
    };
    let named = ranges
        .iter()
        .filter_map(|range| Some((range.names(&offered)?, range.quality)));
    named.max().map_or(0, |(_, quality)| quality)
}

/// Divided where it isn't quoted.
fn parts(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let divides = move |c| {
        quoted ^= c == '"';
        c == separator && !quoted
    };
    text.split(divides).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(values: &[&str]) -> Format {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT, value.parse().unwrap());
        }
        format(&headers)
    }

    #[test]
    fn the_form_is_the_one_that_is_liked_best() {
        for prometheus in [
            // 2.42 and 3.5 as they send it.
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
             version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;\
             escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
        ] {
            assert_eq!(asked(&[prometheus]), Format::OpenMetrics, "{prometheus}");
        }
        for open in [
            "*/*",
            "application/*",
            "text/plain;q=0.5, application/openmetrics-text",
            "text/plain, application/openmetrics-text",
            "text/plain;version=1.0.0",
            "text/plain;version=\"0.0.4\";q=0",
            "text/*;q=0.2, */*;q=0.3",
            "application/json",
            "text/plain;q=2",
            "text/plain;q=nan",
            "nonsense,;,/",
            "x/y;z=\",text/plain,\"",
        ] {
            assert_eq!(asked(&[open]), Format::OpenMetrics, "{open}");
        }
        assert_eq!(asked(&[]), Format::OpenMetrics);
        for text in [
            "text/plain",
            "Text/Plain; Version=\"0.0.4\"; Q=0.1",
            "text/*",
            "text/plain;charset=utf-8",
            "*/*;q=0.1, text/plain;q=0.2",
            "application/openmetrics-text;q=0.2, text/plain;q=0.201",
            "application/openmetrics-text;version=0.0.1, text/plain;version=0.0.4;q=0.5",
            "application/openmetrics-text;q=0, */*",
            "text/plain;q=0, text/plain;version=0.0.4;q=0.1, application/json",
        ] {
            assert_eq!(asked(&[text]), Format::Text, "{text}");
        }
        let several = ["application/openmetrics-text;q=0.1", "text/plain;q=0.9"];
        assert_eq!(asked(&several), Format::Text);
    }
}
