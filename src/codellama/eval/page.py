"""The frame of every page: no script, nothing from elsewhere."""

from __future__ import annotations

from html import escape

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { border-bottom: 1px solid #8884; padding: .2rem .7rem; text-align: left;
  vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.own td { font-weight: 600; }
.wide { overflow-x: auto; }
pre { padding: .6rem; border: 1px solid #8884; white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; }
details details { margin-left: 1rem; }
h4 { margin: .4rem 0 0; }
"""


def page(title: str, body: str) -> str:
    """A whole HTML page; `body` is HTML whose texts are escaped already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>"
        '<meta name="viewport" content="width=device-width">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )
