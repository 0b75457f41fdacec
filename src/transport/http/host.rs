//! Which names a request over TCP may be for: a page that made its own name resolve to this
//! machine (DNS rebinding) is refused, and so is a page of another site.

use std::net::IpAddr;

use hyper::header::{HOST, ORIGIN};
use hyper::{Request, Version};

use super::Settings;
use crate::https::is_loopback;
use crate::reason::{Refusal, RefuseReason};

/// Refuses an HTTP/1.1 request without `Host`, and any with two (RFC 9112 section 3.2): two readers
/// could take it for different sites.
pub(super) fn single<B>(request: &Request<B>) -> Result<(), Refusal> {
    let count = request.headers().get_all(HOST).iter().count();
    let needed = usize::from(request.version() >= Version::HTTP_11);
    if (needed..=1).contains(&count) {
        return Ok(());
    }
    let detail = format!("{count} `Host` headers; send one (RFC 9112 section 3.2)");
    Err(Refusal::new(RefuseReason::BadRequest).detail(detail))
}

/// Refuses a request whose `Host` or `Origin` names neither this device nor `local`, the address
/// that it came to. On loopback every name of loopback is that address: no page can make them its
/// own.
pub(super) fn check<B>(
    request: &Request<B>,
    local: IpAddr,
    settings: &Settings,
) -> Result<(), Refusal> {
    let refused = |reason| Err(Refusal::new(reason));
    let headers = request.headers();
    let mut hosts = headers.get_all(HOST).iter();
    // The target's own authority is the one that counts (RFC 9112 section 3.2.2).
    let host = match (request.uri().authority(), hosts.next(), hosts.next()) {
        (Some(authority), _, None) => Some(authority.as_str()),
        (None, Some(host), None) => host.to_str().ok(),
        _ => None,
    };
    if !host.is_some_and(|host| is_ours(host, local, settings)) {
        return refused(RefuseReason::HostRejected);
    }
    for origin in headers.get_all(ORIGIN) {
        let site = origin
            .to_str()
            .ok()
            .and_then(|origin| origin.split_once("://"));
        if !site.is_some_and(|(_, host)| is_ours(host, local, settings)) {
            return refused(RefuseReason::OriginRejected);
        }
    }
    Ok(())
}

fn is_ours(authority: &str, local: IpAddr, settings: &Settings) -> bool {
    let host = without_port(authority);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_local = bare
        .parse::<IpAddr>()
        .is_ok_and(|address| address.to_canonical() == local.to_canonical());
    is_local
        || local.to_canonical().is_loopback() && is_loopback(host)
        || settings
            .hosts
            .iter()
            .any(|own| own.eq_ignore_ascii_case(host))
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(headers: &[(&str, &str)]) -> Result<(), Refusal> {
        checked_at([127, 0, 0, 1].into(), headers)
    }

    fn checked_at(local: IpAddr, headers: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut settings = super::super::tests::settings();
        settings.hosts = vec!["edge-1".to_owned()];
        let mut request = Request::builder().uri("/v1/models");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap(), local, &settings)
    }

    #[test]
    fn only_our_own_names_are_served() {
        for host in ["edge-1", "EDGE-1:8443"] {
            assert_eq!(checked(&[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "edge-1.evil.example",
            "192.0.2.1",
            "localhost.evil.example",
            "",
            "edge-1@evil",
        ] {
            let refusal = checked(&[("host", host)]).unwrap_err();
            assert_eq!(refusal.status(), 421, "{host}");
        }
        assert!(checked(&[]).is_err());
        assert!(checked(&[("host", "edge-1"), ("host", "evil.example")]).is_err());
    }

    #[test]
    fn loopback_has_its_names_and_other_addresses_only_their_own() {
        let beyond: IpAddr = [192, 0, 2, 1].into();
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        for host in ["localhost:80", "LOCALHOST", "127.0.0.1:8080", "[::1]:80"] {
            assert_eq!(checked(&[("host", host)]), Ok(()), "{host}");
            assert_eq!(checked_at(mapped, &[("host", host)]), Ok(()), "{host}");
            let refusal = checked_at(beyond, &[("host", host)]).unwrap_err();
            assert_eq!(refusal.status(), 421, "{host}");
        }
        let origin = [("host", "edge-1"), ("origin", "http://localhost:80")];
        assert_eq!(checked(&origin), Ok(()));
        assert_eq!(checked_at(beyond, &[("host", "192.0.2.1:80")]), Ok(()));
    }

    #[test]
    fn a_request_has_one_host() {
        let with = |version, count| {
            let mut request = Request::builder().uri("/v1/models").version(version);
            for _ in 0..count {
                request = request.header("host", "localhost");
            }
            single(&request.body(()).unwrap()).map_err(|refusal| refusal.status())
        };
        assert_eq!(with(Version::HTTP_11, 0), Err(400));
        assert_eq!(with(Version::HTTP_11, 1), Ok(()));
        assert_eq!(with(Version::HTTP_11, 2), Err(400));
        assert_eq!(with(Version::HTTP_10, 0), Ok(()));
        assert_eq!(with(Version::HTTP_10, 2), Err(400));
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let with = |origin| checked(&[("host", "edge-1"), ("origin", origin)]);
        assert_eq!(with("https://edge-1:8443"), Ok(()));
        for origin in ["null", "https://evil.example", "edge-1"] {
            assert_eq!(with(origin).unwrap_err().status(), 403, "{origin}");
        }
    }
}
