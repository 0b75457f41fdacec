"""Notes prompts in the file that SLMD_TEST_NOTES names, so that the tests' logs are searched for them."""

import json
import os


def messages(chat):
    """Notes the messages of a chat and gives them back."""
    for message in chat:
        prompt(message["content"])
    return chat


def prompt(text):
    """Notes a prompt and gives it back."""
    # Shorter ones turn up in logs by chance. One write in append mode: others note too.
    if len(text) >= 16:
        line = json.dumps({"kind": "prompt", "text": text}) + "\n"
        with open(os.environ["SLMD_TEST_NOTES"], "ab", buffering=0) as notes:
            notes.write(line.encode())
    return text
