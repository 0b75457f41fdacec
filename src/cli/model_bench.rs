//! `slmd model bench`: what a user can expect of a model on this machine, in seconds.
//!
//! Every figure has a bound in time: where the machine is too slow for one, the figure is left
//! out, or taken with less context than asked, and says so.

use std::fs;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::exit::{Done, Failure};
use super::model_folder::Folder;
use super::terminal::count;
use super::{Global, output};
use crate::catalog::{Bundle, Catalog, WEIGHTS};
use crate::engine::text::Text;
use crate::engine::{EngineError, Family, LoadOptions, Model, Sequence};
use crate::time::instant;

/// A prompt that is expected to take longer isn't measured.
const MOST: Duration = Duration::from_secs(4);
/// What is quicker is measured again, as often as fits, at most this often.
const REPEAT: Duration = Duration::from_millis(500);
const REPEATS: usize = 5;
/// A long context, as llama.cpp's and our own benchmarks take it.
const LONG: usize = 1500;
const ANSWER: usize = 64;
/// Tokens between two looks at the clock.
const WARM: usize = 16;
/// More columns than that tell nothing new.
const FEW_CORES: usize = 4;

/// Measure what a model does on this machine: prefill, decode, first token, memory, by threads.
#[derive(Debug, Args)]
#[command(after_help = "\
Takes some seconds for each number of threads, bounded on slow machines too. A daemon or anything
else that keeps the cores busy makes the figures worse.

Examples:
  slmd model bench smollm2-135m-instruct
  slmd model bench small --threads 1,4 --models-dir ./models --json")]
pub(super) struct Bench {
    /// The bundle's name.
    name: String,
    /// Numbers of threads to measure (default: from 1 to the number of cores).
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: Vec<u16>,
    /// The kernels to use (default: the fastest that the CPU has).
    #[arg(long, value_name = "FAMILY", value_parser = family)]
    kernels: Option<Family>,
    #[command(flatten)]
    folder: Folder,
}

/// A prompt's speed is that of its whole, up to the logits of what follows.
#[derive(Debug, Default)]
struct Figures {
    threads: usize,
    load_ms: f64,
    first_token_ms: Option<f64>,
    prefill_128: Option<f64>,
    prefill_512: Option<f64>,
    decode: f64,
    long_context: usize,
    decode_at_long_context: f64,
    /// Resident with the long context.
    memory_mib: f64,
    anonymous_mib: f64,
}

impl Bench {
    pub(super) fn execute(&self, global: &Global) -> Done {
        let catalog = Catalog::new(&self.folder.resolve(global)?);
        let bundle = catalog.open(&self.name).map_err(Failure::failed)?;
        let family = self.kernels.unwrap_or_else(Family::detect);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut rows = Vec::new();
        for threads in self.counts(cores) {
            if !global.json {
                eprintln!("slmd: measuring with {}", count(threads as u64, "thread"));
            }
            let options = LoadOptions { threads, family };
            rows.push(measure(&bundle, &options).map_err(Failure::failed)?);
        }
        if global.json {
            return output::show(global, &as_json(&bundle, family, cores, &rows));
        }
        output::line(&table(&bundle, family, cores, &rows))
    }

    /// All of them on a small machine, else powers of two and all cores.
    fn counts(&self, cores: usize) -> Vec<usize> {
        if !self.threads.is_empty() {
            return self.threads.iter().copied().map(usize::from).collect();
        }
        let wanted = |n: &usize| cores <= FEW_CORES || n.is_power_of_two() || *n == cores;
        (1..=cores).filter(wanted).collect()
    }
}

fn family(name: &str) -> Result<Family, String> {
    Family::usable_as(name).ok_or_else(|| {
        let names: Vec<_> = Family::usable().map(Family::as_str).collect();
        format!("this CPU has {}", names.join(", "))
    })
}

/// Loads as the daemon does, text side too.
fn measure(bundle: &Bundle, options: &LoadOptions) -> Result<Figures, String> {
    let text = |e: EngineError| e.to_string();
    let begin = instant();
    let tokenizer = Text::load(&bundle.folder).map_err(|e| e.to_string())?;
    let model = Model::load(bundle, options).map_err(|e| e.to_string())?;
    let load_ms = milliseconds(begin.elapsed());
    let context = model.info().context.min(LONG + ANSWER);
    let vocabulary = model.info().vocabulary as u32;
    let ids: Vec<u32> = (0..context as u32)
        .map(|i| i.wrapping_mul(97) % vocabulary)
        .collect();
    let mut run = Run {
        sequence: model.sequence(context).map_err(text)?,
        ids,
    };
    let rate = run.warm().map_err(text)?;
    let short = run.prefill(128, rate).map_err(text)?;
    let long = run.prefill(512, rate).map_err(text)?;
    let per_second = |count: f64| move |time: Duration| count / time.as_secs_f64();
    let decode = run.decode(0).map_err(text)?;
    let long_context = run.fill().map_err(text)?;
    let decode_at_long_context = run.decode(long_context).map_err(text)?;
    let memory = resident().map_err(|e| format!("/proc/self/status: {e}"))?;
    drop(tokenizer);
    Ok(Figures {
        threads: options.threads,
        load_ms,
        first_token_ms: short.map(milliseconds),
        prefill_128: short.map(per_second(128.0)),
        prefill_512: long.map(per_second(512.0)),
        decode,
        long_context,
        decode_at_long_context,
        memory_mib: memory.0,
        anonymous_mib: memory.1,
    })
}

struct Run {
    sequence: Sequence,
    ids: Vec<u32>,
}

impl Run {
    /// Brings the weights into memory; a first guess of the tokens a second.
    fn warm(&mut self) -> Result<f64, EngineError> {
        let count = WARM.min(self.ids.len());
        self.sequence.feed(&self.ids[..count])?;
        self.sequence.reset();
        let begin = instant();
        self.sequence.feed(&self.ids[..count])?;
        Ok(count as f64 / begin.elapsed().as_secs_f64())
    }

    /// The middle of some runs; `None` where one would take too long, or doesn't fit.
    fn prefill(&mut self, count: usize, rate: f64) -> Result<Option<Duration>, EngineError> {
        if count > self.ids.len() || count as f64 / rate > MOST.as_secs_f64() {
            return Ok(None);
        }
        let begin = instant();
        let mut times = Vec::new();
        while times.is_empty() || (times.len() < REPEATS && begin.elapsed() < REPEAT) {
            self.sequence.reset();
            let run = instant();
            self.sequence.feed(&self.ids[..count])?;
            times.push(run.elapsed());
        }
        times.sort();
        Ok(Some(times[times.len() / 2]))
    }

    /// Tokens a second, one by one after the first `context` that are fed already.
    fn decode(&mut self, context: usize) -> Result<f64, EngineError> {
        self.sequence.truncate(context);
        let begin = instant();
        let most = ANSWER.min(self.ids.len() - context);
        let mut count = 0;
        while count == 0 || (count < most && !late(begin)) {
            self.sequence.feed(&self.ids[count..=count])?;
            count += 1;
        }
        Ok(count as f64 / begin.elapsed().as_secs_f64())
    }

    /// Fills the context, as far as the time lasts; says how far.
    fn fill(&mut self) -> Result<usize, EngineError> {
        self.sequence.reset();
        let most = LONG.min(self.ids.len().saturating_sub(1)).max(1);
        let begin = instant();
        for part in self.ids[..most].chunks(WARM) {
            self.sequence.feed(part)?;
            if late(begin) {
                break;
            }
        }
        Ok(self.sequence.fed())
    }
}

fn late(begin: Instant) -> bool {
    begin.elapsed() > MOST
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// MiB that are resident, and those of them that no file backs.
fn resident() -> Result<(f64, f64), std::io::Error> {
    let status = fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        number.map(|kib| kib / 1024.0).ok_or_else(|| {
            std::io::Error::new(std::io::ErrorKind::InvalidData, format!("no {name}"))
        })
    };
    Ok((field("VmRSS:")?, field("RssAnon:")?))
}

/// Families that this CPU can run, and instructions of it that would allow faster ones.
fn offers() -> (Vec<&'static str>, Vec<&'static str>) {
    let mut unused = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let has = [
            ("avx512f", is_x86_feature_detected!("avx512f")),
            ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
            ("avxvnni", is_x86_feature_detected!("avxvnni")),
        ];
        unused.extend(has.iter().filter(|(_, has)| *has).map(|(name, _)| *name));
    }
    #[cfg(target_arch = "aarch64")]
    {
        use std::arch::is_aarch64_feature_detected;
        let has = [
            ("bf16", is_aarch64_feature_detected!("bf16")),
            ("sve", is_aarch64_feature_detected!("sve")),
            ("sve2", is_aarch64_feature_detected!("sve2")),
        ];
        unused.extend(has.iter().filter(|(_, has)| *has).map(|(name, _)| *name));
    }
    (Family::usable().map(Family::as_str).collect(), unused)
}

/// The CPU as the kernel calls it; ARM's has numbers only, which help nobody.
fn cpu() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(output::printable(line.split_once(':')?.1.trim()))
}

fn weights_mib(bundle: &Bundle) -> f64 {
    let size = bundle
        .manifest
        .files
        .get(WEIGHTS)
        .map_or(0, |file| file.size);
    size as f64 / f64::from(1 << 20)
}

fn as_json(bundle: &Bundle, family: Family, cores: usize, rows: &[Figures]) -> Value {
    let (usable, unused) = offers();
    let round = |value: f64| (value * 10.0).round() / 10.0;
    let rows: Vec<Value> = rows.iter().map(|row| {
        json!({
            "threads": row.threads,
            "load_ms": round(row.load_ms),
            "first_token_ms": row.first_token_ms.map(round),
            "prefill_128_tokens_per_second": row.prefill_128.map(round),
            "prefill_512_tokens_per_second": row.prefill_512.map(round),
            "decode_tokens_per_second": round(row.decode),
            "long_context": {
                "tokens": row.long_context,
                "decode_tokens_per_second": round(row.decode_at_long_context),
            },
            "memory_mib": {"resident": round(row.memory_mib), "anonymous": round(row.anonymous_mib)},
        })
    }).collect();
    json!({
        "name": bundle.name,
        "digest": bundle.digest,
        "cpu": cpu(),
        "cores": cores,
        "kernels": {"used": family.as_str(), "available": usable, "instructions_unused": unused},
        "weights_mib": round(weights_mib(bundle)),
        "runs": rows,
    })
}

fn table(bundle: &Bundle, family: Family, cores: usize, rows: &[Figures]) -> String {
    let (usable, unused) = offers();
    let cpu = cpu().map_or_else(String::new, |cpu| format!("{cpu}, "));
    let cores = count(cores as u64, "core");
    let mut text = format!("{} on {cpu}{cores}\n", bundle.name);
    text += &format!(
        "kernels: {} (this CPU has {})\n",
        family.as_str(),
        usable.join(", ")
    );
    if !unused.is_empty() {
        text += &format!("the CPU also has {}, unused here\n", unused.join(", "));
    }
    text += "\nthreads  load ms  first token ms  prefill 128  prefill 512  decode  with a long context  memory MiB\n";
    for row in rows {
        let optional = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.1}"));
        let long = format!("{:.1} at {}", row.decode_at_long_context, row.long_context);
        text += &format!(
            "{:>7}  {:>7.1}  {:>14}  {:>11}  {:>11}  {:>6.1}  {long:>19}  {:>10.0}\n",
            row.threads,
            row.load_ms,
            optional(row.first_token_ms),
            optional(row.prefill_128),
            optional(row.prefill_512),
            row.decode,
            row.memory_mib,
        );
    }
    text += &format!(
        "\nPrefill and decode in tokens a second; the first token is that after a prompt of 128.\n\
         Of the memory, {:.0} MiB are the weights: pages that the system can drop and read again.",
        weights_mib(bundle)
    );
    text
}

#[cfg(test)]
mod tests {
    use super::Bench;
    use crate::cli::model_folder::Folder;

    #[test]
    fn big_machines_are_measured_by_powers_of_two() {
        let counts = |threads: &[u16], cores| {
            let bench = Bench {
                name: String::new(),
                threads: threads.to_vec(),
                kernels: None,
                folder: Folder { models_dir: None },
            };
            bench.counts(cores)
        };
        assert_eq!(counts(&[], 1), [1]);
        assert_eq!(counts(&[], 3), [1, 2, 3]);
        assert_eq!(counts(&[], 12), [1, 2, 4, 8, 12]);
        assert_eq!(counts(&[6], 12), [6]);
    }
}
