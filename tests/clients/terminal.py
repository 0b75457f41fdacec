"""Types what a person types to make keys and to sign: terminal.py FOLDER SLMD. Prints what the terminal shows."""

import os
import pty
import select
import sys
import time

folder, program = sys.argv[1:]
os.chdir(folder)
PATIENCE = 60


def talk(words, answers):
    """Runs `slmd fleet WORDS` on a terminal; each answer is typed when its question is shown."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(program, [program, "fleet", *words])
    shown, left, at = "", list(answers), 0
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if left and left[0][0] in shown[at:]:
            question, answer = left.pop(0)
            at = shown.index(question, at) + len(question)
            # The echo is off a moment after the question.
            time.sleep(0.3)
            os.write(terminal, answer.encode() + b"\n")
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                more = os.read(terminal, 4096)
            except OSError:
                break
            if not more:
                break
            shown += more.decode(errors="replace")
    print(shown)
    _, status = os.waitpid(child, 0)
    assert not left, f"{words}: never asked {left}"
    assert status == 0, f"{words} ended with {status}"


GOOD, OTHER = "correct horse battery staple", "another horse battery staple"
NEW, AGAIN = "New passphrase of alice:", "The same again:"
talk(
    ["key", "new", "alice"],
    [(NEW, "short"), (NEW, GOOD), (AGAIN, OTHER), (NEW, GOOD), (AGAIN, GOOD)],
)
# As many keys as it asks for, one of them elsewhere.
words = ["init", "plant", "--root-key", "alice.pub.json", "--keys", "1", "--threshold", "1"]
answers = []
for name in ["online", "revocation"]:
    answers += [(f"New passphrase of {name}:", GOOD), (AGAIN, GOOD)]
talk(words, answers)
SIGN = ["sign", "--key", "alice.pem"]
ASKED = ("Sign this with alice? [y/N]", "y")
talk(SIGN, [ASKED, ("Passphrase of alice:", OTHER), ("Passphrase of alice:", GOOD)])
talk(["publish"], [("Passphrase of online:", GOOD)])
talk(["renew", "targets"], [])
talk(SIGN, [ASKED, ("Passphrase of alice:", GOOD)])
