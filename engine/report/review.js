"use strict";
/* One label at a time, large, with the keyboard. */

const FLAGS = {
  absent: "the model sees no such object: the mask is empty",
  one_mode: "a mixture found no two modes",
  empty: "the mask has no pixel",
  full: "the mask has all pixels",
  touches_border: "the mask reaches the image's edge",
  low_contrast: "the object hardly differs from the painted background",
  several_contrasts: "the mask may leave out a part of the object",
  colourless: "the object is black, grey or white",
  uniform_background: "one colour around the object",
  covers_most: "the preliminary mask leaves little to paint from",
  background: "a synthetic image without object, on purpose",
  object_likely: "such an image in which the model finds the object all the same",
};

class Reviewer {
  constructor(review) {
    this.review = review;
    this.dialog = byId("review");
    this.rows = [];
    this.at = 0;
    this.layer = 1;
    byId("review-close").addEventListener("click", () => this.dialog.close());
    byId("review-next").addEventListener("click", () => this.move(1));
    byId("review-previous").addEventListener("click", () => this.move(-1));
    byId("review-undo").addEventListener("click", () => this.undo());
    byId("slider").addEventListener("input", () => this.slide());
    for (const button of this.dialog.querySelectorAll("[data-decision]")) {
      button.addEventListener("click", () => this.decide(button.dataset.decision));
    }
    this.dialog.addEventListener("keydown", (event) => this.press(event));
  }

  /* Goes through rows, from one of them on. */
  start(rows, row) {
    this.rows = rows;
    this.at = Math.max(0, rows.indexOf(row));
    if (!rows.length) return;
    if (!this.dialog.open) this.dialog.showModal();
    this.show();
    byId("stage").focus();
  }

  get row() {
    return this.rows[this.at];
  }

  move(step) {
    this.at = Math.min(Math.max(0, this.at + step), this.rows.length - 1);
    this.show();
  }

  decide(decision) {
    const row = this.row;
    this.review.decide(row, decision);
    const next = this.rows.findIndex((other, place) => place > this.at && !this.review.of(other));
    if (next >= 0) this.at = next;
    this.show();
    byId("announce").textContent = `${row.key} ${WORDS[decision]}.${next < 0 ? " No label after it is undecided." : ""}`;
  }

  undo() {
    const row = this.review.undo();
    if (!row) {
      byId("announce").textContent = "Nothing to undo.";
      return;
    }
    const place = this.rows.indexOf(row);
    if (place >= 0) this.at = place;
    this.show();
    byId("announce").textContent = `Decision on ${row.key} undone.`;
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const sliding = event.target.id === "slider" && event.key.startsWith("Arrow");
    const pushing = event.target.tagName === "BUTTON" && event.key === " ";
    const actions = {
      a: () => this.decide("accept"),
      r: () => this.decide("reject"),
      u: () => this.decide("unsure"),
      n: () => this.move(1),
      ArrowRight: () => this.move(1),
      p: () => this.move(-1),
      ArrowLeft: () => this.move(-1),
      z: () => this.undo(),
      " ": () => this.flip(),
    };
    for (let layer = 1; layer < LAYERS.length; layer += 1) actions[layer] = () => this.look(layer);
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || sliding || pushing) return;
    event.preventDefault();
    action();
  }

  look(layer) {
    if (layer >= Math.max(2, this.row.layers)) return;
    this.layer = layer;
    this.show();
  }

  flip() {
    const slider = byId("slider");
    slider.value = Number(slider.value) > 50 ? 0 : 100;
    this.slide();
  }

  slide() {
    const share = Number(byId("slider").value);
    const over = byId("stage").querySelector(".over");
    if (over) over.style.clipPath = `inset(0 ${100 - share}% 0 0)`;
    const edge = byId("stage").querySelector(".edge");
    if (edge) edge.style.left = `${share}%`;
    if (edge) edge.hidden = share === 0 || share === 100;
  }

  show() {
    const row = this.row;
    const layer = Math.min(this.layer, Math.max(1, row.layers - 1));
    const decision = this.review.of(row);
    byId("review-place").textContent = `${whole(this.at + 1)} of ${whole(this.rows.length)} · ${row.shard}`;
    byId("review-key").textContent = row.key;
    byId("verdict").textContent = decision ? WORDS[decision] : "undecided";
    byId("verdict").className = `verdict ${decision}`;
    for (const button of this.dialog.querySelectorAll("[data-decision]")) {
      button.setAttribute("aria-pressed", String(button.dataset.decision === decision));
    }
    byId("review-previous").disabled = this.at === 0;
    byId("review-next").disabled = this.at === this.rows.length - 1;
    byId("review-undo").disabled = !this.review.history.length;
    this.showPictures(row, layer);
    this.showFacts(row);
    this.dialog.dataset.row = row.place;
  }

  showPictures(row, layer) {
    const stage = byId("stage");
    const tile = makeTile(row, 0, { lazy: false });
    if (row.picture) {
      const over = makeTile(row, layer, { lazy: false });
      over.classList.add("over");
      tile.append(over, make("span", { class: "edge", "aria-hidden": "true" }));
    }
    stage.replaceChildren(tile);
    byId("slider-name").textContent = LAYERS[layer][1];
    byId("strip").replaceChildren(...LAYERS.slice(1, Math.max(2, row.layers)).map(([, name], place) => {
      const button = make("button", { type: "button", "aria-pressed": String(place + 1 === layer) },
        make("span", { class: "frame" }, makeTile(row, place + 1, { lazy: false, alt: "" })), name);
      button.addEventListener("click", () => this.look(place + 1));
      return button;
    }));
    this.slide();
  }

  showFacts(row) {
    const facts = [
      ["Quality", digits(row.quality)],
      ["Area", percent(row.area)],
      ["Separation", `${digits(row.separation)}, refined ${digits(row.refined_separation)}`],
      ["Presence", row.presence === null ? "–" : row.presence.toFixed(3)],
      ["Size", `${row.width} × ${row.height}`],
    ];
    byId("measures").replaceChildren(...facts.map(([name, value]) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, value))));
    byId("review-flags").replaceChildren(...row.flags.map((flag) =>
      make("p", {}, make("span", { class: "mark" }, flag), ` ${FLAGS[flag] || ""}`)));
  }
}
