"use strict";
/* Puts the parts together. */

function start() {
  const review = new Review(`maskmine-review:${REPORT.id}`);
  const reviewer = new Reviewer(review);
  const gallery = new Gallery(review, (row) => reviewer.start(gallery.rows.slice(), row));

  showSummary();
  showProgress(review);
  review.listeners.push(() => showProgress(review));
  review.listeners.push(() => gallery.cards.forEach((_, row) => gallery.update(row)));

  /* From the first undecided label of the gallery on. */
  const begin = () => reviewer.start(gallery.rows.slice(), gallery.rows.find((row) => !review.of(row)));
  byId("start-review").addEventListener("click", begin);
  byId("save-review").addEventListener("click", () => save(review.toCsv(), "review.csv"));
  byId("open-review").addEventListener("click", () => byId("review-file").click());
  byId("review-file").addEventListener("change", (event) => load(review, event.target));
  byId("review").addEventListener("close", () => {
    const card = gallery.cards.get(reviewer.row);
    if (byId("decision").value) gallery.filter();
    else if (card) card.querySelector("button").focus();
  });
  document.addEventListener("keydown", (event) => {
    if (byId("review").open || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, textarea")) return;
    if (event.key === "/") byId("search").focus();
    else if (event.key.toLowerCase() === "s") begin();
    else return;
    event.preventDefault();
  });
}

function showProgress(review) {
  const counts = review.counts();
  const done = counts.accept + counts.reject + counts.unsure;
  byId("progress-text").textContent = `${whole(done)} of ${whole(ROWS.length)} reviewed`;
  byId("progress-detail").textContent =
    `${whole(counts.accept)} accepted, ${whole(counts.reject)} rejected, ${whole(counts.unsure)} unsure`;
  byId("progress-bar").replaceChildren(...DECISIONS.map((decision) => {
    const part = make("span", { class: decision });
    part.style.width = `${(100 * counts[decision]) / ROWS.length}%`;
    return part;
  }));
  byId("save-review").disabled = review.decisions.size === 0;
  byId("notice").textContent = review.problem;
}

function save(text, name) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  const link = make("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

async function load(review, input) {
  const [file] = input.files;
  if (!file) return;
  try {
    const count = review.fromCsv(await file.text());
    byId("notice").textContent = `${whole(count)} decisions read from ${file.name}.`;
  } catch (error) {
    byId("notice").textContent = `${file.name} cannot be used. ${error.message}`;
  }
  input.value = "";
}

start();
