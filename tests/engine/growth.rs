//! A thousand prompts need no more memory than a hundred.

use std::process::Command;

use slmd::for_tests::engine::{LoadOptions, Model};

use crate::bundle;

const PROMPTS: usize = 1000;
/// Everything that grows once has grown by then.
const SETTLED: usize = 100;
/// A leak of one page for every third prompt would be more.
const MOST_KIB: u64 = 1024;
const LINE: &str = "anonymous KiB: ";

/// In a process of its own: other tests of this one take and free memory at the same time.
#[test]
fn a_thousand_prompts_leave_memory_as_it_was() {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "growth::prompts_one_after_another"]);
    let output = child.args(["--ignored", "--nocapture"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    // The first line may follow the name of the test.
    let readings = text.lines().filter_map(|line| line.split_once(LINE));
    let readings: Vec<u64> = readings.map(|(_, kib)| kib.parse().unwrap()).collect();
    println!("{readings:?} KiB");
    assert_eq!(readings.len(), PROMPTS / SETTLED);
    let last = readings[readings.len() - 1];
    let grown = last.saturating_sub(readings[0]);
    assert!(grown <= MOST_KIB, "{grown} KiB more: {readings:?}");
}

#[test]
#[ignore = "the child process of the test above"]
fn prompts_one_after_another() {
    let bundle = bundle();
    let options = LoadOptions {
        threads: 2,
        ..LoadOptions::default()
    };
    let model = Model::load(bundle, &options).unwrap();
    let mut kept = model.sequence(64).unwrap();
    for number in 1..=PROMPTS {
        let prompt: Vec<u32> = (0..1 + number % 6)
            .map(|i| (number * 31 + i * 97) as u32 % 49_152)
            .collect();
        // A sequence for all prompts, as the engine has it; now and then one that comes and goes.
        let mut own = (number % 10 == 0).then(|| model.sequence(64).unwrap());
        let sequence = own.as_mut().unwrap_or(&mut kept);
        sequence.reset();
        sequence.feed(&prompt).unwrap();
        sequence.feed(&[7]).unwrap();
        if number % SETTLED == 0 {
            println!("{LINE}{}", anonymous());
        }
    }
}

fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.unwrap().trim().strip_suffix("kB").unwrap();
    kib.trim().parse().unwrap()
}
