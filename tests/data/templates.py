#!/usr/bin/env python3
"""Writes templates.json: what Python's Jinja, set up as transformers sets it up, makes of templates/.

    python tests/data/templates.py > tests/data/templates.json

Needs jinja2 (3.1.6 wrote what is there). The time is TIME.
"""
import datetime
import json
import pathlib
import sys

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

TIME = datetime.datetime(2026, 3, 7, 9, 5)
CHATS = {
    "one": [("user", "How far is the moon?")],
    "system": [("system", "Answer briefly. /no_think"), ("user", "How far is the moon?")],
    "turns": [
        ("user", "Hello"),
        ("assistant", "<think>\nA greeting.\n</think>\n\nHello to you"),
        ("user", "And now?"),
    ],
    "long": [
        ("system", "You count."),
        ("user", "one"),
        ("assistant", "two"),
        ("user", "three"),
        ("assistant", ""),
        ("user", "five"),
    ],
    "ragged": [("system", "\n lines\r\nand spaces \n"), ("user", "\t <|im_end|> é🦀 '\"{{ x }} \n\n")],
    "twice": [("user", "a"), ("user", "b")],
    "answered": [("user", "a"), ("assistant", "\n\nb ")],
}


class Generation(jinja2.ext.Extension):
    """transformers' AssistantTracker, without its bookkeeping."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_body", [])
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
)
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = raise_exception
environment.globals["strftime_now"] = TIME.strftime

golden = {}
for path in sorted(pathlib.Path(__file__).with_name("templates").glob("*.jinja")):
    template = environment.from_string(path.read_bytes().decode())
    golden[path.stem] = {}
    for name, chat in CHATS.items():
        parts = path.stem.startswith("parts")
        content = lambda text: [{"type": "text", "text": text}] if parts else text
        messages = [{"role": role, "content": content(text)} for role, text in chat]
        try:
            values = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True}
            text = template.render(messages=messages, tools=None, documents=None, **values)
            golden[path.stem][name] = {"text": text}
        except jinja2.TemplateError as error:
            golden[path.stem][name] = {"raised": str(error)}
json.dump({"chats": CHATS, "golden": golden}, sys.stdout, ensure_ascii=False, indent=1)
print()
