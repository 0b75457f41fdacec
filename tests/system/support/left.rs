//! What a program has left behind.

use std::fs;
use std::path::Path;

/// Of a program whose folder for temporary files was this one: no file in it, and no process.
#[track_caller]
pub fn assert_nothing_stays(temporary: &Path) {
    let left: Vec<_> = fs::read_dir(temporary)
        .expect("the test's own files and processes work")
        .collect();
    assert!(left.is_empty(), "files stay behind: {left:?}");
    let place = temporary
        .to_str()
        .expect("the test's own files and processes work")
        .as_bytes();
    let names_it = |process: &Path| {
        // Children inherit TMPDIR. Processes may end while they are looked at.
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        environment.windows(place.len()).any(|part| part == place)
    };
    let processes = fs::read_dir("/proc").expect("the test's own files and processes work");
    let processes = processes.map(|entry| {
        entry
            .expect("the test's own files and processes work")
            .path()
    });
    let left: Vec<_> = processes.filter(|process| names_it(process)).collect();
    assert!(left.is_empty(), "processes stay behind: {left:?}");
}
