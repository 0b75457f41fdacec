//! Easy questions and their right answers, which the test and the bench of the same name ask.

/// Of each of the seven questions: that makes the score of 21.
pub const SCORED_SEEDS: u64 = 3;

#[derive(serde::Deserialize)]
pub struct Question {
    pub ask: String,
    /// One of these is in a right answer, in any case.
    right: Vec<String>,
}

impl Question {
    pub fn all() -> Vec<Question> {
        let questions = include_str!("../data/questions.json");
        serde_json::from_str(questions).expect("sound JSON")
    }

    pub fn is_right(&self, answer: &str) -> bool {
        let answer = answer.to_lowercase();
        let mut right = self.right.iter();
        right.any(|word| answer.contains(&word.to_lowercase()))
    }
}
