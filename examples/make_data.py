"""Make the data of the examples again, each into its own folder; the same bytes each time.

    python examples/make_data.py [FOLDER]

Invented, but for the poems, which are old enough to be everybody's.  Standard library only.
"""

from __future__ import annotations

import bz2
import gzip
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

TOP = Path(__file__).resolve().parent
sys.path.insert(0, str(TOP.parent))  # the maker of pings is that of the demo

from demo.make_pings import make_pings

POEMS = {
    "mariner": """\
It is an ancient Mariner,
And he stoppeth one of three.
'By thy long grey beard and glittering eye,
Now wherefore stopp'st thou me?

Day after day, day after day,
We stuck, nor breath nor motion;
As idle as a painted ship
Upon a painted ocean.

Water, water, every where,
And all the boards did shrink;
Water, water, every where,
Nor any drop to drink.
""",
    "tyger": """\
Tyger Tyger, burning bright,
In the forests of the night;
What immortal hand or eye,
Could frame thy fearful symmetry?

In what distant deeps or skies.
Burnt the fire of thine eyes?
On what wings dare he aspire?
What the hand, dare seize the fire?
""",
    "daffodils": """\
I wandered lonely as a cloud
That floats on high o'er vales and hills,
When all at once I saw a crowd,
A host, of golden daffodils;
Beside the lake, beneath the trees,
Fluttering and dancing in the breeze.
""",
}
PAGES = {"/": 40, "/buy": 8, "/search?q=tea": 20, "/img/logo.png": 25, "/admin": 1}
AGENTS = ["Mozilla/5.0 (X11; Linux) Firefox/32.0", 'odd "quoted" agent', "-"]
FIRST = datetime(2014, 7, 1, tzinfo=UTC)


def poems(folder: Path) -> None:
    """A gzip file for each poem."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in POEMS.items():
        (folder / f"{name}.txt.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


def web_log(folder: Path, rng: random.Random) -> None:
    """Access logs of two servers in the combined format, bzip2 compressed."""
    folder.mkdir(parents=True, exist_ok=True)
    for server in ("web1", "web2"):
        when, lines = FIRST, []
        for _ in range(120):
            when += timedelta(seconds=rng.randrange(1, 40))
            page = rng.choices(list(PAGES), list(PAGES.values()))[0]
            status = 403 if page == "/admin" else rng.choices([200, 304, 500], [90, 8, 3])[0]
            size = "-" if status == 304 else rng.randrange(200, 9000)
            lines.append(
                f"10.0.0.{rng.randrange(9)} - - [{when:%d/%b/%Y:%H:%M:%S +0000}] "
                f'"GET {page} HTTP/1.1" {status} {size} "-" "{rng.choice(AGENTS)}"\n'
            )
        (folder / f"{server}.log.bz2").write_bytes(bz2.compress("".join(lines).encode()))


def machine_logs(folder: Path, rng: random.Random) -> None:
    """Logs of three machines, each in its own order of time."""
    folder.mkdir(parents=True, exist_ok=True)
    for machine in ("db", "queue", "web"):
        when, lines = FIRST, []
        for number in range(40):
            when += timedelta(milliseconds=rng.randrange(1, 90_000))
            stamp = when.isoformat(timespec="milliseconds")
            lines.append(f"{stamp} {machine} event {number}\n")
        (folder / f"{machine}.log").write_text("".join(lines))


def shop(folder: Path, rng: random.Random) -> None:
    """Customers and their orders, as JSON lines would be too easy: two CSV files without quotes."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["Ada", "Blaise", "Charles", "Dorothy", "Edsger", "Grace"]
    customers = [f"c{number},{name}\n" for number, name in enumerate(names)]
    (folder / "customers.csv").write_text("".join(customers))
    for month in (1, 2):
        orders = [
            f"2014-{month:02d}-{day:02d},c{rng.randrange(8)},{rng.randrange(1, 90)}\n"
            for day in sorted(rng.randrange(1, 29) for _ in range(15))
        ]
        (folder / f"orders-{month}.csv.gz").write_bytes(
            gzip.compress("".join(orders).encode(), mtime=0)
        )


def make(top: Path = TOP) -> None:
    """Write the data of every example."""
    make_pings(top / "pings-by-platform" / "data", files=3, pings=6, seed=7, malformed=0.1)
    (top / "pings-by-platform" / "data" / "truth.json").unlink()
    poems(top / "word-count" / "data")
    poems(top / "inverted-index" / "data")
    poems(top / "line-lengths-c" / "data")
    web_log(top / "web-log" / "data", random.Random(1))
    machine_logs(top / "sort" / "data", random.Random(2))
    shop(top / "join" / "data", random.Random(3))
    web_log(top / "aggregate" / "data", random.Random(4))


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else TOP)
