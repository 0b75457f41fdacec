//! Tokens for the differential test: sound ones of every algorithm, and sound ones that are wrong
//! in one way each. Those that an issuer's mistake could make are signed anew, so that nothing but
//! the mistake can refuse them.

use std::sync::LazyLock;

use serde_json::{Value, json};
use slmd::for_tests::auth::Snapshot;

use crate::mint::{self, ALGORITHMS, ISSUER, Issuer, NOW, encode};
use crate::mutations::Mutator;
use crate::properties::ISSUERS;

const MUTATED: usize = 1200;

pub(crate) struct Sample {
    pub(crate) group: &'static str,
    pub(crate) what: String,
    pub(crate) token: String,
}

/// A member's value that something may take for another.
static VALUES: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let list = json!([
        null, true, false, 0, 1, -1, 1.5, 1e300, u64::MAX, "", " ", "x", "slm", [], [null], ["slm"],
        {}, {"a": 1}, NOW, (NOW + 100).to_string(), NOW as f64 + 100.5
    ]);
    list.as_array().unwrap().clone()
});

struct Samples(Vec<Sample>);

/// The issuer that signs with `alg`; one RSA key serves six of them.
fn issuer(alg: &str) -> &'static Issuer {
    let kid = match alg {
        "ES256" | "ES384" | "EdDSA" => alg,
        _ => "RS256",
    };
    ISSUERS.iter().find(|issuer| issuer.kid == kid).unwrap()
}

pub(crate) fn sound(alg: &str) -> String {
    token(alg, &header(alg), &mint::claims())
}

pub(crate) fn jwks() -> String {
    mint::jwks(&ISSUERS.iter().collect::<Vec<_>>())
}

pub(crate) fn world() -> Snapshot {
    crate::properties::world()
}

pub(crate) fn all() -> Vec<Sample> {
    let mut samples = Samples(Vec::new());
    samples.sound();
    samples.claims();
    samples.times();
    samples.audiences();
    samples.headers();
    samples.keys();
    samples.duplicates();
    samples.encodings();
    samples.texts();
    samples.mutations();
    samples.0
}

fn header(alg: &str) -> Value {
    json!({"alg": alg, "typ": "JWT", "kid": issuer(alg).kid})
}

/// The segments as they are, signed with `alg` by whoever has its key.
fn sign(alg: &str, header: &str, payload: &str) -> String {
    let input = format!("{header}.{payload}");
    let signature = issuer(alg).sign(alg, input.as_bytes());
    format!("{input}.{}", encode(signature))
}

fn token(alg: &str, header: &Value, claims: &Value) -> String {
    sign(
        alg,
        &encode(header.to_string()),
        &encode(claims.to_string()),
    )
}

impl Samples {
    fn add(&mut self, group: &'static str, what: impl Into<String>, token: String) {
        let what = what.into();
        self.0.push(Sample { group, what, token });
    }

    /// With one change to sound claims.
    fn claim(
        &mut self,
        group: &'static str,
        what: &str,
        alg: &str,
        change: impl FnOnce(&mut Value),
    ) {
        let mut claims = mint::claims();
        change(&mut claims);
        self.add(
            group,
            format!("{alg}: {what}"),
            token(alg, &header(alg), &claims),
        );
    }

    /// With one change to a sound header.
    fn header(
        &mut self,
        group: &'static str,
        what: &str,
        alg: &str,
        change: impl FnOnce(&mut Value),
    ) {
        let mut header = header(alg);
        change(&mut header);
        self.add(
            group,
            format!("{alg}: {what}"),
            token(alg, &header, &mint::claims()),
        );
    }

    fn sound(&mut self) {
        for alg in ALGORITHMS {
            for typ in ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"] {
                self.header("sound", typ, alg, |header| header["typ"] = json!(typ));
            }
            for age in [0, 1, 60, 299, 1800, 3569] {
                let change = |claims: &mut Value| {
                    claims["iat"] = json!(NOW - age);
                    claims["exp"] = json!(NOW - age + 3600);
                };
                self.claim("sound", &format!("{age} s old"), alg, change);
            }
            self.claim("sound", "more claims", alg, |claims| {
                claims["name"] = json!("Zoë \u{1f980} \"\\/\u{7}");
                claims["nested"] = json!({"a": [{"b": [1, 2.5, null, true]}]});
            });
        }
    }

    fn claims(&mut self) {
        let names = [
            "iss",
            "sub",
            "azp",
            "aud",
            "typ",
            "jti",
            "sid",
            "iat",
            "exp",
            "nbf",
            "cnf",
            "scope",
            "realm_access",
            "resource_access",
        ];
        for alg in ["RS256", "EdDSA"] {
            for name in names {
                self.claim("claim", &format!("no {name}"), alg, |claims| {
                    claims.as_object_mut().unwrap().remove(name);
                });
                for value in VALUES.iter() {
                    self.claim("claim", &format!("{name} {value}"), alg, |claims| {
                        claims[name] = value.clone();
                    });
                }
            }
        }
        for typ in [
            "ID", "Refresh", "Offline", "Logout", "bearer", "DPoP", "JWT",
        ] {
            self.claim("claim", &format!("typ {typ}"), "ES256", |c| {
                c["typ"] = json!(typ)
            });
        }
        let others = [
            format!("{ISSUER}/"),
            ISSUER.to_uppercase(),
            format!("{ISSUER}x"),
            format!(" {ISSUER}"),
        ];
        for iss in others {
            self.claim("claim", &format!("iss {iss}"), "ES256", |c| {
                c["iss"] = json!(iss)
            });
        }
        let bindings = [
            json!({"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I", "kc-jkt-type": "DPoP"}),
            json!({"x5t#S256": "x"}),
            json!({"jwk": {}}),
        ];
        for cnf in bindings {
            self.claim("claim", &format!("cnf {cnf}"), "ES256", |c| {
                c["cnf"] = cnf.clone()
            });
            self.claim("claim", &format!("DPoP, cnf {cnf}"), "ES256", |c| {
                c["typ"] = json!("DPoP");
                c["cnf"] = cnf.clone();
            });
        }
        for roles in [
            json!([]),
            json!(["write"]),
            json!(["READ"]),
            json!("read"),
            json!({"read": true}),
        ] {
            self.claim("claim", &format!("roles {roles}"), "ES256", |c| {
                c["resource_access"]["slm"]["roles"] = roles.clone();
            });
        }
    }

    fn times(&mut self) {
        for alg in ["PS256", "ES384"] {
            for name in ["iat", "exp", "nbf"] {
                for offset in [
                    -100_000, -3601, -3600, -331, -31, -30, -29, -1, 0, 1, 29, 30, 31, 3300, 3301,
                    100_000,
                ] {
                    self.claim("time", &format!("{name} {offset:+}"), alg, |claims| {
                        claims[name] = json!(NOW as i64 + offset);
                    });
                }
                for text in [
                    "1795503300.0",
                    "1.7955033e9",
                    "1795503300.25",
                    "-0",
                    "253402300800",
                    "1e999",
                ] {
                    let claims = mint::claims();
                    let new = format!("\"{name}\":{text}");
                    let claims = match claims.get(name) {
                        Some(old) => claims
                            .to_string()
                            .replace(&format!("\"{name}\":{old}"), &new),
                        None => claims.to_string().replacen('{', &format!("{{{new},"), 1),
                    };
                    let token = sign(alg, &encode(header(alg).to_string()), &encode(claims));
                    self.add("time", format!("{alg}: {name} {text}"), token);
                }
            }
        }
    }

    fn audiences(&mut self) {
        let all = json!([
            "slm", "SLM", "slm ", "sl", "slm2", "account", ["slm"], ["account"], ["account", "slm"], ["slm", "slm"],
            [["slm"]], ["slm", 1], [1, "slm"], ["slm", null], {"slm": true}, {"0": "slm"}, [], [""], "slm,account"
        ]);
        for aud in all.as_array().unwrap() {
            for alg in ["RS512", "EdDSA"] {
                self.claim("audience", &format!("aud {aud}"), alg, |c| {
                    c["aud"] = aud.clone()
                });
            }
        }
    }

    fn headers(&mut self) {
        for alg in ["RS256", "ES384"] {
            for name in [
                "alg", "kid", "typ", "crit", "jwk", "jku", "x5c", "x5u", "x5t", "cty", "b64",
                "zip", "enc",
            ] {
                let group = if name == "crit" { "critical" } else { "header" };
                self.header(group, &format!("no {name}"), alg, |header| {
                    header.as_object_mut().unwrap().remove(name);
                });
                for value in VALUES.iter() {
                    self.header(group, &format!("{name} {value}"), alg, |header| {
                        header[name] = value.clone();
                    });
                }
            }
            for crit in [json!(["b64"]), json!(["exp"]), json!(["b64", "exp"])] {
                for b64 in [true, false] {
                    self.header(
                        "critical",
                        &format!("crit {crit}, b64 {b64}"),
                        alg,
                        |header| {
                            header["crit"] = crit.clone();
                            header["b64"] = json!(b64);
                        },
                    );
                }
            }
            for typ in [
                "dpop+jwt",
                "logout+jwt",
                "id+jwt",
                "application/jwt",
                "text/at+jwt",
                "at+jwt2",
            ] {
                self.header("header", &format!("typ {typ}"), alg, |header| {
                    header["typ"] = json!(typ)
                });
            }
            let foreign = Issuer::new("ES256", "ES256");
            self.header("header", "a jwk of its own", alg, |header| {
                header["jwk"] = foreign.jwk()
            });
        }
    }

    /// The wrong key or algorithm.
    fn keys(&mut self) {
        let named = [
            "none", "None", "NONE", "HS256", "HS384", "HS512", "ES512", "ES256K", "Ed25519",
            "rs256", "",
        ];
        for signer in ALGORITHMS {
            for alg in ALGORITHMS.iter().chain(&named) {
                self.header("key", &format!("says {alg}"), signer, |header| {
                    header["alg"] = json!(alg)
                });
                let unsigned = self
                    .0
                    .last()
                    .unwrap()
                    .token
                    .rsplit_once('.')
                    .unwrap()
                    .0
                    .to_owned();
                self.add(
                    "key",
                    format!("says {alg}, unsigned"),
                    format!("{unsigned}."),
                );
            }
            for kid in ["RS256", "ES256", "ES384", "EdDSA", "unknown", "", "rs256"] {
                self.header("key", &format!("kid {kid}"), signer, |header| {
                    header["kid"] = json!(kid)
                });
            }
            self.header("key", "no kid", signer, |header| {
                drop(header.as_object_mut().unwrap().remove("kid"))
            });
        }
        for alg in ["ES256", "EdDSA"] {
            let foreign = Issuer::new(alg, alg);
            self.add(
                "key",
                format!("{alg}: a foreign key"),
                foreign.token(&mint::claims()),
            );
        }
        for issuer in ISSUERS.iter() {
            let secrets = [
                issuer.public_bytes(),
                issuer.jwk().to_string().into(),
                jwks().into(),
                Vec::new(),
            ];
            for (place, secret) in secrets.iter().enumerate() {
                let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
                let header = json!({"alg": "HS256", "typ": "JWT", "kid": issuer.kid});
                let input = format!(
                    "{}.{}",
                    encode(header.to_string()),
                    encode(mint::claims().to_string())
                );
                let tag = encode(aws_lc_rs::hmac::sign(&key, input.as_bytes()));
                self.add(
                    "key",
                    format!("{}: HMAC {place}", issuer.kid),
                    format!("{input}.{tag}"),
                );
            }
        }
    }

    /// Members twice, the sound one first, last, and both times.
    fn duplicates(&mut self) {
        for alg in ["RS256", "ES256"] {
            let (header, claims) = (header(alg), mint::claims());
            for sides in [(&header, true), (&claims, false)] {
                let (whole, is_header) = sides;
                for (name, value) in whole.as_object().unwrap() {
                    let text = whole.to_string();
                    let inner = &text[1..text.len() - 1];
                    let escaped = format!("\\u{:04x}{}", name.as_bytes()[0], &name[1..]);
                    let twice = [
                        format!("{{\"{name}\":\"x\",{inner}}}"),
                        format!("{{{inner},\"{name}\":\"x\"}}"),
                        format!("{{{inner},\"{name}\":{value}}}"),
                        format!("{{{inner},\"{escaped}\":{value}}}"),
                    ];
                    for (place, text) in twice.iter().enumerate() {
                        let segments = match is_header {
                            true => (encode(text), encode(claims.to_string())),
                            false => (encode(header.to_string()), encode(text)),
                        };
                        let token = sign(alg, &segments.0, &segments.1);
                        self.add("duplicate", format!("{alg}: {name} {place}"), token);
                    }
                }
            }
            let deep = claims
                .to_string()
                .replace("[\"read\"]", "[\"read\"],\"roles\":[\"read\"]");
            self.add(
                "duplicate",
                "deep",
                sign(alg, &encode(header.to_string()), &encode(deep)),
            );
        }
    }

    /// Segments in other spellings of base64, the first two signed as they stand.
    fn encodings(&mut self) {
        // A length that leaves room for stray bits, and characters of both alphabets.
        let mut claims = mint::claims();
        claims["name"] = json!("???>>>~~~ \u{fff}");
        while claims.to_string().len() % 3 != 1 {
            claims["name"] = json!(format!("{}x", claims["name"].as_str().unwrap()));
        }
        type Spelling = (&'static str, fn(&str) -> String);
        let spellings: [Spelling; 10] = [
            ("padded", |s| {
                format!("{s}{}", "=".repeat((4 - s.len() % 4) % 4))
            }),
            ("one sign of padding", |s| format!("{s}=")),
            ("the other alphabet", |s| {
                s.replace('-', "+").replace('_', "/")
            }),
            ("stray bits", |s| stray(s)),
            ("a space at the end", |s| format!("{s} ")),
            ("a space before", |s| format!(" {s}")),
            ("a line break within", |s| {
                format!("{}\n{}", &s[..8], &s[8..])
            }),
            ("one character too many", |s| format!("{s}A")),
            ("one character too few", |s| s[..s.len() - 1].to_owned()),
            ("a NUL at the end", |s| format!("{s}\0")),
        ];
        for alg in ["RS256", "ES256", "EdDSA"] {
            let (head, payload) = (encode(header(alg).to_string()), encode(claims.to_string()));
            for (what, spell) in spellings {
                self.add(
                    "base64",
                    format!("{alg}: header {what}"),
                    sign(alg, &spell(&head), &payload),
                );
                self.add(
                    "base64",
                    format!("{alg}: claims {what}"),
                    sign(alg, &head, &spell(&payload)),
                );
                let whole = sign(alg, &head, &payload);
                let (input, signature) = whole.rsplit_once('.').unwrap();
                self.add(
                    "base64",
                    format!("{alg}: signature {what}"),
                    format!("{input}.{}", spell(signature)),
                );
            }
            let whole = sign(alg, &head, &payload);
            for (what, token) in [
                ("nothing", String::new()),
                ("dots", "..".to_owned()),
                ("two segments", format!("{head}.{payload}")),
                ("a dot behind", format!("{whole}.")),
                ("a dot before", format!(".{whole}")),
                ("four segments", format!("{whole}.{head}")),
                ("a scheme before", format!("Bearer {whole}")),
                (
                    "in JSON",
                    json!({"payload": payload, "protected": head, "signature": "AA"}).to_string(),
                ),
            ] {
                self.add("segments", format!("{alg}: {what}"), token);
            }
        }
    }

    /// JSON that parsers read differently, and sizes.
    fn texts(&mut self) {
        let sound = mint::claims().to_string();
        let with = |member: &str| sound.replacen('{', &format!("{{{member},"), 1).into_bytes();
        let nested =
            |depth: usize| with(&format!("\"x\":{}{}", "[".repeat(depth), "]".repeat(depth)));
        let mut texts: Vec<(&str, Vec<u8>)> = vec![
            ("trailing data", format!("{sound}x").into()),
            ("two values", format!("{sound}{sound}").into()),
            ("a NUL behind", format!("{sound}\0").into()),
            ("white space around", format!(" \n{sound}\t ").into()),
            ("a byte order mark", format!("\u{feff}{sound}").into()),
            ("a trailing comma", sound.replace("}}", "},}").into()),
            ("a comment", with("/* */\"x\":1")),
            ("NaN", with("\"x\":NaN")),
            ("a leading zero", with("\"x\":01")),
            ("a huge number", with("\"x\":1e999")),
            ("a lone surrogate", with(r#""x":"\ud800""#)),
            ("a control character", with("\"x\":\"\u{1}\"")),
            (
                "an escaped name",
                sound.replace("\"sub\"", r#""\u0073ub""#).into(),
            ),
            ("single quotes", sound.replace('"', "'").into()),
            ("an array", format!("[{sound}]").into()),
            ("a string", json!(sound).to_string().into()),
            ("null", "null".into()),
            ("nothing", Vec::new()),
            ("__proto__", with(r#""__proto__":{"sub":"x"}"#)),
            ("100 levels", nested(100)),
            ("200 levels", nested(200)),
            ("5,000 levels", nested(2500)),
        ];
        let mut invalid = with("\"x\":\"ab\"");
        let at = invalid.windows(2).position(|pair| pair == b"ab").unwrap();
        invalid[at] = 0xff;
        texts.push(("no UTF-8", invalid));
        for alg in ["PS512", "ES256"] {
            let head = encode(header(alg).to_string());
            for (what, text) in &texts {
                self.add(
                    "json",
                    format!("{alg}: claims: {what}"),
                    sign(alg, &head, &encode(text)),
                );
                let header = header(alg).to_string();
                let changed = String::from_utf8_lossy(text).replace(&sound, &header);
                let claims = encode(&sound);
                self.add(
                    "json",
                    format!("{alg}: header: {what}"),
                    sign(alg, &encode(changed), &claims),
                );
            }
            for len in [8_000, 11_000, 13_000, 100_000] {
                let padded = with(&format!("\"x\":\"{}\"", "x".repeat(len)));
                self.add(
                    "size",
                    format!("{alg}: {len}"),
                    sign(alg, &head, &encode(padded)),
                );
            }
        }
    }

    fn mutations(&mut self) {
        let mut mutator = Mutator::new(7);
        for number in 0..MUTATED {
            let (token, _) = mutator.next();
            self.add("mutated", number.to_string(), token);
        }
    }
}

/// The same bytes, with other bits where base64 has some to spare.
fn stray(segment: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (rest, last) = segment.split_at(segment.len() - 1);
    let value = ALPHABET
        .iter()
        .position(|c| *c == last.as_bytes()[0])
        .unwrap();
    format!("{rest}{}", char::from(ALPHABET[value ^ 1]))
}
