//! Which topics are requests, and where an answer may go. Pure.
//!
//! ```text
//! slm/{device}{path}                  request, MQTT 5; {path} as in HTTP: /v1/chat/completions
//! slm/{device}{path}/{client}/{id}    request, MQTT 3.1.1
//! slm/{device}{path}/cancel           cancel (one level more: neither of the above)
//! slm/{device}/reply/…                answers
//! slm/{device}/status                 retained: up or down
//! slm/{device}/nonce                  retained: what DPoP proofs must say
//! slm/{device}/trust                  retained: the device's report to its fleet
//! ```

use crate::link::Subscription;
use crate::prompt::Dialect;
use crate::reason::{Refusal, RefuseReason};

/// Longest Response Topic; it goes into audit and duplicate records.
const MAX_TOPIC: usize = 512;
/// Longest `{client}` and `{id}` of the 3.1.1 form. Keycloak's client ids have at most 255 bytes.
const MAX_LEVEL: usize = 255;

/// The topics of one device.
#[derive(Debug, Clone)]
pub(super) struct Topics {
    /// `slm/{device}/`
    root: String,
    device: String,
    /// With `{device}` and `{azp}`.
    reply_to: String,
}

/// What a message on one of our topics is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Request(Dialect, Form<'a>),
    Cancel,
}

/// The two forms of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form<'a> {
    /// MQTT 5.
    Properties,
    /// MQTT 3.1.1, whose topic says what properties say in MQTT 5.
    Plain { client: &'a str, id: &'a str },
}

impl Topics {
    pub(super) fn new(device: &str, reply_to: &str) -> Topics {
        Topics {
            root: format!("slm/{device}/"),
            device: device.to_owned(),
            reply_to: reply_to.to_owned(),
        }
    }

    /// The cancels are at QoS 0, so that a full receive window can't hold them back.
    pub(super) fn subscriptions(&self) -> Vec<Subscription> {
        let of_one = |dialect: &Dialect| {
            let requests = self.requests(*dialect);
            [
                (format!("{requests}/+/+"), true),
                (format!("{requests}/cancel"), false),
                (requests, true),
            ]
        };
        let all = Dialect::ALL.iter().flat_map(of_one);
        all.map(|(filter, at_least_once)| Subscription {
            filter,
            at_least_once,
            retained: false,
        })
        .collect()
    }

    pub(super) fn nonce(&self) -> String {
        format!("{}nonce", self.root)
    }

    pub(super) fn report(&self) -> String {
        format!("{}trust", self.root)
    }

    pub(super) fn device(&self) -> &str {
        &self.device
    }

    pub(super) fn status(&self) -> String {
        format!("{}status", self.root)
    }

    /// `None`: a topic that isn't ours, or a 3.1.1 form with levels that can't be answered on.
    pub(super) fn route<'a>(&self, topic: &'a str) -> Option<Route<'a>> {
        let mut all = Dialect::ALL.iter();
        all.find_map(|dialect| self.route_of(*dialect, topic))
    }

    fn route_of<'a>(&self, dialect: Dialect, topic: &'a str) -> Option<Route<'a>> {
        let rest = topic.strip_prefix(self.requests(dialect).as_str())?;
        let mut levels = rest.split('/').skip(1);
        match (levels.next(), levels.next(), levels.next()) {
            (None, None, None) if rest.is_empty() => {
                Some(Route::Request(dialect, Form::Properties))
            }
            (Some("cancel"), None, None) => Some(Route::Cancel),
            (Some(client), Some(id), None) if is_level(client) && is_level(id) => {
                Some(Route::Request(dialect, Form::Plain { client, id }))
            }
            _ => None,
        }
    }

    /// Where the answers of the 3.1.1 form go, `/accepted` or `/rejected` apart.
    pub(super) fn plain_reply(&self, client: &str, id: &str) -> String {
        format!("{}reply/{client}/{id}", self.root)
    }

    /// Whether answers for the client `azp` may go to `topic`, a Response Topic. Otherwise a token
    /// could send its answers into another client's inbox, or requests to another device.
    pub(super) fn may_answer(&self, topic: &str, azp: &str) -> Result<(), Refusal> {
        let refused = |why: &str| Err(Refusal::new(RefuseReason::ReplyTopicRejected).detail(why));
        if !is_publishable(topic) {
            return refused("not a topic that answers can be published on");
        }
        let filter = self.reply_to.replace("{device}", &self.device);
        if filter.contains("{azp}") && !is_level(azp) {
            return refused(
                "the token's client id (`azp`) has `/`, `+`, `#` or a control character, or is \
                 longer than 255 bytes, so no topic can be its own: over MQTT, use a Keycloak \
                 client without them",
            );
        }
        let filter = filter.replace("{azp}", azp);
        match matches(&filter, topic) {
            true => Ok(()),
            false => refused("it doesn't match the appliance's `reply_to` for this client"),
        }
    }

    /// Whether the 3.1.1 form's `{client}` is the token's.
    pub(super) fn may_ask(&self, client: &str, azp: &str) -> Result<(), Refusal> {
        match client == azp {
            true => Ok(()),
            false if is_level(azp) => Err(RefuseReason::TopicMismatch.into()),
            false => Err(Refusal::new(RefuseReason::TopicMismatch).detail(
                "the token's client id (`azp`) has `/`, `+`, `#` or a control character, or is \
                 longer than 255 bytes, so it can't be a level of a topic: over MQTT, use a \
                 Keycloak client without them",
            )),
        }
    }

    /// The client that a topic beneath our own `reply` names, or the topic where it names none.
    pub(super) fn alleged_client<'a>(&self, topic: &'a str) -> &'a str {
        let beneath = topic.strip_prefix(self.root.as_str());
        let beneath = beneath.and_then(|rest| rest.strip_prefix("reply/"));
        let client = beneath.and_then(|rest| rest.split('/').next());
        client.unwrap_or(topic)
    }

    /// Whether `topic` lies beneath our own `reply`, where anybody may be told of a refusal.
    pub(super) fn is_reply(&self, topic: &str) -> bool {
        let beneath = topic.strip_prefix(self.root.as_str());
        let beneath = beneath.and_then(|rest| rest.strip_prefix("reply/"));
        beneath.is_some_and(|rest| !rest.is_empty()) && is_publishable(topic)
    }

    pub(super) fn requests(&self, dialect: Dialect) -> String {
        let path = dialect.entry().path;
        format!("{}{}", self.root, path.trim_start_matches('/'))
    }
}

/// Topics that answers may ever go to: no wildcard, nothing of the broker's own, and within the
/// namespace of appliances only what lies beneath some `reply`, for the rest are requests, states
/// and trust.
fn is_publishable(topic: &str) -> bool {
    let sound = !topic.is_empty() && topic.len() <= MAX_TOPIC && !topic.starts_with('$');
    let plain = |c: char| !matches!(c, '+' | '#') && !c.is_control();
    let mut levels = topic.split('/');
    let open = match (levels.next(), levels.next(), levels.next()) {
        (Some("slm"), Some("pool"), Some(_)) => levels.next() == Some("reply"),
        (Some("slm"), _, third) => third == Some("reply"),
        _ => true,
    };
    sound && open && topic.chars().all(plain)
}

/// Whether a claim's value can stand in a topic (MQTT 5 section 4.7). Keycloak accepts client ids
/// such as `dev/1+#`.
fn is_level(text: &str) -> bool {
    let plain = |c: char| !matches!(c, '/' | '+' | '#') && !c.is_control();
    !text.is_empty() && text.len() <= MAX_LEVEL && text.chars().all(plain)
}

/// Whether `topic` matches `filter` (MQTT 5 section 4.7.1); a last `#` matches its parent too.
fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for pattern in filter.split('/') {
        match (pattern, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (pattern, Some(level)) if pattern == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REPLY_TO: &str = "slm/{device}/reply/{azp}/#";

    fn topics() -> Topics {
        Topics::new("edge-1", REPLY_TO)
    }

    #[test]
    fn routes() {
        let topics = topics();
        let route = |rest: &str| {
            let topic = format!("slm/edge-1/v1/chat/completions{rest}");
            topics.route(&topic).map(|route| format!("{route:?}"))
        };
        let request = |form| Some(format!("{:?}", Route::Request(Dialect::Chat, form)));
        let plain = |client, id| request(Form::Plain { client, id });
        assert_eq!(route(""), request(Form::Properties));
        assert_eq!(route("/cancel").as_deref(), Some("Cancel"));
        assert_eq!(route("/dev/7"), plain("dev", "7"));
        // A client called `cancel` is no cancel.
        assert_eq!(route("/cancel/7"), plain("cancel", "7"));
        for other in ["/", "/dev", "/dev/", "//7", "/dev/7/8", "x", "/de\u{7}v/7"] {
            assert_eq!(route(other), None, "{other}");
        }
        let other = "slm/edge-2/v1/chat/completions";
        assert_eq!(topics.route(other), None);
    }

    #[test]
    fn no_topic_takes_two_subscriptions() {
        let subscriptions = topics().subscriptions();
        for dialect in Dialect::ALL {
            let path = format!("slm/edge-1{}", dialect.entry().path);
            for topic in [&path, &format!("{path}/cancel"), &format!("{path}/a/b")] {
                let filters = subscriptions.iter().map(|s| &s.filter);
                assert_eq!(filters.filter(|f| matches(f, topic)).count(), 1, "{topic}");
            }
        }
    }

    #[test]
    fn answers_go_to_the_tokens_own_topics() {
        let topics = topics();
        let may = |topic: &str, azp: &str| topics.may_answer(topic, azp).is_ok();
        assert!(may("slm/edge-1/reply/dev/a/b", "dev"));
        assert!(may("slm/edge-1/reply/dev", "dev"));
        for (topic, azp) in [
            ("slm/edge-1/reply/other/a", "dev"),
            ("slm/edge-1/reply/dev2", "dev"),
            ("slm/edge-2/reply/dev/a", "dev"),
            ("slm/edge-1/reply/dev/+", "dev"),
            ("slm/edge-1/reply/dev/#", "dev"),
            ("slm/edge-1/reply/dev/1/a", "dev/1"),
            ("slm/edge-1/reply/+/a", "+"),
            ("slm/edge-1/reply/#/a", "#"),
            ("slm/edge-1/reply/\u{1}/a", "\u{1}"),
            ("slm/edge-1/reply//a", ""),
            ("", "dev"),
        ] {
            assert!(!may(topic, azp), "{topic} {azp}");
        }
    }

    #[test]
    fn a_client_id_that_is_no_level_is_told_why() {
        let topics = topics();
        for azp in ["dev/1", "a+", "#"] {
            let refusals = [
                topics
                    .may_answer("slm/edge-1/reply/dev/1", azp)
                    .unwrap_err(),
                topics.may_ask("dev", azp).unwrap_err(),
            ];
            for refusal in refusals {
                let said = refusal.message();
                assert!(said.contains("`/`") && said.contains("client id"), "{said}");
            }
        }
        // Where no topic is any client's own, every client id will do.
        let shared = Topics::new("edge-1", "slm/{device}/reply/all/#");
        assert!(shared.may_answer("slm/edge-1/reply/all/1", "dev/1").is_ok());
        assert_eq!(topics.alleged_client("slm/edge-1/reply/dev/1"), "dev");
        assert_eq!(topics.alleged_client("elsewhere/1"), "elsewhere/1");
    }

    #[test]
    fn no_setting_opens_requests_states_or_the_brokers_own() {
        let topics = Topics::new("edge-1", "#");
        let may = |topic: &str| topics.may_answer(topic, "dev").is_ok();
        for closed in [
            "$SYS/x",
            "slm/edge-2/v1/chat/completions",
            "slm/edge-1/status",
            "slm/edge-1/trust",
            "slm/trust/fleet/metadata/root",
            "slm/pool/p/v1/chat/completions",
            "slm",
            "slm/edge-1",
        ] {
            assert!(!may(closed), "{closed}");
        }
        for open in ["answers/here", "slm/edge-1/reply/x", "slm/pool/p/reply/x"] {
            assert!(may(open), "{open}");
        }
    }

    #[test]
    fn refusals_stay_beneath_reply() {
        let topics = topics();
        assert!(topics.is_reply("slm/edge-1/reply/anybody/1"));
        for other in [
            "slm/edge-1/reply/",
            "slm/edge-1/reply/+",
            "slm/edge-2/reply/x",
            "x",
        ] {
            assert!(!topics.is_reply(other), "{other}");
        }
    }

    proptest! {
        /// Whatever the client is called, its answers never leave its own branch.
        #[test]
        fn nobody_leaves_the_branch(azp in "[a-z/+#$\u{0}]{0,6}", topic in "slm/edge-1/reply/[a-z/+#$\u{0}]{0,12}") {
            if topics().may_answer(&topic, &azp).is_ok() {
                let own = format!("slm/edge-1/reply/{azp}");
                let beneath = format!("{own}/");
                prop_assert!(topic == own || topic.starts_with(&beneath));
                prop_assert!(!azp.contains(&['/', '+', '#', '\0'][..]));
                prop_assert!(!topic.contains(&['+', '#', '\0'][..]));
            }
        }
    }
}
