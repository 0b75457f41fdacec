//! What must be true of the settings of traces together.

use super::read::Section;
use crate::https;
use crate::telemetry::TraceSettings;

pub(super) fn check_traces(section: &Section<'_>, settings: &TraceSettings, _: &[TraceSettings]) {
    let Some(url) = &settings.endpoint else {
        return;
    };
    if let Err((key, what)) = reached(url, settings) {
        section.problem(key, what);
    }
}

fn reached(url: &str, settings: &TraceSettings) -> Result<(), (&'static str, String)> {
    let endpoint = |what: String| ("otlp_endpoint", what);
    https::check_any_url(url).map_err(|error| endpoint(error.to_string()))?;
    if url.contains(['?', '#']) {
        let what = "has more than a host and a path; write e.g. \"http://127.0.0.1:4318\"";
        return Err(endpoint(what.to_owned()));
    }
    let leaves_open = https::check_url(url).is_err();
    match (&settings.ca_file, &settings.headers_file) {
        _ if leaves_open && !settings.plain => Err(endpoint(
            "is plain HTTP beyond this machine: whoever is in between can read the traces; write \
             https:// and `ca_file`, or `plain_http_exposes_traces = true` where nobody is"
                .to_owned(),
        )),
        (_, Some(_)) if leaves_open => Err((
            "headers_file",
            "holds what isn't for others, and plain HTTP beyond this machine would tell it; write \
             https:// and `ca_file`"
                .to_owned(),
        )),
        (None, _) if url.starts_with("https:") => Err((
            "ca_file",
            "is missing: HTTPS needs the CA to trust, as PEM".to_owned(),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_leave_this_machine_in_the_open_only_where_somebody_says_so() {
        let said = |url: &str, ca: bool, headers: bool, plain: bool| {
            let settings = TraceSettings {
                endpoint: Some(url.to_owned()),
                ca_file: ca.then(|| "/ca.pem".into()),
                headers_file: headers.then(|| "/headers".into()),
                plain,
                ratio: 1.0,
            };
            reached(url, &settings).map_err(|(key, _)| key)
        };
        assert_eq!(said("http://127.0.0.1:4318", false, true, false), Ok(()));
        assert_eq!(said("https://c.example/otlp", true, true, false), Ok(()));
        assert_eq!(said("http://c.example:4318", false, false, true), Ok(()));
        for (url, ca, headers, plain, key) in [
            (
                "http://c.example:4318",
                false,
                false,
                false,
                "otlp_endpoint",
            ),
            ("http://c.example:4318", false, true, true, "headers_file"),
            ("https://c.example", false, false, true, "ca_file"),
            (
                "http://127.0.0.1:4318?a=b",
                false,
                false,
                false,
                "otlp_endpoint",
            ),
            ("https://u:p@c.example", true, false, false, "otlp_endpoint"),
            ("127.0.0.1:4318", false, false, true, "otlp_endpoint"),
        ] {
            assert_eq!(said(url, ca, headers, plain), Err(key), "{url}");
        }
    }
}
