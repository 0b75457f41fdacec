"""What the bench makes of cargo's messages, of two runs of the same build."""
import json
import unittest

from common import executable


def message(name, path):
    return json.dumps({"reason": "compiler-artifact", "target": {"name": name}, "executable": path}).encode()


LIBRARY = message("slmd", None)
SLMD = message("slmd", "/build/debug/slmd")
BENCH = message("state", "/build/debug/deps/state-1a2b3c")
END = b'{"reason":"build-finished","success":true}'
BUILT = [LIBRARY, SLMD, BENCH, END]
# Nothing to build: slmd is named last.
FRESH = [LIBRARY, BENCH, SLMD, END]


class Executable(unittest.TestCase):
    def test_a_bench_is_found_whether_it_was_built_or_not(self):
        for lines in BUILT, FRESH:
            self.assertEqual(executable("state", b"\n".join(lines)), "/build/debug/deps/state-1a2b3c")
            self.assertEqual(executable("slmd", b"\n".join(lines)), "/build/debug/slmd")


if __name__ == "__main__":
    unittest.main()
