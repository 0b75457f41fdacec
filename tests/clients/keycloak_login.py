"""A person at a browser who finishes a device login: opens the verification page, logs in, agrees.

usage: keycloak_login.py VERIFICATION_URI_COMPLETE CA_FILE      (USERNAME and PASSWORD in the environment)

Only Python's own library. Keycloak's pages are walked by their forms, as a browser walks them.
"""

import http.cookiejar
import os
import ssl
import sys
import urllib.parse
import urllib.request
from html.parser import HTMLParser

# Login, then the grant; more means that a page came back.
PAGES = 4


class Page(HTMLParser):
    """The first form of a page with its fields, and the page's text."""

    def __init__(self, text):
        super().__init__()
        self.action, self.fields, self.words, self._skip, self._open = None, {}, [], False, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self._skip = tag in ("script", "style")
        if tag == "form" and self.action is None:
            self.action, self._open = attributes.get("action"), True
        elif tag == "input" and self._open and attributes.get("name"):
            # A browser sends one button: the one that is pressed.
            if attributes["name"] != "cancel":
                self.fields[attributes["name"]] = attributes.get("value") or ""

    def handle_endtag(self, tag):
        self._skip = False
        self._open = self._open and tag != "form"

    def handle_data(self, data):
        if not self._skip and data.strip():
            self.words.append(data.strip())


def main():
    address, ca_file = sys.argv[1:]
    context = ssl.create_default_context(cafile=ca_file)
    cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    browser = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), cookies)
    sent = None
    for _ in range(PAGES):
        data = None if sent is None else urllib.parse.urlencode(sent).encode()
        with browser.open(address, data, timeout=30) as answer:
            page = Page(answer.read().decode())
            address = urllib.parse.urljoin(answer.url, page.action or "")
        if page.action is None:
            text = " ".join(page.words)
            print(text)
            return 0 if "success" in text.lower() else 1
        sent = page.fields
        if "password" in sent:
            sent["username"], sent["password"] = os.environ["USERNAME"], os.environ["PASSWORD"]
    print("the login goes in circles: " + " ".join(page.words), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
