#!/usr/bin/env python3
"""Bookinfo's product page, in Python's standard library alone.

It shows one book, with details from the service `details` and reviews from the service `reviews`. It knows nothing of
the mesh: it listens on HOST:PORT, finds its backends through <NAME>_SERVICE_HOST and _PORT, and passes on no header
but those that Bookinfo's original passes on (trace headers and `end-user`).
"""

import html
import http.client
import json
import os
import re
import sys
import threading
import time
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PRODUCT = {
    "id": 0,
    "title": "The Comedy of Errors",
    "descriptionHtml": "Wikipedia summary: <i>The Comedy of Errors</i> is one of William Shakespeare's early plays. "
    "It is his shortest and one of his most farcical comedies, with a major part of the humour coming from slapstick "
    "and mistaken identity, in addition to puns and word play.",
}
PASSED_ON = {
    "x-request-id",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
}
BACKEND_TIMEOUT_S = 3.0
MAX_BACKEND_BODY = 1 << 20
MAX_FORM = 4096
USER_NAME = re.compile(r"[A-Za-z0-9._-]{1,32}")


class Unavailable(Exception):
    """A backend gave no usable answer; `status` is what it said, 503 if it said nothing."""

    def __init__(self, status):
        super().__init__(f"status {status}")
        self.status = status


class Backend:
    """One service, over one kept-alive connection per thread."""

    def __init__(self, name):
        self.host = os.environ.get(f"{name.upper()}_SERVICE_HOST", name)
        self.port = int(os.environ.get(f"{name.upper()}_SERVICE_PORT", "9080"))
        self.authority = name if self.port == 80 else f"{name}:{self.port}"
        self.local = threading.local()

    def get_json(self, path, headers):
        """GETs `path`; raises Unavailable for anything but a 200 with JSON."""
        reused = getattr(self.local, "connection", None) is not None
        try:
            return self._exchange(path, headers)
        except (http.client.BadStatusLine, ConnectionError):
            # An idle connection may have been closed by the other side at any time: one more try on a fresh one.
            if not reused:
                raise Unavailable(503) from None
        except (OSError, http.client.HTTPException, ValueError):
            raise Unavailable(503) from None
        try:
            return self._exchange(path, headers)
        except (OSError, http.client.HTTPException, ValueError):
            raise Unavailable(503) from None

    def _exchange(self, path, headers):
        connection = getattr(self.local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=BACKEND_TIMEOUT_S)
            self.local.connection = connection
        try:
            connection.request("GET", path, headers={"host": self.authority, **headers})
            response = connection.getresponse()
            body = response.read(MAX_BACKEND_BODY)
            kept = response.isclosed() and not response.will_close
        except Exception:
            self._drop()
            raise
        if not kept:
            self._drop()
        if response.status != 200:
            raise Unavailable(response.status)
        return json.loads(body)

    def _drop(self):
        self.local.connection.close()
        self.local.connection = None


DETAILS = Backend("details")
REVIEWS = Backend("reviews")
RATINGS = Backend("ratings")
LOG_LOCK = threading.Lock()


class ProductPage(BaseHTTPRequestHandler):
    """Serves the page, its API and the log-in."""

    protocol_version = "HTTP/1.1"
    server_version = "productpage"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def do_GET(self):
        self.began = time.monotonic()
        path = urlsplit(self.path).path
        if path == "/health":
            self._send(200, "text/plain", b"product page is healthy\n")
        elif path in ("/", "/productpage"):
            self._send(200, "text/html; charset=utf-8", page(self._user(), self._passed_on()).encode())
        elif path == "/static/style.css":
            self._send(200, "text/css; charset=utf-8", STYLE.encode(), {"cache-control": "max-age=3600"})
        elif path == "/logout":
            self._send(302, "text/plain", b"", {"location": "/productpage", "set-cookie": "user=; Path=/; Max-Age=0"})
        elif path.startswith("/api/v1/products"):
            self._api(path.removeprefix("/api/v1/products").strip("/"))
        else:
            self._send_json(404, {"error": "no such page"})

    do_HEAD = do_GET

    def do_POST(self):
        self.began = time.monotonic()
        try:
            length = int(self.headers.get("content-length", ""))
        except ValueError:
            length = -1
        if not 0 <= length <= MAX_FORM:
            self.close_connection = True
            self._send_json(413, {"error": f"send a form of at most {MAX_FORM} bytes with content-length"})
            return
        form = parse_qs(self.rfile.read(length).decode("utf-8", "replace"))
        user = form.get("username", [""])[0]
        if urlsplit(self.path).path != "/login":
            self._send_json(404, {"error": "no such page"})
        elif not USER_NAME.fullmatch(user):
            self._send_json(400, {"error": "a user name has 1 to 32 letters, digits, dots, dashes or underscores"})
        else:
            cookie = f"user={user}; Path=/; HttpOnly; SameSite=Lax"
            self._send(302, "text/plain", b"", {"location": "/productpage", "set-cookie": cookie})

    def _api(self, rest):
        headers = self._passed_on()
        if rest == "":
            self._send_json(200, [PRODUCT])
            return
        sources = {"0": (DETAILS, "/details/0"), "0/reviews": (REVIEWS, "/reviews/0"), "0/ratings": (RATINGS, "/ratings/0")}
        if rest not in sources:
            self._send_json(404, {"error": "no such product"})
            return
        backend, path = sources[rest]
        try:
            self._send_json(200, backend.get_json(path, headers))
        except Unavailable as failure:
            what = {"0": "details", "0/reviews": "reviews", "0/ratings": "ratings"}[rest]
            self._send_json(failure.status, {"error": f"Sorry, product {what} are currently unavailable for this book."})

    def _user(self):
        try:
            morsel = SimpleCookie(self.headers.get("cookie", "")).get("user")
        except CookieError:
            return None
        return morsel.value if morsel and USER_NAME.fullmatch(morsel.value) else None

    def _passed_on(self):
        headers = {name.lower(): value for name, value in self.headers.items() if name.lower() in PASSED_ON}
        user = self._user() or self.headers.get("end-user")
        if user and USER_NAME.fullmatch(user):
            headers["end-user"] = user
        return headers

    def _send_json(self, status, value):
        self._send(status, "application/json", json.dumps(value).encode() + b"\n")

    def _send(self, status, content_type, body, headers=None):
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if self.path != "/health":
            self._log(status, len(body))

    def _log(self, status, size):
        line = {
            "app": "productpage",
            "method": self.command,
            "path": self.path,
            "status": status,
            "bytes": size,
            "duration_ms": round((time.monotonic() - self.began) * 1000, 2),
            "trace_id": trace_id(self.headers),
            "request_id": self.headers.get("x-request-id"),
        }
        with LOG_LOCK:
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()

    def log_request(self, code="-", size="-"):
        """Replaced by `_log`, which knows the trace."""

    def log_message(self, format, *args):
        with LOG_LOCK:
            sys.stdout.write(json.dumps({"app": "productpage", "message": format % args}) + "\n")
            sys.stdout.flush()


def trace_id(headers):
    """The trace id of W3C trace context, else of B3."""
    parts = headers.get("traceparent", "").split("-")
    if len(parts) >= 4 and len(parts[1]) == 32:
        return parts[1]
    return headers.get("x-b3-traceid") or headers.get("b3", "").split("-")[0] or None


def page(user, headers):
    """The whole page; a backend that fails costs only its own part."""
    return PAGE.format(
        title=html.escape(PRODUCT["title"]),
        description=PRODUCT["descriptionHtml"],
        session=session(user),
        details=details(headers),
        reviews=reviews(headers),
    )


def session(user):
    if user:
        return f'<span>Signed in as <b>{html.escape(user)}</b></span> <a class="button" href="/logout">Sign out</a>'
    return (
        '<form method="post" action="/login"><input name="username" placeholder="user name, e.g. jason" required '
        'maxlength="32" aria-label="user name"><button class="button">Sign in</button></form>'
    )


def details(headers):
    try:
        found = DETAILS.get_json("/details/0", headers)
        rows = [
            ("Type", found["type"]),
            ("Pages", found["pages"]),
            ("Publisher", found["publisher"]),
            ("Language", found["language"]),
            ("ISBN-10", found["ISBN-10"]),
            ("ISBN-13", found["ISBN-13"]),
        ]
        cells = "".join(f"<dt>{name}</dt><dd>{html.escape(str(value))}</dd>" for name, value in rows)
        return f"<h2>Book Details</h2><dl>{cells}</dl>"
    except (Unavailable, KeyError, TypeError):
        return failure("Error fetching product details!", "Sorry, product details are currently unavailable for this book.")


def reviews(headers):
    try:
        found = REVIEWS.get_json("/reviews/0", headers)
        quotes = "".join(quote(review) for review in found["reviews"])
        by = html.escape(str(found.get("podname", "reviews")))
        return f'<h2>Book Reviews</h2>{quotes}<p class="served">Reviews served by: <code>{by}</code></p>'
    except (Unavailable, KeyError, TypeError):
        return failure("Error fetching product reviews!", "Sorry, product reviews are currently unavailable for this book.")


def quote(review):
    text, reviewer = html.escape(review["text"]), html.escape(review["reviewer"])
    return f"<blockquote><p>{text}</p><footer>{reviewer}{stars(review.get('rating'))}</footer></blockquote>"


def stars(rating):
    if not rating:
        return ""
    if "error" in rating:
        return f'<span class="unavailable">{html.escape(rating["error"])}</span>'
    count = min(max(int(rating["stars"]), 0), 5)
    color = "red" if rating.get("color") == "red" else "black"
    return f'<span class="stars {color}" title="{count} of 5 stars">{"★" * count}{"☆" * (5 - count)}</span>'


def failure(head, text):
    return f'<div class="failure"><h2>{head}</h2><p>{text}</p></div>'


PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} – BookInfo</title><link rel="stylesheet" href="/static/style.css"></head>
<body>
<nav><a class="brand" href="/productpage">BookInfo <small>in a Reeve mesh</small></a><div>{session}</div></nav>
<header><h1>{title}</h1><p>{description}</p></header>
<main><section>{details}</section><section>{reviews}</section></main>
</body></html>
"""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --soft: #5b6b7c; --line: #d9e0e7; --paper: #fff; --ground: #f4f6f8; --accent: #1f5fbf; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf1; --soft: #9fb0c2; --line: #33404e; --paper: #1b232c; --ground: #12181f; --accent: #7db0ff; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--ground); }
nav { display: flex; justify-content: space-between; align-items: center; gap: 1rem; padding: .7rem 1.5rem; background: var(--paper); border-bottom: 1px solid var(--line); flex-wrap: wrap; }
.brand { font-weight: 700; color: inherit; text-decoration: none; } .brand small { font-weight: 400; color: var(--soft); }
nav form { display: flex; gap: .5rem; } input { padding: .35rem .6rem; border: 1px solid var(--line); border-radius: .4rem; background: var(--ground); color: inherit; font: inherit; }
.button { padding: .35rem .9rem; border: 0; border-radius: .4rem; background: var(--accent); color: var(--paper); font: inherit; text-decoration: none; cursor: pointer; }
header { max-width: 60rem; margin: 2.5rem auto 1rem; padding: 0 1.5rem; text-align: center; } header p { color: var(--soft); }
main { max-width: 60rem; margin: 0 auto 3rem; padding: 0 1.5rem; display: grid; grid-template-columns: 1fr 1.6fr; gap: 1.5rem; } @media (max-width: 45rem) { main { grid-template-columns: 1fr; } }
section { background: var(--paper); border: 1px solid var(--line); border-radius: .8rem; padding: 1rem 1.5rem; } h2 { font-size: 1.1rem; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .35rem 1.2rem; margin: 0; } dt { color: var(--soft); } dd { margin: 0; }
blockquote { margin: 0 0 1.2rem; padding-left: 1rem; border-left: 3px solid var(--line); } blockquote p { margin: 0 0 .3rem; }
footer { color: var(--soft); display: flex; gap: .8rem; align-items: center; flex-wrap: wrap; } .stars { font-size: 1.25rem; letter-spacing: .1em; } .stars.black { color: var(--ink); } .stars.red { color: #d32f2f; }
.served { color: var(--soft); font-size: .9rem; } .unavailable { font-style: italic; } .failure h2, .failure p { color: var(--bad); }
"""


class Server(ThreadingHTTPServer):
    """A thread per connection; connections are few, since callers keep them."""

    daemon_threads = True
    request_queue_size = 256


def main():
    address = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "9080"))
    Server(address, ProductPage).serve_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
