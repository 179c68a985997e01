"""A requests session without redirects, cookies or settings from the environment."""

from __future__ import annotations

import logging
from http.cookiejar import DefaultCookiePolicy

from requests import RequestException, Response, Session
from urllib3.exceptions import HTTPError

TRANSPORT_ERRORS = (RequestException, HTTPError)
"""What a request, or reading its reply, raises; ``cause_of`` tells why."""
logging.getLogger("urllib3").setLevel(logging.ERROR)  # it logs headers in the server's own words


class PlainSession(Session):
    """Thread-safe for requests."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))

    def get_redirect_target(self, resp: Response) -> None:
        """None: requests would read the whole body of a redirect, even of one that it does not follow."""


def cause_of(error: BaseException) -> BaseException:
    """The error of the socket or of ``http.client`` that requests and urllib3 have wrapped."""
    while isinstance(error, TRANSPORT_ERRORS):
        inner = next((arg for arg in reversed(error.args) if isinstance(arg, Exception)), error.__cause__)
        if inner is None:
            break
        error = inner
    return error
