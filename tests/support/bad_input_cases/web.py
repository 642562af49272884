"""Web servers that refuse, are not there, lead nowhere, or have something else than they said."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from bad_input import Case
from ray_mr.stores.http import address, request
from web_server import Page, WebServer, web_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bad_input import User

SUBJECT = "Web servers"
RUN = "ray-mr run job.yml --engine local"
MAPPER = "mapper: {language: binary, script: cat, feed: lines}\n"
WHERE = "http://web.example"
AT = "http://web.example/in/a.txt"


def quick(user: User) -> None:
    """No proxy, no passwords of this machine's user, and no long pauses."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        user.monkeypatch.delenv(name, raising=False)
    user.monkeypatch.setenv("NETRC", str(user.folder.parent / "netrc"))
    user.monkeypatch.setattr(request, "_BACKOFF_S", 0.001)
    address._read_netrc.cache_clear()
    user.request.addfinalizer(address._read_netrc.cache_clear)


def serving(*pages: tuple[str, dict[str, Any]]) -> Callable[[User], None]:
    """A server with these pages; each redirects to `/loop` by a relative location, if it does."""

    def before(user: User) -> None:
        quick(user)
        server: WebServer = user.enter(web_server())
        user.names["web"] = server.base
        user.masks[server.base] = WHERE
        for path, how in pages:
            server.pages[path] = Page(b"a\n", **how)

    return before


def nobody(user: User) -> None:
    """A port at which nobody listens."""
    quick(user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        user.names["web"] = f"http://127.0.0.1:{free.getsockname()[1]}"
    user.masks[user.names["web"]] = WHERE


def no_name(user: User) -> None:
    """A host that no name server knows: the domain is reserved for that."""
    quick(user)
    user.names["web"] = "http://nobody.invalid"


def web(
    name: str,
    path: str,
    code: int,
    *says: str,
    before: Callable[[User], object],
    options: str = "",
    host: str = WHERE,
) -> Case:
    """A run over one URL."""
    files = {"job.yml": f"inputs: ['{{web}}{path}']\n{MAPPER}{options}"}
    return Case(
        name, RUN, code, says, files=files, before=before, shown=f"job.yml: inputs: [{host}{path}]"
    )


PAGE = "/in/a.txt"
CASES = [
    web("A page that is not there", PAGE, 4, f"{AT} does not exist", before=serving()),
    web(
        "A page that is forbidden",
        PAGE,
        4,
        f"{AT}: ",
        "access denied (403)",
        before=serving((PAGE, {"statuses": [403] * 9})),
    ),
    web(
        "A page that asks for a password",
        PAGE,
        3,
        f"{AT}: ",
        "~/.netrc",
        before=serving((PAGE, {"login": ("me", "secret")})),
    ),
    web(
        "A web server that is not there",
        PAGE,
        4,
        f"{AT}: no connection to the host",
        "is the URL right",
        before=nobody,
    ),
    web(
        "A web server whose name is unknown",
        PAGE,
        4,
        "http://nobody.invalid/in/a.txt: its host has no address",
        before=no_name,
        host="http://nobody.invalid",
    ),
    web(
        "A page that redirects in a circle",
        PAGE,
        4,
        f"{AT}: ",
        "redirect",
        before=serving((PAGE, {"location": PAGE})),
    ),
    web(
        "A web server that is too busy",
        PAGE,
        4,
        f"{AT}: ",
        "503",
        before=serving((PAGE, {"statuses": [503] * 99})),
    ),
    web(
        "A download that breaks off again and again",
        PAGE,
        4,
        f"{AT}: the connection broke off",
        before=serving((PAGE, {"cut_at": [1] * 99, "ranges": False})),
        options="attempts: 2\n",
    ),
    web(
        "A pattern for a web server",
        "/in/*.txt",
        2,
        "web servers do not list objects",
        "name each object",
        before=serving(),
    ),
]
