"""The command line: `fastcells`, or `python -m fastcells`. What it is made with, typer and rich, is
the extra `cli`."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Runs the command that `sys.argv` names; without typer or rich says how to get them."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("typer", "rich"):
            raise
        raise SystemExit(
            f"fastcells: the command line needs {package}, which is not installed: "
            "pip install 'fastcells[cli]'"
        ) from None
    app()
