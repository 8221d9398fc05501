"""Pages that open anywhere: one HTML file without a server or a network, its clips playing in step.

A room that writes a page has a `templates` folder of its own, whose template extends `page.html`, and calls
`render_page(its_folder, "report.html", values)`. To show clips that play together, its template says

    {% from "player.html" import player_bar %}   {% from "clip.html" import clip_cell %}
    <section data-player>
      <div class="clip-row" data-row> {{ clip_cell(view) }} {{ clip_cell(other_view) }} </div>
      {{ player_bar() }}
    </section>

with `view` a `ClipView` that went through `with_images`. The bar stands last and stays at the window's
foot while the rows go by. Only rows near the window load their clips; all
clips of the section share one clock. Of the cells of a row, one may be the reference that the others show
their difference to.

A chart of losses is `<figure class="card plot">{{ line_chart(chart) }}</figure>` in a `<div class="plots">`,
with `line_chart` from "line_chart.html" and `chart` from `draw_line_chart`.

Everything that goes into a template is escaped and cannot run, load or reorder anything, whoever wrote it.
"""

from video_diffusion.web.charts import (
    BAD,
    GOOD,
    INK,
    RULE,
    SOFT,
    Hint,
    Line,
    LineChart,
    Scale,
    draw_line_chart,
    inline_svg,
    scale_over,
)
from video_diffusion.web.clips import (
    ClipImages,
    ClipView,
    SliceLine,
    draw_clip_images,
    image_url,
    reduced,
    relative_url,
    with_images,
)
from video_diffusion.web.page import counted, number, render_page, signed, visible, write_page

__all__ = [
    "BAD",
    "GOOD",
    "INK",
    "RULE",
    "SOFT",
    "ClipImages",
    "ClipView",
    "Hint",
    "Line",
    "LineChart",
    "Scale",
    "SliceLine",
    "counted",
    "draw_clip_images",
    "draw_line_chart",
    "image_url",
    "inline_svg",
    "number",
    "reduced",
    "relative_url",
    "render_page",
    "scale_over",
    "signed",
    "visible",
    "with_images",
    "write_page",
]
