//! `slmd model bench` on the real model.

use std::process::{Command, Output};

use serde_json::Value;
use slmd::for_tests::engine::Family;

use crate::bundle;

fn bench(arguments: &[&str]) -> Output {
    let models = bundle().folder.parent().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_slmd"));
    command.args(["model", "bench", "--models-dir"]).arg(models);
    command.args(arguments).output().unwrap()
}

#[test]
fn every_figure_is_there_for_each_number_of_threads() {
    let output = bench(&["smollm2-135m-instruct", "--threads", "1,2", "--json"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["kernels"]["used"], Family::detect().as_str());
    let available = found["kernels"]["available"].as_array().unwrap();
    assert!(available.contains(&"scalar".into()), "{available:?}");
    assert_eq!(found["digest"], bundle().digest);
    let runs = found["runs"].as_array().unwrap();
    let threads: Vec<_> = runs.iter().map(|run| run["threads"].as_u64()).collect();
    assert_eq!(threads, [Some(1), Some(2)]);
    let weights = found["weights_mib"].as_f64().unwrap();
    for run in runs {
        for figure in ["/load_ms", "/decode_tokens_per_second"] {
            assert!(run.pointer(figure).unwrap().as_f64() > Some(0.0), "{run}");
        }
        let long = &run["long_context"];
        let depth = long["tokens"].as_u64().unwrap();
        assert!((1..=1500).contains(&depth), "{run}");
        assert!(long["decode_tokens_per_second"].as_f64() > Some(0.0));
        // Left out where the machine is too slow.
        for figure in [
            "first_token_ms",
            "prefill_128_tokens_per_second",
            "prefill_512_tokens_per_second",
        ] {
            let figure = &run[figure];
            assert!(figure.is_null() || figure.as_f64() > Some(0.0), "{run}");
        }
        let resident = run["memory_mib"]["resident"].as_f64().unwrap();
        let anonymous = run["memory_mib"]["anonymous"].as_f64().unwrap();
        assert!(anonymous > 0.0 && resident > anonymous, "{run}");
        assert!(resident > weights && resident < 4.0 * weights, "{run}");
    }
}

#[test]
fn people_get_a_table() {
    let output = bench(&[
        "smollm2-135m-instruct",
        "--threads",
        "2",
        "--kernels",
        "scalar",
    ]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("\nkernels: scalar ("), "{text}");
    let head = text.lines().position(|line| line.starts_with("threads  "));
    let row = text.lines().nth(head.unwrap() + 1).unwrap();
    assert!(row.trim_start().starts_with("2 "), "{text}");
}

#[test]
fn what_cannot_be_measured_is_said() {
    let missing = bench(&["none"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("none"));
    let usage = bench(&["smollm2-135m-instruct", "--threads", "0"]);
    assert_eq!(usage.status.code(), Some(2));
    let usage = bench(&["smollm2-135m-instruct", "--kernels", "sse2"]);
    assert_eq!(usage.status.code(), Some(2));
    let said = String::from_utf8_lossy(&usage.stderr);
    assert!(said.contains("scalar"), "{said}");
}
