//! The clock of one daemon, wrong at will.
//!
//! Its wall clock is moved by libfaketime for its process only; what the kernel says of its clock is
//! told by a library of the test, because a container can't set it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{Setup, run};

/// adjtimex(2), as the file has it.
const SHIM: &str = "#include <fcntl.h>\n#include <stdlib.h>\n#include <string.h>\n\
    #include <sys/timex.h>\n#include <unistd.h>\n\
    int adjtimex(struct timex *t) {\n\
      char kept = 'y';\n\
      int file = open(getenv(\"SLMD_TEST_ADJTIMEX\"), O_RDONLY);\n\
      if (file >= 0) { if (read(file, &kept, 1) != 1) kept = 'y'; close(file); }\n\
      memset(t, 0, sizeof *t);\n\
      t->status = kept == 'y' ? STA_PLL : STA_UNSYNC;\n\
      t->maxerror = kept == 'n' ? 16000000 : 12000;\n\
      t->esterror = 500;\n\
      return kept == 'y' ? TIME_OK : TIME_ERROR;\n\
    }\n";

/// Who keeps the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Synchronised,
    /// By chrony without `rtcsync`: the error is small, and STA_UNSYNC is set.
    WithoutRtc,
    ByNobody,
}

pub struct Clock(tempfile::TempDir);

impl Clock {
    /// Right, and synchronised.
    pub fn new() -> Clock {
        let clock = Clock(tempfile::tempdir().expect("a temporary folder"));
        fs::write(clock.path("shim.c"), SHIM).expect("a temporary file");
        let mut command = Command::new("cc");
        command
            .args(["-shared", "-fPIC", "-o"])
            .arg(clock.path("shim.so"))
            .arg(clock.path("shim.c"));
        let built = run(&mut command, b"", Duration::from_secs(60));
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "{said}");
        clock.set("+0");
        clock.keeps(Kept::Synchronised);
        clock
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn replace(&self, name: &str, text: &str) {
        let new = self.path("new");
        fs::write(&new, text).expect("a temporary file");
        fs::rename(new, self.path(name)).expect("a temporary file");
    }

    /// In libfaketime's words; takes effect at once.
    pub fn set(&self, time: &str) {
        self.replace("time", time);
    }

    pub fn keeps(&self, kept: Kept) {
        let text = match kept {
            Kept::Synchronised => "y",
            Kept::WithoutRtc => "c",
            Kept::ByNobody => "n",
        };
        self.replace("adjtimex", text);
    }

    pub fn of(&self, setup: Setup) -> Setup {
        let text = |path: PathBuf| path.display().to_string();
        let preload = format!(
            "{} {}",
            faketime().display(),
            self.path("shim.so").display()
        );
        setup
            .env("LD_PRELOAD", &preload)
            .env("FAKETIME_TIMESTAMP_FILE", &text(self.path("time")))
            .env("FAKETIME_NO_CACHE", "1")
            // Waits are by the monotonic clock.
            .env("DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("SLMD_TEST_ADJTIMEX", &text(self.path("adjtimex")))
    }
}

fn faketime() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("a system has it").flatten();
    let libraries = folders.map(|f| f.path().join("faketime/libfaketime.so.1"));
    let found = libraries.into_iter().find(|path| path.exists());
    found.expect("libfaketime is installed; run `make setup-tests`")
}
