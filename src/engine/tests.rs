//! The engine's queue and thread, with a fake model.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Instant;

use super::fake::{self, chat};
use super::*;
use crate::auth::Endpoint;
use crate::prompt::{
    AnswerReceiver, Completion, Dialect, Finish, Fragment, Input, Message, Role, Usage, channel,
};
use crate::reason::{DenyReason, Reason, RefuseReason};
use crate::secret::Secret;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// Lets fake models go on; closed at first.
#[derive(Debug, Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn pass(&self) {
        let open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(open, |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

struct Submitted {
    receiver: AnswerReceiver,
    interrupt: Interrupt,
    report: mpsc::Receiver<Report>,
}

impl Submitted {
    fn report(&self) -> Report {
        self.report.recv_timeout(Duration::from_secs(20)).unwrap()
    }
}

fn start(queue: usize, loaded: Loaded) -> (Engine, Registry) {
    let mut registry = Registry::default();
    let settings = Settings {
        threads: 1,
        spare_cores: 0,
        context: fake::CONTEXT,
        queue,
        kernels: None,
    };
    (
        Engine::start(Models(vec![loaded]), &settings, &mut registry).unwrap(),
        registry,
    )
}

fn principal(subject: &str) -> Principal {
    Principal {
        issuer: "https://keycloak.test/realms/dev".to_owned(),
        subject: subject.to_owned(),
        client: "tests".to_owned(),
    }
}

/// For a principal that asks for nothing else.
fn submit(
    engine: &Engine,
    prompt: Prompt,
    deadline: Option<Instant>,
) -> Result<Submitted, Refusal> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let slot = engine.reserve(&principal(&format!("once-{number}")))?;
    let (answer, receiver) = channel(64);
    let (send, report) = mpsc::channel();
    let interrupt = Interrupt::default();
    let queue = Arc::clone(slot.place.queue());
    queue.push(Work {
        prompt,
        answer,
        interrupt: interrupt.clone(),
        deadline,
        priority: 5,
        done: Box::new(move |report| drop(send.send(report.clone()))),
        submitted: time::instant(),
        lines: tracing::Span::none(),
        place: slot.place,
        permitted: None,
    });
    Ok(Submitted {
        receiver,
        interrupt,
        report,
    })
}

fn read(mut receiver: AnswerReceiver) -> (String, Outcome) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut text = String::new();
        loop {
            match receiver.next().await.unwrap() {
                Fragment::Text(piece) => text.push_str(&piece),
                Fragment::End(outcome) => return (text, outcome),
            }
        }
    })
}

#[test]
fn answers_and_reports() {
    let (engine, registry) = start(1, fake::loaded(fake::saying(b"Paris.$")));
    let submitted = submit(&engine, fake::prompt("France>", 50, &[]), None).unwrap();
    let report = submitted.report();
    let (text, outcome) = read(submitted.receiver);
    assert_eq!(text, "Paris.");
    let usage = Usage {
        prompt_tokens: 7,
        completion_tokens: 7,
    };
    assert_eq!(
        outcome,
        Outcome {
            finish: Finish::Stop,
            usage
        }
    );
    assert_eq!(report.outcome, outcome);
    let first = report.first_token.unwrap();
    assert!(
        report.queued <= first && first <= report.total,
        "{report:?}"
    );
    let mut metrics = String::new();
    prometheus_client::encoding::text::encode(&mut metrics, &registry).unwrap();
    let of =
        r#"gen_ai_operation_name="chat",gen_ai_provider_name="slmd",gen_ai_request_model="fake""#;
    for line in [
        format!("gen_ai_server_request_duration_seconds_count{{{of}}} 1"),
        format!("gen_ai_server_time_to_first_token_seconds_count{{{of}}} 1"),
        format!("gen_ai_server_time_per_output_token_seconds_count{{{of}}} 1"),
        format!("gen_ai_client_token_usage_sum{{{of},gen_ai_token_type=\"input\"}} 7.0"),
        "slmd_queue_waiting 0".to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}

#[test]
fn a_full_queue_says_when_to_come_back_and_order_is_kept() {
    let gate = Gate::default();
    let (waits, mut says) = (gate.clone(), fake::saying(b"x$"));
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&order);
    let model = move |tokens: &[u32]| {
        waits.pass();
        seen.lock().unwrap().push(tokens[0]);
        says(tokens)
    };
    let (engine, _) = start(2, fake::loaded(model));
    let prompts = ["a>", "bb>", "ccc>"].map(|text| fake::prompt(text, 9, &[]));
    let all = prompts.map(|prompt| submit(&engine, prompt, None).unwrap());
    let refusal = engine.reserve(&principal("a")).unwrap_err();
    assert_eq!(refusal.reason, Reason::Refused(RefuseReason::Overloaded));
    let wait = refusal.retry_after.unwrap().as_secs();
    assert!((1..=60).contains(&wait), "{wait}");
    let (waiting, running) = engine.load();
    assert_eq!(waiting + running, 3);
    gate.open();
    for submitted in all {
        submitted.report();
        read(submitted.receiver);
    }
    let order = order.lock().unwrap();
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(engine.load().0, 0);
    drop(engine.reserve(&principal("a")).unwrap());
}

#[test]
fn a_dropped_slot_is_free_again() {
    let (engine, _) = start(0, fake::loaded(fake::saying(b"x$")));
    let slot = engine.reserve(&principal("a")).unwrap();
    assert!(engine.reserve(&principal("a")).is_err());
    drop(slot);
    assert!(engine.reserve(&principal("a")).is_ok());
}

#[test]
fn work_that_nobody_wants_is_dropped_while_it_waits() {
    let gate = Gate::default();
    let (waits, runs) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&runs);
    let mut says = fake::saying(b"abcdefgh$");
    let model = move |tokens: &[u32]| {
        if tokens.len() == 2 {
            waits.pass();
            counted.fetch_add(1, Ordering::Relaxed);
        }
        says(tokens)
    };
    let (engine, _) = start(4, fake::loaded(model));
    let prompt = || fake::prompt("a>", 50, &[]);
    let first = submit(&engine, prompt(), None).unwrap();
    let past = Some(time::instant());
    let late = submit(&engine, prompt(), past).unwrap();
    let left = submit(&engine, prompt(), None).unwrap();
    let revoked = submit(&engine, prompt(), None).unwrap();
    revoked
        .interrupt
        .raise(Finish::Revoked(DenyReason::KeyUnknown));
    let Submitted {
        receiver,
        report: left,
        ..
    } = left;
    drop(receiver);
    gate.open();
    assert_eq!(first.report().outcome.finish, Finish::Stop);
    let late = late.report();
    assert_eq!(late.outcome.finish, Finish::Deadline);
    assert_eq!(late.outcome.usage, Usage::default());
    let left = left.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(left.outcome.finish, Finish::Cancelled);
    assert_eq!(
        revoked.report().outcome.finish,
        Finish::Revoked(DenyReason::KeyUnknown)
    );
    assert_eq!(runs.load(Ordering::Relaxed), 1);
}

#[test]
fn a_panic_fails_one_answer_only() {
    let mut says = fake::saying(b"ok$");
    let model = move |tokens: &[u32]| {
        assert!(tokens[0] != fake::id(b'!') || tokens.len() < 4, "as asked");
        says(tokens)
    };
    let (engine, _) = start(4, fake::loaded(model));
    let bad = submit(&engine, fake::prompt("!>", 50, &[]), None).unwrap();
    let good = submit(&engine, fake::prompt("a>", 50, &[]), None).unwrap();
    let report = bad.report();
    assert_eq!(report.outcome.finish, Finish::Failed);
    let usage = Usage {
        prompt_tokens: 2,
        completion_tokens: 2,
    };
    assert_eq!(report.outcome.usage, usage);
    assert_eq!(read(bad.receiver).1.finish, Finish::Failed);
    assert_eq!(
        read(good.receiver),
        ("ok".to_owned(), good.report.recv().unwrap().outcome)
    );
}

#[test]
fn stop_ends_what_runs_and_what_waits() {
    let gate = Gate::default();
    let (waits, mut says) = (gate.clone(), fake::saying(b"x"));
    let model = move |tokens: &[u32]| {
        waits.pass();
        says(tokens)
    };
    let (engine, _) = start(2, fake::loaded(model));
    let reserved = engine.reserve(&principal("a")).unwrap();
    let submitted =
        ["a>", "b>"].map(|text| submit(&engine, fake::prompt(text, 100, &[]), None).unwrap());
    while engine.load().1 == 0 {
        std::thread::yield_now();
    }
    engine.stop();
    gate.open();
    for submitted in submitted {
        assert_eq!(submitted.report().outcome.finish, Finish::Shutdown);
    }
    let refusal = engine.reserve(&principal("a")).unwrap_err();
    assert_eq!(refusal.reason, Reason::Refused(RefuseReason::Draining));
    drop(reserved);
}

#[test]
fn the_heart_beats_while_idle() {
    let (engine, _) = start(1, fake::loaded(fake::saying(b"x$")));
    let before = engine.heartbeat();
    let until = time::instant() + Duration::from_secs(60);
    while engine.heartbeat() == before {
        assert!(time::instant() < until, "no beat");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_higher_priority_goes_first_and_equals_keep_their_order() {
    let (engine, _) = start(8, fake::loaded(fake::saying(b"x$")));
    let metrics = Metrics::register(&mut Registry::default());
    let queue = Arc::new(Queue::new(16, metrics));
    let prompt = engine
        .prepare(&fake::endpoint(None), chat("hi"), None, NOW)
        .unwrap();
    let (mut kept, mut tickets) = (Vec::new(), Vec::new());
    for (seed, priority) in [(0, 5), (1, 2), (2, 9), (3, 5), (4, 9), (5, 2)] {
        let mut prompt = prompt.clone();
        prompt.sampling.seed = Some(seed);
        let (answer, receiver) = channel(1);
        kept.push(receiver);
        tickets.push(queue.push(Work {
            prompt,
            answer,
            interrupt: Interrupt::default(),
            deadline: None,
            priority,
            done: Box::new(|_| {}),
            submitted: time::instant(),
            lines: tracing::Span::none(),
            place: queue.reserve([0; 32]).unwrap(),
            permitted: None,
        }));
    }
    let places = || tickets.iter().map(Ticket::place).collect::<Vec<_>>();
    assert_eq!(places(), [3, 5, 1, 4, 2, 6].map(Some));
    let next = |_| queue.next().unwrap().prompt.sampling.seed.unwrap();
    let order: Vec<u64> = (0..6).map(next).collect();
    assert_eq!(order, [2, 4, 0, 3, 1, 5]);
    assert_eq!(places(), [None; 6]);
}

/// Work of a principal in a queue that the test runs itself.
fn work(queue: &Arc<Queue>, whose: [u8; 32]) -> Result<Work, Refusal> {
    Ok(Work {
        prompt: fake::prompt("a>", 1, &[]),
        answer: channel(1).0,
        interrupt: Interrupt::default(),
        deadline: None,
        priority: 5,
        done: Box::new(|_| {}),
        submitted: time::instant(),
        lines: tracing::Span::none(),
        place: queue.reserve(whose)?,
        permitted: None,
    })
}

/// One principal asks whenever it finds a place. Another asks again only while the turn after its
/// own is running, which is as bad for it as it gets.
#[test]
fn beside_a_flooder_others_find_their_places_and_have_their_turns() {
    const FLOODER: [u8; 32] = [1; 32];
    const OTHER: [u8; 32] = [2; 32];
    let queue = Arc::new(Queue::new(8, Metrics::register(&mut Registry::default())));
    let (mut turns, mut refused) = (Vec::new(), None);
    for _ in 0..200 {
        let refusal = loop {
            match work(&queue, FLOODER) {
                Ok(work) => drop(queue.push(work)),
                Err(refusal) => break refusal,
            }
        };
        refused = Some(refusal);
        let turn = queue.next().unwrap();
        turns.push(turn.place.whose());
        if turns.last() == Some(&FLOODER) && turns[..turns.len() - 1].last() != Some(&FLOODER) {
            queue.push(work(&queue, OTHER).unwrap());
        }
        let progress = generate::Progress::new(&turn.prompt);
        turn.end(Finish::Stop, Duration::ZERO, progress);
        queue.ended(Duration::from_secs(2));
    }
    let of_flooder: Vec<usize> = turns.split(|turn| *turn == OTHER).map(<[_]>::len).collect();
    assert!(of_flooder.len() > 50, "{of_flooder:?}");
    assert!(of_flooder.iter().all(|turns| *turns <= 2), "{of_flooder:?}");
    let refused = refused.unwrap();
    assert_eq!(refused.reason, RefuseReason::Overloaded.into());
    // One turn of each, of two seconds.
    assert_eq!(refused.retry_after, Some(Duration::from_secs(4)));
    let told = refused.detail.unwrap();
    assert!(told.starts_with("4 requests of this principal"), "{told}");
}

#[test]
fn a_fault_of_the_template_is_the_models_and_what_it_refuses_the_clients() {
    let text = fake::text_with(
        "{% for m in messages %}{% if 'odd' in m.content %}{{ m.content.nonsense() }}{% endif %}\
         {% if 'twice' in m.content %}{{ raise_exception('roles must alternate') }}{% endif %}\
         {{ m.content }}{% endfor %}{{ strftime_now('%Y') if 'when' in messages[-1].content }}",
    );
    let encode = |words: &str| text.encode(&chat(words).input, NOW);
    let fault = encode("odd").unwrap_err();
    assert_eq!(fault.reason, RefuseReason::TemplateFailed.into());
    assert_eq!((fault.status(), &fault.param), (500, &None));
    assert!(fault.message().contains("nonsense"), "{fault}");
    let refused = encode("twice").unwrap_err();
    assert_eq!(refused.reason, RefuseReason::BadRequest.into());
    assert_eq!(refused.param.as_deref(), Some("messages"));
    assert!(refused.message().contains("roles must alternate"));
    let encoded = encode("when").unwrap();
    assert!(encoded.dated);
    assert_eq!(encoded.ids.len(), "when2027".len());
    assert!(!encode("hi").unwrap().dated);
}

#[test]
fn an_end_token_must_be_a_token() {
    let template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}";
    let ending = |id: u32| {
        let config = format!(r#"{{"bos_token_id": 0, "eos_token_id": {id}}}"#);
        fake::parse(template, config.as_bytes())
    };
    let encoded = ending(1).unwrap().encode(&chat("a").input, NOW).unwrap();
    assert_eq!(encoded.ids, [0, fake::id(b'a'), 1]);
    let error = ending(258).unwrap_err();
    assert!(error.contains("eos_token_id is 258"), "{error}");
}

/// The whole way on the real model. Its greedy answer leads by at least 1.1 at every token in
/// llama.cpp, so that rounding doesn't decide it.
#[test]
fn the_real_model_knows_the_capital() {
    let gguf = std::env::var_os("SLMD_GGUF").map_or_else(
        || {
            let cache = std::env::var_os("XDG_CACHE_HOME").map(std::path::PathBuf::from);
            let home =
                std::env::var_os("HOME").map(|home| std::path::Path::new(&home).join(".cache"));
            let cache = cache.or(home).unwrap_or_default();
            cache.join("slmd/SmolLM2-135M-Instruct.Q4_1.gguf")
        },
        std::path::PathBuf::from,
    );
    assert!(
        gguf.is_file(),
        "no model at {}; run make model",
        gguf.display()
    );
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("smollm2");
    let gguf = gguf::Gguf::open(&gguf).unwrap();
    let bundle = import(&gguf, &out, "smollm2", SamplingOptions::default()).unwrap();
    let settings = Settings {
        threads: 0,
        spare_cores: 0,
        context: 512,
        queue: 1,
        kernels: None,
    };
    let models = Models::load(&[bundle], &settings).unwrap();
    let engine = Engine::start(models, &settings, &mut Registry::default()).unwrap();
    let message = |role, text: &str| Message {
        role,
        content: Secret::new(text.to_owned()),
    };
    let chat = Completion {
        dialect: Dialect::Chat,
        input: Input::Messages(vec![
            message(
                Role::System,
                "You answer questions about geography in one short sentence.",
            ),
            message(Role::User, "What is the capital city of France?"),
        ]),
        sampling: SamplingOptions {
            temperature: Some(0.0),
            ..SamplingOptions::default()
        },
        seed: None,
        max_completion_tokens: Some(32),
        stop: Vec::new(),
    };
    let endpoint = Endpoint {
        model: "smollm2".to_owned(),
        ..Endpoint::default()
    };
    let prompt = engine.prepare(&endpoint, chat, None, NOW).unwrap();
    let submitted = submit(&engine, prompt, None).unwrap();
    let (text, outcome) = read(submitted.receiver);
    assert_eq!(text, "The capital city of France is Paris.");
    assert_eq!(outcome.finish, Finish::Stop);
}

#[test]
fn instructions_that_no_chat_can_begin_with_are_told_beforehand() {
    let refusing = fake::text_with(
        "{% for message in messages %}{% if message.role == 'system' %}\
         {{ raise_exception('no system messages') }}{% endif %}{{ message.content }}{% endfor %}",
    );
    let why = refusing.check_instructions("Be kind.", 1000).unwrap_err();
    assert!(why.contains("no system messages"), "{why}");
    let text = fake::text();
    assert_eq!(text.check_instructions("Be kind.", 1000), Ok(()));
    let why = text.check_instructions("Be kind.", 8).unwrap_err();
    assert!(why.contains("of 8 tokens"), "{why}");
}
