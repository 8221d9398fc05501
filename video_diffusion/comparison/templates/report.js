"use strict";

/* Ordering, filtering and sizing of the pairs; sorting of the table of settings. */
(() => {
  const section = document.querySelector("[data-clips]");
  const box = section.querySelector("[data-pairs]");
  const pairs = [...box.querySelectorAll("[data-pair]")].map((card, place) => {
    const clips = [...card.querySelectorAll("[data-clip]")];
    const values = clips.map((clip) => JSON.parse(clip.dataset.values || "{}"));
    const base = clips.findIndex((clip) => "reference" in clip.dataset);
    return { card, place, clips, values, base, text: card.getAttribute("aria-label").toLocaleLowerCase() };
  });

  const order = section.querySelector("[data-order]");
  const orderArm = section.querySelector("[data-order-arm]");
  const orderMeasure = section.querySelector("[data-order-measure]");
  /* What decides a pair's place: the largest of its clips', or of the chosen setting's. */
  function most(pair, of) {
    const arm = orderArm.value;
    const chosen = (arm === "" ? pair.values.map((_, at) => at) : [Number(arm)]).map(of).filter(Number.isFinite);
    return chosen.length ? Math.max(...chosen) : -Infinity;      // what was not measured comes last
  }
  function sort() {
    const worse = Number(orderMeasure.selectedOptions[0]?.dataset.worse ?? 1);
    const value = (pair, at) => worse * (pair.values[at]?.[orderMeasure.value] ?? NaN);
    const ranks = {
      declared: (pair) => -pair.place,
      worst: (pair) => most(pair, (at) => value(pair, at)),
      best: (pair) => most(pair, (at) => -value(pair, at)),
      lost: (pair) => most(pair, (at) => value(pair, at) - value(pair, pair.base)),
      gained: (pair) => most(pair, (at) => value(pair, pair.base) - value(pair, at)),
    };
    const rank = new Map(pairs.map((pair) => [pair, ranks[order.value](pair)]));
    const sorted = [...pairs].sort((a, b) => (rank.get(b) - rank.get(a)) || (a.place - b.place));
    box.append(...sorted.map((pair) => pair.card));
  }
  for (const choice of [order, orderArm, orderMeasure]) choice.addEventListener("change", sort);

  const filter = section.querySelector("[data-filter]");
  const count = section.querySelector("[data-shown-count]");
  const onlyPicked = section.querySelector("[data-only-picked]");
  function select() {
    const words = filter.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const pair of pairs) {
      const picked = !onlyPicked.checked || pair.card.querySelector("[data-pick][aria-pressed=true]");
      pair.card.hidden = !picked || !words.every((word) => pair.text.includes(word));
      shown += !pair.card.hidden;
    }
    const all = pairs.length === 1 ? "1 pair" : `${pairs.length} pairs`;
    count.value = words.length || onlyPicked.checked ? `${shown} of ${all}` : all;
    section.querySelector("[data-none-shown]").hidden = shown > 0;
  }
  filter.addEventListener("input", select);

  /* A dot of a plot leads to its card also where the filter hides it: the filter gives way. */
  function reveal() {
    const pair = pairs.find((each) => `#${each.card.id}` === location.hash);
    if (!pair) return;
    if (pair.card.hidden) { filter.value = ""; onlyPicked.checked = false; select(); }
    const show = () => pair.card.scrollIntoView();
    show();
    requestAnimationFrame(() => requestAnimationFrame(show));   // cards above have their true heights only now
  }
  addEventListener("hashchange", reveal);
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href^='#pair-']");
    if (link && link.getAttribute("href") === location.hash) reveal();
  });
  reveal();

  /* The shortlist: clips that were picked, and the commands that make them again. */
  const shortlist = section.querySelector("[data-shortlist]");
  const save = section.querySelector("[data-save-picked]");
  function list() {
    const picked = [...section.querySelectorAll("[data-pick][aria-pressed=true]")];
    const commands = picked.map((button) => button.closest("[data-clip]").querySelector("[data-copy]").dataset.copy);
    shortlist.hidden = picked.length === 0;
    section.querySelector("[data-picked-count]").value = picked.length === 1 ? "1 clip on the shortlist" : `${picked.length} clips on the shortlist`;
    section.querySelector("[data-copy-picked]").dataset.copy = commands.join("\n");
    save.href = `data:text/x-shellscript;charset=utf-8,${encodeURIComponent(commands.join("\n") + "\n")}`;
    if (!picked.length) onlyPicked.checked = false;
    select();
  }
  section.addEventListener("click", (event) => {
    const button = event.target.closest("[data-pick]");
    if (!button) return;
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", on);
    button.textContent = on ? "On the shortlist" : "Shortlist";
    list();
  });
  onlyPicked.addEventListener("change", select);
  section.querySelector("[data-clear-picked]").addEventListener("click", () => {
    for (const button of section.querySelectorAll("[data-pick][aria-pressed=true]")) {
      button.setAttribute("aria-pressed", "false");
      button.textContent = "Shortlist";
    }
    list();
  });

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
