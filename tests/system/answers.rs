//! What a newcomer gets who sets nothing: answers by the defaults of bundle and endpoint.

use serde_json::{Value, json};

use crate::questions::{Question, SCORED_SEEDS};
use crate::support::{Daemon, Issuer, Setup, claims, http, root};

/// `default_completion_tokens`.
const MOST: u64 = 512;
/// Right ones of the 21. The model's own distribution gives 12 in the mean, the bundle's defaults 20.
const RIGHT: usize = 18;

struct Scene {
    daemon: Daemon,
    token: String,
}

impl Scene {
    fn start(setup: Setup) -> Scene {
        let issuer = Issuer::new("ES256", "key-1");
        let daemon = Daemon::start(setup.issuer(&issuer));
        let token = issuer.token(claims());
        Scene { daemon, token }
    }

    fn ask(&self, path: &str, body: &Value) -> Value {
        let bearer = format!("Bearer {}", self.token);
        let headers = [("authorization", bearer.as_str())];
        let socket = self.daemon.socket();
        let response = http(&socket, "POST", path, &headers, &body.to_string());
        assert_eq!(response.status, 200, "{body}");
        response.json()
    }

    fn chat(&self, messages: &Value) -> Value {
        self.ask(
            "/v1/chat/completions",
            &json!({"messages": messages, "seed": 1}),
        )
    }

    /// What the last permit says of sampling.
    fn sampling(&self) -> Value {
        let records = self.daemon.audit(0);
        let mut records = records
            .iter()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let last = records.rfind(|record| record["decision"] == "permit");
        last.expect("a permit")["sampling"].clone()
    }
}

fn text(answer: &Value) -> &str {
    let text = answer["choices"][0]["message"]["content"].as_str();
    text.expect("a chat's answer")
}

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

fn readmes_question() -> String {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md is there");
    let (_, rest) = readme.split_once("slmd ask \"").expect("it asks something");
    rest.split('"').next().unwrap_or_default().to_owned()
}

#[test]
fn easy_questions_are_answered_rightly_within_the_bound() {
    let questions = Question::all();
    assert_eq!(questions.len(), 7);
    let scene = Scene::start(Setup::new());
    let (mut right, mut wrong) = (0, Vec::new());
    for seed in 0..SCORED_SEEDS {
        for question in &questions {
            let body = json!({"messages": user(&question.ask), "seed": seed});
            let answer = scene.ask("/v1/chat/completions", &body);
            let said = text(&answer);
            let tokens = answer["usage"]["completion_tokens"].as_u64();
            assert!(tokens.is_some_and(|tokens| tokens <= MOST), "{answer}");
            match question.is_right(said) {
                true => right += 1,
                false => wrong.push(format!("{}: {said}", question.ask)),
            }
        }
    }
    println!("{right} of 21 are right");
    assert!(right >= RIGHT, "{right} of 21: {wrong:#?}");
    // As the model card advises, by the pin of the model.
    let sampling = scene.sampling();
    assert_eq!(
        (&sampling["temperature"], &sampling["top_p"]),
        (&json!(0.2), &json!(0.9))
    );
}

#[test]
fn the_readmes_question_is_answered_rightly_by_18_seeds_of_20() {
    let question = readmes_question();
    let scene = Scene::start(Setup::new());
    let answers = (0..20).map(|seed| {
        let body = json!({"messages": user(&question), "seed": seed});
        text(&scene.ask("/v1/chat/completions", &body)).to_owned()
    });
    let answers: Vec<String> = answers.collect();
    let right = answers.iter().filter(|answer| answer.contains("Tokyo"));
    assert!(right.count() >= 18, "{answers:#?}");
}

#[test]
fn an_endpoint_sets_sampling_length_and_instructions_unless_the_request_does() {
    let endpoint = "[[endpoint]]\nclient_id = \"slm\"\nmodel = \"smollm2-135m-instruct\"\n\
         temperature = 0\nrepetition_penalty = 1.1\ndefault_completion_tokens = 5\n\
         system_prompt = \"Answer in one short sentence. <|im_end|>\"\n";
    let plain = Scene::start(Setup::new());
    let scene = Scene::start(Setup::new().realm(endpoint));
    let hello = user("Tell me about the sea.");
    let answer = scene.chat(&hello);
    assert_eq!(answer["usage"]["completion_tokens"], 5);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let sampling = scene.sampling();
    let expected = json!({
        "temperature": 0.0, "top_p": 0.9, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.1,
        "seed": 1,
    });
    assert_eq!(sampling, expected);
    // As if the client had said it; the text of a setting is no control token either.
    let told = json!([
        {"role": "system", "content": "Answer in one short sentence. <|im_end|>"}, hello[0],
    ]);
    let tokens = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64();
    assert_eq!(
        tokens(&answer),
        tokens(&plain.ask(
            "/v1/chat/completions",
            &json!({
                "messages": told, "max_tokens": 1,
            })
        ))
    );
    // A client's own comes in its place.
    let own = json!([{"role": "developer", "content": "Sing."}, hello[0]]);
    let theirs = plain.ask(
        "/v1/chat/completions",
        &json!({"messages": own, "max_tokens": 1}),
    );
    assert_eq!(tokens(&scene.chat(&own)), tokens(&theirs));
    // A text completion is no chat, has OpenAI's length, and is sampled alike.
    let body = json!({"prompt": "The sea", "seed": 1, "top_p": 0.5, "presence_penalty": 0.25});
    let answer = scene.ask("/v1/completions", &body);
    assert_eq!(answer["usage"]["completion_tokens"], 16);
    let asked = json!({
        "temperature": 0.0, "top_p": 0.5, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.1,
        "presence_penalty": 0.25, "seed": 1,
    });
    assert_eq!(scene.sampling(), asked);
    let shown = scene.daemon.slmd(&["config", "show", "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    let shown = &shown["realm"][0]["endpoint"][0];
    assert_eq!(
        (&shown["temperature"], &shown["repetition_penalty"]),
        (&json!(0), &json!(1.1))
    );
}

#[test]
fn a_penalty_leads_out_of_the_loop_that_greed_runs_into() {
    let scene = Scene::start(Setup::new());
    // Greedily it says one name over and over, as the first trials found.
    let body = |penalty: f64| {
        json!({
            "messages": user("What is the capital of Italy?"), "temperature": 0,
            "repetition_penalty": penalty, "max_tokens": 120,
        })
    };
    let lengths = [1.0, 1.2].map(|penalty| {
        let answer = scene.ask("/v1/chat/completions", &body(penalty));
        answer["choices"][0]["finish_reason"].clone()
    });
    assert_eq!(lengths, ["length", "stop"]);
}

#[test]
fn ask_takes_each_parameter() {
    let scene = Scene::start(Setup::new());
    let ask = |arguments: &[&str]| {
        let mut command = scene.daemon.binary();
        command.args(["ask", "--socket"]).arg(scene.daemon.socket());
        command
            .env("SLMD_TOKEN", &scene.token)
            .env_remove("SLMD_TOKEN_FILE");
        let output = command.args(arguments).output().expect("slmd runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (
            output.status.code(),
            said,
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let arguments = [
        "--top-p",
        "0.5",
        "--top-k",
        "7",
        "--min-p",
        "0.1",
        "--repetition-penalty",
        "1.05",
        "--frequency-penalty",
        "-0.5",
        "--presence-penalty",
        "0.5",
        "--temperature",
        "0.3",
        "--seed",
        "3",
        "--stop",
        "Tokyo",
        "--stop",
        "zzz",
        "What is the capital of Japan?",
    ];
    let (code, said, answer) = ask(&arguments);
    assert_eq!(code, Some(0), "{said}");
    assert!(!answer.contains("Tokyo"), "{answer}");
    let expected = json!({
        "temperature": 0.3, "top_p": 0.5, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.05,
        "frequency_penalty": -0.5, "presence_penalty": 0.5, "seed": 3,
    });
    assert_eq!(scene.sampling(), expected);
    let (code, said, _) = ask(&["--repetition-penalty", "0", "hi"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("from 0.1 to 2"), "{said}");
}

#[test]
fn a_model_is_imported_with_advice_and_shows_it() {
    let scene = Scene::start(Setup::new());
    let shown = scene
        .daemon
        .slmd(&["model", "show", "smollm2-135m-instruct", "--json"]);
    let said = String::from_utf8_lossy(&shown.stderr);
    assert!(shown.status.success(), "{said}");
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert_eq!(shown["sampling"], json!({"temperature": 0.2, "top_p": 0.9}));
    assert_eq!(shown["architecture"]["family"], "llama");
}
