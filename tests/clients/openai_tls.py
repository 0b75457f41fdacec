"""The official OpenAI client, unchanged, over HTTPS with a pinned CA.

Usage: openai_tls.py URL CA_FILE [CERT_FILE KEY_FILE], with SLMD_TOKEN set. Fails by an assertion;
prints one line of JSON with the answer's usage.
"""

import json
import os
import ssl
import sys

import noted
import openai

PROMPT = noted.messages([{"role": "user", "content": "Name three colours of the rainbow, please."}])


def main():
    url, ca_file, *own = sys.argv[1:]
    trust = ssl.create_default_context(cafile=ca_file)
    if own:
        trust.load_cert_chain(*own)
    api = openai.OpenAI(
        base_url=f"{url}/v1",
        api_key=os.environ["SLMD_TOKEN"],
        max_retries=0,
        timeout=240,
        http_client=openai.DefaultHttpxClient(verify=trust),
    )
    assert [model.id for model in api.models.list()] == ["slm"]
    ask = {"model": "slm", "messages": PROMPT, "max_completion_tokens": 8, "temperature": 0}
    answer = api.chat.completions.create(**ask)
    pieces = api.chat.completions.create(**ask, stream=True)
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == answer.choices[0].message.content != "", (text, answer)
    print(json.dumps(answer.usage.model_dump()))


main()
