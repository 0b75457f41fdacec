//! `GET /v1/audit`: pages of the records that a client may see.

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{LINK, VARY};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;

use super::query::{bad_value, number, read};
use super::reply::{self, Body, JSON, JSON_LINES};
use super::{accept, evidence};
use crate::audit::{Asked, Line, Log, MAX_PAGE, Order, Page, View};
use crate::reason::Refusal;

/// Beside those of a filter.
const NAMES: [&str; 3] = ["from", "limit", "order"];

/// Records on a page where nobody says.
const DEFAULT_LIMIT: usize = 100;

/// As OpenAI's API has its lists, but that there is a number to go on with.
#[derive(Serialize)]
struct Listed<'a> {
    object: &'static str,
    data: Vec<&'a RawValue>,
    has_more: bool,
    next: Option<u64>,
}

/// What a query asks for.
fn asked(query: &str) -> Result<Asked, Refusal> {
    let ([from, limit, order], filter) = read(query, NAMES)?;
    let limit = match number("limit", limit)? {
        None => DEFAULT_LIMIT,
        Some(limit) => usize::try_from(limit)
            .ok()
            .filter(|limit| (1..=MAX_PAGE).contains(limit))
            .ok_or_else(|| bad_value("limit", &format!("1 to {MAX_PAGE}")))?,
    };
    let order = match order.as_deref() {
        None | Some("asc") => Order::OldestFirst,
        Some("desc") => Order::NewestFirst,
        Some(_) => return Err(bad_value("order", "asc or desc")),
    };
    Ok(Asked {
        from: number("from", from)?,
        limit,
        order,
        filter,
    })
}

/// The page that a request asks for, in the form that it wants.
pub(super) async fn answer(
    log: Log,
    view: View,
    request: &Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let query = request.uri().query().unwrap_or_default();
    let asked = asked(query)?;
    let page = evidence::blocking(move || log.page(&view, &asked).map_err(evidence::failed));
    let page = page.await?;
    let mut response = match accept::wants(request.headers(), JSON_LINES, JSON) {
        true => reply::full(StatusCode::OK, JSON_LINES, lines(&page.lines)),
        false => listed(&page),
    };
    let headers = response.headers_mut();
    if let Some(next) = page.next.filter(|_| page.more) {
        // RFC 8288.
        let link = format!("</v1/audit?{}from={next}>; rel=\"next\"", rest(query));
        reply::set(headers, LINK, &link);
    }
    reply::set(headers, VARY, "accept");
    Ok(response)
}

/// The query without the index that it begins at.
fn rest(query: &str) -> String {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.filter(|pair| pair.split('=').next() != Some("from"));
    pairs.map(|pair| format!("{pair}&")).collect()
}

fn lines(lines: &[Line]) -> Bytes {
    let mut bytes = Vec::new();
    for line in lines {
        bytes.extend_from_slice(&line.json);
        bytes.push(b'\n');
    }
    bytes.into()
}

fn listed(page: &Page) -> Response<Body> {
    // What isn't JSON is no record of any release; a list of others can't hold it.
    let records = page.lines.iter();
    let data = records.filter_map(|line| serde_json::from_slice(&line.json).ok());
    let listed = Listed {
        object: "list",
        data: data.collect(),
        has_more: page.more,
        next: page.next,
    };
    reply::json(StatusCode::OK, &listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_asks_for_what_it_says() {
        let plain = asked("").unwrap();
        assert_eq!((plain.from, plain.limit), (None, DEFAULT_LIMIT));
        assert_eq!(plain.order, Order::OldestFirst);
        assert!(plain.filter.is_empty());
        let all = asked("from=7&limit=256&order=desc&where=a%3D1&where=b.c%3Dx&realm=dev").unwrap();
        assert_eq!((all.from, all.limit), (Some(7), 256));
        assert_eq!(all.order, Order::NewestFirst);
        let pairs = all.filter.pairs();
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        assert_eq!(
            pairs,
            [("realm", "dev"), ("where", "a=1"), ("where", "b.c=x")]
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (query, param, words) in [
            ("limit=0", "limit", "1 to 256"),
            ("limit=257", "limit", "1 to 256"),
            ("limit=many", "limit", "a number"),
            ("from=-1", "from", "a number"),
            ("order=up", "order", "asc or desc"),
            ("last=5", "last", "known are from, limit, order, since"),
            ("follow=true", "follow", "`follow` is unknown"),
            ("clinet=a", "clinet", "did you mean `client`?"),
            ("client=a&client=b", "client", "there once"),
            ("event=acces", "event", "known are access, finish"),
            ("until=soon", "until", "write a time in UTC"),
            ("where=a", "where", "NAME=VALUE"),
            ("realm=%ff", "realm", "percent-encoded"),
        ] {
            let refusal = asked(query).unwrap_err();
            assert!(refusal.message().contains(words), "{query}: {refusal}");
            assert_eq!(refusal.param.as_deref(), Some(param), "{query}");
        }
        let nine = "where=a%3D1&".repeat(9);
        assert!(
            asked(&nine)
                .unwrap_err()
                .message()
                .contains("no more than 8")
        );
    }

    #[test]
    fn the_next_page_asks_the_same() {
        assert_eq!(rest(""), "");
        assert_eq!(rest("from=7"), "");
        assert_eq!(rest("client=a%20b&from=7&limit=3"), "client=a%20b&limit=3&");
    }
}
