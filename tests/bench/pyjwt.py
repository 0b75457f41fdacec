"""Decisions a second of PyJWT, on the token that the bench wrote: `pyjwt.py FILE`.

Keys are imported once, as a resource server would; each decision checks the signature, issuer,
audience and times. PyJWT reads the clock itself, so its clock is set to the token's.
"""
import json
import sys
import time

import jwt
from jwt import api_jwt

SECONDS = 1.0


def main():
    with open(sys.argv[1]) as file:
        subject = json.load(file)

    class Then(api_jwt.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(subject["now"], tz)

    api_jwt.datetime = Then
    keys = jwt.PyJWKSet.from_dict(subject["jwks"])

    def decide():
        key = keys[jwt.get_unverified_header(subject["token"])["kid"]]
        return jwt.decode(subject["token"], key.key, algorithms=[subject["alg"]], issuer=subject["issuer"],
                          audience=subject["audience"], leeway=30,
                          options={"require": ["iss", "sub", "azp", "aud", "iat", "exp"]})

    assert decide()["azp"] == "device-1"
    calls, start = 0, time.monotonic()
    while time.monotonic() - start < SECONDS:
        for _ in range(16):
            decide()
        calls += 16
    print(calls / (time.monotonic() - start))


main()
