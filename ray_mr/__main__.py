"""``python -m ray_mr`` runs ``ray-mr``."""

from __future__ import annotations

from ray_mr.cli.main import main

if __name__ == "__main__":
    main(prog_name="ray-mr")
