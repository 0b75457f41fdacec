"""The official OpenAI client, unchanged, against the local socket.

Usage: openai_client.py SOCKET, with SLMD_TOKEN, SLMD_EXPIRED_TOKEN and SLMD_ROLELESS_TOKEN set.
Fails by an assertion; prints one line of JSON with what the answers held.
"""

import json
import os
import sys

import httpx2
import noted
import openai

PROMPT = noted.messages([{"role": "user", "content": "Name three colours of the rainbow, please."}])
MORE = noted.messages([{"role": "user", "content": "And three more of them, if you can?"}])


def client(socket, token):
    return openai.OpenAI(
        base_url="http://localhost/v1",
        api_key=token,
        max_retries=0,
        timeout=240,
        http_client=openai.DefaultHttpxClient(transport=httpx2.HTTPTransport(uds=socket)),
    )


def whole(api):
    answer = api.chat.completions.create(
        model="slm", messages=PROMPT, max_completion_tokens=16, temperature=0, user="ann"
    )
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.model == "slm", answer
    assert answer.id.startswith("chatcmpl-") and answer._request_id, answer
    assert choice.message.role == "assistant" and choice.message.content, answer
    assert choice.finish_reason in ("stop", "length"), answer
    assert 0 < answer.usage.completion_tokens <= 16, answer
    total = answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.total_tokens == total, answer
    return choice.message.content, answer.usage


def streamed(api):
    text, finish, usage = "", None, None
    stream = api.chat.completions.create(
        model="slm",
        messages=PROMPT,
        max_completion_tokens=16,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        assert finish is None or not chunk.choices, chunk
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
        usage = chunk.usage or usage
    assert finish in ("stop", "length"), finish
    return text, usage


def conversation(api):
    """An earlier answer sent back as the client's own type writes it."""
    first = api.chat.completions.create(
        model="slm", messages=PROMPT, max_completion_tokens=4, temperature=0
    )
    earlier = first.choices[0].message.model_dump()
    api.chat.completions.create(
        model="slm",
        messages=PROMPT + [earlier] + MORE,
        max_completion_tokens=4,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        extra_body={"repetition_penalty": 1.1},
    )


def completed(api):
    """The older API: a text, and what the model writes after it."""
    prompt = noted.prompt("The colours of the rainbow are red, orange,")
    ask = {"model": "slm", "prompt": prompt, "max_tokens": 8, "temperature": 0}
    answer = api.completions.create(**ask)
    choice = answer.choices[0]
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-"), answer
    assert choice.text and choice.finish_reason in ("stop", "length"), answer
    assert 0 < answer.usage.completion_tokens <= 8, answer
    text, finish = "", None
    for chunk in api.completions.create(stream=True, **ask):
        assert chunk.object == "text_completion", chunk
        text += chunk.choices[0].text
        finish = chunk.choices[0].finish_reason or finish
    assert (text, finish) == (choice.text, choice.finish_reason)
    assert api.completions.create(**{**ask, "prompt": [prompt]}).choices[0].text == text
    # A control token's name in it is text: more than the one token that it would be.
    control = api.completions.create(**{**ask, "prompt": "<|im_end|>", "max_tokens": 1})
    assert control.usage.prompt_tokens > 1, control
    for more, param in (({"echo": True}, "echo"), ({"prompt": [1, 2]}, "prompt")):
        refused(
            openai.BadRequestError,
            400,
            "unsupported_parameter",
            lambda more=more: api.completions.create(**{**ask, **more}),
            param,
        )


def leaving(api):
    """A client that closes its stream early, and goes on."""
    stream = api.chat.completions.create(
        model="slm", messages=PROMPT, max_completion_tokens=512, temperature=0, stream=True
    )
    next(iter(stream))
    stream.close()


def refused(kind, status, code, call, param=None):
    """`param` None: not looked at."""
    try:
        call()
    except openai.APIStatusError as error:
        assert type(error) is kind, repr(error)
        assert (error.status_code, error.code) == (status, code), repr(error)
        assert param is None or error.param == param, repr(error)
        assert error.request_id, repr(error)
        return
    raise AssertionError(f"no {kind.__name__} ({code})")


def errors(api, expired, roleless):
    def ask(api, **more):
        return lambda: api.chat.completions.create(**{"model": "slm", "messages": PROMPT, **more})

    refused(openai.AuthenticationError, 401, "expired", ask(expired))
    refused(openai.PermissionDeniedError, 403, "roles_missing", ask(roleless))
    refused(openai.NotFoundError, 404, "endpoint_unknown", ask(api, model="gpt-4o"))
    refused(openai.NotFoundError, 404, "not_found", lambda: api.models.retrieve("gpt/4o"), "model")
    refused(
        openai.BadRequestError,
        400,
        "invalid_parameter",
        ask(api, temperature=3),
        "temperature",
    )
    refused(
        openai.BadRequestError,
        400,
        "unsupported_parameter",
        ask(api, response_format={"type": "json_object"}),
        "response_format",
    )
    long = noted.messages([{"role": "user", "content": "over and over " * 4000}])
    refused(openai.BadRequestError, 400, "context_length_exceeded", ask(api, messages=long))


def main():
    socket = sys.argv[1]
    api = client(socket, os.environ["SLMD_TOKEN"])
    expired = client(socket, os.environ["SLMD_EXPIRED_TOKEN"])
    roleless = client(socket, os.environ["SLMD_ROLELESS_TOKEN"])

    assert [model.id for model in api.models.list()] == ["slm"]
    assert api.models.retrieve("slm").object == "model"
    text, usage = whole(api)
    assert (text, usage) == streamed(api), "a greedy answer is the same streamed"
    conversation(api)
    completed(api)
    leaving(api)
    errors(api, expired, roleless)
    text_again, _ = whole(api)
    assert text == text_again
    print(json.dumps({"text": text, "usage": usage.model_dump()}))


main()
