//! C2SP's example, and each fault.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

use super::*;
use crate::digest::sha256;
use crate::identity::{Key, PublicKey};
use crate::tlog::cosignature::{self, Cosignature};

const LOG: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const OTHER_LOG: &str = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop";
const REMORA: &str = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2";
const TEXT: &str = "a\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
const NAMES: [&str; 6] = ["X1", "X2", "X3", "Y1", "Y2", "Y3"];

/// Those of C2SP's example.
struct Witnesses(Vec<(VerifierKey, Ed25519KeyPair)>);

impl Witnesses {
    fn new() -> Witnesses {
        let one = |name: &str| {
            let seed = sha256(name.as_bytes());
            let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
            let public = PublicKey::new(pair.public_key().as_ref().try_into().unwrap());
            let key = VerifierKey::new(name, Algorithm::Cosignature, &public).unwrap();
            (key, pair)
        };
        Witnesses(NAMES.map(one).into())
    }

    fn lines(&self) -> String {
        let lines = self.0.iter();
        lines
            .map(|(key, _)| format!("witness {} {key}\n", key.name()))
            .collect()
    }

    fn note(&self, by: &[&str]) -> Note {
        let device = Key::published();
        let log = VerifierKey::new("a", Algorithm::Ed25519, device.public()).unwrap();
        let signature = device.sign_note(TEXT).unwrap();
        let mut note = Note::signed(TEXT, &log, &signature).unwrap();
        for (key, pair) in self.0.iter().filter(|(key, _)| by.contains(&key.name())) {
            let message = cosignature::message(7, TEXT);
            let signature = pair.sign(message.as_bytes());
            let signature = signature.as_ref().try_into().unwrap();
            note.add(key, &Cosignature { time: 7, signature }.to_bytes());
        }
        note
    }
}

fn fault(text: &str) -> Option<(usize, Why)> {
    let error = Policy::parse(text.as_bytes()).err()?;
    Some((error.line, error.why))
}

#[test]
fn the_published_example_wants_two_of_one_house_and_one_of_the_other() {
    let all = Witnesses::new();
    let text = format!(
        "log {LOG}\n\n{}group X-witnesses 2 X1 X2 X3\ngroup Y-witnesses any Y1 Y2 Y3\n\
        group X-and-Y all X-witnesses Y-witnesses\nquorum X-and-Y\n",
        all.lines()
    );
    let policy = Policy::parse(text.as_bytes()).unwrap();
    assert_eq!(policy.logs().len(), 1);
    for (by, enough) in [
        (&[] as &[&str], false),
        (&["X1", "X2", "X3"], false),
        (&["Y1", "Y2", "Y3"], false),
        (&["X1", "Y1", "Y2", "Y3"], false),
        (&["X1", "X2", "Y1"], true),
        (&["X2", "X3", "Y3"], true),
        (&NAMES, true),
    ] {
        let checked = policy.check(&all.note(by));
        match enough {
            true => assert_eq!(checked.unwrap().len(), by.len(), "{by:?}"),
            false => assert_eq!(checked, Err(PolicyFault::Quorum), "{by:?}"),
        }
    }
}

#[test]
fn one_witness_or_none_may_be_enough() {
    let all = Witnesses::new();
    let with = |quorum: &str| {
        let text = format!("{}quorum {quorum}", all.lines());
        Policy::parse(text.as_bytes()).unwrap()
    };
    assert!(with("X2").check(&all.note(&["X2"])).is_ok());
    assert!(with("X2").check(&all.note(&["X1", "X3"])).is_err());
    let none = with("none").check(&all.note(&["X3"])).unwrap();
    assert_eq!(none[0].name, "X3");
    let mut forged = all.note(&["X2"]);
    forged.add(&all.0[0].0, &[7; 72]);
    let wrong = Err(PolicyFault::Wrong("X1".to_owned()));
    assert_eq!(with("X2").check(&forged), wrong);
    assert_eq!(with("none").check(&forged), wrong);
    assert_eq!(Policy::none().check(&forged), Ok(Vec::new()));
}

#[test]
fn blanks_comments_and_other_alphabets_are_no_matter() {
    let all = Witnesses::new();
    let text = format!(
        "\n# café \t\n\t  #quorum x\n  witness\t \u{212a}  {}\thttps://bücher.example/ \n \
        group g\tall   \u{212a}\n\tquorum g  \n\n   \n",
        all.0[0].0
    );
    let policy = Policy::parse(text.as_bytes()).unwrap();
    assert!(policy.check(&all.note(&["X1"])).is_ok());
    assert!(policy.check(&all.note(&["X2"])).is_err());
    // The Kelvin sign isn't the letter, and a name needn't be UTF-8.
    let other = text.replace("all   \u{212a}", "all K");
    assert_eq!(fault(&other), Some((5, Why::Unknown)));
    let head = b"witness \xff ";
    let latin = [head, REMORA.as_bytes(), b"\nquorum \xff\n"].concat();
    assert!(Policy::parse(&latin).is_ok());
}

#[test]
fn each_fault_has_its_line() {
    let w = Witnesses::new().lines();
    let after = |line: &str| format!("{w}{line}\n");
    for (text, line, why) in [
        (String::new(), 1, Why::Quorum),
        (w.clone(), 6, Why::Quorum),
        ("quorum none\nquorum none\n".to_owned(), 2, Why::Quorum),
        (format!("quorum X1\n{w}"), 1, Why::Unknown),
        (after("quorum X1 X2"), 7, Why::Form),
        (after("group g 0 X1"), 7, Why::Threshold),
        (after("group g 2 X1"), 7, Why::Threshold),
        (after("group g -1 X1"), 7, Why::Form),
        (after("group g 01 X1"), 7, Why::Form),
        (after("group g some X1"), 7, Why::Form),
        (after("group g all"), 7, Why::Threshold),
        (after("group g"), 7, Why::Form),
        (after("group g any g"), 7, Why::Unknown),
        (after("group g any none"), 7, Why::Unknown),
        (after("group none any X1"), 7, Why::DuplicateName),
        (after("group X2 any X1"), 7, Why::DuplicateName),
        (after("group g any X1 X1"), 7, Why::MemberTwice),
        (after("group g any X1\ngroup h any X1"), 8, Why::MemberTwice),
        (
            after(&format!("witness X1 {REMORA}")),
            7,
            Why::DuplicateName,
        ),
        (
            after(&format!("witness a {REMORA}\nwitness b {REMORA}")),
            8,
            Why::DuplicateKey,
        ),
        (
            after(&format!("witness none {REMORA}")),
            7,
            Why::DuplicateName,
        ),
        (after(&format!("witness a {LOG}")), 7, Why::Kind),
        (after("witness a b"), 7, Why::Key(KeyError::Form)),
        (after(&format!("log {REMORA}")), 7, Why::Kind),
        (
            after(&format!("log {LOG}\nlog {LOG}")),
            8,
            Why::DuplicateKey,
        ),
        (after(&format!("log {LOG} https://x y")), 7, Why::Form),
        (after(&format!("log {LOG}x")), 7, Why::Key(KeyError::Form)),
        (after("witnesses"), 7, Why::Form),
        (after("\u{b}"), 7, Why::Characters),
        (after("quorum none\r"), 7, Why::Characters),
        (after("# \u{7f}"), 7, Why::Characters),
        ("#".repeat(MAX_LEN + 1), 1, Why::TooLarge),
    ] {
        assert_eq!(fault(&text), Some((line, why)), "{text:.2000}");
    }
    let two = format!("log {LOG}\nlog {OTHER_LOG}\nquorum none");
    assert_eq!(fault(&two), None);
    // One key under two names is one witness.
    let key = VerifierKey::parse(REMORA).unwrap();
    let renamed = VerifierKey::new("x", Algorithm::Cosignature, key.public()).unwrap();
    let twice = format!("witness a {REMORA}\nwitness b {renamed}\n");
    assert_eq!(fault(&twice), Some((2, Why::DuplicateKey)));
}

#[test]
fn a_policy_has_a_bound() {
    let all = Witnesses::new();
    let nested = |count: usize| {
        let groups = (1..count).map(|n| format!("group {n} any {}\n", n - 1));
        let groups: String = groups.collect();
        let first = format!("{}group 0 any X1\n", all.lines());
        format!("{first}{groups}quorum {}\n", count - 1)
    };
    let policy = Policy::parse(nested(MAX_ENTRIES).as_bytes()).unwrap();
    assert!(policy.check(&all.note(&["X1"])).is_ok());
    let line = 6 + MAX_ENTRIES + 1;
    assert_eq!(fault(&nested(MAX_ENTRIES + 1)), Some((line, Why::TooMany)));
}
