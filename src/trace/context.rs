//! Who called, as it says in `traceparent` and `tracestate` (W3C Trace Context, level 1). What isn't to
//! the letter counts as not sent.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::hex;
use crate::identity::random;

/// `00-<trace>-<span>-<flags>`; a version that is newer may have more behind it.
const LENGTH: usize = 55;
/// Of `traceparent`'s flags.
const SAMPLED: u8 = 1;
/// Members of a `tracestate`; one with more is none.
const MAX_MEMBERS: usize = 32;
/// What is kept of it, in bytes: as much as everybody has to pass on (section 3.3.1.5).
const MAX_STATE: usize = 512;
/// What goes first where that is too little.
const LONG_MEMBER: usize = 128;

/// Names a trace, which may have spans of many services. Never all zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TraceId([u8; 16]);

/// Names a span within its trace. Never all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

/// The caller's span, of which ours is a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    pub trace: TraceId,
    pub span: SpanId,
    /// The caller's spans are recorded, so ours are to be.
    pub sampled: bool,
    /// Of the caller's tracing systems, passed on as it is. Empty where there is none.
    pub state: String,
}

impl Parent {
    /// By what a request brings under the two names. `None`: nobody's child.
    pub fn of<'a>(
        mut parents: impl Iterator<Item = &'a [u8]>,
        states: impl Iterator<Item = &'a [u8]>,
    ) -> Option<Parent> {
        let (Some(parent), None) = (parents.next(), parents.next()) else {
            return None;
        };
        let (trace, span, sampled) = traceparent(parent)?;
        let state = states.collect::<Vec<_>>().join(&b',');
        let state = String::from_utf8(state).ok();
        Some(Parent {
            trace,
            span,
            sampled,
            state: state
                .and_then(|state| tracestate(&state))
                .unwrap_or_default(),
        })
    }
}

/// Section 3.2.2, and 3.2.4 of versions to come.
fn traceparent(text: &[u8]) -> Option<(TraceId, SpanId, bool)> {
    let (known, more) = text.split_at_checked(LENGTH)?;
    let [version, trace, span, flags] = [0..2, 3..35, 36..52, 53..55].map(|part| &known[part]);
    if [2, 35, 52].iter().any(|at| known[*at] != b'-') {
        return None;
    }
    match (version, more.first()) {
        (b"ff", _) | (b"00", Some(_)) => return None,
        (_, None | Some(b'-')) => {}
        _ => return None,
    }
    let [_] = bytes::<1>(version)?;
    let [flags] = bytes::<1>(flags)?;
    let (trace, span) = (TraceId::new(bytes(trace)?)?, SpanId::new(bytes(span)?)?);
    Some((trace, span, flags & SAMPLED != 0))
}

/// Lower-case hexadecimal.
fn bytes<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(&pair[0])? << 4 | digit(&pair[1])?;
    }
    Some(bytes)
}

/// Section 3.3.1. `None`: it isn't passed on.
fn tracestate(text: &str) -> Option<String> {
    let members = text
        .split(',')
        .map(|member| member.trim_matches([' ', '\t']));
    let members: Vec<&str> = members.filter(|member| !member.is_empty()).collect();
    if members.len() > MAX_MEMBERS {
        return None;
    }
    let mut keys = BTreeSet::new();
    for (key, value) in members
        .iter()
        .map(|member| member.split_once('=').unwrap_or((member, "")))
    {
        if !is_key(key) || !is_value(value) || !keys.insert(key) {
            return None;
        }
    }
    Some(bounded(members))
}

/// Long members go first, then the last ones.
fn bounded(mut members: Vec<&str>) -> String {
    let length = |members: &[&str]| members.iter().map(|member| member.len() + 1).sum::<usize>();
    if length(&members) > MAX_STATE + 1 {
        members.retain(|member| member.len() <= LONG_MEMBER);
    }
    while length(&members) > MAX_STATE + 1 {
        members.pop();
    }
    members.join(",")
}

/// A system's name, or a tenant's at one.
fn is_key(key: &str) -> bool {
    let rest = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_' | '-' | '*' | '/');
    let part = |part: &str, begins: fn(char) -> bool, most: usize| {
        part.starts_with(begins) && part.chars().all(rest) && part.len() <= most
    };
    let letter = |c: char| c.is_ascii_lowercase();
    match key.split_once('@') {
        None => part(key, letter, 256),
        Some((tenant, system)) => {
            let begins = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            part(tenant, begins, 241) && part(system, letter, 14)
        }
    }
}

fn is_value(value: &str) -> bool {
    let printable = |c: char| matches!(c, ' '..='~') && !matches!(c, ',' | '=');
    (1..=256).contains(&value.len()) && value.chars().all(printable) && !value.ends_with(' ')
}

impl TraceId {
    pub fn random() -> TraceId {
        std::iter::repeat_with(random)
            .find_map(TraceId::new)
            .unwrap_or(TraceId([1; 16]))
    }

    fn new(bytes: [u8; 16]) -> Option<TraceId> {
        (bytes != [0; 16]).then_some(TraceId(bytes))
    }

    pub fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl SpanId {
    pub fn random() -> SpanId {
        std::iter::repeat_with(random)
            .find_map(SpanId::new)
            .unwrap_or(SpanId([1; 8]))
    }

    fn new(bytes: [u8; 8]) -> Option<SpanId> {
        (bytes != [0; 8]).then_some(SpanId(bytes))
    }

    pub fn bytes(self) -> [u8; 8] {
        self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TraceId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<TraceId, &'static str> {
        let id = bytes(text.as_bytes()).and_then(TraceId::new);
        id.ok_or("a trace's id is 32 digits of lower-case hexadecimal, not all zeros")
    }
}

impl From<TraceId> for String {
    fn from(id: TraceId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for TraceId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<TraceId, &'static str> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SOUND: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn of(parents: &[&str], states: &[&str]) -> Option<Parent> {
        let bytes = |texts: &[&str]| texts.iter().map(|t| t.as_bytes().to_vec()).collect();
        let (parents, states): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (bytes(parents), bytes(states));
        Parent::of(
            parents.iter().map(Vec::as_slice),
            states.iter().map(Vec::as_slice),
        )
    }

    #[test]
    fn a_sound_parent_is_told_to_the_bit() {
        let parent = of(&[SOUND], &[]).unwrap();
        assert_eq!(parent.trace.to_string(), TRACE);
        assert_eq!(hex(&parent.span.bytes()), "b7ad6b7169203331");
        assert!(parent.sampled);
        assert_eq!(parent.state, "");
        for (flags, sampled) in [("00", false), ("01", true), ("02", false), ("ff", true)] {
            let text = format!("{}{flags}", &SOUND[..53]);
            assert_eq!(
                of(&[&text], &[]).map(|p| p.sampled),
                Some(sampled),
                "{flags}"
            );
        }
    }

    /// The cases of sections 3.2 and 4.3.
    #[test]
    fn what_is_no_parent_counts_as_none() {
        let other = |at: usize, with: &str| {
            let mut text = SOUND.to_owned();
            text.replace_range(at..at + with.len(), with);
            text
        };
        let bad = [
            String::new(),
            "00".to_owned(),
            SOUND[..54].to_owned(),
            format!("{SOUND}-"),
            format!("{SOUND}-what-is-this"),
            format!("{SOUND}."),
            format!("cc{}.what", &SOUND[2..]),
            format!("{SOUND} "),
            other(0, "ff"),
            other(0, "0G"),
            other(0, "0-"),
            other(2, "_"),
            other(35, "_"),
            other(52, "_"),
            other(3, "0AF7"),
            other(3, "x"),
            other(3, &"0".repeat(32)),
            other(36, &"0".repeat(16)),
            other(36, "B"),
            other(53, "0G"),
            other(53, "0A"),
            other(3, "\u{e9}"),
        ];
        for text in &bad {
            assert_eq!(of(&[text], &[]), None, "{text:?}");
        }
        assert_eq!(of(&[], &["a=1"]), None);
        assert_eq!(of(&[SOUND, SOUND], &[]), None, "two of them are none");
    }

    #[test]
    fn a_newer_version_is_read_as_far_as_it_is_known() {
        for more in ["", "-", "-what-the-future-brings"] {
            let newer = format!("cc{}{more}", &SOUND[2..]);
            assert_eq!(of(&[&newer], &[]), of(&[SOUND], &[]), "{more:?}");
        }
    }

    #[test]
    fn a_sound_state_is_kept() {
        let longest = format!("{}@{}=1", "t".repeat(241), "s".repeat(14));
        for (states, kept) in [
            (
                &["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"][..],
                "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
            ),
            (&["foo=1 \t , \t bar=2, ,"], "foo=1,bar=2"),
            (&["foo=1", "bar=2"], "foo=1,bar=2"),
            (&["a/b*c_d-9=v v!~"], "a/b*c_d-9=v v!~"),
            (&["0t@s=1"], "0t@s=1"),
            (&[longest.as_str()], &longest),
            (&[""], ""),
        ] {
            assert_eq!(of(&[SOUND], states).unwrap().state, kept, "{states:?}");
        }
    }

    #[test]
    fn an_unsound_state_is_left_out_and_its_parent_isnt() {
        let many = (0..33).map(|n| format!("k{n}=1"));
        let many = many.collect::<Vec<_>>().join(",");
        let key = format!("{}=1", "k".repeat(257));
        let tenant = format!("{}@s=1", "t".repeat(242));
        let value = format!("k={}", "v".repeat(257));
        for bad in [
            "foo=1,foo=2",
            "foo",
            "=1",
            "foo=",
            "foo =1",
            "FOO=1",
            "foo=1=2",
            "0foo=1",
            "foo=\u{e9}",
            "foo@=1",
            "@foo=1",
            "foo@@bar=1",
            "foo@bar@baz=1",
            "t@0s=1",
            "t@sssssssssssssss=1",
            "foo=1;bar=2=",
            "f.o=1",
            &many,
            &key,
            &tenant,
            &value,
        ] {
            assert_eq!(of(&[SOUND], &[bad]).unwrap().state, "", "{bad:?}");
        }
        let text = [0xff, b'=', b'1'];
        let parent = Parent::of([SOUND.as_bytes()].into_iter(), [&text[..]].into_iter());
        assert_eq!(parent.unwrap().state, "");
    }

    #[test]
    fn what_is_kept_of_a_state_is_bounded() {
        let member = |n: usize, length: usize| format!("k{n:02}={}", "v".repeat(length - 4));
        let fits = [member(0, 256), member(1, 255)].join(",");
        assert_eq!(fits.len(), MAX_STATE);
        assert_eq!(of(&[SOUND], &[&fits]).unwrap().state, fits);
        let long = [
            member(0, 200),
            member(1, 128),
            member(2, 128),
            member(3, 128),
            member(4, 128),
        ];
        let kept = of(&[SOUND], &[&long.join(",")]).unwrap().state;
        assert_eq!(kept, long[1..4].join(","));
    }

    #[test]
    fn a_trace_id_is_read_as_it_is_written() {
        let id: TraceId = TRACE.parse().unwrap();
        let text = serde_json::to_string(&id).unwrap();
        assert_eq!(text, format!("{TRACE:?}"));
        assert_eq!(serde_json::from_str::<TraceId>(&text).unwrap(), id);
        assert!(serde_json::from_str::<TraceId>("\"0\"").is_err());
        assert_ne!(TraceId::random(), TraceId::random());
    }
}
