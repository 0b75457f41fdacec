//! What a misspelt name was most likely meant to be.

/// The known name that `name` was most likely meant to be.
pub fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let likely = |other: &&&str| distance(name, other) <= name.len().max(other.len()) / 3;
    let candidates = known.iter().filter(likely);
    candidates
        .min_by_key(|other| distance(name, other))
        .copied()
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.chars().enumerate() {
            let change = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    #[test]
    fn the_nearest_name_is_near() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        let known = ["socket", "admin_socket", "max_body"];
        assert_eq!(nearest("sockett", &known), Some("socket"));
        assert_eq!(nearest("maxbody", &known), Some("max_body"));
        assert_eq!(nearest("colour", &known), None);
    }
}
