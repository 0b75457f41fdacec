//! The parts of a benchmark: those that the command line names, or all of them.

pub fn measure(parts: &[(&str, fn())]) {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let is_asked = |name: &str| asked.iter().any(|asked| asked == name);
    let named = parts.iter().any(|(name, _)| is_asked(name));
    for (name, part) in parts {
        if !named || is_asked(name) {
            part();
        }
    }
}
