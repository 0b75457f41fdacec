//! Every setting: how it reads, what holds without it, whether a change waits for a restart, and
//! what the commented file says of it. Then what must be true of several together.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use super::export::{check_collector, collector, facility, recipients};
use super::fleet::{adds_keys, check_fleet, mirrors};
use super::jwks::check_key_source;
use super::kind::{Kind, optional};
use super::machine::Thing;
use super::read::Section;
use super::realm::{check_endpoint, check_realm};
use super::table::{
    Always, Any, Each, Entry, Flat, Given, Perhaps, Row, Table, defaults, key, live, restart,
    rows_of, settings,
};
use super::traces::check_traces;
use super::value::{
    address, boolean, broker_url, bytes, count, grace, groups, here, hosts, identity, issuer,
    kernels, log_filter, log_format, log_origin, loopback, number, origins, path_to, plain_name,
    realm_name, required, scopes, socket_path, text, time, topic_level, transports,
};
use super::witness::{check_witness, check_witnesses, verifier_key};
use super::{Config, Login, MAX_MODELS, MAX_REALMS};
use crate::audit::{self, export};
use crate::auth::{Endpoint, LimitClaims, Policy};
use crate::authority::RealmConfig;
use crate::fleet::{self, Place};
use crate::keysync::Source;
use crate::prompt::SamplingOptions;
use crate::telemetry::TraceSettings;
use crate::tls::KeyPair;
use crate::transport::{http, mqtt};
use crate::{admission, engine, https, link};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

settings! {
    Config, check_root {
        /// One level of MQTT topics; the host's name unless set.
        identity("device"): restart(identity()), Default "<host>";
        /// Database, pinned keys and the device's own key.
        state_dir: restart(path_to(Thing::State)), Default "/var/lib/slmd";
        /// Bundles; `models` of the state folder.
        models_dir: restart(path_to(Thing::Models)), Default "<state_dir>/models";
        /// How long running answers may take to finish when the daemon is stopped.
        drain_deadline: live(time(Duration::ZERO, HOUR)), Default "20s";
        /// Or `warn,slmd::auth=debug` and the like. The environment's SLMD_LOG goes before it.
        log: restart(here(log_filter, |_| Thing::LogFilter)), Default "info";
        /// For the journal where it reads standard error, else "text"; or "json", an object a line, or
        /// "journal", its own fields with priorities.
        log_format: restart(log_format()), Default "auto";
        http: Always;
        /// Without this section there is no MQTT. The broker must speak MQTT 5 and have QoS 1.
        mqtt: Perhaps(Always);
        /// A fleet whose managers sign keys, revocations and policy. Its root is pinned with
        /// `slmd trust pin`.
        fleet: Perhaps(Always);
        engine: Always;
        admission: Always;
        audit: Always;
        /// Traces of requests; none are made unless `otlp_endpoint` is set.
        telemetry: Always;
        /// A realm: whose tokens are accepted. Its keys are pinned with `slmd keys pin prod jwks.json`.
        realms("realm"): Each;
        /// Where `slmd login` logs in on this machine.
        login: Always;
        ..warnings: Vec::new();
    }

    http::Settings, check_http_sockets {
        /// HTTP over TCP for this machine only; none unless set. Beyond it: [http.tls].
        listen: restart(optional(here(loopback, Thing::Listen))), Example "127.0.0.1:8080";
        /// What `Host` and `Origin` may name over TCP, besides the device, the address itself and, on
        /// loopback, `localhost`, `127.0.0.1` and `[::1]`.
        hosts: restart(hosts), Default [];
        /// What `htu` of a DPoP proof may name, besides the listen ports under the device's name and,
        /// on loopback, under loopback's.
        public_urls: restart(origins), Default ["http://<device>", "https://<device>"];
        /// Under systemd, slmd.socket opens it.
        socket: restart(here(socket_path, Thing::Socket)), Default "/run/slmd/slmd.sock";
        /// For administration: root and the daemon's own user.
        admin_socket: restart(here(socket_path, Thing::Socket)), Default "/run/slmd/admin.sock";
        /// The largest request body, over MQTT too.
        max_body: restart(bytes(1 << 10, 16 << 20)), Default "256 KiB";
        /// How long a connection may be idle, and a request's head take.
        header_timeout: restart(time(SECOND, HOUR)), Default "10s";
        /// How long a request's body may take, and a reader stop reading.
        body_timeout: restart(time(SECOND, HOUR)), Default "30s";
        /// On each socket. A user opens another one only while it has fewer than are free; beyond
        /// that, the one that has been idle longest makes room.
        max_connections: restart(count(1, 4096)), Default 64;
        /// On TCP: per address.
        max_connections_per_uid: restart(count(1, 4096)), Default 32;
        /// Between signs of life in a stream that is silent.
        keep_alive: restart(time(SECOND, HOUR)), Default "10s";
        /// HTTPS. The files are read again by `slmd reload`.
        tls: Perhaps(Always);
    }

    http::TlsSettings, check_client_certificates {
        /// Where others may reach it.
        listen: restart(here(address, Thing::Listen)), Written "0.0.0.0:8443";
        own: Flat;
        /// Clients may show a certificate of it; none is asked for unless set.
        client_ca_file: restart(optional(path_to(Thing::Certificates))), Example "/etc/slmd/clients-ca.pem";
        /// Or "required".
        client_certificate_required("client_certificate"): restart(required()), Default "optional";
    }

    KeyPair, check_pair {
        /// The device's own certificate, with those between it and its CA.
        cert_file: restart(path_to(Thing::Certificates)), Written "/etc/slmd/tls.pem";
        /// Owner slmd, mode 0600.
        key_file: restart(path_to(Thing::PrivateKey)), Written "/etc/slmd/tls.key";
    }

    mqtt::Settings, check_broker {
        /// Or mqtts://, with [mqtt.tls].
        broker("url"): restart(broker_url()), Written "mqtt://127.0.0.1:1883";
        /// mqtt:// beyond this machine: then whoever is in between can read tokens, prompts and
        /// answers.
        plain_exposes_tokens("plain_mqtt_exposes_tokens"): restart(boolean), Default false;
        /// `slmd-` and the device's name.
        client_id: restart(topic_level), Default "slmd-<device>";
        /// None unless set.
        username: restart(optional(text)), Example "edge-1";
        /// Owner slmd, mode 0600; none unless set.
        password_file: restart(optional(path_to(Thing::Password))), Example "/etc/slmd/mqtt-password";
        /// Between signs of life to the broker.
        keep_alive: restart(time(5 * SECOND, HOUR)), Default "30s";
        /// How long the broker keeps what comes while the device is away.
        session_expiry: restart(time(MINUTE, 30 * DAY)), Default "1h";
        /// Fewer let one client's backlog at the broker delay the others.
        receive_maximum: restart(count(1, 1024)), Default 1024;
        /// Where answers may go: only topics that are the asking client's own. A client id with `/`,
        /// `+` or `#` has none.
        reply_to: restart(text), Default "slm/{device}/reply/{azp}/#";
        /// At most one message of an answer in this time.
        fragment_interval: restart(time(Duration::ZERO, 10 * SECOND)), Default "50ms";
        /// Sign answers over MQTT 5 with the device's key, which `slmd device id` shows, so that no
        /// broker can forge one.
        sign_answers: restart(boolean), Default false;
        /// Tell the fleet which keys, models and versions are in force: a retained message on
        /// slm/{device}/trust, signed by the device's key. Where a fleet is followed, unless set.
        report: restart(optional(boolean)), Example true;
        /// The first pause after a lost connection.
        reconnect_min: restart(time(100 * MILLISECOND, HOUR)), Default "1s";
        /// The longest.
        reconnect_max: restart(time(SECOND, HOUR)), Default "1m";
        /// For mqtts://. Files and password are read again at each connect.
        tls: Perhaps(Always);
        ..max_body: 0;
    }

    link::Tls {
        /// The only CA that the broker's certificate may be of.
        ca_file: restart(path_to(Thing::Certificates)), Written "/etc/slmd/broker-ca.pem";
        own: Perhaps(Flat);
    }

    fleet::Settings, check_fleet {
        /// A level of topics: its files are beneath slm/trust/<name>/.
        name: restart(topic_level), Written "plant";
        /// "mqtt" is the broker; else https:// URLs and folders, such as a USB stick's. All are asked,
        /// none has to be trusted.
        mirrors: restart(mirrors()), Written ["mqtt"];
        /// A user of its own at the broker, which needs one where each user may have one connection;
        /// [mqtt]'s unless set.
        username: restart(optional(text)), Example "edge-1-fleet";
        /// Owner slmd, mode 0600.
        password_file: restart(optional(path_to(Thing::Password))), Example "/etc/slmd/fleet-password";
        /// The only CA that is trusted for https://.
        ca_file: restart(optional(path_to(Thing::Certificates))), Example "/etc/slmd/fleet-ca.pem";
        /// Between looks at the mirrors; a broker tells of news by itself.
        interval: restart(time(SECOND, DAY)), Default "15m";
        /// Endpoints answer only with bundles that the fleet's list names.
        require_listed_models: live(boolean), Default false;
    }

    engine::Settings {
        /// As many as there are cores.
        threads: restart(count(0, 256)), Default 0;
        /// Cores left to the rest of the box, where threads is 0.
        spare_cores: restart(count(0, 255)), Default 0;
        /// Tokens of a prompt with its answer.
        context: restart(count(64, 1 << 20)), Default 2048;
        /// Waiting prompts; no principal gets more than half of them.
        queue: restart(count(1, 1024)), Default 16;
        /// The fastest of this CPU; or scalar, avx2, neon, neon-dotprod, neon-i8mm.
        kernels: restart(kernels()), Default "auto";
    }

    admission::Settings {
        /// Pieces of an answer that may wait for a slow reader.
        answer_buffer: live(count(1, 4096)), Default 64;
        /// For requests that name none.
        default_deadline: live(time(SECOND, DAY)), Default "5m";
        /// How long an answered MQTT request is known when it comes again.
        duplicate_window: live(time(SECOND, DAY)), Default "10m";
        /// Whoever has the most loses its oldest first.
        duplicates: live(count(1, 65_536)), Default 256;
        /// Prompt and answer of a principal. An answer is cut to it (`finish_reason` is `length`),
        /// and a prompt that leaves nothing of it is refused.
        tokens_per_minute: live(count(1, 1 << 31)), Default 20000;
        /// Of one principal.
        prompts_per_minute: live(count(1, 1 << 20)), Default 600;
        /// Of one principal, for each kind that needs no engine (list, metrics, cancel).
        operations_per_minute: live(count(1, 1 << 20)), Default 120;
    }

    audit::Settings {
        /// At least 16 MiB, for the database's own overhead.
        max_bytes("max_size"): live(bytes(16 << 20, 1 << 40)), Default "64 MiB";
        /// What is older goes.
        retention: live(time(HOUR, 10 * YEAR)), Default "90d";
        /// Of each principal, and of each reason; then they are counted.
        refusals_per_minute: live(count(1, 100_000)), Default 60;
        /// What the log's name begins with in its checkpoints, before device and epoch. With a domain of
        /// your own it is like no other's.
        origin: restart(log_origin), Default "slmd.internal";
        /// A checkpoint is signed after so many records,
        checkpoint_records: live(count(1, 1 << 20)), Default 1000;
        /// or once a record has waited for one so long.
        checkpoint_interval: live(time(SECOND, DAY)), Default "1m";
        export: Flat;
        /// A witness: it sees the log's checkpoints, cosigns them while the log has only grown, and finds
        /// out where it was rewritten.
        witnesses("witness"): Any;
    }

    export::Settings {
        /// Records go to this machine's journal, too, each member as a field (journalctl -t
        /// slmd-audit).
        journald: restart(boolean), Default false;
        /// Records go to a collector, too, as syslog over TLS (RFC 5424, 5425): deploy/syslog/README.md.
        syslog: Perhaps(Always);
    }

    export::Syslog, check_collector {
        /// Where it listens.
        address: restart(collector()), Written "logs.example:6514";
        /// The only CA that its certificate may be of; without one, in plain, within this machine only.
        /// Read again at each connect, as are the two below.
        ca_file: restart(optional(path_to(Thing::Certificates))), Example "/etc/slmd/logs-ca.pem";
        /// What its certificate is for; the host of `address` unless set.
        server_name: restart(optional(text)), Example "logs.example";
        own: Perhaps(Flat);
        /// One of kern, user, daemon, auth, authpriv, audit, local0 to local7 and the rest of RFC 5424.
        facility: restart(facility()), Default "audit";
        /// Your organisation's number with IANA: adds an element slmd@N with the record's index
        /// and epoch.
        enterprise("enterprise_number"): restart(optional(count(1, u64::from(u32::MAX)))), Example 64512;
    }

    audit::Witness, check_witness {
        /// Its verifier key, as it prints it (C2SP signed-note), of the algorithm 0x04.
        key: restart(verifier_key()), Example "witness.example/w1+eb762cc2+BNdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";
        /// Where it takes checkpoints (C2SP tlog-witness). Without it: the fleet's own witness, which
        /// reads this device's reports and brings what it has cosigned over the fleet's broker.
        url: restart(optional(text)), Example "https://witness.example";
        /// The CA of its certificate, as PEM.
        ca_file: restart(optional(path_to(Thing::Certificates))), Example "/etc/slmd/witness-ca.pem";
    }

    TraceSettings, check_traces {
        /// An OpenTelemetry collector that takes OTLP over HTTP, without `/v1/traces`. It isn't told what
        /// was asked or answered, nor by whom. None unless set.
        endpoint("otlp_endpoint"): restart(optional(text)), Example "http://127.0.0.1:4318";
        /// The only CA that is trusted for it.
        ca_file: restart(optional(path_to(Thing::Certificates))), Example "/etc/slmd/collector-ca.pem";
        /// What requests to it say beside, such as `authorization: Bearer …`; a header a line, mode 0600. Read
        /// again for each.
        headers_file: restart(optional(path_to(Thing::Headers))), Example "/etc/slmd/collector.headers";
        /// http:// beyond this machine: then whoever is in between can read the traces.
        plain("plain_http_exposes_traces"): restart(boolean), Default false;
        /// Of the requests whose caller began no trace, so many are recorded. Of the others, those whose
        /// caller has its own recorded.
        ratio("trace_ratio"): restart(number(0.0..=1.0)), Default 1;
    }

    RealmConfig, check_realm {
        /// Safe as a file's name.
        name: live(realm_name), Written "prod";
        /// What its tokens have as `iss`, to the letter.
        issuer: live(here(issuer, Thing::Issuer)), Written "https://keycloak.example/realms/prod";
        /// What counts no more, before it expires: deploy/keycloak/README.md has the form. Looked at
        /// twice a second; none unless set.
        deny_file: live(optional(path_to(Thing::DenyFile))), Example "/etc/slmd/deny/prod.json";
        /// Break-glass: what members of local groups may do on the socket without a token, each use
        /// audited. For one realm; nobody unless set.
        local_groups: live(groups()), Example { technicians = ["read"] };
        policy: Flat;
        /// Refreshing the pinned keys over HTTPS. A set counts when a key vouches for it that was
        /// pinned by hand or has been in force for `vouch_after`; such a key does so for 30 days
        /// after it has left. Any other set is held.
        jwks: Perhaps(Always);
        /// An endpoint: a Keycloak client of the realm, and the model that it stands for.
        endpoints("endpoint"): Each;
    }

    Policy {
        /// The endpoint of requests that name none; one of those below.
        default_endpoint: live(optional(text)), Written "slm-chat";
        /// The longest life of a token.
        max_lifetime: live(time(SECOND, YEAR)), Default "1h";
        /// Clients that need longer tokens, to get through an outage; none unless set.
        max_lifetime_by_client: live(time(SECOND, YEAR).by_name()), Example { device-1 = "24h" };
        /// Since the login; no limit unless set.
        max_age: live(optional(time(SECOND, YEAR))), Example "1h";
        /// For clocks that differ.
        leeway: live(time(Duration::ZERO, 10 * MINUTE)), Default "30s";
        /// How old the pinned keys may grow for each scope; "none" lifts the limit.
        offline_grace: live(grace()),
            Default { read = "30d", write = "24h", fine-tune = "1h", audit = "30d" };
        /// What is allowed while the clock isn't synchronised. Without "audit" a monitor is refused
        /// then: it is what metrics and `/readyz?verbose` want over TCP.
        unsynchronised_scopes: live(scopes), Default ["read", "audit"];
        /// Role names → scopes, where the endpoint client's roles aren't called read, write,
        /// fine-tune, audit.
        roles: live(Kind::from(scopes).by_name()), Example { asker = ["read"] };
        /// Instead of admission's.
        tokens_per_minute: live(optional(count(1, 1 << 31))), Example 20000;
        /// Transports on which only DPoP-bound tokens are taken: "socket", "tcp", "mqtt".
        require_dpop: live(transports), Default [];
        /// Whether the audit names people beside their `sub`, by `preferred_username`: that is personal
        /// data.
        record_username: live(boolean), Default false;
        /// Names of claims that carry a token's own limits; none are read unless named.
        limit_claims("claims"): Always;
        ..local_groups: BTreeMap::new();
        ..tokens_per_minute_at_most: None;
    }

    LimitClaims {
        /// Instead of the realm's.
        tokens_per_minute: live(optional(text)), Example "slmd_tokens_per_minute";
        /// Tokens of a prompt with its answer.
        max_context: live(optional(text)), Example "slmd_max_context";
        /// 0 to 9, 5 where there is none; the higher goes first.
        priority: live(optional(text)), Example "slmd_priority";
    }

    Source, check_key_source {
        /// Keycloak's own unless set.
        uri: live(text), Default "<issuer>/protocol/openid-connect/certs";
        /// The only CA that is trusted for it.
        ca_file: live(optional(path_to(Thing::Certificates))), Example "/etc/slmd/keycloak-ca.pem";
        /// Between fetches.
        refresh_interval: live(time(60 * SECOND, 30 * DAY)), Default "15m";
        /// Least time between fetches for unknown keys.
        min_interval: live(time(SECOND, HOUR)), Default "30s";
        /// With a fleet's root pinned: "confirm" lets the issuer only confirm what the fleet has signed,
        /// "add" lets it add keys beside, too.
        adds("https"): live(adds_keys()), Default "confirm";
        /// In force for so long, a key vouches for others.
        vouch_after: live(time(SECOND, YEAR)), Default "24h";
        /// Of one fetch.
        timeout: live(time(SECOND, 60 * SECOND)), Default "10s";
        /// http:// to this machine, too: then any of its users can serve keys who gets the port while
        /// Keycloak is away.
        plain_http_trusts_this_host: live(boolean), Default false;
    }

    Endpoint, check_endpoint {
        /// The client's id in Keycloak, and what requests name as their `model`.
        client_id: live(text), Written "slm-chat";
        /// A bundle of `models_dir`.
        model: restart(plain_name), Written "smollm2-135m-instruct";
        /// The longest answer: what the context leaves, unless set.
        max_completion_tokens: live(optional(count(1, 1 << 20))), Example 1024;
        /// Of a chat whose request names no length; a text completion has OpenAI's 16 tokens.
        default_completion_tokens: live(count(1, 1 << 20)), Default 512;
        /// Instructions for chats that bring no system message; they count as tokens of the prompt.
        system_prompt: live(optional(text)), Example "Answer in one short sentence.";
        /// The audit keeps prompts and answers, encrypted to these keys of age (age-keygen -y), so that
        /// not even this box can read them again. Personal data; no text is kept unless set.
        text_recipients: live(recipients()), Default [];
        sampling: Flat;
    }

    SamplingOptions {
        /// How a token is picked, here and in the next six, where the request doesn't say: as the
        /// bundle has it, unless set. 0 always takes the likeliest.
        temperature: live(optional(number(SamplingOptions::TEMPERATURE))), Example 0.2;
        /// From the fewest tokens that have this share of the probability; 1 is off.
        top_p: live(optional(number(SamplingOptions::TOP_P))), Example 0.9;
        /// From so many; 0 is off.
        top_k: live(optional(count(0, u64::from(u32::MAX)))), Example 40;
        /// From those with this share of the likeliest one's probability; 0 is off.
        min_p: live(optional(number(SamplingOptions::MIN_P))), Example 0.05;
        /// Against loops: what prompt or answer hold already is less likely; 1 is off.
        repetition_penalty: live(optional(number(SamplingOptions::REPETITION_PENALTY))), Example 1.1;
        /// The same by OpenAI's formulas, of the answer only; 0 is off.
        frequency_penalty: live(optional(number(SamplingOptions::FREQUENCY_PENALTY))), Example 0.5;
        /// However often it is there.
        presence_penalty: live(optional(number(SamplingOptions::PRESENCE_PENALTY))), Example 0.5;
    }

    Login {
        /// The realm's; none unless set.
        issuer: live(optional(issuer)), Example "https://keycloak.example/realms/prod";
        /// A public client with the device grant.
        client_id: live(optional(text)), Example "slmd-technician";
        /// The only CA that Keycloak's certificate may be of.
        ca_file: live(optional(path_to(Thing::LoginCertificates))), Example "/etc/slmd/keycloak-ca.pem";
    }
}

/// What holds where a realm's configuration is silent.
impl Default for Policy {
    fn default() -> Policy {
        defaults()
    }
}

/// What holds where an endpoint's configuration is silent; names are examples.
impl Default for Endpoint {
    fn default() -> Endpoint {
        defaults()
    }
}

fn check_root(root: &Section<'_>, config: &Config, _: &[Config]) {
    let (realms, models) = (config.realms.len(), config.models().len());
    if realms > MAX_REALMS {
        let message = format!("is there {realms} times; {MAX_REALMS} are the most");
        root.problem("realm", message);
    }
    if models > MAX_MODELS {
        let message = format!("endpoints name {models} models; {MAX_MODELS} are the most");
        root.problem("realm", message);
    }
    let by_broker = |fleet: &fleet::Settings| fleet.mirrors.contains(&Place::Mqtt);
    if config.mqtt.is_none() && config.fleet.as_ref().is_some_and(by_broker) {
        root.problem(
            "fleet",
            "has the mirror \"mqtt\", and there is no [mqtt]; add it",
        );
    }
    check_witnesses(root, config);
    if config.realms.is_empty() && !root.has("realm") {
        root.problem(
            "realm",
            "is missing: without a realm no token can be accepted; add a [[realm]] section",
        );
    }
}

fn check_http_sockets(section: &Section<'_>, settings: &http::Settings, _: &[http::Settings]) {
    if settings.socket == settings.admin_socket {
        section.problem(
            "admin_socket",
            "is the same as `socket`; give it another path",
        );
    }
}

fn check_client_certificates(
    section: &Section<'_>,
    tls: &http::TlsSettings,
    _: &[http::TlsSettings],
) {
    if tls.client_certificate_required && tls.client_ca_file.is_none() {
        section.problem("client_certificate", "needs `client_ca_file` too");
    }
}

fn check_pair(section: &Section<'_>, own: &KeyPair, _: &[KeyPair]) {
    section.to_look_at("key_file", vec![Thing::Pair(own.clone())]);
}

fn check_broker(section: &mut Section<'_>, settings: &mqtt::Settings, _: &[mqtt::Settings]) {
    if section.has("password") {
        let message = "doesn't belong in this file; put it in a file of mode 0600 and name that in \
                       `password_file`";
        section.problem("password", message);
        section.knows(&["password"]);
    }
    if settings.password_file.is_some() && settings.username.is_none() {
        section.problem(
            "password_file",
            "needs `username` too (MQTT 3.1.1 section 3.1.2.9)",
        );
    }
    match (settings.broker.tls, section.has("tls")) {
        (true, false) => section.problem(
            "url",
            "is an mqtts:// URL; add [mqtt.tls] with the broker's CA in `ca_file`",
        ),
        (false, true) => section.problem(
            "url",
            "is an mqtt:// URL, and there is [mqtt.tls]; write mqtts://",
        ),
        _ => {}
    }
    if !settings.broker.tls
        && !https::is_loopback(&settings.broker.host)
        && !settings.plain_exposes_tokens
    {
        section.problem(
            "url",
            "is plain MQTT beyond this machine: whoever is in between can read tokens, prompts and \
             answers; write mqtts:// and [mqtt.tls], or `plain_mqtt_exposes_tokens = true` where \
             nobody is",
        );
    }
    if settings.reconnect_min > settings.reconnect_max {
        section.problem("reconnect_min", "is longer than `reconnect_max`; swap them");
    }
    reply_to(section, &settings.reply_to);
}

/// Where answers may go: a pattern that can't be another client's or a request topic.
fn reply_to(section: &Section<'_>, pattern: &str) {
    let device = section.named("device");
    let mut levels: Vec<&str> = pattern.split('/').collect();
    if levels.last() == Some(&"#") {
        levels.pop();
    }
    let plain = |level: &&str| {
        matches!(*level, "{device}" | "{azp}")
            || !level.is_empty() && !level.contains(['+', '#', '{', '}', '$'])
    };
    let requests = ["slm", device, "v1"];
    let meets = |(level, fixed): (&&str, &str)| {
        let own = level.replace("{device}", device);
        own == *fixed || own == "{azp}"
    };
    let wrong = if !levels.iter().all(plain) {
        "has an empty level, a wildcard other than a final `#`, or an unknown {…}"
    } else if !levels.contains(&"{azp}") {
        "has no level {azp}, so every client could take every other's answers"
    } else if levels.iter().zip(requests).all(meets) {
        "matches request topics, slm/{device}/v1/…"
    } else {
        return;
    };
    let example = "slm/{device}/reply/{azp}/#";
    section.problem("reply_to", format!("{wrong}; write e.g. {example:?}"));
}
