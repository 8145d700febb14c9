"""The report as one HTML page: figures and tables within it, nothing loaded from elsewhere."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence

from hpo.report.style import COLORS, Panel, Section, to_svg
from hpo.report.tables import SHOWN, STUDY_SHOWN, cell, interval, shown_columns
from hpo.report.words import MINUS, TIMES, typeset

_PAGE = {"paper": ("#ffffff", "#14181d"), "card": ("#f6f7f9", "#1c2229")}


def _variables(k: int) -> str:
    return "".join(f"--{name}:{pair[k]};" for name, pair in (COLORS | _PAGE).items())


_STYLE = (
    f":root{{color-scheme:light dark;{_variables(0)}}}"
    f"@media screen and (prefers-color-scheme:dark){{:root{{{_variables(1)}}}}}"
    """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{font:16px/1.55 "DejaVu Sans",system-ui,sans-serif;margin:0 auto;padding:1rem;max-width:102rem;
 color:var(--ink);background:var(--paper);overflow-wrap:break-word}
h1{font-size:1.6rem;line-height:1.25;margin:.4rem 0}
h2{font-size:1.15rem;line-height:1.3;margin:0 0 .5rem}
p,ul{margin:.5rem 0;max-width:52rem}
ul{padding-left:1.2rem}
li{margin:.25rem 0;break-inside:avoid}
a{color:var(--step2)}
code{font-family:"DejaVu Sans Mono",ui-monospace,monospace;font-size:.9em}
nav{font-size:.9rem;margin:.6rem 0}
nav a{display:inline-block;padding:.25rem .6rem .25rem 0}
.about{color:var(--faint);font-size:.9rem}
main{display:flex;flex-wrap:wrap;gap:1rem}
section{background:var(--card);border-radius:.5rem;padding:1rem;min-width:0;flex:1 1 100%}
@media screen and (min-width:58rem){section.one{flex-basis:45%}header ul{columns:2;max-width:none;column-gap:3rem}}
@media screen and (min-width:88rem){section.one{flex-basis:30%}section.pair{flex-basis:45%}
 section .panels.small{grid-template-columns:repeat(var(--columns),minmax(0,1fr))}
 section .panels.stacked{grid-auto-flow:column;grid-template-rows:auto auto}}
.number{white-space:nowrap}
.panels{display:grid;gap:.75rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr))}
.panels.small{grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr))}
figure{margin:0 auto;width:100%;max-width:34rem}
.small figure{max-width:26rem}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--ink);font-family:"DejaVu Sans",system-ui,sans-serif}
details{margin:.6rem 0}
summary{cursor:pointer;font-weight:600;padding:.3rem 0}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .6rem;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap}
td.long{white-space:normal;min-width:9rem;text-align:left}
th{text-align:right;vertical-align:bottom;white-space:normal}
th.long,.left{text-align:left}
@media print{body{font-size:10pt;max-width:none;padding:0}nav{display:none}
main{gap:.4em 1.2em}
section{background:none;padding:0;margin:0 0 1.2em}section.one{flex-basis:45%}
section.one,section.pair{break-inside:avoid}
figure{break-inside:avoid;max-width:8.5cm}h2,summary,details p{break-after:avoid}
.panels.small{grid-template-columns:repeat(2,1fr)}td,th{padding:.1rem .3rem}.scroll{overflow:visible}
table{font-size:7pt}details::details-content{content-visibility:visible;height:auto}}
"""
)


_MOST_COLUMNS = 5


def page(
    title: str,
    about: Sequence[str],
    sections: Sequence[Section],
    rows: Sequence[Mapping],
    studies: Sequence[Mapping] = (),
) -> str:
    """The whole page.

    Parameters
    ----------
    title : str
    about : sequence of str
        Sentences on the studies: how far, which samples, which commit.
    sections : sequence of Section
    rows : sequence of mapping
        Of the table of networks.
    studies : sequence of mapping
        Of the table of studies, if there are several; then what is to say of each is folded.
    """
    gist = [s.sentences[k] for s in sections for k in s.gist if k < len(s.sentences)]
    drawn = [s for s in sections if s.all_panels()]
    links = "".join(f'<a href="#{_anchor(s.title)}">{html.escape(s.title)}</a>' for s in drawn)
    parts = [
        f"<header><h1>{html.escape(title)}</h1>",
        *(f'<p class="about">{_text(s)}</p>' for s in about),
        f"<ul>{''.join(f'<li>{_text(s)}</li>' for s in gist)}</ul>" if gist else "",
        f"<nav aria-label='figures'>{links}</nav></header><main>",
        _studies(studies),
        *(_section(s, [row["study"] for row in studies]) for s in drawn),
        _table(rows),
        _missing([s for s in sections if not s.all_panels()]),
        "</main>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        # no request for an icon: the page loads nothing
        f'<link rel="icon" href="data:,"><title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _section(section: Section, studies: Sequence[str]) -> str:
    shape = "full" if section.small or section.folded else "pair" if len(section.panels) != 1 else "one"
    each = [s for s in section.sentences if any(s.startswith(f"{name}: ") for name in studies)]
    said = _paragraphs([s for s in section.sentences if s not in each])
    if len(each) > 1:
        each_said = f"<details><summary>In each study</summary>{_paragraphs(each)}</details>"
    else:
        each_said = _paragraphs(each)
    inside = said + _panels(section) + each_said
    for k, part in enumerate(section.folded):
        summary = f"<summary>{html.escape(part.title)}</summary>"
        inside += f"<details{' open' if k == 0 else ''}>{summary}{_paragraphs(part.sentences)}{_panels(part)}</details>"
    heading = f"<h2>{html.escape(section.title)}</h2>"
    return f'<section class="{shape}" id="{_anchor(section.title)}">{heading}{inside}</section>'


def _paragraphs(sentences: Sequence[str]) -> str:
    return "".join(f"<p>{_text(s)}</p>" for s in sentences)


def _missing(sections: Sequence[Section]) -> str:
    """Figures that the study does not have, and why, in one place."""
    if not sections:
        return ""
    items = "".join(
        f"<li>{html.escape(s.title)}: {_text(' '.join(s.sentences).removeprefix('Not drawn: '))}</li>" for s in sections
    )
    return f'<section class="full" id="not-drawn"><h2>Not drawn</h2><ul>{items}</ul></section>'


def _panels(section: Section) -> str:
    if not section.panels:
        return ""
    n = len(section.panels)
    columns = n // 2 if section.stacked else n if n <= _MOST_COLUMNS else 3 if n % 3 == 0 else 4
    stacked = " stacked" if section.stacked else ""
    small = f' small{stacked}" style="--columns:{max(columns, 3)}' if section.small else ""
    return f'<div class="panels{small}">{"".join(_figure(p) for p in section.panels)}</div>'


def _figure(panel: Panel) -> str:
    alt = html.escape(panel.alt.replace("`", ""), quote=True)
    svg = to_svg(panel.figure, panel.name).replace("<svg", f'<svg role="img" aria-label="{alt}"', 1)
    return f"<figure>{svg}</figure>"


def _table(rows: Sequence[Mapping]) -> str:
    columns = shown_columns(rows)
    cells = [[typeset(cell(r[c])) if isinstance(r[c], float) else cell(r[c]) for c in columns] for r in rows]
    shapes = [" class=long" if c == "hidden" else " class=left" if c in ("study", "promoted") else "" for c in columns]
    return _section_of_table("networks", "Retrained networks", [SHOWN[c] for c in columns], cells, shapes)


def _studies(rows: Sequence[Mapping]) -> str:
    cells = [[typeset(interval(r, c)) for c in STUDY_SHOWN] for r in rows]
    shapes = [" class=left" if c == "study" else "" for c in STUDY_SHOWN]
    return _section_of_table("studies", "The studies", list(STUDY_SHOWN.values()), cells, shapes)


def _section_of_table(
    name: str, title: str, heads: Sequence[str], cells: Sequence[Sequence[str]], shapes: Sequence[str]
) -> str:
    if not cells:
        return ""
    head = "".join(f'<th scope="col"{s}>{html.escape(h)}</th>' for h, s in zip(heads, shapes, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{s}>{html.escape(c)}</td>" for c, s in zip(row, shapes, strict=True)) + "</tr>"
        for row in cells
    )
    return (
        f'<section class="full" id="{name}"><h2>{title}</h2><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{title}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>'
    )


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _text(sentence: str) -> str:
    """Escaped, with `names` as code; a line does not end within a number."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", typeset(html.escape(sentence)))
    return re.sub(_WHOLE, r'<span class="number">\1</span>', text)


# a power of ten, a negative number, a percentage
_WHOLE = rf"(?<![\w.])({MINUS}?[\d.]+{TIMES}10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+|{MINUS}[\d.]+\d|[\d.]+ %)"
