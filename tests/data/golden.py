#!/usr/bin/env python3
"""Writes golden.json: greedy answers of llama.cpp on the pinned model, as token ids.

    python tests/data/golden.py MODEL.gguf > tests/data/golden.json

Needs llama-cpp-python (see tests/bench/peers for the pinned version). For every step the two best
logits' distance is kept, so that a test can tell a near tie from a mistake.
"""
import json
import sys

import numpy as np
from llama_cpp import Llama

STEPS = 24
SYSTEM = "You answer in one short sentence."
QUESTIONS = [
    "What is the capital city of France?", "What is the capital city of Italy?", "What is 2 + 2?",
    "Name three primary colours.", "Why is the sky blue?", "Write a haiku about rain.",
    "What does HTTP stand for?", "How many days are in a week?", "Who wrote Romeo and Juliet?",
    "Explain what a compiler does.", "What is photosynthesis?", "List the planets of the solar system.",
    "Translate 'good morning' into Spanish.", "What is the boiling point of water in Celsius?",
    "Give me a synonym for happy.", "What is an MQTT broker?", "Describe a cat.",
    "What is the largest ocean on Earth?", "How do I make tea?", "What is a prime number?",
    "Tell me a fact about bees.", "What is the opposite of hot?", "Define gravity.",
    "What colour is grass?",
]

llm = Llama(sys.argv[1], n_ctx=512, n_threads=1, logits_all=False, verbose=False)
cases = []
for question in QUESTIONS:
    text = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    prompt = llm.tokenize(text.encode(), add_bos=False, special=True)
    llm.reset()
    llm.eval(prompt)
    greedy, margins = [], []
    for _ in range(STEPS):
        logits = np.array(llm._ctx.get_logits()[:llm.n_vocab()]) if not hasattr(llm._ctx, "get_logits_ith") else np.ctypeslib.as_array(llm._ctx.get_logits_ith(-1), shape=(llm.n_vocab(),)).copy()
        first, second = np.sort(logits)[::-1][:2]
        token = int(logits.argmax())
        greedy.append(token)
        margins.append(round(float(first - second), 4))
        if token == llm.token_eos():
            break
        llm.eval([token])
    cases.append({"prompt": prompt, "greedy": greedy, "margins": margins})
    print(question, "→", llm.detokenize(greedy).decode(errors="replace"), file=sys.stderr)
json.dump(cases, sys.stdout, separators=(",", ":"))
print()
