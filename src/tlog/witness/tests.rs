use super::*;
use crate::tlog::leaves::Leaves;

/// The example of C2SP's tlog-witness.
const REQUEST: &str = "\
old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=
";
const ANSWER: &str = "\
— witness.example/w1 CMp+6LWBU0anHGH5aNDTJkH/gj79sG+T6+iP2ThYN5krrDJbR1HDnucjL39QsZTSvVjyQLrdk3DXDqI5G2HgLatVs0pWh6Up69HVOw==
— witness.example/w1 I7rEps0pvK2UqkS2gSpVUDhrhVtQV9lgF6pRrWAvjJHjyWpW7VcE3SiOlVlbQNt64vWhO+DlkL0+UfzuOBMh9ChdMkP1vi/lCAsmlw==
— witness.example/w2 AWui8Sk55XjYLOijihBjhqEH6nS1ndDymE0a+6idX7pLcnoB+dhnz0854aLZgrrKbYKA7nC3HNJhm/kWl7oJlqU3rXXvpysAdyP3wQ==
";

fn published() -> (&'static str, Note) {
    let (head, note) = REQUEST.split_once("\n\n").unwrap();
    (head, Note::parse(note.as_bytes()).unwrap())
}

#[test]
fn a_request_is_as_published() {
    let (head, note) = published();
    let proof = head.lines().skip(1).map(|line| text::hash(line).unwrap());
    let proof: Vec<Hash> = proof.collect();
    let request = add_checkpoint(20_852_014, &proof, &note.to_string());
    assert_eq!(request, REQUEST);
    assert_eq!(add_checkpoint(0, &[], "a\n"), "old 0\n\na\n");
    assert_eq!(Checkpoint::parse(note.text()).unwrap().size, 20_852_163);
}

#[test]
fn a_published_answer_is_added_to_the_note() {
    let (_, note) = published();
    let both = cosigned(&note, ANSWER.as_bytes()).unwrap();
    assert_eq!(both.to_string(), format!("{note}{ANSWER}"));
    assert_eq!(both.text(), note.text());
    let line = ANSWER.lines().next().unwrap();
    for (body, why) in [
        ("ok\n", NoteError::Signature),
        (line, NoteError::Unsigned),
        (&format!("\n{line}\n"), NoteError::Signature),
        (&format!("x\n\n{line}\n"), NoteError::Signature),
        (&"x".repeat(note::MAX_LEN + 1), NoteError::TooLarge),
        (&ANSWER.repeat(30), NoteError::TooMany),
        ("\r\n", NoteError::Characters),
    ] {
        assert_eq!(cosigned(&note, body.as_bytes()), Err(why), "{body:.80}");
    }
}

#[test]
fn a_conflict_tells_a_size() {
    assert_eq!(known_size(b"20852014\n"), Some(20_852_014));
    assert_eq!(known_size(b"0"), Some(0));
    for body in ["", "\n", "1\n\n", " 1\n", "-1\n", "one\n"] {
        assert_eq!(known_size(body.as_bytes()), None, "{body:?}");
    }
    assert_eq!(known_size(b"\xff\n"), None);
}

#[test]
fn a_log_that_grows_is_followed() {
    let log = Leaves::new(20, None);
    let step = |kept: u64, shown: u64| {
        let proof = log.proof(kept, shown);
        judge(Some(&log.at("a", kept)), &log.at("a", shown), Some(&proof))
    };
    assert_eq!(judge(None, &log.at("a", 7), None), Ok(Step::First));
    assert_eq!(step(7, 7), Ok(Step::Same));
    assert_eq!(step(0, 7), Ok(Step::Grown));
    for kept in 1..20 {
        for shown in kept + 1..=20 {
            assert_eq!(step(kept, shown), Ok(Step::Grown), "{kept} {shown}");
        }
    }
}

#[test]
fn a_log_that_was_rewritten_is_found() {
    let log = Leaves::new(20, None);
    let kept = log.at("a", 9);
    let seen = |shown: &Checkpoint, proof: &[Hash]| judge(Some(&kept), shown, Some(proof));
    for changed in 0..9 {
        let other = Leaves::new(20, Some(changed));
        for size in 10..=20 {
            // Neither its own proof helps, nor the true log's.
            for proof in [other.proof(9, size), log.proof(9, size), Vec::new()] {
                let judged = seen(&other.at("a", size), &proof);
                assert_eq!(judged, Err(Doubt::Inconsistent(9)), "{changed} {size}");
            }
        }
        assert_eq!(seen(&other.at("a", 9), &[]), Err(Doubt::OtherRoot));
    }
    // What nobody has seen may be anything.
    let other = Leaves::new(20, Some(9));
    let judged = seen(&other.at("a", 12), &other.proof(9, 12));
    assert_eq!(judged, Ok(Step::Grown));
    for size in 0..9 {
        let judged = seen(&log.at("a", size), &[]);
        assert_eq!(judged, Err(Doubt::Smaller(9, size)));
    }
}

#[test]
fn a_proof_that_is_missing_is_no_evidence() {
    let log = Leaves::new(20, None);
    let judged = judge(Some(&log.at("a", 9)), &log.at("a", 12), None);
    assert_eq!(judged, Err(Doubt::Unproven(9)));
    assert!(!Doubt::Unproven(9).is_fork());
    for fork in [
        Doubt::Smaller(9, 8),
        Doubt::OtherRoot,
        Doubt::Inconsistent(9),
    ] {
        assert!(fork.is_fork());
    }
}
