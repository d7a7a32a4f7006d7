"use strict";
/* What the run is: numbers, histograms, settings. */

const MEASURES = {
  quality: "Quality",
  area: "Area",
  separation: "Separation",
  refined_separation: "Refined separation",
};

function showSummary() {
  byId("concept").textContent = REPORT.concept;
  byId("where").textContent = REPORT.run;
  byId("written").textContent = `Written ${REPORT.written}.`;
  byId("facts").append(...listFacts().map(([name, value, detail]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value, make("span", { class: "soft" }, detail || "")))));
  const figures = Object.entries(MEASURES)
    .filter(([name]) => name in REPORT.means)
    .map(([name, title]) => drawHistogram(title, REPORT.histograms[name], REPORT.means[name]));
  byId("charts").append(...figures, drawFlags(REPORT.flagged, REPORT.labelled));
  byId("settings").append(
    makeTable("Settings", { fingerprint: REPORT.fingerprint, ...REPORT.settings }),
    makeTable("Versions", REPORT.versions));
}

function listFacts() {
  const quarantined = Object.values(REPORT.quarantined).reduce((sum, count) => sum + count, 0);
  const reasons = Object.entries(REPORT.quarantined).map(([reason, count]) => `${reason} ${whole(count)}`);
  const others = REPORT.unlabelled ? `; ${whole(REPORT.unlabelled)} without labels yet` : "";
  const facts = [
    ["Images", whole(REPORT.seen), `in ${whole(REPORT.leases)} lease${REPORT.leases === 1 ? "" : "s"}${others}`],
    ["Labels", whole(REPORT.labelled), REPORT.stage === "refined" ? "refined" : "preliminary"],
    ["In quarantine", whole(quarantined), reasons.join(", ") || "nothing"],
  ];
  const seconds = REPORT.seconds.total;
  if (seconds) {
    const rate = REPORT.seen / seconds;
    facts.push(["Rate", rate >= 1 ? `${rate.toFixed(1)}/s` : `${(1 / rate).toFixed(1)} s`,
      rate >= 1 ? "images a worker" : "an image, of a worker"]);
  }
  if ("quality" in REPORT.means) facts.push(["Mean quality", digits(REPORT.means.quality), "IoU to be expected"]);
  if ("area" in REPORT.means) facts.push(["Mean area", percent(REPORT.means.area), "of the image"]);
  const missing = Object.values(REPORT.missing).reduce((sum, count) => sum + count, 0);
  if (missing) facts.push(["Without picture", whole(missing), "not in the corpus, or unreadable"]);
  return facts;
}

function makeTable(title, values) {
  const rows = Object.entries(values).map(([name, value]) =>
    make("tr", {}, make("th", { scope: "row" }, name),
      make("td", {}, typeof value === "string" ? value : JSON.stringify(value))));
  return make("table", {}, make("caption", {}, title), make("tbody", {}, ...rows));
}
