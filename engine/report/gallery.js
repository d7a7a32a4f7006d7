"use strict";
/* The labels that the filters leave, a page at a time. */

const PAGE = 48;
const LAYERS = [
  ["image", "Image"],
  ["mask", "Mask"],
  ["heatmap", "Heatmap"],
  ["preliminary", "Preliminary mask"],
  ["background", "Painted background"],
];
const ORDERS = {
  worst: (a, b) => a.place - b.place,
  best: (a, b) => b.place - a.place,
  large: (a, b) => b.area - a.area || a.place - b.place,
  small: (a, b) => a.area - b.area || a.place - b.place,
  key: (a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : a.place - b.place),
};

/* One layer of a row's picture file, or words where there is no picture. */
function makeTile(row, layer, { lazy = true, alt } = {}) {
  if (!row.picture || layer >= row.layers) {
    return make("div", { class: "tile none" }, row.picture ? "Not painted" : "No image in the corpus");
  }
  const image = make("img", {
    src: row.picture,
    alt: alt === undefined ? `${LAYERS[layer][1]} of ${row.key}` : alt,
    loading: lazy ? "lazy" : "eager",
    decoding: "async",
    draggable: "false",
  });
  /* Layers lie `step` of their width apart: between them is a gap, so that their colours do not mix. */
  image.style.width = `${100 * (row.step * (row.layers - 1) + 1)}%`;
  image.style.left = `${-100 * row.step * layer}%`;
  const tile = make("div", { class: row.width >= row.height ? "tile wide" : "tile tall" }, image);
  tile.style.aspectRatio = `${row.width} / ${row.height}`;
  tile.style.setProperty("--ratio", row.width / row.height);
  return tile;
}

class Gallery {
  constructor(review, open) {
    this.review = review;
    this.open = open;
    this.layer = 1;
    this.page = 0;
    this.rows = [];
    this.pressed = new Set();
    this.cards = new Map();
    this.buildFilters();
    this.filter();
  }

  buildFilters() {
    byId("shard").append(make("option", { value: "" }, "all"),
      ...REPORT.shards.map((name, place) => make("option", { value: place }, name)));
    const counts = new Map();
    for (const row of ROWS) for (const flag of row.flags.length ? row.flags : [""]) counts.set(flag, (counts.get(flag) || 0) + 1);
    byId("flag-filter").append(...[...counts].sort((a, b) => b[1] - a[1]).map(([flag, count]) => {
      const chip = make("button", { class: "chip", type: "button", "aria-pressed": "false" },
        flag || "without flags", make("span", { class: "number" }, whole(count)));
      chip.addEventListener("click", () => this.press(flag, chip));
      return chip;
    }));
    byId("layers").append(...LAYERS.filter((_, layer) => ROWS.some((row) => row.layers > layer)).map(([, name], layer) => {
      const button = make("button", { type: "button", "aria-pressed": String(layer === this.layer) }, name);
      button.addEventListener("click", () => this.look(layer));
      return button;
    }));
    const form = byId("filters");
    form.addEventListener("input", () => this.filterSoon());
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => {
      this.pressed.clear();
      for (const chip of byId("flag-filter").children) chip.setAttribute("aria-pressed", "false");
      this.filter();
    }));
    byId("previous-page").addEventListener("click", () => this.turn(-1));
    byId("next-page").addEventListener("click", () => this.turn(1));
  }

  press(flag, chip) {
    const now = !this.pressed.delete(flag);
    if (now) this.pressed.add(flag);
    chip.setAttribute("aria-pressed", String(now));
    this.filter();
  }

  look(layer) {
    this.layer = layer;
    [...byId("layers").children].forEach((button, place) => button.setAttribute("aria-pressed", String(place === layer)));
    this.show();
  }

  turn(step) {
    this.page += step;
    this.show();
    byId("gallery").scrollIntoView({ block: "start" });
  }

  /* Once before the next frame, however much was typed. */
  filterSoon() {
    if (!this.waiting) this.waiting = requestAnimationFrame(() => this.filter());
  }

  filter() {
    this.waiting = 0;
    const value = (id) => byId(id).value;
    const bound = (id, otherwise) => (value(id) === "" ? otherwise : Number(value(id)));
    const text = value("search").trim().toLowerCase();
    const shard = value("shard") === "" ? null : REPORT.shards[Number(value("shard"))];
    const decision = value("decision");
    const [low, high] = [bound("quality-from", 0), bound("quality-to", 1)];
    const [small, large] = [bound("area-from", 0), bound("area-to", 1)];
    const flags = [...this.pressed];
    this.rows = ROWS.filter((row) =>
      (!text || row.found.includes(text)) &&
      (shard === null || row.shard === shard) &&
      (row.quality || 0) >= low && (row.quality || 0) <= high &&
      row.area >= small && row.area <= large &&
      (!decision || (this.review.of(row) || "none") === decision) &&
      flags.every((flag) => (flag ? row.flags.includes(flag) : !row.flags.length)));
    this.rows.sort(ORDERS[value("order")]);
    this.page = 0;
    this.show();
  }

  show() {
    const pages = Math.max(1, Math.ceil(this.rows.length / PAGE));
    this.page = Math.min(Math.max(0, this.page), pages - 1);
    const rows = this.rows.slice(this.page * PAGE, (this.page + 1) * PAGE);
    this.cards = new Map(rows.map((row) => [row, this.makeCard(row)]));
    byId("grid").replaceChildren(...this.cards.values());
    byId("empty").hidden = rows.length > 0;
    const all = REPORT.labelled > ROWS.length ? `the worst ${whole(ROWS.length)} of ${whole(REPORT.labelled)}` : `${whole(ROWS.length)}`;
    byId("shown").textContent = `${whole(this.rows.length)} of ${all}`;
    byId("page-text").textContent = `Page ${whole(this.page + 1)} of ${whole(pages)}`;
    byId("previous-page").disabled = this.page === 0;
    byId("next-page").disabled = this.page >= pages - 1;
  }

  makeCard(row) {
    const marks = row.flags.slice(0, 2).map((flag) => make("span", { class: "mark" }, flag));
    if (row.flags.length > 2) marks.push(make("span", { class: "mark" }, `+${row.flags.length - 2}`));
    const button = make("button", { class: "card", type: "button" },
      make("span", { class: "frame" }, makeTile(row, this.layer)),
      make("span", { class: "caption" },
        make("span", { class: "key", title: row.key }, row.key),
        make("span", { class: "quality" }, make("span", { class: "visually-hidden" }, "quality "), digits(row.quality))),
      make("span", { class: "marks" }, ...marks));
    button.addEventListener("click", () => this.open(row));
    const card = make("li", {}, button);
    this.mark(card, row);
    return card;
  }

  /* Shows the decision on a card that is there, without drawing the page anew. */
  update(row) {
    const card = this.cards.get(row);
    if (card) this.mark(card, row);
  }

  mark(card, row) {
    const decision = this.review.of(row);
    card.className = decision;
    card.querySelector(".stamp")?.remove();
    if (decision) card.querySelector(".frame").append(make("span", { class: "stamp" }, WORDS[decision]));
  }
}
