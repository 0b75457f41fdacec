//! The question that README and demo ask has one answer on every kind of CPU.

use slmd::for_tests::engine::text::Text;
use slmd::for_tests::engine::{Family, LoadOptions, Model};
use slmd::for_tests::prompt::{Input, Message, Role};
use slmd::for_tests::secret::Secret;
use slmd::for_tests::time::Timestamp;

use crate::{argmax, bundle};

const QUESTION: &str = "What is the capital of Japan?";
const ANSWER: &str = "The capital of Japan is Tokyo";
/// How far the likeliest token must lead, in nats, so that rounding doesn't decide: the difference
/// of two logits is that of their log-probabilities.
const LEAD: f32 = 1.0;

#[test]
fn greed_gives_the_right_answer_by_a_clear_margin_with_all_kernels() {
    let text = Text::load(&bundle().folder).unwrap();
    let message = Message {
        role: Role::User,
        content: Secret::new(QUESTION.to_owned()),
    };
    let chat = Input::Messages(vec![message]);
    let prompt = text.encode(&chat, Timestamp(0)).unwrap().ids;
    let families: Vec<Family> = Family::usable().collect();
    assert!(families.contains(&Family::Scalar), "{families:?}");
    for family in families {
        let model = Model::load(bundle(), &LoadOptions { threads: 2, family }).unwrap();
        let mut sequence = model.sequence(256).unwrap();
        let (mut said, mut next) = (Vec::new(), prompt.clone());
        while said.len() < ANSWER.len() {
            let logits = sequence.feed(&next).unwrap();
            let token = argmax(logits);
            let best = logits[token as usize];
            let ids = (0_u32..).zip(logits).filter(|(id, _)| *id != token);
            let second = ids.fold(f32::MIN, |most, (_, logit)| most.max(*logit));
            let so_far = String::from_utf8_lossy(&said);
            assert!(
                best - second >= LEAD,
                "{family:?}: {} after {so_far:?}",
                best - second
            );
            said.extend_from_slice(text.tokenizer().bytes(token));
            next = vec![token];
        }
        assert_eq!(String::from_utf8(said).unwrap(), ANSWER, "{family:?}");
    }
}
