"use strict";

/* Ordering, filtering and sizing of the pairs; sorting of the table of settings. */
(() => {
  const section = document.querySelector("[data-clips]");
  const box = section.querySelector("[data-pairs]");
  const headline = section.dataset.headline;
  const worse = Number(section.dataset.worse);
  const pairs = [...box.querySelectorAll("[data-pair]")].map((card, place) => {
    const clips = [...card.querySelectorAll("[data-clip]")];
    const values = clips.map((clip) => worse * parseFloat(clip.getAttribute(`data-key-${headline}`)));
    const base = values[clips.findIndex((clip) => "reference" in clip.dataset)];
    return { card, place, clips, values, rises: values.map((value) => value - base), text: card.getAttribute("aria-label").toLocaleLowerCase() };
  });

  const order = section.querySelector("[data-order]");
  const orderArm = section.querySelector("[data-order-arm]");
  function most(numbers) {
    const arm = orderArm.value;
    const chosen = (arm === "" ? numbers : [numbers[Number(arm)]]).filter(Number.isFinite);
    return chosen.length ? Math.max(...chosen) : -Infinity;      // what was not measured comes last
  }
  const ranks = {
    declared: (pair) => -pair.place,
    worst: (pair) => most(pair.values),
    lost: (pair) => most(pair.rises),
    gained: (pair) => most(pair.rises.map((rise) => -rise)),
  };
  function sort() {
    const rank = new Map(pairs.map((pair) => [pair, ranks[order.value](pair)]));
    const sorted = [...pairs].sort((a, b) => (rank.get(b) - rank.get(a)) || (a.place - b.place));
    box.append(...sorted.map((pair) => pair.card));
  }
  order.addEventListener("change", sort);
  orderArm.addEventListener("change", sort);

  const filter = section.querySelector("[data-filter]");
  const count = section.querySelector("[data-shown-count]");
  function select() {
    const words = filter.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const pair of pairs) {
      pair.card.hidden = !words.every((word) => pair.text.includes(word));
      shown += !pair.card.hidden;
    }
    const all = pairs.length === 1 ? "1 pair" : `${pairs.length} pairs`;
    count.value = words.length ? `${shown} of ${all}` : all;
    section.querySelector("[data-none-shown]").hidden = shown > 0;
  }
  filter.addEventListener("input", select);

  section.querySelector("[data-size]").addEventListener("change", (event) => { box.dataset.size = event.target.value; });

  const arms = [...section.querySelectorAll("[data-arm]")];
  function showArms() {
    const chosen = arms.length ? arms.map((input) => input.checked) : Array(Number(box.dataset.arms)).fill(true);
    for (const pair of pairs) pair.clips.forEach((clip, index) => { clip.hidden = !chosen[index]; });
    box.style.setProperty("--arms", Math.max(1, chosen.filter(Boolean).length));
  }
  for (const input of arms) input.addEventListener("change", showArms);
  showArms();

  /* Rows of many settings scroll together, so that a column stays a column. */
  let leader = null, release = 0;
  box.addEventListener("scroll", (event) => {
    const row = event.target;
    if (!row.matches?.("[data-row]") || (leader && leader !== row)) return;
    leader = row;
    clearTimeout(release);
    release = setTimeout(() => { leader = null; }, 150);
    for (const pair of pairs) {
      const other = pair.card.querySelector("[data-row]");
      if (other !== row && !pair.card.hidden) other.scrollLeft = row.scrollLeft;
    }
  }, true);

  for (const table of document.querySelectorAll("[data-sortable]")) {
    for (const button of table.querySelectorAll("[data-sort-column]")) {
      button.addEventListener("click", () => {
        const head = button.closest("th");
        const column = Number(head.dataset.column);
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (row) => {
          const number = parseFloat(row.querySelectorAll("[data-value]")[column].dataset.value.replaceAll("−", "-"));
          return Number.isNaN(number) ? Infinity : (down ? -number : number);
        };
        table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => value(a) - value(b)));
      });
    }
  }
})();
