"""Pages of any room: inert values, one script, room for clips and charts."""

from pathlib import Path

import jinja2
import pytest

from video_diffusion.web import ClipView, Line, draw_line_chart, render_page, write_page

TEMPLATE = """{% extends "page.html" %}
{% from "player.html" import player_bar %}{% from "clip.html" import clip_cell %}
{% from "line_chart.html" import line_chart %}
{% block title %}{{ title }}{% endblock %}
{% block body %}<main id="main" title='{{ title }}'>{{ title }}
<div class="plots"><figure class="card plot">{{ line_chart(chart) }}</figure></div>
<section data-player>{{ player_bar() }}<div class="clip-row" data-row>{{ clip_cell(view) }}</div></section>
</main>{% endblock %}"""
NASTY = "</title></script><script>x=1</script>' onclick='y\x1b{{ 7 * 7 }}"


def rendered(folder: Path, template: str = TEMPLATE, **values: object) -> str:
    (folder / "own.html").write_text(template)
    return render_page(folder, "own.html", values)


def test_a_page_of_another_room(tmp_path: Path):
    chart = draw_line_chart(NASTY, [Line(NASTY, [(0, 1.0), (1, 0.5)])], x_label=NASTY, y_label=NASTY)
    view = ClipView(NASTY, NASTY, path="a b.mp4", fps=8.0, num_frames=16, badge="A", command=NASTY)
    page = rendered(tmp_path, title=NASTY, chart=chart, view=view)
    assert page.count("<script>") == page.count("</script>") == 1
    assert "&#39; onclick=&#39;y␛{{ 7 * 7 }}" in page and "onclick='" not in page
    assert 'data-src="./a%20b.mp4"' in page and "data-player-bar" in page and 'class="line line-1"' in page
    assert "data-show" not in page.partition("<script>")[0]  # no reference, no difference view


def test_a_template_that_names_what_it_was_not_given_is_our_error(tmp_path: Path):
    with pytest.raises(jinja2.UndefinedError):
        rendered(tmp_path, "{{ missing }}")


def test_half_a_surrogate_pair_can_be_written(tmp_path: Path):
    write_page(tmp_path / "page.html", "a\ud800b")
    assert (tmp_path / "page.html").read_bytes() == b"a\\ud800b"
