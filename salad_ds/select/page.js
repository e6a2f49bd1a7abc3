"use strict";
// The page reads without this: it adds arrow keys and pointing to the map, sorting to the table, and keys to the panels.
{
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const map = document.querySelector(".map");
  const bubbles = all(".bubble");

  // The map. An arrow goes to the nearest cluster in its direction; Home and End to the highest and the lowest M.
  const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const middle = (element) => {
    const box = element.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  const towards = (from, [dx, dy]) => {
    const [x, y] = middle(from);
    let best = null, least = Infinity;
    for (const other of bubbles) {
      const [ox, oy] = middle(other);
      const along = (ox - x) * dx + (oy - y) * dy;
      const across = Math.abs((ox - x) * dy) + Math.abs((oy - y) * dx);
      if (other !== from && along > 0 && along + 2 * across < least) [best, least] = [other, along + 2 * across];
    }
    return best;
  };
  const point = (bubble) => {
    map.classList.toggle("pointed", Boolean(bubble));
    for (const group of all(".dots g")) group.classList.toggle("pointed", group.dataset.cluster === bubble?.dataset.cluster);
  };
  for (const bubble of bubbles) {
    bubble.addEventListener("mouseenter", () => { map.classList.remove("quiet"); point(bubble); });
    bubble.addEventListener("mouseleave", () => point(null));
    bubble.addEventListener("focus", () => { map.classList.remove("quiet"); point(bubble); });
    bubble.addEventListener("blur", () => point(null));
  }
  map?.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !event.target.matches(".bubble")) return;
    const ends = { Home: bubbles[0], End: bubbles.at(-1) };
    const next = ends[event.key] ?? (directions[event.key] && towards(event.target, directions[event.key]));
    if (next) next.focus();
    if (next || directions[event.key]) event.preventDefault();
    if (event.key === "Escape") { map.classList.add("quiet"); point(null); }
  });

  // The panels. A link opens one and goes to it; Escape closes it and goes back to where the link was.
  let came = null;
  const open = (panel, link) => {
    came = link;
    panel.open = true;
    const summary = panel.querySelector("summary");
    summary.focus({ preventScroll: true });
    panel.scrollIntoView();
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#cluster-"]');
    if (!link) return;
    event.preventDefault();
    open(document.querySelector(link.getAttribute("href")).closest("details"), link);
  });
  const panels = all("details.cluster");
  for (const panel of panels) {
    panel.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !panel.open) return;
      panel.open = false;
      (came ?? panel.querySelector("summary")).focus();
      came = null;
    });
    panel.addEventListener("toggle", () => { if (!panel.open) for (const sound of all("audio", panel)) sound.pause(); });
  }
  if (panels.length) {
    const tools = document.createElement("p");
    tools.className = "tools";
    for (const [name, state] of [["Open all", true], ["Close all", false]]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.addEventListener("click", () => { for (const panel of panels) panel.open = state; });
      tools.append(button);
    }
    panels[0].before(tools);
  }
  document.addEventListener("play", (event) => {
    for (const sound of all("audio")) if (sound !== event.target) sound.pause();
  }, true);

  // The table. Figures sort from the highest first, words from A; what has no figure stays last.
  const worth = (row, column) => {
    const cell = row.cells[column], data = cell.querySelector("data");
    return data ? (data.value === "" ? null : Number(data.value)) : cell.textContent.trim();
  };
  const status = document.createElement("p");
  status.className = "skip";
  status.setAttribute("role", "status");
  for (const table of all(".sortable table")) {
    table.closest(".sortable").append(status);
    const heads = all("thead th", table), body = table.tBodies[0];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const words = typeof worth(body.rows[0], column) === "string";
        const up = head.getAttribute("aria-sort") === "none" ? words || column === 0 : head.getAttribute("aria-sort") === "descending";
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...body.rows].map((row) => [row, worth(row, column)]);
        rows.sort(([, a], [, b]) => (a === null) - (b === null)
          || (up ? 1 : -1) * (words ? a.localeCompare(b) : a - b));
        body.append(...rows.map(([row]) => row));
        status.textContent = `Sorted by ${button.textContent}, ${up ? "ascending" : "descending"}`;
      });
    });
  }
}
