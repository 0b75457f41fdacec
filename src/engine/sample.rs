//! Picks the next token from the logits.
//!
//! The order is llama.cpp's: penalties → top-k → top-p → min-p → temperature, each on what the ones before
//! left, so the cuts are made on the model's own distribution and the temperature only shares out
//! what survives. Ties go to the lowest id, and the random stream (xoshiro256++) is specified, so
//! bundle, prompt, parameters and seed determine the answer. Values that aren't numbers are never
//! picked.

use std::cmp::Ordering;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::penalty::Penalties;
use crate::prompt::Sampling;

/// How many candidates are put in order at first, when top-p needs them in order; then eight
/// times as many, until the sum is reached. Most sums are reached within the first.
const FIRST_SORTED: usize = 64;

/// Samples one answer; keeps its buffer between tokens.
#[derive(Debug)]
pub struct Sampler {
    settings: Sampling,
    penalties: Option<Penalties>,
    random: Xoshiro256PlusPlus,
    candidates: Vec<Candidate>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
    /// Not normalised; relative to the most likely candidate.
    weight: f32,
}

impl Sampler {
    /// For an answer to the tokens of `prompt`.
    #[must_use]
    pub fn new(settings: Sampling, prompt: &[u32]) -> Sampler {
        Sampler {
            settings,
            penalties: Penalties::new(&settings, prompt),
            random: Xoshiro256PlusPlus::seed_from_u64(settings.seed.unwrap_or(0)),
            candidates: Vec::new(),
        }
    }

    /// The answer's next token; `None` when no logit is a finite number.
    pub fn pick(&mut self, logits: &[f32]) -> Option<u32> {
        let Some(mut penalties) = self.penalties.take() else {
            return self.choose(logits);
        };
        let token = self.choose(penalties.applied(logits));
        token.into_iter().for_each(|token| penalties.note(token));
        self.penalties = Some(penalties);
        token
    }

    fn choose(&mut self, logits: &[f32]) -> Option<u32> {
        if self.settings.temperature <= 0.0 {
            return greedy(logits);
        }
        self.fill(logits)?;
        self.top_k();
        self.top_p();
        self.min_p();
        self.draw()
    }

    /// Collects the finite logits with their weights at temperature 1.
    fn fill(&mut self, logits: &[f32]) -> Option<()> {
        let best = greedy(logits)?;
        let max = *logits.get(best as usize)?;
        self.candidates.clear();
        let ids = 0_u32..;
        let finite = ids.zip(logits).filter(|(_, logit)| logit.is_finite());
        self.candidates.extend(finite.map(|(id, &logit)| Candidate {
            id,
            logit,
            weight: (logit - max).exp(),
        }));
        Some(())
    }

    fn top_k(&mut self) {
        let k = self.settings.top_k as usize;
        if k > 0 && k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, by_rank);
            self.candidates.truncate(k);
        }
    }

    /// Keeps the smallest set of the most likely candidates whose share reaches `top_p`.
    fn top_p(&mut self) {
        let top_p = self.settings.top_p;
        if top_p >= 1.0 {
            return;
        }
        let needed = f64::from(top_p) * self.total();
        let (mut sum, mut done, mut step) = (0.0, 0, FIRST_SORTED);
        while done < self.candidates.len() {
            let rest = &mut self.candidates[done..];
            let sorted = step.min(rest.len());
            if sorted < rest.len() {
                rest.select_nth_unstable_by(sorted - 1, by_rank);
            }
            rest[..sorted].sort_unstable_by(by_rank);
            for candidate in &rest[..sorted] {
                sum += f64::from(candidate.weight);
                done += 1;
                if sum >= needed {
                    self.candidates.truncate(done);
                    return;
                }
            }
            step *= 8;
        }
    }

    /// The most likely candidate has weight 1 and always stays.
    fn min_p(&mut self) {
        let least = self.settings.min_p.min(1.0);
        if least > 0.0 {
            self.candidates.retain(|c| c.weight >= least);
        }
    }

    /// Applies the temperature and draws. The order of summation is that of the ids, so that it
    /// doesn't depend on how the selection above happened to move candidates.
    fn draw(&mut self) -> Option<u32> {
        self.candidates.sort_unstable_by_key(|c| c.id);
        let temperature = self.settings.temperature;
        let max = self.candidates.iter().map(|c| c.logit);
        let max = max.fold(f32::NEG_INFINITY, f32::max);
        for candidate in &mut self.candidates {
            candidate.weight = ((candidate.logit - max) / temperature).exp();
        }
        let point = self.uniform() * self.total();
        let mut sum = 0.0;
        let hit = self.candidates.iter().find(|candidate| {
            sum += f64::from(candidate.weight);
            sum > point
        });
        // The product may round up to the whole sum; then the last candidate with any weight.
        let last = || self.candidates.iter().rfind(|c| c.weight > 0.0);
        hit.or_else(last).map(|candidate| candidate.id)
    }

    fn total(&self) -> f64 {
        self.candidates.iter().map(|c| f64::from(c.weight)).sum()
    }

    /// Uniform in [0, 1) with 53 bits.
    fn uniform(&mut self) -> f64 {
        (self.random.next_u64() >> 11) as f64 * (-53_f64).exp2()
    }
}

/// The most likely first; of equals the lowest id.
fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// The id of the greatest finite logit; of equals the lowest.
fn greedy(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (id, &logit) in (0_u32..).zip(logits) {
        if logit.is_finite() && best.is_none_or(|(_, top)| logit > top) {
            best = Some((id, logit));
        }
    }
    best.map(|(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f32) -> Sampling {
        Sampling {
            temperature,
            seed: Some(7),
            ..Sampling::default()
        }
    }

    /// How often each id comes up in `draws`.
    fn counts(settings: Sampling, logits: &[f32], draws: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(settings, &[]);
        let mut counts = vec![0; logits.len()];
        for _ in 0..draws {
            counts[sampler.pick(logits).unwrap() as usize] += 1;
        }
        counts
    }

    fn logits_of(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals_and_no_nan() {
        let mut sampler = Sampler::new(sampling(0.0), &[]);
        let nan = f32::NAN;
        assert_eq!(sampler.pick(&[nan, 1.0, 3.0, 3.0, nan]), Some(2));
        assert_eq!(sampler.pick(&[f32::INFINITY, -1.0]), Some(1));
        assert_eq!(sampler.pick(&[nan, f32::NEG_INFINITY]), None);
        assert_eq!(Sampler::new(sampling(1.0), &[]).pick(&[nan, nan]), None);
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let logits = logits_of(&[0.5, 0.3, 0.15, 0.05]);
        let n = 40_000;
        // Five standard deviations of a binomial count: a fixed seed stays inside for good.
        let near = |count: usize, p: f64| {
            let n = f64::from(n);
            (count as f64 - n * p).abs() < 5.0 * (n * p * (1.0 - p)).sqrt()
        };
        let plain = counts(sampling(1.0), &logits, n as usize);
        for (count, p) in plain.iter().zip([0.5, 0.3, 0.15, 0.05]) {
            assert!(near(*count, p), "{plain:?}");
        }
        // At temperature 1/2 probabilities are squared, then shared out again.
        let total: f64 = 0.25 + 0.09 + 0.0225 + 0.0025;
        let cold = counts(sampling(0.5), &logits, n as usize);
        for (count, p) in cold.iter().zip([0.25, 0.09, 0.0225, 0.0025]) {
            assert!(near(*count, p / total), "{cold:?}");
        }
    }

    #[test]
    fn cuts_keep_what_they_should() {
        let logits = logits_of(&[0.05, 0.5, 0.15, 0.3]);
        let kept = |settings| {
            let counts = counts(settings, &logits, 2000);
            let ids = (0..counts.len()).filter(|&id| counts[id] > 0);
            ids.collect::<Vec<_>>()
        };
        let base = sampling(1.0);
        assert_eq!(kept(Sampling { top_k: 2, ..base }), [1, 3]);
        assert_eq!(kept(Sampling { top_p: 0.6, ..base }), [1, 3]);
        assert_eq!(kept(Sampling { top_p: 0.4, ..base }), [1]);
        assert_eq!(kept(Sampling { top_p: 0.0, ..base }), [1]);
        assert_eq!(
            kept(Sampling {
                min_p: 0.25,
                ..base
            }),
            [1, 2, 3]
        );
        assert_eq!(kept(Sampling { min_p: 1.0, ..base }), [1]);
        // After top-k the rest counts as the whole: 0.5 of 0.8 reaches 0.6.
        let chain = Sampling {
            top_k: 2,
            top_p: 0.6,
            ..base
        };
        assert_eq!(kept(chain), [1]);
        // The cuts come before the temperature: a hot one doesn't widen them.
        let hot = Sampling {
            temperature: 100.0,
            top_p: 0.6,
            ..base
        };
        assert_eq!(kept(hot), [1, 3]);
    }

    #[test]
    fn partial_selection_equals_a_full_sort() {
        // Many equal logits, so that ties decide at the border.
        let logits: Vec<f32> = (0..5000).map(|i| ((i * 7919) % 97) as f32 / 20.0).collect();
        for (top_k, top_p) in [(10, 1.0), (300, 1.0), (0, 0.5), (0, 0.99), (1000, 0.7)] {
            let settings = Sampling {
                top_k,
                top_p,
                ..sampling(1.0)
            };
            let mut sampler = Sampler::new(settings, &[]);
            sampler.fill(&logits).unwrap();
            let mut sorted = sampler.candidates.clone();
            sorted.sort_by(by_rank);
            if top_k > 0 {
                sorted.truncate(top_k as usize);
            }
            let total: f64 = sorted.iter().map(|c| f64::from(c.weight)).sum();
            let mut sum = 0.0;
            let reached = sorted.iter().position(|c| {
                sum += f64::from(c.weight);
                sum >= f64::from(top_p) * total * (1.0 - 1e-12)
            });
            if top_p < 1.0 {
                sorted.truncate(reached.unwrap() + 1);
            }
            sampler.top_k();
            sampler.top_p();
            let ids = |list: &[Candidate]| {
                let mut ids: Vec<u32> = list.iter().map(|c| c.id).collect();
                ids.sort_unstable();
                ids
            };
            assert_eq!(ids(&sampler.candidates), ids(&sorted), "{top_k} {top_p}");
        }
    }

    #[test]
    fn a_seed_determines_the_draws() {
        let logits: Vec<f32> = (0..1000).map(|i| (i % 13) as f32 / 4.0).collect();
        let draws = |seed| {
            let settings = Sampling {
                seed: Some(seed),
                presence_penalty: 0.5,
                ..sampling(0.8)
            };
            let mut sampler = Sampler::new(settings, &[]);
            let draws = (0..50).map(|_| sampler.pick(&logits).unwrap());
            draws.collect::<Vec<u32>>()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }
    /// Each token's logit by the papers' formulas, from all tokens anew.
    fn naive(settings: &Sampling, prompt: &[u32], answer: &[u32], logits: &[f32]) -> Vec<f32> {
        let penalised = (0_u32..).zip(logits).map(|(id, &logit)| {
            let count = answer.iter().filter(|token| **token == id).count() as f32;
            let repeated = count > 0.0 || prompt.contains(&id);
            let theta = if repeated {
                settings.repetition_penalty
            } else {
                1.0
            };
            let ctrl = if logit > 0.0 {
                logit / theta
            } else {
                logit * theta
            };
            let is_there = if count > 0.0 { 1.0 } else { 0.0 };
            ctrl - (count * settings.frequency_penalty + is_there * settings.presence_penalty)
        });
        penalised.collect()
    }

    #[test]
    fn penalties_are_those_of_the_formulas_to_the_bit() {
        let prompt = [3, 3, 50, 99, 70_000];
        for (repetition_penalty, frequency_penalty, presence_penalty) in [
            (1.3, 0.0, 0.0),
            (0.8, 0.0, 0.0),
            (1.0, 0.7, 0.0),
            (1.0, 0.0, 1.5),
            (1.0, -0.4, -0.2),
            (1.1, 0.3, 0.2),
            (2.0, 2.0, -2.0),
        ] {
            for temperature in [0.0, 0.7] {
                let settings = Sampling {
                    repetition_penalty,
                    frequency_penalty,
                    presence_penalty,
                    top_k: 40,
                    top_p: 0.95,
                    ..sampling(temperature)
                };
                let plain = Sampling {
                    repetition_penalty: 1.0,
                    frequency_penalty: 0.0,
                    presence_penalty: 0.0,
                    ..settings
                };
                let mut sampler = Sampler::new(settings, &prompt);
                // Draws from what the formulas give, with the same stream of random numbers.
                let mut oracle = Sampler::new(plain, &[]);
                let mut answer = Vec::new();
                for step in 0..60_u32 {
                    let wave = |id: u32| ((id * 37 + step * 11) % 101) as f32 / 8.0 - 6.0;
                    let logits: Vec<f32> = (0..120).map(wave).collect();
                    let expected = naive(&settings, &prompt, &answer, &logits);
                    let penalties = sampler.penalties.as_mut().unwrap();
                    assert_eq!(penalties.applied(&logits), expected, "{settings:?}");
                    let token = oracle.pick(&expected).unwrap();
                    assert_eq!(sampler.pick(&logits), Some(token), "{settings:?}");
                    answer.push(token);
                }
            }
        }
    }

    #[test]
    fn a_penalty_leads_out_of_a_loop() {
        let logits = [0.0, 2.0, 1.9, 1.8];
        let said = |settings, prompt: &[u32]| {
            let mut sampler = Sampler::new(settings, prompt);
            [(); 4].map(|()| sampler.pick(&logits).unwrap())
        };
        let greedy = sampling(0.0);
        assert_eq!(said(greedy, &[1]), [1, 1, 1, 1]);
        let repetition_penalty = 1.5;
        let repetition = Sampling {
            repetition_penalty,
            ..greedy
        };
        assert_eq!(said(repetition, &[]), [1, 2, 3, 1]);
        // What the prompt holds counts for repetition alone.
        assert_eq!(said(repetition, &[1])[0], 2);
        let presence_penalty = 0.5;
        let presence = Sampling {
            presence_penalty,
            ..greedy
        };
        assert_eq!(said(presence, &[1]), [1, 2, 3, 1]);
        let frequency_penalty = 0.15;
        let frequency = Sampling {
            frequency_penalty,
            ..greedy
        };
        assert_eq!(said(frequency, &[1]), [1, 2, 1, 3]);
    }

    #[test]
    fn penalties_make_nothing_of_what_is_no_number() {
        let settings = Sampling {
            repetition_penalty: 2.0,
            ..sampling(0.0)
        };
        let mut sampler = Sampler::new(settings, &[0, 1, 2]);
        let logits = [f32::NAN, f32::INFINITY, f32::MIN, -1.0];
        assert_eq!(sampler.pick(&logits), Some(3));
        assert_eq!(sampler.pick(&[f32::NAN, f32::MIN]), None);
    }
}
